// The Fine-tune tab: taste, training, verdict. It asks its own small address while it is open.

import { ask, button, duration, h, sorry, tell, thumbnail } from "./dom.js";
import { runForm } from "./finetune_form.js";
import { runPlots } from "./finetune_plots.js";
import { epochBesideBase, filmStrip } from "./finetune_strip.js";
import { verdictPanel } from "./finetune_verdict.js";
import { openTab } from "./tasks.js";

const QUICK = 900; // milliseconds between two looks while a run is at work
const SLOW = 4000;
const STATES = { running: "training", paused: "paused", interrupted: "cut short", failed: "failed", trained: "trained", kept: "kept", discarded: "discarded" };
const PHASES = { wait: "waiting for its turn", load: "loading the base model", taste: "learning your taste", sample: "drawing", score: "scoring", advantages: "comparing", update: "learning", look: "looking at the held-out prompts" };

let parts = null;
let form = null;
let state = null;
let wanted = ""; // the run that is looked at; empty until the likeliest is known
let planning = false; // the form is open although there is a run
let chosen = 0; // the epoch that lies beside the base; 0: the newest
let timer = null;
let looking = false;

export function mountFinetune(root) {
  parts = build();
  root.replaceChildren(parts.root);
  new IntersectionObserver((seen) => { if (seen.some((entry) => entry.isIntersecting)) { look(); form?.takeNew(); } }).observe(root);
  runForm(() => { state = null; look(); }, (run) => { wanted = run.id; planning = false; chosen = 0; look(); }).then((made) => {
    form = made;
    parts.plan.replaceChildren(made.root);
    look();
  }, sorry);
}

const isOpen = () => Boolean(parts?.root.offsetParent) && !document.hidden;

function look() {
  clearTimeout(timer);
  if (!looking) ask_();
}

async function ask_() {
  looking = true;
  try {
    const query = new URLSearchParams({ known: state?.version || "", run: wanted, reward: form?.reward() || "taste" });
    const answer = await ask(`/easel/finetune/state?${query}`);
    if (answer) { state = answer; wanted ||= answer.run?.id || ""; render(); }
  } catch (error) {
    parts.health.textContent = error.message;
  }
  looking = false;
  if (isOpen()) timer = setTimeout(look, state?.run?.state === "running" ? QUICK : SLOW);
}

document.addEventListener("visibilitychange", () => { if (isOpen()) look(); });

// ---------------------------------------------------------------- the skeleton

function step(number, title, ...content) {
  return h("section", { class: "easel-step", "aria-label": title }, h("header", {}, h("b", { "aria-hidden": "true" }, String(number)), h("h2", {}, title)), ...content);
}

function build() {
  const made = {
    share: h("strong", { class: "easel-share" }), words: h("p", {}), rate: h("button", { type: "button", class: "easel-link", hidden: true, onclick: () => openTab("Rate") }, "To the Rate tab"),
    loved: h("div", { class: "easel-taste-row" }), hated: h("div", { class: "easel-taste-row" }),
    plan: h("div", { class: "easel-plan", hidden: true }), // until it is known whether there is a run
    name: h("h3", {}), about: h("p", { class: "easel-quiet" }), health: h("p", { class: "easel-health", role: "status" }),
    bar: h("div", { class: "easel-run-bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Training" }, h("i", {})),
    now: h("p", { class: "easel-quiet easel-run-now" }),
    acts: h("div", { class: "easel-run-acts" }),
    runs: h("div", { class: "easel-run-list" }),
    strip: filmStrip((epoch) => { chosen = epoch; render(); }),
    beside: epochBesideBase(),
    plots: runPlots(),
    judge: verdictPanel(() => look(), planNext),
  };
  made.tastes = h("div", { class: "easel-tastes", hidden: true }, h("figure", {}, h("figcaption", {}, "It thinks you love these"), made.loved), h("figure", {}, h("figcaption", {}, "and not these"), made.hated));
  made.run = h("div", { class: "easel-run", hidden: true },
    h("header", {}, h("div", {}, made.name, made.about), h("span", { class: "easel-gap" }), made.acts),
    made.health, made.bar, made.now, made.strip.root, made.beside.root, made.plots.root);
  made.verdict = step(3, "Verdict", made.judge.root);
  made.verdict.hidden = true;
  made.root = h("div", {},
    step(1, "Taste", h("div", { class: "easel-taste-words" }, made.share, made.words, made.rate), made.tastes),
    step(2, "Train", made.runs, made.plan, made.run),
    made.verdict);
  return made;
}

const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

function keep(element, mark, make) {
  if (element.dataset.mark === mark) return;
  element.dataset.mark = mark;
  element.replaceChildren(...make());
}

// ---------------------------------------------------------------- what is shown

function render() {
  renderTaste(state.taste);
  form?.ready(state.taste);
  const { run } = state;
  const shows = Boolean(run) && !planning;
  parts.run.hidden = !shows;
  parts.plan.hidden = shows;
  renderList();
  parts.verdict.hidden = !shows || !run.over || !run.ladder.length;
  if (shows) renderRun(run);
  if (!parts.verdict.hidden) parts.judge.update(run);
}

// The form again, for a run that begins where this one ended.
async function planNext(run) {
  planning = true;
  await form?.goOnFrom(run).catch(sorry);
  render();
  look();
}

function renderTaste(taste) {
  const { agreement } = taste;
  const whole = (share) => Math.round(100 * share);
  write(parts.share, agreement ? `${whole(agreement.value)} %` : taste.votes ? `${taste.votes}` : "");
  parts.share.title = agreement ? `${whole(agreement.low)} to ${whole(agreement.high)} %` : "";
  write(parts.words, agreement
    ? `of unseen pairs are predicted from your votes (${whole(agreement.low)} to ${whole(agreement.high)} %; a coin gets 50). ${taste.sentence}`
    : taste.votes ? `votes so far. ${taste.sentence}` : taste.sentence);
  const row = (box, list) => keep(box, JSON.stringify(list.map(({ id }) => id)), () => list.map((picture) => h("img", { src: thumbnail(picture), alt: picture.prompt, title: picture.prompt, loading: "lazy" })));
  row(parts.loved, taste.loved || []);
  row(parts.hated, taste.hated || []);
  parts.tastes.hidden = !taste.loved?.length;
  parts.rate.hidden = taste.votes > 0;
}

function renderList() {
  const mark = JSON.stringify([state.runs.map((run) => [run.id, run.state]), state.run?.id, planning]);
  keep(parts.runs, mark, () => (state.runs.length ? [
    ...state.runs.slice(0, 8).map((run) => h("button", { type: "button", class: "easel-chip", "aria-pressed": String(!planning && run.id === state.run?.id), onclick: () => { wanted = run.id; planning = false; chosen = 0; state.version = ""; look(); render(); } }, `${run.name} · ${STATES[run.state]}`)),
    h("button", { type: "button", class: "easel-chip", "aria-pressed": String(planning || !state.run), onclick: () => { planning = true; render(); } }, "+ New run")] : []));
}

function renderRun(run) {
  write(parts.name, run.name);
  write(parts.about, `${run.reward} · ${run.model} · ${run.prompts} prompts · ${run.minutes ? `${run.minutes} minutes` : `${run.epochs} epochs`}`);
  write(parts.health, run.health);
  renderProgress(run);
  renderActs(run);
  const newest = run.rows.at(-1)?.epoch || 0;
  const epoch = run.rows.some((row) => row.epoch === chosen) && chosen ? chosen : newest;
  parts.strip.root.hidden = run.rows.length === 0;
  parts.strip.update(run, epoch);
  parts.beside.update(run, run.over || chosen ? epoch : 0);
  parts.plots.root.hidden = run.rows.length < 2;
  if (run.rows.length > 1) parts.plots.update(run);
}

function renderProgress(run) {
  const { progress } = run;
  const done = run.rows.at(-1)?.epoch || 0;
  const part = progress.steps ? progress.step / progress.steps : 0;
  const share = run.over ? 1 : run.epochs ? (done + (progress.epoch > done ? part : 0)) / run.epochs : 0;
  parts.bar.style.setProperty("--share", `${100 * Math.min(1, share)}%`);
  parts.bar.setAttribute("aria-valuenow", String(Math.round(100 * Math.min(1, share))));
  parts.bar.hidden = run.over;
  parts.now.hidden = run.over;
  const left = progress.seconds_left ?? (done ? null : run.minutes * 60 || null);
  const epoch = run.epochs && done ? `epoch ${Math.min(done + 1, run.epochs)} of ${run.epochs}` : done ? `epoch ${done + 1}` : "the first epoch tells how many there will be";
  const what = run.stopping ? "ending after this step" : PHASES[progress.phase] || progress.phase;
  write(parts.now, run.state === "running" ? [epoch, what, left ? `about ${duration(left)} left` : ""].filter(Boolean).join(" · ") : `${done ? `${done} epochs done` : "no epoch done yet"} · ${STATES[run.state]}`);
}

function renderActs(run) {
  const act = (verb) => async () => {
    try { await tell(`/easel/finetune/runs/${run.id}/${verb}`); } catch (error) { sorry(error); }
    look();
  };
  keep(parts.acts, `${run.id} ${run.state} ${run.stopping}`, () => [
    run.state === "running" && !run.stopping ? button("Pause: nothing of it is lost", null, act("pause"), { text: "Pause" }) : null,
    ["paused", "interrupted", "failed"].includes(run.state) ? h("button", { type: "button", class: "easel-primary", onclick: act("resume") }, "Go on") : null,
    !run.over && !run.stopping ? button("End it here: of the finished epochs the best is the result", null, act("stop"), { text: "Stop" }) : null,
    ["interrupted", "failed"].includes(run.state) ? button("Put it away; what was learned so far is given up", null, act("discard"), { text: "Discard" }) : null,
  ].filter(Boolean));
}
