// A table of heads as a grid of cells and as a list: values, intervals, roles; sorted, filtered, opened.

import { extent, unpack } from "./arrays.js";
import { color, colorBar, css, ramp, textOn, themed } from "./colors.js";
import { announce, choice, estimate, h, headName, number, roving, select } from "./dom.js";
import { tooltip } from "./tooltip.js";

const LISTED = 50;

// The cells of a payload: {row, column, name, values: [{value, low, high, n, …} of each metric], words: {role: …}}.
export function cellsOf(payload) {
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
export function cellLines(payload, cell, chosen) {
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

export function label(payload, cell, metric) {
  const { value, low, high, n } = cell.values[metric];
  const words = Object.entries(cell.words).filter(([, own]) => own).map(([key, own]) => `, ${key} ${own}`).join("");
  return `${cell.name}: ${estimate(payload.metrics[metric].name, value, low, high, n)}${words}`;
}

export function heatmap(root, payload) {
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
