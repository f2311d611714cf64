// Attention of heads on their tokens: thumbnails of all heads; one head as text, lines, matrix, or over a picture.
//
// payload: {queries: [text…], keys: [text…], self: bool, heads: [{layer, head, name, note, pattern: packed}…],
// words: {queries, keys}, parts: {queries, keys}, pictures: {queries, keys} of {source, grid, before}}

import { unpacked } from "./arrays.js";
import { themed } from "./colors.js";
import { announce, choice, h, headName, select } from "./dom.js";
import { onLines, onMatrix, onPicture, onText } from "./one_head.js";
import { pooled, within } from "./pooling.js";
import { thumbnails } from "./thumbnails.js";
import { tooltip } from "./tooltip.js";

const MODES = { Text: onText, Lines: onLines, Matrix: onMatrix, Picture: onPicture };

export function attention(root, payload) {
  const { heads, pictures = {}, parts = {} } = payload;
  const known = Object.keys(MODES).filter((mode) => mode !== "Picture" || pictures.keys || pictures.queries);
  const first = pictures.keys || (payload.self && pictures.queries) ? "Picture" : payload.queries.length > 40 ? "Text" : "Lines";
  const state = { head: payload.chosen || 0, mode: known.indexOf(first), backwards: false, pooled: false, part: 0, focus: null, theme: null };
  const names = [...new Set([...(parts.queries || []), ...(parts.keys || [])])];
  const pairs = names.length > 1 ? names.flatMap((from) => names.map((to) => [from, to])) : [];
  const title = h("h3", { "aria-live": "polite" }), note = h("p", { class: "jh-muted" }), body = h("div");
  const status = h("p", { class: "jh-status", role: "status" });
  const tip = tooltip(root), cache = new Map();
  const headWords = ({ layer, head, name }) => name || headName(layer, head, payload.stack);
  const small = heads.length > 1 ? thumbnails(root, payload, headWords, (index) => set({ head: index })) : null;

  root.append(title, note,
    h("div", { class: "jh-row" },
      choice("Layout", known, (mode) => set({ mode }), state.mode),
      payload.words && choice("Units", ["Pieces", "Words"], (own) => set({ pooled: own === 1, focus: null })),
      choice("Direction", ["looks at", "is seen by"], (own) => set({ backwards: own === 1 })),
      pairs.length > 0 && select("Between", ["all", ...pairs.map(([from, to]) => `${from} → ${to}`)], (part) => set({ part }))),
    status, body);

  // The pattern of a head; that of the last few heads is remembered.
  async function pattern(index) {
    if (!cache.has(index)) cache.set(index, unpacked(heads[index].pattern));
    if (cache.size > 4) cache.delete(cache.keys().next().value);
    return (await cache.get(index)).values;
  }

  async function set(change) {
    Object.assign(state, change);
    const asked = state.head, head = heads[asked];
    let data = { values: await pattern(asked), queries: payload.queries, keys: payload.keys, parts };
    if (asked !== state.head) return; // another head was chosen meanwhile
    if (state.part) data.values = within(data, pairs[state.part - 1]);
    if (state.pooled) data = pooled(data, payload.words);
    title.textContent = headWords(head);
    note.textContent = head.note || "";
    note.hidden = !head.note;
    small?.choose(asked);
    tip.hide();
    const context = { ...data, state, tip, self: payload.self, pictures, say: (text) => (status.textContent = text), focus: (focus) => (state.focus = focus) };
    body.replaceChildren(MODES[known[state.mode]](context));
    if (change.head !== undefined) announce(root, { stack: payload.stack, layer: head.layer, head: head.head });
  }

  themed(root, (theme) => {
    small?.draw(theme);
    set({ theme });
  });
}
