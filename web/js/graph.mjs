// Finding nodes: by the ids that the server uses, and as a prompt would hold them.
import { app } from "../../../scripts/app.js";

const OURS = /^Troupe[A-Z]/;

export const rootGraph = () => app.rootGraph ?? app.graph;
export const workflowId = () => String(rootGraph()?.id ?? "");
export const isOurs = (node) => OURS.test(node?.comfyClass ?? node?.type ?? "");

/** The node an execution id such as "5" or, inside subgraphs, "3:5" stands for. */
export function nodeOf(executionId) {
  const path = String(executionId).split(":");
  let graph = rootGraph();
  for (const id of path.slice(0, -1)) graph = graph?.getNodeById(Number(id))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

/** The node that a link comes from, reroutes skipped; nothing where that is outside the graph. */
function origin(node, slot, depth = 0) {
  const link = node.graph?.getLink?.(node.inputs[slot].link);
  const from = link && node.graph.getNodeById(link.origin_id);
  if (from?.type === "Reroute" && depth < 20) return origin(from, 0, depth + 1);
  return from;
}

/** Add `node` and those of ours it is linked to, as `{id: {class_type, inputs}}`; its id there. */
export function describe(node, prompt, depth = 0) {
  const id = `${node.graph?.id ?? ""}/${node.id}`;
  if (prompt[id] || depth > 20) return id;
  const inputs = {};
  prompt[id] = { class_type: node.comfyClass ?? node.type, inputs };
  const linked = new Set();
  for (const [slot, input] of (node.inputs ?? []).entries()) {
    if (input.link == null) continue;
    linked.add(input.widget?.name ?? input.name);
    const from = origin(node, slot);
    const known = from && isOurs(from) ? describe(from, prompt, depth + 1) : "";
    inputs[input.name] = [known, 0];
  }
  for (const widget of node.widgets ?? []) {
    const plain = ["string", "number", "boolean"].includes(typeof widget.value);
    if (widget.serialize === false || linked.has(widget.name) || !plain) continue;
    inputs[widget.name] = widget.value;
  }
  return id;
}

/** Every node of ours that is open, those inside subgraphs too. */
export function* ourNodes(graph = rootGraph(), depth = 0) {
  for (const node of graph?.nodes ?? []) {
    if (isOurs(node)) yield node;
    if (node.subgraph && depth < 20) yield* ourNodes(node.subgraph, depth + 1);
  }
}
