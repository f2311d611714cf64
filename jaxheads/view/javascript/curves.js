// Curves over layers or steps: a middle line with its interval, thin lines of runs, marks; the legend switches lines.
//
// payload: {x: {name, values, log, names}, y, lines: [{name, middle, low, high, runs, marks: [x…]}], levels: [{name, value}],
// panels: [{name, lines: [name…]}…]}

import { extent, unpack } from "./arrays.js";
import { chart } from "./axes.js";
import { color, resized, themed } from "./colors.js";
import { estimate, h, number, select, svg } from "./dom.js";
import { tooltip } from "./tooltip.js";

const DASHES = ["", "7 3", "2 3", "9 3 2 3", "1 2", "12 4", "5 2"];

export function curves(root, payload) {
  const xs = [...unpack(payload.x.values).values];
  const lines = payload.lines.map((line) => ({
    ...line, ...Object.fromEntries(["middle", "low", "high", "runs"].filter((part) => line[part]).map((part) => [part, unpack(line[part])])) }));
  const groups = payload.panels || [{ name: payload.y, lines: lines.map(({ name }) => name) }];
  const state = { hidden: new Set(), theme: "light", at: null, group: 0 };
  const legend = h("div", { class: "jh-row" }), body = h("div"), status = h("p", { class: "jh-status", role: "status" }), tip = tooltip(root);
  root.append(groups.length > 1 ? h("div", { class: "jh-row" }, select("Show", groups.map(({ name }) => name), (group) => {
    state.group = group;
    draw();
  })) : "", legend, body, status);
  const here = (line) => groups[state.group].lines.includes(line.name);
  const words = (index) => (payload.x.names ? payload.x.names[index] : `${payload.x.name} ${number(xs[index])}`);

  function said(index) {
    return [words(index), ...lines.filter((line, own) => here(line) && !state.hidden.has(own)).map((line) =>
      estimate(line.name, line.middle.values[index], line.low?.values[index], line.high?.values[index]))];
  }

  function draw() {
    const shown = lines.map((line, index) => [line, index]).filter(([line, index]) => here(line) && !state.hidden.has(index));
    const values = shown.flatMap(([line]) => ["middle", "low", "high", "runs"].flatMap((part) => [...(line[part]?.values || [])]));
    const levels = payload.levels || [], log = Boolean(payload.x.log) && xs.every((x) => x > 0);
    const { element, area, x, y, top, bottom, width } = chart(root, `${groups[state.group].name} by ${payload.x.name}`, extent(xs), extent([...values, ...levels.map(({ value }) => value)]), { xName: payload.x.name, yName: groups[state.group].name, log });
    // A line breaks where a number is missing.
    const path = (list) => xs.map((at, index) => (Number.isFinite(list[index]) ? `${Number.isFinite(list[index - 1]) ? "L" : "M"}${x(at).toFixed(1)} ${y(list[index]).toFixed(1)}` : "")).join("");
    for (const { name, value } of levels) area.append(
      svg("line", { class: "jh-level", x1: x(extent(xs)[0]), x2: x(extent(xs)[1]), y1: y(value), y2: y(value) }), svg("text", { x: x(extent(xs)[0]) + 4, y: y(value) - 4 }, name));
    for (const [line, index] of shown) {
      const stroke = color(state.theme, index), dash = DASHES[index % DASHES.length];
      if (line.low) {
        const known = xs.map((_, at) => at).filter((at) => Number.isFinite(line.low.values[at]) && Number.isFinite(line.high.values[at]));
        const there = known.map((at) => `${x(xs[at])},${y(line.high.values[at])}`), back = known.reverse().map((at) => `${x(xs[at])},${y(line.low.values[at])}`);
        area.append(svg("polygon", { points: [...there, ...back].join(" "), fill: stroke, "fill-opacity": 0.18 }));
      }
      if (line.runs) {
        const [count, length] = line.runs.shape;
        for (let run = 0; run < count; run++)
          area.append(svg("path", { d: path(line.runs.values.slice(run * length, (run + 1) * length)), fill: "none", stroke, "stroke-opacity": 0.4, "stroke-width": 0.8 }));
      }
      for (const mark of line.marks || []) area.append(svg("line", { x1: x(mark), x2: x(mark), y1: top, y2: bottom, stroke, "stroke-dasharray": "2 3" }));
      area.append(svg("path", { d: path(line.middle.values), fill: "none", stroke, "stroke-width": 2.2, "stroke-dasharray": dash }));
      if (xs.length <= 60) xs.forEach((at, own) => Number.isFinite(line.middle.values[own]) && area.append(svg("circle", { cx: x(at), cy: y(line.middle.values[own]), r: 2.5, fill: stroke })));
    }
    const cursor = svg("line", { class: "jh-cursor", y1: top, y2: bottom, x1: -9, x2: -9 });
    area.append(cursor);

    function read(index, event) {
      state.at = Math.max(0, Math.min(xs.length - 1, index));
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(xs[state.at]));
      status.textContent = said(state.at).join(" · ");
      if (event) tip.show(said(state.at), event.clientX, event.clientY);
    }

    element.setAttribute("tabindex", "0");
    element.addEventListener("pointermove", (event) => {
      const box = element.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
      read(xs.map((value, index) => [Math.abs(x(value) - at), index]).sort((one, other) => one[0] - other[0])[0][1], event);
    });
    element.addEventListener("pointerleave", tip.hide);
    element.addEventListener("focus", () => read(state.at ?? 0));
    element.addEventListener("keydown", (event) => {
      const to = { ArrowRight: state.at + 1, ArrowLeft: state.at - 1, Home: 0, End: xs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      read(to);
    });
    legend.replaceChildren(...(groups[state.group].lines.length < 2 ? [] : lines.map((line, index) => here(line) && h("button", {
      type: "button", class: "jh-switch", "aria-pressed": String(!state.hidden.has(index)), click: () => {
        if (!state.hidden.delete(index)) state.hidden.add(index);
        draw();
        [...legend.children].find((button) => button.textContent === line.name)?.focus();
      } }, svg("svg", { width: 26, height: 10, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: color(state.theme, index), "stroke-width": 2.5, "stroke-dasharray": DASHES[index % DASHES.length] })), line.name)).filter(Boolean)));
    body.replaceChildren(element);
  }

  status.textContent = "Point at the chart, or use the arrow keys, to read its numbers.";
  themed(root, (theme) => {
    state.theme = theme;
    draw();
  });
  resized(root, draw);
}
