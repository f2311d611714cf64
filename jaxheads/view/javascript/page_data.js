// The numbers of one panel, unpacked, and what they are called.

import { unpack } from "./arrays.js";
import { estimate, headName, number } from "./dom.js";

// Marks of jobs: a letter and a colour, so that neither alone must be told apart. Colours differ in lightness as well, for
// colour-blind readers; resting on the first position is what most heads do: a faint grey leaves the eye to the others.
const RESTING = { light: "#D9DEE4", dark: "#3C444E" };
const OWN = { previous_token: "#0072B2", next_token: "#56B4E9", self_token: "#B5480A", duplicate_token: "#5E3C99", induction: "#F0A800", positional: "#009E73" };
const OTHERS = ["#CC79A7", "#7A6A00", "#1B4F72", "#66C2A5", "#8C510A", "#B3A2D6", "#444444", "#E08214", "#01665E"];

const LETTERS = { previous_token: "P", next_token: "N", self_token: "S", duplicate_token: "D", induction: "I", positional: "O", first_token: "•", sink: "•", retrieval: "R", name_mover: "M", copy_suppression: "C", successor: "U", entity: "E", mixed: "X" };

// A letter for each job; those without one of their own get one that no other has.
function letters(roles) {
  const taken = new Set(Object.values(LETTERS));
  return roles.map(({ name, label }) => {
    if (LETTERS[name]) return LETTERS[name];
    const letter = [...label.toUpperCase().replaceAll(" ", ""), ..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"].find((own) => !taken.has(own)) || "?";
    taken.add(letter);
    return letter;
  });
}

export function dataOf(panel) {
  const [layers, heads] = panel.shape, count = layers * heads;
  const columns = panel.columns.map((column) => ({
    ...column, ...Object.fromEntries(["values", "low", "high", "n"].filter((part) => column[part]).map((part) => [part, unpack(column[part]).values])),
  }));
  const marks = letters(panel.roles.tried);
  let used = 0;
  const roles = panel.roles.tried.map((role, index) => {
    const own = OWN[role.name] || OTHERS[used % OTHERS.length], resting = ["first_token", "sink"].includes(role.name);
    if (!resting && !OWN[role.name]) used++;
    return { ...role, letter: marks[index], color: resting ? RESTING : { light: own, dark: own } };
  });
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
