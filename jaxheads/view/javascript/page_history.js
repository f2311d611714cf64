// Numbers of one head over the steps of a training, as lines with bands of their intervals.

import { extent } from "./arrays.js";
import { h, number, svg } from "./dom.js";

const WIDE = 420, HIGH = 200, LEFT = 40, BELOW = 30, AROUND = 8;
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 2", "10 4"];

export function lines({ steps, columns, index, theme, tip, color }) {
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
