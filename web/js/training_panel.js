// The live panel of Train LoRA: loss curve, learning rate, speed, memory, time left, samples.
//
// A DOM widget, so it works in both renderers of the front end. It only shows what the server says
// (nodes/runtime/panel.py); without this file training is the same. Messages may be lost and pages
// reloaded: every message has a number, and after a gap the page asks for everything again.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { STYLE, curveMarkup, duration, figure } from "./training_view.mjs";

const NODE = "TroupeTrainLora";
const ROUTE = "/troupe/training";
const ACTIVE = ["preparing", "training", "sampling"];
const IDLE_HEIGHT = 44;
const FULL_HEIGHT = 330;
const SILENCE_MS = 4000; // without a message of a running training before we ask

const states = new Map(); // "workflow/node" -> what the server last said
const panels = new Set();
let asking = null;
let heardAt = 0;

const root = () => app.rootGraph ?? app.graph;
const keyOf = (state) => `${state.workflow}/${state.node}`;

/** The node an execution id such as "5" or, inside subgraphs, "3:5" stands for. */
function nodeOf(executionId) {
  const path = String(executionId).split(":");
  let graph = root();
  for (const id of path.slice(0, -1)) graph = graph?.getNodeById(Number(id))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1)));
}

function stateOf(node) {
  const workflow = root()?.id;
  let found = null;
  for (const state of states.values()) {
    if (state.workflow === workflow && nodeOf(state.node) === node) found = state;
  }
  return found;
}

/** Everything the server knows; calls while one is under way share its answer. */
function askForAll() {
  asking ??= fetchAll()
    .catch(() => false) // the server is gone; `reconnected` asks again
    .then((overtaken) => {
      asking = null;
      return overtaken && askForAll();
    });
  return asking;
}

/** Take over what the server knows; whether a message with a gap before it is newer than that. */
async function fetchAll() {
  const response = await api.fetchApi(ROUTE);
  const all = response.ok ? await response.json() : [];
  for (const state of all) {
    const known = states.get(keyOf(state));
    if (known?.run !== state.run || known.number <= state.number) states.set(keyOf(state), state);
  }
  showAll();
  return all.some((state) => states.get(keyOf(state)).gap);
}

function onMessage({ detail }) {
  if (!detail?.run) return;
  heardAt = Date.now();
  const { points = [], ...state } = detail;
  const before = states.get(keyOf(state));
  const known = before?.run === state.run ? before : { number: 0, curve: [], gap: false };
  if (state.number <= known.number) return;
  const gap = known.gap || state.number !== known.number + 1;
  const last = known.curve.at(-1)?.[0] ?? -1; // an answer may hold points that come again
  const curve = [...known.curve, ...points.filter(([step]) => step > last)];
  states.set(keyOf(state), { ...state, curve, gap });
  if (gap || curve.length > 1200) askForAll();
  showAll();
}

/** The last message may be the lost one, so silence is not believed for long. */
function askInSilence() {
  const running = [...states.values()].some((state) => ACTIVE.includes(state.status));
  if (running && Date.now() - heardAt > SILENCE_MS) askForAll();
}

function showAll() {
  for (const panel of panels) panel.show();
}

async function press(run, action, then) {
  const body = JSON.stringify({ run, then });
  const headers = { "Content-Type": "application/json" };
  try {
    await api.fetchApi(`${ROUTE}/${action}`, { method: "POST", headers, body });
  } finally {
    askForAll();
  }
}

/** A child of `parent` with a class and a text. */
function add(parent, tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  parent.append(element);
  return element;
}

class Panel {
  constructor(node) {
    this.node = node;
    this.run = null;
    this.element = document.createElement("div");
    this.element.className = "troupe-training";
    this.head = add(this.element, "div", "head");
    this.status = add(this.head, "span", "status");
    this.button = this.makeButton("Pause", () => press(this.run, "pause", "hold"));
    this.later = this.makeButton("Let others first", () => press(this.run, "pause", "yield"));
    this.resume = this.makeButton("Go on", () => press(this.run, "resume"));
    const bar = add(this.element, "div", "bar");
    this.done = add(bar, "div", "done");
    this.chart = add(this.element, "div", "chart");
    this.figures = add(this.element, "div", "figures");
    this.samples = add(this.element, "div", "samples");
    this.warnings = add(this.element, "div", "warnings");
    this.widget = node.addDOMWidget("training_panel", "troupe_training", this.element, {
      serialize: false,
      hideOnZoom: false,
      getValue: () => "",
      setValue: () => {},
      getMinHeight: () => (this.run ? FULL_HEIGHT : IDLE_HEIGHT),
    });
    this.widget.serialize = false; // neither in the workflow file nor in the prompt
    this.show();
  }

  makeButton(text, action) {
    const button = add(this.head, "button", "troupe-button", text);
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      action();
    });
    return button;
  }

  show() {
    const state = stateOf(this.node);
    const grows = Boolean(state) !== Boolean(this.run);
    this.run = state?.run ?? null;
    this.element.dataset.status = state?.status ?? "idle";
    this.element.dataset.step = state?.figures.step ?? "";
    this.element.dataset.node = this.node.id;
    if (grows) this.resize();
    const running = ACTIVE.includes(state?.status);
    this.button.hidden = this.later.hidden = !running;
    this.resume.hidden = state?.status !== "paused";
    if (!state) {
      this.status.textContent = "Loss, speed and samples appear here while it trains.";
      return;
    }
    const { step = 0, steps = 0 } = state.figures;
    const word = state.status[0].toUpperCase() + state.status.slice(1);
    const head = [word, steps ? `step ${step} / ${steps}` : ""];
    this.status.textContent = [...head, state.text].filter(Boolean).join(" \u00b7 ");
    this.done.style.width = `${steps ? (100 * step) / steps : 0}%`;
    this.chart.innerHTML = curveMarkup(state.curve, state.validation, steps); // numbers only
    this.showFigures(state);
    this.showSamples(state.samples);
    this.warnings.textContent = state.warnings.join("\n");
  }

  showFigures({ figures, status, plan }) {
    const planned = plan.memory?.total_mb;
    const left = ACTIVE.includes(status) ? duration(figures.left) : "";
    const memory = figures.memory_mb && `${(figures.memory_mb / 1024).toFixed(1)} GB`;
    const speed = figures.seconds && `${figure(figures.seconds)} s/step`;
    const cells = {
      loss: figure(figures.average),
      "learning rate": figure(figures.learning_rate),
      speed,
      memory,
      left,
      skipped: figures.skipped || "",
    };
    this.figures.replaceChildren();
    for (const [name, value] of Object.entries(cells)) {
      if (value === "" || value == null) continue;
      const cell = add(this.figures, "div", "figure");
      cell.dataset.name = name;
      if (name === "memory" && planned) cell.title = `planned: ${(planned / 1024).toFixed(1)} GB`;
      add(cell, "b", "", String(value));
      add(cell, "small", "", name);
    }
  }

  showSamples(samples) {
    const wanted = JSON.stringify(samples);
    if (this.samples.dataset.shown === wanted) return; // pictures would flicker
    this.samples.dataset.shown = wanted;
    this.samples.replaceChildren();
    for (const sample of samples) {
      const pair = add(this.samples, "figure", "");
      for (const part of ["base", "picture"]) {
        if (!sample[part]) continue;
        const link = add(pair, "a", part);
        link.href = api.apiURL(`/view?${new URLSearchParams(sample[part])}`);
        link.target = "_blank";
        link.title = `${part === "base" ? "without" : "with"} the LoRA: ${sample.prompt}`;
        add(link, "img", "").src = link.href;
      }
      add(pair, "figcaption", "", `step ${sample.step}`);
    }
  }

  resize() {
    const [width, height] = this.node.size;
    const least = this.node.computeSize?.() ?? this.node.size;
    this.node.setSize?.([width, Math.max(height, least[1])]);
    this.node.setDirtyCanvas?.(true, true);
  }
}

function attach(node) {
  const panel = new Panel(node);
  panels.add(panel);
  const removed = node.onRemoved;
  node.onRemoved = function (...rest) {
    panels.delete(panel);
    return removed?.apply(this, rest);
  };
}

app.registerExtension({
  name: "Troupe.TrainingPanel",
  setup() {
    add(document.head, "style", "", STYLE);
    api.addEventListener("troupe.training", onMessage);
    api.addEventListener("reconnected", askForAll);
    setInterval(askInSilence, SILENCE_MS);
    return askForAll();
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
  },
  afterConfigureGraph: showAll, // ids and the workflow's id are known only now
});
