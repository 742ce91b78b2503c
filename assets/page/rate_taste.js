// What all votes are good for, as one figure: predicted, by chance, by the raters themselves.

import { ask, h } from "./dom.js";

const FROM = 0.4; // share at the left end of the scale
const BOX = 132; // side of the calibration plot, pixels
const SVG = "http://www.w3.org/2000/svg";

const percent = (share) => `${Math.round(100 * share)} %`;
const at = (share) => `${(100 * Math.max(0, share - FROM)) / (1 - FROM)}%`;

// Returns a panel, empty until there is something to say.
export function tastePanel() {
  const panel = h("section", { class: "easel-taste-panel", "aria-label": "What the votes are good for", hidden: true });
  let shown = "";
  return {
    panel,
    async refresh() {
      try {
        const taste = await ask("/easel/rate/owner/taste");
        const mark = JSON.stringify(taste);
        if (mark === shown) return;
        shown = mark;
        panel.hidden = !taste.votes;
        if (taste.votes) panel.replaceChildren(...content(taste));
      } catch { /* the next look is four seconds away */ }
    },
  };
}

function content(taste) {
  const rows = [
    row("Your taste, predicted", taste.predicted, "by cross-validation over prompts"),
    row("On random pairs kept aside", taste.held_out, "that nothing learned from"),
    row("Raters agree with themselves", taste.consistency, "on pairs decided twice: the ceiling"),
  ];
  return [
    h("h3", {}, "What the votes are good for"),
    h("div", { class: "easel-taste-figures" },
      h("div", { class: "easel-taste-rows", style: { "--coin": at(0.5) } }, rows, scale()),
      taste.bins.length ? calibration(taste.bins) : null),
    ...taste.sentences.map((sentence) => h("p", {}, sentence)),
    h("p", {}, sheet("loved", "Most loved pictures"), " ", sheet("disputed", "Most disputed pictures")),
    h("p", { class: "easel-quiet" }, `Learned from ${taste.votes.toLocaleString()} ${taste.votes === 1 ? "comparison" : "comparisons"} on features of ${taste.encoder}: votes that prefer a side or neither, and ratings; not those kept aside.`),
  ];
}

const sheet = (name, words) => h("a", { class: "easel-icon", href: `/easel/rate/owner/sheet/${name}.png`, target: "_blank", rel: "noopener" }, words);

function row(words, figure, hint) {
  if (!figure) return h("div", { class: "easel-taste-line quiet" }, h("span", { title: hint }, words), h("span", { class: "easel-taste-track" }), h("span", {}, "too few votes"));
  const told = `${percent(figure.value)}, ${percent(figure.low)} to ${percent(figure.high)}, ${figure.n} ${figure.n === 1 ? "vote" : "votes"}`;
  return h("div", { class: "easel-taste-line" }, h("span", { title: hint }, words),
    h("span", { class: "easel-taste-track", role: "img", "aria-label": told, title: told },
      h("span", { class: "easel-taste-range", style: { left: at(figure.low), right: `calc(100% - ${at(figure.high)})` } }),
      h("span", { class: "easel-taste-dot", style: { left: at(figure.value) } })),
    h("span", {}, h("strong", {}, percent(figure.value)), ` ${Math.round(100 * figure.low)} to ${Math.round(100 * figure.high)}`));
}

const scale = () => h("div", { class: "easel-taste-line easel-taste-scale", "aria-hidden": "true" }, h("span"), h("span", { class: "easel-taste-axis" }, h("span", {}, "a coin: 50 %")), h("span"));

// Predicted against observed share of the favourite; honest predictions lie on the diagonal.
function calibration(bins) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${BOX} ${BOX}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Calibration: ${bins.map(([sure, right, votes]) => `${percent(sure)} sure, right in ${percent(right)} of ${votes}`).join("; ")}`);
  const add = (tag, attributes) => {
    const part = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    svg.append(part);
  };
  const place = (share) => (BOX * Math.max(0, share - 0.5)) / 0.5;
  const most = Math.max(...bins.map(([, , votes]) => votes));
  add("line", { x1: 0, y1: BOX, x2: BOX, y2: 0, class: "even" });
  for (const [sure, right, votes] of bins) add("circle", { cx: place(sure), cy: BOX - place(Math.max(right, 0.5)), r: 2 + 5 * Math.sqrt(votes / most), class: "bin" });
  return h("figure", { class: "easel-calibration" }, svg, h("figcaption", {}, "How sure it is (across) and how often it is right (up), 50 to 100 %"));
}
