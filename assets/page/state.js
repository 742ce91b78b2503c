// What the studio is doing, asked for in a rhythm: quickly while it draws, slowly while it rests.

import { ask } from "./dom.js";

const QUICK = 350; // milliseconds
const SLOW = 2500;
const listeners = [];
let timer = null;
let asking = false;
let again = false;

export const studio = { state: null, reachable: true };

export function onState(listen) {
  listeners.push(listen);
  if (studio.state) listen(studio.state);
}

export function lookNow() {
  clearTimeout(timer);
  if (asking) { again = true; return; }
  look();
}

async function look() {
  asking = true;
  try {
    const known = studio.state?.version || "";
    const state = await ask(`/easel/state?known=${encodeURIComponent(known)}`);
    const wasAway = !studio.reachable;
    studio.reachable = true;
    if (state) studio.state = state;
    if (state || wasAway) publish();
  } catch {
    if (studio.reachable) { studio.reachable = false; publish(); }
  }
  asking = false;
  if (again) { again = false; return look(); }
  const busy = studio.state?.queue?.length || studio.state?.model?.phase === "loading";
  timer = setTimeout(look, busy ? QUICK : SLOW);
}

function publish() {
  if (studio.state) for (const listen of listeners) listen(studio.state);
  document.documentElement.classList.toggle("easel-away", !studio.reachable);
}
