// The one way from these scripts to the page's form: a gr.HTML whose events carry what was meant.

const waiting = [];
let trigger = null;
const listeners = [];

window.easelBridge = {
  connect(send) {
    trigger = send;
    while (waiting.length) trigger(...waiting.shift());
  },
  outcome(text) {
    let message = null;
    try { message = JSON.parse(text || "null"); } catch { return; }
    if (message) for (const listen of listeners) listen(message);
  },
};
for (const send of window.easelBridgeWaiting || []) window.easelBridge.connect(send);

export function send(event, detail = {}) {
  if (trigger) trigger(event, detail);
  else waiting.push([event, detail]);
}

// What a handler answered: {job, error: {field, sentence}, tokens, ...}
export function onOutcome(listen) {
  listeners.push(listen);
}

// The form's own commands, see DrawingHandlers.command.
export const command = (what, detail = {}) => send("command", { what, ...detail });
