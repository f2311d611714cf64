// Effects of each example as dots on a line, with their mean, its interval, and the line of no change.

import { extent } from "./arrays.js";
import { h, number, svg } from "./dom.js";

const WIDE = 420, HIGH = 74, SIDE = 14, LINE = 30;

export function dots({ values, value, low, high, worse, tip, label }) {
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
