// The page of a model: a map of all heads, a scatter, and the card of the head that is open. Two panels may stand side by side.
//
// payload: {models, made, panels: [{model, title, stack, shape, columns, roles, effects, exhibits, texts, contexts, tokens, alike, history}…]}

import { announce, h, select } from "./dom.js";
import { themed } from "./colors.js";
import { headCard } from "./page_card.js";
import { dataOf } from "./page_data.js";
import { overview } from "./page_overview.js";
import { tooltip } from "./tooltip.js";

const panelName = (panel) => (panel.stacks > 1 ? `${panel.model}, ${panel.stack}` : panel.model);

function guide(panels) {
  const [first] = panels, [layers, heads] = first.shape;
  const [piece, reads] = { patches: ["patch", "an image patch by patch"], frames: ["moment", "a recording moment by moment"] }[first.kind] || ["piece", "a text piece by piece"];
  return h("div", { class: "jh-guide" },
    h("p", {}, h("b", {}, "What is an attention head? "),
      `A transformer reads ${reads}. In each of its layers stand several attention heads: small parts that, at every ${piece}, look at ${piece === "patch" ? "other patches" : `other ${piece}s`} and carry over what they find there. ${first.title} has ${layers} layers of ${heads} heads. This page shows what each of them does, how sure that is, and what the model loses without it.`),
    h("ol", {},
      h("li", {}, "Choose a job, such as induction: the map marks the heads that have it."),
      h("li", {}, "Choose a head, in the list or in the map: its card says why it is called so."),
      h("li", {}, "Read “What removing it changes”, then see for yourself under “Where it looks”.")));
}

function statistics(panel) {
  const { roles } = panel;
  return h("details", { class: "jh-sure" }, h("summary", {}, "How sure are these numbers?"),
    h("p", {}, `Measured on ${panel.inputs}; seed ${panel.seed}. Brackets hold 95 % intervals over independent texts, whose number is n: where n is below 10, read them as a rough guide.`),
    h("p", {}, `A head has a job if its score beats the best head of a null, in which nothing can have the job, on texts that were kept apart (at most ${Math.round(100 * roles.level)} % of the ${roles.tests} tests may err so), and reaches ${roles.least} of what the null leaves open. A score is the share of attention that does the job; a head may have several jobs, and what it does on other texts is not known from these.`),
    h("p", {}, "Removing a head means that its output is replaced by its mean over other texts. All heads were screened on a few texts; the heads with the largest changes were asked again on fresh texts, since what leads a screen leads it partly by luck. Other heads may take over the work of a removed one."),
    panel.leftOut.length > 0 && h("p", {}, "Left out: ", panel.leftOut.join("; "), "."),
    h("p", { class: "jh-muted" }, `Weights ${panel.weights}.`));
}

// What stands where the card will be: for each job the head that does it most.
function start(data, open) {
  const leading = data.roles.filter((role) => role.heads && role.metric).map((role) => {
    const { values } = data.byColumn.get(role.metric), having = Array.from({ length: data.count }, (_, index) => index).filter((index) => data.earned(index).includes(role));
    return { role, index: having.sort((one, other) => values[other] - values[one])[0] };
  });
  return [h("h3", {}, "No head is open yet"), h("p", {}, "Choose one in the map, or start with the clearest of each job:"),
    h("ul", { class: "jh-start" }, leading.map(({ role, index }) => h("li", {}, h("button", { type: "button", "data-start": role.name, click: () => open(index) }, data.name(index)), h("span", {}, h("b", {}, `${role.label}: `), role.about))))];
}

// One stack: the overview with its card; `wide` where it has the page for itself.
function panelView(root, panel, number, tip) {
  const data = dataOf(panel), state = { theme: null, open: null, card: null, over: null };
  const over = h("div", { class: "jh-over" }), card = h("article", { class: "jh-page-card", "aria-live": "off" });
  const element = h("section", { class: "jh-panel", "aria-label": `Heads of ${panelName(panel)}` },
    h("h2", { class: "jh-panel-title" }, panel.title, panel.stacks > 1 ? `, ${panel.stack}` : ""), over, card);

  function open(index, { focus = true } = {}) {
    state.open = index;
    state.over?.mark(index);
    if (index === null) {
      card.replaceChildren(...start(data, open));
      return;
    }
    const [layer, head] = data.address(index);
    card.replaceChildren(...headCard({ panel, data, index, theme: state.theme, tip, open, back: () => state.over.focus(index) }));
    if (focus) {
      card.querySelector("h2").focus({ preventScroll: true });
      const box = card.getBoundingClientRect();
      if (box.top < 0 || box.top > innerHeight * 0.6) card.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
    announce(root, { stack: panel.stack, layer, head });
  }

  function draw(theme) {
    state.theme = theme;
    const before = state.over?.state;
    state.over = overview({ panel, data, theme, tip, open, before });
    over.replaceChildren(state.over.element);
    open(state.open, { focus: false });
  }

  card.addEventListener("keydown", (event) => event.key === "Escape" && state.open !== null && state.over.focus(state.open));
  element.dataset.panel = number;
  return { element, draw, open, data, panel };
}

export function page(root, payload) {
  root.classList.add("jh-page");
  const { panels } = payload, tip = tooltip(root), views = new Map();
  const shown = { first: 0, second: payload.models.length > 1 ? panels.findIndex((panel) => panel.model !== panels[0].model) : -1 };
  const columns = h("div", { class: "jh-panels" }), foot = h("footer", { class: "jh-foot" });
  const names = panels.map(panelName);
  let theme = null;

  const view = (number) => {
    if (!views.has(number)) views.set(number, panelView(root, panels[number], number, tip));
    return views.get(number);
  };

  function draw() {
    const own = [shown.first, shown.second].filter((number, at) => number >= 0 && (at === 0 || number !== shown.first)).map(view);
    columns.classList.toggle("jh-two", own.length > 1);
    columns.replaceChildren(...own.map(({ element }) => element));
    own.forEach((one) => one.draw(theme));
    foot.replaceChildren(...own.map(({ panel }) => statistics(panel)), payload.made ? h("p", { class: "jh-muted" }, payload.made) : "");
  }

  const jump = h("form", { class: "jh-control", submit: (event) => {
    event.preventDefault();
    const [layer, head] = (event.target.elements.head.value.match(/\d+/g) || []).map(Number);
    const { data, open, panel } = view(shown.first);
    const fits = layer < panel.shape[0] && head < panel.shape[1];
    said.textContent = fits ? "" : `There is no such head: layers are 0 to ${panel.shape[0] - 1}, heads 0 to ${panel.shape[1] - 1}.`;
    if (fits) open(data.index(layer, head));
  } }, h("label", { for: "jh-jump" }, "Go to head"), h("input", { id: "jh-jump", name: "head", placeholder: "layer.head", size: 9, autocomplete: "off" }), h("button", { type: "submit" }, "Open"));
  const said = h("span", { role: "status", class: "jh-muted" });
  const pick = panels.length > 1 && h("span", { class: "jh-row" },
    select("Show", names, (to) => { shown.first = to; draw(); }, shown.first),
    select("beside", ["nothing", ...names], (to) => { shown.second = to - 1; draw(); }, shown.second + 1));

  root.append(
    h("header", {}, h("h1", {}, "The heads of ", [...new Set(panels.map((panel) => panel.title))].join(" and ")), guide(panels)),
    h("div", { class: "jh-row jh-tools" }, jump, pick, said), columns, foot);

  // Links name a head: #18.6, with the panel's number before a slash where it is not the first.
  function follow() {
    const match = location.hash.match(/^#(?:(\d+)\/)?(\d+)\.(\d+)$/);
    if (!match) return;
    const number = Number(match[1] || shown.first), panel = panels[number];
    if (!panel || Number(match[2]) >= panel.shape[0] || Number(match[3]) >= panel.shape[1]) return;
    if (number !== shown.first && number !== shown.second) { shown.first = number; draw(); }
    const own = view(number), index = own.data.index(Number(match[2]), Number(match[3]));
    own.open(index, { focus: false });
  }

  root.addEventListener("jaxheads:head", ({ detail }) => {
    const number = [...views].find(([, own]) => own.panel.stack === detail.stack && own.element.contains(document.activeElement))?.[0] ?? shown.first;
    history.replaceState(null, "", `#${number === 0 ? "" : `${number}/`}${detail.layer}.${detail.head}`);
  });
  themed(root, (own) => {
    theme = own;
    draw();
  });
  follow();
  addEventListener("hashchange", follow);
}
