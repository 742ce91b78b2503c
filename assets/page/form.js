// The form's side of things: saved as it is typed, hints on hover, sentences at the field.

import { ask, clip, dialog, h, icon, sorry, toast } from "./dom.js";
import { command, onOutcome, send } from "./bridge.js";
import { lookNow, studio } from "./state.js";
import { isExtended, showFrame } from "./editor.js";
import { follow, onView } from "./stage.js";
import { showPane, TASKS } from "./tasks.js";

const PAUSE = 450; // milliseconds of rest before the form is saved
const PROBLEM = ".easel-problem[data-field]"; // what the form was refused for
let saving = null;

export function mountForm(panel) {
  for (const kind of ["input", "change", "click"]) panel.addEventListener(kind, () => rememberSoon(), true);
  panel.addEventListener("input", (event) => clearProblem(event.target));
  document.addEventListener("click", act);
  document.addEventListener("pointerdown", (event) => { if (event.target.closest?.(".easel-canvas")) forgetProblems(); }, true); // a stroke
  window.addEventListener("pagehide", keepPrompt);
  onOutcome(show);
  // Some of them are built later than others, on a slow machine well after this.
  new MutationObserver(() => nameGroups(panel)).observe(panel, { childList: true, subtree: true });
  nameGroups(panel);
  markChoices();
  for (const kind of ["change", "input", "click"]) panel.addEventListener(kind, () => setTimeout(markChoices, 0));
}

// Gradio's groups of chips have no name of their own for a screen reader.
function nameGroups(panel) {
  for (const group of panel.querySelectorAll("fieldset.block")) {
    const name = group.querySelector('[data-testid="block-info"]')?.textContent.trim();
    group.setAttribute("role", "radiogroup");
    if (name) group.setAttribute("aria-label", name);
  }
}

function rememberSoon() {
  clearTimeout(saving);
  saving = setTimeout(() => { saving = null; send("remember"); }, PAUSE);
}

// A page that closes before the pause is over still hands its texts over.
function keepPrompt() {
  if (saving === null) return;
  const texts = { prompt: "#easel-prompt", negative_prompt: "#easel-negative", extend_prompt: "#easel-extend-prompt" };
  const typed = Object.entries(texts).map(([name, place]) => [name, document.querySelector(`${place} textarea`)?.value]);
  const body = JSON.stringify({ prompt: "", ...Object.fromEntries(typed.filter(([, text]) => text !== undefined)) });
  fetch("/easel/form", { method: "POST", body, keepalive: true, headers: { "Content-Type": "application/json" } });
}

function markChoices() {
  const on = Boolean(document.querySelector("#easel-panels input")?.checked);
  const page = document.documentElement;
  page.classList.toggle("easel-panels-on", on);
  page.classList.toggle("easel-extends", isExtended());
  page.classList.toggle("easel-mask-waits", isExtended() && !document.querySelector("#easel-extend-mask input")?.checked);
  page.classList.toggle("easel-own-size", chosen("#easel-size-from") === "own");
  page.classList.toggle("easel-only-masked", chosen("#easel-area") === "only masked");
  page.classList.toggle("easel-hires", Number(document.querySelector("#easel-hires-scale input")?.value) > 1);
  page.classList.toggle("easel-varied", Number(document.querySelector("#easel-variation input")?.value) > 0);
}

const chosen = (radio) => document.querySelector(`${radio} input:checked`)?.value;

function act(event) {
  if (event.target.closest?.("#easel-extend button.label-wrap")) showPane("source"); // where the frame is seen
  const what = event.target.closest?.("[data-act]")?.dataset.act;
  if (what === "swap") command("swap");
  else if (what === "dice") command("dice");
  else if (what === "subjects") showSubjects();
  else if (what === "recycle") {
    const picture = onView();
    if (picture) command("seed", { seed: picture.seed });
    else toast("There is no picture yet whose seed could be taken.");
  }
}

// ---------------------------------------------------------------- what the handlers answered

function show(outcome) {
  const answered = outcome.error || outcome.submitted || outcome.source; // what is only kept answers nothing
  if (answered) forgetProblems();
  if (outcome.error) showProblem(outcome.error);
  if (outcome.said) toast(outcome.said, outcome.undo ? { label: "Undo", run: () => command("earlier", { key: outcome.undo }) } : null);
  if (outcome.earlier) showEarlier(outcome.earlier);
  if ("size_note" in outcome) {
    const note = document.querySelector("#easel-size-note");
    if (note) { note.textContent = outcome.size_note; note.hidden = !outcome.size_note; }
  }
  if (outcome.tokens) showTokens(outcome.tokens);
  if (outcome.model) showModel(outcome.model);
  if (outcome.submitted) { follow(); lookNow(); showStage(); }
  setTimeout(markChoices, 50);
  setTimeout(showFrame, 50);
}

// In a narrow window the form may hide what is being drawn.
function showStage() {
  if (matchMedia("(max-width: 960px)").matches) document.querySelector("#easel-result")?.scrollIntoView({ block: "start" });
}

function showProblem({ field, sentence, details }) {
  const place = field ? [...document.querySelectorAll(`.easel-field-${CSS.escape(field)}`)].find(isReachable) : null;
  if (!place) return toast(sentence, details ? { label: "Copy details", run: () => navigator.clipboard.writeText(details) } : null);
  const folded = place.closest("#easel-more, #easel-negative, #easel-extend");
  const opener = folded?.querySelector("button.label-wrap");
  if (opener && !opener.classList.contains("open")) opener.click();
  const line = h("p", { class: "easel-problem", role: "alert", "data-field": field }, sentence);
  (place.closest(".easel-row") || place).after(line); // below the whole row, where there is room
  place.querySelector("input, textarea")?.focus();
  line.scrollIntoView({ block: "nearest" });
}

// Whether a control belongs to the open tab; one that is only folded away can be unfolded.
const isReachable = (place) => place.offsetParent !== null || Boolean(place.closest("#easel-more, #easel-negative, #easel-extend")?.offsetParent);

const forgetProblems = () => document.querySelectorAll(PROBLEM).forEach((line) => line.remove());

function clearProblem(target) {
  const block = target.closest("[class*=easel-field-]");
  if (!block) return;
  for (const line of document.querySelectorAll(PROBLEM)) if (block.classList.contains(`easel-field-${line.dataset.field}`)) line.remove();
}

function showModel({ name, title, pictured }) {
  const place = document.querySelector("#easel-model-picture");
  if (!place || place.dataset.name === name) return;
  place.dataset.name = name;
  place.replaceChildren(pictured ? h("img", { src: `/easel/model-picture?name=${encodeURIComponent(name)}`, alt: "" }) : title.slice(0, 1));
}

function showTokens({ used, limit, cut, longest }) {
  const line = document.querySelector("#easel-tokens");
  if (!line) return;
  line.textContent = used === null ? "" : `${used} of ${limit} tokens${longest ? " in the longest line" : ""}`;
  line.classList.toggle("over", Boolean(cut));
  line.title = cut ? `The model reads no further than ${limit} tokens; cut off: “${clip(cut, 200)}”` : "How much of the model's attention the prompt takes";
}

export function mountUnderPrompt(root) {
  root.replaceChildren(
    h("button", { type: "button", class: "easel-link", "data-act": "subjects" }, "What can it draw?"),
    h("details", { class: "easel-menu", id: "easel-earlier", hidden: true }, h("summary", { class: "easel-link", title: "Forms that were replaced by another picture's settings" }, "Earlier"), h("div", {})),
    h("span", { class: "easel-gap" }),
    h("span", { id: "easel-tokens", class: "easel-quiet", "aria-live": "off" }),
    h("p", { class: "easel-quiet easel-extending" }, "The picture is being extended, which this prompt does not take part in. ",
      h("button", { type: "button", class: "easel-link", onclick: () => command("unframe") }, "Do not extend")));
}

// What sent or re-used settings replaced: one click brings it back, source and drawing included.
function showEarlier(forms) {
  const menu = document.querySelector("#easel-earlier");
  if (!menu) return;
  menu.hidden = forms.length === 0;
  menu.lastChild.replaceChildren(...forms.map(({ key, prompt, task, source }) =>
    h("button", { type: "button", onclick: () => { menu.open = false; command("earlier", { key }); } },
      source && task !== "txt2img" ? h("img", { src: `/easel/source/${source}.png`, alt: "" }) : null,
      h("span", {}, clip(prompt.split("\n").filter(Boolean).join(" / ") || "No prompt", 60)), h("small", { class: "easel-quiet" }, TASKS[task] || ""))));
}

// ---------------------------------------------------------------- what the model can draw

async function showSubjects() {
  const name = studio.state?.model.name || "";
  let known;
  try { known = await ask(`/easel/subjects?model=${encodeURIComponent(name)}`); } catch (error) { return sorry(error); }
  const found = h("div", { class: "easel-subjects" });
  const search = h("input", { type: "search", placeholder: "Search the subjects", "aria-label": "Search the subjects", oninput: fill });
  const box = dialog("What can it draw?", h("p", { class: "easel-quiet" }, known.sentence), known.subjects.length ? search : null, found);
  function fill() {
    const wanted = search.value.trim().toLowerCase();
    const matching = known.subjects.filter((subject) => subject.toLowerCase().includes(wanted));
    found.replaceChildren(...matching.map((subject) => h("button", { type: "button", onclick: () => { command("subject", { subject }); toast(`“${subject}” is in the prompt.`); } }, subject)));
    if (!matching.length && known.subjects.length) found.replaceChildren(h("p", { class: "easel-quiet" }, "No subject of that name; the model may draw it badly."));
  }
  fill();
  search.focus();
  return box;
}
