// Two pictures, one question, the whole window. Votes are shown at once and kept until the studio has them on disk.

import { ask, button, h, sorry, tell, toast } from "./dom.js";

const AHEAD = 3; // pairs that are fetched and decoded before they are needed
const SETTLE = 140; // milliseconds in which a second click on the same pair is an accident
const GLOW = 80; // milliseconds that the choice is seen before the next pair stands
const STREAK_PAUSE = 60_000; // milliseconds; a longer pause ends a streak
const QUIET_LINE_EVERY = 20; // votes
const ZOOM = 3;
const OUTBOX = "easel.rate.outbox"; // votes that the studio has not acknowledged yet

const CHOICES = [
  ["left", "Left", "←"], ["both_bad", "Both bad", "B"], ["tie", "Tie", "↓"], ["skip", "Skip", "Space"], ["right", "Right", "→"],
];
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", b: "both_bad", " ": "skip" };

let open = null;

// A random UUID; crypto.randomUUID is missing where the page comes over a LAN without TLS.
function identity() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export const votingIsOpen = () => Boolean(open);

// Opens the view; `campaign` is {id, name, mine}, `rater` a name. `onClose` is called when it is left.
export function openVoting(campaign, rater, onClose) {
  const session = identity();
  open = { campaign, rater, session, onClose, ready: [], known: new Set(), current: null, shownAt: 0, settling: false, cast: [], undoing: false, mine: campaign.mine, times: [], streak: 0, fetching: null, parts: build(campaign) };
  document.body.append(open.parts.box);
  document.documentElement.classList.add("easel-voting-open");
  window.addEventListener("keydown", onKeyDown, true);
  window.addEventListener("keyup", onKeyUp, true);
  showNumbers();
  deliver();
  next();
}

export function closeVoting() {
  if (!open) return;
  const { parts, onClose } = open;
  open = null;
  window.removeEventListener("keydown", onKeyDown, true);
  window.removeEventListener("keyup", onKeyUp, true);
  document.documentElement.classList.remove("easel-voting-open");
  parts.box.remove();
  onClose?.();
}

function build(campaign) {
  const frame = (side) => h("button", { type: "button", class: "easel-pair-frame", "data-side": side, "aria-label": side === "left" ? "The left picture is better" : "The right picture is better", onclick: () => vote(side) });
  const parts = {
    prompt: h("h2", { class: "easel-pair-prompt" }),
    left: frame("left"),
    right: frame("right"),
    waiting: h("p", { class: "easel-pair-waiting", role: "status", hidden: true }),
    numbers: h("p", { class: "easel-pair-numbers", "aria-live": "off" }),
    saved: h("span", { class: "easel-pair-saved", role: "status" }),
    quiet: h("p", { class: "easel-pair-quiet", role: "status" }),
    undo: h("button", { type: "button", class: "easel-choice-button", disabled: true, onclick: undo }, "Undo", h("kbd", {}, "U")),
  };
  const zoom = h("button", { type: "button", class: "easel-choice-button", "aria-label": "Hold to zoom both" }, "Zoom", h("kbd", {}, "Z"));
  for (const [name, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false]]) zoom.addEventListener(name, () => zoomBoth(on));
  parts.pair = h("div", { class: "easel-pair" }, parts.left, parts.right);
  parts.pair.addEventListener("pointermove", aim);
  parts.buttons = h("div", { class: "easel-pair-choices", role: "group", "aria-label": "Which is better?" },
    parts.undo, CHOICES.map(([choice, words, key]) => h("button", { type: "button", class: "easel-choice-button", "data-choice": choice, onclick: () => vote(choice) }, words, h("kbd", {}, key))), zoom);
  parts.buttons.addEventListener("click", (event) => { if (event.detail) document.activeElement?.blur(); }); // the space bar stays 'skip'
  parts.pair.addEventListener("click", (event) => { if (event.detail) document.activeElement?.blur(); });
  parts.box = h("section", { id: "easel-voting", "aria-label": `Rating: ${campaign.name}` },
    h("header", {}, parts.numbers, parts.saved, h("span", { class: "easel-gap" }), button("Leave (Esc)", "close", closeVoting)),
    parts.prompt, parts.pair, parts.waiting, parts.buttons, parts.quiet);
  return parts;
}

// ---------------------------------------------------------------- pairs

function fetchPairs() {
  if (open.fetching) return open.fetching;
  const mine = open;
  const query = new URLSearchParams({ campaign: mine.campaign.id, rater: mine.rater, session: mine.session, count: AHEAD + 1 });
  mine.fetching = ask(`/easel/rate/pairs?${query}`).then((answer) => {
    for (const pair of answer.pairs) {
      if (mine.known.has(pair.pair)) continue;
      mine.known.add(pair.pair);
      mine.ready.push(preload(pair));
    }
    mine.why = answer.sentence;
    mine.over = answer.over;
  }).catch((error) => { mine.why = error.message; }).finally(() => { mine.fetching = null; });
  return mine.fetching;
}

function preload(pair) {
  const images = [pair.left, pair.right].map((source, at) => {
    const image = new Image();
    image.src = source;
    image.alt = at ? "Right picture" : "Left picture";
    image.draggable = false;
    return image;
  });
  const decoded = Promise.all(images.map((image) => image.decode())).then(() => true, () => false);
  return { ...pair, images, decoded };
}

async function next() {
  const mine = open;
  mine.current = null;
  if (!mine.ready.length) await fetchPairs();
  if (mine !== open || mine.current) return;
  const pair = mine.ready.shift();
  if (!pair) return wait();
  const whole = await pair.decoded;
  if (mine !== open) return;
  if (mine.current || mine.undoing) mine.ready.unshift(pair); // an undone pair came first
  else if (whole) show(pair);
  else next(); // a picture is gone: this pair cannot be judged
}

function show(pair) {
  const { parts } = open;
  open.current = pair;
  parts.waiting.hidden = true;
  parts.box.classList.remove("empty");
  parts.prompt.textContent = pair.prompt || "No prompt: which picture do you like better?";
  parts.pair.style.setProperty("--w", pair.width);
  parts.pair.style.setProperty("--h", pair.height);
  parts.left.replaceChildren(pair.images[0]);
  parts.right.replaceChildren(pair.images[1]);
  for (const side of ["left", "right"]) parts[side].classList.remove("chosen");
  parts.pair.classList.remove("chosen");
  open.settling = true;
  parts.box.classList.add("settling");
  const mine = open;
  requestAnimationFrame(() => { // honest milliseconds: from the frame that shows both
    mine.shownAt = performance.now();
    setTimeout(() => { mine.settling = false; parts.box.classList.remove("settling"); }, SETTLE);
  });
  if (open.ready.length < AHEAD) fetchPairs();
}

function wait() {
  const { parts } = open;
  parts.box.classList.add("empty");
  parts.left.replaceChildren();
  parts.right.replaceChildren();
  parts.prompt.textContent = "";
  parts.waiting.hidden = false;
  parts.waiting.textContent = open.why || "The next pair is being drawn.";
  const mine = open;
  if (!mine.over) setTimeout(() => { if (mine === open && !mine.current) next(); }, 1000);
}

// ---------------------------------------------------------------- votes

function vote(choice) {
  const pair = open?.current;
  if (!pair || open.settling || open.undoing) return;
  const milliseconds = Math.round(performance.now() - open.shownAt);
  const cast = { event: identity(), pair: pair.pair, campaign: open.campaign.id, rater: open.rater, session: open.session, choice, response_ms: milliseconds };
  glow(choice);
  open.current = null;
  open.cast.push({ ...cast, shown: pair });
  count(choice, 1);
  send("/easel/rate/votes", cast);
  const mine = open;
  setTimeout(() => { if (mine === open && !mine.current && !mine.undoing) next(); }, GLOW);
  if (choice !== "skip" && mine.mine % QUIET_LINE_EVERY === 0) quietLine();
}

function glow(choice) {
  const { parts } = open;
  if (choice === "left" || choice === "right") parts[choice].classList.add("chosen");
  if (choice === "tie") parts.pair.classList.add("chosen");
  const pressed = parts.buttons.querySelector(`[data-choice="${choice}"]`);
  pressed?.classList.add("pressed");
  setTimeout(() => pressed?.classList.remove("pressed"), GLOW + 60);
}

function count(choice, step) {
  if (choice !== "skip") {
    const now = Date.now();
    open.mine += step;
    if (step > 0) {
      open.streak = open.times.length && now - open.times.at(-1) > STREAK_PAUSE ? 1 : open.streak + 1;
      open.times.push(now);
    } else {
      open.streak = Math.max(0, open.streak - 1);
      open.times.pop();
    }
  }
  showNumbers();
}

function showNumbers() {
  const { parts, times, mine, streak, cast } = open;
  const recent = times.slice(-20);
  const minutes = recent.length > 1 ? (recent.at(-1) - recent[0]) / 60_000 : 0;
  const pace = minutes > 0 ? `${Math.round((recent.length - 1) / minutes)} a minute` : "";
  parts.numbers.replaceChildren(h("strong", {}, `${mine} ${mine === 1 ? "vote" : "votes"}`),
    ...[pace, streak > 1 ? `${streak} in a row` : ""].filter(Boolean).map((words) => h("span", {}, words)));
  parts.undo.disabled = cast.length === 0;
}

async function undo() {
  if (!open || open.undoing || !open.cast.length) return;
  const mine = open;
  const last = mine.cast.pop();
  mine.undoing = true;
  await deliver();
  try {
    const answer = await tell("/easel/rate/undo", { event: identity(), vote: last.event, campaign: mine.campaign.id, rater: mine.rater, session: mine.session });
    if (mine !== open) return;
    if (mine.current) mine.ready.unshift(mine.current);
    count(last.choice, -1);
    const again = preload(answer.pair);
    await again.decoded;
    if (mine === open) show(again);
  } catch (error) {
    mine.cast.push(last);
    sorry(error);
  } finally {
    mine.undoing = false;
    if (mine === open) {
      showNumbers();
      if (!mine.current) next();
    }
  }
}

async function quietLine() {
  const mine = open;
  await deliver();
  try {
    const query = new URLSearchParams({ campaign: mine.campaign.id, rater: mine.rater });
    const standing = await ask(`/easel/rate/standing?${query}`);
    if (mine === open) mine.parts.quiet.textContent = standing.sentence;
  } catch { /* a line that can wait until the next twenty */ }
}

// ---------------------------------------------------------------- the outbox: nothing is lost when the studio is away

const outbox = () => JSON.parse(localStorage.getItem(OUTBOX) || "[]");
const keep = (waiting) => (waiting.length ? localStorage.setItem(OUTBOX, JSON.stringify(waiting)) : localStorage.removeItem(OUTBOX));
let delivering = null;

function send(path, body) {
  keep([...outbox(), { path, body }]);
  return deliver();
}

// Hands over what waits, in order, one at a time; a vote leaves the outbox when it is on the studio's disk.
export function deliver() {
  delivering ??= handOver().finally(() => { delivering = null; });
  return delivering;
}

async function handOver() {
  let pause = 250;
  for (let waiting = outbox(); waiting.length; waiting = outbox()) {
    const [{ path, body }] = waiting;
    try {
      const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
      if (answer.status >= 500 || answer.status === 401) throw new Error("again");
      const content = await answer.json().catch(() => ({}));
      keep(outbox().filter((other) => other.body.event !== body.event));
      if (answer.ok) saved(content);
      else refused(body, content.sentence || "This vote was refused.");
      pause = 250;
    } catch {
      open?.parts.saved.replaceChildren(`${waiting.length} not saved yet; trying again`);
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(pause * 2, 5000);
    }
  }
}

function saved() {
  if (!open) return;
  const { parts } = open;
  parts.saved.replaceChildren("saved");
  parts.saved.classList.remove("fresh");
  requestAnimationFrame(() => parts.saved.classList.add("fresh"));
}

function refused(body, sentence) {
  toast(sentence);
  if (!open) return;
  const at = open.cast.findIndex((cast) => cast.event === body.event);
  if (at >= 0) {
    const [{ choice }] = open.cast.splice(at, 1);
    count(choice, -1);
  }
}

// ---------------------------------------------------------------- keys, zoom

function onKeyDown(event) {
  if (!open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "?" || key === "t") return; // the page's own
  event.stopImmediatePropagation(); // a focused button still gets its Space or Enter
  const onButton = event.target.closest?.("#easel-voting button:not([data-side])");
  const act = KEYS[key] ? () => vote(KEYS[key]) : { u: undo, z: () => zoomBoth(true), Escape: closeVoting }[key];
  if (!act || (onButton && key === " ")) return;
  event.preventDefault();
  if (!event.repeat) act();
}

function onKeyUp(event) {
  if (event.key.toLowerCase() === "z") zoomBoth(false);
}

function zoomBoth(on) {
  if (!open) return;
  open.parts.pair.style.setProperty("--zoom", on ? ZOOM : 1);
  open.parts.pair.classList.toggle("zoomed", on);
}

// Both pictures are zoomed at the same place: where the pointer is in either.
function aim(event) {
  const frame = event.target.closest?.(".easel-pair-frame");
  if (!frame) return;
  const box = frame.getBoundingClientRect();
  const pair = frame.parentElement.style;
  pair.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
  pair.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
}
