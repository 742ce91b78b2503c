// The learned taste outside the Rate tab: a score when asked for, the best of a batch, best of N.

import { h, sorry, tell, ask, toast } from "./dom.js";
import { lookNow } from "./state.js";

const owner = "/easel/rate/owner";

export async function score(picture) {
  try {
    toast((await ask(`${owner}/pictures/${picture.id}/score`)).sentence);
  } catch (error) { sorry(error); }
}

export async function best(picture) {
  try {
    toast((await tell(`${owner}/pictures/${picture.id}/best`)).sentence);
  } catch (error) { sorry(error); }
}

// 'Keep the best 2': now for a batch that is drawn, else when it is.
export function keepBest(job, count) {
  const many = h("select", { "aria-label": "How many stay" }, [1, 2, 3, 4, 6, 8].filter((n) => n < count).map((n) => h("option", { value: n }, String(n))));
  const act = h("button", { type: "button", class: "easel-link", title: "Your learned taste picks; the others go to the bin, where you find them again.", onclick: async () => {
    try {
      toast((await tell(`${owner}/jobs/${job.id}/keep-best`, { keep: Number(many.value) })).sentence);
      lookNow();
    } catch (error) { sorry(error); }
  } }, "Keep the best");
  return h("span", { class: "easel-keep-best" }, act, " ", many, ` of ${count}`);
}
