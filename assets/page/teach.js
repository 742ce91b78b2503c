// The Teach tab: pictures and captions in, an artist's own style out.

import { ask, h, sorry } from "./dom.js";
import { draftPart } from "./teach_draft.js";
import { lessonPart } from "./teach_lesson.js";

const BUSY = 1000; // milliseconds between two looks while something is being learned
const QUIET = 4000;
let root = null;
let parts = null;
let state = null;
let shown = ""; // the lesson that is looked at; '' the newest
let timer = null;

export function mountTeach(place) {
  root = place;
  parts = { draft: draftPart(lookNow), lesson: lessonPart(show, lookNow) };
  root.replaceChildren(h("div", { class: "easel-teach-parts" }, parts.draft.element, parts.lesson.element));
  new IntersectionObserver((seen) => { if (seen.some((entry) => entry.isIntersecting)) lookNow(); }).observe(root);
}

function show(lesson) {
  shown = lesson;
  lookNow();
}

export async function lookNow() {
  clearTimeout(timer);
  if (!root.offsetParent) return; // the tab is closed; opening it looks again
  try {
    const query = new URLSearchParams({ lesson: shown, known: state?.version || "" });
    const answer = await ask(`/easel/teach/state?${query}`);
    if (answer) {
      state = answer;
      parts.draft.render(state);
      parts.lesson.render(state);
    }
  } catch (error) {
    if (!state) sorry(error);
  }
  const busy = state?.lessons.some((lesson) => ["waiting", "running"].includes(lesson.state));
  clearTimeout(timer);
  timer = setTimeout(lookNow, busy ? BUSY : QUIET);
}
