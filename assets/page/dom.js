// Building elements, talking to the studio, and calm messages. Text always goes in as text nodes.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SHAPES = {
  star: "M12 3.6l2.6 5.3 5.8.8-4.2 4.1 1 5.8L12 16.9l-5.2 2.7 1-5.8-4.2-4.1 5.8-.8z",
  vary: "M4 7h7l-2-2m2 2-2 2M20 17h-7l2-2m-2 2 2 2M4 17h4M16 7h4",
  reuse: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4",
  seed: "M5 5h14v14H5zM9 9h.01M15 9h.01M9 15h.01M15 15h.01M12 12h.01",
  larger: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  save: "M12 4v11m0 0-4-4m4 4 4-4M5 20h14",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  back: "M4 12a8 8 0 1 1 2.5 5.8M4 20v-4h4",
  brush: "M20 4 10 14M9 14c-2 0-3 1.5-3 3s-1 2-2 2c1 1 3 1.500 4.500 1.500A3 3 0 0 0 11.500 17 2.500 2.500 0 0 0 9 14z",
  eraser: "M4 15l8-9 7 6-7 8H7zM8 10l7 6M11 20h9",
  send: "M4 12h13m0 0-5-5m5 5-5 5M20 5v14",
  halves: "M4 5h16v14H4zM12 3v18",
  more: "M5 12h14M12 5v14",
  less: "M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  up: "M6 14l6-6 6 6",
  down: "M6 10l6 6 6-6",
  check: "M5 12.5l4.5 4.5L19 7.5",
  moon: "M19 14.5A7.5 7.5 0 1 1 9.5 5a6 6 0 0 0 9.5 9.5z",
  sheet: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

export function button(label, glyph, onclick, attributes = {}) {
  const { text, ...rest } = attributes;
  const name = !text || label.toLowerCase().includes(text.toLowerCase()) ? label : `${text}: ${label}`; // one says what one sees
  return h("button", { type: "button", class: "easel-icon", "aria-label": name, title: label, onclick, ...rest },
    glyph ? icon(glyph) : null, text || null);
}

export async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.status === 204) return null;
  return unpack(answer);
}

export async function tell(path, body = {}) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return unpack(answer);
}

async function unpack(answer) {
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.sentence || `The studio answered ${answer.status}; please try again.`);
  return content;
}

let leaving = null;

// One quiet line at the foot of the window, with one thing to do about it.
export function toast(sentence, action = null) {
  document.querySelector("#easel-toast")?.remove();
  const line = h("div", { id: "easel-toast", role: "status" }, h("span", {}, sentence));
  if (action) line.append(h("button", { type: "button", onclick: () => { line.remove(); action.run(); } }, action.label));
  document.body.append(line);
  clearTimeout(leaving);
  leaving = setTimeout(() => line.remove(), action ? 12_000 : 4000);
}

export function sorry(error) {
  toast(error instanceof Error ? error.message : String(error), {
    label: "Copy details",
    run: () => copy(`${error?.stack || error}\n${navigator.userAgent}`),
  });
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(String(text));
    toast("Copied.");
  } catch {
    toast(`Could not reach the clipboard. Here it is: ${text}`);
  }
}

export function dialog(title, ...content) {
  const box = h("dialog", { class: "easel-dialog", "aria-label": title },
    h("header", {}, h("h2", {}, title), button("Close", "close", () => box.close())), ...content);
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const clip = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
export const thumbnail = (picture) => `/easel/thumbnail/${picture.id}`;
export const full = (picture) => `/easel/picture/${picture.id}`;
