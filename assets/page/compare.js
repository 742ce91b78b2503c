// Pictures beside one another: before and after, any two with what differs, and who came from whom.

import { ask, button, clip, full, h, sorry, thumbnail, toast } from "./dom.js";

// Two pictures of one shape on top of each other; the handle says how much of each is seen.
export function slider(before, after, fit = {}) {
  const box = h("div", { class: "easel-slider" },
    h("img", { class: "easel-after", src: after, alt: "After", draggable: "false" }),
    h("span", { class: "easel-before" }, h("img", { src: before, alt: "Before", draggable: "false", style: fit })),
    h("i", { "aria-hidden": "true" }),
    h("input", { type: "range", min: 0, max: 100, step: 0.1, value: 50, "aria-label": "Before and after", oninput: (event) => box.style.setProperty("--cut", `${event.target.value}%`) }));
  box.style.setProperty("--cut", "50%");
  return box;
}

// An edited picture over its source, which lies where the edit put it.
export function beforeAfter(picture) {
  const { source, extend, resize_mode: mode, hires_scale: scale } = picture.edit;
  const [left, top, right, bottom] = extend;
  const width = picture.width / scale;
  const height = picture.height / scale;
  const share = (part, whole) => `${(100 * part) / whole}%`;
  return slider(`/easel/source/${source}.png`, full(picture), {
    left: share(left, width), top: share(top, height),
    width: share(width - left - right, width), height: share(height - top - bottom, height),
    "object-fit": { "crop and resize": "cover", "resize and fill": "contain" }[mode] || "fill",
  });
}

// ---------------------------------------------------------------- any two

let marked = null;

// The first picture is remembered, the second opens the comparison. True when it was opened.
export function markForComparing(picture) {
  if (!marked || marked.id === picture.id) {
    marked = picture;
    toast("Now choose Compare on the other picture.");
    return false;
  }
  openComparison(marked, picture);
  marked = null;
  return true;
}

export async function openComparison(one, other) {
  let told;
  try { told = await ask(`/easel/compare?a=${one.id}&b=${other.id}`); } catch (error) { return sorry(error); }
  const [a, b] = told.pictures;
  const room = h("div", { class: "easel-compared" });
  const box = h("dialog", { class: "easel-viewer easel-comparison", "aria-label": "Comparison" }, room, h("aside", {},
    h("header", {}, h("h2", {}, "Comparison"), h("span", { class: "easel-gap" }), button("Close (Esc)", "close", () => box.close())),
    h("div", { class: "easel-segments", role: "group", "aria-label": "How they are shown" }, [["Side by side", sideBySide], ["Slider", onTop]].map(([words, run], at) =>
      h("button", { type: "button", "aria-pressed": String(at === 0), onclick: (event) => { run(); for (const sibling of event.target.parentElement.children) sibling.setAttribute("aria-pressed", String(sibling === event.target)); } }, words))),
    differences(told.differences)));
  function sideBySide() {
    room.className = "easel-compared";
    room.replaceChildren(...[a, b].map((picture, at) => h("figure", {}, h("img", { src: full(picture), alt: picture.prompt || "Picture without a prompt", style: { "--w": picture.width, "--h": picture.height } }),
      h("figcaption", {}, `${"AB"[at]} · ${picture.width} × ${picture.height} px`))));
  }
  function onTop() {
    room.className = "easel-compared easel-on-top";
    const shown = slider(full(a), full(b));
    shown.style.setProperty("--w", b.width);
    shown.style.setProperty("--h", b.height);
    room.replaceChildren(shown);
  }
  sideBySide();
  box.addEventListener("close", () => box.remove());
  document.dispatchEvent(new CustomEvent("easel-leave"));
  document.body.append(box);
  box.showModal();
}

function differences(rows) {
  if (!rows.length) return h("p", { class: "easel-quiet" }, "Their settings are the same.");
  return h("table", { class: "easel-differences" },
    h("thead", {}, h("tr", {}, ["What differs", "A", "B"].map((word) => h("th", { scope: "col" }, word)))),
    h("tbody", {}, rows.map(({ label, values }) => h("tr", {}, h("th", { scope: "row" }, label), values.map((value) => h("td", {}, h("mark", {}, value)))))));
}

// ---------------------------------------------------------------- lineage

// "Made from ..." and "became ...": filled when the studio has answered, empty for a picture without family.
export function family(picture, open) {
  const row = h("div", { class: "easel-family" });
  const known = (relative) => h("button", { type: "button", title: clip(relative.prompt || "No prompt", 120), "data-picture": relative.id, onclick: () => open(relative) },
    h("img", { src: thumbnail(relative), alt: `Picture ${relative.id}: ${clip(relative.prompt || "no prompt", 60)}` }));
  ask(`/easel/lineage/${picture.id}`).then(({ parents, children, more }) => {
    if (parents.length) row.append(h("span", {}, "Made from"), ...parents.slice(0, 6).map(known));
    if (children.length) row.append(h("span", {}, "Became"), ...children.map(known), more ? `and ${more} more` : "");
  }, () => {});
  return row;
}
