import { figure, html, need, show, ticks } from "./toolkit.js";

const CHOSEN = "by validation";
const MEASURES = ["Hoyer", "Gini"];
const FIRST = 5; // the columns of a run: p, q, seed, validation, test, then the measures of each layer
const P = 0, Q = 1, SEED = 2, VALID = 3, TEST = 4;

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const unique = (values) => [...new Set(values)].sort((a, b) => a - b);

/** Mean, 95 % Student-t interval and number of some values; one value has no interval. `quantiles` are of t for 2, 3, ... */
export function summary(values, quantiles) {
  const n = values.length, middle = n ? mean(values) : NaN;
  const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (n - 1);
  const half = n > 1 ? quantiles[n - 2] * Math.sqrt(variance / n) : NaN;
  return { mean: middle, low: middle - half, high: middle + half, n, values };
}

/** The p of best validation score for each q, over the seeds that every p of it has: a Map. */
export function chosen({ runs, sign }) {
  const best = new Map();
  for (const q of unique(runs.filter((run) => run[P]).map((run) => run[Q]))) {
    const own = runs.filter((run) => run[P] && run[Q] === q), strengths = unique(own.map((run) => run[P]));
    const has = (p, seed) => own.some((run) => run[P] === p && run[SEED] === seed);
    const shared = unique(own.map((run) => run[SEED])).filter((seed) => strengths.every((p) => has(p, seed)));
    const score = (p) => sign * mean(own.filter((run) => run[P] === p && shared.includes(run[SEED])).map((run) => run[VALID]));
    best.set(q, strengths.reduce((found, p) => (score(p) > score(found) ? p : found)));
  }
  return best;
}

/** The points of one column against q, for the menu's p: [{q, p, mean, low, high, n, values}]. */
function curve(task, p, column, quantiles) {
  return [...task.best.keys()].flatMap((q) => {
    const strength = p === CHOSEN ? task.best.get(q) : +p;
    const values = task.runs.filter((run) => run[P] === strength && run[Q] === q).map((run) => run[column]);
    return values.length ? [{ q, p: strength, ...summary(values, quantiles) }] : [];
  });
}

/** The runs without noise. */
const quiet = (task, column, quantiles) => summary(task.runs.filter((run) => !run[P]).map((run) => run[column]), quantiles);

const interval = ({ low, high, n }, digits) =>
  (n > 1 ? `${show(low, digits)} to ${show(high, digits)}, ${n} seeds` : "one seed, no interval");

/** Means with their intervals, the seeds behind them, and the line of the runs without noise. */
function series(panel, shade, reach, most) {
  const count = reach.length;
  const rest = panel.line("grey"), line = panel.line(shade);
  const bars = panel.mark("path", `bars sbn-${shade}`, (node, points) => {
    const bar = ({ q, low, high }) => {
      const [x, top, end] = [panel.x(q), panel.y(high), panel.y(low)].map((v) => v.toFixed(1));
      return `M${x} ${top}V${end}M${x - 3} ${top}h6M${x - 3} ${end}h6`;
    };
    node.setAttribute("d", points.filter(({ n }) => n > 1).map(bar).join(""));
  });
  const seeds = Array.from({ length: count * most }, () => panel.dot(`${shade} sbn-faint`, 3));
  const dots = Array.from({ length: count }, () => panel.dot(shade, 5));
  return (points, silent) => {
    rest.set([reach[0] - 1, reach.at(-1) + 1], [silent, silent]);
    line.set(points.map(({ q }) => q), points.map((point) => point.mean));
    bars.set(points);
    dots.forEach((dot, k) => {
      dot.set(points[k]?.q, points[k]?.mean);
      dot.node.classList.toggle("sbn-single", points[k]?.n === 1);
      for (let s = 0; s < most; s++) seeds[k * most + s].set(points[k]?.q, points[k]?.n > 1 ? points[k].values[s] : NaN);
    });
  };
}

/** The two panels of a task in a column: score against q, and below it the sparsity of a layer. */
function column(fig, { exponents, quantiles, image }) {
  const xlim = [exponents[0] - 0.3, exponents.at(-1) + 0.2];
  const most = quantiles.length + 1;
  const good = image ? "higher is better" : "lower is better";
  const axes = { title: "", x: "exponent q (2 is Dropout)", xlim, xticks: exponents };
  const score = fig.panel({
    ...axes, y: image ? "test accuracy (%)" : "test perplexity", ylim: [0, 1],
    description: `${image ? "Test accuracy of the image network" : "Test perplexity of the language model"} against q, ${good}; mean and 95 % interval over seeds; dashed: without noise`,
  });
  const sparsity = fig.panel({
    ...axes, y: "0 to 1", ylim: [0, 1], yticks: [0, 0.25, 0.5, 0.75, 1],
    description: "Hoyer and Gini sparsity of one layer's activations against q, mean and 95 % interval over seeds; dashed: without noise",
  });
  const words = html("p", {}), boxes = [score, sparsity].map((panel, k) => {
    const box = html("div", { class: "sbn-captioned" });
    panel.node.replaceWith(box);
    box.append(panel.node, ...(k ? [] : [words]));
    return box;
  });
  const rules = [score, sparsity].map((panel) => ({ two: panel.segment("rule"), here: panel.segment("here") }));
  const results = series(score, "blue", exponents, most);
  const measures = MEASURES.map((name, k) => ({
    draw: series(sparsity, k ? "orange" : "blue", exponents, most), word: sparsity.word("word", "end"),
  }));
  const marks = [score, sparsity, sparsity].map((panel) => panel.dot("red", 6));
  const claim = score.word("word", image ? "start" : "end"), none = score.word();
  const strengths = exponents.map(() => score.word("strength")), lead = score.word("strength", "start");

  const draw = ({ name, task, layer, q, p }) => {
    const points = curve(task, p, TEST, quantiles), silent = quiet(task, TEST, quantiles);
    const known = [...points, ...(silent.n ? [silent] : [])].flatMap(({ low, high, values }) => [low, high, ...values]);
    const [low, high] = known.filter(Number.isFinite).reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const span = high - low || 1, [bottom, top] = known.length ? [low - 0.2 * span, high + 0.32 * span] : [0, 1];
    // ticks that three digits name: 192.5 is not 193
    const steps = [4, 5, 3, 6, 2].map((count) => ticks(bottom, top, count));
    score.given.yticks = steps.find((list) => list.every((value) => value === +value.toPrecision(3)));
    score.limits(xlim, [bottom, top]);
    rules.forEach(({ two, here }, k) => {
      const [from, to] = k ? [0, 1] : [bottom + 0.09 * (top - bottom), top]; // clear of the row of p
      two.set(2, from, 2, to);
      here.set(q, from, q, to);
    });
    results(points, silent.mean);
    const at = points.find((point) => point.q === q);
    marks[0].set(q, at ? at.mean : NaN);
    claim.set(image ? 2.05 : 1.95, top - 0.11 * (top - bottom), image ? "claim: better here →" : "← claim: better here");
    none.set((xlim[0] + xlim[1]) / 2, (bottom + top) / 2, points.length ? "" : `p = ${p} is not recorded`);
    strengths.forEach((word, k) => {
      const point = points.find((one) => one.q === exponents[k]);
      word.set(exponents[k], bottom, point ? show(point.p) : "");
    });
    lead.set(xlim[0], bottom, points.length ? "p:" : "");
    score.heading.textContent = `${image ? "Images" : "Language"}: ${name}, ${task.dataset}`;
    words.textContent =
      `${good[0].toUpperCase()}${good.slice(1)}. ` +
      (silent.n ? `Dashed: no noise, ${show(silent.mean, 4)}${image ? " %" : ""} (${interval(silent, 4)}). ` : "") +
      (points.some(({ n }) => n === 1) ? "Hollow: one seed, no interval." : "");

    sparsity.heading.textContent = `Sparsity of ${layer}: ${name}`;
    const place = FIRST + MEASURES.length * task.layers.indexOf(layer), found = {};
    measures.forEach(({ draw, word }, k) => {
      const own = curve(task, p, place + k, quantiles), last = own.at(-1);
      draw(own, quiet(task, place + k, quantiles).mean);
      const above = last && (k ? last.mean < 0.88 : last.mean < 0.12); // Gini, the larger one, over its line
      word.set(xlim[1], last ? last.mean + (above ? 0.05 : -0.11) : 0, last ? MEASURES[k] : "");
      found[MEASURES[k]] = own.find((point) => point.q === q)?.mean ?? NaN;
      marks[1 + k].set(q, found[MEASURES[k]]);
    });
    return { at, ...found };
  };
  return { boxes, draw };
}

/** The tasks of the model, checked. */
function recorded(tasks) {
  need(Object.keys(tasks ?? {}).length > 1, "it holds no recorded run of both tasks");
  return Object.fromEntries(Object.entries(tasks).map(([name, task]) => {
    const { layers, runs } = task;
    need(layers?.length && runs?.some((run) => run[P]), "it holds no recorded run of both tasks");
    const width = FIRST + MEASURES.length * layers.length;
    need(runs.every((run) => run.length === width), "its data do not fit together");
    need(runs.flat().every(Number.isFinite), "a recorded number is missing");
    return [name, { ...task, best: chosen(task) }];
  }));
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key), note = html("p", { class: "sbn-note" });
  fig.root.classList.add("sbn-headline");
  const tasks = recorded(get("tasks"));
  const first = Object.keys(tasks).find((name) => tasks[name].sign > 0); // a stored page has its keys sorted
  need(first, "no task has a score of which higher is better");
  const quantiles = get("quantiles"), exponents = get("controls").q.values;
  const sides = [true, false].map((image) => column(fig, { exponents, quantiles, image }));
  fig.panels.append(...[0, 1].flatMap((row) => sides.map(({ boxes }) => boxes[row]))); // scores above, sparsity below
  fig.panels.after(
    html("p", { class: "sbn-words" },
      "Points: means over seeds, with 95 % intervals; faint: single seeds. p: drop probability at each q. ",
      "The claim, that images gain from denser activations (right of q = 2) and language from sparser ones (left), ",
      "is what Sparseout's paper says in words; its tables are not available, so no data of it stand here."),
    note,
  );
  fig.controls();

  const draw = () => {
    const [q, p, layer, place] = ["q", "p", "layer", "place"].map(get), [model, inside] = place.split(": ");
    need(Number.isFinite(q), "q is not a number");
    need(p === CHOSEN || Number.isFinite(+p), `p is ${p}, not a number`);
    need(tasks[model], `there is no language model ${model} among the recorded ones`);
    const shown = [[first, layer], [model, inside]].map(([name, layer], k) => {
      need(tasks[name].layers.includes(layer), `there is no layer ${layer} in ${name}`);
      return { name, ...sides[k].draw({ name, task: tasks[name], layer, q, p }) };
    });
    const missing = shown.filter(({ at }) => !at).map(({ name }) => name);
    note.textContent = missing.length ? `Not recorded of ${missing.join(" and ")}: q = ${show(q)}, p ${p === CHOSEN ? p : `= ${p}`}.` : "";
    const numbers = {}, sentences = shown.map(({ name, at, Hoyer, Gini }, k) => {
      const kind = k ? "language" : "image", score = k ? "perplexity" : "accuracy", unit = k ? "" : " %";
      const or = (value) => (Number.isFinite(value) ? value : "–");
      numbers[`${kind}_p`] = [k ? "language: p" : "images: p", or(at?.p)];
      numbers[`${kind}_${score}`] = [score, or(at?.mean), unit];
      numbers[`${kind}_low`] = ["from", or(at?.low), unit];
      numbers[`${kind}_high`] = ["to", or(at?.high), unit];
      numbers[`${kind}_seeds`] = ["seeds", at?.n ?? 0];
      numbers[`${kind}_hoyer`] = ["Hoyer", or(Hoyer)];
      numbers[`${kind}_gini`] = ["Gini", or(Gini)];
      if (!at) return `${name}: not recorded.`;
      return `${name}, p ${show(at.p)}: test ${score} ${show(at.mean, 4)}${unit} (${interval(at, 4)}), Hoyer ${show(Hoyer)}, Gini ${show(Gini)}.`;
    });
    fig.say(numbers, `q ${show(q)}. ${sentences.join(" ")}`);
  };
  fig.drawing(draw);
});
