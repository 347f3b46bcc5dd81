// How the panel of Train LoRA looks: its style, the curves as SVG, numbers as people read them.

export const STYLE = `
.troupe-training { display: flex; flex-direction: column; gap: 6px; box-sizing: border-box;
  width: 100%; height: 100%; overflow: hidden; padding: 8px; border-radius: 8px;
  font: 12px/1.3 system-ui, sans-serif; color: var(--input-text, #ddd);
  background: var(--comfy-input-bg, #222); }
.troupe-training .head { display: flex; align-items: center; gap: 6px; min-height: 20px; }
.troupe-training .status { flex: 1; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; }
.troupe-training[data-status="failed"] .status { white-space: normal; color: #ff8a80; }
.troupe-training .troupe-button { padding: 1px 8px; border: 1px solid var(--border-color, #555);
  border-radius: 10px; color: inherit; background: transparent; font: inherit; cursor: pointer; }
.troupe-training .troupe-button:hover { background: rgba(127, 127, 127, 0.25); }
.troupe-training [hidden] { display: none; }
.troupe-training .bar { flex: none; height: 3px; border-radius: 2px;
  background: rgba(127, 127, 127, 0.25); }
.troupe-training .done { height: 100%; border-radius: 2px; background: #5b9dff;
  transition: width 0.3s; }
.troupe-training[data-status="done"] .done { background: #5fc48f; }
.troupe-training[data-status="failed"] .done { background: #ff8a80; }
.troupe-training .chart { position: relative; flex: 1 1 90px; min-height: 60px;
  border-radius: 4px; background: rgba(127, 127, 127, 0.08); }
.troupe-training svg { position: absolute; width: 100%; height: 100%; }
.troupe-training svg path { fill: none; vector-effect: non-scaling-stroke; }
.troupe-training .loss { stroke: #5b9dff; stroke-width: 1.6; }
.troupe-training .area { stroke: none; fill: #5b9dff; fill-opacity: 0.12; }
.troupe-training .rate { stroke: #d6a24a; stroke-width: 1; stroke-dasharray: 4 3; }
.troupe-training .validation { stroke: #5fc48f; stroke-width: 1.6; }
.troupe-training .legend { position: absolute; top: 3px; right: 6px; font-size: 10px;
  opacity: 0.85; display: flex; gap: 8px; }
.troupe-training .legend .key { stroke: none; }
.troupe-training .low, .troupe-training .high { position: absolute; left: 5px; font-size: 10px;
  opacity: 0.6; }
.troupe-training .low { bottom: 2px; }
.troupe-training .high { top: 2px; }
.troupe-training .figures { display: flex; flex-wrap: wrap; gap: 2px 16px; flex: none; }
.troupe-training .figure { display: flex; flex-direction: column; }
.troupe-training .figure b { font-weight: 600; font-variant-numeric: tabular-nums; }
.troupe-training .figure small { font-size: 10px; opacity: 0.65; }
.troupe-training .samples { display: flex; gap: 8px; overflow-x: auto; flex: none; }
.troupe-training .samples:empty, .troupe-training .warnings:empty,
.troupe-training[data-status="idle"] > :not(.head) { display: none; }
.troupe-training figure { margin: 0; flex: none; }
.troupe-training figure img { height: 84px; border-radius: 4px; margin-right: 2px;
  vertical-align: top; }
.troupe-training figcaption { font-size: 10px; opacity: 0.65; }
.troupe-training .warnings { max-height: 34px; overflow-y: auto; flex: none; white-space: pre-wrap;
  font-size: 11px; color: #e0b050; }
`;

/** 0.1234, 1.5e-5, 12.3: three figures that matter; "" for no number. */
export function figure(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(1) : String(+value.toPrecision(3));
}

/** Seconds as "2 h 5 min", "3 min 20 s" or "12 s". */
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "";
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

const isPair = (point) => point.every((value) => Number.isFinite(value));

/** An SVG path through [x, y] in 0..1, y upwards, in a box of 1000 x 1000. */
function path(points) {
  const at = ([x, y]) => `${(1000 * x).toFixed(1)} ${(1000 * (1 - y)).toFixed(1)}`;
  return points.length ? `M${points.map(at).join("L")}` : "";
}

/**
 * The chart as markup: the smoothed loss, the learning rate below it, validation where there is.
 * Both losses share one scale; the learning rate has its own from 0.
 * curve: [step, loss, learning rate], validation: [step, loss]; everything else is left out.
 */
export function curveMarkup(curve, validation, steps) {
  const points = (curve ?? []).filter((point) => isPair(point.slice(0, 2)));
  const held = (validation ?? []).filter(isPair);
  if (!points.length) return "";
  const losses = [...points, ...held].map((point) => point[1]);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const end = Math.max(steps || 0, ...points.map((point) => point[0]), 1);
  const rates = points.filter((point) => Number.isFinite(point[2]));
  const top = Math.max(...rates.map((point) => point[2]), 1e-30);
  const scale = (loss) => 0.08 + (0.8 * (loss - low)) / (high - low || 1);
  const loss = points.map(([step, value]) => [step / end, scale(value)]);
  const area = [[loss[0][0], 0], ...loss, [loss.at(-1)[0], 0]];
  const rate = rates.map(([step, , value]) => [step / end, (0.9 * value) / top]);
  const check = held.map(([step, value]) => [step / end, scale(value)]);
  const key = (color, text) => `<span style="color:${color}">${text}</span>`;
  return `<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">
    <path class="area" d="${path(area)}"/><path class="rate" d="${path(rate)}"/>
    <path class="loss" data-points="${loss.length}" d="${path(loss)}"/>
    <path class="validation" d="${path(check)}"/></svg>
    <span class="high">${figure(high)}</span><span class="low">${figure(low)}</span>
    <div class="legend">${key("#5b9dff", "loss")}${key("#d6a24a", "learning rate")}
    ${held.length ? key("#5fc48f", "validation") : ""}</div>`;
}
