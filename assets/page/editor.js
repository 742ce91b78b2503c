// The source of an edit and what is painted over it. Every stroke is on disk within seconds.

import { button, full, h, sorry, thumbnail, toast } from "./dom.js";
import { beforeCommands, command, onOutcome } from "./bridge.js";
import { createCanvas, MASK_INK } from "./canvas.js";
import { isEdit, onTask, originPlace, pane as shownPane, showPane, task } from "./tasks.js";
import { bringMask, takeFile } from "./upload.js";

const REST = 800; // milliseconds without a stroke before it is saved
const LATEST = 3000; // milliseconds after a stroke at which it is saved however busy the brush is
const RETRY = 3000;
const COLOURS = ["#1c1b1a", "#ffffff", "#c1272d", "#e88c30", "#f2d544", "#4f9d4f", "#2f6fb3", "#7a4ea3", "#8a5a3b"];
const INKS = { img2img: "sketch", inpaint: "mask" };
const desks = {}; // task -> { ink, canvas, box, source, ... }
let source = null; // { sha256, width, height, parent, mask, inks }
let parts = null;

export const hasSource = () => Boolean(source?.sha256);

export function mountEditor(root) {
  parts = {
    problems: h("div", { class: "easel-field-source easel-field-mask" }),
    empty: emptyPlace(),
    desks: h("div", { class: "easel-desks", hidden: true }),
  };
  root.replaceChildren(...Object.values(parts));
  for (const name of Object.keys(INKS)) desks[name] = desk(name);
  parts.desks.append(...Object.values(desks).map((one) => one.box));
  onOutcome((outcome) => {
    if (outcome.source) setSource(outcome.source);
    if (outcome.submitted && isEdit()) showPane("result");
  });
  beforeCommands(flush);
  onTask(() => showDesk());
  document.addEventListener("click", beforeGenerate, true);
  document.addEventListener("input", (event) => { if (event.target.closest?.("#easel-extend")) setTimeout(showFrame, 0); });
  window.addEventListener("pagehide", saveAtTheLastMoment);
  document.addEventListener("visibilitychange", () => { if (document.hidden) flush().catch(() => {}); });
}

function emptyPlace() {
  const choose = chooser(takeFile);
  return h("div", { class: "easel-drop" },
    h("h2", {}, "Which picture shall we work on?"),
    h("p", { class: "easel-quiet" }, "Drop one here, paste one with Ctrl + V, or send one here from any result or from the gallery."),
    h("button", { type: "button", class: "easel-push", onclick: () => choose.click() }, "Choose a file"), choose);
}

function chooser(run) {
  const input = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", hidden: true, onchange: () => { if (input.files[0]) run(input.files[0]); input.value = ""; } });
  return input;
}

// ---------------------------------------------------------------- the source

async function setSource(next) {
  await flush().catch(sorry); // what was painted on the last source stays with it
  const fresh = next.mask || next.sha256 !== source?.sha256;
  source = next;
  parts.empty.hidden = hasSource();
  parts.desks.hidden = !hasSource();
  for (const one of Object.values(desks)) if (fresh) one.source = "";
  if (fresh && isEdit()) showPane("source");
  showOrigin();
  await showDesk();
}

async function showOrigin() {
  originPlace.hidden = !hasSource();
  if (!hasSource()) return;
  const { sha256, width, height, parent } = source;
  const choose = chooser(takeFile);
  originPlace.replaceChildren(
    h("span", {}, `${width} × ${height} px`),
    h("span", { class: "easel-parent" }),
    h("span", { class: "easel-gap" }), choose,
    h("button", { type: "button", class: "easel-link", onclick: () => choose.click() }, "Other picture"),
    h("a", { class: "easel-link", href: `/easel/source/${sha256}.png`, download: "source.png" }, "Download"),
    h("button", { type: "button", class: "easel-link", onclick: () => command("source", { sha256: "" }) }, "Take away"));
  if (parent) originPlace.querySelector(".easel-parent").append("from ", h("a", { href: full({ id: parent }), target: "_blank", rel: "noopener" }, h("img", { src: thumbnail({ id: parent }), alt: `Picture ${parent}` })));
}

// Loads source and ink into the desk of the open tab; the other desk waits until its tab is opened.
async function showDesk() {
  const one = desks[task()];
  for (const other of Object.values(desks)) other.box.hidden = other !== one;
  if (!one || !hasSource()) return;
  if (one.source === source.sha256) return one.canvas.fit();
  one.source = source.sha256;
  one.dirty = false;
  const { sha256 } = source;
  const turn = one.turn = (one.turn || 0) + 1; // only what was asked for last is shown
  one.canvas.hold(true);
  try {
    await one.canvas.load(`/easel/source/${sha256}.png`);
    const picture = source.inks?.includes(one.ink) ? await decoded(`/easel/draft/${one.ink}-${sha256}?at=${Date.now()}`) : null;
    const mask = source.mask && one.ink === "mask" ? await decoded(`/easel/source/${source.mask}.png`) : null;
    if (one.turn !== turn) return;
    one.canvas.hold(false);
    one.canvas.restoreInk(picture);
    if (mask) { one.canvas.replaceInk(mask); source.mask = ""; } // Ctrl + Z brings back what was painted
    one.canvas.set({ size: Math.max(1, Math.round(Math.max(...one.canvas.size) / 24)) });
    one.said.textContent = "";
    showFrame();
  } catch (error) {
    if (one.turn !== turn) return;
    one.source = "";
    sorry(error instanceof DOMException ? new Error("The source picture could not be shown; choose it once more.") : error);
  }
}

async function decoded(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

const sides = () => ["left", "top", "right", "bottom"].map((side) => Number(document.querySelector(`#easel-extend-${side} input`)?.value) || 0);
export const isExtended = () => task() === "inpaint" && sides().some(Boolean);

// Outpainting: the frame around the picture shows how far it will grow.
export function showFrame() {
  if (desks.inpaint?.source) desks.inpaint.canvas.setFrame(sides());
}

// While a picture is extended what is painted waits, and says so.
function sayThatItWaits(one) {
  if (one.ink === "mask" && document.documentElement.classList.contains("easel-mask-waits")) {
    toast("The picture is being extended; what you paint is repainted later.", { label: "Do not extend", run: () => command("unframe") });
  }
}

// ---------------------------------------------------------------- saving

function inked(one) {
  if (!one.dirty) sayThatItWaits(one);
  one.dirty = true;
  const now = performance.now();
  one.since ??= now;
  clearTimeout(one.timer);
  one.timer = setTimeout(() => save(one).catch(() => {}), Math.max(0, Math.min(REST, one.since + LATEST - now)));
}

// One save at a time a desk; strokes made meanwhile are saved by the next.
function save(one) {
  one.saving = (one.saving || Promise.resolve()).catch(() => {}).then(() => store(one));
  return one.saving;
}

async function store(one) {
  if (!one.dirty || !one.source) return;
  clearTimeout(one.timer);
  one.dirty = false;
  one.since = undefined;
  const name = `${one.ink}-${one.source}`;
  try {
    const body = await one.canvas.toBlob();
    const answer = await fetch(`/easel/draft/${name}`, { method: "POST", body, headers: { "Content-Type": "image/png" } });
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).sentence || "The drawing could not be saved.");
    if (source?.sha256 === one.source && !source.inks?.includes(one.ink)) source.inks = [...(source.inks || []), one.ink];
    one.said.textContent = "saved";
  } catch (error) {
    one.dirty = true;
    one.said.textContent = "not saved yet";
    clearTimeout(one.timer);
    one.timer = setTimeout(() => save(one).catch(() => {}), RETRY);
    throw error;
  }
}

const flush = () => Promise.all(Object.values(desks).filter((one) => one.dirty).map(save));

// A click on Generate waits for the last stroke; then it is clicked again.
function beforeGenerate(event) {
  const generate = event.target.closest?.("#easel-generate");
  if (!generate || !isEdit() || !desks[task()]?.dirty) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  flush().then(() => generate.click(), sorry);
}

// A page that is closed within the second after a stroke still hands it over, if it is small enough.
function saveAtTheLastMoment() {
  for (const one of Object.values(desks).filter((desk) => desk.dirty && desk.source)) {
    const bytes = Uint8Array.from(atob(one.canvas.dataUrl().split(",")[1]), (letter) => letter.charCodeAt(0));
    fetch(`/easel/draft/${one.ink}-${one.source}`, { method: "POST", body: bytes, keepalive: true, headers: { "Content-Type": "image/png" } }).catch(() => {});
  }
}

// ---------------------------------------------------------------- a desk: the canvas and its tools

function desk(name) {
  const mask = INKS[name] === "mask";
  const room = h("div", { class: "easel-canvas", tabindex: "0", role: "application", "aria-label": mask ? "Source; paint what is to change" : "Source; paint colours over it" });
  const one = { ink: INKS[name], room, source: "", dirty: false, said: h("span", { class: "easel-quiet", "aria-live": "polite" }) };
  one.canvas = createCanvas(room, { mask, onInk: () => inked(one), onView: () => renderTools(one) });
  one.canvas.tools.colour = mask ? MASK_INK : COLOURS[2];
  one.canvas.tools.paints = mask;
  one.bar = h("div", { class: "easel-desk-bar", role: "toolbar", "aria-label": "Drawing tools" });
  one.box = h("div", { class: `easel-desk ${one.ink}`, hidden: true }, one.bar, room);
  buildTools(one, mask);
  return one;
}

function buildTools(one, mask) {
  const { canvas } = one;
  const range = (label, least, most, step, value, run) => h("label", { class: "easel-range", title: label }, h("span", {}, label),
    h("input", { type: "range", min: least, max: most, step, value, "aria-label": label, oninput: (event) => run(Number(event.target.value)) }));
  const press = (label, glyph, run, attributes = {}) => button(label, glyph, () => { run(); renderTools(one); }, attributes);
  one.marks = {
    paint: mask ? null : press("Paint colours over the source", "brush", () => canvas.set({ paints: !canvas.tools.paints }), { text: "Sketch", "aria-pressed": "false" }),
    brush: press("Brush (B)", "brush", () => canvas.set({ erase: false })),
    eraser: press("Eraser (E)", "eraser", () => canvas.set({ erase: true })),
    undo: press("Undo (Ctrl + Z)", "back", canvas.undo),
    redo: press("Redo (Ctrl + Shift + Z)", "reuse", canvas.redo),
    size: range("Brush", 0, 100, 1, 50, (value) => canvas.set({ size: Math.max(1, Math.round(1.065 ** value)) })),
    scale: h("button", { type: "button", class: "easel-icon", title: "Fit (0)", onclick: canvas.fit }, ""),
    colours: mask ? null : h("span", { class: "easel-colours", role: "group", "aria-label": "Colours" },
      COLOURS.map((colour) => h("button", { type: "button", "data-colour": colour, "aria-label": `Colour ${colour}`, style: { background: colour }, onclick: () => { canvas.set({ colour, erase: false }); renderTools(one); } })),
      h("input", { type: "color", "aria-label": "Any colour", title: "Any colour; Alt + click takes one from the picture", value: COLOURS[2], oninput: (event) => { canvas.set({ colour: event.target.value, erase: false }); renderTools(one); } })),
  };
  const { paint, brush, eraser, undo, redo, size, scale, colours } = one.marks;
  const flow = range(mask ? "Grey" : "Cover", 5, 100, 5, 100, (value) => canvas.set({ flow: value / 100 }));
  if (mask) flow.title = "How white the brush paints: with soft inpainting, grey changes only in proportion";
  one.bar.append(...[paint, h("span", { class: "easel-painting-tools" }, brush, eraser, size, colours, flow,
    mask ? range("Opacity", 10, 100, 5, 60, (value) => canvas.set({ opacity: value / 100 })) : null, undo, redo, mask ? maskMenu(one) : press("Clear the sketch", "bin", canvas.clear)),
  h("span", { class: "easel-gap" }), one.said].filter(Boolean));
  const zoom = h("div", { class: "easel-zoom" }, press("Zoom out (−)", "less", canvas.zoomOut), scale, press("Zoom in (+)", "more", canvas.zoomIn));
  zoom.addEventListener("pointerdown", (event) => event.stopPropagation()); // a click here paints nothing
  one.room.append(zoom);
}

function maskMenu(one) {
  const { canvas } = one;
  const choose = chooser((file) => uploadMask(one, file));
  const menu = h("details", { class: "easel-menu" });
  const entry = (text, run) => h("button", { type: "button", onclick: () => { menu.open = false; run(); } }, text);
  menu.append(h("summary", { class: "easel-icon", title: "The mask as a whole" }, "Mask"),
    h("div", {}, entry("Clear", canvas.clear), entry("Paint all", canvas.fill), entry("Invert", canvas.invert),
      entry("Upload a mask", () => choose.click()), entry("Download the mask", () => downloadMask(one)), choose));
  return menu;
}

async function uploadMask(one, file) {
  try {
    const kept = await bringMask(file);
    const [width, height] = one.canvas.size;
    if (kept.width !== width || kept.height !== height) throw new Error(`This mask is ${kept.width} × ${kept.height} pixels and the picture ${width} × ${height}; save it in the picture's size.`);
    one.canvas.replaceInk(await decoded(`/easel/source/${kept.sha256}.png`));
    toast("The mask is on the picture; white is what changes.");
  } catch (error) { sorry(error); }
}

async function downloadMask(one) {
  const address = URL.createObjectURL(await one.canvas.toBlob());
  const link = h("a", { href: address, download: "mask.png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function renderTools(one) {
  if (!one.marks) return;
  const { tools, view, steps } = one.canvas;
  const { paint, brush, eraser, undo, redo, size, scale, colours } = one.marks;
  const pressed = (element, on) => element?.setAttribute("aria-pressed", String(Boolean(on)));
  one.bar.classList.toggle("easel-paints", tools.paints);
  pressed(paint, tools.paints);
  pressed(brush, !tools.erase);
  pressed(eraser, tools.erase);
  undo.disabled = steps[0] === 0;
  redo.disabled = steps[1] === 0;
  size.firstChild.textContent = `Brush ${tools.size} px`;
  size.lastChild.value = String(Math.log(tools.size) / Math.log(1.065));
  scale.textContent = `${Math.round(view.scale * 100)} %`;
  for (const one of colours?.children || []) pressed(one, one.dataset.colour === tools.colour && !tools.erase);
}

// ---------------------------------------------------------------- keys

// True when the key was for the canvas. Letters count wherever the focus is, arrows only on the canvas.
export function editorKey(event) {
  const one = desks[task()];
  if (!one || !hasSource() || one.box.offsetParent === null) return false;
  const { canvas } = one;
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const onCanvas = event.target.classList?.contains("easel-canvas");
  if (event.type === "keyup") return Boolean(onCanvas && canvas.key(event)); // else every key would count twice
  if (control && key === "z") return did(event, event.shiftKey ? canvas.redo : canvas.undo);
  if (control && key === "y") return did(event, canvas.redo);
  if (control || event.altKey) return false;
  if (onCanvas && canvas.key(event)) return did(event, () => {});
  const grow = (factor) => () => canvas.set({ size: Math.min(Math.max(Math.round(canvas.tools.size * factor), canvas.tools.size + Math.sign(factor - 1), 1), 500) });
  const run = { b: () => canvas.set({ erase: false, paints: true }), e: () => canvas.set({ erase: true, paints: true }), "[": grow(0.8), "]": grow(1.25), "+": canvas.zoomIn, "=": canvas.zoomIn, "-": canvas.zoomOut, 0: canvas.fit }[key];
  return run && shownPane() ? did(event, () => { run(); renderTools(one); }) : false;
}

function did(event, run) {
  event.preventDefault();
  event.stopPropagation();
  run();
  return true;
}
