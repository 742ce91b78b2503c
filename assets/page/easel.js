// The page's own script: it fills the places that the Python side left for it, once they are there.

import { mountAdapters } from "./adapters.js";
import { onOutcome } from "./bridge.js";
import { tell } from "./dom.js";
import { mountEditor } from "./editor.js";
import { mountFinetune } from "./finetune.js";
import { mountForm, mountUnderPrompt } from "./form.js";
import { mountGallery } from "./gallery.js";
import { mountKeys } from "./keys.js";
import { mountCancel, mountHeader } from "./queue.js";
import { mountRate } from "./rate.js";
import { mountStage } from "./stage.js";
import { lookNow } from "./state.js";
import { mountPanes, mountTasks } from "./tasks.js";
import { mountTeach } from "./teach.js";
import { restoreTheme } from "./theme.js";
import { mountUploads } from "./upload.js";

const PLACES = [
  ["#easel-header-right", mountHeader],
  ["#easel-adapters", mountAdapters],
  ["#easel-tabs", mountTasks],
  ["#easel-panes", mountPanes],
  ["#easel-editor", mountEditor],
  ["#easel-stage", mountStage],
  ["#easel-under-prompt", mountUnderPrompt],
  ["#easel-cancel", mountCancel],
  ["#easel-gallery", mountGallery],
  ["#easel-rate", mountRate],
  ["#easel-finetune", mountFinetune],
  ["#easel-teach", mountTeach],
  ["#easel-controls", mountForm],
];
const open = new Set(PLACES);
const PATIENCE = 20_000; // milliseconds after which the page is used as it is
let restored = false; // the form as it was left; what is done before that would be undone by it

// Gradio builds a tab when it is first opened, so the gallery's place comes late.
function fill() {
  for (const place of open) {
    const [selector, mount] = place;
    const root = document.querySelector(selector);
    if (!root) continue;
    open.delete(place);
    mount(root);
  }
  const usable = [...open].every(([selector]) => ["#easel-gallery", "#easel-rate", "#easel-finetune", "#easel-teach"].includes(selector));
  if (usable && restored && !document.documentElement.classList.contains("easel-ready")) {
    document.documentElement.classList.add("easel-ready");
    tell("/easel/ready").catch(() => {}); // now the model may be loaded
  }
  if (open.size === 0) watcher.disconnect();
}

// Waits for what the answer sets besides, the open tab for instance.
function use() {
  if (restored) return;
  setTimeout(() => { restored = true; fill(); }, 0);
}

const watcher = new MutationObserver(fill);
watcher.observe(document.documentElement, { childList: true, subtree: true });
restoreTheme();
mountKeys();
mountUploads();
onOutcome((outcome) => { if (outcome.restored) use(); });
setTimeout(use, PATIENCE);
fill();
lookNow();
