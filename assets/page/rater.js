// The page of a login that only rates: the Rate tab's content, light and dark, and the keys.

import { button, dialog, h } from "./dom.js";
import { mountRate } from "./rate.js";
import { RATING_KEYS } from "./rate_keys.js";
import { restoreTheme, toggleTheme } from "./theme.js";

const showKeys = () => dialog("Keys", h("dl", { class: "easel-recipe" }, RATING_KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])));

const dark = matchMedia("(prefers-color-scheme: dark)");
document.body.classList.toggle("dark", dark.matches);
restoreTheme();
document.querySelector("#easel-header-right").replaceChildren(
  button("Light or dark (T)", "moon", toggleTheme), button("Keys (?)", null, showKeys, { text: "?" }));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select")) return;
  if (event.key === "?") showKeys();
  if (event.key === "t") toggleTheme();
});
mountRate(document.querySelector("#easel-rate"));
document.documentElement.classList.add("easel-ready");
