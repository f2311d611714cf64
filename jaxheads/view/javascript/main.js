// The face of the bundle: `render(element, payload)`, `start()` for files, and the widget that anywidget carries.

import { attention } from "./attention.js";
import { curves } from "./curves.js";
import { h } from "./dom.js";
import { graph } from "./graph.js";
import { heatmap } from "./heatmap.js";
import { matrix } from "./matrix.js";
import { page } from "./page.js";
import { scatter } from "./scatter.js";
import { tokens } from "./tokens.js";

const KINDS = { attention, curves, graph, heads: page, heatmap, matrix, scatter, tokens };

// Draws a payload into an element, which it empties first.
export function render(element, payload) {
  const draw = KINDS[payload.kind];
  const root = h("div", { class: "jh", "data-kind": payload.kind });
  element.replaceChildren(root);
  if (!draw) throw new Error(`no view of the kind ${payload.kind}; known are ${Object.keys(KINDS).join(", ")}`);
  if (payload.title) root.append(h("h2", {}, payload.title));
  if (payload.note) root.append(h("p", { class: "jh-muted" }, payload.note));
  draw(root, payload);
  return root;
}

// Puts the style into a document once.
export function styled(node = document) {
  if (node.getElementById("jaxheads-style")) return;
  node.head.append(h("style", { id: "jaxheads-style" }, STYLE));
}

// Draws all payloads of a file: element `#jaxheads-N` gets the data of `#jaxheads-data-N`.
export function start() {
  styled();
  for (const data of document.querySelectorAll('script[type="application/json"][data-jaxheads]'))
    render(document.getElementById(data.dataset.jaxheads), JSON.parse(data.textContent));
}

// The widget: its model has `payload`, and gets the `chosen` head as {stack, layer, head}.
export const widget = {
  render({ model, el }) {
    styled();
    const draw = () => render(el, model.get("payload"));
    model.on("change:payload", draw);
    el.addEventListener("jaxheads:head", ({ detail }) => {
      model.set("chosen", detail);
      model.save_changes();
    });
    draw();
  },
};
