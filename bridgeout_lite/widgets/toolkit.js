// What every in-page figure is made of: elements, scales, panels with axes, control rows, a readout. No library.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element; `attributes` may hold event listeners as functions ("onclick": f). */
export const html = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);

/** Make an SVG element. */
export const svg = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, children);

function make(node, attributes = {}, children = []) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Throw a message that stands in the figure's place, unless `condition` holds. */
export function need(condition, message) {
  if (!condition) throw new Error(message);
}

/** A number for a reader: so many significant digits, a true minus sign, no exponent where it can be avoided. */
export function show(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "not defined";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-4 || size >= 1e6) ? value.toExponential(digits - 1) : trim(value, digits);
  return text.replace("-", "−");
}

const trim = (value, digits) => String(+value.toPrecision(digits));

/** Round tick positions: about `count` of them between `low` and `high`. */
export function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5].find((s) => s * power >= rough * 0.999) ?? 10);
  const list = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= high / step + 1e-9; k++) list.push(+(k * step).toPrecision(12));
  return list;
}

/** `count` evenly spaced numbers from `low` to `high`. */
export const spaced = (low, high, count) =>
  Array.from({ length: count }, (_, k) => low + ((high - low) * k) / (count - 1));

const WIDTH = 360, HEIGHT = 232, LEFT = 50, RIGHT = 8, TOP = 26, BOTTOM = 40;

/** One set of axes. Its marks are made once and moved by their set() method. */
class Panel {
  constructor({ title, x, y, xlim, ylim, xticks, yticks, description, height = HEIGHT }) {
    this.given = { xticks, yticks };
    this.inner = { width: WIDTH - LEFT - RIGHT, height: height - TOP - BOTTOM };
    this.grid = svg("g", { class: "sbn-axes" });
    this.plot = svg("svg", { x: LEFT, y: TOP, ...this.inner, class: "sbn-plot" }); // an inner svg clips what it holds
    this.heading = svg("text", { x: 4, y: 14, class: "sbn-title" }, title);
    this.node = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${height}`, class: "sbn-panel", role: "img", "aria-label": description ?? title },
      this.heading,
      this.grid,
      this.plot,
      svg("text", { x: LEFT + this.inner.width / 2, y: height - 6, "text-anchor": "middle" }, x),
      svg("text", { transform: `translate(11 ${TOP + this.inner.height / 2}) rotate(-90)`, "text-anchor": "middle" }, y),
    );
    this.limits(xlim, ylim);
  }

  /** Change the limits of the axes; marks that were set before must be set again. */
  limits(xlim, ylim) {
    const key = `${xlim} ${ylim}`;
    if (key === this.key) return;
    Object.assign(this, { key, xlim, ylim });
    this.x = (v) => ((v - xlim[0]) / (xlim[1] - xlim[0])) * this.inner.width;
    this.y = (v) => this.inner.height * (1 - (v - ylim[0]) / (ylim[1] - ylim[0]));
    const marks = [];
    for (const [value, name] of labelled(this.given.xticks ?? ticks(...xlim))) {
      const at = LEFT + this.x(value);
      marks.push(svg("line", { x1: at, x2: at, y1: TOP, y2: TOP + this.inner.height }));
      marks.push(svg("text", { x: at, y: TOP + this.inner.height + 14, "text-anchor": "middle" }, name));
    }
    for (const [value, name] of labelled(this.given.yticks ?? ticks(...ylim, 4))) {
      const at = TOP + this.y(value);
      marks.push(svg("line", { x1: LEFT, x2: LEFT + this.inner.width, y1: at, y2: at }));
      marks.push(svg("text", { x: LEFT - 5, y: at + 4, "text-anchor": "end" }, name));
    }
    this.grid.replaceChildren(...marks);
  }

  mark(tag, style, set) {
    const node = svg(tag, { class: `sbn-${style}` });
    this.plot.append(node);
    return { node, set: (...values) => set(node, ...values) };
  }

  /** A curve: set(xs, ys). It breaks where y is not finite. */
  line(style) {
    return this.mark("path", `line sbn-${style}`, (node, xs, ys) => {
      let d = "", pen = "M";
      for (let k = 0; k < xs.length; k++) {
        if (!Number.isFinite(ys[k])) { pen = "M"; continue; }
        // far outside is far enough: browsers draw huge coordinates badly
        const y = Math.max(-1e4, Math.min(1e4, this.y(ys[k])));
        d += `${pen}${this.x(xs[k]).toFixed(1)} ${y.toFixed(1)}`;
        pen = "L";
      }
      node.setAttribute("d", d);
    });
  }

  /** A round mark: set(x, y, title). */
  dot(style, radius = 5) {
    return this.mark("circle", `dot sbn-${style}`, (node, x, y) => {
      node.setAttribute("r", Number.isFinite(x + y) ? radius : 0);
      if (Number.isFinite(x + y)) place(node, { cx: this.x(x), cy: this.y(y) });
    });
  }

  /** A straight line between two points: set(x1, y1, x2, y2). */
  segment(style) {
    return this.mark("line", `line sbn-${style}`, (node, x1, y1, x2, y2) =>
      place(node, { x1: this.x(x1), y1: this.y(y1), x2: this.x(x2), y2: this.y(y2) }));
  }

  /** A box from y = 0 (or `from`): set(left, right, height, from). */
  box(style) {
    return this.mark("rect", `box sbn-${style}`, (node, left, right, height, from = 0) => {
      const low = this.y(Math.min(from, height)), high = this.y(Math.max(from, height));
      place(node, { x: this.x(left), y: high, width: this.x(right) - this.x(left), height: low - high });
    });
  }

  /** A word inside the axes: set(x, y, text). It is kept inside the frame. */
  word(style = "word", anchor = "middle") {
    const word = this.mark("text", style, (node, x, y, text) => {
      node.textContent = text;
      const reach = { start: [0, 7 * text.length], middle: [3.5 * text.length, 3.5 * text.length], end: [7 * text.length, 0] };
      const [before, after] = reach[anchor];
      const at = Math.max(before, Math.min(this.inner.width - after, this.x(x)));
      place(node, { x: at, y: Math.max(11, Math.min(this.inner.height - 3, this.y(y))) });
    });
    word.node.setAttribute("text-anchor", anchor);
    return word;
  }
}

const labelled = (list) => list.map((entry) => (Array.isArray(entry) ? entry : [entry, show(entry)]));

function place(node, numbers) {
  for (const [name, value] of Object.entries(numbers)) node.setAttribute(name, value.toFixed(1));
}

const LEVELS = 8; // shades of a tile

/** A picture of tiles in a panel's size: set([[[x, y, width, value, flag, height]...], outlines, labels], words), with
 * `value` from -1 to 1, a height that defaults to the width, and labels [x, y, text, attributes]. A shade is one path, so
 * that a thousand tiles cost little. Orange is positive, blue negative; a flagged tile is crossed out. */
export function tiles(fig, title, description, width = WIDTH, height = HEIGHT) {
  const heading = svg("text", { x: 4, y: 14, class: "sbn-title" }, title), note = svg("text", { x: 4, y: height - 6 });
  const written = svg("g", { class: "sbn-written" });
  const shades = ["orange", "blue"].map((colour) => Array.from({ length: LEVELS }, (_, k) =>
    svg("path", { class: `sbn-tile sbn-${colour}`, "fill-opacity": (k + 1) / LEVELS })));
  const frames = svg("path", { class: "sbn-frames" }), crosses = svg("path", { class: "sbn-crosses" });
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "sbn-panel", role: "img", "aria-label": description },
    heading, ...shades.flat(), frames, crosses, written, note);
  fig.panels.append(node);
  let before;
  return ([squares, outlines, labels = []], words) => {
    const paths = shades.map((list) => list.map(() => ""));
    let cross = "";
    for (const [x, y, wide, value, flag, high = wide] of squares) {
      const level = Math.min(LEVELS, Math.ceil(Math.abs(value) * LEVELS - 0.5));
      if (level > 0) paths[value > 0 ? 0 : 1][level - 1] += `M${x} ${y}h${wide}v${high}h${-wide}z`;
      if (!flag) continue;
      const edge = Math.min(3, wide / 5), [w, h] = [wide - 2 * edge, high - 2 * edge];
      cross += `M${x + edge} ${y + edge}l${w} ${h}m0 ${-h}l${-w} ${h}`;
    }
    shades.forEach((list, sign) => list.forEach((path, k) => path.setAttribute("d", paths[sign][k])));
    frames.setAttribute("d", outlines.map(([x, y, w, h]) => `M${x} ${y}h${w}v${h}h${-w}z`).join(""));
    crosses.setAttribute("d", cross);
    const now = JSON.stringify(labels);
    if (now !== before) written.replaceChildren(...labels.map(([x, y, text, more]) => svg("text", { x, y, ...more }, text)));
    before = now;
    note.textContent = words;
  };
}

/** A button that copies the page's address with the state `hash()`. Where the clipboard is closed to the page, the
 * address itself takes the state, if this figure is `alone` on it. */
export function copyLink(fig, hash, alone) {
  const link = fig.button("Copy link", async () => {
    const address = location.href.replace(/#.*/, "") + hash();
    try {
      await navigator.clipboard.writeText(address);
      link.textContent = "Link copied";
    } catch {
      if (alone) location.replace(address);
      link.textContent = "Link in the address bar";
    }
    setTimeout(() => { link.textContent = "Copy link"; }, 2000);
  });
}

/** Of controls the values that stand in an address whose state begins with `word`, as far as the controls have them. */
export function fromAddress(word, hash, controls) {
  const found = {}, words = new URLSearchParams(hash.replace(/^#/, ""));
  if (!words.has(word)) return found;
  for (const [key, { options, values, min, max, value }] of Object.entries(controls)) {
    const text = words.get(key), number = Number(text);
    if (text === null || text === "") continue;
    if (options ? options.includes(text) : values ? values.includes(number) : number >= min && number <= max) {
      found[key] = typeof value === "number" ? number : text;
    }
  }
  return found;
}

/** The same the other way. */
export const toAddress = (word, values) => `#${word}&${new URLSearchParams(values)}`;

/** A figure in the page: a heading, panels, controls and a readout around one anywidget model. */
class Figure {
  constructor(model, element) {
    Object.assign(this, { model, closers: [], start: {}, calm: matchMedia("(prefers-reduced-motion: reduce)").matches });
    this.buttons = html("div", { class: "sbn-buttons" });
    this.panels = html("div", { class: "sbn-panels" });
    this.rows = html("div", { class: "sbn-rows" });
    this.readout = html("dl", { class: "sbn-readout" });
    this.live = html("p", { class: "sbn-live", "aria-live": "polite", role: "status" });
    const title = model.get("title") ?? "Figure";
    this.root = html(
      "section",
      { class: "sbn", role: "group", "aria-label": title },
      html("div", { class: "sbn-head" }, html("p", { class: "sbn-name" }, title), this.buttons),
      this.panels,
      this.rows,
      this.readout,
      this.live,
    );
    // JupyterLab takes the arrow keys from every focused element that lacks this attribute
    this.root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", ""));
    element.replaceChildren(this.root);
  }

  /** Add a set of axes; see Panel. */
  panel(options) {
    const panel = new Panel(options);
    this.panels.append(panel.node);
    return panel;
  }

  /** Add a row for every entry of the model's `controls`: a slider where it has a range, else a menu. */
  controls() {
    for (const [key, control] of Object.entries(this.model.get("controls"))) {
      this.start[key] = control.value;
      this.rows.append(control.options ? this.menu(key, control) : this.slider(key, control));
    }
    const presets = Object.entries(this.model.get("presets") ?? {});
    for (const [name, values] of presets) this.button(name, () => this.assign(values));
    this.button("Reset", () => this.assign(this.start));
    if (document.fullscreenEnabled) {
      this.button("Full screen", () =>
        document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen());
    }
  }

  slider(key, { label, min = 0, max, step = 1 }) {
    // a control with a list of values has one stop each; the slider then counts stops, and the list may grow
    const values = () => this.model.get("controls")[key].values;
    const output = html("output", { "aria-live": "off" });
    const input = html("input", { type: "range", name: key, min, max, step });
    input.addEventListener("input", () => this.assign({ [key]: values()?.[+input.value] ?? +input.value }));
    this.follow([key, "controls"], () => {
      if (values()) input.max = values().length - 1;
      input.value = values() ? nearest(values(), this.model.get(key)) : this.model.get(key);
      output.textContent = show(this.model.get(key));
      input.setAttribute("aria-valuetext", output.textContent);
    });
    return html("label", { class: "sbn-row" }, html("span", {}, label), input, output);
  }

  menu(key, { label, options }) {
    const select = html("select", { name: key }, ...options.map((name) => html("option", { value: name }, name)));
    select.addEventListener("change", () => this.assign({ [key]: select.value }));
    this.follow([key], () => { select.value = this.model.get(key); });
    return html("label", { class: "sbn-row" }, html("span", {}, label), select);
  }

  button(name, action) {
    const button = html("button", { type: "button", onclick: action }, name);
    this.buttons.append(button);
    return button;
  }

  /** Set values of the model, as a reader's hand does; a live kernel hears of them. */
  assign(values) {
    for (const [key, value] of Object.entries(values)) this.model.set(key, value);
    this.model.save_changes();
  }

  /** Call `action` now and whenever one of the model's `keys` changes. */
  follow(keys, action) {
    const guarded = this.guard(action);
    for (const key of keys) {
      this.model.on(`change:${key}`, guarded);
      this.closers.push(() => this.model.off(`change:${key}`, guarded));
    }
    guarded();
  }

  /** Draw now, and once a frame while any control (or one of `keys`) changes. */
  drawing(draw, keys = []) {
    let asked = 0;
    const guarded = this.guard(draw);
    const later = () => { asked ||= requestAnimationFrame(() => { asked = 0; guarded(); }); };
    this.closers.push(() => cancelAnimationFrame(asked));
    this.follow([...Object.keys(this.model.get("controls")), ...keys], later);
    cancelAnimationFrame(asked);
    asked = 0;
    draw();
    this.redraw = later;
  }

  /** Call `step` once a frame while the figure is in view and `running()` holds, which only a click makes true. */
  loop(running, step) {
    let seen = true, frame = 0;
    const guarded = this.guard(step);
    const wake = () => { frame ||= requestAnimationFrame(tick); };
    const tick = () => {
      frame = 0;
      if (!seen || !running()) return; // at rest no frame is asked for: the page then answers a slider sooner
      wake();
      guarded();
    };
    const watch = new IntersectionObserver((entries) => { seen = entries.at(-1).isIntersecting; wake(); });
    watch.observe(this.root);
    this.root.addEventListener("click", wake);
    this.closers.push(() => {
      cancelAnimationFrame(frame);
      watch.disconnect();
      this.root.removeEventListener("click", wake);
    });
    wake();
  }

  /** Fill the readout: {name: [label, value, unit?]}; `sentence`, for a screen reader, follows when the hand rests. */
  say(numbers, sentence) {
    for (const [name, [label, value, unit = ""]] of Object.entries(numbers)) {
      let data = this.readout.querySelector(`data[data-name="${name}"]`);
      if (!data) {
        data = html("data", { "data-name": name });
        this.readout.append(html("div", {}, html("dt", {}, label), html("dd", {}, data)));
      }
      data.value = String(value);
      data.textContent = typeof value === "number" ? show(value) + unit : value;
    }
    if (sentence === this.sentence) return; // a figure that moves by itself says its numbers often, its sentence once
    this.sentence = sentence;
    clearTimeout(this.pause);
    this.pause = setTimeout(() => { this.live.textContent = sentence; }, 500);
  }

  /** Run `action`; what goes wrong is told in the figure's place. */
  guard(action) {
    return (...values) => {
      try {
        return action(...values);
      } catch (error) {
        this.fail(error);
      }
    };
  }

  fail(error) {
    this.close();
    this.root.replaceChildren(html("p", { class: "sbn-error", role: "alert" }, `This figure cannot be drawn: ${error.message}`));
  }

  close() {
    clearTimeout(this.pause);
    for (const closer of this.closers.splice(0)) closer();
  }
}

const nearest = (values, wanted) =>
  values.reduce((best, value, k) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? k : best), 0);

/** An anywidget from a function that builds one figure. */
export function figure(build) {
  return {
    render({ model, el }) {
      const made = new Figure(model, el);
      made.guard(build)(made);
      return () => made.close();
    },
  };
}
