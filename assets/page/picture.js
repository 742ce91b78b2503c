// What can be done with one picture, wherever it is shown.

import { button, copy, full, h, icon, sorry, tell, toast } from "./dom.js";
import { command } from "./bridge.js";
import { markForComparing } from "./compare.js";
import { TASKS } from "./tasks.js";
import { best, score } from "./taste.js";

const listeners = [];

// Called with every picture that changed (starred, rated, binned, restored).
export function onPictureChange(listen) {
  listeners.push(listen);
}

async function change(picture, verb, body) {
  try {
    const changed = await tell(`/easel/pictures/${picture.id}/${verb}`, body);
    for (const listen of listeners) listen(changed);
    return changed;
  } catch (error) {
    sorry(error);
    return null;
  }
}

export const star = (picture) => change(picture, "star", { starred: !picture.starred });
export const rate = (picture, rating) => change(picture, "rate", { rating: picture.rating === rating ? null : rating });
export const restore = (picture) => change(picture, "restore");

export async function bin(picture) {
  const gone = await change(picture, "delete");
  if (gone) toast("The picture is in the bin.", { label: "Undo", run: () => restore(picture) });
}

export async function binAll(pictures) {
  const gone = [];
  for (const picture of pictures) if (await change(picture, "delete")) gone.push(picture);
  if (gone.length) toast(`${gone.length} pictures are in the bin.`,
    { label: "Undo", run: async () => { for (const picture of gone) await restore(picture); } });
}

export const reuse = (picture) => { leave(); command("reuse", { picture: picture.id }); };
export const vary = (picture) => { command("vary", { picture: picture.id }); toast("Drawing four variations."); };
export const sendTo = (picture, task) => { leave(); command("send", { picture: picture.id, task }); };
export const compareWith = (picture) => { if (markForComparing(picture)) leave(); };
export const sendToFinetune = (picture) => tell("/easel/finetune/prompts", { prompt: picture.prompt }).then(({ sentence }) => toast(sentence), sorry);
export const copySeed = (picture) => copy(picture.seed);

export function download(picture, withRecipe = true) {
  const link = h("a", { href: `${full(picture)}?download=1${withRecipe ? "" : "&recipe=0"}`, download: "" });
  document.body.append(link);
  link.click();
  link.remove();
}

export function ratingStars(picture) {
  const row = h("span", { class: "easel-rating", role: "group", "aria-label": "Rating" });
  for (let value = 1; value <= 5; value += 1) {
    row.append(h("button", {
      type: "button", class: picture.rating >= value ? "on" : "", "aria-pressed": picture.rating === value ? "true" : "false",
      "aria-label": `Rate ${value} of 5`, title: `Rate ${value} of 5 (key ${value})`, onclick: () => rate(picture, value),
    }, h("i")));
  }
  return row;
}

// A picture that goes to another tab leaves the viewer that it was shown in.
const leave = () => document.dispatchEvent(new CustomEvent("easel-leave"));

function menu(label, glyph, text, entries) {
  const box = h("details", { class: "easel-menu" },
    h("summary", { class: "easel-icon", title: label, "aria-label": label }, icon(glyph), text),
    h("div", {}, entries.map(([words, run]) => h("button", { type: "button", onclick: () => { box.open = false; run(); } }, words))));
  return box;
}

export function toolbar(picture, openLarger = null) {
  if (picture.deleted) {
    return h("div", { class: "easel-toolbar" },
      button("Take out of the bin", "back", () => restore(picture), { text: "Restore" }));
  }
  return h("div", { class: "easel-toolbar", role: "toolbar", "aria-label": "This picture" },
    button(picture.starred ? "Take the star away (S)" : "Star (S)", "star", () => star(picture),
      { class: `easel-icon${picture.starred ? " starred" : ""}`, "aria-pressed": String(Boolean(picture.starred)) }),
    ratingStars(picture),
    h("span", { class: "easel-gap" }),
    menu("Send to another tab (I, M)", "send", "Send to", [
      [TASKS.img2img, () => sendTo(picture, "img2img")],
      [TASKS.inpaint, () => sendTo(picture, "inpaint")],
      ["Compare", () => compareWith(picture)],
      ["Fine-tune prompts", () => sendToFinetune(picture)]]),
    menu("Your taste", "check", "Taste", [["The best of its batch", () => best(picture)], ["What does it score?", () => score(picture)]]),
    button("Four variations with new seeds (V)", "vary", () => vary(picture), { text: "Variations" }),
    button("Put its settings into the form (R)", "reuse", () => reuse(picture), { text: "Re-use" }),
    button("Copy its seed (C)", "seed", () => copySeed(picture), { text: String(picture.seed) }),
    h("span", { class: "easel-gap" }),
    openLarger ? button("Larger (Enter)", "larger", () => openLarger(picture)) : null,
    menu("Download (D)", "save", null, [["With its recipe", () => download(picture)], ["Without its recipe", () => download(picture, false)]]),
    button("Put it into the bin (Del)", "bin", () => bin(picture)));
}
