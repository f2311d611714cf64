// Elements without innerHTML: all text is put in as text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") Object.entries(value).forEach(([key, own]) => element.style.setProperty(key, own));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// h("button", {class: "jh-cell", "data-layer": 3, click: open}, "text", child…)
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A number as people read it: .84, 12.3, 1,204, .0031, 2.1e-7; a dash where there is none.
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en").replace("-", "−");
  let text;
  if (size >= 1e6 || size < 1e-4) text = value.toExponential(1);
  else if (size >= 100) text = Math.round(value).toLocaleString("en");
  else if (size >= 10) text = value.toFixed(1);
  else if (size >= 0.1) text = value.toFixed(2);
  else text = value.toPrecision(2);
  return text.replace(/^(-?)0\./, "$1.").replaceAll("-", "−");
}

// "induction .84 [.80, .88], n 32"
export function estimate(name, value, low, high, n) {
  const interval = Number.isFinite(low) && Number.isFinite(high) ? ` [${number(low)}, ${number(high)}]` : "";
  return `${name} ${number(value)}${interval}${n === undefined || Number.isNaN(n) ? "" : `, n ${number(n)}`}`;
}

// A token as it is shown: its spaces and line ends can be seen, and an empty one has a place.
export function shown(token) {
  return token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "\u00b7".repeat(spaces.length)) || "∅";
}

// One tab stop among many items; arrow keys, Home and End move between them. `columns` as a number makes a grid.
export function roving(container, items, { columns = 1, enter = null } = {}) {
  const list = [...items];
  list.forEach((item, index) => item.setAttribute("tabindex", index ? "-1" : "0"));
  const place = new Map(list.map((item, index) => [item, index]));
  const seen = (item) => item.getClientRects().length > 0;
  container.addEventListener("keydown", (event) => {
    const from = place.get(event.target.closest("[tabindex]"));
    if (from === undefined) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (enter && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      return enter(list[from], from);
    }
    let step = steps[event.key], to = from + step;
    if (event.key === "Home") [step, to] = [1, 0];
    if (event.key === "End") [step, to] = [-1, list.length - 1];
    if (step === undefined) return;
    event.preventDefault();
    while (list[to] && !seen(list[to])) to += step;
    if (list[to]) list[to].focus();
  });
  container.addEventListener("focusin", (event) => {
    if (!place.has(event.target)) return;
    for (const item of container.querySelectorAll('[tabindex="0"]')) if (place.has(item)) item.setAttribute("tabindex", "-1");
    event.target.setAttribute("tabindex", "0");
  });
}

let labels = 0;

// A select with its label; `choose` gets the option's number.
export function select(label, options, choose, chosen = 0) {
  const id = `jh-${++labels}`;
  const own = h("select", { id, change: (event) => choose(Number(event.target.value)) },
    options.map((option, index) => h("option", { value: index, selected: index === chosen }, option)));
  return h("span", { class: "jh-control" }, h("label", { for: id }, label), own);
}

// Buttons of which one is pressed.
export function choice(label, options, choose, chosen = 0) {
  const buttons = options.map((option, index) =>
    h("button", { type: "button", "aria-pressed": index === chosen, click: () => pick(index) }, option));
  function pick(index) {
    buttons.forEach((button, own) => button.setAttribute("aria-pressed", String(own === index)));
    choose(index);
  }
  buttons.forEach((button, own) => button.setAttribute("aria-pressed", String(own === chosen)));
  return h("span", { class: "jh-choice", role: "group", "aria-label": label }, buttons);
}

// A slider with its label and its value; `choose` gets the number.
export function slider(label, { min, max, step, value, words = number }, choose) {
  const id = `jh-${++labels}`;
  const said = h("output", { for: id }, words(value));
  const own = h("input", { id, type: "range", min, max, step, value, input: (event) => {
    said.textContent = words(Number(event.target.value));
    choose(Number(event.target.value));
  } });
  return h("span", { class: "jh-control" }, h("label", { for: id }, label), own, said);
}

// The heads that a view names: "layer 5 head 1", with the stack where there are several.
export function headName(layer, head, stack = "") {
  return `${stack ? `${stack} ` : ""}layer ${layer} head ${head}`;
}

// Tells the page around a view which head was opened.
export function announce(element, detail) {
  element.dispatchEvent(new CustomEvent("jaxheads:head", { bubbles: true, detail }));
}
