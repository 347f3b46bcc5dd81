// What the inputs of our nodes come to before they run: asked of the server as they change.
import { api } from "../../../scripts/api.js";
import { describe, ourNodes } from "./graph.mjs";

const ROUTE = "/troupe/about";
const SETTLED_MS = 400; // inputs that have rested for so long are asked about

const seen = new WeakMap(); // node -> { question, at, asked }
const facts = new WeakMap(); // node -> what the server said
let busy = false;

/** { facts, warnings, idle, picture } of a node, {} while nothing is known. */
export const factsOf = (node) => facts.get(node) ?? {};

/** Ask anew about everything: files may have changed. */
export function forgetFacts() {
  for (const node of ourNodes()) seen.delete(node);
}

/** Look what has changed, ask when it has settled, call `changed` when there is an answer. */
export async function followInputs(changed) {
  if (busy || document.hidden) return;
  const prompt = {};
  const asked = new Map(); // id in the prompt -> node
  for (const node of ourNodes()) {
    const own = {};
    const id = describe(node, own);
    const question = JSON.stringify(own);
    const before = seen.get(node);
    if (before?.question !== question) seen.set(node, { question, at: Date.now(), asked: false });
    else if (!before.asked && Date.now() - before.at >= SETTLED_MS) {
      before.asked = true;
      asked.set(id, node);
      Object.assign(prompt, own);
    }
  }
  if (!asked.size) return;
  busy = true;
  try {
    const more = await ask(prompt, asked, false, changed);
    if (more.size) await ask(prompt, more, true, changed);
  } finally {
    busy = false;
  }
}

/** Ask about some nodes; those of them that have more to tell. */
async function ask(prompt, nodes, deep, changed) {
  const body = JSON.stringify({ prompt, nodes: [...nodes.keys()], deep });
  const headers = { "Content-Type": "application/json" };
  const more = new Map();
  let answers = {};
  try {
    const response = await api.fetchApi(ROUTE, { method: "POST", headers, body });
    if (response.ok) answers = await response.json();
  } catch {
    return more; // the server is gone; the page says so itself
  }
  for (const [id, node] of nodes) {
    const answer = answers[id];
    if (answer) facts.set(node, answer);
    else if (!deep) facts.delete(node);
    if (answer?.more) more.set(id, node);
  }
  changed();
  return more;
}
