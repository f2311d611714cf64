// Texts whose tokens are coloured by a number each.
//
// payload: {label, rows: [{name, texts, values: packed}]}

import { extent, unpack } from "./arrays.js";
import { colorBar, css, ramp, textOn, themed } from "./colors.js";
import { choice, h, number, roving, shown } from "./dom.js";
import { tooltip } from "./tooltip.js";

const FEW = 20;

export function tokens(root, payload) {
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
