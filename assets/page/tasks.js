// Which drawing tab is open, and whether its right side shows the source, the result, or both.

import { h } from "./dom.js";
import { send } from "./bridge.js";

export const TASKS = { txt2img: "Text to image", img2img: "Image to image", inpaint: "Inpaint" };
const page = document.documentElement;
const listeners = [];

// '' on a tab that draws nothing, such as the gallery.
export const task = () => page.dataset.task || "";
export const isEdit = () => task() === "img2img" || task() === "inpaint";

// Called with the task whenever another tab is opened, and once at the start.
export function onTask(listen) {
  listeners.push(listen);
  if (page.dataset.task !== undefined) listen(task());
}

export function openTab(title) {
  [...document.querySelectorAll('#easel-tabs button[role="tab"]')].find((tab) => tab.textContent.trim() === title)?.click();
}

export function mountTasks(tabs) {
  let shown = "";
  const look = () => {
    const title = tabs.querySelector('button[role="tab"][aria-selected="true"]')?.textContent.trim();
    if (!title || title === shown) return;
    const first = shown === "";
    shown = title;
    const open = Object.keys(TASKS).find((name) => TASKS[name] === title) || "";
    if (page.dataset.task !== open) {
      page.dataset.task = open;
      for (const listen of listeners) listen(open);
    }
    if (!first) setTimeout(() => send("remember"), 400); // the open tab is kept too
  };
  new MutationObserver(look).observe(tabs, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-selected"] });
  look();
}

// ---------------------------------------------------------------- source and result

export const originPlace = h("div", { class: "easel-origin", hidden: true }); // what the source is; filled by editor.js
export const pane = () => page.dataset.pane || "source";
export const togglePane = () => showPane(pane() === "source" ? "result" : "source");

export function showPane(name) {
  page.dataset.pane = name;
  for (const tab of document.querySelectorAll("#easel-panes [data-pane]")) tab.setAttribute("aria-pressed", String(tab.dataset.pane === name));
}

// The row above source and result. On a wide window both stand side by side and the choice is hidden.
export function mountPanes(root) {
  root.replaceChildren(h("div", { class: "easel-segments", role: "group", "aria-label": "What the right side shows" },
    [["source", "Source"], ["result", "Result"]].map(([name, text]) => h("button", { type: "button", "data-pane": name, title: "Source or result (W)", onclick: () => showPane(name) }, text))), originPlace);
  showPane(pane());
}
