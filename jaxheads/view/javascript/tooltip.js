// One tooltip for each view, beside the pointer or the element that has the focus; Escape hides it.

import { h } from "./dom.js";

export function tooltip(root) {
  const tip = h("div", { class: "jh-tip", "aria-hidden": "true", hidden: true });
  root.append(tip);
  root.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  function hide() {
    tip.hidden = true;
  }

  // Lines of text at a point of the window; the first is the title.
  function show(lines, x, y) {
    tip.replaceChildren(...lines.filter(Boolean).map((line, index) => h("div", { class: index ? "" : "jh-tip-title" }, line)));
    tip.hidden = false;
    const frame = root.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(4, Math.min(x + 12, width - own.width - 4)) - frame.left;
    const top = (y + 16 + own.height > innerHeight ? y - own.height - 12 : y + 16) - frame.top;
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  }

  // Shows `lines(element)` while the pointer or the focus is on an item.
  function on(container, selector, lines) {
    const item = (event) => event.target.closest?.(selector);
    container.addEventListener("pointermove", (event) => (item(event) ? show(lines(item(event)), event.clientX, event.clientY) : hide()));
    container.addEventListener("pointerleave", hide);
    container.addEventListener("focusin", (event) => {
      if (!item(event) || !item(event).matches(":focus-visible")) return;
      const box = item(event).getBoundingClientRect();
      show(lines(item(event)), box.left, box.bottom - 8);
    });
    container.addEventListener("focusout", hide);
  }

  return { show, hide, on };
}
