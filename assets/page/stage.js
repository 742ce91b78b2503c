// The picture on view, the strip of its batch, and the history below.

import { ask, button, clip, duration, full, h, sorry, tell, thumbnail } from "./dom.js";
import { command } from "./bridge.js";
import { onState, lookNow, studio } from "./state.js";
import { beforeAfter, family } from "./compare.js";
import { onPictureChange, toolbar } from "./picture.js";
import { keepBest } from "./taste.js";
import { showPane } from "./tasks.js";
import { openViewer } from "./viewer.js";

const HISTORY = 48;
let parts = null;
let chosen = null; // a picture that the artist picked; null follows the drawing
let history = [];
let newest = null;
let shownJob = null;
let shownSource = "";
let shownTools = "";
let showsBefore = false; // the slider over the picture on view
const readNotes = new Set(); // until the page is loaded again

export function mountStage(root) {
  parts = {
    banner: h("div", { class: "easel-banner", role: "status", hidden: true }),
    room: h("div", { class: "easel-room" }),
    tools: h("div", { class: "easel-tools" }),
    strip: h("div", { class: "easel-strip", role: "listbox", "aria-label": "Pictures of this batch" }),
    sheets: h("p", { class: "easel-sheets", hidden: true }),
    best: h("p", { class: "easel-sheets", hidden: true }),
    heading: h("div", { class: "easel-heading" }, h("h3", {}, "History"),
      h("button", { type: "button", class: "easel-link", "data-act": "gallery" }, "All pictures")),
    history: h("div", { class: "easel-history", role: "listbox", "aria-label": "History" }),
  };
  root.replaceChildren(...Object.values(parts));
  onState(render);
  onPictureChange(replaceEverywhere);
}

export function follow() {
  chosen = null;
  render(studio.state);
}

export function onView() {
  if (chosen) return chosen;
  const now = studio.state?.now;
  return now?.pictures.at(-1) ?? (now && isOpen(now) ? null : history[0]) ?? null;
}

// The row that the picture on view stands in, as it is on the page: arrows move along it.
function row() {
  const now = studio.state?.now;
  return now && now.pictures.some((p) => p.id === onView()?.id) && now.pictures.length > 1 ? now.pictures : history;
}

export function step(places) {
  const list = row();
  const at = list.findIndex((p) => p.id === onView()?.id);
  const next = list[Math.min(Math.max(at + places, 0), list.length - 1)];
  if (next) choose(next);
}

function choose(picture) {
  chosen = picture;
  render(studio.state);
}

const isOpen = (job) => job.state === "running" || job.state === "queued";

function render(state) {
  if (!state || !parts) return;
  const now = state.now;
  if (now && now.id !== shownJob) {
    if (shownJob !== null && isOpen(now)) chosen = null;
    shownJob = now.id;
  }
  renderBanner(state);
  const nothingYet = state.newest === 0 && !(now && isOpen(now));
  if (nothingYet) renderSamples(state);
  else renderPicture(now);
  renderStrip(now);
  if (state.newest !== newest) {
    newest = state.newest;
    loadHistory();
  }
}

// ---------------------------------------------------------------- the picture

function renderPicture(now) {
  const picture = onView();
  const live = !chosen && now && isOpen(now);
  const size = live ? now : picture;
  if (!size) return;
  let frame = parts.room.querySelector(".easel-frame");
  if (!frame) {
    frame = h("figure", { class: "easel-frame" });
    parts.room.replaceChildren(frame);
    frame.addEventListener("click", (event) => { const p = onView(); if (p && !event.target.closest(".easel-slider")) openViewer(p, row()); });
    shownSource = "";
  }
  frame.style.setProperty("--w", size.width);
  frame.style.setProperty("--h", size.height);
  frame.classList.toggle("live", Boolean(live));
  if (showsBefore && !live && picture.edit) return renderBefore(frame, picture);
  const source = live ? now.preview || (now.pictures.length ? full(now.pictures.at(-1)) : "") : full(picture);
  if (source) swap(frame, source, live ? "The picture as it grows" : picture.prompt || "Picture without a prompt");
  else if (live) { frame.replaceChildren(h("span", { class: "easel-doing" }, doing(now))); shownSource = ""; }
  renderTools(live ? null : picture, live ? now : null);
}

function renderBefore(frame, picture) {
  const mark = `before ${picture.id}`;
  if (shownSource !== mark) frame.replaceChildren(beforeAfter(picture));
  shownSource = mark;
  renderTools(picture, null);
}

export const isBefore = () => showsBefore;

export function toggleBefore() {
  showsBefore = !showsBefore;
  if (showsBefore) showPane("result");
  shownSource = shownTools = "";
  render(studio.state);
}

export const doing = (job) => (job.state === "queued" ? "Waiting for its turn" : job.doing || "Getting ready");

// The next image takes the place of this one only when it can be painted: nothing blinks or jumps.
async function swap(frame, source, alt) {
  if (source === shownSource) return;
  shownSource = source;
  const image = new Image();
  image.alt = alt;
  image.draggable = false;
  image.src = source;
  try { await image.decode(); } catch { if (source === shownSource) shownSource = ""; return; }
  if (source === shownSource) frame.replaceChildren(image);
}

function renderTools(picture, live) {
  const mark = picture ? JSON.stringify(picture) : live ? `${live.id}` : "";
  if (mark === shownTools) return;
  shownTools = mark;
  parts.tools.replaceChildren();
  if (picture) {
    const bar = toolbar(picture, (p) => openViewer(p, row()));
    if (picture.edit) bar.prepend(button("Before and after (O)", "halves", toggleBefore, { text: "Before/after", "aria-pressed": String(showsBefore) }));
    parts.tools.append(bar, h("p", { class: "easel-caption" }, clip(picture.prompt || "No prompt", 160),
      h("span", {}, ` ${picture.width} × ${picture.height}, ${duration(picture.seconds)}`)), family(picture, choose));
  } else if (live) {
    parts.tools.append(h("p", { class: "easel-caption" }, clip(live.prompt || "No prompt", 160)));
  }
}

// ---------------------------------------------------------------- strip and history

function tile(picture) {
  const isShown = onView()?.id === picture.id;
  return h("button", {
    type: "button", class: `easel-tile${isShown ? " shown" : ""}${picture.starred ? " starred" : ""}`, role: "option",
    "aria-selected": String(isShown), "data-picture": picture.id, title: clip(picture.prompt || "No prompt", 120),
    onclick: () => choose(picture), ondblclick: () => openViewer(picture, row()),
  }, h("img", { src: thumbnail(picture), alt: clip(picture.prompt || "No prompt", 80), loading: "lazy", draggable: "false" }));
}

function replaceTiles(row, tiles, mark) {
  if (row.dataset.mark === mark) return;
  row.dataset.mark = mark;
  row.replaceChildren(...tiles());
}

function renderStrip(now) {
  const wanted = now ? Math.max(now.count, now.pictures.length) : 0;
  parts.strip.hidden = wanted < 2;
  renderSheets(now);
  renderBest(now, wanted);
  if (wanted < 2) return;
  const mark = JSON.stringify([now.id, now.state, now.pictures.map((p) => [p.id, p.starred]), onView()?.id]);
  replaceTiles(parts.strip, () => [
    ...now.pictures.map(tile),
    ...(isOpen(now) ? Array.from({ length: now.count - now.pictures.length }, () => h("span", { class: "easel-tile pending" })) : []),
  ], mark);
}

// The batch or set as a numbered sheet, to print or to send.
function renderSheets(now) {
  const pictures = now?.pictures || [];
  parts.sheets.hidden = pictures.length < 2 || isOpen(now);
  const ids = pictures.map((picture) => picture.id).join(",");
  if (parts.sheets.dataset.mark === ids) return;
  parts.sheets.dataset.mark = ids;
  const name = now?.label ? now.label.replace(/, panel \d+ of \d+$/, "") : "This batch";
  const link = (kind) => h("a", { class: "easel-link", download: "", href: `/easel/contact-sheet.${kind}?ids=${ids}` }, kind.toUpperCase());
  parts.sheets.replaceChildren(`${name}, ${pictures.length} pictures · contact sheet `, link("png"), " ", link("pdf"));
}

// Draw many, keep the best by the learned taste; only one job's pictures compete.
function renderBest(now, wanted) {
  const alone = now && !now.label && wanted > 1;
  parts.best.hidden = !alone;
  const mark = alone ? `${now.id} ${wanted}` : "";
  if (parts.best.dataset.mark === mark) return;
  parts.best.dataset.mark = mark;
  parts.best.replaceChildren(alone ? keepBest(now, wanted) : "");
}

async function loadHistory() {
  try {
    history = (await ask(`/easel/pictures?drawn_for=artist&limit=${HISTORY}`)).pictures;
  } catch (error) { sorry(error); }
  renderHistory();
  if (studio.state?.newest) renderPicture(studio.state.now);
}

function renderHistory() {
  parts.heading.hidden = history.length === 0;
  replaceTiles(parts.history, () => history.map(tile), JSON.stringify([history.map((p) => [p.id, p.starred]), onView()?.id]));
}

onState(() => parts && renderHistory());

function replaceEverywhere(changed) {
  const swapIn = (list) => list.map((p) => (p.id === changed.id ? changed : p));
  history = changed.deleted ? history.filter((p) => p.id !== changed.id) : swapIn(history);
  if (chosen?.id === changed.id) chosen = changed.deleted ? null : changed;
  const now = studio.state?.now;
  if (now) now.pictures = changed.deleted ? now.pictures.filter((p) => p.id !== changed.id) : swapIn(now.pictures);
  if (!changed.deleted && !history.some((p) => p.id === changed.id)) loadHistory();
  render(studio.state);
  renderHistory();
  lookNow();
}

// ---------------------------------------------------------------- the first visit

async function renderSamples(state) {
  if (parts.room.querySelector(".easel-samples")) return;
  const box = h("div", { class: "easel-samples" },
    h("h2", {}, "What shall we draw?"),
    h("p", {}, "Click a picture to draw one like it, or write your own prompt on the left."));
  parts.room.replaceChildren(box);
  parts.tools.replaceChildren();
  shownTools = "";
  try {
    const { samples } = await ask(`/easel/samples?model=${encodeURIComponent(state.model.name)}`);
    box.append(h("div", { class: "easel-sample-grid" }, samples.map((sample) => h("button", {
      type: "button", class: "easel-sample", onclick: () => command("sample", { prompt: sample.prompt }),
    }, sample.image ? h("img", { src: sample.image, alt: "" }) : h("span", { class: "easel-no-picture" }, "✎"), h("span", {}, sample.prompt)))));
  } catch (error) { sorry(error); }
}

// ---------------------------------------------------------------- sentences that need an answer

function renderBanner(state) {
  const lines = [];
  const now = state.now;
  if (now?.error) lines.push(bannerLine(now.error, [
    ["Copy details", () => import("./dom.js").then(({ copy }) => copy(now.details || now.error))],
    ["Try again", () => tell(`/easel/jobs/${now.id}/resubmit`).then(lookNow, sorry)]]));
  else for (const notice of now?.notices || []) lines.push(bannerLine(notice));
  if (state.model.phase === "failed" && !now?.error) lines.push(bannerLine(state.model.sentence));
  for (const note of state.notes.filter((note) => !readNotes.has(note))) lines.push(bannerLine(note, [
    ["I have read it", () => { readNotes.add(note); render(studio.state); }]]));
  if (state.interrupted.length) lines.push(bannerLine(
    `${state.interrupted.length === 1 ? "One drawing was" : `${state.interrupted.length} drawings were`} cut short when the studio ended.`, [
      ["Draw the rest", () => each(state.interrupted, "resubmit")],
      ["Leave it", () => each(state.interrupted, "cancel")]]));
  const mark = lines.map((line) => line.textContent).join("\n");
  if (parts.banner.dataset.mark === mark) return;
  parts.banner.dataset.mark = mark;
  parts.banner.replaceChildren(...lines);
  parts.banner.hidden = lines.length === 0;
}

function bannerLine(sentence, actions = []) {
  return h("p", {}, h("span", {}, sentence),
    actions.map(([text, run]) => h("button", { type: "button", class: "easel-link", onclick: run }, text)));
}

async function each(ids, verb) {
  try { for (const id of ids) await tell(`/easel/jobs/${id}/${verb}`); } catch (error) { sorry(error); }
  lookNow();
}
