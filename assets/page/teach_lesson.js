// A lesson that has begun: its loss, its samples, what is left, and its result at work.

import { button, duration, h, tell, toast } from "./dom.js";
import { command } from "./bridge.js";

const PHASES = {
  wait: "Waits for its turn", load: "Loading the model", prepare: "Looking at the pictures",
  measure: "Measuring how fast this machine is", lora: "Learning", look: "Drawing samples",
};
const STATES = { waiting: "waits", running: "is learning", paused: "paused", done: "done", failed: "stopped" };
const SVG = "http://www.w3.org/2000/svg";

export function lessonPart(show, changed) {
  const element = h("section", { class: "easel-teach-lesson", "aria-label": "Lessons", hidden: true });
  const known = { id: "", samples: "" };
  const parts = {
    choice: h("select", { "aria-label": "Which lesson", onchange: () => show(parts.choice.value) }),
    head: h("h2", {}), line: h("p", { role: "status" }), meter: h("div", { class: "easel-meter", role: "img" }),
    tools: h("div", { class: "easel-teach-tools" }), why: h("p", { class: "easel-problem", role: "alert", hidden: true }), said: h("div"),
    plot: h("figure", { style: { margin: "0" } }), samples: h("div", { class: "easel-teach-samples" }),
  };
  element.append(...Object.values(parts));

  function render(state) {
    const lesson = state.lesson;
    element.hidden = !lesson;
    if (!lesson) return;
    offer(state);
    parts.head.textContent = lesson.name;
    parts.line.textContent = status(lesson);
    const { step, steps } = lesson.progress;
    const share = lesson.state === "done" ? 1 : lesson.progress.phase === "lora" && steps ? step / steps : 0;
    parts.meter.hidden = !["running", "waiting"].includes(lesson.state);
    parts.meter.style.setProperty("--share", `${100 * share}%`);
    parts.meter.setAttribute("aria-label", `${Math.round(100 * share)} percent`);
    parts.said.replaceChildren(...[...lesson.notices, lesson.sentence].filter(Boolean).map((line) => h("p", { class: "easel-quiet" }, line)));
    tools(lesson);
    plot(lesson);
    sheets(lesson);
  }

  function offer(state) {
    parts.choice.hidden = state.lessons.length < 2;
    parts.choice.replaceChildren(...state.lessons.map((one) => h("option", { value: one.id }, `${one.name} (${STATES[one.state]})`)));
    parts.choice.value = state.lesson.id;
  }

  function tools(lesson) {
    const mark = JSON.stringify([lesson.id, lesson.state, lesson.ending, lesson.adapter]);
    if (parts.tools.dataset.mark === mark) return;
    parts.tools.dataset.mark = mark;
    if (known.id !== lesson.id) parts.why.hidden = true;
    known.id = lesson.id;
    const act = (verb) => async () => {
      parts.why.hidden = true;
      try { await tell(`/easel/teach/${lesson.id}/${verb}`); } catch (error) {
        parts.why.textContent = error.message;
        parts.why.hidden = false;
      }
      changed();
    };
    const busy = ["running", "waiting"].includes(lesson.state);
    const idle = ["paused", "failed"].includes(lesson.state);
    parts.tools.replaceChildren(...[
      lesson.adapter ? h("button", { type: "button", class: "easel-primary", onclick: () => draw(lesson) }, "Draw with it") : null,
      idle ? h("button", { type: "button", class: "easel-primary", onclick: act("start") }, "Go on") : null,
      busy ? button("Pause: it goes on from here", null, act("pause"), { text: "Pause", disabled: lesson.ending }) : null,
      busy || (idle && lesson.curve.length) ? button("Stop now and keep what was learned", null, act("stop"), { text: "Stop and keep", disabled: lesson.ending }) : null,
      busy ? null : button("Remove this lesson; its adapter stays in the studio", "bin", act("discard"), { text: "Remove" }),
    ].filter(Boolean));
  }

  function plot(lesson) {
    if (lesson.curve.length < 2) return parts.plot.replaceChildren();
    const values = lesson.curve.map(([, loss]) => loss);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const last = lesson.curve.at(-1)[0];
    const points = lesson.curve.map(([step, loss]) => `${100 * step / last},${95 - 90 * (loss - low) / (high - low || 1)}`);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "easel-teach-curve");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Loss from ${values[0].toPrecision(2)} to ${values.at(-1).toPrecision(2)} after ${last} steps`);
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", points.join(" "));
    svg.append(line);
    parts.plot.replaceChildren(svg, h("figcaption", { class: "easel-quiet" },
      `Loss ${values.at(-1).toPrecision(2)} after ${last} steps. It wavers; what counts is that it falls, and what the samples look like.`));
  }

  function sheets(lesson) {
    const mark = `${lesson.id} ${lesson.samples}`;
    if (known.samples === mark) return;
    known.samples = mark;
    parts.samples.replaceChildren(...[...lesson.samples].reverse().map((step) => h("figure", {},
      h("img", { src: `/easel/teach/${lesson.id}/sample/${step}.png`, alt: step ? `Samples after ${step} steps` : "Samples before" }),
      h("figcaption", {}, step ? `After ${step} steps` : "Before"))));
  }

  return { element, render };
}

function status(lesson) {
  if (lesson.ending) return "Ending after this step …";
  if (lesson.state === "done") return lesson.trigger ? `Learned. “${lesson.trigger}” in a prompt calls it.` : "Learned.";
  if (lesson.state === "paused") return "Paused; nothing of what was learned is lost.";
  if (lesson.state === "failed") return "It could not go on:";
  const { phase, step, steps, seconds_left: left } = lesson.progress;
  const where = phase === "lora" && steps ? `, step ${step} of ${steps}` : "";
  return `${PHASES[phase] || "Learning"}${where}${left ? `, ${duration(left)} left` : ""}`;
}

// The result in the drawing tabs: its model, the adapter on, and its word in the prompt.
function draw(lesson) {
  const { adapter, trigger, model } = lesson;
  const written = document.querySelector("#easel-prompt textarea")?.value.trim() ?? "";
  const called = !trigger || written.toLowerCase().includes(trigger.toLowerCase());
  const prompt = called ? written : [written.replace(/[\s,]+$/, ""), trigger].filter(Boolean).join(", ");
  document.dispatchEvent(new CustomEvent("easel-adapters"));
  command("fill", { task: "txt2img", values: { prompt, model, adapters: [{ ...adapter, strength: 1 }] } });
  toast(`“${lesson.name}” is on; the header shows it.`);
}
