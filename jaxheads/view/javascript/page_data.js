// The numbers of one panel, unpacked, and what they are called.

import { unpack } from "./arrays.js";
import { estimate, headName, number } from "./dom.js";

// Marks of jobs: a letter and a colour of the palette, so that neither alone must be told apart.
// Resting on the first position is what most heads do: grey leaves the eye to the others.
const RESTING = new Set(["first_token", "sink"]), GREY = "#A3ABB5";
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#8B4FA8", "#00786C"];

function letters(names) {
  const taken = new Set();
  return names.map((name) => {
    const words = name.split(" "), options = [words[0][0], ...(words[1] ? [words[1][0]] : []), ...name.replaceAll(" ", "")];
    const letter = options.map((own) => own.toUpperCase()).find((own) => !taken.has(own)) || "?";
    taken.add(letter);
    return letter;
  });
}

export function dataOf(panel) {
  const [layers, heads] = panel.shape, count = layers * heads;
  const columns = panel.columns.map((column) => ({
    ...column, ...Object.fromEntries(["values", "low", "high", "n"].filter((part) => column[part]).map((part) => [part, unpack(column[part]).values])),
  }));
  const marks = letters(panel.roles.tried.map((role) => role.label));
  let used = 0;
  const roles = panel.roles.tried.map((role, index) => ({ ...role, letter: marks[index], color: RESTING.has(role.name) ? GREY : COLORS[used++ % COLORS.length] }));
  const byRole = new Map(roles.map((role) => [role.name, role])), byColumn = new Map(columns.map((column) => [column.name, column]));
  const tested = Object.fromEntries(Object.entries(panel.roles.tested).map(([name, own]) => [name, unpack(own).values]));
  const cache = new Map();
  const lazily = (key, make) => {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  };
  const stacked = panel.stacks > 1 ? panel.stack : "";

  // A numbers's parts for one head.
  function at(column, index) {
    const { values, low, high, n } = typeof column === "string" ? byColumn.get(column) : column;
    return { value: values[index], low: low[index], high: high[index], n: n ? n[index] : undefined };
  }

  const own = (index) => byRole.get(panel.roles.own[index]) || null;
  const earned = (index) => panel.roles.earned[index].map((name) => byRole.get(name)).filter(Boolean);
  const name = (index) => headName(Math.floor(index / heads), index % heads, stacked);
  const jobs = (index) => earned(index).map((role) => role.label).join(", ");

  function said(column, index) {
    const { value, low, high, n } = at(column, index);
    return estimate(column.label, value, low, high, n) + (column.unit ? ` (${column.unit})` : "");
  }

  // What a screen reader reads of a head in the map: "layer 5 head 1: induction .84 [.80, .88], n 32; jobs: induction".
  function label(column, index) {
    return `${name(index)}: ${column ? `${said(column, index)}; ` : ""}${jobs(index) ? `job: ${jobs(index)}` : "no job found"}`;
  }

  return {
    layers, heads, count, columns, roles, byRole, byColumn, tested, at, own, earned, name, jobs, said, label,
    address: (index) => [Math.floor(index / heads), index % heads],
    index: (layer, head) => layer * heads + head,
    attributes: (index) => ({ "data-layer": Math.floor(index / heads), "data-head": index % heads, "data-stack": panel.stack }),
    stage: (effect, stage) => lazily(`${effect}/${stage}`, () => {
      const { values, low, high, n, q, examples, ...rest } = panel.effects[effect].stages[stage];
      const read = (own) => own && unpack(own).values;
      const dots = examples && unpack(examples);
      return { ...rest, values: read(values), low: read(low), high: read(high), n: read(n), q: read(q), dots: dots && dots.values, examples: dots ? dots.shape[2] : 0 };
    }),
    pattern: (exhibit) => lazily(`pattern ${exhibit}`, () => unpack(panel.exhibits[exhibit].pattern).values),
    past: () => lazily("history", () => panel.history.columns.map((column) => ({
      ...column, values: unpack(column.values).values, low: unpack(column.low).values, high: unpack(column.high).values,
    }))),
    words: number,
  };
}
