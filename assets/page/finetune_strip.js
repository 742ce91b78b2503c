// The film strip: the same prompts and seeds after each epoch, and one epoch beside the base.

import { clip, h } from "./dom.js";
import { slider } from "./compare.js";

const SHOWN = 6; // prompts in a frame

export const stripPicture = (run, epoch, prompt, seed = 0) => `/easel/finetune/runs/${run.id}/strip/${epoch}/${prompt}.png${seed ? `?seed=${seed}` : ""}`;

// Frames are only ever added, so nothing blinks; `onChoose(epoch)` is called when one is clicked.
export function filmStrip(onChoose) {
  const row = h("div", { class: "easel-film", role: "list", "aria-label": "Pictures after each epoch", tabindex: "0" });
  let shown = "";
  function update(run, chosen) {
    if (shown !== run.id) { row.replaceChildren(); shown = run.id; }
    const known = new Set([...row.children].map((frame) => Number(frame.dataset.epoch)));
    const follow = row.scrollLeft + row.clientWidth >= row.scrollWidth - 40;
    for (const { epoch } of run.rows) if (!known.has(epoch)) row.append(frameOf(run, epoch));
    for (const frame of row.children) frame.firstChild.setAttribute("aria-pressed", String(Number(frame.dataset.epoch) === chosen));
    if (follow && known.size !== run.rows.length) row.scrollLeft = row.scrollWidth;
  }
  function frameOf(run, epoch) {
    const name = epoch ? `Epoch ${epoch}` : "Base";
    return h("div", { class: "easel-film-frame", role: "listitem", "data-epoch": epoch },
      h("button", { type: "button", "aria-pressed": "false", "aria-label": `${name}: look closer`, onclick: () => onChoose(epoch) },
        h("span", { class: "easel-film-pictures" }, run.held_out.slice(0, SHOWN).map((prompt, at) => h("img", { src: stripPicture(run, epoch, at), alt: "", title: clip(prompt, 80), draggable: "false", loading: "lazy" }))),
        h("span", { class: "easel-film-name" }, name)));
  }
  return { root: row, update };
}

function figure(before, after, prompt) {
  const pair = slider(before, after);
  pair.style.setProperty("--w", 1);
  pair.style.setProperty("--h", 1);
  pair.querySelector(".easel-after").addEventListener("load", (event) => {
    pair.style.setProperty("--w", event.target.naturalWidth);
    pair.style.setProperty("--h", event.target.naturalHeight);
  }, { once: true });
  return h("figure", {}, pair, h("figcaption", {}, clip(prompt, 60)));
}

// The pairs of an unveiled comparison, as they were judged: the base on the left of the handle.
export function judgedPairs(run, verdict) {
  const side = (place, which) => `/easel/finetune/runs/${run.id}/verdicts/${verdict.number}/${place}/${which}.png`;
  return h("div", { class: "easel-beside" }, h("div", { class: "easel-beside-pairs" },
    verdict.pairs.map((prompt, place) => figure(side(place, "base"), side(place, "tuned"), prompt))));
}

// Every held-out prompt, the base on the left of the handle and the epoch on its right.
export function epochBesideBase() {
  const box = h("div", { class: "easel-beside" });
  let mark = "";
  function update(run, epoch) {
    const wanted = epoch ? `${run.id} ${epoch}` : "";
    if (wanted === mark) return;
    mark = wanted;
    if (!wanted) return box.replaceChildren();
    box.replaceChildren(h("h4", {}, `Base and epoch ${epoch}`), h("div", { class: "easel-beside-pairs" }, run.held_out.slice(0, SHOWN).map((prompt, at) =>
      figure(stripPicture(run, 0, at), stripPicture(run, epoch, at), prompt))));
  }
  return { root: box, update };
}
