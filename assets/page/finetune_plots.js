// Small line plots of a run: drawn once as SVG, then only their points move.

import { h } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 96;
const SVG = "http://www.w3.org/2000/svg";

function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const number = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return Number(value.toPrecision(size >= 100 ? 4 : 3)).toString();
};

// `series` are [name, row => value or null]; `limit` is a line that must not be crossed: [words, value].
export function plot(title, sentence, series, form = {}) {
  const lines = series.map((_, at) => s("polyline", { class: `line-${at}`, fill: "none" }));
  const limit = s("line", { class: "limit", x1: 0, x2: WIDTH, visibility: "hidden" });
  const grid = [0, 0.5, 1].map((share) => s("line", { class: "grid", x1: 0, x2: WIDTH, y1: share * HEIGHT, y2: share * HEIGHT }));
  const picture = s("svg", { viewBox: `-4 -6 ${WIDTH + 8} ${HEIGHT + 12}`, role: "img", preserveAspectRatio: "none" }, ...grid, limit, ...lines);
  const high = h("span", {});
  const low = h("span", {});
  const last = h("span", { class: "easel-plot-last" });
  const values = series.map(([name], at) => ({ name, box: h("span", { class: `easel-key line-${at}` }, h("i", {}), name, " ", h("b", {})) }));
  const root = h("figure", { class: "easel-plot" },
    h("figcaption", {}, h("h4", {}, title), h("p", {}, sentence)),
    h("div", { class: "easel-plot-room" }, h("div", { class: "easel-plot-scale", "aria-hidden": "true" }, high, low), picture),
    h("div", { class: "easel-plot-keys" }, values.map(({ box }) => box), last));

  function update(rows, bounds = {}) {
    const points = series.map(([, read]) => rows.map((row) => [row.epoch, read(row)]).filter(([, y]) => Number.isFinite(y)));
    const every = points.flat().map(([, y]) => y);
    const top = Number.isFinite(bounds.limit) ? [bounds.limit] : [];
    const from = form.zero ? Math.min(0, ...every) : Math.min(...every, ...top);
    const to = Math.max(...every, ...top, ...(form.zero ? [0] : []));
    const first = Math.min(0, ...rows.map((row) => row.epoch));
    const width = Math.max(1, bounds.epochs || 0, ...rows.map((row) => row.epoch)) - first;
    const spread = to - from || Math.abs(to) || 1;
    const x = (epoch) => (WIDTH * (epoch - first)) / width;
    const y = (value) => HEIGHT - (HEIGHT * (value - from)) / spread;
    points.forEach((found, at) => {
      if (found.length === 1) found = [[found[0][0] - width / 80, found[0][1]], found[0]]; // a dash, or nothing would be seen
      lines[at].setAttribute("points", found.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(" "));
      const end = found.at(-1);
      const word = end ? (form.write || number)(end[1]) : "–";
      const place = values[at].box.querySelector("b");
      if (place.textContent !== word) place.textContent = word;
    });
    limit.setAttribute("visibility", top.length ? "visible" : "hidden");
    if (top.length) { limit.setAttribute("y1", y(top[0])); limit.setAttribute("y2", y(top[0])); }
    high.textContent = every.length ? (form.write || number)(to) : "";
    low.textContent = every.length ? (form.write || number)(from) : "";
    const said = values.map(({ name, box }) => `${name} ${box.querySelector("b").textContent}`).join(", ");
    picture.setAttribute("aria-label", `${title}: ${said}`);
  }
  return { root, update };
}

const percent = (share) => `${Math.round(100 * share)} %`;

// The plots of a run; `update(run)` moves their points.
export function runPlots() {
  const probe = (name) => (row, rows) => row.probes?.[name] / rows[0]?.probes?.[name] - 1;
  let base = [];
  const relative = (name) => (row) => probe(name)(row, base);
  const parts = {
    reward: plot("Reward", "How well the pictures please: those it trains on, and held-out prompts. Both should rise; when only the first does, it has begun to cheat.",
      [["training", (row) => (row.epoch ? row.reward_mean : null)], ["held out", (row) => row.reward_held_out]]),
    kl: plot("Distance from the base (KL)", "How far each step has moved from the base model, in nats. It stops at the dashed budget.", [["KL", (row) => row.kl]], { zero: true }),
    clip: plot("Clip fraction", "Share of steps that wanted to go further than one update may. Above a half it learns too hastily. Always 0 with one update an epoch, and with the forward process.", [["clipped", (row) => (row.epoch ? row.clip_fraction : null)]], { zero: true, write: percent }),
    diversity: plot("Diversity", "How different the pictures still are from each other. It stops at the dashed line.", [["diversity", (row) => row.probes?.diversity]], {}),
    probes: plot("What else changed", "Things nobody asked for, against the base. Large changes that you did not want are a reason to stop.",
      [["brightness", relative("brightness")], ["colour", relative("saturation")], ["sharpness", relative("sharpness")], ["prompt", relative("prompt_fidelity")]], { write: (share) => `${share >= 0 ? "+" : ""}${Math.round(100 * share)} %` }),
  };
  return {
    root: h("div", { class: "easel-plots" }, Object.values(parts).map(({ root }) => root)),
    update(run) {
      base = run.rows;
      const { epochs } = run;
      parts.reward.update(run.rows, { epochs });
      parts.kl.update(run.rows, { epochs, limit: Math.max(...run.rows.map((row) => row.kl), 0) > 0.4 * run.limits.kl_budget ? run.limits.kl_budget : undefined });
      parts.clip.update(run.rows, { epochs });
      const first = run.rows[0]?.probes?.diversity;
      parts.diversity.update(run.rows, { epochs, limit: first * (1 - run.limits.diversity_drop) });
      parts.probes.update(run.rows, { epochs });
    },
  };
}
