// Made by `python -m jaxheads.view`.
const STYLE = ".jh { --bg: #fff; --fg: #1b1f24; --muted: #5b636d; --line: #d5dae0; --panel: #f4f6f8; --accent: #0060a0; --mark: #b34700;\n  position: relative; color: var(--fg); background: var(--bg); color-scheme: light;\n  font: 14px/1.45 system-ui, -apple-system, \"Segoe UI\", Roboto, \"Noto Sans\", sans-serif; text-align: left;\n  -webkit-print-color-adjust: exact; print-color-adjust: exact; }\n.jh[data-theme=\"dark\"] { --bg: #15181d; --fg: #e7eaee; --muted: #a3acb8; --line: #3a414b; --panel: #20252c; --accent: #7cc3f2; --mark: #f5a25d;\n  color-scheme: dark; }\n.jh *, .jh *::before { box-sizing: border-box; }\n.jh [hidden] { display: none !important; }\n.jh h2, .jh h3 { margin: 0 0 .4rem; font-size: 1.05rem; line-height: 1.3; font-weight: 600; }\n.jh h2 { font-size: 1.2rem; }\n.jh ul { margin: 0; padding-left: 1.1rem; }\n.jh p { margin: 0 0 .6rem; }\n.jh button, .jh select { font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--line); border-radius: 5px; padding: .15rem .55rem;\n  min-height: 1.9rem; cursor: pointer; }\n.jh button:hover, .jh select:hover { border-color: var(--muted); }\n.jh :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; z-index: 1; }\n.jh .jh-row { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin: 0 0 .6rem; }\n.jh select { max-width: 100%; min-width: 0; }\n.jh .jh-control { max-width: 100%; min-width: 0; display: inline-flex; gap: .4rem; align-items: center; }\n.jh .jh-control label, .jh .jh-muted { color: var(--muted); }\n.jh .jh-choice button { border-radius: 0; margin-left: -1px; }\n.jh .jh-choice button:first-child { border-radius: 5px 0 0 5px; }\n.jh .jh-choice button:last-child { border-radius: 0 5px 5px 0; }\n.jh .jh-choice button:only-child { border-radius: 5px; }\n.jh button[aria-pressed=\"true\"] { background: var(--accent); border-color: var(--accent); color: var(--bg); }\n.jh .jh-scroll { overflow: auto; max-width: 100%; max-height: 75vh; padding: 2px; }\n.jh .jh-legend { display: inline-flex; gap: .4rem; align-items: center; font-variant-numeric: tabular-nums; }\n.jh .jh-bar { display: inline-block; width: 7rem; height: .8rem; border: 1px solid var(--line); }\n.jh .jh-key { display: inline-flex; gap: .4rem; align-items: center; color: var(--muted); }\n.jh .jh-key .jh-cell { width: 1.1rem; }\n.jh .jh-grid { display: inline-grid; gap: 1px; min-width: min-content; max-width: 100%; width: 60rem; justify-content: start; }\n.jh .jh-contents { display: contents; }\n.jh .jh-head { color: var(--muted); font-size: .75rem; text-align: center; padding: 0 .3rem 0 0; white-space: nowrap; font-weight: 400; align-self: center; }\n.jh .jh-cell { position: relative; display: block; min-height: 1.1rem; height: 1.6rem; border: 1px solid var(--line); cursor: pointer; }\n.jh .jh-cell[aria-selected=\"true\"] { box-shadow: 0 0 0 2px var(--mark); z-index: 1; }\n.jh .jh-cell:focus-visible { outline-width: 3px; }\n.jh .jh-key .jh-cell { cursor: default; height: 1.1rem; }\n.jh .jh-hatched { background-image: repeating-linear-gradient(45deg, rgb(var(--hatch, 0 0 0) / .45) 0 1px, transparent 1px 5px); }\n.jh .jh-missing { background: repeating-linear-gradient(90deg, var(--line) 0 1px, transparent 1px 4px); }\n.jh .jh-faint { opacity: .13; }\n.jh .jh-list { border-collapse: collapse; font-variant-numeric: tabular-nums; }\n.jh .jh-list th, .jh .jh-list td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: left; font-weight: 400; white-space: nowrap; }\n.jh .jh-list button { border: 0; background: none; padding: 0; color: var(--accent); min-height: 0; }\n.jh .jh-list [aria-sort=\"descending\"] button::after { content: \" \u25be\"; }\n.jh .jh-list [aria-sort=\"ascending\"] button::after { content: \" \u25b4\"; }\n.jh .jh-wide { width: 12rem; min-width: 6rem; }\n.jh .jh-track { position: relative; display: block; height: 1rem; }\n.jh .jh-zero { position: absolute; top: 0; bottom: 0; border-left: 1px solid var(--line); }\n.jh .jh-whisker { position: absolute; top: 50%; border-top: 2px solid var(--muted); }\n.jh .jh-dot { position: absolute; top: 50%; width: 8px; height: 8px; margin: -4px; border-radius: 50%; }\n.jh .jh-card { border: 1px solid var(--line); background: var(--panel); border-radius: 6px; padding: .6rem .9rem; margin-top: .8rem; max-width: 46rem; }\n.jh .jh-tip { position: absolute; z-index: 20; pointer-events: none; background: var(--fg); color: var(--bg); border-radius: 5px; padding: .35rem .6rem;\n  font-size: .85rem; max-width: min(22rem, 90vw); overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }\n.jh .jh-tip-title { font-weight: 600; }\n.jh .jh-status { position: sticky; top: 0; z-index: 2; background: var(--bg); padding: .15rem 0; min-height: 1.45em; color: var(--muted); overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }\n.jh .jh-thumbs { display: inline-grid; gap: 3px; }\n.jh .jh-thumb { padding: 0 !important; min-height: 0 !important; border-radius: 2px !important; line-height: 0; aspect-ratio: 1; width: 100%; overflow: hidden; background: var(--bg); }\n.jh .jh-thumb canvas { width: 100%; height: 100%; image-rendering: pixelated; }\n.jh .jh-thumb[aria-pressed=\"true\"] { border-color: var(--mark); box-shadow: 0 0 0 2px var(--mark); background: var(--bg); }\n.jh .jh-text { line-height: 2; max-width: 60rem; overflow-wrap: anywhere; }\n.jh .jh-token { display: inline; border-radius: 3px; padding: .12em .1em; margin: 0 1px; white-space: pre-wrap; cursor: pointer; border-bottom: 2px solid transparent; }\n.jh .jh-token[aria-pressed=\"true\"], .jh .jh-token.jh-chosen { box-shadow: 0 0 0 2px var(--mark); }\n.jh .jh-text .jh-token { display: inline-block; max-width: 100%; line-height: 1.45; }\n.jh .jh-padding { opacity: .35; }\n.jh .jh-label { color: var(--muted); font-size: .8rem; }\n.jh .jh-matrix { position: relative; display: inline-block; max-width: 100%; }\n.jh .jh-matrix canvas { display: block; image-rendering: pixelated; border: 1px solid var(--line); width: 100%; height: auto; cursor: crosshair; }\n.jh .jh-cross { position: absolute; pointer-events: none; outline: 2px solid var(--mark); }\n.jh .jh-lines { display: grid; grid-template-columns: max-content minmax(60px, 240px) max-content; }\n.jh .jh-lines .jh-column { display: grid; grid-auto-rows: 20px; min-width: 0; }\n.jh .jh-lines .jh-column > * { line-height: 20px; height: 20px; padding: 0 .35rem; margin: 0; overflow: hidden; text-overflow: ellipsis; white-space: pre; max-width: 34vw;\n  border: 0; cursor: pointer; border-radius: 3px; }\n.jh .jh-lines .jh-column:first-child { text-align: right; }\n.jh svg text { fill: var(--fg); font-size: 11px; }\n.jh svg .jh-axis { stroke: var(--line); fill: none; }\n.jh .jh-picture { position: relative; display: inline-block; max-width: 100%; line-height: 0; touch-action: manipulation; }\n.jh .jh-side { min-width: 0; max-width: 100%; }\n.jh .jh-scroll + h3 { margin-top: .8rem; }\n.jh .jh-picture img { display: block; width: 100%; image-rendering: auto; }\n.jh .jh-picture canvas { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated; cursor: crosshair; }\n.jh .jh-chart { display: block; width: 100%; max-width: 46rem; height: auto; }\n.jh .jh-chart .jh-name { font-size: 12px; fill: var(--muted); }\n.jh .jh-diagonal { stroke: var(--muted); stroke-dasharray: 4 4; }\n.jh .jh-point { stroke: var(--bg); stroke-width: 1; cursor: pointer; }\n.jh .jh-point[aria-pressed=\"true\"], .jh .jh-point:focus-visible { stroke: var(--mark); stroke-width: 3; outline: none; }\n.jh .jh-named { pointer-events: none; }\n.jh .jh-whiskers line { stroke: var(--fg); stroke-width: 1.5; }\n.jh .jh-level { stroke: var(--muted); stroke-dasharray: 5 4; }\n.jh .jh-cursor { stroke: var(--mark); }\n.jh .jh-swatch { display: inline-block; width: .8rem; height: .8rem; border-radius: 50%; }\n.jh .jh-switch { display: inline-flex; gap: .4rem; align-items: center; }\n.jh .jh-switch[aria-pressed=\"true\"] { background: var(--panel); color: var(--fg); border-color: var(--muted); }\n.jh .jh-switch[aria-pressed=\"false\"] { opacity: .5; text-decoration: line-through; }\n.jh .jh-negative { border-bottom-color: currentcolor; }\n.jh .jh-words { border-collapse: separate; border-spacing: 1px; font-size: .8rem; }\n.jh .jh-words th { font-weight: 400; color: var(--muted); text-align: center; padding: 0 .3rem; white-space: pre; position: sticky; top: 0; background: var(--bg); }\n.jh .jh-word { padding: .1rem .35rem; max-width: 7rem; overflow: hidden; text-overflow: ellipsis; white-space: pre; text-align: center; border: 1px solid var(--line); }\n.jh .jh-graph { display: block; height: auto; max-width: none; }\n.jh .jh-graph text { pointer-events: none; }\n.jh .jh-node { cursor: pointer; }\n.jh .jh-node rect { fill: var(--panel); stroke: var(--muted); }\n.jh .jh-node:focus-visible { outline: none; }\n.jh .jh-node:focus-visible rect, .jh .jh-node:hover rect { stroke: var(--mark); stroke-width: 2.5; }\n@media print {\n  .jh .jh-scroll { max-height: none; overflow: visible; }\n  .jh .jh-row button, .jh .jh-tip { display: none; }\n  .jh .jh-row button[aria-pressed=\"true\"] { display: inline; }\n}\n.jh.jh-page { font-size: 15px; }\n.jh-page h1 { font-size: 1.5rem; margin: 0 0 .5rem; line-height: 1.25; }\n.jh-page .jh-guide { max-width: 62rem; margin-bottom: .8rem; }\n.jh-page .jh-guide ol { margin: .3rem 0 0; padding-left: 1.4rem; }\n.jh-page .jh-tools { border-block: 1px solid var(--line); padding: .5rem 0; margin: 0 0 1rem; }\n.jh-page input { font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--line); border-radius: 5px; padding: .15rem .4rem; min-height: 1.9rem; }\n.jh-page .jh-panels { display: grid; gap: 2rem; grid-template-columns: minmax(0, 1fr); }\n.jh-page .jh-panel { container-type: inline-size; min-width: 0; }\n.jh-page .jh-panel + .jh-panel { margin-top: 0; }\n.jh-page .jh-part + .jh-part { margin-top: 1rem; }\n.jh-page .jh-panel-title { display: none; }\n.jh-page .jh-two .jh-panel-title { display: block; }\n.jh-page .jh-panel h3 { margin: 1rem 0 .4rem; }\n.jh-page h4 { margin: .9rem 0 .3rem; font-size: .95rem; font-weight: 600; }\n.jh-page .jh-chips { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; }\n.jh-page .jh-chip { display: inline-flex; gap: .4rem; align-items: center; border-radius: 1rem; padding: .1rem .7rem .1rem .25rem; }\n.jh-page .jh-chip[disabled] { opacity: .45; cursor: default; }\n.jh-page .jh-chip[aria-pressed=\"true\"] .jh-muted { color: inherit; }\n.jh-page .jh-swatch { display: inline-grid; place-items: center; width: 1.35rem; height: 1.35rem; border-radius: 50%; font-size: .75rem; font-weight: 700; }\n.jh-page .jh-about { min-height: 4.4em; margin: .5rem 0 0; max-width: 46rem; }\n.jh-page .jh-mapbox { overflow-x: auto; padding: 2px; }\n.jh-page .jh-map { width: 100%; max-width: 30rem; min-width: min(100%, 12rem); }\n.jh-page .jh-map .jh-cell { height: 1.3rem; min-height: 0; display: grid; place-items: center; font-size: .75rem; font-weight: 700; line-height: 1; }\n.jh-page .jh-map .jh-plain { background: var(--panel); }\n.jh-page .jh-map .jh-cell:hover { outline: 2px solid var(--fg); outline-offset: -1px; z-index: 1; }\n.jh-page .jh-scatter { width: 100%; max-width: 34rem; height: auto; display: block; }\n.jh-page .jh-scatter text { font-size: 12px; }\n.jh-page .jh-point { fill: var(--fill); stroke: var(--bg); stroke-width: 1; cursor: pointer; }\n.jh-page .jh-point.jh-faint { opacity: .18; }\n.jh-page .jh-point[aria-pressed=\"true\"] { stroke: var(--fg); stroke-width: 2.5; opacity: 1; }\n.jh-page .jh-point:focus-visible { outline: none; stroke: var(--fg); stroke-width: 3; }\n.jh-page .jh-leaders { padding-left: 1.6rem; margin: 0 0 .5rem; }\n.jh-page .jh-link { border: 0; background: none; padding: 0; min-height: 0; color: var(--accent); text-decoration: underline; text-underline-offset: 2px; }\n.jh-page .jh-page-card { border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem; min-width: 0; background: var(--bg); scroll-margin-top: .5rem; }\n.jh-page .jh-control, .jh-page .jh-axes, .jh-page .jh-axes > * { max-width: 100%; min-width: 0; }\n.jh-page .jh-control label { white-space: nowrap; }\n.jh-page select { min-width: 0; max-width: min(100%, 17rem); text-overflow: ellipsis; }\n.jh-page .jh-start { list-style: none; padding: 0; max-width: 50rem; }\n.jh-page .jh-start li { display: grid; grid-template-columns: 9.5rem 1fr; gap: .8rem; align-items: start; margin-bottom: .7rem; }\n.jh-page .jh-without { margin: 0; }\n.jh-page .jh-card-top { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center; margin-bottom: .5rem; }\n.jh-page .jh-card-top h2 { font-size: 1.3rem; margin: 0; }\n.jh-page .jh-card-top h2:focus { outline: none; }\n.jh-page .jh-card-top .jh-steps { margin: 0 0 0 auto; gap: .4rem; }\n.jh-page .jh-badges { display: inline-flex; flex-wrap: wrap; gap: .3rem .8rem; }\n.jh-page .jh-badge { display: inline-flex; gap: .35rem; align-items: center; }\n.jh-page .jh-lead { font-size: 1.02rem; max-width: 50rem; }\n.jh-page .jh-part { min-width: 0; border-top: 1px solid var(--line); padding-top: .2rem; margin-top: 1rem; }\n.jh-page .jh-part > p { max-width: 50rem; }\n.jh-page summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }\n.jh-page .jh-muted { font-size: .9em; }\n.jh-page .jh-jobs .jh-weak th, .jh-page .jh-jobs .jh-weak td { color: var(--muted); }\n.jh-page .jh-jobs tr:not(.jh-weak) th { font-weight: 600; }\n.jh-page .jh-list .jh-wide { min-width: 7rem; }\n.jh-page .jh-list .jh-meaning { white-space: normal; min-width: 14rem; }\n.jh-page .jh-score { position: relative; display: block; height: .8rem; background: var(--panel); border: 1px solid var(--line); }\n.jh-page .jh-score-fill { position: absolute; inset: 0 auto 0 0; background: var(--accent); }\n.jh-page .jh-score.jh-weak .jh-score-fill { background: var(--muted); opacity: .55; }\n.jh-page .jh-score .jh-whisker { border-top-color: var(--fg); }\n.jh-page .jh-chance { position: absolute; top: -3px; bottom: -3px; border-left: 2px solid var(--mark); }\n.jh-page .jh-tag { display: inline-block; border-radius: 4px; padding: 0 .4rem; border: 1px solid var(--line); font-size: .9em; }\n.jh-page .jh-worse { border-color: var(--mark); color: var(--mark); font-weight: 600; }\n.jh-page .jh-better { border-color: var(--accent); color: var(--accent); font-weight: 600; }\n.jh-page .jh-effect { margin: .6rem 0 1rem; }\n.jh-page .jh-effect p { margin: 0 0 .2rem; }\n.jh-page .jh-dots { width: 100%; max-width: 34rem; height: auto; display: block; }\n.jh-page .jh-example { fill: var(--accent); opacity: .55; }\n.jh-page .jh-interval { stroke: var(--fg); stroke-width: 4; opacity: .8; }\n.jh-page .jh-mean { fill: var(--fg); }\n.jh-page .jh-null { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 4 3; }\n.jh-page .jh-dots .jh-end { fill: var(--muted); }\n.jh-page .jh-token.jh-still { cursor: default; }\n.jh-page .jh-query { outline: 2px solid var(--mark); outline-offset: 1px; border-radius: 3px; font-weight: 600; }\n.jh-page .jh-contexts { padding-left: 1.4rem; }\n.jh-page .jh-contexts li { margin-bottom: .7rem; }\n.jh-page .jh-contexts p { margin: 0; }\n.jh-page .jh-copied { text-decoration: underline; font-weight: 600; color: var(--fg); }\n.jh-page .jh-foot { border-top: 1px solid var(--line); margin-top: 1.5rem; padding-top: .6rem; max-width: 62rem; }\n.jh-page .jh-status { min-height: 2.9em; }\n@container (min-width: 900px) {\n  .jh-page .jh-panel { display: block; }\n  .jh-page .jh-over { float: left; width: 24rem; }\n  .jh-page .jh-page-card { margin-left: 26rem; min-height: 40rem; }\n  .jh-page .jh-back { display: none; }\n}\n@container (max-width: 899px) {\n  .jh-page .jh-page-card { margin-top: 1.2rem; padding: .8rem; }\n}\n@media (min-width: 900px) {\n  .jh-page .jh-panels.jh-two { grid-template-columns: repeat(2, minmax(0, 1fr)); }\n}\n@media print {\n  .jh-page .jh-guide, .jh-page .jh-tools, .jh-page .jh-steps { display: none; }\n  .jh-page .jh-part, .jh-page .jh-effect { break-inside: avoid; }\n  .jh-page .jh-page-card { border: 0; padding: 0; }\n}\n";
const $arrays = (() => {
// Arrays that `jaxheads.view.arrays.packed` wrote: {shape, bits, low, high, power, deflated, data}.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function decoded(packed, bytes) {
  const { shape, bits, low, high, power = 1 } = packed;
  if (bits === 32) return { shape, values: new Float32Array(bytes.buffer, 0, bytes.byteLength / 4) };
  const codes = bits === 16 ? new Uint16Array(bytes.buffer, 0, bytes.byteLength / 2) : bytes;
  const last = 2 ** bits - 2; // the code above it is NaN
  const table = bits === 8 ? new Float32Array(256) : null;
  const value = (code) => (code > last ? NaN : low + (high - low) * (code / last) ** power);
  if (table) for (let code = 0; code < 256; code++) table[code] = value(code);
  const values = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = table ? table[codes[i]] : value(codes[i]);
  return { shape, values };
}

// The array at once: {shape, values}. A deflated one needs `unpacked`.
function unpack(packed) {
  if (packed.deflated) throw new Error("a deflated array is unpacked by `await unpacked(…)`");
  return decoded(packed, bytesOf(packed.data));
}

// The array, deflated or not, as a promise.
async function unpacked(packed) {
  let bytes = bytesOf(packed.data);
  if (packed.deflated) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  return decoded(packed, bytes);
}

// Least and largest finite value; [0, 1] where there is none.
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

return { unpack, unpacked, extent };
})();

const $colors = (() => {
// Colours: readable for colour-blind readers, since lightness alone orders a ramp, and both signs differ in hue as well.

// Okabe & Ito 2008, as jaxheads.plots has them, less black; on dark ground the darker ones are lighter.
const PALETTES = {
  light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"],
  dark: ["#4FA8DE", "#F08A3C", "#2FC79B", "#E09BC2", "#F2BC4B", "#9AD4F5", "#BBBBBB"],
};
const SEQUENTIAL = {
  light: ["#ffffff", "#cfe1f2", "#74b0dc", "#1f78b8", "#08306b"],
  dark: ["#15181d", "#173a5c", "#2273b0", "#63b3ea", "#f2f9ff"],
};
const DIVERGING = {
  light: ["#08407a", "#5aa0d0", "#ffffff", "#f0a35e", "#9c3f00"],
  dark: ["#b5dcff", "#2f86c4", "#15181d", "#c8641b", "#ffd0a0"],
};

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function between(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(at), stops.length - 2), part = at - index;
  return stops[index].map((from, channel) => Math.round(from + (stops[index + 1][channel] - from) * part));
}

// "light" or "dark": of the notebook or page around, else of the system; paper is light.
function theme(root) {
  if (matchMedia("print").matches || root.dataset.printing) return "light";
  const given = root.parentElement?.closest("[data-theme]")?.dataset.theme;
  if (given === "light" || given === "dark") return given;
  const body = document.body;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  if (body.classList.contains("vscode-dark")) return "dark";
  if (body.classList.contains("vscode-light")) return "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

// Calls `draw` now and whenever the theme changes, and marks the root with it.
function themed(root, draw) {
  const update = () => {
    const own = theme(root);
    if (root.dataset.theme === own) return;
    root.dataset.theme = own;
    draw(own);
  };
  const printing = (on) => () => {
    if (on) root.dataset.printing = "yes";
    else delete root.dataset.printing;
    update();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  matchMedia("print").addEventListener("change", update);
  addEventListener("beforeprint", printing(true));
  addEventListener("afterprint", printing(false));
  new MutationObserver(update).observe(document.documentElement, { attributes: true, subtree: false });
  new MutationObserver(update).observe(document.body, { attributes: true, subtree: false });
  update();
}

// Calls `draw` when the view becomes narrow or wide.
function resized(root, draw) {
  let narrow = root.clientWidth < 600;
  new ResizeObserver(() => {
    if (root.clientWidth < 600 === narrow || !root.clientWidth) return;
    narrow = !narrow;
    draw();
  }).observe(root);
}

// Function of a value that returns [red, green, blue]; diverging about 0 where values have both signs.
function ramp(theme, low, high) {
  const two = low < 0 && high > 0, size = Math.max(-low, high);
  const stops = (two ? DIVERGING : SEQUENTIAL)[theme].map(rgb);
  if (!two && high <= 0) return (value) => between(stops, (high - value) / (high - low || 1));
  return (value) => between(stops, two ? (value / size + 1) / 2 : (value - low) / (high - low || 1));
}

function css(color) {
  return `rgb(${color.join(" ")})`;
}

// Black or white: the one with more contrast (WCAG 2.2).
function textOn(color) {
  const [red, green, blue] = color.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

function color(theme, index) {
  return PALETTES[theme][index % PALETTES[theme].length];
}

// Draws numbers [rows, columns] as pixels of a canvas of that size; NaN stays empty.
function paint(canvas, values, rows, columns, colorOf) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    if (Number.isNaN(values[i])) continue;
    const [red, green, blue] = colorOf(values[i]);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

// A bar of colours with its ends, for a legend.
function colorBar(theme, low, high, words) {
  const two = low < 0 && high > 0, size = Math.max(-low, high), [from, to] = two ? [-size, size] : [low, high];
  const colorOf = ramp(theme, low, high);
  const stops = Array.from({ length: 9 }, (_, index) => css(colorOf(from + ((to - from) * index) / 8)));
  const bar = document.createElement("span");
  bar.className = "jh-bar";
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ends = [from, to].map((value) => Object.assign(document.createElement("span"), { textContent: words(value) }));
  const whole = document.createElement("span");
  whole.className = "jh-legend";
  whole.append(ends[0], bar, ends[1]);
  return whole;
}

return { theme, themed, resized, ramp, css, textOn, color, paint, colorBar };
})();

const $dom = (() => {
// Elements without innerHTML: all text is put in as text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") Object.entries(value).forEach(([key, own]) => element.style.setProperty(key, own));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// h("button", {class: "jh-cell", "data-layer": 3, click: open}, "text", child…)
function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A number as people read it: .84, 12.3, 1,204, .0031, 2.1e-7; a dash where there is none.
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en").replace("-", "−");
  let text;
  if (size >= 1e6 || size < 1e-4) text = value.toExponential(1);
  else if (size >= 100) text = Math.round(value).toLocaleString("en");
  else if (size >= 10) text = value.toFixed(1);
  else if (size >= 0.1) text = value.toFixed(2);
  else text = value.toPrecision(2);
  return text.replace(/^(-?)0\./, "$1.").replaceAll("-", "−");
}

// "induction .84 [.80, .88], n 32"
function estimate(name, value, low, high, n) {
  const interval = Number.isFinite(low) && Number.isFinite(high) ? ` [${number(low)}, ${number(high)}]` : "";
  return `${name} ${number(value)}${interval}${n === undefined || Number.isNaN(n) ? "" : `, n ${number(n)}`}`;
}

// A token as it is shown: its spaces and line ends can be seen, and an empty one has a place.
function shown(token) {
  return token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "\u00b7".repeat(spaces.length)) || "∅";
}

// One tab stop among many items; arrow keys, Home and End move between them. `columns` as a number makes a grid.
function roving(container, items, { columns = 1, enter = null } = {}) {
  const list = [...items];
  list.forEach((item, index) => item.setAttribute("tabindex", index ? "-1" : "0"));
  const place = new Map(list.map((item, index) => [item, index]));
  const seen = (item) => item.getClientRects().length > 0;
  container.addEventListener("keydown", (event) => {
    const from = place.get(event.target.closest("[tabindex]"));
    if (from === undefined) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (enter && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      return enter(list[from], from);
    }
    let step = steps[event.key], to = from + step;
    if (event.key === "Home") [step, to] = [1, 0];
    if (event.key === "End") [step, to] = [-1, list.length - 1];
    if (step === undefined) return;
    event.preventDefault();
    while (list[to] && !seen(list[to])) to += step;
    if (list[to]) list[to].focus();
  });
  container.addEventListener("focusin", (event) => {
    if (!place.has(event.target)) return;
    for (const item of container.querySelectorAll('[tabindex="0"]')) if (place.has(item)) item.setAttribute("tabindex", "-1");
    event.target.setAttribute("tabindex", "0");
  });
}

let labels = 0;

// A select with its label; `choose` gets the option's number.
function select(label, options, choose, chosen = 0) {
  const id = `jh-${++labels}`;
  const own = h("select", { id, change: (event) => choose(Number(event.target.value)) },
    options.map((option, index) => h("option", { value: index, selected: index === chosen }, option)));
  return h("span", { class: "jh-control" }, h("label", { for: id }, label), own);
}

// Buttons of which one is pressed.
function choice(label, options, choose, chosen = 0) {
  const buttons = options.map((option, index) =>
    h("button", { type: "button", "aria-pressed": index === chosen, click: () => pick(index) }, option));
  function pick(index) {
    buttons.forEach((button, own) => button.setAttribute("aria-pressed", String(own === index)));
    choose(index);
  }
  buttons.forEach((button, own) => button.setAttribute("aria-pressed", String(own === chosen)));
  return h("span", { class: "jh-choice", role: "group", "aria-label": label }, buttons);
}

// A slider with its label and its value; `choose` gets the number.
function slider(label, { min, max, step, value, words = number }, choose) {
  const id = `jh-${++labels}`;
  const said = h("output", { for: id }, words(value));
  const own = h("input", { id, type: "range", min, max, step, value, input: (event) => {
    said.textContent = words(Number(event.target.value));
    choose(Number(event.target.value));
  } });
  return h("span", { class: "jh-control" }, h("label", { for: id }, label), own, said);
}

// The heads that a view names: "layer 5 head 1", with the stack where there are several.
function headName(layer, head, stack = "") {
  return `${stack ? `${stack} ` : ""}layer ${layer} head ${head}`;
}

// Tells the page around a view which head was opened.
function announce(element, detail) {
  element.dispatchEvent(new CustomEvent("jaxheads:head", { bubbles: true, detail }));
}

return { h, svg, number, estimate, shown, roving, select, choice, slider, headName, announce };
})();

const $pooling = (() => {
// Patterns between words, and between parts of a pair.

function groups(words) {
  const starts = [];
  words.forEach((word, at) => {
    if (at === 0 || word < 0 || word !== words[at - 1]) starts.push(at);
  });
  return starts.map((start, index) => [start, starts[index + 1] ?? words.length]);
}

// Sums over the keys of a word, means over its queries (Clark et al. 2019); special tokens stay by themselves.
function pooled({ values, queries, keys, parts }, words) {
  const rows = groups(words.queries), columns = groups(words.keys), sums = new Float32Array(rows.length * columns.length);
  rows.forEach(([from, to], row) => columns.forEach(([left, right], column) => {
    let sum = 0;
    for (let query = from; query < to; query++)
      for (let key = left; key < right; key++) sum += values[query * keys.length + key];
    sums[row * columns.length + column] = sum / (to - from);
  }));
  const joined = (texts, own) => own.map(([from, to]) => texts.slice(from, to).join(""));
  const firsts = (names, own) => names && own.map(([from]) => names[from]);
  return {
    values: sums, queries: joined(queries, rows), keys: joined(keys, columns),
    parts: { queries: firsts(parts.queries, rows), keys: firsts(parts.keys, columns) },
  };
}

// Weights from queries of one part to keys of another; all others are 0.
function within({ values, queries, keys, parts }, [from, to]) {
  return values.map((value, at) => {
    const query = Math.floor(at / keys.length), key = at % keys.length;
    return parts.queries[query] === from && parts.keys[key] === to ? value : 0;
  });
}

// What one query gives all keys, or with `backwards` what all queries give one key.
function weights({ values, queries, keys }, index, backwards) {
  return backwards ? Float32Array.from(queries, (_, query) => values[query * keys.length + index])
    : values.slice(index * keys.length, (index + 1) * keys.length);
}

// The largest weights of a token in words: "“ sat” looks at “ cat” .62, “ The” .21".
function largest(list, texts, words, count = 4) {
  return [...list.keys()].filter((at) => list[at] > 0.005).sort((one, other) => list[other] - list[one]).slice(0, count)
    .map((at) => `“${texts[at]}” ${words(list[at])}`);
}

return { pooled, within, weights, largest };
})();

const $one_head = (() => {
// One head's pattern as text, as lines, as a matrix, and over a picture. Each returns an element.

const { color, css, paint, ramp, textOn } = $colors;
const { h, number, roving, shown, svg } = $dom;
const { largest, weights } = $pooling;

const MOST_LINES = 800; // of the strongest weights, where no token is chosen
const HEIGHT = 20;

// What is said of a token: its largest weights.
function said(context, index) {
  const { queries, keys, state } = context, [from, to] = state.backwards ? [keys, queries] : [queries, keys];
  const words = largest(weights(context, index, state.backwards), to.map(shown), number);
  return `“${shown(from[index])}” (${index}) ${state.backwards ? "is seen by" : "looks at"} ${words.join(", ") || "nothing much"}`;
}

function token(text, index, attributes = {}) {
  return h("span", { class: `jh-token${text ? "" : " jh-padding"}`, role: "button", "data-token": index, ...attributes }, shown(text));
}

// The scale of the root, so that small weights can be seen; black or white text on it.
function shade(element, weight, colorOf) {
  const own = colorOf(Math.sqrt(Math.max(weight, 0)));
  element.style.backgroundColor = weight > 0.002 ? css(own) : "";
  element.style.color = weight > 0.002 ? textOn(own) : "";
}

// Calls `choose` with the token under the pointer or the focus; a click or Enter keeps it.
function watched(container, context, selector, choose) {
  const item = (event) => event.target.closest?.(selector);
  const index = (event) => Number(item(event).dataset.token);
  const keep = (own) => {
    context.focus(context.state.focus === own ? null : own);
    choose(own);
  };
  container.addEventListener("pointerover", (event) => item(event) && context.state.focus === null && choose(index(event)));
  container.addEventListener("focusin", (event) => item(event) && context.state.focus === null && choose(index(event)));
  container.addEventListener("click", (event) => item(event) && keep(index(event)));
  container.addEventListener("pointerleave", () => context.state.focus === null && choose(null));
  return keep;
}

function paragraphs(texts, parts, side) {
  const items = texts.map((text, index) => token(text, index, { "data-side": side }));
  const whole = h("div", { class: "jh-text" });
  items.forEach((item, index) => {
    if (parts && parts[index] !== parts[index - 1]) whole.append(h("div", { class: "jh-label" }, parts[index]));
    whole.append(item);
  });
  return { items, whole };
}

function onText(context) {
  const { queries, keys, parts, self, state } = context, colorOf = ramp(state.theme, 0, 1);
  const top = paragraphs(queries, parts.queries, "queries"), bottom = self ? top : paragraphs(keys, parts.keys, "keys");
  const [from, to] = state.backwards ? [bottom, top] : [top, bottom];
  const whole = h("div", {}, self ? [] : h("div", { class: "jh-label" }, "queries"), top.whole, self ? [] : [h("div", { class: "jh-label" }, "keys"), bottom.whole]);

  function choose(index) {
    from.items.forEach((item, own) => {
      item.classList.toggle("jh-chosen", own === index);
      item.setAttribute("aria-pressed", String(own === context.state.focus));
    });
    const own = index === null ? null : weights(context, index, state.backwards);
    to.items.forEach((item, at) => shade(item, own ? own[at] : 0, colorOf));
    context.say(index === null ? "Point at a token, or choose one with Tab and the arrow keys." : said(context, index));
  }

  const keep = watched(whole, context, `[data-side="${self || !state.backwards ? "queries" : "keys"}"]`, choose);
  roving(from.whole, from.items, { enter: (_, index) => keep(index) });
  choose(state.focus);
  return whole;
}

function onLines(context) {
  const { values, queries, keys, state } = context, colorOf = ramp(state.theme, 0, 1), stroke = color(state.theme, 0);
  const column = (texts, side) => h("div", { class: "jh-column", "data-column": side }, texts.map((text, index) => token(text, index, { "data-side": side })));
  const left = column(queries, "queries"), right = column(keys, "keys"), height = HEIGHT * Math.max(queries.length, keys.length);
  const area = svg("svg", { viewBox: `0 0 100 ${height}`, preserveAspectRatio: "none", width: "100%", height, role: "img", "aria-label": "lines from queries to the keys they look at" });
  const [from, to] = state.backwards ? [right, left] : [left, right];

  function lines(chosen) {
    return chosen.map(([query, key, weight]) => svg("line", {
      x1: 0, y1: HEIGHT * (query + 0.5), x2: 100, y2: HEIGHT * (key + 0.5), stroke, "stroke-opacity": Math.min(1, Math.sqrt(weight)).toFixed(3),
      "stroke-width": (0.5 + 3 * weight).toFixed(2), "vector-effect": "non-scaling-stroke",
    }));
  }

  const strong = [];
  values.forEach((value, at) => value > 0.02 && strong.push([Math.floor(at / keys.length), at % keys.length, value]));
  strong.sort((one, other) => other[2] - one[2]).splice(MOST_LINES);

  function choose(index) {
    [...from.children].forEach((item, own) => {
      item.classList.toggle("jh-chosen", own === index);
      item.setAttribute("aria-pressed", String(own === context.state.focus));
    });
    const own = index === null ? null : weights(context, index, state.backwards);
    [...to.children].forEach((item, at) => shade(item, own ? own[at] : 0, colorOf));
    const few = own && [...own.keys()].filter((at) => own[at] > 0.002).map((at) => (state.backwards ? [at, index, own[at]] : [index, at, own[at]]));
    area.replaceChildren(...lines(few || strong));
    const limit = strong.length === MOST_LINES ? ` Of all tokens together, the ${MOST_LINES} largest weights are drawn.` : "";
    context.say(index === null ? `Queries on the left look at keys on the right. Point at a token, or choose one with Tab and the arrow keys.${limit}` : said(context, index));
  }

  const whole = h("div", { class: "jh-lines" }, left, area, right);
  const keep = watched(whole, context, `[data-side="${state.backwards ? "keys" : "queries"}"]`, choose);
  roving(from, from.children, { enter: (_, index) => keep(index) });
  choose(state.focus);
  return h("div", { class: "jh-scroll" }, whole);
}

function onMatrix(context) {
  const { values, queries, keys, state, tip } = context, colorOf = ramp(state.theme, 0, 1);
  const cell = Math.max(1, Math.min(18, Math.floor(640 / Math.max(queries.length, keys.length))));
  const cross = h("div", { class: "jh-cross", hidden: true });
  const canvas = h("canvas", { role: "img", tabindex: "0", "aria-label": `pattern of ${queries.length} queries (down) and ${keys.length} keys (across); arrow keys read single weights` });
  paint(canvas, values, queries.length, keys.length, (value) => colorOf(Math.sqrt(value)));
  const whole = h("div", { class: "jh-matrix", style: { width: `${cell * keys.length}px` } }, canvas, cross);
  let at = [0, 0];

  function read(query, key, x, y) {
    at = [Math.max(0, Math.min(queries.length - 1, query)), Math.max(0, Math.min(keys.length - 1, key))];
    const [row, column] = at, words = `“${shown(queries[row])}” (${row}) looks at “${shown(keys[column])}” (${column}): ${number(values[row * keys.length + column])}`;
    cross.hidden = false;
    Object.assign(cross.style, { left: `${(100 * column) / keys.length}%`, width: `${100 / keys.length}%`, top: `${(100 * row) / queries.length}%`, height: `${100 / queries.length}%` });
    context.say(words);
    if (x !== undefined) tip.show([words], x, y);
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    read(Math.floor(((event.clientY - box.top) / box.height) * queries.length), Math.floor(((event.clientX - box.left) / box.width) * keys.length), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", tip.hide);
  canvas.addEventListener("focus", () => read(...at));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    read(at[0] + step[0], at[1] + step[1]);
  });
  context.say("Queries down, keys across; darker (in dark pages lighter) is more weight. Point at a cell, or use the arrow keys.");
  return h("div", { class: "jh-scroll" }, whole);
}

function onPicture(context) {
  const { queries, keys, state, pictures, tip } = context, colorOf = ramp("dark", 0, 1);
  const whole = h("div", { class: "jh-row", style: { "align-items": "flex-start" } });
  const choices = { queries: null, keys: null };

  // A picture of one side, with its tokens that have no place in it beside it.
  function side(name, texts) {
    const picture = pictures[name];
    if (!picture) {
      const { items, whole: text } = paragraphs(texts, null, name);
      return { element: text, items, show: (own) => items.forEach((item, at) => shade(item, own ? own[at] : 0, ramp(state.theme, 0, 1))) };
    }
    const [rows, columns] = picture.grid, before = picture.before || 0, canvas = h("canvas", { role: "img", tabindex: "0", "aria-label": `${name} over the picture, ${rows} by ${columns}; arrow keys choose one` });
    const items = texts.slice(0, before).map((text, index) => token(text, index, { "data-side": name }));
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return before + Math.floor(((event.clientY - box.top) / box.height) * rows) * columns + Math.floor(((event.clientX - box.left) / box.width) * columns);
    };
    canvas.addEventListener("pointermove", (event) => choices[name]?.(place(event), event));
    canvas.addEventListener("click", (event) => choices[name]?.(place(event), event, true));
    canvas.addEventListener("pointerleave", tip.hide);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key], to = (state.focus ?? before) + step;
      if (!step || to < before || to >= texts.length || !choices[name]) return;
      event.preventDefault();
      choices[name](to, null, true);
    });
    const show = (own, chosen) => {
      items.forEach((item, at) => shade(item, own ? own[at] : 0, ramp(state.theme, 0, 1)));
      canvas.width = columns;
      canvas.height = rows;
      const drawing = canvas.getContext("2d"), image = drawing.createImageData(columns, rows);
      const most = own ? Math.max(...own.slice(before), 1e-9) : 1;
      // The picture is darkened where the head does not look.
      for (let at = 0; own && at < rows * columns; at++) {
        const weight = own[before + at] / most, mark = before + at === chosen;
        image.data.set(mark ? [240, 138, 60, 200] : [...(weight > 0.5 ? colorOf(weight) : [10, 14, 20]), weight > 0.5 ? 110 * weight : 200 * (1 - 2 * weight) * 0.85], 4 * at);
      }
      drawing.putImageData(image, 0, 0);
    };
    const frame = h("div", { class: "jh-picture", style: { width: `${picture.width || 320}px` } }, h("img", { src: picture.source, alt: picture.words || "the model's input" }), canvas);
    return { element: h("div", { class: "jh-side" }, frame, h("div", { class: "jh-text" }, items)), items, show };
  }

  const left = side("queries", queries), right = context.self ? left : side("keys", keys);
  const [from, to, name] = state.backwards ? [right, left, "keys"] : [left, right, "queries"];

  function choose(index, event = null, keep = false) {
    if (keep) context.focus(index);
    if (index !== null && index >= (state.backwards ? keys : queries).length) return;
    if (state.focus !== null && !keep && index !== state.focus) return;
    const own = index === null ? null : weights(context, index, state.backwards);
    if (from !== to) from.show(own && Float32Array.from(own, () => 0) && null, index);
    to.show(own, from === to ? index : -1);
    from.items.forEach((item, at) => item.classList.toggle("jh-chosen", at === index));
    const words = index === null ? "Point at a place or a token, or choose one with the arrow keys." : said(context, index);
    context.say(words);
    if (event && index !== null) tip.show([words], event.clientX, event.clientY);
  }

  choices[context.self ? "queries" : name] = choose;
  watched(whole, context, `[data-side="${context.self ? "queries" : name}"]`, (index) => index !== null && choose(index));
  whole.append(left.element, ...(context.self ? [] : [right.element]));
  if (from.items.length) roving(from.element, from.items, { enter: (_, index) => choose(index, null, true) });
  choose(state.focus ?? 0);
  return whole;
}

return { onText, onLines, onMatrix, onPicture };
})();

const $thumbnails = (() => {
// All heads as small patterns, layers down and heads across; each is drawn when it comes into view.

const { unpacked } = $arrays;
const { paint, ramp } = $colors;
const { h, roving } = $dom;

const SIDE = 64;

// The largest weight in each of SIDE × SIDE squares, so that thin lines stay.
function shrunk({ shape: [rows, columns], values }) {
  const height = Math.min(rows, SIDE), width = Math.min(columns, SIDE), small = new Float32Array(height * width);
  for (let row = 0; row < rows; row++) {
    const to = Math.floor((row * height) / rows) * width;
    for (let column = 0; column < columns; column++) {
      const at = to + Math.floor((column * width) / columns), value = values[row * columns + column];
      if (value > small[at]) small[at] = value;
    }
  }
  return { height, width, small };
}

function thumbnails(root, payload, words, choose) {
  const layers = [...new Set(payload.heads.map(({ layer }) => layer))];
  const columns = Math.max(...layers.map((layer) => payload.heads.filter((head) => head.layer === layer).length));
  const kept = new Map(), shownOnce = new Set();
  let theme = "light";
  const buttons = payload.heads.map((head, index) => h("button", {
    type: "button", class: "jh-thumb", "aria-pressed": "false", "aria-label": words(head) + (head.note ? `: ${head.note}` : ""), title: words(head),
    "data-stack": payload.stack, "data-layer": head.layer, "data-head": head.head, "data-index": index, click: () => choose(index),
  }, h("canvas", { "aria-hidden": "true" })));
  const lines = layers.flatMap((layer) => {
    const own = buttons.filter((_, index) => payload.heads[index].layer === layer);
    return [h("span", { class: "jh-head", "aria-hidden": "true" }, String(layer)), ...own, ...Array.from({ length: columns - own.length }, () => h("span"))];
  });
  const grid = h("div", { class: "jh-thumbs", role: "group", "aria-label": "Heads, layers down", style: {
    "grid-template-columns": `auto repeat(${columns}, minmax(22px, ${columns > 16 ? 32 : 48}px))` } }, lines);
  root.append(h("div", { class: "jh-scroll" }, grid));
  roving(grid, buttons, { columns });

  async function drawOne(index) {
    if (!kept.has(index)) kept.set(index, shrunk(await unpacked(payload.heads[index].pattern)));
    const { height, width, small } = kept.get(index), colorOf = ramp(theme, 0, 1);
    // The root of a weight, so that small weights can be seen.
    paint(buttons[index].firstChild, small, height, width, (value) => colorOf(Math.sqrt(value)));
  }

  const observer = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    observer.unobserve(target);
    shownOnce.add(Number(target.dataset.index));
    drawOne(Number(target.dataset.index));
  }), { rootMargin: "200px" });
  buttons.forEach((button) => observer.observe(button));

  return {
    choose: (index) => buttons.forEach((button, own) => button.setAttribute("aria-pressed", String(own === index))),
    draw: (to) => {
      theme = to;
      shownOnce.forEach(drawOne);
    },
  };
}

return { thumbnails };
})();

const $tooltip = (() => {
// One tooltip for each view, beside the pointer or the element that has the focus; Escape hides it.

const { h } = $dom;

function tooltip(root) {
  const tip = h("div", { class: "jh-tip", "aria-hidden": "true", hidden: true });
  root.append(tip);
  root.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  function hide() {
    tip.hidden = true;
  }

  // Lines of text at a point of the window; the first is the title.
  function show(lines, x, y) {
    tip.replaceChildren(...lines.filter(Boolean).map((line, index) => h("div", { class: index ? "" : "jh-tip-title" }, line)));
    tip.hidden = false;
    const frame = root.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(4, Math.min(x + 12, width - own.width - 4)) - frame.left;
    const top = (y + 16 + own.height > innerHeight ? y - own.height - 12 : y + 16) - frame.top;
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  }

  // Shows `lines(element)` while the pointer or the focus is on an item.
  function on(container, selector, lines) {
    const item = (event) => event.target.closest?.(selector);
    container.addEventListener("pointermove", (event) => (item(event) ? show(lines(item(event)), event.clientX, event.clientY) : hide()));
    container.addEventListener("pointerleave", hide);
    container.addEventListener("focusin", (event) => {
      if (!item(event) || !item(event).matches(":focus-visible")) return;
      const box = item(event).getBoundingClientRect();
      show(lines(item(event)), box.left, box.bottom - 8);
    });
    container.addEventListener("focusout", hide);
  }

  return { show, hide, on };
}

return { tooltip };
})();

const $attention = (() => {
// Attention of heads on their tokens: thumbnails of all heads; one head as text, lines, matrix, or over a picture.
//
// payload: {queries: [text…], keys: [text…], self: bool, heads: [{layer, head, name, note, pattern: packed}…],
// words: {queries, keys}, parts: {queries, keys}, pictures: {queries, keys} of {source, grid, before}}

const { unpacked } = $arrays;
const { themed } = $colors;
const { announce, choice, h, headName, select } = $dom;
const { onLines, onMatrix, onPicture, onText } = $one_head;
const { pooled, within } = $pooling;
const { thumbnails } = $thumbnails;
const { tooltip } = $tooltip;

const MODES = { Text: onText, Lines: onLines, Matrix: onMatrix, Picture: onPicture };

function attention(root, payload) {
  const { heads, pictures = {}, parts = {} } = payload;
  const known = Object.keys(MODES).filter((mode) => mode !== "Picture" || pictures.keys || pictures.queries);
  const first = pictures.keys || (payload.self && pictures.queries) ? "Picture" : payload.queries.length > 40 ? "Text" : "Lines";
  const state = { head: payload.chosen || 0, mode: known.indexOf(first), backwards: false, pooled: false, part: 0, focus: null, theme: null };
  const names = [...new Set([...(parts.queries || []), ...(parts.keys || [])])];
  const pairs = names.length > 1 ? names.flatMap((from) => names.map((to) => [from, to])) : [];
  const title = h("h3", { "aria-live": "polite" }), note = h("p", { class: "jh-muted" }), body = h("div");
  const status = h("p", { class: "jh-status", role: "status" });
  const tip = tooltip(root), cache = new Map();
  const headWords = ({ layer, head, name }) => name || headName(layer, head, payload.stack);
  const small = heads.length > 1 ? thumbnails(root, payload, headWords, (index) => set({ head: index })) : null;

  root.append(title, note,
    h("div", { class: "jh-row" },
      choice("Layout", known, (mode) => set({ mode }), state.mode),
      payload.words && choice("Units", ["Pieces", "Words"], (own) => set({ pooled: own === 1, focus: null })),
      choice("Direction", ["looks at", "is seen by"], (own) => set({ backwards: own === 1 })),
      pairs.length > 0 && select("Between", ["all", ...pairs.map(([from, to]) => `${from} → ${to}`)], (part) => set({ part }))),
    status, body);

  // The pattern of a head; that of the last few heads is remembered.
  async function pattern(index) {
    if (!cache.has(index)) cache.set(index, unpacked(heads[index].pattern));
    if (cache.size > 4) cache.delete(cache.keys().next().value);
    return (await cache.get(index)).values;
  }

  async function set(change) {
    Object.assign(state, change);
    const asked = state.head, head = heads[asked];
    let data = { values: await pattern(asked), queries: payload.queries, keys: payload.keys, parts };
    if (asked !== state.head) return; // another head was chosen meanwhile
    if (state.part) data.values = within(data, pairs[state.part - 1]);
    if (state.pooled) data = pooled(data, payload.words);
    title.textContent = headWords(head);
    note.textContent = head.note || "";
    note.hidden = !head.note;
    small?.choose(asked);
    tip.hide();
    const context = { ...data, state, tip, self: payload.self, pictures, say: (text) => (status.textContent = text), focus: (focus) => (state.focus = focus) };
    body.replaceChildren(MODES[known[state.mode]](context));
    if (change.head !== undefined) announce(root, { stack: payload.stack, layer: head.layer, head: head.head });
  }

  themed(root, (theme) => {
    small?.draw(theme);
    set({ theme });
  });
}

return { attention };
})();

const $axes = (() => {
// Axes of charts: round ticks, and positions on a drawing of a fixed size that scales with the page.

const { number, svg } = $dom;

const LEFT = 62, RIGHT = 14, TOP = 12, BOTTOM = 46;

// Round numbers from low to high.
function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((own) => own * power).find((own) => own >= rough);
  const list = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at++) list.push(Number((at * step).toPrecision(12)));
  return list;
}

function logTicks(low, high) {
  const list = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high * 1.001; power++) if (10 ** power >= low * 0.999) list.push(10 ** power);
  return list.length > 1 ? list : [low, high];
}

// Function of a value that returns its place; `margin` widens the range by a share.
function scale([low, high], [from, to], { log = false, margin = 0.04 } = {}) {
  const turned = log ? Math.log10 : (value) => value;
  let [start, end] = [turned(low), turned(high)];
  if (start === end) [start, end] = [start - 1, end + 1];
  const wide = (end - start) * margin;
  [start, end] = [start - wide, end + wide];
  const place = (value) => from + ((turned(value) - start) / (end - start)) * (to - from);
  place.ticks = log ? logTicks(low, high) : ticks(start, end);
  return place;
}

// Every second tick where there is little room.
function thinned(list, width) {
  return width < 500 && list.length > 5 ? list.filter((_, at) => at % 2 === 0) : list;
}

// The size of a drawing in a view, so that its words are as large as those around it.
function sizeIn(root) {
  return (root.clientWidth || 640) < 600 ? { width: 370, height: 320 } : { width: 640, height: 420 };
}

// A drawing with both axes: {element, area, x, y, top, bottom, width}; draw into `area`.
function chart(root, label, xs, ys, { xName = "", yName = "", log = false } = {}) {
  const { width: WIDTH, height: HEIGHT } = sizeIn(root);
  const x = scale(xs, [LEFT, WIDTH - RIGHT], { log }), y = scale(ys, [HEIGHT - BOTTOM, TOP]);
  const element = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "jh-chart", role: "group", "aria-label": label });
  element.append(
    ...thinned(x.ticks, WIDTH).flatMap((tick) => [
      svg("line", { class: "jh-axis", x1: x(tick), x2: x(tick), y1: TOP, y2: HEIGHT - BOTTOM }),
      svg("text", { x: x(tick), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, number(tick))]),
    ...y.ticks.flatMap((tick) => [
      svg("line", { class: "jh-axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, number(tick))]),
    svg("text", { class: "jh-name", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, xName),
    svg("text", { class: "jh-name", transform: `translate(14 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, yName));
  const area = svg("g", {});
  element.append(area);
  return { element, area, x, y, top: TOP, bottom: HEIGHT - BOTTOM, width: WIDTH, height: HEIGHT };
}

return { ticks, scale, sizeIn, chart };
})();

const $curves = (() => {
// Curves over layers or steps: a middle line with its interval, thin lines of runs, marks; the legend switches lines.
//
// payload: {x: {name, values, log, names}, y, lines: [{name, middle, low, high, runs, marks: [x…]}], levels: [{name, value}],
// panels: [{name, lines: [name…]}…]}

const { extent, unpack } = $arrays;
const { chart } = $axes;
const { color, resized, themed } = $colors;
const { estimate, h, number, select, svg } = $dom;
const { tooltip } = $tooltip;

const DASHES = ["", "7 3", "2 3", "9 3 2 3", "1 2", "12 4", "5 2"];

function curves(root, payload) {
  const xs = [...unpack(payload.x.values).values];
  const lines = payload.lines.map((line) => ({
    ...line, ...Object.fromEntries(["middle", "low", "high", "runs"].filter((part) => line[part]).map((part) => [part, unpack(line[part])])) }));
  const groups = payload.panels || [{ name: payload.y, lines: lines.map(({ name }) => name) }];
  const state = { hidden: new Set(), theme: "light", at: null, group: 0 };
  const legend = h("div", { class: "jh-row" }), body = h("div"), status = h("p", { class: "jh-status", role: "status" }), tip = tooltip(root);
  root.append(groups.length > 1 ? h("div", { class: "jh-row" }, select("Show", groups.map(({ name }) => name), (group) => {
    state.group = group;
    draw();
  })) : "", legend, body, status);
  const here = (line) => groups[state.group].lines.includes(line.name);
  const words = (index) => (payload.x.names ? payload.x.names[index] : `${payload.x.name} ${number(xs[index])}`);

  function said(index) {
    return [words(index), ...lines.filter((line, own) => here(line) && !state.hidden.has(own)).map((line) =>
      estimate(line.name, line.middle.values[index], line.low?.values[index], line.high?.values[index]))];
  }

  function draw() {
    const shown = lines.map((line, index) => [line, index]).filter(([line, index]) => here(line) && !state.hidden.has(index));
    const values = shown.flatMap(([line]) => ["middle", "low", "high", "runs"].flatMap((part) => [...(line[part]?.values || [])]));
    const levels = payload.levels || [], log = Boolean(payload.x.log) && xs.every((x) => x > 0);
    const { element, area, x, y, top, bottom, width } = chart(root, `${groups[state.group].name} by ${payload.x.name}`, extent(xs), extent([...values, ...levels.map(({ value }) => value)]), { xName: payload.x.name, yName: groups[state.group].name, log });
    // A line breaks where a number is missing.
    const path = (list) => xs.map((at, index) => (Number.isFinite(list[index]) ? `${Number.isFinite(list[index - 1]) ? "L" : "M"}${x(at).toFixed(1)} ${y(list[index]).toFixed(1)}` : "")).join("");
    for (const { name, value } of levels) area.append(
      svg("line", { class: "jh-level", x1: x(extent(xs)[0]), x2: x(extent(xs)[1]), y1: y(value), y2: y(value) }), svg("text", { x: x(extent(xs)[0]) + 4, y: y(value) - 4 }, name));
    for (const [line, index] of shown) {
      const stroke = color(state.theme, index), dash = DASHES[index % DASHES.length];
      if (line.low) {
        const known = xs.map((_, at) => at).filter((at) => Number.isFinite(line.low.values[at]) && Number.isFinite(line.high.values[at]));
        const there = known.map((at) => `${x(xs[at])},${y(line.high.values[at])}`), back = known.reverse().map((at) => `${x(xs[at])},${y(line.low.values[at])}`);
        area.append(svg("polygon", { points: [...there, ...back].join(" "), fill: stroke, "fill-opacity": 0.18 }));
      }
      if (line.runs) {
        const [count, length] = line.runs.shape;
        for (let run = 0; run < count; run++)
          area.append(svg("path", { d: path(line.runs.values.slice(run * length, (run + 1) * length)), fill: "none", stroke, "stroke-opacity": 0.4, "stroke-width": 0.8 }));
      }
      for (const mark of line.marks || []) area.append(svg("line", { x1: x(mark), x2: x(mark), y1: top, y2: bottom, stroke, "stroke-dasharray": "2 3" }));
      area.append(svg("path", { d: path(line.middle.values), fill: "none", stroke, "stroke-width": 2.2, "stroke-dasharray": dash }));
      if (xs.length <= 60) xs.forEach((at, own) => Number.isFinite(line.middle.values[own]) && area.append(svg("circle", { cx: x(at), cy: y(line.middle.values[own]), r: 2.5, fill: stroke })));
    }
    const cursor = svg("line", { class: "jh-cursor", y1: top, y2: bottom, x1: -9, x2: -9 });
    area.append(cursor);

    function read(index, event) {
      state.at = Math.max(0, Math.min(xs.length - 1, index));
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(xs[state.at]));
      status.textContent = said(state.at).join(" · ");
      if (event) tip.show(said(state.at), event.clientX, event.clientY);
    }

    element.setAttribute("tabindex", "0");
    element.addEventListener("pointermove", (event) => {
      const box = element.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
      read(xs.map((value, index) => [Math.abs(x(value) - at), index]).sort((one, other) => one[0] - other[0])[0][1], event);
    });
    element.addEventListener("pointerleave", tip.hide);
    element.addEventListener("focus", () => read(state.at ?? 0));
    element.addEventListener("keydown", (event) => {
      const to = { ArrowRight: state.at + 1, ArrowLeft: state.at - 1, Home: 0, End: xs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      read(to);
    });
    legend.replaceChildren(...(groups[state.group].lines.length < 2 ? [] : lines.map((line, index) => here(line) && h("button", {
      type: "button", class: "jh-switch", "aria-pressed": String(!state.hidden.has(index)), click: () => {
        if (!state.hidden.delete(index)) state.hidden.add(index);
        draw();
        [...legend.children].find((button) => button.textContent === line.name)?.focus();
      } }, svg("svg", { width: 26, height: 10, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: color(state.theme, index), "stroke-width": 2.5, "stroke-dasharray": DASHES[index % DASHES.length] })), line.name)).filter(Boolean)));
    body.replaceChildren(element);
  }

  status.textContent = "Point at the chart, or use the arrow keys, to read its numbers.";
  themed(root, (theme) => {
    state.theme = theme;
    draw();
  });
  resized(root, draw);
}

return { curves };
})();

const $graph = (() => {
// A graph of senders and receivers, in the order in which they write: the strongest edges, read by pointer and keys.
//
// payload: {label, nodes: [{name, row, column, layer, head, note}], edges: [[from, to]…] strongest first,
// kinds: [text…], values, low, high: packed, first: number of edges shown at first}

const { unpack } = $arrays;
const { color, themed } = $colors;
const { announce, estimate, h, roving, slider, svg } = $dom;
const { tooltip } = $tooltip;

const ROW = 58, LEAST = 46, SIDE = 22;

function graph(root, payload) {
  const { nodes, edges, label } = payload;
  const arrays = Object.fromEntries(["values", "low", "high"].filter((part) => payload[part]).map((part) => [part, unpack(payload[part]).values]));
  const state = { count: Math.min(payload.first, edges.length), node: null, theme: "light" };
  const body = h("div", { class: "jh-scroll" }), list = h("div"), tip = tooltip(root), card = h("div", { class: "jh-card", hidden: true });
  const key = h("span", { class: "jh-key" });
  root.append(h("div", { class: "jh-row" }, edges.length > 1 && slider("Edges", { min: 1, max: edges.length, step: 1, value: state.count, words: (count) => `${count} of ${edges.length}` }, (count) => set({ count })), key),
    body, card, h("details", {}, h("summary", {}, "Edges as a list"), list));

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const ends = (index) => `${nodes[edges[index][0]].name} → ${nodes[edges[index][1]].name}${payload.kinds?.[index] ? ` (${payload.kinds[index]})` : ""}`;
  const said = (index) => `${ends(index)}: ${estimate(label, arrays.values[index], arrays.low?.[index], arrays.high?.[index])}`;
  const touching = (node) => [...Array(state.count).keys()].filter((index) => edges[index].includes(node));

  function open(node) {
    const { name, layer, head, note } = nodes[node];
    card.replaceChildren(h("h3", {}, name), ...(note ? [h("p", {}, note)] : []), h("ul", {}, touching(node).slice(0, 12).map((index) => h("li", {}, said(index)))));
    card.hidden = false;
    if (head !== undefined && head !== null) announce(root, { stack: payload.stack, layer, head });
  }

  function draw() {
    const shown = [...Array(state.count).keys()], used = new Set(shown.flatMap((index) => edges[index]));
    const visible = nodes.map((_, index) => index).filter((index) => used.has(index) || nodes[index].kept);
    const rows = [...new Set(visible.map((index) => nodes[index].row))].sort((one, other) => one - other);
    // Of each row only the nodes that have an edge are there, in their order.
    const lines = rows.map((row) => visible.filter((index) => nodes[index].row === row).sort((one, other) => nodes[one].column - nodes[other].column));
    const longest = Math.max(1, ...lines.map((line) => line.length));
    const width = Math.max(300, Math.max(LEAST, Math.min(2 * LEAST, (root.clientWidth - 8) / longest)) * longest), height = ROW * rows.length + 20;
    const place = new Map(lines.flatMap((line, row) => line.map((index, at) => [index, [(width * (at + 0.5)) / line.length, 24 + ROW * row]])));
    const most = Math.max(...shown.map((index) => Math.abs(arrays.values[index])), 1e-12);
    const [more, less] = [color(state.theme, 1), color(state.theme, 0)];
    const paths = shown.map((index) => {
      const [[x1, y1], [x2, y2]] = edges[index].map((end) => place.get(end)), value = arrays.values[index];
      // An edge that passes rows goes round what may stand between.
      const rows = Math.max(0, Math.abs(y2 - y1) / ROW - 1), bend = y1 === y2 ? ROW * 0.6 : 0, aside = (x1 + x2 > width ? 1 : -1) * Math.min(70, 34 * rows);
      return svg("path", { d: `M${x1} ${y1 + 10} C${x1 + aside} ${(y1 + y2) / 2 + bend} ${x2 + aside} ${(y1 + y2) / 2 + bend} ${x2} ${y2 - 10}`, fill: "none", stroke: value < 0 ? less : more,
        "stroke-width": 0.8 + 4.5 * Math.abs(value) / most, "stroke-opacity": 0.75, "stroke-dasharray": value < 0 ? "6 3" : null, "data-edge": index });
    });
    const boxes = visible.map((index) => {
      const [x, y] = place.get(index), { name, short, layer, head, note } = nodes[index], wide = Math.max(SIDE, 7 * (short || name).length + 8);
      const heads = head === undefined || head === null ? {} : { "data-stack": payload.stack, "data-layer": layer, "data-head": head };
      const strongest = touching(index).slice(0, 3).map(said).join("; ");
      return svg("g", { class: "jh-node", role: "button", "data-node": index, ...heads, "aria-label": `${name}${note ? ` (${note})` : ""}: ${strongest || "no edge is shown"}` },
        svg("rect", { x: x - wide / 2, y: y - 10, width: wide, height: 20, rx: 5 }), svg("text", { x, y: y + 4, "text-anchor": "middle" }, short || name));
    });
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "jh-graph", role: "group", "aria-label": `graph of ${state.count} edges`, style: { width: `${width}px` } }, paths, boxes);

    function light(node) {
      paths.forEach((path, index) => path.setAttribute("stroke-opacity", node === null ? 0.75 : edges[index].includes(node) ? 1 : 0.08));
    }

    const on = (event) => event.target.closest?.("[data-node]");
    drawing.addEventListener("pointerover", (event) => light(on(event) ? Number(on(event).dataset.node) : null));
    drawing.addEventListener("focusin", (event) => on(event) && light(Number(on(event).dataset.node)));
    drawing.addEventListener("focusout", () => light(null));
    drawing.addEventListener("click", (event) => on(event) && open(Number(on(event).dataset.node)));
    tip.on(drawing, "[data-node], [data-edge]", (item) => (item.dataset.edge !== undefined ? [said(Number(item.dataset.edge))]
      : [nodes[item.dataset.node].name, nodes[item.dataset.node].note, ...touching(Number(item.dataset.node)).slice(0, 6).map(said)]));
    roving(drawing, boxes, { enter: (item) => open(Number(item.dataset.node)) });
    const negative = shown.some((index) => arrays.values[index] < 0);
    key.replaceChildren(label, ...(negative ? [h("span", { class: "jh-swatch", style: { background: more } }), "above 0", h("span", { class: "jh-swatch", style: { background: less } }), "below 0 (dashed)"] : []));
    list.replaceChildren(h("ol", {}, shown.slice(0, 200).map((index) => h("li", {}, said(index)))));
    tip.hide();
    body.replaceChildren(drawing);
  }

  themed(root, (theme) => set({ theme }));
}

return { graph };
})();

const $heatmap = (() => {
// A table of heads as a grid of cells and as a list: values, intervals, roles; sorted, filtered, opened.

const { extent, unpack } = $arrays;
const { color, colorBar, css, ramp, textOn, themed } = $colors;
const { announce, choice, estimate, h, headName, number, roving, select } = $dom;
const { tooltip } = $tooltip;

const LISTED = 50;

// The cells of a payload: {row, column, name, values: [{value, low, high, n, …} of each metric], words: {role: …}}.
function cellsOf(payload) {
  const [rows, columns] = payload.shape;
  const metrics = payload.metrics.map(({ name, ...arrays }) =>
    Object.entries(arrays).filter(([, own]) => own && own.data).map(([part, own]) => [part, unpack(own).values]));
  return Array.from({ length: rows * columns }, (_, index) => {
    const row = Math.floor(index / columns), column = index % columns;
    return {
      index, row, column,
      name: payload.names ? payload.names[index] : headName(row, column, payload.stack),
      values: metrics.map((parts) => Object.fromEntries(parts.map(([part, own]) => [part, own[index]]))),
      words: Object.fromEntries(Object.entries(payload.words || {}).map(([key, own]) => [key, own[index]])),
    };
  });
}

// Whether the interval includes 0, so that the sign is not known.
function unsure({ low, high }) {
  return low <= 0 && high >= 0;
}

// Lines about a cell: its name, the chosen metric first, then the words.
function cellLines(payload, cell, chosen) {
  const order = [chosen, ...payload.metrics.keys()].filter((metric, at, all) => all.indexOf(metric) === at);
  const lines = order.flatMap((metric) => {
    const { value, low, high, n, ...others } = cell.values[metric];
    const rest = Object.entries(others).map(([part, own]) => `${part} ${number(own)}`).join(", ");
    const unit = payload.metrics[metric].unit ? ` (${payload.metrics[metric].unit})` : "";
    return [estimate(payload.metrics[metric].name + unit, value, low, high, n), rest && metric === chosen ? rest : ""];
  });
  const words = Object.entries(cell.words).filter(([, own]) => own).map(([key, own]) => `${key}: ${own}`);
  return [cell.name, ...lines.filter(Boolean), ...words];
}

function label(payload, cell, metric) {
  const { value, low, high, n } = cell.values[metric];
  const words = Object.entries(cell.words).filter(([, own]) => own).map(([key, own]) => `, ${key} ${own}`).join("");
  return `${cell.name}: ${estimate(payload.metrics[metric].name, value, low, high, n)}${words}`;
}

function heatmap(root, payload) {
  const cells = cellsOf(payload), [rows, columns] = payload.shape, key = Object.keys(payload.words || {})[0];
  const roles = key ? [...new Set(cells.flatMap((cell) => (cell.words[key] || "").split(", ")))].filter(Boolean).sort() : [];
  const state = { metric: 0, role: 0, mode: 0, sort: "value", descending: true, all: false, theme: "light", open: null };
  const body = h("div"), card = h("div", { class: "jh-card", hidden: true }), legend = h("div", { class: "jh-row" });
  const tip = tooltip(root);
  root.append(
    h("div", { class: "jh-row" },
      payload.metrics.length > 1 && select("Colour by", payload.metrics.map((metric) => metric.name), (to) => set({ metric: to })),
      roles.length > 1 && select(key, ["all", ...roles], (to) => set({ role: to })),
      choice("Layout", ["Grid", "List"], (to) => set({ mode: to }))),
    legend, body, card);

  const shows = (cell) => !state.role || (cell.words[key] || "").split(", ").includes(roles[state.role - 1]);

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  function open(cell) {
    state.open = cell;
    card.replaceChildren(h("h3", {}, cell.name), h("ul", {}, cellLines(payload, cell, state.metric).slice(1).map((line) => h("li", {}, line))));
    card.hidden = false;
    for (const own of body.querySelectorAll("[aria-selected]")) own.setAttribute("aria-selected", own.dataset.index === String(cell.index));
    announce(root, { stack: payload.stack, layer: cell.row, head: cell.column });
  }

  const address = (cell) => (payload.names ? {} : { "data-stack": payload.stack, "data-layer": cell.row, "data-head": cell.column });

  function grid(colorOf) {
    const wide = `minmax(${columns > 40 ? 8 : 16}px, 2.6rem)`;
    const items = cells.map((cell) => {
      const { value } = cell.values[state.metric], own = Number.isNaN(value) ? null : colorOf(value);
      const missing = own ? "" : " jh-missing", faint = shows(cell) ? "" : " jh-faint";
      const hatched = unsure(cell.values[state.metric]) ? " jh-hatched" : "";
      return h("span", {
        class: `jh-cell${missing}${hatched}${faint}`, role: "gridcell", "data-index": cell.index, ...address(cell),
        "aria-label": label(payload, cell, state.metric), "aria-selected": cell === state.open,
        style: own ? { "background-color": css(own), "--hatch": textOn(own) === "#000" ? "0 0 0" : "255 255 255" } : {},
      });
    });
    const names = Array.from({ length: columns }, (_, at) => h("span", { class: "jh-head", role: "columnheader" }, payload.columnNames?.[at] ?? at));
    const lines = Array.from({ length: rows }, (_, row) =>
      h("div", { role: "row", class: "jh-contents" },
        h("span", { class: "jh-head", role: "rowheader" }, payload.rowNames?.[row] ?? row),
        items.slice(row * columns, (row + 1) * columns)));
    const whole = h("div", {
      role: "grid", class: "jh-grid", "aria-label": `${payload.metrics[state.metric].name}, ${payload.axes[0]}s down, ${payload.axes[1]}s across`,
      style: { "grid-template-columns": `max-content repeat(${columns}, ${wide})` },
    }, h("div", { role: "row", class: "jh-contents" }, h("span", { class: "jh-head", role: "columnheader" }, `${payload.axes[0]} \\ ${payload.axes[1]}`), names), lines);
    whole.addEventListener("click", (event) => event.target.dataset.index && open(cells[event.target.dataset.index]));
    roving(whole, items, { columns, enter: (item) => open(cells[item.dataset.index]) });
    tip.on(whole, "[data-index]", (item) => cellLines(payload, cells[item.dataset.index], state.metric));
    return h("div", { class: "jh-scroll" }, whole);
  }

  function list() {
    const order = { name: (cell) => cell.index, value: (cell) => cell.values[state.metric].value, size: (cell) => Math.abs(cell.values[state.metric].value), n: (cell) => cell.values[state.metric].n };
    const rank = (cell) => (Number.isNaN(order[state.sort](cell)) ? -Infinity : order[state.sort](cell) * (state.descending ? 1 : -1));
    const sorted = cells.filter(shows).sort((one, other) => rank(other) - rank(one) || one.index - other.index);
    const some = state.all ? sorted : sorted.slice(0, LISTED);
    const [low, high] = extent(some.flatMap((cell) => [0, cell.values[state.metric].value, cell.values[state.metric].low, cell.values[state.metric].high]));
    const share = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
    const sort = (name, words) => h("th", { scope: "col", "aria-sort": state.sort === name ? (state.descending ? "descending" : "ascending") : "none" },
      h("button", { type: "button", "data-sort": name, click: () => {
        set({ sort: name, descending: state.sort === name ? !state.descending : name !== "name" });
        body.querySelector(`[data-sort="${name}"]`).focus();
      } }, words));
    const counted = "n" in cells[0].values[state.metric];
    const lines = some.map((cell) => {
      const { value, low: from, high: to, n } = cell.values[state.metric];
      const whisker = Number.isFinite(from) && h("span", { class: "jh-whisker", style: { left: share(from), right: `calc(100% - ${share(to)})` } });
      const chart = h("span", { class: "jh-track", "aria-hidden": "true" }, h("span", { class: "jh-zero", style: { left: share(0) } }), whisker,
        Number.isFinite(value) && h("span", { class: "jh-dot", style: { left: share(value), background: color(state.theme, 0) } }));
      const interval = Number.isFinite(from) ? `[${number(from)}, ${number(to)}]` : "";
      return h("tr", address(cell),
        h("th", { scope: "row" }, h("button", { type: "button", "aria-label": label(payload, cell, state.metric), click: () => open(cell) }, cell.name)),
        h("td", {}, number(value)), h("td", { class: "jh-wide" }, chart), h("td", { class: "jh-muted" }, interval), counted && h("td", {}, number(n)), key && h("td", {}, cell.words[key]));
    });
    const more = some.length < sorted.length && h("button", { type: "button", click: () => set({ all: true }) }, `Show all ${sorted.length}`);
    return h("div", { class: "jh-scroll" }, h("table", { class: "jh-list" },
      h("thead", {}, h("tr", {}, sort("name", "head"), sort("value", payload.metrics[state.metric].name), sort("size", "size"),
        h("th", { scope: "col" }, "interval"), counted && sort("n", "n"), key && h("th", { scope: "col" }, key))),
      h("tbody", {}, lines)), more);
  }

  function draw() {
    const { name, unit, level } = payload.metrics[state.metric];
    const all = cells.map((cell) => cell.values[state.metric]);
    let [low, high] = extent(all.map(({ value }) => value));
    if (low === high) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
    const colorOf = ramp(state.theme, low, high);
    const hatched = all.some(unsure) && h("span", { class: "jh-key" }, h("span", { class: "jh-cell jh-hatched", style: { "--hatch": state.theme === "dark" ? "255 255 255" : "0 0 0" } }),
      `interval${level ? ` (${Math.round(100 * level)} %)` : ""} includes 0`);
    const missing = all.some(({ value }) => Number.isNaN(value)) && h("span", { class: "jh-key" }, h("span", { class: "jh-cell jh-missing" }), payload.missing || "not measured");
    legend.replaceChildren(h("span", {}, unit ? `${name} (${unit})` : name), colorBar(state.theme, low, high, number), ...[hatched, missing].filter(Boolean));
    tip.hide();
    body.replaceChildren(state.mode ? list() : grid(colorOf));
  }

  themed(root, (theme) => set({ theme }));
}

return { cellsOf, cellLines, label, heatmap };
})();

const $matrix = (() => {
// A matrix of numbers with names of rows and columns: as pixels that are read by pointer and keys, or with a word a cell.
//
// payload: {label, layers: [{name, values: packed}], rowNames, columnNames, texts: [[…]…], down, across}

const { extent, unpack } = $arrays;
const { colorBar, css, paint, ramp, textOn, themed } = $colors;
const { h, number, roving, select, shown } = $dom;
const { tooltip } = $tooltip;

function matrix(root, payload) {
  const layers = payload.layers.map(({ name, values }) => ({ name, ...unpack(values) })), { rowNames, columnNames } = payload;
  const state = { layer: 0, at: [0, 0], theme: "light" };
  const legend = h("div", { class: "jh-row" }), status = h("p", { class: "jh-status", role: "status" }), body = h("div", { class: "jh-scroll" }), tip = tooltip(root);
  root.append(h("div", { class: "jh-row" }, layers.length > 1 && select("Show", layers.map(({ name }) => name), (layer) => set({ layer }))), legend, status, body);

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const value = (row, column) => layers[state.layer].values[row * columnNames.length + column];
  const said = (row, column) => [`${payload.down} ${rowNames[row]}, ${payload.across} ${columnNames[column]}`,
    `${payload.texts ? `“${shown(payload.texts[row][column])}” ` : ""}${payload.label || layers[state.layer].name} ${number(value(row, column))}`];

  function pixels(colorOf) {
    const cell = Math.max(2, Math.min(18, Math.floor(700 / columnNames.length)));
    const canvas = h("canvas", { role: "img", tabindex: "0", "aria-label": `${rowNames.length} by ${columnNames.length} numbers; arrow keys read single ones` });
    const cross = h("div", { class: "jh-cross", hidden: true });
    paint(canvas, layers[state.layer].values, rowNames.length, columnNames.length, colorOf);

    function read(row, column, event) {
      const [down, across] = [Math.max(0, Math.min(rowNames.length - 1, row)), Math.max(0, Math.min(columnNames.length - 1, column))];
      state.at = [down, across];
      cross.hidden = false;
      Object.assign(cross.style, { left: `${(100 * across) / columnNames.length}%`, width: `${100 / columnNames.length}%`, top: `${(100 * down) / rowNames.length}%`, height: `${100 / rowNames.length}%` });
      status.textContent = said(down, across).join(": ");
      if (event) tip.show(said(down, across), event.clientX, event.clientY);
    }

    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      read(Math.floor(((event.clientY - box.top) / box.height) * rowNames.length), Math.floor(((event.clientX - box.left) / box.width) * columnNames.length), event);
    });
    canvas.addEventListener("pointerleave", tip.hide);
    canvas.addEventListener("focus", () => read(...state.at));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      read(state.at[0] + step[0], state.at[1] + step[1]);
    });
    return h("div", { class: "jh-matrix", style: { width: `${cell * columnNames.length}px` } }, canvas, cross);
  }

  function table(colorOf) {
    const cells = rowNames.map((_, row) => columnNames.map((__, column) => {
      const own = Number.isNaN(value(row, column)) ? null : colorOf(value(row, column));
      return h("td", { class: "jh-word", "data-row": row, "data-column": column, "aria-label": said(row, column).join(": "),
        style: own ? { "background-color": css(own), color: textOn(own) } : {} }, shown(payload.texts[row][column]));
    }));
    const whole = h("table", { class: "jh-words", role: "grid" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, `${payload.down} \\ ${payload.across}`), columnNames.map((name) => h("th", { scope: "col" }, shown(name))))),
      h("tbody", {}, rowNames.map((name, row) => h("tr", {}, h("th", { scope: "row" }, name), cells[row]))));
    roving(whole, cells.flat(), { columns: columnNames.length });
    tip.on(whole, "td", (item) => said(Number(item.dataset.row), Number(item.dataset.column)));
    whole.addEventListener("focusin", (event) => event.target.dataset.row && (status.textContent = said(Number(event.target.dataset.row), Number(event.target.dataset.column)).join(": ")));
    return whole;
  }

  function draw() {
    const [low, high] = extent(layers[state.layer].values), colorOf = ramp(state.theme, low, high);
    legend.replaceChildren(h("span", {}, payload.label || layers[state.layer].name), colorBar(state.theme, low, high, number), h("span", { class: "jh-muted" }, `${payload.down} down, ${payload.across} across`));
    tip.hide();
    body.replaceChildren(payload.texts ? table(colorOf) : pixels(colorOf));
  }

  themed(root, (theme) => set({ theme }));
}

return { matrix };
})();

const $page_dots = (() => {
// Effects of each example as dots on a line, with their mean, its interval, and the line of no change.

const { extent } = $arrays;
const { h, number, svg } = $dom;

const WIDE = 420, HIGH = 74, SIDE = 14, LINE = 30;

function dots({ values, value, low, high, worse, tip, label }) {
  const [from, to] = extent([0, value, low, high, ...values]), room = (to - from || 1) * 0.04;
  const x = (own) => SIDE + ((WIDE - 2 * SIDE) * (own - from + room)) / (to - from + 2 * room);
  // Dots at one place are stacked, so that each is seen.
  const levels = new Map(), marks = [...values].filter(Number.isFinite).sort((one, other) => one - other).map((own) => {
    const place = Math.round(x(own) / 6), level = levels.get(place) || 0;
    levels.set(place, level + 1);
    const side = level % 2 ? 1 : -1, y = LINE + side * Math.ceil(level / 2) * 5.5;
    return svg("circle", { class: "jh-example", cx: x(own).toFixed(1), cy: Math.min(HIGH - 26, Math.max(5, y)).toFixed(1), r: 3, "data-value": own });
  });
  const words = `${label}: mean change ${number(value)}, interval ${number(low)} to ${number(high)}, over ${marks.length} texts from ${number(Math.min(...values))} to ${number(Math.max(...values))}`;
  const ends = worse > 0 ? ["better without it", "worse without it"] : ["worse without it", "better without it"];
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, class: "jh-dots", role: "img", "aria-label": words },
    svg("line", { class: "jh-axis", x1: SIDE, x2: WIDE - SIDE, y1: LINE, y2: LINE }), svg("line", { class: "jh-null", x1: x(0), x2: x(0), y1: 2, y2: HIGH - 24 }), marks,
    Number.isFinite(low) ? svg("line", { class: "jh-interval", x1: x(low), x2: x(high), y1: LINE, y2: LINE }) : null,
    svg("rect", { class: "jh-mean", x: x(value) - 2.5, y: LINE - 11, width: 5, height: 22, rx: 1 }),
    svg("text", { x: x(0), y: HIGH - 13, "text-anchor": "middle" }, "0"),
    svg("text", { class: "jh-end", x: SIDE, y: HIGH - 2 }, `← ${ends[0]}`), svg("text", { class: "jh-end", x: WIDE - SIDE, y: HIGH - 2, "text-anchor": "end" }, `${ends[1]} →`));
  tip.on(picture, ".jh-example", (dot) => [`one text: ${number(Number(dot.dataset.value))}`]);
  return h("div", { class: "jh-dotbox" }, picture);
}

return { dots };
})();

const $page_history = (() => {
// Numbers of one head over the steps of a training, as lines with bands of their intervals.

const { extent } = $arrays;
const { h, number, svg } = $dom;

const WIDE = 420, HIGH = 200, LEFT = 40, BELOW = 30, AROUND = 8;
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 2", "10 4"];

function lines({ steps, columns, index, theme, tip, color }) {
  const shares = columns.filter((column) => extent(column.values)[1] <= 1.001), own = shares.length ? shares : columns;
  const at = (values, step) => values[index * steps.length + step];
  const [low, high] = extent([0, ...own.flatMap((column) => steps.flatMap((_, step) => [at(column.values, step), at(column.high, step)]))]);
  const x = (step) => LEFT + ((WIDE - LEFT - AROUND) * step) / Math.max(1, steps.length - 1), y = (value) => HIGH - BELOW - ((HIGH - BELOW - AROUND) * (value - low)) / (high - low || 1);
  const path = (values) => steps.map((_, step) => [x(step), y(at(values, step))]).filter(([, own]) => Number.isFinite(own)).map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`);
  const parts = own.flatMap((column, number) => {
    const line = path(column.values), band = [...path(column.low), ...path(column.high).reverse()];
    return [svg("path", { d: `M${band.join("L")}Z`, fill: color(theme, number), opacity: 0.15 }), svg("path", { d: `M${line.join("L")}`, fill: "none", stroke: color(theme, number), "stroke-width": 2, "stroke-dasharray": DASHES[number % DASHES.length] }),
      ...steps.map((step, place) => svg("circle", { class: "jh-step", cx: x(place), cy: y(at(column.values, place)) || 0, r: 3, fill: color(theme, number), "data-words": `${column.label} at step ${step}: ${at(column.values, place).toFixed(3)}` }))];
  });
  const axis = [low, high].map((value) => svg("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  const names = steps.map((step, place) => (steps.length < 9 || place % Math.ceil(steps.length / 8) === 0 ? svg("text", { x: x(place), y: HIGH - 12, "text-anchor": "middle" }, number(step)) : null));
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, class: "jh-dots", role: "img", "aria-label": own.map((column) => `${column.label}: ${steps.map((step, place) => `${number(at(column.values, place))} at step ${step}`).join(", ")}`).join("; ") },
    svg("line", { class: "jh-axis", x1: LEFT, x2: WIDE - AROUND, y1: y(low), y2: y(low) }), axis, names, parts);
  tip.on(picture, ".jh-step", (dot) => [dot.dataset.words]);
  const key = h("p", { class: "jh-row" }, own.map((column, number) => h("span", { class: "jh-key" }, svg("svg", { width: 24, height: 8 }, svg("line", { x1: 0, x2: 24, y1: 4, y2: 4, stroke: color(theme, number), "stroke-width": 2, "stroke-dasharray": DASHES[number % DASHES.length] })), column.label)));
  return h("div", {}, picture, key);
}

return { lines };
})();

const $page_card = (() => {
// The card of one head: its name, in words what it does, why it is called so, what removing it changes, where it looks.

const { choice, h, number, select, shown } = $dom;
const { color, css, ramp, textOn } = $colors;
const { onLines, onMatrix, onPicture, onText } = $one_head;
const { dots } = $page_dots;
const { lines } = $page_history;

const interval = (low, high) => (Number.isFinite(low) && Number.isFinite(high) ? `[${number(low)}, ${number(high)}]` : "–");
const q = (value) => (Number.isFinite(value) ? (value < 0.001 ? "< .001" : number(value)) : "–");
const section = (title, ...children) => h("section", { class: "jh-part" }, h("h3", {}, title), ...children);
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// The stage whose numbers are reported: fresh examples where the head was asked again, else the screen.
function best(data, effect, index, stages) {
  const all = stages.map((_, number) => data.stage(effect, number));
  const again = all.findLast((stage) => stage.asked && stage.asked[index]);
  return again ? { stage: again, fresh: true } : { stage: all[0], fresh: false };
}

// "Without it, the next-token loss rises by .41 …", and whether that is for the worse.
function change(panel, data, effect, index) {
  const about = panel.effects[effect], { stage, fresh } = best(data, effect, index, about.stages);
  const [value, low, high] = [stage.values[index], stage.low[index], stage.high[index]];
  const clear = low > 0 || high < 0, worse = Math.sign(value) === about.worse;
  const verdict = !clear ? "no clear change" : worse ? "worse without it" : "better without it";
  return { about, stage, fresh, value, low, high, n: stage.n[index], clear, worse, verdict };
}

function summary(panel, data, index) {
  const roles = data.earned(index), own = data.own(index);
  const lead = own
    ? [h("b", {}, `${/^[aeiou]/i.test(own.label) ? "An" : "A"} ${own.label} head. `), own.about, roles.length > 1 ? ` It also has the job: ${roles.filter((role) => role !== own).map((role) => role.label).join(", ")}.` : ""]
    : [h("b", {}, "No job found. "), "None of the jobs that were tried explains where this head looks; it may do something else, or several things."];
  const changes = panel.effects.map((_, effect) => change(panel, data, effect, index)).filter((own) => Number.isFinite(own.value));
  const clear = changes.filter((own) => own.clear && own.fresh);
  const said = clear.map((own) => h("li", {}, h("b", {}, `${own.worse ? "worse" : "better"} at ${own.about.skill}`), `: ${own.about.objective} ${own.value > 0 ? "rises" : "falls"} by ${number(Math.abs(own.value))} from ${number(own.stage.baseline)}`));
  const none = changes.some((own) => own.fresh) ? "No clear change on fresh texts." : changes.some((own) => own.clear) ? "Small changes in a screen of few texts; it was not among the heads that were asked again." : "No clear change in the screen of all heads.";
  const effects = !changes.length ? "" : h("div", {}, h("p", { class: "jh-without" }, h("b", {}, "Without it "), said.length ? "the model is" : none.toLowerCase()), said.length ? h("ul", {}, said) : "");
  return [h("p", { class: "jh-lead" }, lead), effects];
}

// A job's score between 0 and 1, with its interval, and the best head by chance.
function bar(value, low, high, chance, earned) {
  const share = (own) => `${100 * Math.min(Math.max(own, 0), 1)}%`;
  return h("span", { class: `jh-score${earned ? "" : " jh-weak"}`, "aria-hidden": "true" },
    h("span", { class: "jh-score-fill", style: { width: share(value) } }),
    Number.isFinite(low) && h("span", { class: "jh-whisker", style: { left: share(low), right: `calc(100% - ${share(high)})` } }),
    Number.isFinite(chance) && h("span", { class: "jh-chance", style: { left: share(chance) } }));
}

function jobs({ panel, data, index }) {
  const own = data.own(index), earned = new Set(data.earned(index)), { score, score_from: from, score_to: to, score_n: n, q_value } = data.tested;
  const rows = data.roles.filter((role) => role.metric || role === own).map((role) => {
    const tested = role === own && from, has = earned.has(role);
    const held = tested ? { value: score[index], low: from[index], high: to[index], n: n[index] } : role.metric ? data.at(role.metric, index) : { value: score[index] };
    const cells = [h("th", { scope: "row" }, role.label), h("td", {}, has ? "yes" : "no"), h("td", {}, number(held.value), h("span", { class: "jh-muted" }, ` ${interval(held.low, held.high)}`)),
      h("td", { class: "jh-wide" }, bar(held.value, held.low, held.high, role.score, has)), h("td", {}, number(role.score)), h("td", {}, number(held.n)), h("td", {}, role === own ? q(q_value[index]) : "")];
    return { rank: role === own ? 0 : has ? 1 : 2, row: h("tr", { class: has ? "" : "jh-weak" }, cells) };
  });
  return section("Why it is called so",
    h("p", { class: "jh-muted" }, "This head’s score for each job, from 0 to 1: the share of its attention that does it, or for jobs that its weights tell, the share of cases in which they do. The upright line is what the best head reaches by chance, in a model or on a text where nothing can have the job; a job is earned well above it."),
    h("div", { class: "jh-scroll" }, h("table", { class: "jh-list jh-jobs" },
      h("thead", {}, h("tr", {}, ["job", "earned", "score", "0 to 1", "chance", "n", "q"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.sort((one, other) => one.rank - other.rank).map(({ row }) => row)))),
    h("p", { class: "jh-muted" }, own && from ? `The score of ${own.label} is of texts that did not choose the job; other scores are of all texts. ` : "Scores are of all texts. ",
      own ? "q is the share of false jobs to expect among those as clear as this one." : ""));
}

function removal({ panel, data, index, theme, tip }) {
  if (!panel.effects.length) return section("What removing it changes", h("p", { class: "jh-muted" }, "Not asked: this model has no next-token loss to change. ", panel.leftOut.find((reason) => reason.startsWith("ablations")) || ""));
  const ordered = panel.effects.map((about, effect) => ({ about, effect, own: change(panel, data, effect, index) })).sort((one, other) => other.own.fresh * 2 + other.own.clear - one.own.fresh * 2 - one.own.clear);
  const parts = ordered.map(({ about, effect, own }) => {
    const { stage, fresh, value, low, high, n, clear, worse, verdict } = own;
    if (!Number.isFinite(value)) return null;
    const corrected = fresh && Number.isFinite(stage.q[index]) ? `, q ${q(stage.q[index])}` : "";
    const tag = h("span", { class: `jh-tag ${!clear ? "" : worse ? "jh-worse" : "jh-better"}` }, verdict);
    const screen = data.stage(effect, 0);
    const first = fresh ? ` In the screen of all heads it was ${number(screen.values[index])}.` : " Few texts, and not corrected for the many heads that were screened.";
    return h("div", { class: "jh-effect" },
      h("p", {}, h("b", {}, capital(about.skill)), " ", tag, h("br"), `${about.objective} changes by ${number(value)} ${interval(low, high)}, n ${number(n)}${corrected}, from ${number(stage.baseline)} with the head`),
      dots({ values: stage.dots.subarray(index * stage.examples, (index + 1) * stage.examples), value, low, high, worse: about.worse, theme, tip, label: about.objective }),
      h("p", { class: "jh-muted" }, `${fresh ? "Fresh texts" : "Screen"}: ${stage.inputs}.${first}`));
  });
  return section("What removing it changes",
    h("p", { class: "jh-muted" }, "Its output is replaced by its mean over other texts. Each dot is one text; the bar is the mean with its 95 % interval; the line at 0 is no change."), ...parts.filter(Boolean));
}

function looks({ panel, data, index, theme, tip }) {
  if (!panel.exhibits.length) return "";
  const modes = { Text: onText, Lines: onLines, Matrix: onMatrix, Picture: onPicture };
  const status = h("p", { class: "jh-status", role: "status" }), body = h("div"), controls = h("div", { class: "jh-row" });
  const state = looks.state;

  function draw() {
    const exhibit = panel.exhibits[Math.min(state.exhibit, panel.exhibits.length - 1)], at = panel.exhibits.indexOf(exhibit);
    const pictured = Object.keys(exhibit.pictures).length > 0;
    const known = pictured ? ["Picture", "Matrix"] : exhibit.keys.length > 60 ? ["Matrix"] : ["Text", "Lines", "Matrix"];
    const mode = known.includes(state.mode) ? state.mode : known[0];
    const size = exhibit.queries.length * exhibit.keys.length, whole = data.pattern(at);
    const context = {
      values: whole.subarray(index * size, (index + 1) * size), queries: exhibit.queries, keys: exhibit.keys, parts: {}, self: exhibit.self, pictures: exhibit.pictures, tip,
      state: { theme, backwards: state.backwards, focus: null }, say: (text) => (status.textContent = text), focus: (own) => (context.state.focus = own),
    };
    controls.replaceChildren(
      panel.exhibits.length > 1 ? select("On", panel.exhibits.map((own) => own.title), (to) => { state.exhibit = to; draw(); }, at) : "",
      known.length > 1 ? choice("Layout", known, (to) => { state.mode = known[to]; draw(); }, known.indexOf(mode)) : "",
      choice("Direction", ["looks at", "is seen by"], (to) => { state.backwards = to === 1; draw(); }, state.backwards ? 1 : 0));
    body.replaceChildren(modes[mode](context));
    // One piece is shown at once: the one that looks hardest at another than the first.
    if (mode === "Text" && exhibit.self) body.querySelector(`[data-token="${strongest(context, state.backwards)}"]`)?.dispatchEvent(new Event("pointerover", { bubbles: true }));
  }
  draw();
  return section("Where it looks", h("p", { class: "jh-muted" }, panel.kind === "patches" ? "Point at a place of the left picture: the right one is dark where the head does not look from there." : panel.kind === "frames" ? "Rows look at columns; both are moments of the recording, in shares of its length." : "Point at a piece, or tap it: the pieces that the head looks at from there are coloured. Paler means less. In a model that writes text, a piece can look only at itself and at what came before."), controls, status, body);
}
function strongest({ values, queries, keys }, backwards) {
  let best = 0;
  const weight = (at) => (at % keys.length === 0 || at < keys.length ? 0 : values[at]);
  for (let at = 0; at < values.length; at++) if (weight(at) > weight(best)) best = at;
  return backwards ? best % keys.length : Math.floor(best / queries.length);
}
looks.state = { exhibit: 0, mode: "Text", backwards: false };

// A piece as it stands in a text; what is in several lines is joined.
const plain = (token) => token.replaceAll("\n", "⏎").replace(/^##/, "") || "∅";

// The text around a query, with the keys that it looks at coloured.
function snippet(tokens, { query, keys }, theme) {
  const colorOf = ramp(theme, 0, 1), weights = new Map(keys), strongest = keys.length ? keys[0][0] : query;
  const spaced = tokens.some((token) => token.startsWith(" ")); // pieces hold their spaces
  const from = Math.max(0, Math.min(query, strongest) - 6), to = Math.min(tokens.length, Math.max(query, strongest) + 7), gap = to - from > 44;
  const parts = [];
  for (let at = from; at < to; at++) {
    if (gap && at > Math.min(query, strongest) + 8 && at < Math.max(query, strongest) - 8) {
      if (parts.at(-1) !== "…") parts.push("…");
      continue;
    }
    const own = weights.has(at) ? colorOf(Math.sqrt(weights.get(at))) : null;
    parts.push(h("span", { class: `jh-token jh-still${at === query ? " jh-query" : ""}`, style: own ? { "background-color": css(own), color: textOn(own) } : {} }, plain(tokens[at])), spaced ? "\u200b" : tokens[at + 1]?.startsWith("##") ? "" : " ");
  }
  return h("p", { class: "jh-text jh-snippet" }, from > 0 ? "… " : "", parts, to < tokens.length ? " …" : "");
}

function contexts({ panel, index, theme }) {
  if (!panel.contexts.length) return "";
  const own = panel.contexts[index].filter(({ keys }) => keys.length), some = own.some(({ raised }) => raised && raised.length), known = own.some(({ raised }) => raised);
  const items = own.map((context) => {
    const tokens = panel.texts[context.text], special = context.keys.map(([key, weight]) => `“${shown(tokens[key])}” ${number(weight)}`);
    const pieces = (context.raised || []).flatMap(([token, logit], at) => [at ? ", " : "", h("span", { class: tokens[context.keys[0][0]].trim() === token.trim() ? "jh-copied" : "" }, `“${shown(token)}”`), ` +${number(logit)}`]);
    const raised = some ? h("p", { class: "jh-muted" }, "raises there: ", pieces.length ? pieces : "no piece in particular") : "";
    return h("li", {}, snippet(tokens, context, theme), h("p", { class: "jh-muted" }, `from “${shown(tokens[context.query])}” it looks at ${special.join(", ")}`), raised);
  });
  return section("Where it looks hardest",
    h("p", { class: "jh-muted" }, "Places of the texts with its largest weights; the framed piece looks at the coloured ones. The first position and other special tokens are left out of the choice. ",
      !known ? "" : !some ? "In none of these places does its output by itself raise any piece in particular." : "“Raises” are the next pieces that its output there makes more likely, in logits above their mean, if nothing after it changed them; underlined where it is the piece it looks at: copying."),
    h("ol", { class: "jh-contexts" }, items));
}

function reads({ panel, index }) {
  if (!panel.tokens.length || !panel.tokens[index].length) return "";
  const rows = panel.tokens[index].map(([token, share, usual]) => h("tr", {}, h("th", { scope: "row" }, `“${shown(token)}”`), h("td", {}, `${number(100 * share)} %`), h("td", {}, `${number(100 * usual)} %`), h("td", {}, `× ${number(share / usual)}`)));
  return section("What it reads more than its share",
    h("p", { class: "jh-muted" }, "Of its attention outside special positions, the pieces that get more than their share of the texts. Pieces that occur fewer than 3 times are left out."),
    h("div", { class: "jh-scroll" }, h("table", { class: "jh-list" }, h("thead", {}, h("tr", {}, ["piece", "of its attention", "of the texts", ""].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

function alike({ panel, data, index, open }) {
  if (!panel.alike.length) return "";
  const items = panel.alike[index].map(([layer, head, value, low, high, n]) => {
    const other = data.index(layer, head);
    return h("li", {}, h("button", { type: "button", class: "jh-link", click: () => open(other) }, data.name(other)), h("span", { class: "jh-muted" }, ` ${number(value)} ${interval(low, high)}, n ${n}${data.jobs(other) ? `; ${data.jobs(other)}` : ""}`));
  });
  return section("Heads that write alike", h("p", { class: "jh-muted" }, "Similarity of what two heads write over the same texts (linear CKA, 1 is the same). One half of the texts chose these heads, the surest first; the other half gives the numbers."), h("ol", {}, items));
}

function past({ panel, data, index, theme, tip }) {
  if (!panel.history) return "";
  return section("How it came to be", h("p", { class: "jh-muted" }, "Its scores at checkpoints of the training, with 95 % intervals."), lines({ steps: panel.history.steps, columns: data.past(), index, theme, tip, color }));
}

function numbers({ data, index }) {
  const rows = data.columns.map((column) => {
    const { value, low, high, n } = data.at(column, index);
    return h("tr", {}, h("th", { scope: "row" }, column.label, column.unit ? ` (${column.unit})` : ""), h("td", {}, number(value)), h("td", { class: "jh-muted" }, interval(low, high)), h("td", {}, number(n)), h("td", { class: "jh-muted jh-meaning" }, column.about));
  });
  return h("details", { class: "jh-part" }, h("summary", {}, "All its numbers"),
    h("div", { class: "jh-scroll" }, h("table", { class: "jh-list" }, h("thead", {}, h("tr", {}, ["number", "value", "95 % interval", "n", "what it is"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

function headCard(asked) {
  const { panel, data, index, open, back } = asked, step = (by) => (index + by + data.count) % data.count;
  const badges = data.earned(index).map((role) => h("span", { class: "jh-badge" }, h("span", { class: "jh-swatch", "aria-hidden": "true", style: { background: role.color[asked.theme], color: textOn([1, 3, 5].map((at) => parseInt(role.color[asked.theme].slice(at, at + 2), 16))) } }, role.letter), role.label));
  return [
    h("div", { class: "jh-card-top" },
      h("h2", { tabindex: "-1", id: `head-${panel.stack}-${index}` }, capital(data.name(index))), h("span", { class: "jh-badges" }, badges),
      h("span", { class: "jh-row jh-steps" },
        h("button", { type: "button", "aria-label": "Previous head", click: () => open(step(-1)) }, "‹"), h("button", { type: "button", "aria-label": "Next head", click: () => open(step(1)) }, "›"),
        h("button", { type: "button", class: "jh-back", click: back }, "Back to the map"))),
    ...summary(panel, data, index),
    h("div", { class: "jh-parts" }, ...[jobs, removal, looks, contexts, reads, alike, past, numbers].map((part) => part(asked)).filter(Boolean)),
  ];
}

return { headCard };
})();

const $page_data = (() => {
// The numbers of one panel, unpacked, and what they are called.

const { unpack } = $arrays;
const { estimate, headName, number } = $dom;

// Marks of jobs: a letter and a colour, so that neither alone must be told apart. Colours differ in lightness as well, for
// colour-blind readers; resting on the first position is what most heads do: a faint grey leaves the eye to the others.
const RESTING = { light: "#D9DEE4", dark: "#3C444E" };
const OWN = { previous_token: "#0072B2", next_token: "#56B4E9", self_token: "#B5480A", duplicate_token: "#5E3C99", induction: "#F0A800", positional: "#009E73" };
const OTHERS = ["#CC79A7", "#7A6A00", "#1B4F72", "#66C2A5", "#8C510A", "#B3A2D6", "#444444", "#E08214", "#01665E"];

const LETTERS = { previous_token: "P", next_token: "N", self_token: "S", duplicate_token: "D", induction: "I", positional: "O", first_token: "•", sink: "•", retrieval: "R", name_mover: "M", copy_suppression: "C", successor: "U", entity: "E", mixed: "X" };

// A letter for each job; those without one of their own get one that no other has.
function letters(roles) {
  const taken = new Set(Object.values(LETTERS));
  return roles.map(({ name, label }) => {
    if (LETTERS[name]) return LETTERS[name];
    const letter = [...label.toUpperCase().replaceAll(" ", ""), ..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"].find((own) => !taken.has(own)) || "?";
    taken.add(letter);
    return letter;
  });
}

function dataOf(panel) {
  const [layers, heads] = panel.shape, count = layers * heads;
  const columns = panel.columns.map((column) => ({
    ...column, ...Object.fromEntries(["values", "low", "high", "n"].filter((part) => column[part]).map((part) => [part, unpack(column[part]).values])),
  }));
  const marks = letters(panel.roles.tried);
  let used = 0;
  const roles = panel.roles.tried.map((role, index) => {
    const own = OWN[role.name] || OTHERS[used % OTHERS.length], resting = ["first_token", "sink"].includes(role.name);
    if (!resting && !OWN[role.name]) used++;
    return { ...role, letter: marks[index], color: resting ? RESTING : { light: own, dark: own } };
  });
  const byRole = new Map(roles.map((role) => [role.name, role])), byColumn = new Map(columns.map((column) => [column.name, column]));
  const tested = Object.fromEntries(Object.entries(panel.roles.tested).map(([name, own]) => [name, unpack(own).values]));
  const cache = new Map();
  const lazily = (key, make) => {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  };
  const stacked = panel.stacks > 1 ? panel.stack : "";

  // A numbers's parts for one head.
  function at(column, index) {
    const { values, low, high, n } = typeof column === "string" ? byColumn.get(column) : column;
    return { value: values[index], low: low[index], high: high[index], n: n ? n[index] : undefined };
  }

  const own = (index) => byRole.get(panel.roles.own[index]) || null;
  const earned = (index) => panel.roles.earned[index].map((name) => byRole.get(name)).filter(Boolean);
  const name = (index) => headName(Math.floor(index / heads), index % heads, stacked);
  const jobs = (index) => earned(index).map((role) => role.label).join(", ");

  function said(column, index) {
    const { value, low, high, n } = at(column, index);
    return estimate(column.label, value, low, high, n) + (column.unit ? ` (${column.unit})` : "");
  }

  // What a screen reader reads of a head in the map: "layer 5 head 1: induction .84 [.80, .88], n 32; jobs: induction".
  function label(column, index) {
    return `${name(index)}: ${column ? `${said(column, index)}; ` : ""}${jobs(index) ? `job: ${jobs(index)}` : "no job found"}`;
  }

  return {
    layers, heads, count, columns, roles, byRole, byColumn, tested, at, own, earned, name, jobs, said, label,
    address: (index) => [Math.floor(index / heads), index % heads],
    index: (layer, head) => layer * heads + head,
    attributes: (index) => ({ "data-layer": Math.floor(index / heads), "data-head": index % heads, "data-stack": panel.stack }),
    stage: (effect, stage) => lazily(`${effect}/${stage}`, () => {
      const { values, low, high, n, q, examples, ...rest } = panel.effects[effect].stages[stage];
      const read = (own) => own && unpack(own).values;
      const dots = examples && unpack(examples);
      return { ...rest, values: read(values), low: read(low), high: read(high), n: read(n), q: read(q), dots: dots && dots.values, examples: dots ? dots.shape[2] : 0 };
    }),
    pattern: (exhibit) => lazily(`pattern ${exhibit}`, () => unpack(panel.exhibits[exhibit].pattern).values),
    past: () => lazily("history", () => panel.history.columns.map((column) => ({
      ...column, values: unpack(column.values).values, low: unpack(column.low).values, high: unpack(column.high).values,
    }))),
    words: number,
  };
}

return { dataOf };
})();

const $page_overview = (() => {
// All heads of a panel: jobs to choose, a map by layer and head, a scatter of any two numbers, and the leading heads.

const { extent } = $arrays;
const { colorBar, css, ramp, textOn } = $colors;
const { choice, h, number, roving, select, svg } = $dom;

const LISTED = 6;
const SIDE = 460, HIGH = 400, LEFT = 52, BELOW = 42, AROUND = 12; // of the scatter, in its own units
const SHAPES = ["circle", "square", "triangle", "diamond", "cross", "down"];

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// A mark's outline about a point; jobs differ in shape as well as in colour.
function outline(shape, x, y, r) {
  const p = { square: [[-1, -1], [1, -1], [1, 1], [-1, 1]], triangle: [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]], diamond: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
    down: [[0, 1.2], [1.1, -0.9], [-1.1, -0.9]], cross: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]] }[shape];
  return `M${p.map(([a, b]) => `${(x + r * a).toFixed(1)} ${(y + r * b).toFixed(1)}`).join("L")}Z`;
}

// Round steps between two numbers.
function ticks(low, high, count = 5) {
  const raw = (high - low) / count || 1, base = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map((own) => own * base).find((own) => own >= raw);
  const list = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) list.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return list;
}

function overview({ panel, data, theme, tip, open, before }) {
  const { columns, roles } = data;
  const place = (...names) => Math.max(0, names.map((name) => columns.findIndex((column) => column.name === name || column.group === name)).find((at) => at >= 0) ?? 1);
  const state = before || {
    role: null, color: -1, view: 0, all: false, open: null,
    x: place("induction", "previous_token"), y: Math.min(place("repeat_loss", "effect", "first_token"), columns.length - 1),
  };
  const chips = h("div", { class: "jh-chips", role: "group", "aria-label": "Jobs of heads" });
  const about = h("div", { class: "jh-about", "aria-live": "polite" }), body = h("div"), list = h("div");
  const labels = columns.map((column) => column.label);
  const controls = h("div", { class: "jh-row" },
    choice("Picture", ["Map", "Scatter"], (view) => set({ view }), state.view), h("span", { class: "jh-row jh-axes" }));
  const element = h("div", {}, h("h3", {}, "1. Choose a job"), chips, about, h("h3", {}, "2. Choose a head"), list, controls, body);

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const scoreOf = (role) => (role && role.metric ? data.byColumn.get(role.metric) : null);
  const has = (index) => !state.role || panel.roles.earned[index].includes(state.role);
  const column = () => (state.color >= 0 ? columns[state.color] : state.role ? scoreOf(data.byRole.get(state.role)) : null);

  function drawChips() {
    const chip = (role) => h("button", {
      type: "button", class: "jh-chip", "aria-pressed": String(state.role === role.name), "data-role": role.name, disabled: !role.heads,
      click: () => set({ role: state.role === role.name ? null : role.name, color: -1, all: false }),
    }, swatch(role), `${role.label} `, h("span", { class: "jh-muted" }, role.heads));
    const none = panel.roles.earned.filter((own) => !own.length).length;
    chips.replaceChildren(...roles.map(chip), h("span", { class: "jh-muted jh-none" }, `${none} heads without a job found`));
    const role = data.byRole.get(state.role);
    about.replaceChildren(role
      ? h("p", {}, h("b", {}, `${role.label[0].toUpperCase()}${role.label.slice(1)}. `), role.about, h("span", { class: "jh-muted" }, ` ${role.heads} of ${data.count} heads have this job. By chance (${role.kind}, ${role.draws} draws) the best head reaches ${number(role.score)}.`))
      : h("p", { class: "jh-muted" }, "Each square of the map is a head; its letter and colour are the job that it does most clearly. Choose a job to see what it is and which heads have it."));
  }

  function swatch(role) {
    return h("span", { class: "jh-swatch", "aria-hidden": "true", style: { background: role.color[theme], color: textOn(rgb(role.color[theme])) } }, role.letter);
  }

  function drawControls() {
    const axes = controls.querySelector(".jh-axes");
    axes.replaceChildren(state.view
      ? h("span", { class: "jh-row" }, select("Across", labels, (x) => set({ x }), state.x), select("Up", labels, (y) => set({ y }), state.y))
      : select("Colour by", [state.role ? "score of the job" : "job", ...labels], (to) => set({ color: to - 1 }), state.color + 1));
  }

  function lines(index) {
    const own = column(), shown = new Set([own, ...(state.view ? [columns[state.x], columns[state.y]] : [])].filter(Boolean));
    const role = data.own(index);
    if (!shown.size && scoreOf(role)) shown.add(scoreOf(role));
    return [data.name(index), data.jobs(index) ? `job: ${data.jobs(index)}` : "no job found", ...[...shown].map((one) => data.said(one, index))];
  }

  function drawMap() {
    const own = column(), all = own && [...own.values];
    const [low, high] = own ? extent(all) : [0, 1], colorOf = ramp(theme, Math.min(low, 0), high);
    const cells = Array.from({ length: data.count }, (_, index) => {
      const role = data.own(index), value = own ? own.values[index] : NaN;
      const fill = own ? (Number.isNaN(value) ? null : colorOf(value)) : role ? rgb(role.color[theme]) : null;
      const cell = own && data.at(own, index), unsure = cell && cell.low <= 0 && cell.high >= 0;
      const classes = ["jh-cell", !fill && "jh-plain", !has(index) && "jh-faint", unsure && "jh-hatched"].filter(Boolean).join(" ");
      return h("span", {
        class: classes, role: "gridcell", "data-index": index, ...data.attributes(index), "aria-selected": String(index === state.open),
        "aria-label": data.label(own || scoreOf(role), index),
        style: fill ? { "background-color": css(fill), color: textOn(fill), "--hatch": textOn(fill) === "#000" ? "0 0 0" : "255 255 255" } : {},
      }, role && (!own || state.role) && has(index) ? (state.role ? data.byRole.get(state.role).letter : role.letter) : "");
    });
    const [layers, heads] = panel.shape;
    const grid = h("div", { role: "grid", class: "jh-grid jh-map", "aria-label": "All heads: layers down, heads across. Arrow keys move, Enter opens.", style: { "grid-template-columns": `auto repeat(${heads}, minmax(${heads > 24 ? 8 : 14}px, 1fr))` } },
      h("div", { role: "row", class: "jh-contents" }, h("span", { class: "jh-head", role: "columnheader" }, "layer"),
        Array.from({ length: heads }, (_, head) => h("span", { class: "jh-head", role: "columnheader" }, head))),
      Array.from({ length: layers }, (_, layer) => h("div", { role: "row", class: "jh-contents" },
        h("span", { class: "jh-head", role: "rowheader" }, layer), cells.slice(layer * heads, (layer + 1) * heads))));
    grid.addEventListener("click", (event) => event.target.dataset.index && open(Number(event.target.dataset.index)));
    roving(grid, cells, { columns: heads, enter: (item) => open(Number(item.dataset.index)) });
    tip.on(grid, "[data-index]", (item) => lines(Number(item.dataset.index)));
    const legend = own
      ? h("p", { class: "jh-row jh-legend-row" }, h("span", {}, own.label), colorBar(theme, Math.min(low, 0), high, number),
        h("span", { class: "jh-key" }, h("span", { class: "jh-cell jh-hatched" }), "interval includes 0"))
      : "";
    const meaning = own && own.about ? h("p", { class: "jh-muted" }, own.about) : "";
    return [legend, meaning, h("div", { class: "jh-mapbox" }, grid)];
  }

  function drawScatter() {
    const across = columns[state.x], up = columns[state.y];
    const known = Array.from({ length: data.count }, (_, index) => index).filter((index) => Number.isFinite(across.values[index]) && Number.isFinite(up.values[index]));
    const place = (values, size, from) => {
      const [low, high] = extent(known.map((index) => values[index])), room = (high - low || 1) * 0.05;
      const own = (value) => from + (size * (value - low + room)) / (high - low + 2 * room || 1);
      return Object.assign(own, { low: low - room, high: high + room });
    };
    const x = place(across.values, SIDE - LEFT - AROUND, LEFT), upward = place(up.values, HIGH - BELOW - AROUND, 0), y = (value) => HIGH - BELOW - upward(value);
    const axes = [
      ...ticks(x.low, x.high).map((value) => svg("g", {}, svg("line", { class: "jh-axis", x1: x(value), x2: x(value), y1: AROUND, y2: HIGH - BELOW }), svg("text", { x: x(value), y: HIGH - BELOW + 14, "text-anchor": "middle" }, number(value)))),
      ...ticks(upward.low, upward.high).map((value) => svg("g", {}, svg("line", { class: "jh-axis", x1: LEFT, x2: SIDE - AROUND, y1: y(value), y2: y(value) }), svg("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, number(value)))),
      svg("text", { x: (LEFT + SIDE) / 2, y: HIGH - 8, "text-anchor": "middle" }, across.label), svg("text", { transform: `translate(12 ${(HIGH - BELOW) / 2}) rotate(-90)`, "text-anchor": "middle" }, up.label),
    ];
    const order = known.sort((one, other) => Number(has(one)) - Number(has(other)) || Number(one === state.open) - Number(other === state.open));
    const points = order.map((index) => {
      const role = state.role && has(index) ? data.byRole.get(state.role) : data.own(index), at = roles.indexOf(role);
      const [cx, cy, r] = [x(across.values[index]), y(up.values[index]), index === state.open ? 7 : 4.5];
      const shared = {
        class: `jh-point${has(index) ? "" : " jh-faint"}`, role: "button", "data-index": index, ...data.attributes(index), "aria-pressed": String(index === state.open),
        "aria-label": `${data.name(index)}: ${data.said(across, index)}; ${data.said(up, index)}${data.jobs(index) ? `; job: ${data.jobs(index)}` : ""}`,
        style: { "--fill": role ? role.color[theme] : "var(--muted)" },
      };
      const shape = at >= 0 ? SHAPES[at % SHAPES.length] : "circle";
      return shape === "circle" ? svg("circle", { ...shared, cx, cy, r }) : svg("path", { ...shared, d: outline(shape, cx, cy, r * 0.95) });
    });
    const picture = svg("svg", { viewBox: `0 0 ${SIDE} ${HIGH}`, class: "jh-scatter", role: "group", "aria-label": `Scatter of heads: ${across.label} across, ${up.label} up. Arrow keys move, Enter opens.` }, axes, points);
    picture.addEventListener("click", (event) => event.target.dataset.index && open(Number(event.target.dataset.index)));
    roving(picture, [...points].sort((one, other) => one.dataset.index - other.dataset.index), { enter: (item) => open(Number(item.dataset.index)) });
    tip.on(picture, "[data-index]", (item) => lines(Number(item.dataset.index)));
    const key = h("p", { class: "jh-row jh-legend-row" }, roles.filter((role) => role.heads).map((role) => h("span", { class: "jh-key" }, mark(role), role.label)), h("span", { class: "jh-key" }, mark(null), "no job found"));
    const missing = data.count - known.length, meanings = [across, up].filter((own) => own.about).map((own) => h("li", {}, `${own.label}: ${own.about}`));
    return [key, picture, missing ? h("p", { class: "jh-muted" }, `${missing} heads have no such number and are not drawn.`) : "", h("ul", { class: "jh-muted" }, meanings)];
  }

  function mark(role) {
    const at = roles.indexOf(role), shape = at >= 0 ? SHAPES[at % SHAPES.length] : "circle", style = { "--fill": role ? role.color[theme] : "var(--muted)" };
    return svg("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" },
      shape === "circle" ? svg("circle", { class: "jh-point", cx: 7, cy: 7, r: 5, style }) : svg("path", { class: "jh-point", d: outline(shape, 7, 7, 4.6), style }));
  }

  // The leading heads: of the chosen job, else by the number that the map is coloured by.
  function drawList() {
    const own = column();
    if (!own && !state.role) return list.replaceChildren();
    const size = (index) => (!own ? 0 : own.group === "effect" ? Math.abs(own.values[index]) : own.values[index]);
    const ranked = Array.from({ length: data.count }, (_, index) => index).filter((index) => has(index) && Number.isFinite(size(index))).sort((one, other) => size(other) - size(one));
    const some = state.all ? ranked : ranked.slice(0, LISTED);
    const items = some.map((index) => h("li", {}, h("button", { type: "button", class: "jh-link", "data-open": index, ...data.attributes(index), "aria-label": data.label(own, index), click: () => open(index) }, data.name(index)), h("span", { class: "jh-muted" }, ` ${own ? data.said(own, index) : data.jobs(index)}`)));
    const more = some.length < ranked.length && h("button", { type: "button", click: () => set({ all: true }) }, `Show all ${ranked.length}`);
    list.replaceChildren(h("h4", {}, own ? `Heads by ${own.label}, largest first` : "Heads with this job"), h("ol", { class: "jh-leaders" }, items), more || "");
  }

  function draw() {
    tip.hide();
    drawChips();
    drawControls();
    body.replaceChildren(...[state.view ? drawScatter() : drawMap()].flat().filter(Boolean));
    drawList();
  }

  function mark_open(index) {
    state.open = index;
    for (const item of body.querySelectorAll("[data-index]")) {
      const chosen = String(Number(item.dataset.index) === index);
      if (item.hasAttribute("aria-selected")) item.setAttribute("aria-selected", chosen);
      else item.setAttribute("aria-pressed", chosen);
    }
  }

  draw();
  return { element, state, mark: mark_open, focus: (index) => body.querySelector(`[data-index="${index}"]`)?.focus() };
}

return { overview };
})();

const $page = (() => {
// The page of a model: a map of all heads, a scatter, and the card of the head that is open. Two panels may stand side by side.
//
// payload: {models, made, panels: [{model, title, stack, shape, columns, roles, effects, exhibits, texts, contexts, tokens, alike, history}…]}

const { announce, h, select } = $dom;
const { themed } = $colors;
const { headCard } = $page_card;
const { dataOf } = $page_data;
const { overview } = $page_overview;
const { tooltip } = $tooltip;

const panelName = (panel) => (panel.stacks > 1 ? `${panel.model}, ${panel.stack}` : panel.model);

function guide(panels) {
  const [first] = panels, [layers, heads] = first.shape;
  const [piece, reads] = { patches: ["patch", "an image patch by patch"], frames: ["moment", "a recording moment by moment"] }[first.kind] || ["piece", "a text piece by piece"];
  return h("div", { class: "jh-guide" },
    h("p", {}, h("b", {}, "What is an attention head? "),
      `A transformer reads ${reads}. In each of its layers stand several attention heads: small parts that, at every ${piece}, look at ${piece === "patch" ? "other patches" : `other ${piece}s`} and carry over what they find there. ${first.title} has ${layers} layers of ${heads} heads. This page shows what each of them does, how sure that is, and what the model loses without it.`),
    h("ol", {},
      h("li", {}, "Choose a job, such as induction: the map marks the heads that have it."),
      h("li", {}, "Choose a head, in the list or in the map: its card says why it is called so."),
      h("li", {}, "Read “What removing it changes”, then see for yourself under “Where it looks”.")));
}

function statistics(panel) {
  const { roles } = panel;
  return h("details", { class: "jh-sure" }, h("summary", {}, "How sure are these numbers?"),
    h("p", {}, `Measured on ${panel.inputs}; seed ${panel.seed}. Brackets hold 95 % intervals over independent texts, whose number is n: where n is below 10, read them as a rough guide.`),
    h("p", {}, `A head has a job if its score beats the best head of a null, in which nothing can have the job, on texts that were kept apart (at most ${Math.round(100 * roles.level)} % of the ${roles.tests} tests may err so), and reaches ${roles.least} of what the null leaves open. A score is the share of attention that does the job; a head may have several jobs, and what it does on other texts is not known from these.`),
    h("p", {}, "Removing a head means that its output is replaced by its mean over other texts. All heads were screened on a few texts; the heads with the largest changes were asked again on fresh texts, since what leads a screen leads it partly by luck. Other heads may take over the work of a removed one."),
    panel.leftOut.length > 0 && h("p", {}, "Left out: ", panel.leftOut.join("; "), "."),
    h("p", { class: "jh-muted" }, `Weights ${panel.weights}.`));
}

// What stands where the card will be: for each job the head that does it most.
function start(data, open) {
  const leading = data.roles.filter((role) => role.heads && role.metric).map((role) => {
    const { values } = data.byColumn.get(role.metric), having = Array.from({ length: data.count }, (_, index) => index).filter((index) => data.earned(index).includes(role));
    return { role, index: having.sort((one, other) => values[other] - values[one])[0] };
  });
  return [h("h3", {}, "No head is open yet"), h("p", {}, "Choose one in the map, or start with the clearest of each job:"),
    h("ul", { class: "jh-start" }, leading.map(({ role, index }) => h("li", {}, h("button", { type: "button", "data-start": role.name, click: () => open(index) }, data.name(index)), h("span", {}, h("b", {}, `${role.label}: `), role.about))))];
}

// One stack: the overview with its card; `wide` where it has the page for itself.
function panelView(root, panel, number, tip) {
  const data = dataOf(panel), state = { theme: null, open: null, card: null, over: null };
  const over = h("div", { class: "jh-over" }), card = h("article", { class: "jh-page-card", "aria-live": "off" });
  const element = h("section", { class: "jh-panel", "aria-label": `Heads of ${panelName(panel)}` },
    h("h2", { class: "jh-panel-title" }, panel.title, panel.stacks > 1 ? `, ${panel.stack}` : ""), over, card);

  function open(index, { focus = true } = {}) {
    state.open = index;
    state.over?.mark(index);
    if (index === null) {
      card.replaceChildren(...start(data, open));
      return;
    }
    const [layer, head] = data.address(index);
    card.replaceChildren(...headCard({ panel, data, index, theme: state.theme, tip, open, back: () => state.over.focus(index) }));
    if (focus) {
      card.querySelector("h2").focus({ preventScroll: true });
      const box = card.getBoundingClientRect();
      if (box.top < 0 || box.top > innerHeight * 0.6) card.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
    announce(root, { stack: panel.stack, layer, head });
  }

  function draw(theme) {
    state.theme = theme;
    const before = state.over?.state;
    state.over = overview({ panel, data, theme, tip, open, before });
    over.replaceChildren(state.over.element);
    open(state.open, { focus: false });
  }

  card.addEventListener("keydown", (event) => event.key === "Escape" && state.open !== null && state.over.focus(state.open));
  element.dataset.panel = number;
  return { element, draw, open, data, panel };
}

function page(root, payload) {
  root.classList.add("jh-page");
  const { panels } = payload, tip = tooltip(root), views = new Map();
  const shown = { first: 0, second: payload.models.length > 1 ? panels.findIndex((panel) => panel.model !== panels[0].model) : -1 };
  const columns = h("div", { class: "jh-panels" }), foot = h("footer", { class: "jh-foot" });
  const names = panels.map(panelName);
  let theme = null;

  const view = (number) => {
    if (!views.has(number)) views.set(number, panelView(root, panels[number], number, tip));
    return views.get(number);
  };

  function draw() {
    const own = [shown.first, shown.second].filter((number, at) => number >= 0 && (at === 0 || number !== shown.first)).map(view);
    columns.classList.toggle("jh-two", own.length > 1);
    columns.replaceChildren(...own.map(({ element }) => element));
    own.forEach((one) => one.draw(theme));
    foot.replaceChildren(...own.map(({ panel }) => statistics(panel)), payload.made ? h("p", { class: "jh-muted" }, payload.made) : "");
  }

  const jump = h("form", { class: "jh-control", submit: (event) => {
    event.preventDefault();
    const [layer, head] = (event.target.elements.head.value.match(/\d+/g) || []).map(Number);
    const { data, open, panel } = view(shown.first);
    const fits = layer < panel.shape[0] && head < panel.shape[1];
    said.textContent = fits ? "" : `There is no such head: layers are 0 to ${panel.shape[0] - 1}, heads 0 to ${panel.shape[1] - 1}.`;
    if (fits) open(data.index(layer, head));
  } }, h("label", { for: "jh-jump" }, "Go to head"), h("input", { id: "jh-jump", name: "head", placeholder: "layer.head", size: 9, autocomplete: "off" }), h("button", { type: "submit" }, "Open"));
  const said = h("span", { role: "status", class: "jh-muted" });
  const pick = panels.length > 1 && h("span", { class: "jh-row" },
    select("Show", names, (to) => { shown.first = to; draw(); }, shown.first),
    select("beside", ["nothing", ...names], (to) => { shown.second = to - 1; draw(); }, shown.second + 1));

  root.append(
    h("header", {}, h("h1", {}, "The heads of ", [...new Set(panels.map((panel) => panel.title))].join(" and ")), guide(panels)),
    h("div", { class: "jh-row jh-tools" }, jump, pick, said), columns, foot);

  // Links name a head: #18.6, with the panel's number before a slash where it is not the first.
  function follow() {
    const match = location.hash.match(/^#(?:(\d+)\/)?(\d+)\.(\d+)$/);
    if (!match) return;
    const number = Number(match[1] || shown.first), panel = panels[number];
    if (!panel || Number(match[2]) >= panel.shape[0] || Number(match[3]) >= panel.shape[1]) return;
    if (number !== shown.first && number !== shown.second) { shown.first = number; draw(); }
    const own = view(number), index = own.data.index(Number(match[2]), Number(match[3]));
    own.open(index, { focus: false });
  }

  root.addEventListener("jaxheads:head", ({ detail }) => {
    const number = [...views].find(([, own]) => own.panel.stack === detail.stack && own.element.contains(document.activeElement))?.[0] ?? shown.first;
    history.replaceState(null, "", `#${number === 0 ? "" : `${number}/`}${detail.layer}.${detail.head}`);
  });
  themed(root, (own) => {
    theme = own;
    draw();
  });
  follow();
  addEventListener("hashchange", follow);
}

return { page };
})();

const $scatter = (() => {
// Two numbers of heads against each other: points with names, intervals on hover, colours by role.

const { extent } = $arrays;
const { chart } = $axes;
const { color, resized, themed } = $colors;
const { announce, h, number, roving, select, svg } = $dom;
const { cellLines, cellsOf, label } = $heatmap;
const { tooltip } = $tooltip;

const NAMED = 8, COLORED = 6;

function scatter(root, payload) {
  const cells = cellsOf(payload), { metrics } = payload, key = Object.keys(payload.words || {})[0];
  const counts = new Map();
  for (const cell of cells) if (key && cell.words[key]) counts.set(cell.words[key], (counts.get(cell.words[key]) || 0) + 1);
  const roles = [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one));
  const state = { x: 0, y: Math.min(1, metrics.length - 1), role: 0, theme: "light" };
  const body = h("div"), legend = h("div", { class: "jh-row" }), card = h("div", { class: "jh-card", hidden: true }), tip = tooltip(root);
  const names = metrics.map((metric) => metric.name), axis = ({ name, unit }) => (unit ? `${name} (${unit})` : name);
  root.append(h("div", { class: "jh-row" },
    metrics.length > 2 && [select("Across", names, (x) => set({ x }), 0), select("Up", names, (y) => set({ y }), 1)],
    roles.length > 1 && select(key, ["all", ...roles], (role) => set({ role }))), legend, body, card);

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const colorOf = (cell) => {
    const at = key ? roles.indexOf(cell.words[key]) : 0;
    return color(state.theme, at < 0 || at >= COLORED ? COLORED : at);
  };

  function open(cell, point) {
    card.replaceChildren(h("h3", {}, cell.name), h("ul", {}, cellLines(payload, cell, state.x).slice(1).map((line) => h("li", {}, line))));
    card.hidden = false;
    for (const own of body.querySelectorAll("[aria-pressed]")) own.setAttribute("aria-pressed", String(own === point));
    announce(root, { stack: payload.stack, layer: cell.row, head: cell.column });
  }

  // The points that lie farthest out are named, where no name is written yet.
  function named(shown, x, y) {
    const places = [], far = (cell) => {
      const [left, right] = [x(cell.values[state.x].value), y(cell.values[state.y].value)];
      return Math.abs(left - x.middle) / x.middle + Math.abs(right - y.middle) / y.middle;
    };
    return [...shown].sort((one, other) => far(other) - far(one)).filter((cell) => {
      const at = [x(cell.values[state.x].value), y(cell.values[state.y].value)];
      if (places.length >= NAMED || places.some(([left, top]) => Math.abs(left - at[0]) < 44 && Math.abs(top - at[1]) < 12)) return false;
      return places.push(at);
    });
  }

  function draw() {
    const known = cells.filter((cell) => Number.isFinite(cell.values[state.x].value) && Number.isFinite(cell.values[state.y].value));
    const range = (metric) => extent(known.map((cell) => cell.values[metric].value));
    const title = `${names[state.y]} against ${names[state.x]}, one point a head`;
    const { element, area, x, y, width, height } = chart(root, title, range(state.x), range(state.y), { xName: axis(metrics[state.x]), yName: axis(metrics[state.y]) });
    x.middle = width / 2;
    y.middle = height / 2;
    const shown = known.filter((cell) => !state.role || cell.words[key] === roles[state.role - 1]);
    if (payload.diagonal) {
      const from = Math.max(range(state.x)[0], range(state.y)[0]), to = Math.min(range(state.x)[1], range(state.y)[1]);
      if (from < to) area.append(svg("line", { class: "jh-diagonal", x1: x(from), y1: y(from), x2: x(to), y2: y(to) }));
    }
    const points = shown.map((cell) => {
      const place = [x(cell.values[state.x].value), y(cell.values[state.y].value)];
      return svg("circle", {
        cx: place[0], cy: place[1], r: 4.5, fill: colorOf(cell), class: "jh-point", role: "button", "aria-pressed": "false", "data-index": cell.index,
        ...(payload.names ? {} : { "data-stack": payload.stack, "data-layer": cell.row, "data-head": cell.column }),
        "aria-label": `${label(payload, cell, state.x)}; ${metrics[state.y].name} ${number(cell.values[state.y].value)}`,
      });
    });
    const whiskers = svg("g", { class: "jh-whiskers" });
    area.append(whiskers, ...points, ...named(shown, x, y).map((cell) => svg("text", {
      class: "jh-named", ...(x(cell.values[state.x].value) > width - 50 ? { x: x(cell.values[state.x].value) - 6, "text-anchor": "end" } : { x: x(cell.values[state.x].value) + 6 }), y: y(cell.values[state.y].value) - 5 }, payload.names ? cell.name : `${cell.row}.${cell.column}`)));
    const interval = (cell) => {
      const [across, up] = [cell.values[state.x], cell.values[state.y]];
      whiskers.replaceChildren(...[
        Number.isFinite(across.low) && svg("line", { x1: x(across.low), x2: x(across.high), y1: y(up.value), y2: y(up.value) }),
        Number.isFinite(up.low) && svg("line", { x1: x(across.value), x2: x(across.value), y1: y(up.low), y2: y(up.high) })].filter(Boolean));
    };
    const at = (item) => cells[item.dataset.index];
    tip.on(element, "[data-index]", (item) => {
      interval(at(item));
      return [at(item).name, ...[state.x, state.y].flatMap((metric) => cellLines(payload, at(item), metric).slice(1, 2)), key && at(item).words[key]];
    });
    element.addEventListener("click", (event) => event.target.dataset.index && open(at(event.target), event.target));
    // From left to right by the arrow keys.
    const order = [...points].sort((one, other) => one.getAttribute("cx") - other.getAttribute("cx"));
    roving(element, order, { enter: (item) => open(at(item), item) });
    legend.replaceChildren(...roles.slice(0, COLORED).map((role, index) => h("span", { class: "jh-key" },
      h("span", { class: "jh-swatch", style: { background: color(state.theme, index) } }), role)));
    tip.hide();
    body.replaceChildren(element, h("p", { class: "jh-muted" }, `${shown.length} heads${known.length < cells.length ? ` (${cells.length - known.length} without both numbers)` : ""}`));
  }

  themed(root, (theme) => set({ theme }));
  resized(root, draw);
}

return { scatter };
})();

const $tokens = (() => {
// Texts whose tokens are coloured by a number each.
//
// payload: {label, rows: [{name, texts, values: packed}]}

const { extent, unpack } = $arrays;
const { colorBar, css, ramp, textOn, themed } = $colors;
const { choice, h, number, roving, shown } = $dom;
const { tooltip } = $tooltip;

const FEW = 20;

function tokens(root, payload) {
  const rows = payload.rows.map((row) => ({ ...row, values: unpack(row.values).values }));
  const state = { each: false, all: rows.length <= FEW, theme: "light" };
  const legend = h("div", { class: "jh-row" }), body = h("div"), tip = tooltip(root);
  root.append(h("div", { class: "jh-row" }, rows.length > 1 && choice("Scale", ["one scale", "each text's own"], (own) => set({ each: own === 1 }))), legend, body);

  function set(change) {
    Object.assign(state, change);
    draw();
  }

  const words = (row, at) => `“${shown(row.texts[at])}” (${at})`;

  function paragraph(row, whole) {
    const [low, high] = state.each ? extent(row.values) : whole, colorOf = ramp(state.theme, Math.min(low, 0), Math.max(high, 0));
    const items = row.texts.map((text, at) => {
      const value = row.values[at];
      if (Number.isNaN(value)) return null;
      const own = colorOf(value), sign = value < 0 ? " jh-negative" : "";
      return h("span", { class: `jh-token${sign}`, role: "note", "data-token": at, "aria-label": `${words(row, at)}: ${payload.label} ${number(value)}`,
        style: { "background-color": css(own), color: textOn(own) } }, shown(text));
    }).filter(Boolean);
    const text = h("div", { class: "jh-text" }, items);
    roving(text, items);
    tip.on(text, "[data-token]", (item) => [words(row, item.dataset.token), `${payload.label} ${number(row.values[item.dataset.token])}`]);
    return h("div", {}, row.name && h("div", { class: "jh-label" }, row.name), text);
  }

  function draw() {
    const whole = extent(rows.flatMap(({ values }) => [...values])), some = state.all ? rows : rows.slice(0, FEW);
    const bar = state.each ? [h("span", { class: "jh-muted" }, "colours of each text go to its own largest number")] : [colorBar(state.theme, Math.min(whole[0], 0), Math.max(whole[1], 0), number)];
    legend.replaceChildren(h("span", {}, payload.label), ...bar, ...(whole[0] < 0 ? [h("span", { class: "jh-key" }, h("span", { class: "jh-token jh-negative" }, "underlined"), "below 0")] : []));
    const more = some.length < rows.length ? [h("button", { type: "button", click: () => set({ all: true }) }, `Show all ${rows.length}`)] : [];
    tip.hide();
    body.replaceChildren(...some.map((row) => paragraph(row, whole)), ...more);
  }

  themed(root, (theme) => set({ theme }));
}

return { tokens };
})();

const $main = (() => {
// The face of the bundle: `render(element, payload)`, `start()` for files, and the widget that anywidget carries.

const { attention } = $attention;
const { curves } = $curves;
const { h } = $dom;
const { graph } = $graph;
const { heatmap } = $heatmap;
const { matrix } = $matrix;
const { page } = $page;
const { scatter } = $scatter;
const { tokens } = $tokens;

const KINDS = { attention, curves, graph, heads: page, heatmap, matrix, scatter, tokens };

// Draws a payload into an element, which it empties first.
function render(element, payload) {
  const draw = KINDS[payload.kind];
  const root = h("div", { class: "jh", "data-kind": payload.kind });
  element.replaceChildren(root);
  if (!draw) throw new Error(`no view of the kind ${payload.kind}; known are ${Object.keys(KINDS).join(", ")}`);
  if (payload.title) root.append(h("h2", {}, payload.title));
  if (payload.note) root.append(h("p", { class: "jh-muted" }, payload.note));
  draw(root, payload);
  return root;
}

// Puts the style into a document once.
function styled(node = document) {
  if (node.getElementById("jaxheads-style")) return;
  node.head.append(h("style", { id: "jaxheads-style" }, STYLE));
}

// Draws all payloads of a file: element `#jaxheads-N` gets the data of `#jaxheads-data-N`.
function start() {
  styled();
  for (const data of document.querySelectorAll('script[type="application/json"][data-jaxheads]'))
    render(document.getElementById(data.dataset.jaxheads), JSON.parse(data.textContent));
}

// The widget: its model has `payload`, and gets the `chosen` head as {stack, layer, head}.
const widget = {
  render({ model, el }) {
    styled();
    const draw = () => render(el, model.get("payload"));
    model.on("change:payload", draw);
    el.addEventListener("jaxheads:head", ({ detail }) => {
      model.set("chosen", detail);
      model.save_changes();
    });
    draw();
  },
};

return { render, styled, start, widget };
})();

globalThis.jaxheads = $main;
export const { render, start } = $main;
export default $main.widget;
