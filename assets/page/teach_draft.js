// What is to be taught: pictures with captions, a name, a word, how long.

import { button, h, sorry, tell, toast } from "./dom.js";

const LARGEST = 64e6; // bytes that the studio takes
const PAUSE = 450; // milliseconds of rest before a text is kept

export function draftPart(changed) {
  let draft = null; // as the studio knows it
  let taking = false;
  const fields = {
    name: h("input", { type: "text", name: "name", maxlength: 60, placeholder: "My ink style", autocomplete: "off" }),
    trigger: h("input", { type: "text", name: "trigger", maxlength: 60, placeholder: "inkzyx", autocomplete: "off" }),
    model: h("select", { name: "model" }),
    minutes: h("input", { type: "number", name: "minutes", min: 1, max: 10080, step: "any", required: true }),
  };
  const refused = h("ul", { class: "easel-teach-refused", role: "status", "aria-label": "Files that were not taken" });
  const grid = h("div", { class: "easel-teach-pictures", role: "group", "aria-label": "Pictures to learn from" });
  const count = h("p", { class: "easel-quiet", "aria-live": "polite" });
  const files = h("input", { type: "file", multiple: true, accept: "image/*,.txt", onchange: () => { take([...files.files]); files.value = ""; } });
  const drop = h("div", { class: "easel-teach-drop" },
    h("p", {}, "Drop 5 to 50 of your pictures here."),
    h("label", {}, "Choose files", files),
    h("p", { class: "easel-quiet" }, "A text file of the same name is taken as a picture's caption."));
  const begin = h("button", { type: "button", class: "easel-primary", onclick: start }, "Start teaching");
  const why = h("p", { class: "easel-problem", role: "alert", hidden: true });
  const element = h("section", { class: "easel-teach-draft", "aria-label": "New lesson" },
    h("div", {}, h("h2", {}, "Teach a style"),
      h("p", { class: "easel-quiet" }, "The model learns what your pictures have in common. Captions say what each one shows, so that the style is learned and not the things.")),
    drop, refused, count, grid,
    h("div", { class: "easel-teach-fields" },
      field("Name", fields.name),
      field("Trigger word", fields.trigger, "Calls the style in a prompt; an invented word is best."),
      field("Base model", fields.model),
      field("Effort in minutes", fields.minutes, "Of computing. 15 show whether it works.")),
    why,
    h("div", { class: "easel-teach-begin" }, begin, h("span", { class: "easel-quiet" }, "You can go on drawing meanwhile.")));

  let saving = null;
  for (const control of Object.values(fields)) {
    control.addEventListener("input", () => { why.hidden = true; clearTimeout(saving); saving = setTimeout(describe, PAUSE); });
  }
  element.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  element.addEventListener("dragleave", () => drop.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });

  async function describe() {
    clearTimeout(saving);
    saving = null;
    if (!draft) return;
    const minutes = Number(fields.minutes.value);
    const body = { name: fields.name.value, trigger: fields.trigger.value, model: fields.model.value, minutes: Number.isFinite(minutes) ? Math.max(0, minutes) : 0 };
    try { await tell(`/easel/teach/${draft.id}/describe`, body); } catch (error) { sorry(error); }
  }

  async function take(chosen) {
    if (taking) return toast("One moment; the last files are still being looked at.");
    taking = true;
    why.hidden = true;
    if (!draft) await changed();
    refused.replaceChildren();
    const texts = new Map();
    for (const file of chosen.filter((one) => one.name.endsWith(".txt"))) texts.set(stem(file.name), await file.text());
    for (const file of chosen.filter((one) => !one.name.endsWith(".txt"))) {
      try {
        const { picture } = await bring(file);
        const caption = (texts.get(stem(file.name)) || "").trim();
        if (caption) await tell(`/easel/teach/${draft.id}/caption`, { picture, caption });
      } catch (error) {
        refused.append(h("li", {}, error.message));
      }
    }
    taking = false;
    changed();
  }

  async function bring(file) {
    if (file.size > LARGEST) throw new Error(`${file.name} is larger than 64 MB; save it smaller.`);
    const answer = await fetch(`/easel/teach/${draft.id}/picture?${new URLSearchParams({ title: file.name.slice(0, 200) })}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    const content = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(content.sentence || `${file.name}: the studio answered ${answer.status}; please try again.`);
    return content;
  }

  async function start() {
    begin.disabled = true;
    why.hidden = true;
    try {
      if (!draft) await changed(); // clicked before the studio has told anything
      if (!draft) throw new Error("The studio has not answered yet; please try again.");
      await describe();
      await Promise.all([...grid.querySelectorAll("textarea")].map((text) => text.easelKeep?.()));
      const lesson = await tell(`/easel/teach/${draft.id}/start`);
      toast(`“${lesson.name}” is being taught.`);
    } catch (error) {
      why.textContent = error.message;
      why.hidden = false;
    }
    begin.disabled = false;
    changed();
  }

  function card(picture) {
    let waiting = null;
    const text = h("textarea", { rows: 2, maxlength: 20000, placeholder: "What it shows", "aria-label": `Caption of ${picture.title}` });
    text.value = picture.caption;
    text.easelKeep = async () => {
      if (waiting === null) return;
      clearTimeout(waiting);
      waiting = null;
      await tell(`/easel/teach/${draft.id}/caption`, { picture: picture.id, caption: text.value });
    };
    text.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => text.easelKeep().catch(sorry), PAUSE); });
    return h("figure", { class: "easel-teach-picture", "data-picture": picture.id },
      h("img", { src: `/easel/teach/${draft.id}/picture/${picture.id}.webp`, alt: picture.title, title: `${picture.title}, ${picture.width} × ${picture.height} px` }),
      button(`Take out ${picture.title}`, "close", async () => {
        try { await tell(`/easel/teach/${draft.id}/remove`, { picture: picture.id }); } catch (error) { sorry(error); }
        changed();
      }),
      text);
  }

  function render(state) {
    const other = draft?.id !== state.draft.id;
    draft = state.draft;
    if (other) grid.replaceChildren();
    const known = new Set([...grid.children].map((one) => one.dataset.picture));
    const wanted = new Set(draft.pictures.map((picture) => picture.id));
    for (const one of [...grid.children]) if (!wanted.has(one.dataset.picture)) one.remove();
    grid.append(...draft.pictures.filter((picture) => !known.has(picture.id)).map(card));
    count.textContent = draft.pictures.length ? `${draft.pictures.length} of at most ${state.most} pictures${draft.pictures.length < state.fewest ? `; a style needs at least ${state.fewest}` : ""}.` : "";
    const models = JSON.stringify(state.models);
    if (fields.model.dataset.known !== models) {
      fields.model.dataset.known = models;
      fields.model.replaceChildren(...state.models.map((model) => h("option", { value: model.value }, model.title)));
      fields.model.value = draft.model;
    }
    if (other) for (const [name, control] of Object.entries(fields)) control.value = draft[name];
  }

  return { element, render };
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

function field(words, control, hint = "") {
  return h("label", { class: "easel-teach-field" }, h("span", {}, words), control, hint ? h("small", { class: "easel-quiet" }, hint) : null);
}
