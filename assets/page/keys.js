// The keyboard: everything that the mouse can do with a picture.

import { copy, dialog, h } from "./dom.js";
import { bin, compareWith, copySeed, download, rate, reuse, sendTo, star, vary } from "./picture.js";
import { editorKey } from "./editor.js";
import * as gallery from "./gallery.js";
import * as stage from "./stage.js";
import { onView, step } from "./stage.js";
import { isEdit, openTab, togglePane } from "./tasks.js";
import * as viewer from "./viewer.js";
import { openViewer, turn, viewed } from "./viewer.js";
import { cancelFirst } from "./queue.js";
import { RATING_KEYS } from "./rate_keys.js";
import { toggleTheme } from "./theme.js";

const KEYS = [
  ["Anywhere", [["Ctrl + Enter", "Generate; again while drawing to queue another"], ["Ctrl + .", "Cancel what is being drawn"], ["P", "Go to the prompt"], ["/", "Search the gallery"], ["T", "Light or dark"], ["?", "These keys"]]],
  ["On a picture", [["← →", "To the left, to the right"], ["Enter", "Larger"], ["S", "Star"], ["1 to 5", "Rate"], ["V", "Four variations"], ["R", "Re-use its settings"], ["I", "Send it to Image to image"], ["M", "Send it to Inpaint"], ["X", "Compare it with another"], ["O", "Before and after; Esc ends it"], ["C", "Copy its seed"], ["D", "Download with its recipe"], ["Del", "To the bin"]]],
  ["On a source", [["W", "Source or result"], ["B, E", "Brush, eraser"], ["[ ]", "Smaller or larger brush"], ["Ctrl + Z", "Undo; with Shift, redo"], ["Shift + click", "A straight line"], ["Ctrl + wheel", "Zoom; + − and 0 as well"], ["Space + drag", "Move the picture"], ["Arrows, Enter", "Paint without a mouse"]]],
  ["In the gallery", [["← ↑ ↓ →", "Go about"], ["Space", "Select"], ["Shift + click", "Select up to here"], ["Esc", "Select nothing"]]],
  ["While rating", RATING_KEYS],
];

export function showHelp() {
  dialog("Keys", h("div", { class: "easel-keys" }, KEYS.map(([title, rows]) => h("section", {}, h("h3", {}, title),
    h("dl", {}, rows.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]))))));
}

export const generate = () => document.querySelector("#easel-generate")?.click();

const isTyping = (target) => Boolean(target.closest?.("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select, [contenteditable]"));

export function mountKeys() {
  document.addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    if (control && event.key === "Enter") return done(event, settleThen(generate));
    if (control && event.key === ".") return done(event, cancelFirst);
    if (!isTyping(event.target) && !document.querySelector("dialog[open]") && editorKey(event)) return;
    if (control || event.altKey || isTyping(event.target)) return;
    if (document.querySelector("dialog:is(.easel-dialog, .easel-comparison)[open]")) return;
    onKey(event);
  }, true);
  document.addEventListener("keyup", (event) => { if (!isTyping(event.target)) editorKey(event); }, true);
  document.addEventListener("focusin", (event) => gallery.focusFrom(event.target));
  document.addEventListener("click", (event) => {
    const what = event.target.closest?.("[data-act]")?.dataset.act;
    if (what === "theme") toggleTheme();
    if (what === "help") showHelp();
    if (what === "gallery") openTab("Gallery");
  });
}

// Typed text reaches Gradio with the next paint; a click in the same tick would miss the last letter.
const settleThen = (run) => () => requestAnimationFrame(() => setTimeout(run, 0));

function done(event, run) {
  event.preventDefault();
  event.stopPropagation();
  run();
}

function onKey(event) {
  const general = { "?": showHelp, t: toggleTheme, w: () => isEdit() && togglePane(), p: () => { if (!document.querySelector("#easel-prompt")?.offsetParent) openTab("Text to image"); document.querySelector("#easel-prompt textarea")?.focus(); }, "/": () => { openTab("Gallery"); setTimeout(() => document.querySelector("#easel-search")?.focus(), 50); } };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (general[key]) return done(event, general[key]);
  if (event.target.closest?.("[role=radiogroup], input[type=radio], input[type=range], [role=tablist]")) return;
  const inGallery = gallery.isShown() && !viewed();
  const picture = viewed() || (inGallery ? gallery.current() : onView());
  if (moves(event, key, inGallery, picture)) return;
  if (picture) acts(event, key, picture);
}

function moves(event, key, inGallery, picture) {
  const onControl = event.target.closest?.("#easel-controls, #easel-header");
  if (onControl) return false;
  const go = {
    ArrowLeft: () => (viewed() ? turn(-1) : inGallery ? gallery.moveCursor(-1) : step(-1)),
    ArrowRight: () => (viewed() ? turn(1) : inGallery ? gallery.moveCursor(1) : step(1)),
    ...(!inGallery && !viewed() && stage.isBefore() ? { Escape: stage.toggleBefore } : {}),
    ...(inGallery ? { ArrowUp: () => gallery.moveCursor(0, -1), ArrowDown: () => gallery.moveCursor(0, 1), " ": gallery.selectCurrent, Escape: gallery.clearSelection } : {}),
    ...(event.target.closest?.("button, a, summary") && !event.target.closest(".easel-card, .easel-tile") ? {} : { Enter: () => (inGallery ? gallery.openCurrent() : picture && !viewed() && openViewer(picture)) }),
  };
  if (!go[key]) return false;
  done(event, go[key]);
  return true;
}

function acts(event, key, picture) {
  const act = { s: () => star(picture), v: () => vary(picture), r: () => reuse(picture), i: () => sendTo(picture, "img2img"), m: () => sendTo(picture, "inpaint"), x: () => compareWith(picture),
    o: () => picture.edit && (viewed() ? viewer : stage).toggleBefore(), c: () => copySeed(picture), d: () => download(picture),
    Delete: () => (gallery.isShown() && gallery.hasSelection() ? gallery.binSelected() : bin(picture)), ...Object.fromEntries([1, 2, 3, 4, 5].map((n) => [String(n), () => rate(picture, n)])) };
  if (act[key]) done(event, act[key]);
}
