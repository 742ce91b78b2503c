// A new campaign: which prompts, which models, how many votes.

import { ask, h, sorry, tell, toast } from "./dom.js";

const WANTED = 200; // votes, where there are as many pairs
const MAX_FILE = 1_000_000; // bytes of a list of prompts

export function campaignForm(onMade) {
  const box = h("details", { class: "easel-new-campaign" }, h("summary", {}, "New campaign"));
  box.addEventListener("toggle", async () => {
    if (!box.open || box.childElementCount > 1) return;
    try {
      const made = form(await ask("/easel/rate/owner/choices"), () => { forget(); box.open = false; box.lastChild.remove(); onMade(); });
      await recall(made);
      box.append(made);
    } catch (error) { sorry(error); }
  });
  ask("/easel/kept/campaign").then((kept) => { if (kept.name !== undefined) box.open = true; }, () => {}); // one was being written
  return box;
}

// What is typed is kept as it is typed, and there again after a reload.
let saving = null;
const keep = (values) => tell("/easel/kept/campaign", { values }).catch(() => {}); // the next letter is kept again

function forget() {
  clearTimeout(saving);
  keep({});
}

async function recall(made) {
  const kept = await ask("/easel/kept/campaign");
  const controls = [...made.elements].filter((control) => control.name);
  for (const control of controls) {
    const value = kept[control.name];
    if (value === undefined) continue;
    if (control.type === "checkbox") control.checked = value.includes(control.value);
    else control.value = value;
  }
  made.elements.list.dispatchEvent(new Event("change")); // shows what belongs to it, and types a list
  if (kept.prompts !== undefined) made.elements.prompts.value = kept.prompts;
  made.dispatchEvent(new Event("input"));
  made.addEventListener("input", () => {
    clearTimeout(saving);
    saving = setTimeout(() => {
      const values = new FormData(made);
      keep(Object.fromEntries(controls.map(({ name, type }) => [name, type === "checkbox" ? values.getAll(name) : values.get(name) ?? ""])));
    }, 450);
  });
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
    h("input", { type: "hidden", name: "target_typed", value: "" }),
    field("Name", h("input", { type: "text", name: "name", maxlength: 80, required: true, placeholder: "What is being asked" })),
    field("Prompts from", list),
    field("Prompts", prompts), field("Or a file", file),
    drawn, chosen,
    h("div", { class: "easel-fields" },
      field("Votes wanted", number("target", WANTED, 1, 1_000_000), "200 teach a little, 400 to 1,000 teach well.", pairs),
      field("Next pair", h("select", { name: "strategy" }, choices.strategies.map((entry) => h("option", { value: entry.name }, entry.title))))),
    h("button", { type: "submit", class: "easel-primary" }, "Begin the campaign"));
  const { target, target_typed: typed } = made.elements;
  target.addEventListener("input", () => { typed.value = "yes"; });
  const countGallery = async () => {
    if (list.value !== "gallery" || choices.galleryPairs) return;
    try { choices.galleryPairs = await ask("/easel/rate/owner/gallery-pairs"); } catch (error) { return sorry(error); }
    made.dispatchEvent(new Event("input"));
  };
  list.addEventListener("change", countGallery);
  made.addEventListener("input", () => {
    const some = pairCount(new FormData(made), choices);
    if (!typed.value && some) target.value = Math.min(WANTED, some); // what one rater can give
    pairs.textContent = pairsSentence(some, Number(target.value));
  });
  return made;
}

// How many different pairs a campaign can show; 0 while nobody knows.
function pairCount(values, choices) {
  if (values.get("list") === "gallery") return choices.galleryPairs?.[values.get("pictures")] ?? 0;
  const prompts = new Set(lines(values)).size;
  const each = Number(values.get("pictures_per_prompt"));
  const models = values.getAll("contestant").length;
  const some = models > 1 ? (each * each * models * (models - 1)) / 2 : (each * (each - 1)) / 2;
  return prompts * some;
}

function pairsSentence(pairs, target) {
  if (!pairs) return "";
  const short = pairs < target ? `, each once to every rater: ${target} votes take ${Math.ceil(target / pairs)} raters, or more prompts or pictures` : "";
  return `${pairs.toLocaleString()} different ${pairs === 1 ? "pair" : "pairs"} can be shown${short}.`;
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
