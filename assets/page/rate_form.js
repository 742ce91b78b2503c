// A new campaign: which prompts, which models, how many votes.

import { ask, h, sorry, tell, toast } from "./dom.js";

const MAX_FILE = 1_000_000; // bytes of a list of prompts

export function campaignForm(onMade) {
  const box = h("details", { class: "easel-new-campaign" }, h("summary", {}, "New campaign"));
  box.addEventListener("toggle", async () => {
    if (!box.open || box.childElementCount > 1) return;
    try {
      box.append(form(await ask("/easel/rate/owner/choices"), () => { box.open = false; box.lastChild.remove(); onMade(); }));
    } catch (error) { sorry(error); }
  });
  return box;
}

function field(words, control, hint = "", more = null) {
  return h("label", { class: "easel-field" }, h("span", {}, words), control, hint ? h("small", { class: "easel-quiet" }, hint) : null, more);
}

const number = (name, value, min, max) => h("input", { type: "number", name, value, min, max, required: true });

function form(choices, done) {
  const prompts = h("textarea", { name: "prompts", rows: 8, placeholder: "One prompt a line" });
  const list = h("select", { name: "list", onchange: () => takeList(list, prompts, choices) },
    h("option", { value: "" }, "Typed below"),
    choices.prompt_lists.map((entry) => h("option", { value: entry.name }, `${entry.title} (${entry.prompts.length})`)),
    h("option", { value: "gallery" }, "Pictures already in the gallery"));
  const file = h("input", { type: "file", accept: ".txt,.csv,text/plain", "aria-label": "A file with one prompt a line", onchange: () => takeFile(file, prompts) });
  const contestants = choices.contestants.map((entry, at) => h("label", { class: "easel-tick" },
    h("input", { type: "checkbox", name: "contestant", value: String(at), checked: at === 0 }), entry.title));
  const drawn = h("div", { class: "easel-drawn" },
    h("fieldset", {}, h("legend", {}, "Who draws"), contestants,
      h("small", { class: "easel-quiet" }, "One: its pictures against each other. Several: one against the other.")),
    h("div", { class: "easel-fields" },
      field("Pictures of each prompt", number("pictures_per_prompt", 4, 1, 16)),
      field("Steps", number("steps", 20, 1, 500)),
      field("Seed", number("seed", 1, 0, 4294967295))));
  const chosen = h("div", { class: "easel-gallery-choice", hidden: true },
    field("Which pictures", h("select", { name: "pictures" }, h("option", { value: "starred" }, "Starred ones"), h("option", { value: "all" }, "All")),
      "Only prompts with at least two pictures of one size can be compared."));
  list.addEventListener("change", () => {
    const gallery = list.value === "gallery";
    for (const part of [drawn, prompts.parentElement, file.parentElement]) part.hidden = gallery;
    chosen.hidden = !gallery;
  });
  const pairs = h("small", { class: "easel-quiet", role: "status" });
  const made = h("form", { class: "easel-campaign-form", onsubmit: (event) => { event.preventDefault(); create(made, choices, done); } },
    field("Name", h("input", { type: "text", name: "name", maxlength: 80, required: true, placeholder: "What is being asked" })),
    field("Prompts from", list),
    field("Prompts", prompts), field("Or a file", file),
    drawn, chosen,
    h("div", { class: "easel-fields" },
      field("Votes wanted", number("target", 200, 1, 1_000_000), "200 teach a little, 400 to 1,000 teach well.", pairs),
      field("Next pair", h("select", { name: "strategy" }, choices.strategies.map((entry) => h("option", { value: entry.name }, entry.title))))),
    h("button", { type: "submit", class: "easel-primary" }, "Begin the campaign"));
  made.addEventListener("input", () => { pairs.textContent = pairsSentence(new FormData(made)); });
  return made;
}

// How many different pairs a campaign can show, told while it is being made.
function pairsSentence(values) {
  if (values.get("list") === "gallery") return "";
  const prompts = new Set(lines(values)).size;
  const each = Number(values.get("pictures_per_prompt"));
  const models = values.getAll("contestant").length;
  const some = models > 1 ? (each * each * models * (models - 1)) / 2 : (each * (each - 1)) / 2;
  const pairs = prompts * some;
  const short = pairs < Number(values.get("target")) ? ": more pictures of each prompt, or more prompts, would make more" : "";
  return prompts ? `${pairs.toLocaleString()} different pairs can be shown${short}.` : "";
}

const lines = (values) => values.get("prompts").split("\n").map((line) => line.trim()).filter(Boolean);

function takeList(list, prompts, choices) {
  const entry = choices.prompt_lists.find((one) => one.name === list.value);
  if (entry) fill(prompts, entry.prompts.join("\n"));
}

async function takeFile(file, prompts) {
  const [picked] = file.files;
  if (!picked) return;
  if (picked.size > MAX_FILE) return toast("This file is larger than a megabyte; give one prompt a line in a text file.");
  fill(prompts, (await picked.text()).replace(/\r\n?/g, "\n").trim());
}

function fill(prompts, text) {
  prompts.value = text;
  prompts.dispatchEvent(new Event("input", { bubbles: true }));
}

async function create(made, choices, done) {
  const values = new FormData(made);
  const gallery = values.get("list") === "gallery";
  const wanted = values.getAll("contestant").map((at) => choices.contestants[Number(at)].value);
  const body = {
    name: values.get("name"), target: Number(values.get("target")), strategy: values.get("strategy"),
    prompts: gallery ? [] : lines(values),
    contestants: gallery ? [] : wanted, pictures_per_prompt: Number(values.get("pictures_per_prompt")),
    steps: Number(values.get("steps")), seed: Number(values.get("seed")), gallery: gallery ? values.get("pictures") : "",
  };
  try {
    const campaign = await tell("/easel/rate/owner/campaigns", body);
    toast(`“${campaign.name}” has begun. ${campaign.doing}`);
    done();
  } catch (error) { sorry(error); }
}
