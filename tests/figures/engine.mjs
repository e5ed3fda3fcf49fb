// What tests/figures/test_engine.py asks of the page's engine: `node engine.mjs COMMAND` with a JSON object on standard
// input, the answer in JSON on standard output.
import { readFileSync } from "node:fs";

import * as layers from "../../bridgeout_lite/widgets/engine/layers.js";
import { Machine } from "../../bridgeout_lite/widgets/engine/machine.js";
import * as network from "../../bridgeout_lite/widgets/engine/network.js";
import { Surgery, cut } from "../../bridgeout_lite/widgets/engine/surgery.js";
import { Trainer, sparsity } from "../../bridgeout_lite/widgets/engine/trainer.js";
import { uniforms } from "../../bridgeout_lite/widgets/maths.js";

const again = (seed) => { const next = uniforms(seed); return () => next(); };
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** Numbers that differ by more than a step of the differences, so that no maximum and no sign changes sides. */
function apart(size, next, low = -1, high = 1) {
  const order = Array.from({ length: size }, (_, i) => [next(), i]).sort((a, b) => a[0] - b[0]);
  const out = [];
  order.forEach(([, i], k) => { out[i] = low + ((high - low) * (k + 0.5)) / size; });
  return out;
}

/** For every tensor that the layer's output depends on: the relative error of the gradient against central differences,
 * [name, error, size of the gradient]. Each call of forward draws the same masks. */
function check(layer, x, n, { training = true, noise = null, step }) {
  const random = uniforms(5), run = () => {
    if (noise) {
      const settings = { ...noise, next: again(9) };
      if (layer instanceof layers.Sparseout) layer.settings = settings;
      else layer.noise = settings;
    }
    return layer.forward(x, n, training);
  };
  const weights = Array.from(run().data, () => 2 * random() - 1), value = () => dot(run().data, weights);
  const up = x.machine.tensor(...layer.y?.shape ?? [weights.length]);
  run();
  up.data.set(weights);
  const dx = layer.backward(up, n), found = [["x", x, Array.from(dx.data)]];
  for (const { name, value: tensor, gradient } of layer.parameters) found.push([name, tensor, Array.from(gradient.data)]);
  return found.map(([name, tensor, gradient]) => {
    const numeric = gradient.map((_, i) => {
      const before = tensor.data[i], [above, below] = [step, -step].map((h) => {
        tensor.data[i] = before + h;
        return [tensor.data[i], value()];
      });
      tensor.data[i] = before;
      return (above[1] - below[1]) / (above[0] - below[0]);
    });
    return [name, Math.hypot(...numeric.map((v, i) => v - gradient[i])) / Math.hypot(...numeric), Math.hypot(...gradient)];
  });
}

const commands = {
  /** Gradients of every layer, and of the noise at every p, q and form given. */
  gradients({ float64, plain, step, noises }) {
    const machine = new Machine({ float64, plain }), next = uniforms(3), n = 3, found = [];
    const tensor = (shape, low, high) => {
      const made = machine.tensor(...shape);
      made.data.set(apart(made.size, next, low, high));
      return made;
    };
    const fill = (layer, low, high) => {
      for (const { value } of layer.parameters) value.data.set(apart(value.size, next, low, high));
      return layer;
    };
    const add = (name, layer, x, options) => found.push(...check(layer, x, n, { step, ...options }).map((r) => [`${name}: ${r[0]}`, ...r.slice(1)]));
    const image = [2, 4, 8], rows = [20];
    const conv = () => fill(new layers.Convolution(machine, n, image, 9));
    const dense = () => fill(new layers.Dense(machine, n, rows, 9));
    add("convolution", conv(), tensor([n, ...image]));
    add("convolution of one channel", fill(new layers.Convolution(machine, n, [2, 4, 1], 8)), tensor([n, 2, 4, 1]));
    add("dense", dense(), tensor([n, ...rows]));
    add("relu", new layers.ReLU(machine, n, image), tensor([n, ...image], -8, 8));
    add("pool", new layers.MaxPool(machine, n, image), tensor([n, ...image], -4, 4));
    const norm = fill(new layers.BatchNorm(machine, n, image), 0.5, 2);
    norm.momentum = null;
    add("norm in training", norm, tensor([n, ...image]));
    add("norm otherwise", norm, tensor([n, ...image]), { training: false });
    for (const { p, q, form } of noises) {
      const name = `${form}, p ${p}, q ${q}`, noise = { p, q, form };
      // a positive range keeps the differences away from the infinite slope at zero; signs come back by turning every second
      const signed = (made) => { made.data.forEach((v, i) => { made.data[i] = i % 2 ? -v : v; }); return made; };
      add(`Sparseout ${name}`, new layers.Sparseout(machine, n, rows), signed(tensor([n, ...rows], 0.3, 1.5)), { noise });
      for (const each of [true, false]) {
        for (const layer of [conv(), dense()]) {
          signed(layer.parameters[0].value).data.forEach((v, i, w) => { w[i] = Math.sign(v) * (0.3 + Math.abs(v)); });
          const x = tensor([n, ...(layer instanceof layers.Dense ? rows : image)]);
          add(`${each ? "Bridgeout" : "Batch Bridgeout"} ${name}`, layer, x, { noise: { ...noise, each } });
        }
      }
    }
    const loss = new layers.CrossEntropy(machine, n, 10), logits = tensor([n, 10], -2, 2), labels = [3, 0, 9];
    loss.forward(logits, labels, n);
    const gradient = Array.from(loss.dx.data), numeric = gradient.map((_, i) => {
      const before = logits.data[i], [above, below] = [step, -step].map((h) => {
        logits.data[i] = before + h;
        return [logits.data[i], loss.forward(logits, labels, n)];
      });
      logits.data[i] = before;
      return (above[1] - below[1]) / (above[0] - below[0]);
    });
    found.push(["loss: logits", Math.hypot(...numeric.map((v, i) => v - gradient[i])) / Math.hypot(...numeric), Math.hypot(...gradient)]);
    return { kind: machine.kind, found };
  },

  /** Forward passes and steps: the losses, and the numbers in the end. */
  train({ machine = {}, plan, shape, seed, images, labels, batch, settings, noise, change }) {
    const made = new network.Network(new Machine(machine), { batch, shape, plan, seed });
    made.noise(...noise);
    const put = (k) => made.input.data.set(images[k].flat(3)), first = put(0) ?? Array.from(made.forward(batch, false).data.slice(0, batch * 10));
    const losses = images.map((_, k) => {
      if (k === change?.at) made.noise(...change.noise);
      put(k);
      return made.step(labels[k], batch, settings);
    });
    const running = () => made.layers.filter(({ kind }) => kind === "norm").map((l) => [[...l.runningMean], [...l.runningVariance]]);
    const numbers = made.parameters.map(({ value }) => Array.from(value.data)), before = running();
    put(0);
    const last = Array.from(made.forward(batch, false).data.slice(0, batch * 10));
    made.recalibrate(3, (k) => { put(k); return batch; });
    return { kind: made.machine.kind, first, losses, numbers, last, running: before, recalibrated: running() };
  },

  /** Products of matrices by a machine, A turned or not, with or without what stood in C. */
  multiply({ machine = {}, cases }) {
    const made = new Machine(machine), next = uniforms(1);
    const products = cases.map(({ rows, columns, inner, turned, add }) => {
      const all = [rows * inner, inner * columns, rows * columns].map((size) => made.tensor(size));
      for (const { data } of all) data.forEach((_, i) => { data[i] = next() - 0.5; });
      const before = all.map((t) => Array.from(t.data)), [a, b, c] = all;
      made.multiply(turned ? a.turned(rows) : a.matrix(inner), b.matrix(columns), c.matrix(columns), rows, columns, inner, add);
      return { before, after: Array.from(c.data) };
    });
    return { kind: made.kind, products };
  },

  /** The explicit penalty: its slope against differences of its value, and a step of it. */
  penalty({ w, rate, penalty }) {
    const h = 1e-6, numeric = w.map((v) => (network.penaltyValue([v + h], penalty) - network.penaltyValue([v - h], penalty)) / (2 * h));
    const after = [...w];
    network.shrink(after, rate, penalty);
    return { numeric, slope: w.map((v) => network.penaltySlope(v, penalty)), after };
  },

  /** What a machine chooses where the browser lacks SIMD, or WebAssembly. */
  choice() {
    const real = globalThis.WebAssembly, kinds = [new Machine().kind];
    globalThis.WebAssembly = { ...real, validate: () => false };
    kinds.push(new Machine().kind);
    delete globalThis.WebAssembly;
    kinds.push(new Machine().kind);
    return kinds;
  },

  /** What a trainer reports after some steps, and the weights that it speaks of. */
  report({ pixels, labels, train, seed, steps, settings }) {
    const made = new Trainer({ pixels: Uint8Array.from(pixels), labels: Uint8Array.from(labels), train, seed });
    for (let k = 0; k < steps; k++) made.step(settings);
    return { ...made.report(), weights: made.weights.map(({ data }) => Array.from(data)) };
  },

  /** Recorded networks, pruned: for each of `cases` [network, treatment, amount] the answers, and the logits of the first
   * images if wanted. The files are read as the page gets them; the picture comes as pixels (rgba). */
  surgery({ files, rgba, columns, layout, mean, std, test, cases, logits = 0, plain = false }) {
    const bytes = (name) => { const b = readFileSync(name); return new DataView(b.buffer, b.byteOffset, b.length); };
    const stored = Object.fromEntries(Object.entries(files).map(([name, { file, order }]) => [name, { view: bytes(file), order }]));
    const made = new Surgery({ networks: [layout, stored], pixels: cut(readFileSync(rgba), columns), mean, std, test, plain });
    const found = cases.map(([name, treatment, amount]) => {
      const answers = new Uint8Array(test), began = performance.now();
      made.operate(name, treatment, amount);
      const steps = [...made.ask(answers, treatment.endsWith("recalibrated"))].length, milliseconds = performance.now() - began;
      const said = [];
      for (let first = 0; first < logits; first += 32) {
        const n = made.put(first, Math.min(32, logits - first));
        said.push(...made.network.forward(n, false).data.slice(0, 10 * n));
      }
      return { answers: [...answers], logits: said, steps, milliseconds };
    });
    return { kind: made.machine.kind, found };
  },

  sparsity: ({ arrays }) => sparsity(arrays),

  refused({ plan, shape }) {
    try {
      return new network.Network(new Machine(), { batch: 1, shape, plan }) && "";
    } catch (error) {
      return error.message;
    }
  },
};

console.log(JSON.stringify(commands[process.argv[2]](JSON.parse(readFileSync(0, "utf8")))));
