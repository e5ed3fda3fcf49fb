// A network on the digits that trains in a worker and reports what a reader may want to see of it.

import { Machine } from "./machine.js";
import { Network } from "./network.js";

export const PLAN = [
  ["convolution", 8], ["norm"], ["relu"], ["sparseout"],
  ["convolution", 16], ["norm"], ["relu"], ["pool"], ["sparseout"],
  ["dense", 32], ["norm"], ["relu"], ["sparseout"],
  ["dense", 10, { noise: false }],
];
export const BATCH = 32, MOMENTUM = 0.9;
export const NEAR_ZERO = 0.1; // weights of at most this share of their root mean square count as zero
export const BINS = 24, WIDEST = 0.6; // of the histogram of |w|
const SIDE = 8, PIXELS = SIDE * SIDE, AT_ONCE = 100; // images evaluated at a time
const SLICE = 25, REPORT = 200; // milliseconds of training before a message is heard, and between reports

/** The network and its data: `pixels` has one byte per pixel, 0 to 15; the first `train` images are for training. */
export class Trainer {
  constructor({ pixels, labels, train, seed, plain = false }) {
    Object.assign(this, { pixels, labels, train, steps: 0 });
    this.network = new Network(new Machine({ plain }), { batch: AT_ONCE, shape: [SIDE, SIDE, 1], plan: PLAN, seed });
    this.weights = this.network.weights().map(({ value }) => value);
    this.drawn = new Uint8Array(BATCH);
  }

  /** Put an image into place k of the input. */
  put(k, image) {
    const to = this.network.input.data;
    for (let i = 0; i < PIXELS; i++) to[k * PIXELS + i] = this.pixels[image * PIXELS + i] / 15;
  }

  /** One step: rows drawn with replacement, then masks. */
  step({ method, p, q, strength, rate }) {
    const { network, drawn } = this;
    for (let k = 0; k < BATCH; k++) {
      const image = Math.floor(network.next() * this.train);
      drawn[k] = this.labels[image];
      this.put(k, image);
    }
    network.noise(method, p, q);
    const penalty = method.startsWith("L_q") ? { q, strength } : null;
    this.loss = network.step(drawn, BATCH, { rate, momentum: MOMENTUM, penalty });
    this.steps++;
  }

  /** Loss and accuracy without noise on the images from `first` to `last`; `see(n)` looks at each batch of n. */
  evaluate(first, last, see = () => {}) {
    let loss = 0, correct = 0;
    for (let start = first; start < last; start += AT_ONCE) {
      const n = Math.min(AT_ONCE, last - start);
      for (let k = 0; k < n; k++) this.put(k, start + k);
      loss += n * this.network.loss.forward(this.network.forward(n, false), this.labels.subarray(start, start + n), n);
      correct += this.network.loss.correct;
      see(n);
    }
    return { loss: loss / (last - first), accuracy: correct / (last - first) };
  }

  /** Everything that the page shows. `active` has, for each unit, the share of its values on held-out images that are
   * above zero; `filters` the weights of the convolutions. */
  report() {
    const relus = this.network.layers.filter(({ kind }) => kind === "relu"), held = this.labels.length - this.train;
    const active = relus.map((layer) => new Float32Array(layer.shape.at(-1))), hidden = [];
    const training = this.evaluate(0, Math.min(this.train, held));
    const { loss, accuracy } = this.evaluate(this.train, this.labels.length, (n) =>
      relus.forEach((layer, k) => {
        const units = active[k].length, y = layer.y.data, share = units / (layer.size * held);
        for (let i = 0; i < n * layer.size;) for (let u = 0; u < units; u++) if (y[i++] > 0) active[k][u] += share;
        if (k === relus.length - 1) hidden.push(y.slice(0, n * layer.size));
      }));
    return {
      steps: this.steps, train_loss: training.loss, loss, accuracy, ...sparsity(this.weights.map(({ data }) => data)),
      activations: sparsity(hidden).hoyer, active: active.map((units) => [...units]), filters: this.weights.slice(0, 2).map(({ data }) => [...data]),
    };
  }
}

/** Hoyer, Gini, the share near zero, and the histogram of the magnitudes of several arrays as one. */
export function sparsity(arrays) {
  const n = arrays.reduce((sum, { length }) => sum + length, 0), size = new Float64Array(n), histogram = new Array(BINS).fill(0);
  let at = 0, sum = 0, squares = 0, ranked = 0;
  for (const array of arrays) for (const w of array) size[at++] = Math.abs(w);
  size.sort();
  size.forEach((v, i) => {
    sum += v;
    squares += v * v;
    ranked += v * ((n - i - 0.5) / n);
    histogram[Math.min(BINS - 1, Math.floor((v / WIDEST) * BINS))] += 1 / n;
  });
  const root = Math.sqrt(n), near = NEAR_ZERO * Math.sqrt(squares / n), first = size.findIndex((v) => v > near);
  return {
    hoyer: sum > 0 ? (root - sum / Math.sqrt(squares)) / (root - 1) : 1,
    gini: sum > 0 ? 1 - (2 * ranked) / sum : 1,
    near_zero: first < 0 ? 1 : first / n,
    histogram,
  };
}

/** Listen in a worker. Messages: {data, seed} makes a network, {settings} changes how it trains, {run} starts and
 * pauses, {steps} asks for so many; the answers are reports. */
export function serve(scope) {
  const { port1, port2 } = new MessageChannel(); // a timer of zero would wait four milliseconds
  let trainer, settings, run = false, owed = 0, asleep = true, said = 0, since = 0;
  const tell = () => {
    const time = performance.now() - said; // a moment is too short to tell the speed
    const speed = time > REPORT / 2 ? ((trainer.steps - since) * BATCH * 1000) / time : null;
    const report = trainer.report();
    scope.postMessage({ ...report, speed, kind: trainer.network.machine.kind });
    [said, since] = [performance.now(), trainer.steps];
  };
  port1.onmessage = () => {
    const end = performance.now() + SLICE;
    while ((run || owed > 0) && performance.now() < end) {
      trainer.step(settings);
      if (owed > 0) owed--;
    }
    asleep = !run && owed === 0;
    if (asleep || performance.now() > said + REPORT) tell();
    if (!asleep) port2.postMessage(0);
  };
  scope.onmessage = ({ data: message }) => {
    if (message.data) {
      trainer = new Trainer(message.data);
      owed = 0;
    }
    if (message.settings) settings = message.settings;
    run = message.run ?? run;
    owed += message.steps ?? 0;
    if (asleep && (run || owed > 0)) {
      asleep = false;
      [said, since] = [performance.now(), trainer.steps];
      port2.postMessage(0);
    }
  };
}
