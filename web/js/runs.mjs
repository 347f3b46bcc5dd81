// What the last runs of this workflow said: reports and errors by node, from events and history.
//
// The server keeps the history of its prompts, so a page that is opened later, or while another
// one runs the workflow, shows the same.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodeOf, workflowId } from "./graph.mjs";

const REMEMBERED = 20; // prompts of the history that are looked at

const results = new Map(); // "workflow/execution id" -> { report, error, at }
const workflows = new Map(); // prompt id -> id of its workflow
let changed = () => {};

/** Call `listener` whenever there is something new. */
export function watchRuns(listener) {
  changed = listener;
  api.addEventListener("execution_start", ({ detail }) => started(detail));
  api.addEventListener("executed", ({ detail }) => said(detail));
  api.addEventListener("execution_error", ({ detail }) => failed(detail));
  api.addEventListener("reconnected", readHistory);
}

/** { report, error } of the last run of a node, {} without one. */
export function resultOf(node) {
  const prefix = `${workflowId()}/`;
  for (const [key, result] of results) {
    if (key.startsWith(prefix) && nodeOf(key.slice(prefix.length)) === node) return result;
  }
  return {};
}

/** What the server refused of a node when it was queued last, in sentences. */
export function refusalsOf(node) {
  for (const [id, entry] of Object.entries(app.lastNodeErrors ?? {})) {
    if (nodeOf(id) === node) return [...new Set((entry.errors ?? []).map(sentence))];
  }
  return [];
}

function sentence({ type, message, details, extra_info: about }) {
  const name = about?.input_name ?? "";
  const plain = name.replaceAll("_", " ");
  const own = String(details ?? "").replace(`${name} - `, "");
  switch (type) {
    case "custom_validation_failed":
      return own;
    case "required_input_missing":
      return `Connect ${plain || "what is missing"}.`;
    case "value_not_in_list":
      return `${plain}: ${about?.received_value ?? "this value"} is not in the list: choose another.`;
    default:
      return [message, own].filter(Boolean).join(": ");
  }
}

/** Which workflow a prompt belongs to: it lies in the queue while it runs, then in the history. */
async function workflowOf(promptId) {
  if (!workflows.has(promptId)) {
    const queue = await read("/queue");
    const entries = [...(queue?.queue_running ?? []), ...(queue?.queue_pending ?? [])];
    let entry = entries.find(([, id]) => id === promptId);
    entry ??= (await read(`/history/${encodeURIComponent(promptId)}`))?.[promptId]?.prompt;
    if (!entry) return ""; // asked again with the next event
    workflows.set(promptId, idIn(entry));
  }
  return workflows.get(promptId);
}

const idIn = (entry) => String(entry?.[3]?.extra_pnginfo?.workflow?.id ?? "");

async function read(route) {
  try {
    const response = await api.fetchApi(route);
    return response.ok ? await response.json() : null;
  } catch {
    return null; // the server is gone; `reconnected` asks again
  }
}

async function started({ prompt_id: promptId }) {
  forgetErrors(await workflowOf(promptId));
  changed();
}

async function said({ node, output, prompt_id: promptId }) {
  keep(await workflowOf(promptId), node, reportIn(output), "");
  changed();
}

async function failed({ node_id: node, exception_message: message, prompt_id: promptId }) {
  keep(await workflowOf(promptId), node, null, String(message ?? "").trim());
  changed();
}

const reportIn = (output) => (Array.isArray(output?.text) ? output.text.join("\n") : "");

function keep(workflow, node, report, error) {
  const key = `${workflow}/${node}`;
  results.set(key, { report: report ?? results.get(key)?.report ?? "", error });
}

/** A new run begins: what went wrong before is no longer so. */
function forgetErrors(workflow) {
  for (const [key, result] of results) {
    if (key.startsWith(`${workflow}/`)) results.set(key, { ...result, error: "" });
  }
}

/** Read what the newest prompts of the history said; what came by events since is newer. */
export async function readHistory() {
  const history = (await read(`/history?max_items=${REMEMBERED}`)) ?? {};
  const byNumber = Object.values(history).sort((a, b) => a.prompt[0] - b.prompt[0]);
  for (const { prompt, outputs, status } of byNumber) {
    workflows.set(prompt[1], idIn(prompt));
    forgetErrors(idIn(prompt));
    for (const [node, output] of Object.entries(outputs ?? {})) {
      keep(idIn(prompt), node, reportIn(output), "");
    }
    for (const [event, detail] of status?.messages ?? []) {
      if (event !== "execution_error") continue;
      keep(idIn(prompt), detail.node_id, null, String(detail.exception_message ?? "").trim());
    }
  }
  changed();
}
