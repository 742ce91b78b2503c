// Header chips, the list of what waits, the Cancel button and the window's title.

import { button, clip, duration, h, sorry, tell, toast } from "./dom.js";
import { lookNow, onState, studio } from "./state.js";
import { doing } from "./stage.js";

const TITLE = "Easel";
let chip = null;
let list = null;

export function mountHeader(root) {
  chip = h("button", { type: "button", class: "easel-chip", id: "easel-queue-chip", "aria-expanded": "false", "aria-controls": "easel-queue", onclick: toggleList });
  list = h("div", { id: "easel-queue", hidden: true, role: "dialog", "aria-label": "Queue" });
  const device = h("span", { class: "easel-chip quiet", id: "easel-device" });
  root.replaceChildren(device, h("span", { class: "easel-queue-place" }, chip, list),
    button("Light or dark (T)", "moon", null, { "data-act": "theme" }),
    button("Keys and help (?)", null, null, { "data-act": "help", text: "?" }));
  document.addEventListener("click", (event) => {
    if (!list.hidden && !event.composedPath().includes(chip.parentElement)) toggleList(false);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !list.hidden) toggleList(false); });
  onState((state) => {
    device.textContent = studio.reachable ? state.device : "The studio does not answer";
    device.title = state.model.sentence;
    device.classList.toggle("busy", state.model.phase === "loading");
    if (state.model.phase === "loading") device.textContent = state.model.sentence;
    renderChip(state);
    renderList(state);
  });
}

function renderChip(state) {
  const [first, ...rest] = state.queue;
  chip.textContent = !first ? state.background || "Nothing waits" : `${percent(first)}${rest.length ? ` · ${rest.length} waiting` : ""}`;
  chip.classList.toggle("busy", Boolean(first));
  document.title = first ? `${percent(first)} · ${TITLE}` : TITLE;
}

const share = (job) => (job.steps ? job.step / job.steps : 0);
const percent = (job) => (job.steps ? `${Math.floor(100 * share(job))} %` : doing(job));

function toggleList(force) {
  list.hidden = typeof force === "boolean" ? !force : !list.hidden;
  chip.setAttribute("aria-expanded", String(!list.hidden));
}

const act = (job, verb, body) => tell(`/easel/jobs/${job.id}/${verb}`, body).then(lookNow, sorry);

function renderList(state) {
  const mark = JSON.stringify([state.background, ...state.queue.map((job) => [job.id, job.state, job.position, percent(job), duration(job.seconds_left)])]);
  if (list.dataset.mark === mark) return;
  list.dataset.mark = mark;
  if (!state.queue.length) return list.replaceChildren(h("p", { class: "easel-quiet" }, state.background ? `No picture waits. ${state.background}.` : "Nothing is being drawn and nothing waits."));
  const last = state.queue.length - 1;
  const all = h("p", { class: "easel-queue-all" }, h("button", { type: "button", class: "easel-link", onclick: cancelAll }, `Cancel all ${state.queue.length}`));
  list.replaceChildren(...(last ? [all] : []), h("ol", {}, state.queue.map((job, at) => h("li", { class: job.state },
    h("span", { class: "easel-place" }, job.state === "running" ? "now" : String(job.position)),
    h("span", { class: "easel-what" }, clip([job.label, job.prompt].filter(Boolean).join(": ") || "No prompt", 60),
      h("small", {}, job.state === "running" ? `${percent(job)} ${job.seconds_left === null ? "" : `· ${duration(job.seconds_left)} left`}` : `${job.count} ${job.count === 1 ? "picture" : "pictures"}`)),
    job.state === "queued" ? button("Draw it earlier", "up", () => act(job, "move", { places: -1 }), { disabled: job.position <= 1 }) : null,
    job.state === "queued" ? button("Draw it later", "down", () => act(job, "move", { places: 1 }), { disabled: at === last }) : null,
    button("Cancel it", "close", () => act(job, "cancel"))))));
}

export function mountCancel(root) {
  const words = h("span", {});
  const bar = h("button", { type: "button", id: "easel-cancel-button", onclick: cancelFirst }, h("i", {}), words);
  root.replaceChildren(bar);
  onState((state) => {
    const job = state.queue[0];
    document.documentElement.classList.toggle("easel-busy", Boolean(job));
    const generate = document.querySelector("#easel-generate");
    if (generate) generate.textContent = job ? "Queue another" : "Generate";
    if (!job) return;
    bar.style.setProperty("--share", `${100 * share(job)}%`);
    const left = job.seconds_left === null ? "" : ` · ${duration(job.seconds_left)} left`;
    const how = job.steps ? `step ${job.step} of ${job.steps} · ${percent(job)}${left}` : doing(job);
    words.replaceChildren("Cancel", h("small", {}, how));
    bar.title = how;
  });
}

// The last one first, so that none begins meanwhile.
async function cancelAll() {
  try {
    for (const job of [...studio.state.queue].reverse()) await tell(`/easel/jobs/${job.id}/cancel`);
    toast("All is cancelled; what was finished is kept.");
  } catch (error) { sorry(error); }
  lookNow();
}

export function cancelFirst() {
  const job = studio.state?.queue[0];
  if (job) act(job, "cancel");
}
