// The one way from these scripts to the page's form: a gr.HTML whose events carry what was meant.

const waiting = [];
let trigger = null;
const listeners = [];
let restored = null; // what came with the form as it was left; for places that are built later too
let turn = 0; // of the form as the page last heard of it, see ui/kept.py
const STANDING = ["adapters", "earlier", "model", "size_note", "tokens"]; // how the form stands

window.easelBridge = {
  connect(send) {
    trigger = send;
    while (waiting.length) trigger(...waiting.shift());
  },
  outcome(text) {
    let message = null;
    try { message = JSON.parse(text || "null"); } catch { return; }
    if (!message) return;
    if (message.restored) restored = message;
    else if (message.turn < turn) for (const name of STANDING) delete message[name]; // answers may overtake each other
    if ("turn" in message) turn = message.restored ? message.turn : Math.max(turn, message.turn);
    for (const listen of listeners) listen(message);
  },
};
for (const send of window.easelBridgeWaiting || []) window.easelBridge.connect(send);
if (window.easelBridgeSaid) window.easelBridge.outcome(window.easelBridgeSaid); // it came first

export function send(event, detail = {}) {
  if (trigger) trigger(event, detail);
  else waiting.push([event, detail]);
}

export const lastTurn = () => turn;

// What a handler answered: {job, error: {field, sentence}, tokens, ...}
export function onOutcome(listen) {
  listeners.push(listen);
  if (restored) listen(restored);
}

const before = [];

// What has to be on disk before a command may replace it.
export const beforeCommands = (run) => before.push(run);

// The form's own commands, see ui/commands.py.
export async function command(what, detail = {}) {
  await Promise.allSettled(before.map((run) => run()));
  send("command", { what, ...detail });
}
