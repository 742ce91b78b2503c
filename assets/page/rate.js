// The Rate tab: who rates, what there is to rate, what the votes are good for.

import { ask, button, h, sorry, tell, toast } from "./dom.js";
import { campaignForm } from "./rate_form.js";
import { tastePanel } from "./rate_taste.js";
import { deliver, openVoting, votingIsOpen } from "./rate_voting.js";

const NAME = "easel.rater";
const REFRESH = 4000; // milliseconds, while the tab is open
let parts = null;
let shown = "";
let rater = { name: "", fixed: false };
let role = "rater";
let strategies = []; // {name, title}: how a campaign's next pairs may be chosen
const kept = { pseudonyms: false, without_recipes: false }; // what an export leaves out
const taste = tastePanel();

export function mountRate(root) {
  parts = {
    who: h("div", { class: "easel-rate-who" }),
    list: h("div", { class: "easel-rate-list" }),
    taste: taste.panel,
    form: h("div", { class: "easel-rate-form" }),
  };
  rater.name = localStorage.getItem(NAME) || "";
  root.replaceChildren(...Object.values(parts));
  deliver(); // votes of a page that was closed before the studio answered
  new IntersectionObserver((seen) => { if (seen.some((entry) => entry.isIntersecting)) look(); }).observe(root);
  setInterval(() => { if (root.offsetParent && !votingIsOpen() && !document.hidden) look(); }, REFRESH);
}

async function look() {
  try {
    const answer = await ask(`/easel/rate/campaigns?${new URLSearchParams({ rater: rater.name })}`);
    role = answer.role;
    strategies = answer.strategies;
    if (role === "owner" && answer.campaigns.some((campaign) => campaign.votes)) taste.refresh();
    if (answer.rater) rater = { name: answer.rater, fixed: true };
    render(answer);
  } catch (error) {
    parts.list.replaceChildren(h("p", { class: "easel-quiet" }, error.message));
    shown = "";
  }
}

function render(answer) {
  renderWho();
  const mark = JSON.stringify(answer.campaigns);
  if (mark === shown) return;
  shown = mark;
  const open = answer.campaigns.filter((campaign) => campaign.state !== "archived");
  const archived = answer.campaigns.filter((campaign) => campaign.state === "archived");
  parts.list.replaceChildren(
    ...(open.length ? open.map(card) : [nothing(archived.length)]),
    archived.length ? h("details", { class: "easel-rate-archive" }, h("summary", {}, `Archived (${archived.length})`), archived.map(card)) : "");
  if (role === "owner" && !parts.form.childElementCount) parts.form.replaceChildren(campaignForm(look));
}

function nothing(archived) {
  const say = (...told) => h("div", { class: "easel-quiet easel-rate-empty" }, told);
  if (role !== "owner") return say("Nothing to rate at the moment. This page looks again by itself.");
  const plan = () => {
    const box = parts.form.querySelector("details");
    box.open = true;
    box.querySelector("summary").focus();
  };
  return say(h("p", {}, `${archived ? "No campaign is open." : "No campaign yet."} A campaign is a set of prompts and the models to compare.`),
    h("button", { type: "button", class: "easel-primary", onclick: plan }, "Plan a campaign"));
}

function renderWho() {
  if (parts.who.dataset.fixed === String(rater.fixed) && parts.who.childElementCount) return;
  parts.who.dataset.fixed = String(rater.fixed);
  if (rater.fixed) return parts.who.replaceChildren(h("p", {}, "You rate as ", h("strong", {}, rater.name), "."));
  const field = h("input", { type: "text", id: "easel-rater-name", maxlength: 40, value: rater.name, placeholder: "A name or initials", autocomplete: "off",
    oninput: () => { rater.name = field.value.trim(); if (rater.name) localStorage.setItem(NAME, rater.name); } , onchange: look });
  parts.who.replaceChildren(h("label", { for: "easel-rater-name" }, "Who rates?"), field,
    h("span", { class: "easel-quiet" }, "Kept with each vote, so that several people can rate."));
}

function card(campaign) {
  const share = Math.min(1, campaign.votes / Math.max(1, campaign.target));
  const active = campaign.state === "running";
  return h("article", { class: `easel-campaign ${campaign.state}`, "data-campaign": campaign.id },
    h("header", {},
      h("h3", {}, campaign.name),
      active ? null : h("span", { class: "easel-chip quiet" }, campaign.state),
      h("span", { class: "easel-gap" }),
      campaign.state === "archived" ? null : h("button", { type: "button", class: "easel-primary", disabled: !active, onclick: () => begin(campaign) }, campaign.mine ? "Go on rating" : "Start rating")),
    campaign.about ? h("p", { class: "easel-quiet" }, campaign.about) : null,
    h("div", { class: "easel-meter", role: "img", "aria-label": `${campaign.votes} of ${campaign.target} votes`, style: { "--share": `${100 * share}%` } }),
    h("p", { class: "easel-campaign-line" }, `${campaign.votes} of ${campaign.target} votes${campaign.mine ? `, ${campaign.mine} by you` : ""}${campaign.doing ? ` · ${campaign.doing}` : ""}`),
    short(campaign) ? h("p", { class: "easel-campaign-line easel-quiet" }, short(campaign)) : null,
    campaign.standing ? h("p", { class: "easel-campaign-line" }, campaign.standing) : null,
    role === "owner" ? tools(campaign) : null);
}

// Said while the votes that are wanted are more than one rater can give.
function short(campaign) {
  if (role !== "owner" || campaign.pairs >= campaign.target || campaign.votes >= campaign.target) return "";
  const pairs = campaign.pairs === 1 ? "is one different pair" : `are ${campaign.pairs.toLocaleString()} different pairs`;
  return `There ${pairs}, and a rater answers each once: ${campaign.target} votes take ${campaign.pairs ? `${Math.ceil(campaign.target / campaign.pairs)} raters, or ` : ""}more pictures.`;
}

function tools(campaign) {
  const act = (verb, done) => async () => {
    try {
      await tell(`/easel/rate/owner/campaigns/${campaign.id}/${verb}`);
      if (done) toast(done);
      look();
    } catch (error) { sorry(error); }
  };
  const link = (name, words) => h("a", { class: "easel-icon", href: `/easel/rate/owner/${name}`, target: "_blank", rel: "noopener" }, words);
  return h("div", { class: "easel-campaign-tools" },
    campaign.state === "running" ? button("Pause: nobody is asked meanwhile", null, act("pause"), { text: "Pause" }) : null,
    campaign.state === "paused" ? button("Resume", null, act("resume"), { text: "Resume" }) : null,
    campaign.state === "archived" ? button("Take out of the archive", null, act("resume"), { text: "Take out" })
      : button("Archive: its votes stay", null, act("archive", "Archived. Its votes stay and still teach."), { text: "Archive" }),
    h("span", { class: "easel-gap" }),
    link(`report/${campaign.id}.html`, "Study report"),
    link(`report/${campaign.id}.csv`, "CSV"),
    campaign.votes ? leaving(campaign) : null,
    campaign.state === "running" ? chooser(campaign) : null);
}

// The votes as a zip, and what of them stays here: one choice for all campaigns.
function leaving(campaign) {
  const choice = (name, words, title) => {
    const box = h("input", { type: "checkbox", name, checked: kept[name], onchange: () => { kept[name] = box.checked; chosen(); } });
    return h("label", { class: "easel-campaign-choice", title }, box, words);
  };
  return [h("a", { class: "easel-icon", "data-export": campaign.id, href: exported(campaign.id), download: `${campaign.name}.zip`, title: "The votes with their pictures, for another studio to take in" }, "Export votes"),
    choice("pseudonyms", "without names", "Each rater gets another name, the same in every export"),
    choice("without_recipes", "without recipes", "Pictures leave without prompt, seed and model in their files; each vote still tells its prompt")];
}

const exported = (id) => `/easel/rate/owner/export/${id}.zip?${new URLSearchParams(kept)}`;

function chosen() {
  for (const link of parts.list.querySelectorAll("[data-export]")) link.href = exported(link.dataset.export);
  for (const box of parts.list.querySelectorAll("input[name]")) if (box.name in kept) box.checked = kept[box.name];
}

// How the next pair is chosen, switched while people rate.
function chooser(campaign) {
  const choice = h("select", { onchange: async () => {
    try {
      await tell(`/easel/rate/owner/campaigns/${campaign.id}/strategy`, { strategy: choice.value });
      toast("From the next pairs on.");
    } catch (error) { sorry(error); }
    look();
  } }, strategies.map((entry) => h("option", { value: entry.name, selected: entry.name === campaign.strategy }, entry.title)));
  return h("label", { class: "easel-campaign-choice" }, "Next pair", choice);
}

function begin(campaign) {
  if (!rater.name) {
    toast("Please give a name first; any will do.");
    parts.who.querySelector("input")?.focus();
    return;
  }
  if (!rater.fixed) localStorage.setItem(NAME, rater.name);
  openVoting(campaign, rater.name, () => { shown = ""; look(); });
}
