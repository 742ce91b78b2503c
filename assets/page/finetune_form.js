// What a run is trained on: prompts, a reward, a base, minutes; and, folded, the papers' knobs.

import { ask, h, sorry, tell, toast } from "./dom.js";

const PAUSE = 500; // milliseconds of not typing until the form is kept
const MINUTES = [5, 15, 30, 60, 180];

function field(words, control, hint = "") {
  return h("label", { class: "easel-field" }, h("span", {}, words), control, hint ? h("small", { class: "easel-quiet" }, hint) : null);
}

const options = (list, chosen) => list.map(({ value, title }) => h("option", { value, selected: value === chosen }, title));

// `onReward(value)` is called when another reward is chosen, `onStarted(run)` when a run has begun.
export async function runForm(onReward, onStarted) {
  const choices = await ask("/easel/finetune/choices");
  const kept = choices.form;
  const parts = { reward: "taste" };
  const prompts = h("textarea", { name: "prompts", rows: 9, placeholder: "One prompt a line", spellcheck: "false" });
  prompts.value = kept.prompts || "";
  const count = h("small", { class: "easel-quiet" });
  const source = h("select", { "aria-label": "Take prompts from", onchange: () => takePrompts(source) },
    h("option", { value: "" }, "Take prompts from …"), options(choices.prompts));
  const reward = h("select", { name: "reward", onchange: () => { parts.reward = reward.value; onReward(reward.value); } });
  const offerRewards = ({ learned, known }, chosen) => {
    parts.reward = [...learned, ...known].some(({ value }) => value === chosen) ? chosen : "taste";
    reward.replaceChildren(
      h("optgroup", { label: "What I like" }, options(learned, parts.reward)),
      h("optgroup", { label: "Something that can be measured" }, options(known, parts.reward)));
  };
  const model = h("select", { name: "model" }, options(choices.models, kept.model));
  const start = h("select", { name: "start" });
  const offerStarts = (adapters, chosen) => {
    start.replaceChildren(h("option", { value: "" }, "The base model as it is"), ...options(adapters, chosen));
    start.closest("label")?.toggleAttribute("hidden", !adapters.length);
  };
  const name = h("input", { type: "text", name: "name", maxlength: 60, placeholder: "What it will be called", value: kept.name || "" });
  const minutes = h("input", { type: "number", name: "minutes", min: 1, max: 43200, step: 1, value: kept.minutes || 15 });
  const quick = h("div", { class: "easel-segments", role: "group", "aria-label": "Minutes" }, MINUTES.map((n) => h("button", { type: "button", "data-minutes": n, onclick: () => { minutes.value = n; changed(); } }, n < 60 ? `${n} min` : `${n / 60} h`)));
  const seed = h("input", { type: "number", name: "seed", min: 0, max: 4294967295, step: 1, value: kept.seed || 0 });
  const epochs = h("input", { type: "number", name: "epochs", min: 0, max: 10000, step: 1, value: kept.epochs || 0 });
  const algorithm = h("select", { name: "algorithm" }, options(choices.algorithms, kept.settings?.algorithm || choices.algorithm));
  const knobs = choices.knobs.map((knob) => ({ knob, input: h("input", { type: "number", name: knob.name, min: knob.low, max: knob.high, step: knob.whole ? 1 : "any", value: kept.settings?.[knob.name] ?? knob.default, required: true }) }));
  const expert = h("details", { class: "easel-expert" }, h("summary", {}, "Expert"),
    h("div", { class: "easel-fields" },
      field("Algorithm", algorithm, "Both learn much in minutes. PPO judges each step of a drawing, the forward process finished pictures."),
      field("Epochs at most", epochs, "0: as many as the minutes allow."),
      field("Seed", seed, "The same seed gives the same run."),
      knobs.map((each) => (each.field = field(`${each.knob.title} (${each.knob.paper})`, each.input, `${each.knob.hint} Default ${each.knob.default}.`)))),
    h("button", { type: "button", class: "easel-link", onclick: () => { for (const { knob, input } of knobs) input.value = knob.default; changed(); } }, "All back to their defaults"));
  const onlyWhatActs = () => knobs.forEach(({ knob, field: shown }) => shown.toggleAttribute("hidden", Boolean(knob.algorithm) && knob.algorithm !== algorithm.value));
  algorithm.addEventListener("change", onlyWhatActs);
  onlyWhatActs();
  const anyway = h("input", { type: "checkbox", name: "anyway" });
  const nevertheless = h("label", { class: "easel-tick", hidden: true }, anyway, "Begin nevertheless");
  const why = h("p", { class: "easel-problem", role: "alert", hidden: true });
  const go = h("button", { type: "submit", class: "easel-primary" }, "Start training");
  const form = h("form", { class: "easel-run-form", novalidate: true, onsubmit: (event) => { event.preventDefault(); begin(); } },
    h("div", { class: "easel-run-prompts" }, field("Prompts to train on", prompts), h("div", { class: "easel-between-ends" }, count, source)),
    h("div", { class: "easel-run-settings" },
      field("Name", name), field("Towards", reward), field("Base model", model), field("Begin with", start, "A tuned adapter goes on from where it ended."),
      h("div", { class: "easel-field" }, h("span", {}, "Effort"), h("div", { class: "easel-effort" }, quick, h("label", {}, minutes, " minutes of computing")),
        h("small", { class: "easel-quiet" }, "Drawing and voting go on meanwhile; they come first.")),
      expert, why, nevertheless, go));

  function takePrompts(select) {
    if (!select.value) return;
    ask(`/easel/finetune/prompts?source=${encodeURIComponent(select.value)}`).then((answer) => {
      if (!answer.prompts.length) toast("No picture has a star yet; press S on those whose prompts you want.");
      const lines = new Set([...prompts.value.split("\n"), ...answer.prompts].map((line) => line.trim()).filter(Boolean));
      prompts.value = [...lines].join("\n");
      changed();
    }, sorry).finally(() => { select.value = ""; });
  }

  function values() {
    const turned = knobs.filter(({ knob, input }) => input.value !== "" && Number(input.value) !== knob.default); // others follow the defaults
    const settings = Object.fromEntries(turned.map(({ knob, input }) => [knob.name, Number(input.value)]));
    return { name: name.value.trim(), prompts: prompts.value, reward: reward.value, model: model.value, start: start.value, minutes: Number(minutes.value), epochs: Number(epochs.value), seed: Number(seed.value), settings: { ...settings, algorithm: algorithm.value } };
  }

  let saving = null;
  function changed() {
    mark();
    why.hidden = true;
    clearTimeout(saving);
    saving = setTimeout(() => { saving = null; tell("/easel/finetune/form", { form: values() }).catch(() => {}); }, PAUSE);
  }
  function mark() {
    const lines = prompts.value.split("\n").filter((line) => line.trim()).length;
    const seen = Math.min(12, Math.max(1, Math.floor(lines / 5)));
    count.textContent = `${lines} ${lines === 1 ? "prompt" : "prompts"}${lines >= 3 ? `, of which ${seen} ${seen === 1 ? "is" : "are"} only looked at` : ""}`;
    for (const button of quick.children) button.setAttribute("aria-pressed", String(Number(minutes.value) === Number(button.dataset.minutes)));
  }
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  window.addEventListener("pagehide", () => { if (saving !== null) fetch("/easel/finetune/form", { method: "POST", body: JSON.stringify({ form: values() }), keepalive: true, headers: { "Content-Type": "application/json" } }); });

  async function begin() {
    const wanted = values();
    go.disabled = true;
    try {
      const lines = wanted.prompts.split("\n").map((line) => line.trim()).filter(Boolean);
      const { run, refusal } = await tell("/easel/finetune/start", { ...wanted, prompts: lines, name: wanted.name || "My taste", anyway: anyway.checked });
      why.textContent = refusal || "";
      why.hidden = !refusal;
      if (run) { anyway.checked = false; onStarted(run); }
    } catch (error) {
      why.textContent = error.message;
      why.hidden = false;
    }
    go.disabled = false;
  }

  // The votes' readiness decides whether the button begins at once or asks for a tick first.
  function ready(taste) {
    nevertheless.hidden = taste.enough || !taste.possible;
    go.title = taste.sentence;
  }

  // A prompt that was sent from another tab stands in the kept form, not yet in this one.
  async function takeNew() {
    if (saving !== null || document.activeElement === prompts) return;
    const fresh = (await ask("/easel/finetune/choices")).form.prompts;
    if (fresh !== undefined && fresh !== prompts.value) { prompts.value = fresh; mark(); }
  }
  // The next round: the same prompts and base, from the kept adapter, towards what votes teach now.
  async function goOnFrom(run) {
    const [fresh, next] = await Promise.all([ask("/easel/finetune/choices"), ask(`/easel/finetune/runs/${run.id}/next`)]);
    offerStarts(fresh.adapters, next.start);
    offerRewards(fresh, next.reward);
    model.value = next.model;
    name.value = next.name;
    prompts.value = next.prompts;
    seed.value = next.seed;
    algorithm.value = next.settings.algorithm || choices.algorithm;
    for (const { knob, input } of knobs) input.value = next.settings[knob.name] ?? knob.default;
    onlyWhatActs();
    changed();
  }
  offerRewards(choices, kept.reward);
  offerStarts(choices.adapters, kept.start);
  mark();
  return { root: form, ready, takeNew, goOnFrom, reward: () => parts.reward };
}
