// One picture as large as the window, with its recipe; arrows go through the list it came from.

import { button, full, h } from "./dom.js";
import { beforeAfter, family } from "./compare.js";
import { onPictureChange, toolbar } from "./picture.js";

let open = null; // {box, list, at}

export function openViewer(picture, list = [picture]) {
  if (open) open.box.close();
  const box = h("dialog", { class: "easel-viewer", "aria-label": "Picture" });
  box.addEventListener("close", () => { box.remove(); open = null; });
  box.addEventListener("cancel", (event) => { if (box.querySelector(".easel-viewer-room .easel-slider")) { event.preventDefault(); show(); } }); // Escape leaves before and after first
  box.addEventListener("click", (event) => { if (event.target === box || event.target.classList.contains("easel-viewer-room")) box.close(); });
  document.body.append(box);
  const at = list.findIndex((p) => p.id === picture.id);
  open = at < 0 ? { box, list: [picture], at: 0 } : { box, list: [...list], at };
  show();
  box.showModal();
}

export const viewed = () => (open ? open.list[open.at] : null);

export function turn(step) {
  if (!open) return;
  const next = open.at + step;
  if (next < 0 || next >= open.list.length) return;
  open.at = next;
  show();
}

function show() {
  const picture = open.list[open.at];
  const image = h("img", { src: full(picture), alt: picture.prompt || "Picture without a prompt", width: picture.width, height: picture.height,
    style: { "--w": picture.width, "--h": picture.height } });
  open.box.replaceChildren(
    h("div", { class: "easel-viewer-room" }, image),
    h("aside", {},
      h("header", {},
        button("To the left (←)", "left", () => turn(-1), { disabled: open.at === 0 }),
        button("To the right (→)", "right", () => turn(1), { disabled: open.at === open.list.length - 1 }),
        h("span", { class: "easel-gap" }),
        button("Close (Esc)", "close", () => open.box.close())),
      h("p", { class: "easel-viewer-prompt" }, picture.prompt || "No prompt"),
      picture.negative_prompt ? h("p", { class: "easel-quiet" }, `Not: ${picture.negative_prompt}`) : null,
      recipe(picture),
      toolbar(picture),
      picture.edit ? button("Before and after (O)", "halves", toggleBefore, { text: "Before and after" }) : null,
      family(picture, (other) => openViewer(other))));
}

export function toggleBefore() {
  const room = open?.box.querySelector(".easel-viewer-room");
  const picture = viewed();
  if (!room || !picture?.edit) return;
  const slider = room.querySelector(".easel-slider");
  if (slider) return show();
  const shown = beforeAfter(picture);
  shown.style.setProperty("--w", picture.width);
  shown.style.setProperty("--h", picture.height);
  room.replaceChildren(shown);
}

document.addEventListener("easel-leave", () => open?.box.close());

export function recipe(picture) {
  const rows = [
    ["Size", `${picture.width} × ${picture.height} px`],
    ["Seed", picture.seed],
    ["Steps", picture.steps],
    ["Guidance", picture.guidance_scale],
    ["Sampler", picture.sampler],
    ["Model", picture.model],
    ...(picture.adapters.length ? [["Adapter", picture.adapters.map(([name, strength]) => `${name} ${strength}`).join(", ")]] : []),
    ...(picture.edit ? [["Strength", picture.edit.strength]] : []),
    ["Drawn", `${new Date(picture.created_at * 1000).toLocaleString()}, in ${picture.seconds.toFixed(1)} s`],
  ];
  return h("dl", { class: "easel-recipe" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

onPictureChange((changed) => {
  if (!open) return;
  const at = open.list.findIndex((p) => p.id === changed.id);
  if (at < 0) return;
  open.list[at] = changed;
  if (at === open.at) show();
});
