// A matrix of numbers with names of rows and columns: as pixels that are read by pointer and keys, or with a word a cell.
//
// payload: {label, layers: [{name, values: packed}], rowNames, columnNames, texts: [[…]…], down, across}

import { extent, unpack } from "./arrays.js";
import { colorBar, css, paint, ramp, textOn, themed } from "./colors.js";
import { h, number, roving, select, shown } from "./dom.js";
import { tooltip } from "./tooltip.js";

export function matrix(root, payload) {
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
