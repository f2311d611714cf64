// All heads as small patterns, layers down and heads across; each is drawn when it comes into view.

import { unpacked } from "./arrays.js";
import { paint, ramp } from "./colors.js";
import { h, roving } from "./dom.js";

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

export function thumbnails(root, payload, words, choose) {
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
