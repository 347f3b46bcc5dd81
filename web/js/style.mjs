// How the surfaces of our nodes look; colours follow the palette of the front end.

export const STYLE = `
.troupe { --bad: color-mix(in srgb, #ef3a3a 62%, var(--input-text, #ddd));
  --warn: color-mix(in srgb, #d98500 55%, var(--input-text, #ddd));
  display: flex; flex-direction: column; gap: 6px; box-sizing: border-box; width: 100%;
  height: auto; max-height: 100%; overflow: hidden; padding: 7px 8px; border-radius: 8px;
  font: 12px/1.35 Inter, system-ui, sans-serif; text-align: left; color: var(--input-text, #ddd);
  background: var(--comfy-input-bg, #222); }
.troupe.vue { background: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.troupe.tall { height: 100%; }
.troupe.vue:not(.tall) { flex: none; }
.troupe > * { flex: none; }
.troupe [hidden] { display: none !important; }
.troupe .text { white-space: pre-wrap; overflow-wrap: anywhere; user-select: text; cursor: text; }
.troupe .facts { opacity: 0.85; }
.troupe .picture { align-self: flex-start; max-width: 100%; max-height: 160px; border-radius: 4px;
  object-fit: contain; }
.troupe .warnings { color: var(--warn); }
.troupe .warnings:empty { display: none; }
.troupe .problem { display: flex; align-items: flex-start; gap: 6px; padding: 5px 7px; border-left: 3px solid var(--bad); border-radius: 3px;
  color: var(--bad); background: color-mix(in srgb, #ef3a3a 12%, transparent); }
.troupe .wrong { flex: 1; }
.troupe .head { display: flex; align-items: center; gap: 6px; min-height: 20px; }
.troupe .label { flex: 1; font-size: 10px; opacity: 0.65; }
.troupe .report { display: flex; flex-direction: column; flex: 1 1 auto; min-height: 0; }
.troupe .scroller { flex: 1 1 auto; min-height: 0; overflow-y: auto; }
.troupe.vue .scroller { max-height: 150px; }
.troupe .scroller:focus-visible, .troupe button:focus-visible, .troupe a:focus-visible {
  outline: 2px solid #5b9dff; outline-offset: 1px; }
.troupe .troupe-button { align-self: flex-start; padding: 1px 8px; border-radius: 10px;
  border: 1px solid color-mix(in srgb, var(--input-text, #ddd) 45%, transparent);
  color: inherit; background: transparent; font: inherit; cursor: pointer; }
.troupe .troupe-button:hover { background: rgba(127, 127, 127, 0.25); }
.troupe .status { flex: 1; }
.troupe-training .bar { flex: none; height: 3px; border-radius: 2px;
  background: rgba(127, 127, 127, 0.25); }
.troupe-training .done { height: 100%; border-radius: 2px; background: #5b9dff;
  transition: width 0.3s; }
.troupe-training[data-status="done"] .done { background: #5fc48f; }
.troupe-training[data-status="failed"] .done { background: var(--bad); }
.troupe-training .chart { position: relative; flex: 1 1 96px; min-height: 60px;
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
.troupe-training .samples:empty, .troupe-training .figures:empty,
.troupe-training.says[data-status="idle"] > .head, .troupe-training[data-status="idle"] .bar,
.troupe-training[data-status="idle"] .chart { display: none; }
.troupe-training figure { margin: 0; flex: none; }
.troupe-training figure img { height: 84px; border-radius: 4px; margin-right: 2px;
  vertical-align: top; }
.troupe-training figcaption { font-size: 10px; opacity: 0.65; }
`;
