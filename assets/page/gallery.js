// Every picture ever made, a page at a time as one scrolls; selection, bin, contact sheets.

import { ask, button, clip, h, sorry, tell, thumbnail } from "./dom.js";
import { openComparison } from "./compare.js";
import { binAll, onPictureChange } from "./picture.js";
import { onState } from "./state.js";
import { openViewer } from "./viewer.js";

const PAGE = 60;
const WHOLE_SET = 200; // pictures; a longer set comes newest first, a page at a time
let parts = null;
let pictures = [];
let more = true;
let turn = 0;
let asking = false;
let newest = null;
let cursor = -1; // where the keyboard is
const selected = new Map();
const filter = { search: "", starred: false, taste: false, deleted: false, campaigns: false, set: "" };

export function mountGallery(root) {
  const search = h("input", { type: "search", id: "easel-search", placeholder: "Search prompts", "aria-label": "Search prompts", oninput: () => later(() => { filter.search = search.value; narrowed(); }) });
  const chips = {};
  const toggle = (name, text) => {
    chips[name] = h("button", { type: "button", class: "easel-chip", "aria-pressed": "false", onclick: () => { filter[name] = !filter[name]; selected.clear(); narrowed(); } }, text);
    return chips[name];
  };
  const sets = h("select", { id: "easel-sets", "aria-label": "Set of panels", hidden: true, onchange: () => { filter.set = sets.value; selected.clear(); narrowed(); } });
  parts = {
    search, sets, chips,
    bar: h("div", { class: "easel-gallery-bar" }, search, sets, toggle("starred", "★ Starred"), toggle("taste", "By your taste"), toggle("campaigns", "Drawn for campaigns"), toggle("deleted", "Bin"), h("span", { class: "easel-gap" }), h("span", { id: "easel-count", class: "easel-quiet" })),
    choice: h("div", { class: "easel-choice", hidden: true }),
    grid: h("div", { class: "easel-grid", role: "group", "aria-label": "Pictures of the gallery" }),
    end: h("div", { class: "easel-end" }),
  };
  root.replaceChildren(parts.bar, parts.choice, parts.grid, parts.end);
  begin();
}

// The search and the filters are there again after a reload; what was typed or chosen meanwhile stays.
async function begin() {
  const usual = { ...filter };
  try {
    const kept = await ask("/easel/kept/gallery");
    for (const name of Object.keys(kept)) if (filter[name] === usual[name]) filter[name] = kept[name];
  } catch (error) { sorry(error); }
  if (parts.search.value) filter.search = parts.search.value;
  parts.search.value = filter.search;
  showFilter();
  new IntersectionObserver((seen) => { if (seen.some((entry) => entry.isIntersecting)) loadMore(); }, { rootMargin: "600px" }).observe(parts.end);
  onState((state) => {
    if (state.newest === newest) return;
    newest = state.newest;
    offerSets();
    if (pictures.length && !filter.deleted && !filter.taste) freshen(); else reload();
  });
  onPictureChange(replace);
}

export const isShown = () => Boolean(parts?.grid.offsetParent);
export const current = () => pictures[cursor] ?? null;

function showFilter() {
  for (const [name, chip] of Object.entries(parts.chips)) chip.setAttribute("aria-pressed", String(filter[name]));
}

function narrowed() {
  showFilter();
  tell("/easel/kept/gallery", { values: { ...filter } }).catch(() => {}); // the next change is kept again
  reload();
}

let pause = null;
function later(run) {
  clearTimeout(pause);
  pause = setTimeout(run, 180);
}

// The names of all sets of panels; hidden while there is none.
async function offerSets() {
  try {
    const found = await ask("/easel/sets");
    parts.sets.replaceChildren(h("option", { value: "" }, "All sets"),
      ...found.map((set) => h("option", { value: set.id }, `${clip(set.name || "Set without a name", 40)} (${set.pictures})`)));
    parts.sets.value = found.some((set) => set.id === filter.set) ? filter.set : "";
    parts.sets.hidden = found.length === 0;
    if (parts.sets.value !== filter.set) { filter.set = ""; narrowed(); }
  } catch (error) { sorry(error); }
}

const query = (before) => new URLSearchParams({ limit: filter.set ? WHOLE_SET : PAGE, search: filter.search, set_id: filter.set, starred: filter.starred ? "1" : "", deleted: filter.deleted ? "1" : "", drawn_for: drawnFor(), ...(before ? { before } : {}) });

// What campaigns drew stands apart, or it would bury the rest; whoever looks for something looks through all.
function drawnFor() {
  if (filter.campaigns) return "campaigns";
  return filter.search || filter.starred || filter.deleted || filter.set ? "" : "artist";
}

function reload() {
  pictures = [];
  more = true;
  cursor = -1;
  turn += 1; // answers to older questions are dropped
  asking = false;
  return loadMore(true);
}

async function loadMore(fresh = false) {
  if (asking || !more || (!fresh && !pictures.length)) return;
  const mine = turn;
  asking = true;
  try {
    const page = await ask(filter.taste && !filter.deleted ? `/easel/rate/owner/by-taste?${query()}&offset=${pictures.length}` : `/easel/pictures?${query(pictures.at(-1)?.id)}`);
    if (mine !== turn) return;
    pictures.push(...page.pictures);
    more = page.more;
    showCount(page.total);
    render(fresh);
  } catch (error) { sorry(error); } finally {
    if (mine === turn) asking = false;
  }
}

function showCount(total) {
  document.querySelector("#easel-count").textContent = `${total.toLocaleString()} ${total === 1 ? "picture" : "pictures"}`;
}

// New pictures come in without disturbing where one is; older ones than those on view wait further down.
async function freshen() {
  if (filter.set) return reload(); // a new panel has a place of its own
  const mine = turn;
  try {
    const page = await ask(`/easel/pictures?${query()}`);
    if (mine !== turn) return;
    const known = new Set(pictures.map((picture) => picture.id));
    const oldest = more ? Math.min(...known) : 0;
    const fresh = page.pictures.filter((picture) => !known.has(picture.id) && picture.id > oldest);
    const at = pictures[cursor]?.id;
    pictures.unshift(...fresh);
    if (!filter.taste) pictures.sort((a, b) => b.id - a.id); // one that came back has its old place
    cursor = pictures.findIndex((picture) => picture.id === at);
    showCount(page.total);
    render(true);
  } catch (error) { sorry(error); }
}

function render(whole) {
  if (whole) parts.grid.replaceChildren();
  for (let at = parts.grid.childElementCount; at < pictures.length; at += 1) parts.grid.append(card(pictures[at]));
  if (!pictures.length) parts.grid.replaceChildren(h("p", { class: "easel-quiet easel-empty" }, emptySentence()));
  renderChoice();
}

function emptySentence() {
  if (filter.search) return `No prompt here has “${filter.search}” in it.`;
  if (filter.deleted) return "The bin is empty.";
  if (filter.campaigns) return "No campaign of the Rate tab has drawn a picture yet.";
  if (filter.starred) return "No picture has a star yet; press S on one that you like.";
  return "Every picture that you draw will stand here.";
}

function card(picture) {
  const chosen = selected.has(picture.id);
  return h("div", { class: `easel-card${chosen ? " selected" : ""}${picture.starred ? " starred" : ""}`, "data-picture": picture.id },
    h("button", { type: "button", class: "easel-card-picture", title: clip(picture.prompt || "No prompt", 200), onclick: (event) => (event.ctrlKey || event.metaKey || event.shiftKey || selected.size ? toggleSelected(picture, event.shiftKey) : open(picture)) },
      h("img", { src: thumbnail(picture), alt: clip(picture.prompt || "No prompt", 120), loading: "lazy", draggable: "false" })),
    h("button", { type: "button", class: "easel-check", "aria-label": "Select", "aria-pressed": String(chosen), title: "Select (Space)", onclick: (event) => toggleSelected(picture, event.shiftKey) }, button("", "check").firstChild),
    filter.set && picture.panel ? h("span", { class: "easel-card-panel", title: `Panel ${picture.panel}` }, String(picture.panel)) : null,
    h("span", { class: "easel-card-words" }, clip(picture.prompt || "No prompt", 80)));
}

function open(picture) {
  cursor = pictures.findIndex((p) => p.id === picture.id);
  openViewer(picture, pictures);
}

function toggleSelected(picture, range = false) {
  const at = pictures.findIndex((p) => p.id === picture.id);
  if (range && cursor >= 0) {
    for (let i = Math.min(cursor, at); i <= Math.max(cursor, at); i += 1) selected.set(pictures[i].id, pictures[i]);
  } else if (selected.has(picture.id)) selected.delete(picture.id);
  else selected.set(picture.id, picture);
  cursor = at;
  for (const element of parts.grid.children) {
    const on = selected.has(Number(element.dataset.picture));
    element.classList.toggle("selected", on);
    element.querySelector(".easel-check")?.setAttribute("aria-pressed", String(on));
  }
  renderChoice();
}

function renderChoice() {
  parts.choice.hidden = selected.size === 0;
  const chosen = [...selected.values()].sort((a, b) => a.id - b.id);
  const sheet = (kind, text) => h("a", { class: "easel-icon", href: `/easel/contact-sheet.${kind}?ids=${chosen.map((p) => p.id).join(",")}`, download: "", title: `Numbered contact sheet as ${text}` }, button("", "sheet").firstChild, text);
  parts.choice.replaceChildren(...[
    h("strong", {}, `${selected.size} selected`),
    selected.size === 2 ? button("Compare the two", "halves", () => openComparison(...chosen), { text: "Compare" }) : null,
    sheet("png", "Contact sheet PNG"), sheet("pdf", "Contact sheet PDF"),
    filter.deleted ? null : button("Put them into the bin (Del)", "bin", binSelected, { text: "To the bin" }),
    button("Select nothing (Esc)", "close", clearSelection, { text: "Clear" }),
  ].filter(Boolean));
}

export function clearSelection() {
  selected.clear();
  toggleSelected({ id: -1 });
  selected.delete(-1);
  cursor = -1;
  renderChoice();
}

export async function binSelected() {
  const gone = [...selected.values()];
  selected.clear();
  await binAll(gone);
  renderChoice();
}

export const hasSelection = () => selected.size > 0;

export function moveCursor(places, rows = 0) {
  if (!pictures.length) return;
  const columns = getComputedStyle(parts.grid).gridTemplateColumns.split(" ").length;
  cursor = Math.min(Math.max((cursor < 0 ? -Math.sign(places || rows) + 0 : cursor) + places + rows * columns, 0), pictures.length - 1);
  const element = parts.grid.children[cursor];
  element?.querySelector("button")?.focus();
  element?.scrollIntoView({ block: "nearest" });
}

export function selectCurrent() {
  if (current()) toggleSelected(current());
}

export function openCurrent() {
  if (current()) open(current());
}

export function focusFrom(target) {
  const id = Number(target.closest?.(".easel-card")?.dataset.picture);
  if (id) cursor = pictures.findIndex((picture) => picture.id === id);
}

function replace(changed) {
  const at = pictures.findIndex((picture) => picture.id === changed.id);
  const belongs = Boolean(changed.deleted) === filter.deleted && (!filter.starred || changed.starred);
  if (at >= 0 && belongs) {
    pictures[at] = changed;
    parts.grid.children[at]?.replaceWith(card(changed));
  } else if (at >= 0) {
    pictures.splice(at, 1);
    selected.delete(changed.id);
    parts.grid.children[at]?.remove();
    if (!pictures.length) render(true);
  } else if (belongs && isShown()) reload();
}
