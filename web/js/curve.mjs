// The curves of a training as SVG, and numbers as people read them.

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
