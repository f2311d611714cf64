// All heads of a panel: jobs to choose, a map by layer and head, a scatter of any two numbers, and the leading heads.

import { extent } from "./arrays.js";
import { colorBar, css, ramp, textOn } from "./colors.js";
import { choice, h, number, roving, select, svg } from "./dom.js";

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

export function overview({ panel, data, theme, tip, open, before }) {
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
