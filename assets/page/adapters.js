// The chip beside the model: which adapters the next picture is drawn with, and how strongly.

import { ask, h, sorry } from "./dom.js";
import { command, lastTurn, onOutcome } from "./bridge.js";

let chip = null;
let list = null;
let chosen = []; // {name, sha256, strength}, as the form keeps them
let shelf = [];
let saving = null;
const PATIENCE = 10000; // milliseconds until a choice that was not answered counts for nothing
let awaited = { turn: 0, until: 0 }; // the form that has what was chosen last; what older ones say is out of date

export function mountAdapters(root) {
  chip = h("button", { type: "button", class: "easel-chip", id: "easel-adapter-chip", title: "What the model was fine-tuned to", "aria-expanded": "false", "aria-controls": "easel-adapter-list", onclick: () => toggle() }, "No adapter");
  list = h("div", { id: "easel-adapter-list", class: "easel-popover", hidden: true, role: "dialog", "aria-label": "Adapters" });
  root.replaceChildren(h("span", { class: "easel-popover-place" }, chip, list));
  onOutcome(hear);
  document.addEventListener("click", (event) => { if (!list.hidden && !event.composedPath().includes(root)) toggle(false); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !list.hidden) { toggle(false); chip.focus(); } });
  document.addEventListener("easel-adapters", load);
  render();
}

function hear(outcome) {
  if (outcome.restored || outcome.error) awaited = { turn: 0, until: 0 }; // a refused choice has no turn
  if (!outcome.adapters || saving !== null) return;
  if (outcome.turn < awaited.turn && Date.now() < awaited.until) return;
  if (JSON.stringify(outcome.adapters) === JSON.stringify(chosen)) return; // nothing is drawn anew under the pointer
  chosen = outcome.adapters;
  render();
}

async function toggle(force = list.hidden) {
  list.hidden = !force;
  chip.setAttribute("aria-expanded", String(force));
  if (force) await load();
}

async function load() {
  try { shelf = (await ask("/easel/finetune/adapters")).adapters; } catch (error) { return sorry(error); }
  renderList();
}

const writes = (strength) => Number(strength).toFixed(2).replace(/0$/, "").replace(/\.0$/, "");

function render() {
  const words = chosen.length === 0 ? "No adapter" : chosen.length === 1 ? `${chosen[0].name} ${writes(chosen[0].strength)}` : `${chosen.length} adapters`;
  chip.textContent = words;
  chip.setAttribute("aria-label", chosen.length ? `Adapter: ${words}` : "No adapter");
  chip.classList.toggle("quiet-choice", chosen.length === 0);
  if (!list.hidden) renderList();
}

// The form keeps it; a slider that is being moved is told once it rests.
function keep(wait = 0) {
  render();
  clearTimeout(saving);
  const save = () => {
    saving = null;
    awaited = { turn: Math.max(awaited.turn, lastTurn()) + 1, until: Date.now() + PATIENCE };
    command("adapters", { adapters: chosen });
  };
  if (wait) saving = setTimeout(save, wait);
  else save();
}

function renderList() {
  if (list.contains(document.activeElement) && document.activeElement.type === "range") return;
  const gone = chosen.filter((use) => !shelf.some((entry) => entry.sha256 === use.sha256)).map((use) => ({ ...use, problem: "Its file is not on the shelf any more." }));
  const entries = [...shelf, ...gone];
  if (!entries.length) return list.replaceChildren(h("p", { class: "easel-quiet" }, "No adapter yet. What you keep on the Fine-tune tab appears here, and so do LoRA files in the data folder's 'adapters'."));
  list.replaceChildren(...entries.map(row));
}

function row(entry) {
  const use = chosen.find((other) => other.sha256 === entry.sha256);
  const said = h("output", {}, use ? writes(use.strength) : "");
  const strength = h("input", { type: "range", min: 0, max: Math.max(2, use?.strength ?? 0), step: 0.05, value: use?.strength ?? entry.strength, disabled: !use, "aria-label": `Strength of ${entry.name}`, oninput: () => {
    chosen = chosen.map((other) => (other.sha256 === entry.sha256 ? { ...other, strength: Number(strength.value) } : other));
    said.textContent = writes(strength.value);
    keep(250);
  } });
  const tick = h("input", { type: "checkbox", checked: Boolean(use), disabled: Boolean(entry.problem) && !use, onchange: () => {
    chosen = tick.checked ? [...chosen, { name: entry.name, sha256: entry.sha256, strength: entry.strength }] : chosen.filter((other) => other.sha256 !== entry.sha256);
    keep();
    renderList();
  } });
  return h("div", { class: "easel-adapter" }, h("label", {}, tick, h("span", {}, entry.name, entry.problem ? h("small", {}, entry.problem) : entry.base ? h("small", {}, `on ${entry.base}`) : null)), strength, said);
}
