// A sheet to paint on: a picture, and one layer of ink of exactly its size above it.
// Ink is kept in pixels of the picture whatever the zoom; nothing here knows of masks' files or the network.

import { h } from "./dom.js";

const MOST_GROWTH = 4; // a small picture is shown at most this many times its size when it fits
const CLOSEST = 32; // times its size, when zoomed in
const HISTORY_BYTES = 200e6; // of pixels kept for undo; the oldest go first
export const MASK_INK = "#6a35ff"; // rare in pictures, and seen on light and dark

export function createCanvas(root, { mask, onInk = () => {}, onView = () => {} }) {
  const image = h("img", { alt: "The source picture", draggable: "false" });
  const extension = h("div", { class: "easel-extension", hidden: true });
  const ink = layer();
  const before = layer(); // the ink as it was when this stroke began
  const stroke = layer(); // this stroke alone, opaque, so that it does not darken where it crosses itself
  const ring = h("div", { class: "easel-ring", hidden: true });
  const sheet = h("div", { class: "easel-sheet" }, extension, image, ink);
  root.replaceChildren(sheet, ring);

  const view = { scale: 1, x: 0, y: 0, fits: true };
  const tools = { erase: false, size: 40, colour: MASK_INK, flow: 1, opacity: 0.6, paints: true };
  const past = [];
  const future = [];
  let frame = [0, 0, 0, 0]; // left, top, right, bottom: how far the picture is to be extended
  let drawing = null; // { last, box } while a stroke is being made
  let dragging = null;
  let spaceHeld = false;
  let held = false; // while another picture and its ink are on their way, nothing is painted
  let pen = null; // where the brush is, in pixels of the picture
  let keyed = null; // where the arrow keys left it; a mouse that moves off the picture keeps that
  let lastPoint = null;

  // ------------------------------------------------------------ the picture and its ink

  function hold(on) {
    held = on;
    root.setAttribute("aria-busy", String(on));
  }

  async function load(source) {
    image.src = source;
    await image.decode();
    for (const one of [ink, before, stroke]) { one.width = image.naturalWidth; one.height = image.naturalHeight; }
    sheet.style.width = `${ink.width}px`;
    sheet.style.height = `${ink.height}px`;
    past.length = future.length = 0;
    lastPoint = pen = keyed = null;
    fit();
  }

  // Puts ink back that was saved; `picture` may be null for none. Undo forgets what was before.
  function restoreInk(picture) {
    const paint = ink.getContext("2d");
    paint.clearRect(0, 0, ink.width, ink.height);
    if (picture) paint.drawImage(picture, 0, 0);
    if (picture && mask) greyToInk(paint);
    past.length = future.length = 0;
    onView();
  }

  // White is full ink and black is none; what is transparent in the file is none as well.
  function greyToInk(paint) {
    const pixels = paint.getImageData(0, 0, ink.width, ink.height);
    const [red, green, blue] = rgb(MASK_INK);
    const bytes = pixels.data;
    for (let at = 0; at < bytes.length; at += 4) {
      const light = (bytes[at] * 299 + bytes[at + 1] * 587 + bytes[at + 2] * 114) / 1000;
      bytes[at + 3] = Math.round((light * bytes[at + 3]) / 255);
      bytes[at] = red; bytes[at + 1] = green; bytes[at + 2] = blue;
    }
    paint.putImageData(pixels, 0, 0);
  }

  // One change of the whole sheet that can be undone: clear, fill, invert, a mask from a file.
  function change(run) {
    if (held) return;
    remember({ x: 0, y: 0, width: ink.width, height: ink.height }, ink);
    run(ink.getContext("2d"));
    changed();
  }

  const clear = () => change((paint) => paint.clearRect(0, 0, ink.width, ink.height));
  const fill = () => change((paint) => { paint.fillStyle = tools.colour; paint.fillRect(0, 0, ink.width, ink.height); });
  const invert = () => change((paint) => {
    paint.globalCompositeOperation = "source-out"; // ink where there was none
    paint.fillStyle = tools.colour;
    paint.fillRect(0, 0, ink.width, ink.height);
    paint.globalCompositeOperation = "source-over";
  });
  const replaceInk = (picture) => change((paint) => {
    paint.clearRect(0, 0, ink.width, ink.height);
    paint.drawImage(picture, 0, 0);
    if (mask) greyToInk(paint);
  });

  // The ink as a PNG of the picture's size: a mask in white on black, colours as they were painted.
  function toBlob() {
    return new Promise((resolve, reject) => exported().toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The browser could not save the drawing."))), "image/png"));
  }

  function exported() {
    if (!mask) return ink;
    const copy = layer();
    copy.width = ink.width; copy.height = ink.height;
    const paint = copy.getContext("2d");
    paint.drawImage(ink, 0, 0);
    paint.globalCompositeOperation = "source-in";
    paint.fillStyle = "#fff";
    paint.fillRect(0, 0, copy.width, copy.height);
    paint.globalCompositeOperation = "destination-over";
    paint.fillStyle = "#000";
    paint.fillRect(0, 0, copy.width, copy.height);
    return copy;
  }

  // ------------------------------------------------------------ undo

  function remember(box, from, onto = past) {
    const context = from.getContext("2d");
    onto.push({ x: box.x, y: box.y, pixels: context.getImageData(box.x, box.y, box.width, box.height) });
    if (onto === past) {
      let bytes = past.reduce((sum, step) => sum + step.pixels.data.length, 0);
      while (bytes > HISTORY_BYTES && past.length > 1) bytes -= past.shift().pixels.data.length;
    }
  }

  function travel(from, onto) {
    const step = held ? null : from.pop();
    if (!step) return;
    remember({ x: step.x, y: step.y, width: step.pixels.width, height: step.pixels.height }, ink, onto);
    ink.getContext("2d").putImageData(step.pixels, step.x, step.y);
    onInk();
    onView();
  }

  function changed() {
    future.length = 0;
    onInk();
    onView();
  }

  // ------------------------------------------------------------ strokes

  function begin(point, width) {
    before.getContext("2d").clearRect(0, 0, ink.width, ink.height);
    before.getContext("2d").drawImage(ink, 0, 0);
    stroke.getContext("2d").clearRect(0, 0, ink.width, ink.height);
    drawing = { last: point, box: null };
    extend(point, width);
  }

  function extend(point, width) {
    const { last } = drawing;
    const context = stroke.getContext("2d");
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = width;
    context.strokeStyle = context.fillStyle = tools.colour;
    context.beginPath();
    if (last.x === point.x && last.y === point.y) { // a line of no length leaves nothing
      context.arc(point.x, point.y, width / 2, 0, 2 * Math.PI);
      context.fill();
    } else {
      context.moveTo(last.x, last.y);
      context.lineTo(point.x, point.y);
      context.stroke();
    }
    const box = inside(last, point, width);
    drawing.last = point;
    if (!box) return;
    drawing.box = drawing.box ? union(drawing.box, box) : box;
    const area = [box.x, box.y, box.width, box.height];
    const paint = ink.getContext("2d");
    paint.clearRect(...area);
    paint.drawImage(before, ...area, ...area);
    paint.globalCompositeOperation = tools.erase ? "destination-out" : "source-over";
    paint.globalAlpha = tools.erase ? 1 : tools.flow;
    paint.drawImage(stroke, ...area, ...area);
    paint.globalAlpha = 1;
    paint.globalCompositeOperation = "source-over";
    onInk(); // a long stroke is saved while it goes on
  }

  function end() {
    const { box, last } = drawing;
    drawing = null;
    lastPoint = last;
    if (!box) return;
    remember(box, before);
    changed();
  }

  function inside(from, to, width) {
    const reach = width / 2 + 2;
    const x = Math.max(0, Math.floor(Math.min(from.x, to.x) - reach));
    const y = Math.max(0, Math.floor(Math.min(from.y, to.y) - reach));
    const right = Math.min(ink.width, Math.ceil(Math.max(from.x, to.x) + reach));
    const bottom = Math.min(ink.height, Math.ceil(Math.max(from.y, to.y) + reach));
    return right > x && bottom > y ? { x, y, width: right - x, height: bottom - y } : null;
  }

  function dab(point) {
    begin(point, tools.size);
    end();
  }

  // ------------------------------------------------------------ zoom and pan

  function place() {
    sheet.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    ink.style.opacity = mask ? tools.opacity : 1;
    root.classList.toggle("easel-near", view.scale >= 6);
    showRing();
    onView();
  }

  function fit() {
    const [left, top, right, bottom] = frame;
    const room = root.getBoundingClientRect();
    if (!room.width || !ink.width) return;
    const width = ink.width + left + right;
    const height = ink.height + top + bottom;
    view.scale = Math.min((room.width - 6) / width, (room.height - 6) / height, MOST_GROWTH);
    view.x = (room.width - width * view.scale) / 2 + left * view.scale;
    view.y = (room.height - height * view.scale) / 2 + top * view.scale;
    view.fits = true;
    place();
  }

  function zoom(factor, centre = null) {
    const room = root.getBoundingClientRect();
    const at = centre || { x: room.width / 2, y: room.height / 2 };
    const scale = Math.min(Math.max(view.scale * factor, 0.02), CLOSEST);
    view.x = at.x - ((at.x - view.x) * scale) / view.scale;
    view.y = at.y - ((at.y - view.y) * scale) / view.scale;
    view.scale = scale;
    view.fits = false;
    place();
  }

  function pan(x, y) {
    view.x += x;
    view.y += y;
    view.fits = false;
    place();
  }

  function setFrame(next) {
    frame = next;
    const [left, top, right, bottom] = frame;
    extension.hidden = !frame.some(Boolean);
    Object.assign(extension.style, { left: `${-left}px`, top: `${-top}px`, right: `${-right}px`, bottom: `${-bottom}px` });
    if (view.fits) fit();
  }

  function showRing() {
    const shown = pen && tools.paints && !spaceHeld && !dragging;
    ring.hidden = !shown;
    root.classList.toggle("easel-painting", Boolean(shown));
    if (!shown) return;
    const across = Math.max(tools.size * view.scale, 3);
    Object.assign(ring.style, { width: `${across}px`, height: `${across}px`, left: `${view.x + pen.x * view.scale}px`, top: `${view.y + pen.y * view.scale}px` });
  }

  // ------------------------------------------------------------ the mouse, the pen, the finger

  const here = (event) => {
    const room = root.getBoundingClientRect();
    return { x: event.clientX - room.left, y: event.clientY - room.top };
  };
  const onSheet = (event) => {
    const at = here(event);
    return { x: (at.x - view.x) / view.scale, y: (at.y - view.y) / view.scale };
  };
  const widthOf = (event) => (event.pointerType === "pen" && event.pressure ? tools.size * Math.min(1, 0.25 + event.pressure) : tools.size);

  root.addEventListener("pointerdown", (event) => {
    if (!ink.width || held || event.button > 1) return;
    root.focus({ preventScroll: true });
    root.setPointerCapture(event.pointerId);
    event.preventDefault();
    const point = onSheet(event);
    if (event.button === 1 || spaceHeld || !tools.paints) dragging = here(event);
    else if (event.altKey && !mask) pick(point);
    else {
      begin(event.shiftKey && lastPoint ? lastPoint : point, widthOf(event));
      extend(point, widthOf(event));
    }
    showRing();
  });
  root.addEventListener("pointermove", (event) => {
    pen = onSheet(event);
    if (dragging) {
      const at = here(event);
      pan(at.x - dragging.x, at.y - dragging.y);
      dragging = at;
    } else if (drawing) {
      const moves = event.getCoalescedEvents?.() || [];
      for (const move of moves.length ? moves : [event]) extend(onSheet(move), widthOf(move));
    }
    showRing();
  });
  for (const kind of ["pointerup", "pointercancel"]) root.addEventListener(kind, () => {
    dragging = null;
    if (drawing) end();
    showRing();
  });
  root.addEventListener("pointerleave", () => { if (!drawing) { pen = null; showRing(); } });
  root.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) zoom(1.0015 ** -event.deltaY, here(event));
    else if (!view.fits) pan(-event.deltaX, -event.deltaY);
    else return;
    event.preventDefault();
  }, { passive: false });
  new ResizeObserver(() => { if (view.fits) fit(); }).observe(root);

  // Alt + click takes a colour from the picture.
  function pick(point) {
    const one = layer();
    one.width = one.height = 1;
    one.getContext("2d").drawImage(image, -Math.floor(point.x), -Math.floor(point.y));
    const [red, green, blue] = one.getContext("2d").getImageData(0, 0, 1, 1).data;
    set({ colour: `#${[red, green, blue].map((part) => part.toString(16).padStart(2, "0")).join("")}`, erase: false });
  }

  function set(next) {
    Object.assign(tools, next);
    place();
  }

  // Arrow keys move the brush, Enter puts a dab: painting without a mouse. True when the key was for us.
  function key(event) {
    const step = event.shiftKey ? 1 : Math.max(1, tools.size / 4);
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === " ") { spaceHeld = event.type === "keydown"; showRing(); return true; }
    if (event.type !== "keydown" || !ink.width || held || !tools.paints) return false;
    if (event.key === "Enter" && (pen || keyed)) { dab(pen || keyed); return true; }
    if (!ways[event.key]) return false;
    const from = pen || keyed || { x: ink.width / 2, y: ink.height / 2 };
    pen = keyed = { x: Math.min(Math.max(from.x + ways[event.key][0], 0), ink.width), y: Math.min(Math.max(from.y + ways[event.key][1], 0), ink.height) };
    showRing();
    return true;
  }

  return {
    hold, load, restoreInk, replaceInk, clear, fill, invert, toBlob, fit, setFrame, set, key, tools, view,
    undo: () => travel(past, future),
    redo: () => travel(future, past),
    zoomIn: () => zoom(1.3),
    zoomOut: () => zoom(1 / 1.3),
    dataUrl: () => exported().toDataURL("image/png"),
    get size() { return [ink.width, ink.height]; },
    get steps() { return [past.length, future.length]; },
  };
}

function layer() {
  const canvas = document.createElement("canvas");
  canvas.getContext("2d", { willReadFrequently: true }); // its pixels are read for undo and for saving
  return canvas;
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function union(one, other) {
  const x = Math.min(one.x, other.x);
  const y = Math.min(one.y, other.y);
  return { x, y, width: Math.max(one.x + one.width, other.x + other.width) - x, height: Math.max(one.y + one.height, other.y + other.height) - y };
}
