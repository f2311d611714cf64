// The card of one head: its name, in words what it does, why it is called so, what removing it changes, where it looks.

import { choice, h, number, select, shown } from "./dom.js";
import { color, css, ramp, textOn } from "./colors.js";
import { onLines, onMatrix, onPicture, onText } from "./one_head.js";
import { dots } from "./page_dots.js";
import { lines } from "./page_history.js";

const interval = (low, high) => (Number.isFinite(low) && Number.isFinite(high) ? `[${number(low)}, ${number(high)}]` : "–");
const q = (value) => (Number.isFinite(value) ? (value < 0.001 ? "< .001" : number(value)) : "–");
const section = (title, ...children) => h("section", { class: "jh-part" }, h("h3", {}, title), ...children);
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// The stage whose numbers are reported: fresh examples where the head was asked again, else the screen.
function best(data, effect, index, stages) {
  const all = stages.map((_, number) => data.stage(effect, number));
  const again = all.findLast((stage) => stage.asked && stage.asked[index]);
  return again ? { stage: again, fresh: true } : { stage: all[0], fresh: false };
}

// "Without it, the next-token loss rises by .41 …", and whether that is for the worse.
function change(panel, data, effect, index) {
  const about = panel.effects[effect], { stage, fresh } = best(data, effect, index, about.stages);
  const [value, low, high] = [stage.values[index], stage.low[index], stage.high[index]];
  const clear = low > 0 || high < 0, worse = Math.sign(value) === about.worse;
  const verdict = !clear ? "no clear change" : worse ? "worse without it" : "better without it";
  return { about, stage, fresh, value, low, high, n: stage.n[index], clear, worse, verdict };
}

function summary(panel, data, index) {
  const roles = data.earned(index), own = data.own(index);
  const lead = own
    ? [h("b", {}, `${/^[aeiou]/i.test(own.label) ? "An" : "A"} ${own.label} head. `), own.about, roles.length > 1 ? ` It also has the job: ${roles.filter((role) => role !== own).map((role) => role.label).join(", ")}.` : ""]
    : [h("b", {}, "No job found. "), "None of the jobs that were tried explains where this head looks; it may do something else, or several things."];
  const changes = panel.effects.map((_, effect) => change(panel, data, effect, index)).filter((own) => Number.isFinite(own.value));
  const clear = changes.filter((own) => own.clear && own.fresh);
  const said = clear.map((own) => h("li", {}, h("b", {}, `${own.worse ? "worse" : "better"} at ${own.about.skill}`), `: ${own.about.objective} ${own.value > 0 ? "rises" : "falls"} by ${number(Math.abs(own.value))} from ${number(own.stage.baseline)}`));
  const none = changes.some((own) => own.fresh) ? "No clear change on fresh texts." : changes.some((own) => own.clear) ? "Small changes in a screen of few texts; it was not among the heads that were asked again." : "No clear change in the screen of all heads.";
  const effects = !changes.length ? "" : h("div", {}, h("p", { class: "jh-without" }, h("b", {}, "Without it "), said.length ? "the model is" : none.toLowerCase()), said.length ? h("ul", {}, said) : "");
  return [h("p", { class: "jh-lead" }, lead), effects];
}

// A job's score between 0 and 1, with its interval, and the best head by chance.
function bar(value, low, high, chance, earned) {
  const share = (own) => `${100 * Math.min(Math.max(own, 0), 1)}%`;
  return h("span", { class: `jh-score${earned ? "" : " jh-weak"}`, "aria-hidden": "true" },
    h("span", { class: "jh-score-fill", style: { width: share(value) } }),
    Number.isFinite(low) && h("span", { class: "jh-whisker", style: { left: share(low), right: `calc(100% - ${share(high)})` } }),
    Number.isFinite(chance) && h("span", { class: "jh-chance", style: { left: share(chance) } }));
}

function jobs({ panel, data, index }) {
  const own = data.own(index), earned = new Set(data.earned(index)), { score, score_from: from, score_to: to, score_n: n, q_value } = data.tested;
  const rows = data.roles.filter((role) => role.metric || role === own).map((role) => {
    const tested = role === own && from, has = earned.has(role);
    const held = tested ? { value: score[index], low: from[index], high: to[index], n: n[index] } : role.metric ? data.at(role.metric, index) : { value: score[index] };
    const cells = [h("th", { scope: "row" }, role.label), h("td", {}, has ? "yes" : "no"), h("td", {}, number(held.value), h("span", { class: "jh-muted" }, ` ${interval(held.low, held.high)}`)),
      h("td", { class: "jh-wide" }, bar(held.value, held.low, held.high, role.score, has)), h("td", {}, number(role.score)), h("td", {}, number(held.n)), h("td", {}, role === own ? q(q_value[index]) : "")];
    return { rank: role === own ? 0 : has ? 1 : 2, row: h("tr", { class: has ? "" : "jh-weak" }, cells) };
  });
  return section("Why it is called so",
    h("p", { class: "jh-muted" }, "This head’s score for each job, from 0 to 1: the share of its attention that does it, or for jobs that its weights tell, the share of cases in which they do. The upright line is what the best head reaches by chance, in a model or on a text where nothing can have the job; a job is earned well above it."),
    h("div", { class: "jh-scroll" }, h("table", { class: "jh-list jh-jobs" },
      h("thead", {}, h("tr", {}, ["job", "earned", "score", "0 to 1", "chance", "n", "q"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.sort((one, other) => one.rank - other.rank).map(({ row }) => row)))),
    h("p", { class: "jh-muted" }, own && from ? `The score of ${own.label} is of texts that did not choose the job; other scores are of all texts. ` : "Scores are of all texts. ",
      own ? "q is the share of false jobs to expect among those as clear as this one." : ""));
}

function removal({ panel, data, index, theme, tip }) {
  if (!panel.effects.length) return section("What removing it changes", h("p", { class: "jh-muted" }, "Not asked: this model has no next-token loss to change. ", panel.leftOut.find((reason) => reason.startsWith("ablations")) || ""));
  const ordered = panel.effects.map((about, effect) => ({ about, effect, own: change(panel, data, effect, index) })).sort((one, other) => other.own.fresh * 2 + other.own.clear - one.own.fresh * 2 - one.own.clear);
  const parts = ordered.map(({ about, effect, own }) => {
    const { stage, fresh, value, low, high, n, clear, worse, verdict } = own;
    if (!Number.isFinite(value)) return null;
    const corrected = fresh && Number.isFinite(stage.q[index]) ? `, q ${q(stage.q[index])}` : "";
    const tag = h("span", { class: `jh-tag ${!clear ? "" : worse ? "jh-worse" : "jh-better"}` }, verdict);
    const screen = data.stage(effect, 0);
    const first = fresh ? ` In the screen of all heads it was ${number(screen.values[index])}.` : " Few texts, and not corrected for the many heads that were screened.";
    return h("div", { class: "jh-effect" },
      h("p", {}, h("b", {}, capital(about.skill)), " ", tag, h("br"), `${about.objective} changes by ${number(value)} ${interval(low, high)}, n ${number(n)}${corrected}, from ${number(stage.baseline)} with the head`),
      dots({ values: stage.dots.subarray(index * stage.examples, (index + 1) * stage.examples), value, low, high, worse: about.worse, theme, tip, label: about.objective }),
      h("p", { class: "jh-muted" }, `${fresh ? "Fresh texts" : "Screen"}: ${stage.inputs}.${first}`));
  });
  return section("What removing it changes",
    h("p", { class: "jh-muted" }, "Its output is replaced by its mean over other texts. Each dot is one text; the bar is the mean with its 95 % interval; the line at 0 is no change."), ...parts.filter(Boolean));
}

function looks({ panel, data, index, theme, tip }) {
  if (!panel.exhibits.length) return "";
  const modes = { Text: onText, Lines: onLines, Matrix: onMatrix, Picture: onPicture };
  const status = h("p", { class: "jh-status", role: "status" }), body = h("div"), controls = h("div", { class: "jh-row" });
  const state = looks.state;

  function draw() {
    const exhibit = panel.exhibits[Math.min(state.exhibit, panel.exhibits.length - 1)], at = panel.exhibits.indexOf(exhibit);
    const pictured = Object.keys(exhibit.pictures).length > 0;
    const known = pictured ? ["Picture", "Matrix"] : exhibit.keys.length > 60 ? ["Matrix"] : ["Text", "Lines", "Matrix"];
    const mode = known.includes(state.mode) ? state.mode : known[0];
    const size = exhibit.queries.length * exhibit.keys.length, whole = data.pattern(at);
    const context = {
      values: whole.subarray(index * size, (index + 1) * size), queries: exhibit.queries, keys: exhibit.keys, parts: {}, self: exhibit.self, pictures: exhibit.pictures, tip,
      state: { theme, backwards: state.backwards, focus: null }, say: (text) => (status.textContent = text), focus: (own) => (context.state.focus = own),
    };
    controls.replaceChildren(
      panel.exhibits.length > 1 ? select("On", panel.exhibits.map((own) => own.title), (to) => { state.exhibit = to; draw(); }, at) : "",
      known.length > 1 ? choice("Layout", known, (to) => { state.mode = known[to]; draw(); }, known.indexOf(mode)) : "",
      choice("Direction", ["looks at", "is seen by"], (to) => { state.backwards = to === 1; draw(); }, state.backwards ? 1 : 0));
    body.replaceChildren(modes[mode](context));
    // One piece is shown at once: the one that looks hardest at another than the first.
    if (mode === "Text" && exhibit.self) body.querySelector(`[data-token="${strongest(context, state.backwards)}"]`)?.dispatchEvent(new Event("pointerover", { bubbles: true }));
  }
  draw();
  return section("Where it looks", h("p", { class: "jh-muted" }, panel.kind === "patches" ? "Point at a place of the left picture: the right one is dark where the head does not look from there." : panel.kind === "frames" ? "Rows look at columns; both are moments of the recording, in shares of its length." : "Point at a piece, or tap it: the pieces that the head looks at from there are coloured. Paler means less. In a model that writes text, a piece can look only at itself and at what came before."), controls, status, body);
}
function strongest({ values, queries, keys }, backwards) {
  let best = 0;
  const weight = (at) => (at % keys.length === 0 || at < keys.length ? 0 : values[at]);
  for (let at = 0; at < values.length; at++) if (weight(at) > weight(best)) best = at;
  return backwards ? best % keys.length : Math.floor(best / queries.length);
}
looks.state = { exhibit: 0, mode: "Text", backwards: false };

// A piece as it stands in a text; what is in several lines is joined.
const plain = (token) => token.replaceAll("\n", "⏎").replace(/^##/, "") || "∅";

// The text around a query, with the keys that it looks at coloured.
function snippet(tokens, { query, keys }, theme) {
  const colorOf = ramp(theme, 0, 1), weights = new Map(keys), strongest = keys.length ? keys[0][0] : query;
  const spaced = tokens.some((token) => token.startsWith(" ")); // pieces hold their spaces
  const from = Math.max(0, Math.min(query, strongest) - 6), to = Math.min(tokens.length, Math.max(query, strongest) + 7), gap = to - from > 44;
  const parts = [];
  for (let at = from; at < to; at++) {
    if (gap && at > Math.min(query, strongest) + 8 && at < Math.max(query, strongest) - 8) {
      if (parts.at(-1) !== "…") parts.push("…");
      continue;
    }
    const own = weights.has(at) ? colorOf(Math.sqrt(weights.get(at))) : null;
    parts.push(h("span", { class: `jh-token jh-still${at === query ? " jh-query" : ""}`, style: own ? { "background-color": css(own), color: textOn(own) } : {} }, plain(tokens[at])), spaced ? "\u200b" : tokens[at + 1]?.startsWith("##") ? "" : " ");
  }
  return h("p", { class: "jh-text jh-snippet" }, from > 0 ? "… " : "", parts, to < tokens.length ? " …" : "");
}

function contexts({ panel, index, theme }) {
  if (!panel.contexts.length) return "";
  const own = panel.contexts[index].filter(({ keys }) => keys.length), some = own.some(({ raised }) => raised && raised.length), known = own.some(({ raised }) => raised);
  const items = own.map((context) => {
    const tokens = panel.texts[context.text], special = context.keys.map(([key, weight]) => `“${shown(tokens[key])}” ${number(weight)}`);
    const pieces = (context.raised || []).flatMap(([token, logit], at) => [at ? ", " : "", h("span", { class: tokens[context.keys[0][0]].trim() === token.trim() ? "jh-copied" : "" }, `“${shown(token)}”`), ` +${number(logit)}`]);
    const raised = some ? h("p", { class: "jh-muted" }, "raises there: ", pieces.length ? pieces : "no piece in particular") : "";
    return h("li", {}, snippet(tokens, context, theme), h("p", { class: "jh-muted" }, `from “${shown(tokens[context.query])}” it looks at ${special.join(", ")}`), raised);
  });
  return section("Where it looks hardest",
    h("p", { class: "jh-muted" }, "Places of the texts with its largest weights; the framed piece looks at the coloured ones. The first position and other special tokens are left out of the choice. ",
      !known ? "" : !some ? "In none of these places does its output by itself raise any piece in particular." : "“Raises” are the next pieces that its output there makes more likely, in logits above their mean, if nothing after it changed them; underlined where it is the piece it looks at: copying."),
    h("ol", { class: "jh-contexts" }, items));
}

function reads({ panel, index }) {
  if (!panel.tokens.length || !panel.tokens[index].length) return "";
  const rows = panel.tokens[index].map(([token, share, usual]) => h("tr", {}, h("th", { scope: "row" }, `“${shown(token)}”`), h("td", {}, `${number(100 * share)} %`), h("td", {}, `${number(100 * usual)} %`), h("td", {}, `× ${number(share / usual)}`)));
  return section("What it reads more than its share",
    h("p", { class: "jh-muted" }, "Of its attention outside special positions, the pieces that get more than their share of the texts. Pieces that occur fewer than 3 times are left out."),
    h("div", { class: "jh-scroll" }, h("table", { class: "jh-list" }, h("thead", {}, h("tr", {}, ["piece", "of its attention", "of the texts", ""].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

function alike({ panel, data, index, open }) {
  if (!panel.alike.length) return "";
  const items = panel.alike[index].map(([layer, head, value, low, high, n]) => {
    const other = data.index(layer, head);
    return h("li", {}, h("button", { type: "button", class: "jh-link", click: () => open(other) }, data.name(other)), h("span", { class: "jh-muted" }, ` ${number(value)} ${interval(low, high)}, n ${n}${data.jobs(other) ? `; ${data.jobs(other)}` : ""}`));
  });
  return section("Heads that write alike", h("p", { class: "jh-muted" }, "Similarity of what two heads write over the same texts (linear CKA, 1 is the same). One half of the texts chose these heads, the surest first; the other half gives the numbers."), h("ol", {}, items));
}

function past({ panel, data, index, theme, tip }) {
  if (!panel.history) return "";
  return section("How it came to be", h("p", { class: "jh-muted" }, "Its scores at checkpoints of the training, with 95 % intervals."), lines({ steps: panel.history.steps, columns: data.past(), index, theme, tip, color }));
}

function numbers({ data, index }) {
  const rows = data.columns.map((column) => {
    const { value, low, high, n } = data.at(column, index);
    return h("tr", {}, h("th", { scope: "row" }, column.label, column.unit ? ` (${column.unit})` : ""), h("td", {}, number(value)), h("td", { class: "jh-muted" }, interval(low, high)), h("td", {}, number(n)), h("td", { class: "jh-muted jh-meaning" }, column.about));
  });
  return h("details", { class: "jh-part" }, h("summary", {}, "All its numbers"),
    h("div", { class: "jh-scroll" }, h("table", { class: "jh-list" }, h("thead", {}, h("tr", {}, ["number", "value", "95 % interval", "n", "what it is"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

export function headCard(asked) {
  const { panel, data, index, open, back } = asked, step = (by) => (index + by + data.count) % data.count;
  const badges = data.earned(index).map((role) => h("span", { class: "jh-badge" }, h("span", { class: "jh-swatch", "aria-hidden": "true", style: { background: role.color[asked.theme], color: textOn([1, 3, 5].map((at) => parseInt(role.color[asked.theme].slice(at, at + 2), 16))) } }, role.letter), role.label));
  return [
    h("div", { class: "jh-card-top" },
      h("h2", { tabindex: "-1", id: `head-${panel.stack}-${index}` }, capital(data.name(index))), h("span", { class: "jh-badges" }, badges),
      h("span", { class: "jh-row jh-steps" },
        h("button", { type: "button", "aria-label": "Previous head", click: () => open(step(-1)) }, "‹"), h("button", { type: "button", "aria-label": "Next head", click: () => open(step(1)) }, "›"),
        h("button", { type: "button", class: "jh-back", click: back }, "Back to the map"))),
    ...summary(panel, data, index),
    h("div", { class: "jh-parts" }, ...[jobs, removal, looks, contexts, reads, alike, past, numbers].map((part) => part(asked)).filter(Boolean)),
  ];
}
