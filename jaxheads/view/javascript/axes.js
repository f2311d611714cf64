// Axes of charts: round ticks, and positions on a drawing of a fixed size that scales with the page.

import { number, svg } from "./dom.js";

const LEFT = 62, RIGHT = 14, TOP = 12, BOTTOM = 46;

// Round numbers from low to high.
export function ticks(low, high, count = 5) {
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
export function scale([low, high], [from, to], { log = false, margin = 0.04 } = {}) {
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
export function sizeIn(root) {
  return (root.clientWidth || 640) < 600 ? { width: 370, height: 320 } : { width: 640, height: 420 };
}

// A drawing with both axes: {element, area, x, y, top, bottom, width}; draw into `area`.
export function chart(root, label, xs, ys, { xName = "", yName = "", log = false } = {}) {
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
