// Light or dark: the browser's wish, until the artist chooses; the choice is remembered here.

const KEY = "easel.theme";

function apply(theme) {
  document.body.classList.toggle("dark", theme === "dark");
}

export function toggleTheme() {
  const next = document.body.classList.contains("dark") ? "light" : "dark";
  localStorage.setItem(KEY, next);
  apply(next);
}

export function restoreTheme() {
  const chosen = localStorage.getItem(KEY);
  if (chosen) apply(chosen);
}
