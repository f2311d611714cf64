// A graph of senders and receivers, in the order in which they write: the strongest edges, read by pointer and keys.
//
// payload: {label, nodes: [{name, row, column, layer, head, note}], edges: [[from, to]…] strongest first,
// kinds: [text…], values, low, high: packed, first: number of edges shown at first}

import { unpack } from "./arrays.js";
import { color, themed } from "./colors.js";
import { announce, estimate, h, roving, slider, svg } from "./dom.js";
import { tooltip } from "./tooltip.js";

const ROW = 58, LEAST = 46, SIDE = 22;

export function graph(root, payload) {
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
