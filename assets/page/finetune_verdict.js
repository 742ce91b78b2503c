// The verdict on a finished run: blind pairs, the unveiling, and what becomes of the adapter.

import { button, h, sorry, tell, toast } from "./dom.js";
import { command } from "./bridge.js";
import { openVoting } from "./rate_voting.js";
import { judgedPairs } from "./finetune_strip.js";
import { openTab } from "./tasks.js";

const PAIRS = [20, 40, 100];
const RATER = "easel.rater"; // the name under which this browser votes, see rate.js

const rater = () => localStorage.getItem(RATER) || "artist";
const percent = (share) => `${Math.round(100 * share)} %`;

// `look()` asks for the state anew, `planNext(sha256)` opens the form for a run that goes on.
export function verdictPanel(look, planNext) {
  const box = h("div", { class: "easel-judge" });
  const asked = h("div", {});
  const fate = h("div", { class: "easel-fate" });
  const more = h("div", { class: "easel-fate-more" });
  box.append(asked, fate, more);
  let marks = [];

  function update(run) {
    const wanted = [JSON.stringify([run.id, run.verdicts, run.ladder]), JSON.stringify([run.id, run.state, run.kept, run.ladder]), JSON.stringify([run.id, run.state, run.kept, run.ladder])];
    [renderAsked, renderFate, renderMore].forEach((render, at) => { if (marks[at] !== wanted[at]) render(run); });
    marks = wanted;
  }

  const post = (run, verb, body, then) => tell(`/easel/finetune/runs/${run.id}/${verb}`, body).then((answer) => { then?.(answer); look(); }, sorry);

  // ---------------------------------------------------------------- blind pairs

  function renderAsked(run) {
    if (!judged(run).length) return asked.replaceChildren(h("p", {}, "No epoch of it was kept, so there is nothing to judge. More prompts or more votes help; begin a new run."));
    const pairs = h("select", { "aria-label": "Pairs" }, PAIRS.map((n) => h("option", { value: n }, `${n} pairs`)));
    const epoch = epochs(run);
    const begin = h("button", { type: "button", class: run.verdicts.length ? "easel-push" : "easel-primary", onclick: () => post(run, "verdict", { epoch: Number(epoch.value), pairs: Number(pairs.value) }) }, run.verdicts.length ? "Compare again" : "Compare blindly");
    asked.replaceChildren(
      ...run.verdicts.map((verdict) => comparison(run, verdict)),
      run.result ? "" : h("p", {}, `It stopped before any epoch was well enough to be its result. What epoch ${judged(run).at(-1)} draws can be judged, kept or rated nevertheless.`),
      h("p", { class: "easel-quiet" }, run.verdicts.length ? "Another epoch, or more pairs:" : `Base against tuned, ${run.apart ? "on prompts that it was not trained on" : "on the prompts that it was trained on, since there are fewer than three"}. You do not see which is which.`),
      h("div", { class: "easel-judge-begin" }, epoch, pairs, begin));
  }

  function comparison(run, verdict) {
    const share = verdict.answered / Math.max(1, verdict.target);
    const vote = () => openVoting({ id: verdict.campaign, name: verdict.name, mine: verdict.answered }, rater(), look);
    return h("article", { class: "easel-comparison-card", "data-verdict": verdict.number },
      h("header", {}, h("h4", {}, `Epoch ${verdict.epoch} against the base`), h("span", { class: "easel-gap" }),
        verdict.unveiled ? null : h("button", { type: "button", class: "easel-primary", disabled: !verdict.ready, onclick: vote }, verdict.answered ? "Go on judging" : "Judge the pairs")),
      verdict.unveiled ? [unveiled(verdict), judgedPairs(run, verdict)] : [
        h("div", { class: "easel-meter", role: "img", "aria-label": `${verdict.answered} of ${verdict.target} pairs`, style: { "--share": `${100 * share}%` } }),
        h("p", { class: "easel-quiet" }, `${verdict.answered} of ${verdict.target} pairs · ${verdict.doing} The result is unveiled when all are answered.`)]);
  }

  function unveiled({ by_votes: votes, by_reward: reward }) {
    return h("div", { class: "easel-unveiled" }, bar("By your votes", votes), reward ? bar("By the reward", reward) : h("p", { class: "easel-quiet" }, "The reward is still looking at these pairs."));
  }

  function bar(title, outcome) {
    return h("div", { class: "easel-outcome" },
      h("span", {}, title),
      h("strong", {}, percent(outcome.share)),
      h("div", { class: "easel-interval", role: "img", "aria-label": `${percent(outcome.share)}, ${percent(outcome.low)} to ${percent(outcome.high)}`, style: { "--low": `${100 * outcome.low}%`, "--high": `${100 * outcome.high}%`, "--share": `${100 * outcome.share}%` } }, h("i", {}), h("b", {})),
      h("p", {}, outcome.sentence));
  }

  // Epoch 0 is the base itself: the result of a run that was stopped before it had one.
  const judged = (run) => run.ladder.filter(Boolean);
  const epochs = (run) => h("select", { "aria-label": "Epoch" }, judged(run).reverse().map((epoch) => h("option", epoch === run.result ? { value: 0, selected: true } : { value: epoch }, epoch === run.result ? `Epoch ${epoch} (the result)` : `Epoch ${epoch}`)));

  // ---------------------------------------------------------------- keep or not

  function renderFate(run) {
    if (!judged(run).length) return fate.replaceChildren();
    const epoch = epochs(run);
    if (run.kept && run.ladder.includes(run.kept.epoch) && run.kept.epoch !== run.result) epoch.value = run.kept.epoch;
    const strength = h("input", { type: "range", min: 0, max: 2, step: 0.05, value: run.kept?.strength ?? 1, "aria-label": "Strength", oninput: () => { said.textContent = Number(strength.value).toFixed(2); } });
    const said = h("span", {}, Number(strength.value).toFixed(2));
    const keep = h("button", { type: "button", class: "easel-primary", onclick: () => post(run, "keep", { epoch: Number(epoch.value), strength: Number(strength.value) }, (kept) => {
      document.dispatchEvent(new CustomEvent("easel-adapters"));
      toast(`“${kept.kept.name}” is under Adapter in the header.`, { label: "Draw with it", run: () => drawWith(kept.kept) });
    }) }, run.kept ? "Keep it so" : "Keep");
    fate.replaceChildren(
      run.kept ? h("p", {}, "Kept as ", h("strong", {}, run.kept.name), `, epoch ${run.kept.epoch}, at strength ${run.kept.strength}. `,
        h("button", { type: "button", class: "easel-link", onclick: () => drawWith(run.kept) }, "Draw with it")) : "",
      h("div", { class: "easel-judge-begin" }, epoch, h("label", { class: "easel-range" }, "Strength", strength, said), keep,
        run.state === "trained" ? button("Put it away; its votes and pictures stay", null, () => post(run, "discard", {}), { text: "Discard" }) : null),
      h("p", { class: "easel-quiet" }, "At strength 0 it draws exactly as the base does, at 1 as the run left it; 2 is twice as far."));
  }

  function drawWith(kept) {
    command("adapters", { adapters: [{ name: kept.name, sha256: kept.sha256, strength: kept.strength }] });
    openTab("Text to image");
  }

  // ---------------------------------------------------------------- and then

  function renderMore(run) {
    if (!judged(run).length) return more.replaceChildren();
    more.replaceChildren(
      h("a", { class: "easel-icon", href: `/easel/finetune/runs/${run.id}/export.zip`, download: "" }, "Take it along (zip with model card)"),
      button("A campaign about the tuned model's pictures and the base's; what you vote there teaches the next run", null, () => post(run, "rate-on", {}, (answer) => toast(answer.sentence, { label: "To the Rate tab", run: () => openTab("Rate") })), { text: "Rate the new pictures" }),
      button("Another run that begins where this one ended, with what your votes have taught since", null, () => planNext(run), { text: "Go on from here", disabled: !run.kept }),
      h("p", { class: "easel-quiet" }, "To be rated, it draws at twice the strength, counted from the epoch as it was trained: where it is leading is plain to see then, and your votes for or against it correct the way. Two of its pictures stand beside each other, or one beside the base's; you do not see which. The next run begins with what you kept, and learns from these votes and the earlier ones."));
  }

  return { root: box, update };
}
