import { copyLink, figure, fromAddress, need, show, tiles, toAddress } from "./toolkit.js";

export const PENALTY = "L_q penalty", NONE = "none";
const CURVES = ["steps", "train_loss", "loss", "accuracy", "hoyer", "gini", "near_zero", "activations"];
const KEPT = 300; // points of a curve; of more, every second one goes
const CURVATURE = 0.01; // what stands for the curvature of the loss in the strength of the penalty
const LAYERS = ["first convolution", "second convolution", "hidden layer"];
const ADDRESS = "playground"; // the first word of the address's state

/** The images of the payload, four bits a pixel, as one byte a pixel. */
export function unpack(view, count) {
  need(view?.byteLength > 0 && count > 0 && view.byteLength * 2 === count * 64, "its images do not fit their labels");
  const pixels = new Uint8Array(2 * view.byteLength);
  for (let i = 0; i < view.byteLength; i++) {
    pixels[2 * i] = view.getUint8(i) >> 4;
    pixels[2 * i + 1] = view.getUint8(i) & 15;
  }
  return pixels;
}

/** Of the explicit penalty: half of p/(1-p), as the noise has it, times the curvature. */
export const strength = (p) => (CURVATURE * p) / (1 - p) / 2;

/** The |w| at which the standard deviation of the noise is as large as the weight; NaN where there is none. */
export const level = (method, p, q) => (method.endsWith("Bridgeout") && q !== 2 ? (p / (1 - p)) ** (1 / (2 - q)) : NaN);

/** Add a report to a history of curves; keep it short. */
export function remember(history, report) {
  for (const name of CURVES) history[name].push(report[name]);
  if (history.steps.length > KEPT) {
    for (const name of CURVES) history[name] = history[name].filter((_, k) => k % 2 === 0 || k === history[name].length - 1);
  }
}

const empty = () => Object.fromEntries(CURVES.map((name) => [name, []]));

/** The filters of both convolutions as squares: 3x3 each, one for every channel that it sees. A shade says how large a
 * weight is beside `scale`, which belongs to the layer. */
export function filterSquares([first, second], scales) {
  const squares = [], outlines = [], draw = (weights, filters, channels, scale, place, wide, side) => {
    for (let f = 0; f < filters; f++) {
      const [left, top] = place(f), high = Math.ceil(channels / wide);
      outlines.push([left - 1, top - 1, wide * 3 * side + 2, high * 3 * side + 2]);
      for (let c = 0; c < channels; c++) {
        for (let k = 0; k < 9; k++) {
          const x = left + (c % wide) * 3 * side + (k % 3) * side, y = top + Math.floor(c / wide) * 3 * side + Math.floor(k / 3) * side;
          squares.push([x, y, side, Math.max(-1, Math.min(1, weights[(k * channels + c) * filters + f] / scale))]);
        }
      }
    }
  };
  draw(first, 8, 1, scales[0], (f) => [8 + 43 * f, 26], 1, 12);
  draw(second, 16, 8, scales[1], (f) => [8 + 43 * (f % 8), 74 + 68 * Math.floor(f / 8)], 2, 5);
  return [squares, outlines];
}

/** Units as squares, a row or two for each layer: the shade is the share of values above zero; a silent one is crossed
 * out. */
export function unitSquares(active) {
  const squares = [], outlines = [], labels = [], side = 20;
  let top = 42;
  active.forEach((units, k) => {
    labels.push([8, top - 5, LAYERS[k]]);
    units.forEach((share, u) => {
      const x = 8 + 22 * (u % 16), y = top + 22 * Math.floor(u / 16);
      squares.push([x, y, side, -share, share === 0]);
      outlines.push([x, y, side, side]);
    });
    top += 22 * Math.ceil(units.length / 16) + 22;
  });
  return [squares, outlines, labels];
}

export default figure((fig) => {
  const { model } = fig, get = (key) => model.get(key), controls = get("controls"), keys = Object.keys(controls);
  for (const key of ["p", "q", "rate", "seed"]) need(Number.isFinite(get(key)), `${key} is not a number`);
  need(controls.method.options.includes(get("method")), `there is no noise ${get("method")}`);
  const stored = get("stored"), labels = Uint8Array.from(get("labels") ?? "", Number), train = get("train");
  need(stored?.steps?.length > 1 && CURVES.every((name) => stored[name]?.length === stored.steps.length), "its stored run is missing");
  need(stored.filters?.[1]?.length === 1152 && stored.histogram && stored.active?.length === 3, "its stored run is missing");
  need(train > 0 && train < labels.length, `of its ${labels.length} images ${train} are for training`);
  const pixels = unpack(get("pixels"), labels.length);
  const alone = !model.send; // no kernel behind it: the address is the page's own
  if (alone) for (const [key, value] of Object.entries(fromAddress(ADDRESS, location.hash, controls))) model.set(key, value);
  const settings = () => ({ method: get("method"), p: get("p"), q: get("q"), rate: get("rate"), strength: strength(get("p")) });

  // --- panels
  const losses = fig.panel({
    title: "Loss, measured without noise", x: "steps", y: "cross-entropy (nats)", xlim: [0, 200], ylim: [0, 2.5],
    description: "Loss on training and on held-out images over the steps; dashed: the run that it is compared with",
  });
  const shares = fig.panel({
    title: "Accuracy, and how sparse the weights are", x: "steps", y: "0 to 1", xlim: [0, 200], ylim: [0, 1],
    description: "Held-out accuracy, and Hoyer, Gini and the share near zero of the weights over the steps",
  });
  const both = [[losses, "train_loss", "blue", "training"], [losses, "loss", "green", "held out"], [shares, "accuracy", "green", "accuracy"],
    [shares, "gini", "orange", "Gini"], [shares, "hoyer", "blue", "Hoyer"], [shares, "near_zero", "red", "near zero"]];
  const dashed = both.map(([panel]) => panel.line("grey")), curves = both.map(([panel, , colour]) => panel.line(colour));
  const names = both.map(([panel, , colour]) => panel.word(`word sbn-${colour}`, "end")), changed = [losses, shares].map((panel) => panel.segment("rule"));
  const sizes = fig.panel({
    title: "Sizes of the weights", x: "|w|", y: "share of weights (%)", xlim: [0, 0.6], ylim: [0, 40],
    description: "Histogram of the magnitudes of the weights; outlined: the run that it is compared with",
  });
  const bars = stored.histogram.map(() => sizes.box("blue")), outline = sizes.line("ink");
  const drown = sizes.segment("red"), drowned = sizes.word("word", "start");
  const filters = tiles(fig, "Filters of both convolutions", "Every filter as a small picture: orange weights are positive, blue ones negative, pale ones near zero");
  const units = tiles(fig, "Units, and which are silent", "Every filter and hidden unit as a square: the more colour, the more often it is above zero; crossed out: silent on all held-out images");

  // --- state
  let worker, history, last, change = 0, kept = stored, keptName = "", wanted = false, seen = true, kind = "", speed = 0, drawn = 0;
  const begin = () => {
    worker?.terminate();
    worker = null;
    history = empty();
    last = null;
    change = 0;
    wanted = false;
  };
  begin();
  const lively = () => wanted && seen && !document.hidden;
  const post = (message) => worker?.postMessage(message);

  /** The worker with a fresh network; made when the reader first asks for training. */
  function awake() {
    if (worker) return;
    const address = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));
    worker = new Worker(address);
    worker.onmessage = fig.guard(({ data }) => {
      kind = data.kind;
      speed = data.speed ?? speed;
      last = data;
      if (data.steps > (history.steps.at(-1) ?? -1)) remember(history, data);
      drawn ||= requestAnimationFrame(() => {
        drawn = 0;
        fig.guard(draw)();
      });
    });
    worker.onerror = (event) => fig.fail(new Error(event.message || "this page does not allow a worker"));
    worker.postMessage({ data: { pixels, labels, train, seed: get("seed") }, settings: settings() });
    URL.revokeObjectURL(address);
  }

  // --- what the reader does
  const toggle = fig.button("Train", () => {
    wanted = !wanted;
    if (wanted) awake();
    post({ run: lively() });
    fig.redraw();
  });
  fig.button("50 steps", () => {
    awake();
    wanted = false;
    post({ run: false, steps: 50 });
    fig.redraw();
  });
  fig.button("Restart", () => {
    begin();
    fig.redraw();
  });
  fig.button("Compare with this", () => {
    if (last) {
      kept = { ...Object.fromEntries(CURVES.map((name) => [name, [...history[name]]])), histogram: last.histogram };
      keptName = caption();
    }
    fig.redraw();
  });
  copyLink(fig, () => toAddress(ADDRESS, Object.fromEntries(keys.map((key) => [key, get(key)]))), alone);
  fig.controls();
  const caption = () => {
    const { method, p, q } = settings();
    return [method === NONE ? "no noise" : method, method !== NONE && `p ${show(p)}`,
      ![NONE, "Dropout"].includes(method) && `q ${show(q)}`].filter(Boolean).join(", ");
  };
  const enable = () => {
    const { method } = settings(), on = (key, value) => { fig.rows.querySelector(`[name="${key}"]`).disabled = !value; };
    on("p", method !== NONE);
    on("q", method !== NONE && method !== "Dropout");
  };
  let first = true;
  fig.follow(keys.filter((key) => key !== "seed"), () => {
    enable();
    if (first) return;
    if (last) change = last.steps;
    post({ settings: settings() });
  });
  fig.follow(["seed"], () => first || begin());
  fig.follow(keys, () => {
    if (!first && alone) window.history.replaceState(null, "", toAddress(ADDRESS, Object.fromEntries(keys.map((key) => [key, get(key)]))));
  });
  first = false;

  // it rests while nobody looks
  const look = () => post({ run: lively() });
  const watch = new IntersectionObserver((entries) => {
    seen = entries.at(-1).isIntersecting;
    look();
  });
  watch.observe(fig.root);
  document.addEventListener("visibilitychange", look);
  fig.closers.push(() => {
    watch.disconnect();
    document.removeEventListener("visibilitychange", look);
    cancelAnimationFrame(drawn);
    worker?.terminate();
  });

  // --- drawing
  const scales = [0.9, 0.45]; // of the shades: the weights begin within sqrt(6 / inputs), 0.82 and 0.29
  const end = (list) => list.at(-1);

  function draw() {
    const live = history.steps.length > 0, shown = live ? history : stored, now = last ?? stored;
    const longest = Math.max(200, end(shown.steps), end(kept.steps)), power = 10 ** Math.floor(Math.log10(longest));
    const width = [1, 1.5, 2, 3, 5, 7, 10].map((k) => k * power).find((w) => w >= longest), top = Math.max(...shown.loss, ...shown.train_loss, 1);
    losses.limits([0, 1.3 * width], [0, top > 2.5 ? Math.ceil(top) : top > 1.2 ? 2.5 : 1.2]);
    shares.limits([0, 1.3 * width], [0, 1]);
    both.forEach(([, key], k) => {
      curves[k].set(shown.steps, shown[key]);
      dashed[k].set(kept.steps, live ? kept[key] : []);
    });
    for (const panel of [losses, shares]) { // the names, from the top down, apart from each other
      const here = [...both.keys()].filter((k) => both[k][0] === panel).sort((a, b) => end(shown[both[b][1]]) - end(shown[both[a][1]]));
      const line = panel.ylim[1] / 11;
      let free = Infinity;
      here.forEach((k, rank) => {
        free = Math.max(Math.min(free, end(shown[both[k][1]]) + line / 2), (here.length - 1 - rank) * line);
        names[k].set(0.99 * panel.xlim[1], free, both[k][3]);
        free -= line;
      });
    }
    changed.forEach((rule, k) => rule.set(change || -1, 0, change || -1, [losses, shares][k].ylim[1]));
    now.histogram.forEach((share, k) => bars[k].set((k * 0.6) / bars.length, ((k + 1) * 0.6) / bars.length, 100 * share));
    const edges = kept.histogram.flatMap((_, k) => [k, k + 1].map((e) => (e * 0.6) / bars.length));
    outline.set(live ? edges : [], kept.histogram.flatMap((share) => [100 * share, 100 * share]));
    sizes.limits([0, 0.6], [0, Math.max(...now.histogram, ...kept.histogram) > 0.38 ? 100 : 40]);
    const { method, p, q } = settings(), mark = level(method, p, q), high = sizes.ylim[1], inside = mark <= 0.6;
    drown.set(inside ? mark : -1, 0, inside ? mark : -1, high);
    drowned.set(inside ? mark + 0.01 : 0.3, 0.93 * high, !Number.isFinite(mark) ? "" : inside ? "noise = |w|" : `noise = |w| at ${show(mark, 2)}`);
    filters(filterSquares(now.filters, scales), "orange: positive; blue: negative; pale: near zero");
    const silent = now.active.flat().filter((share) => share === 0).length;
    units(unitSquares(now.active), `more colour: more often on; crossed out: silent (${silent})`);
    tell(live, now, silent);
  }

  function tell(live, now, silent) {
    const { method, p, q } = settings(), value = (key) => (live ? end(history[key]) : end(stored[key]));
    toggle.textContent = wanted ? "Pause" : "Train";
    toggle.setAttribute("aria-pressed", String(wanted));
    const amount = method === NONE ? 0 : method === PENALTY ? strength(p) : p / (1 - p), mark = level(method, p, q);
    const which = live ? `trained here, ${caption()}` : `stored run (PyTorch, when the page was built): ${storedName}`;
    fig.say(
      {
        shown: ["shown", which],
        compared: ["dashed", live ? keptName || `stored run: ${storedName}` : "nothing yet"],
        state: ["training", wanted ? "runs" : live ? "paused" : "not begun; press Train"],
        steps: ["steps", String(value("steps"))],
        train_loss: ["training loss", value("train_loss")],
        loss: ["held-out loss", value("loss")],
        accuracy: ["held-out accuracy", 100 * value("accuracy"), " %"],
        hoyer: ["Hoyer of weights", value("hoyer")],
        gini: ["Gini", value("gini")],
        near_zero: ["near zero", 100 * value("near_zero"), " %"],
        activations: ["Hoyer of hidden activations", value("activations")],
        silent: ["silent units", String(silent)],
        speed: ["images per second", speed > 0 ? `${show(speed, 2)} (${kind})` : "none yet"],
        amount: ["p/(1−p), or λ", amount],
        level: ["noise equals weight at |w|", Number.isNaN(mark) ? "none" : mark],
      },
      `${live ? "" : `Set: ${caption()}. Shown: `}${which}. ` + (wanted ? "Training runs. " : "Training is paused. ") +
        (wanted ? "" : `After ${value("steps")} steps held-out accuracy is ${show(100 * value("accuracy"))} %, Hoyer of the weights ` +
          `${show(value("hoyer"))}, and ${silent} units are silent.`),
    );
  }
  const storedName = `${stored.method}, p ${show(stored.p)}, q ${show(stored.q)}`;

  fig.drawing(draw);
});
