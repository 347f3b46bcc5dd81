// The part of Train SDXL LoRA's surface that shows a training: curve, figures, samples, pause.
//
// It only shows what the server says (nodes/runtime/panel.py). Messages may be lost and pages
// reloaded: every message has a number, and after a gap the page asks for everything again.
import { api } from "../../../scripts/api.js";
import { curveMarkup, duration, figure } from "./curve.mjs";
import { forgetFacts } from "./facts.mjs";
import { nodeOf, workflowId } from "./graph.mjs";
import { add, addButton } from "./surface.mjs";

const ROUTE = "/troupe/training";
const ACTIVE = ["preparing", "training", "sampling"];
const SILENCE_MS = 4000; // without a message of a running training before we ask

const states = new Map(); // "workflow/node" -> what the server last said
let asking = null;
let heardAt = 0;
let changed = () => {};

const keyOf = (state) => `${state.workflow}/${state.node}`;

/** Follow all trainings, and call `listener` whenever there is something new. */
export function watchTrainings(listener) {
  changed = listener;
  api.addEventListener("troupe.training", onMessage);
  api.addEventListener("reconnected", askForAll);
  setInterval(askInSilence, SILENCE_MS);
  return askForAll();
}

function stateOf(node) {
  let found = null;
  for (const state of states.values()) {
    if (state.workflow === workflowId() && nodeOf(state.node) === node) found = state;
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
  changed();
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
  changed();
}

/** The last message may be the lost one, so silence is not believed for long. */
function askInSilence() {
  const running = [...states.values()].some((state) => ACTIVE.includes(state.status));
  if (running && Date.now() - heardAt > SILENCE_MS) askForAll();
}

/** Pause or go on; why that cannot be, "" if it can. */
async function press(run, action, then) {
  const body = JSON.stringify({ run, then });
  const headers = { "Content-Type": "application/json" };
  try {
    const response = await api.fetchApi(`${ROUTE}/${action}`, { method: "POST", headers, body });
    return (await response.json()).error ?? "";
  } catch {
    return "The server does not answer.";
  } finally {
    askForAll();
  }
}

export class TrainingPart {
  constructor(node) {
    this.node = node;
    this.state = null;
    this.refused = ""; // why the last button did nothing
    node.hideOutputImages = true; // the samples are shown here, not once more below
    node.onDrawBackground = () => {}; // where the canvas draws them
  }

  build({ element }) {
    element.classList.add("troupe-training");
    this.element = element;
    this.head = add(element, "div", "head");
    this.status = add(this.head, "span", "status");
    this.button = addButton(this.head, "Pause", () => this.press("pause", "hold"));
    this.later = addButton(this.head, "Let others first", () => this.press("pause", "yield"));
    this.resume = addButton(this.head, "Go on", () => this.press("resume"));
    const bar = add(element, "div", "bar");
    this.done = add(bar, "div", "done");
    this.chart = add(element, "div", "chart");
    this.chart.dataset.least = 96;
    this.figures = add(element, "div", "figures");
    this.samples = add(element, "div", "samples");
    this.said = add(element, "div", "warnings text");
  }

  async press(action, then) {
    this.refused = await press(this.state.run, action, then);
    changed();
  }

  wanted = () => true;
  tall = () => Boolean(this.state);
  quiet = () => ACTIVE.includes(this.state?.status);

  show() {
    const before = this.state?.status;
    const state = (this.state = stateOf(this.node));
    if (ACTIVE.includes(before) && !ACTIVE.includes(state?.status)) forgetFacts(); // its pace is known
    this.element.dataset.status = state?.status ?? "idle";
    this.element.dataset.step = state?.figures.step ?? "";
    const running = ACTIVE.includes(state?.status);
    this.button.hidden = this.later.hidden = !running;
    this.resume.hidden = state?.status !== "paused";
    if (!state) {
      this.status.textContent = "Loss, speed and samples appear here while it trains.";
      return;
    }
    const { step = 0, steps = 0 } = state.figures;
    const word = state.status[0].toUpperCase() + state.status.slice(1);
    const failed = state.status === "failed"; // what went wrong stands below, as on every node
    const head = [word, steps ? `step ${step} / ${steps}` : "", failed ? "" : state.text];
    this.status.textContent = head.filter(Boolean).join(" \u00b7 ");
    this.done.style.width = `${steps ? (100 * step) / steps : 0}%`;
    this.chart.innerHTML = curveMarkup(state.curve, state.validation, steps); // numbers only
    this.chart.hidden = !this.chart.innerHTML;
    this.showFigures(state);
    this.showSamples(state.samples);
    const warnings = running ? state.warnings : []; // then the report has them
    this.said.textContent = [...warnings, this.refused].filter(Boolean).join("\n");
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
      const pair = add(this.samples, "figure");
      for (const part of ["base", "picture"]) {
        if (!sample[part]) continue;
        const link = add(pair, "a", part);
        link.href = api.apiURL(`/view?${new URLSearchParams(sample[part])}`);
        link.target = "_blank";
        link.title = `${part === "base" ? "without" : "with"} the LoRA: ${sample.prompt}`;
        const picture = add(link, "img");
        picture.src = link.href;
        picture.alt = link.title;
      }
      add(pair, "figcaption", "", `step ${sample.step}`);
    }
  }
}
