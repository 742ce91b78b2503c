// Pictures from outside: chosen, pasted or dropped; opened by the studio's guarded loader alone.

import { dialog, h, sorry, toast } from "./dom.js";
import { command } from "./bridge.js";
import { isEdit, task, TASKS } from "./tasks.js";

const LARGEST = 64e6; // bytes that the studio takes

// Hands a file to one of the studio's addresses and returns what it answers.
async function hand(path, file) {
  if (file.size > LARGEST) throw new Error("This file is larger than 64 MB; save the picture smaller.");
  const answer = await fetch(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.sentence || `The studio answered ${answer.status}; please try again.`);
  return content;
}

// Answers { sha256, width, height } of a mask as it is kept.
export const bringMask = (file) => hand("/easel/source?kind=mask", file);

// Answers { values, size, parent, notices }: the source that a file is, and the settings that it carries.
const bring = (file, tab) => hand(`/easel/send?tab=${tab}`, file);
const carriesSettings = (sent) => "prompt" in sent.values;
const fill = (sent, tab) => command("fill", { values: sent.values, task: tab, parent: sent.parent, notices: sent.notices });

// A picture for the open tab's source, or for Image to image when the tab has none. The form's own
// settings stay; those that the file carries are one click away.
export async function takeFile(file) {
  try {
    const tab = isEdit() ? task() : "img2img";
    const sent = await bring(file, tab);
    command("source", { sha256: sent.values.source, task: tab, parent: sent.parent });
    if (carriesSettings(sent)) toast("This picture carries its settings.", { label: "Use them", run: () => fill(sent, tab) });
  } catch (error) { sorry(error); }
}

export function mountUploads() {
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    takeFile(file);
  });
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const mark = (on) => document.documentElement.classList.toggle("easel-dropping", on);
  document.addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; mark(true); } });
  document.addEventListener("dragleave", (event) => { if (carriesFiles(event)) { depth -= 1; mark(depth > 0); } });
  document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    depth = 0;
    mark(false);
    if (event.target.closest?.("#easel-teach")) return; // which takes many, and captions
    event.preventDefault();
    event.stopPropagation();
    const file = event.dataTransfer.files[0];
    if (!file) return;
    if (event.target.closest?.("#easel-editor")) takeFile(file);
    else offer(file);
  }, true);
}

// A file dropped elsewhere may be meant for any tab: one click says which, settings included.
function offer(file) {
  const address = URL.createObjectURL(file);
  const send = (tab, text) => h("button", { type: "button", class: "easel-push", onclick: async () => {
    box.close();
    try { fill(await bring(file, tab), tab); } catch (error) { sorry(error); }
  } }, text);
  const box = dialog("What shall become of this picture?",
    h("img", { class: "easel-offered", src: address, alt: "The dropped picture" }),
    h("p", { class: "easel-quiet" }, "The settings that it was drawn with go along, if the file tells them."),
    h("div", { class: "easel-pushes" }, send("img2img", TASKS.img2img), send("inpaint", TASKS.inpaint), send("txt2img", "Only its settings, to Text to image")));
  box.addEventListener("close", () => URL.revokeObjectURL(address));
}
