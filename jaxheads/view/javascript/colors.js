// Colours: readable for colour-blind readers, since lightness alone orders a ramp, and both signs differ in hue as well.

// Okabe & Ito 2008, as jaxheads.plots has them, less black; on dark ground the darker ones are lighter.
const PALETTES = {
  light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"],
  dark: ["#4FA8DE", "#F08A3C", "#2FC79B", "#E09BC2", "#F2BC4B", "#9AD4F5", "#BBBBBB"],
};
const SEQUENTIAL = {
  light: ["#ffffff", "#cfe1f2", "#74b0dc", "#1f78b8", "#08306b"],
  dark: ["#15181d", "#173a5c", "#2273b0", "#63b3ea", "#f2f9ff"],
};
const DIVERGING = {
  light: ["#08407a", "#5aa0d0", "#ffffff", "#f0a35e", "#9c3f00"],
  dark: ["#b5dcff", "#2f86c4", "#15181d", "#c8641b", "#ffd0a0"],
};

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function between(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(at), stops.length - 2), part = at - index;
  return stops[index].map((from, channel) => Math.round(from + (stops[index + 1][channel] - from) * part));
}

// "light" or "dark": of the notebook or page around, else of the system; paper is light.
export function theme(root) {
  if (matchMedia("print").matches || root.dataset.printing) return "light";
  const given = root.parentElement?.closest("[data-theme]")?.dataset.theme;
  if (given === "light" || given === "dark") return given;
  const body = document.body;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  if (body.classList.contains("vscode-dark")) return "dark";
  if (body.classList.contains("vscode-light")) return "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

// Calls `draw` now and whenever the theme changes, and marks the root with it.
export function themed(root, draw) {
  const update = () => {
    const own = theme(root);
    if (root.dataset.theme === own) return;
    root.dataset.theme = own;
    draw(own);
  };
  const printing = (on) => () => {
    if (on) root.dataset.printing = "yes";
    else delete root.dataset.printing;
    update();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  matchMedia("print").addEventListener("change", update);
  addEventListener("beforeprint", printing(true));
  addEventListener("afterprint", printing(false));
  new MutationObserver(update).observe(document.documentElement, { attributes: true, subtree: false });
  new MutationObserver(update).observe(document.body, { attributes: true, subtree: false });
  update();
}

// Calls `draw` when the view becomes narrow or wide.
export function resized(root, draw) {
  let narrow = root.clientWidth < 600;
  new ResizeObserver(() => {
    if (root.clientWidth < 600 === narrow || !root.clientWidth) return;
    narrow = !narrow;
    draw();
  }).observe(root);
}

// Function of a value that returns [red, green, blue]; diverging about 0 where values have both signs.
export function ramp(theme, low, high) {
  const two = low < 0 && high > 0, size = Math.max(-low, high);
  const stops = (two ? DIVERGING : SEQUENTIAL)[theme].map(rgb);
  if (!two && high <= 0) return (value) => between(stops, (high - value) / (high - low || 1));
  return (value) => between(stops, two ? (value / size + 1) / 2 : (value - low) / (high - low || 1));
}

export function css(color) {
  return `rgb(${color.join(" ")})`;
}

// Black or white: the one with more contrast (WCAG 2.2).
export function textOn(color) {
  const [red, green, blue] = color.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

export function color(theme, index) {
  return PALETTES[theme][index % PALETTES[theme].length];
}

// Draws numbers [rows, columns] as pixels of a canvas of that size; NaN stays empty.
export function paint(canvas, values, rows, columns, colorOf) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    if (Number.isNaN(values[i])) continue;
    const [red, green, blue] = colorOf(values[i]);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

// A bar of colours with its ends, for a legend.
export function colorBar(theme, low, high, words) {
  const two = low < 0 && high > 0, size = Math.max(-low, high), [from, to] = two ? [-size, size] : [low, high];
  const colorOf = ramp(theme, low, high);
  const stops = Array.from({ length: 9 }, (_, index) => css(colorOf(from + ((to - from) * index) / 8)));
  const bar = document.createElement("span");
  bar.className = "jh-bar";
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ends = [from, to].map((value) => Object.assign(document.createElement("span"), { textContent: words(value) }));
  const whole = document.createElement("span");
  whole.className = "jh-legend";
  whole.append(ends[0], bar, ends[1]);
  return whole;
}
