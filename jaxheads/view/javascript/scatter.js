// Two numbers of heads against each other: points with names, intervals on hover, colours by role.

import { extent } from "./arrays.js";
import { chart } from "./axes.js";
import { color, resized, themed } from "./colors.js";
import { announce, h, number, roving, select, svg } from "./dom.js";
import { cellLines, cellsOf, label } from "./heatmap.js";
import { tooltip } from "./tooltip.js";

const NAMED = 8, COLORED = 6;

export function scatter(root, payload) {
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
