// What our nodes show of themselves: one surface a node. See surface.mjs for what it is, facts.mjs
// and runs.mjs for where it comes from, training.mjs and pose_upload.mjs for what single nodes add.
import { app } from "../../../scripts/app.js";
import { factsOf, followInputs, forgetFacts } from "./facts.mjs";
import { isOurs } from "./graph.mjs";
import { PoseUploadPart } from "./pose_upload.mjs";
import { readHistory, refusalsOf, resultOf, watchRuns } from "./runs.mjs";
import { STYLE } from "./style.mjs";
import { Surface, add } from "./surface.mjs";
import { TrainingPart, watchTrainings } from "./training.mjs";

const LOOK_MS = 300; // between two looks at inputs and at what the server refused
const PARTS = { TroupeTrainLora: TrainingPart, TroupeLoadPose: PoseUploadPart };

const surfaces = new Set();
let waiting = false;
let refusals = null;
let renderer = null;

/** Show everything anew, once however many reasons there are. */
function showAll() {
  if (waiting) return;
  waiting = true;
  queueMicrotask(() => {
    waiting = false;
    for (const surface of surfaces) show(surface);
  });
}

function show(surface) {
  const { node } = surface;
  const result = node.graph ? resultOf(node) : {};
  surface.show(factsOf(node), result, node.graph ? refusalsOf(node) : []);
}

function look() {
  if (refusals !== app.lastNodeErrors || renderer !== LiteGraph.vueNodesMode) {
    refusals = app.lastNodeErrors;
    renderer = LiteGraph.vueNodesMode;
    showAll();
  }
  followInputs(showAll);
}

function attach(node) {
  const Part = PARTS[node.comfyClass];
  const surface = new Surface(node, Part && new Part(node), show);
  surfaces.add(surface);
  const removed = node.onRemoved;
  node.onRemoved = function (...rest) {
    surfaces.delete(surface);
    return removed?.apply(this, rest);
  };
  surface.fit(); // a node from a file gets its own size after this
}

/** Lists that were empty hold a sentence; where there are files now, take the first. */
function leaveHints() {
  for (const { node } of surfaces) {
    for (const widget of node.widgets ?? []) {
      const values = widget.options?.values;
      if (!/^put .+ into /.test(widget.value) || !Array.isArray(values)) continue;
      if (values.length && !values.includes(widget.value)) widget.value = values[0];
    }
  }
}

app.registerExtension({
  name: "Troupe.Surface",
  setup() {
    add(document.head, "style", "", STYLE);
    watchRuns(showAll);
    setInterval(look, LOOK_MS);
    return watchTrainings(showAll);
  },
  nodeCreated(node) {
    if (isOurs(node)) attach(node);
  },
  afterConfigureGraph() {
    showAll(); // ids and the workflow's id are known only now
    readHistory();
  },
  refreshComboInNodes() {
    setTimeout(leaveHints); // the lists are filled after this
    forgetFacts();
  },
});
