// One head's pattern as text, as lines, as a matrix, and over a picture. Each returns an element.

import { color, css, paint, ramp, textOn } from "./colors.js";
import { h, number, roving, shown, svg } from "./dom.js";
import { largest, weights } from "./pooling.js";

const MOST_LINES = 800; // of the strongest weights, where no token is chosen
const HEIGHT = 20;

// What is said of a token: its largest weights.
function said(context, index) {
  const { queries, keys, state } = context, [from, to] = state.backwards ? [keys, queries] : [queries, keys];
  const words = largest(weights(context, index, state.backwards), to.map(shown), number);
  return `“${shown(from[index])}” (${index}) ${state.backwards ? "is seen by" : "looks at"} ${words.join(", ") || "nothing much"}`;
}

function token(text, index, attributes = {}) {
  return h("span", { class: `jh-token${text ? "" : " jh-padding"}`, role: "button", "data-token": index, ...attributes }, shown(text));
}

// The scale of the root, so that small weights can be seen; black or white text on it.
function shade(element, weight, colorOf) {
  const own = colorOf(Math.sqrt(Math.max(weight, 0)));
  element.style.backgroundColor = weight > 0.002 ? css(own) : "";
  element.style.color = weight > 0.002 ? textOn(own) : "";
}

// Calls `choose` with the token under the pointer or the focus; a click or Enter keeps it.
function watched(container, context, selector, choose) {
  const item = (event) => event.target.closest?.(selector);
  const index = (event) => Number(item(event).dataset.token);
  const keep = (own) => {
    context.focus(context.state.focus === own ? null : own);
    choose(own);
  };
  container.addEventListener("pointerover", (event) => item(event) && context.state.focus === null && choose(index(event)));
  container.addEventListener("focusin", (event) => item(event) && context.state.focus === null && choose(index(event)));
  container.addEventListener("click", (event) => item(event) && keep(index(event)));
  container.addEventListener("pointerleave", () => context.state.focus === null && choose(null));
  return keep;
}

function paragraphs(texts, parts, side) {
  const items = texts.map((text, index) => token(text, index, { "data-side": side }));
  const whole = h("div", { class: "jh-text" });
  items.forEach((item, index) => {
    if (parts && parts[index] !== parts[index - 1]) whole.append(h("div", { class: "jh-label" }, parts[index]));
    whole.append(item);
  });
  return { items, whole };
}

export function onText(context) {
  const { queries, keys, parts, self, state } = context, colorOf = ramp(state.theme, 0, 1);
  const top = paragraphs(queries, parts.queries, "queries"), bottom = self ? top : paragraphs(keys, parts.keys, "keys");
  const [from, to] = state.backwards ? [bottom, top] : [top, bottom];
  const whole = h("div", {}, self ? [] : h("div", { class: "jh-label" }, "queries"), top.whole, self ? [] : [h("div", { class: "jh-label" }, "keys"), bottom.whole]);

  function choose(index) {
    from.items.forEach((item, own) => {
      item.classList.toggle("jh-chosen", own === index);
      item.setAttribute("aria-pressed", String(own === context.state.focus));
    });
    const own = index === null ? null : weights(context, index, state.backwards);
    to.items.forEach((item, at) => shade(item, own ? own[at] : 0, colorOf));
    context.say(index === null ? "Point at a token, or choose one with Tab and the arrow keys." : said(context, index));
  }

  const keep = watched(whole, context, `[data-side="${self || !state.backwards ? "queries" : "keys"}"]`, choose);
  roving(from.whole, from.items, { enter: (_, index) => keep(index) });
  choose(state.focus);
  return whole;
}

export function onLines(context) {
  const { values, queries, keys, state } = context, colorOf = ramp(state.theme, 0, 1), stroke = color(state.theme, 0);
  const column = (texts, side) => h("div", { class: "jh-column", "data-column": side }, texts.map((text, index) => token(text, index, { "data-side": side })));
  const left = column(queries, "queries"), right = column(keys, "keys"), height = HEIGHT * Math.max(queries.length, keys.length);
  const area = svg("svg", { viewBox: `0 0 100 ${height}`, preserveAspectRatio: "none", width: "100%", height, role: "img", "aria-label": "lines from queries to the keys they look at" });
  const [from, to] = state.backwards ? [right, left] : [left, right];

  function lines(chosen) {
    return chosen.map(([query, key, weight]) => svg("line", {
      x1: 0, y1: HEIGHT * (query + 0.5), x2: 100, y2: HEIGHT * (key + 0.5), stroke, "stroke-opacity": Math.min(1, Math.sqrt(weight)).toFixed(3),
      "stroke-width": (0.5 + 3 * weight).toFixed(2), "vector-effect": "non-scaling-stroke",
    }));
  }

  const strong = [];
  values.forEach((value, at) => value > 0.02 && strong.push([Math.floor(at / keys.length), at % keys.length, value]));
  strong.sort((one, other) => other[2] - one[2]).splice(MOST_LINES);

  function choose(index) {
    [...from.children].forEach((item, own) => {
      item.classList.toggle("jh-chosen", own === index);
      item.setAttribute("aria-pressed", String(own === context.state.focus));
    });
    const own = index === null ? null : weights(context, index, state.backwards);
    [...to.children].forEach((item, at) => shade(item, own ? own[at] : 0, colorOf));
    const few = own && [...own.keys()].filter((at) => own[at] > 0.002).map((at) => (state.backwards ? [at, index, own[at]] : [index, at, own[at]]));
    area.replaceChildren(...lines(few || strong));
    const limit = strong.length === MOST_LINES ? ` Of all tokens together, the ${MOST_LINES} largest weights are drawn.` : "";
    context.say(index === null ? `Queries on the left look at keys on the right. Point at a token, or choose one with Tab and the arrow keys.${limit}` : said(context, index));
  }

  const whole = h("div", { class: "jh-lines" }, left, area, right);
  const keep = watched(whole, context, `[data-side="${state.backwards ? "keys" : "queries"}"]`, choose);
  roving(from, from.children, { enter: (_, index) => keep(index) });
  choose(state.focus);
  return h("div", { class: "jh-scroll" }, whole);
}

export function onMatrix(context) {
  const { values, queries, keys, state, tip } = context, colorOf = ramp(state.theme, 0, 1);
  const cell = Math.max(1, Math.min(18, Math.floor(640 / Math.max(queries.length, keys.length))));
  const cross = h("div", { class: "jh-cross", hidden: true });
  const canvas = h("canvas", { role: "img", tabindex: "0", "aria-label": `pattern of ${queries.length} queries (down) and ${keys.length} keys (across); arrow keys read single weights` });
  paint(canvas, values, queries.length, keys.length, (value) => colorOf(Math.sqrt(value)));
  const whole = h("div", { class: "jh-matrix", style: { width: `${cell * keys.length}px` } }, canvas, cross);
  let at = [0, 0];

  function read(query, key, x, y) {
    at = [Math.max(0, Math.min(queries.length - 1, query)), Math.max(0, Math.min(keys.length - 1, key))];
    const [row, column] = at, words = `“${shown(queries[row])}” (${row}) looks at “${shown(keys[column])}” (${column}): ${number(values[row * keys.length + column])}`;
    cross.hidden = false;
    Object.assign(cross.style, { left: `${(100 * column) / keys.length}%`, width: `${100 / keys.length}%`, top: `${(100 * row) / queries.length}%`, height: `${100 / queries.length}%` });
    context.say(words);
    if (x !== undefined) tip.show([words], x, y);
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    read(Math.floor(((event.clientY - box.top) / box.height) * queries.length), Math.floor(((event.clientX - box.left) / box.width) * keys.length), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", tip.hide);
  canvas.addEventListener("focus", () => read(...at));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    read(at[0] + step[0], at[1] + step[1]);
  });
  context.say("Queries down, keys across; darker (in dark pages lighter) is more weight. Point at a cell, or use the arrow keys.");
  return h("div", { class: "jh-scroll" }, whole);
}

export function onPicture(context) {
  const { queries, keys, state, pictures, tip } = context, colorOf = ramp("dark", 0, 1);
  const whole = h("div", { class: "jh-row", style: { "align-items": "flex-start" } });
  const choices = { queries: null, keys: null };

  // A picture of one side, with its tokens that have no place in it beside it.
  function side(name, texts) {
    const picture = pictures[name];
    if (!picture) {
      const { items, whole: text } = paragraphs(texts, null, name);
      return { element: text, items, show: (own) => items.forEach((item, at) => shade(item, own ? own[at] : 0, ramp(state.theme, 0, 1))) };
    }
    const [rows, columns] = picture.grid, before = picture.before || 0, canvas = h("canvas", { role: "img", tabindex: "0", "aria-label": `${name} over the picture, ${rows} by ${columns}; arrow keys choose one` });
    const items = texts.slice(0, before).map((text, index) => token(text, index, { "data-side": name }));
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return before + Math.floor(((event.clientY - box.top) / box.height) * rows) * columns + Math.floor(((event.clientX - box.left) / box.width) * columns);
    };
    canvas.addEventListener("pointermove", (event) => choices[name]?.(place(event), event));
    canvas.addEventListener("click", (event) => choices[name]?.(place(event), event, true));
    canvas.addEventListener("pointerleave", tip.hide);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key], to = (state.focus ?? before) + step;
      if (!step || to < before || to >= texts.length || !choices[name]) return;
      event.preventDefault();
      choices[name](to, null, true);
    });
    const show = (own, chosen) => {
      items.forEach((item, at) => shade(item, own ? own[at] : 0, ramp(state.theme, 0, 1)));
      canvas.width = columns;
      canvas.height = rows;
      const drawing = canvas.getContext("2d"), image = drawing.createImageData(columns, rows);
      const most = own ? Math.max(...own.slice(before), 1e-9) : 1;
      // The picture is darkened where the head does not look.
      for (let at = 0; own && at < rows * columns; at++) {
        const weight = own[before + at] / most, mark = before + at === chosen;
        image.data.set(mark ? [240, 138, 60, 200] : [...(weight > 0.5 ? colorOf(weight) : [10, 14, 20]), weight > 0.5 ? 110 * weight : 200 * (1 - 2 * weight) * 0.85], 4 * at);
      }
      drawing.putImageData(image, 0, 0);
    };
    const frame = h("div", { class: "jh-picture", style: { width: `${picture.width || 320}px` } }, h("img", { src: picture.source, alt: picture.words || "the model's input" }), canvas);
    return { element: h("div", { class: "jh-side" }, frame, h("div", { class: "jh-text" }, items)), items, show };
  }

  const left = side("queries", queries), right = context.self ? left : side("keys", keys);
  const [from, to, name] = state.backwards ? [right, left, "keys"] : [left, right, "queries"];

  function choose(index, event = null, keep = false) {
    if (keep) context.focus(index);
    if (index !== null && index >= (state.backwards ? keys : queries).length) return;
    if (state.focus !== null && !keep && index !== state.focus) return;
    const own = index === null ? null : weights(context, index, state.backwards);
    if (from !== to) from.show(own && Float32Array.from(own, () => 0) && null, index);
    to.show(own, from === to ? index : -1);
    from.items.forEach((item, at) => item.classList.toggle("jh-chosen", at === index));
    const words = index === null ? "Point at a place or a token, or choose one with the arrow keys." : said(context, index);
    context.say(words);
    if (event && index !== null) tip.show([words], event.clientX, event.clientY);
  }

  choices[context.self ? "queries" : name] = choose;
  watched(whole, context, `[data-side="${context.self ? "queries" : name}"]`, (index) => index !== null && choose(index));
  whole.append(left.element, ...(context.self ? [] : [right.element]));
  if (from.items.length) roving(from.element, from.items, { enter: (_, index) => choose(index, null, true) });
  choose(state.focus ?? 0);
  return whole;
}
