import { bridgeProx, magnitude, reach, slope, uniforms } from "./maths.js";
import { figure, need, show } from "./toolkit.js";

export const WEIGHTS = "Bridgeout", FEATURES = "Sparseout";
export const BATCH = 16; // rows a step
export const MEMORY = 5000; // steps behind the running average
export const FRAME = 100; // steps a frame, fewer where they take longer than BUDGET milliseconds
const BUDGET = 4, KEPT = 30; // thousands of steps that the losses are shown for

/** The payload, little-endian float32, one row after the other, each its features and then its target. The first
 * `train` rows are for training; their second moments come along. */
export function unpack(view, features, train) {
  need(features?.length > 0 && view?.byteLength > 0, "its table of patients is missing");
  const d = features.length, count = view.byteLength / (4 * (d + 1));
  need(Number.isInteger(count), `its table does not divide into rows of ${d} features and a target`);
  need(train > 0 && train < count, `of its ${count} rows ${train} are for training`);
  const values = Float64Array.from({ length: count * (d + 1) }, (_, k) => view.getFloat32(4 * k, true));
  need(values.every(Number.isFinite), "its table holds a number that is not finite");
  const rows = Array.from({ length: count }, (_, i) => values.subarray(i * (d + 1), (i + 1) * (d + 1)));
  const training = rows.slice(0, train), heldOut = rows.slice(train), average = (f) => mean(training, f);
  const axis = [...features.keys()];
  const gram = axis.map((j) => axis.map((k) => average((row) => row[j] * row[k])));
  const moment = axis.map((j) => average((row) => row[j] * row[d]));
  const leastSquares = solve(gram, moment);
  need(leastSquares.every(Number.isFinite), "its features are linearly dependent");
  return { d, axis, training, heldOut, gram, moment, leastSquares };
}

const mean = (list, value) => list.reduce((sum, entry) => sum + value(entry), 0) / list.length;

/** Half the mean squared error of weights on some rows, in nats. */
export const loss = (rows, w) => mean(rows, (row) => miss(row, w) ** 2) / 2;

/** Prediction minus target. */
function miss(row, w) {
  let sum = -row[w.length];
  for (let j = 0; j < w.length; j++) sum += row[j] * w[j];
  return sum;
}

/** Solve a symmetric, positive definite system by elimination. */
function solve(matrix, target) {
  const a = matrix.map((row, i) => [...row, target[i]]), d = a.length, w = new Float64Array(d);
  for (let i = 0; i < d; i++) {
    for (let r = i + 1; r < d; r++) {
      const factor = a[r][i] / a[i][i];
      for (let k = i; k <= d; k++) a[r][k] -= factor * a[i][k];
    }
  }
  for (let i = d - 1; i >= 0; i--) w[i] = a[i].slice(i + 1, d).reduce((rest, v, k) => rest - v * w[i + 1 + k], a[i][d]) / a[i][i];
  return w;
}

/** What the noise amounts to: the minimiser of half the mean squared error plus the penalty. On features it is a ridge
 * in closed form; on weights coordinate descent from least squares, as bridgeout_lite.theory.bridge_path has it. */
export function ghost({ d, axis, training, gram, moment, leastSquares }, method, p, q) {
  const odds = p / (1 - p);
  if (method === FEATURES) {
    const ridge = axis.map((j) => odds * mean(training, (row) => magnitude(row[j], q)));
    return solve(gram.map((row, j) => row.map((v, k) => (j === k ? v + ridge[j] : v))), moment);
  }
  const w = leastSquares.slice();
  for (let sweep = 0, change = 1; sweep < 500 && change > 1e-9 * Math.max(1, ...w.map(Math.abs)); sweep++) {
    change = 0;
    for (let j = 0; j < d; j++) {
      let rest = moment[j];
      for (let k = 0; k < d; k++) rest -= gram[j][k] * w[k];
      const next = bridgeProx(w[j] + rest / gram[j][j], odds / 2, q);
      change = Math.max(change, Math.abs(next - w[j]));
      w[j] = next;
    }
  }
  return w;
}

/** Stochastic gradient descent on the noisy loss from weights of zero. A step draws its rows, then its masks. */
export class Learner {
  constructor(data, seed) {
    Object.assign(this, { data, next: uniforms(seed), steps: 0 });
    for (const name of ["w", "average", "noisy", "xi", "gradient"]) this[name] = new Float64Array(data.d);
  }

  step(method, p, q, rate) {
    const { data: { d, training }, w, average, noisy, xi, gradient, next } = this, kept = p / (1 - p);
    const onWeights = method === WEIGHTS, rows = [];
    for (let b = 0; b < BATCH; b++) rows.push(Math.floor(next() * training.length));
    gradient.fill(0);
    for (let j = 0; onWeights && j < d; j++) {
      xi[j] = next() >= p ? kept : -1;
      noisy[j] = w[j] + reach(w[j], q, "even") * xi[j];
    }
    if (!onWeights && this.q !== q) {
      this.q = q;
      this.reach = training.map((row) => row.slice(0, d).map((v) => reach(v, q, "odd")));
    }
    for (const i of rows) {
      const row = training[i];
      if (onWeights) {
        const error = miss(row, noisy);
        for (let j = 0; j < d; j++) gradient[j] += error * row[j];
      } else {
        let error = -row[d];
        for (let j = 0; j < d; j++) {
          noisy[j] = row[j] + this.reach[i][j] * (next() >= p ? kept : -1);
          error += noisy[j] * w[j];
        }
        for (let j = 0; j < d; j++) gradient[j] += error * noisy[j];
      }
    }
    this.steps++;
    // over the last quarter of the steps at first, over about MEMORY of them later
    const share = Math.max(4 / (this.steps + 3), 1 / MEMORY);
    for (let j = 0; j < d; j++) {
      w[j] -= (rate / BATCH) * gradient[j] * (onWeights ? slope(w[j], q, "even", xi[j]) : 1);
      average[j] += share * (w[j] - average[j]);
    }
  }
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key), settings = () => ["method", "p", "q", "rate"].map(get);
  for (const key of ["p", "q", "rate", "seed"]) need(Number.isFinite(get(key)), `${key} is not a number`);
  const features = get("features"), data = unpack(get("table"), features, get("train"));

  // a measurement and its square share a place on the axis
  const names = [...new Set(features.map((name) => name.replace("²", "")))];
  const sides = features.map((name) => {
    const left = names.indexOf(name.replace("²", ""));
    if (!features.includes(`${name}²`) && !name.endsWith("²")) return [left + 0.29, left + 0.71];
    return name.endsWith("²") ? [left + 0.5, left + 0.92] : [left + 0.08, left + 0.5];
  });
  const bars = fig.panel({
    title: "",
    x: "each measurement, and beside it its square", y: "weight", xlim: [0, names.length], ylim: [-0.45, 0.5],
    xticks: names.map((name, k) => [k + 0.5, name]),
    description: "For each weight a bar for the average of learning, a dot for this step, an outline for the L_q solution",
  });
  const learnt = sides.map(() => bars.box("blue")), zero = bars.segment("rule");
  const outline = sides.map(() => bars.box("ghost")), now = sides.map(() => bars.dot("now", 2.2));
  const legend = [bars.word("word", "start"), bars.word("word", "start")];

  const losses = fig.panel({
    title: "The loss, measured without noise",
    x: "thousand steps before now", y: "half mean squared error", xlim: [-KEPT, 0], ylim: [0.1, 0.6],
    description: "Loss on training and held-out rows over the last steps; dotted: the losses of the L_q solution",
  });
  const curves = [losses.line("blue"), losses.line("green")], aims = [losses.segment("aim"), losses.segment("aim")];
  const labels = [losses.word("word", "start"), losses.word("word", "start")], beyond = losses.word("word", "end");

  let learner, history, aim, frame = 0, paused = fig.calm;
  const both = (w) => [loss(data.training, w), loss(data.heldOut, w)];
  const restart = () => {
    learner = new Learner(data, get("seed"));
    history = [];
  };
  const toggle = fig.button("", () => pause(!paused));
  fig.button(`${FRAME} steps`, () => {
    advance(Infinity);
    pause(true);
  });
  fig.button("Restart", () => {
    restart();
    fig.redraw();
  });
  fig.controls();
  fig.follow(["seed"], restart);

  function advance(budget) {
    const values = settings(), end = performance.now() + budget;
    for (let k = 0; k < FRAME && (k % 10 || performance.now() < end); k++) learner.step(...values);
  }

  function pause(value) {
    paused = value;
    toggle.textContent = paused ? "Run" : "Pause";
    fig.redraw?.();
  }

  /** Draw what learning moves. */
  function move() {
    const { average, w, steps } = learner, point = { steps, losses: both(average) };
    sides.forEach(([left, right], j) => {
      learnt[j].set(left + 0.05, right - 0.05, average[j]);
      now[j].set((left + right) / 2, w[j]);
    });
    const past = [...history, point], ago = past.map((one) => (one.steps - steps) / 1000);
    curves.forEach((curve, k) => curve.set(ago, past.map((one) => one.losses[k])));
    beyond.set(0, 0.57, point.losses[1] > 0.6 ? "above the axis now" : "");
    if (!history.length || steps >= history.at(-1).steps + 2 * FRAME) history.push(point);
    while (history[0].steps < steps - 1000 * KEPT) history.shift();
  }

  function tell() {
    const [method, p, q] = settings(), { average, steps } = learner, [train, heldOut] = both(average);
    // above q = 1 no weight is zero, though the solver may round a tiny one
    const zeros = q > 1 ? 0 : aim.w.filter((v) => v === 0).length;
    fig.say(
      {
        state: ["learning", paused ? "paused; Run or steps move it" : "runs"],
        steps: ["steps", String(steps)],
        train: ["training loss", train],
        held_out: ["held-out loss", heldOut],
        distance: ["distance to the solution", Math.hypot(...average.map((v, j) => v - aim.w[j]))],
        ghost_train: ["solution's training loss", aim.losses[0]],
        ghost_held_out: ["its held-out loss", aim.losses[1]],
        ghost_zeros: ["its zero weights", zeros],
        strength: ["strength λ", p / (1 - p) / 2],
      },
      `${method}, p ${show(p)}, q ${show(q)}: the L_q solution has loss ${show(aim.losses[0])} on training and ` +
        `${show(aim.losses[1])} on held-out rows, and ${zeros} of ${data.d} weights at zero. ` +
        (paused ? "Learning is paused; Run or steps move it." : "Learning runs."),
    );
  }

  fig.drawing(() => {
    const w = ghost(data, ...settings());
    aim = { w, losses: both(w) };
    sides.forEach(([left, right], j) => outline[j].set(left, right, w[j]));
    zero.set(0, 0, names.length, 0);
    bars.heading.textContent = `Noise on the ${get("method") === WEIGHTS ? "weights" : "features"}, and where it leads`;
    legend[0].set(0.1, -0.34, "bar: running average; dot: this step");
    legend[1].set(0.1, -0.42, "outline: the L_q solution");
    aim.losses.forEach((value, k) => {
      aims[k].set(-KEPT, value, 0, value);
      labels[k].set(-KEPT + 1, value + (k ? 0.012 : -0.035), k ? "held out" : "training");
    });
    move();
    tell();
  });
  pause(fig.calm);
  fig.loop(() => !paused, () => {
    advance(BUDGET);
    move();
    if (++frame % 10 === 0) tell();
  });
});
