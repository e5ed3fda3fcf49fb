// A recorded network that is pruned and asked anew, by forward passes in a worker.

import { Machine } from "./machine.js";
import { Network } from "./network.js";

const SIDE = 32, PIXELS = SIDE * SIDE * 3, BATCH = 32; // images passed at a time, and in a batch of recalibration
const TILE = 8, NONE = -1; // the kernel takes eight columns at a time: a layer is filled up by channels that say nothing
const SLICE = 25; // milliseconds of work before a message is heard

/** Tensors by name from the bytes of a stored network (see book/surgery_networks.py), in torch's order of axes. */
export function unpack(view, layout) {
  const count = (shape) => shape.reduce((product, n) => product * n, 1), tensors = {};
  let at = 0, whole = 4 * layout.reduce((sum, [, shape]) => sum + shape[0], 0);
  for (const [name, shape] of layout) {
    const first = Float32Array.from({ length: shape[0] }, (_, i) => view.getFloat32(at + 4 * i, true));
    at += 4 * shape[0];
    if (shape.length === 1) {
      tensors[name] = first;
      continue;
    }
    const each = count(shape) / shape[0];
    tensors[name] = Float32Array.from({ length: count(shape) }, (_, i) => view.getInt8(whole + i) * first[Math.floor(i / each)]);
    whole += count(shape);
  }
  return tensors;
}

/** The images of a picture of many, `columns` beside each other: bytes per image, row, column, colour. */
export function cut(rgba, columns) {
  const wide = columns * SIDE, count = rgba.length / 4 / (SIDE * SIDE), pixels = new Uint8Array(count * PIXELS);
  for (let image = 0, at = 0; image < count; image++) {
    const corner = Math.floor(image / columns) * SIDE * wide + (image % columns) * SIDE;
    for (let r = 0; r < SIDE; r++) {
      for (let c = 0, from = 4 * (corner + r * wide); c < SIDE; c++, from += 4) {
        for (let colour = 0; colour < 3; colour++) pixels[at++] = rgba[from + colour];
      }
    }
  }
  return pixels;
}

/** `networks` are [layout, {name: {view, order}}], with `order` the filters of each convolution from the smallest norm
 * to the largest; `pixels` begin with the `test` images that are asked about, then come those for recalibration. */
export class Surgery {
  constructor({ networks: [layout, stored], pixels, mean, std, test, plain = false }) {
    this.machine = new Machine({ plain });
    this.stored = Object.fromEntries(Object.entries(stored).map(([name, { view, order }]) => [name, { order, tensors: unpack(view, layout) }]));
    Object.assign(this, { pixels, mean, std, test, anew: (pixels.length / PIXELS - test) / BATCH });
  }

  /** Prune: "zeroed" sets the weights of a filter to zero, "silenced" everything that only serves its channel,
   * "removed" cuts it out. */
  operate(name, treatment, amount) {
    const { order, tensors } = this.stored[name], way = treatment.split(",")[0];
    const gone = order.map((filters) => new Set(filters.slice(0, Math.floor(filters.length * amount))));
    const kept = order.map((filters, k) => [...filters.keys()].filter((f) => way !== "removed" || !gone[k].has(f)));
    for (const filters of kept) while (filters.length % TILE) filters.push(NONE);
    const plan = kept.flatMap(({ length }, k) => [["convolution", length], ["norm"], ...(k === 1 ? [] : [["pool"]]), ["relu"]]); // the largest of ReLUs is the ReLU of the largest
    plan.push(["dense", tensors["dense.bias"].length], ["relu"], ["dense", tensors["classifier.bias"].length]);
    this.machine.clear();
    this.network = new Network(this.machine, { batch: BATCH, shape: [SIDE, SIDE, 3], plan });
    const of = (kind) => this.network.layers.filter((layer) => layer.kind === kind), silent = way === "silenced";
    let before = [0, 1, 2], dead = new Set(); // the channels that a layer reads, and those that say nothing
    kept.forEach((filters, k) => {
      const conv = `conv${k + 1}`, norm = `norm${k + 1}`, layer = of("norm")[k], { value } = of("convolution")[k].parameters[0];
      const w = tensors[`${conv}.weight`], inputs = w.length / order[k].length / 9, to = value.data;
      for (let patch = 0, at = 0; patch < 9; patch++) {
        for (const c of before) for (const f of filters) to[at++] = f < 0 || c < 0 || gone[k].has(f) || dead.has(c) ? 0 : w[(f * inputs + c) * 9 + patch];
      }
      filters.forEach((f, at) => {
        const sounds = f !== NONE && !(silent && gone[k].has(f));
        layer.scale.value.data[at] = sounds ? tensors[`${norm}.weight`][f] : 0;
        layer.shift.value.data[at] = sounds ? tensors[`${norm}.bias`][f] : 0;
        layer.runningMean[at] = tensors[`${norm}.running_mean`][f] ?? 0;
        layer.runningVariance[at] = tensors[`${norm}.running_var`][f] ?? 1;
      });
      before = filters;
      dead = silent ? gone[k] : dead;
    });
    const [hidden, last] = of("dense"), channels = order.at(-1).length, places = tensors["dense.weight"].length / hidden.outputs / channels;
    turn(hidden, { weight: tensors["dense.weight"], bias: tensors["dense.bias"] }, (row) => {
      const c = before[row % before.length]; // ours runs over places, then channels; torch's the other way
      return c < 0 || dead.has(c) ? NONE : c * places + Math.floor(row / before.length);
    });
    turn(last, { weight: tensors["classifier.weight"], bias: tensors["classifier.bias"] }, (row) => row);
  }

  /** Put images into the input, from `first` on; returns how many. */
  put(first, n) {
    const { pixels, mean, std, network: { input: { data } } } = this;
    for (let i = 0; i < n * PIXELS; i++) data[i] = (pixels[first * PIXELS + i] - mean[i % 3]) / std[i % 3];
    return n;
  }

  /** Multiply BatchNorm into the convolutions: the same function, for three quarters of the time. */
  fold() {
    const { layers } = this.network;
    this.network.layers = layers.filter(({ kind, channels, scale, shift, runningMean, runningVariance, epsilon }, k) => {
      if (kind !== "norm") return true;
      const [weight, bias] = layers[k - 1].parameters.map(({ value }) => value.data);
      const factors = scale.value.data.map((s, c) => s / Math.sqrt(runningVariance[c] + epsilon));
      for (let i = 0; i < weight.length; i++) weight[i] *= factors[i % channels];
      for (let c = 0; c < channels; c++) bias[c] = shift.value.data[c] - runningMean[c] * factors[c];
      return false;
    });
  }

  /** The classes that the pruned network says, batch by batch, into `answers`; yields after each piece of work. */
  *ask(answers, recalibrate) {
    if (recalibrate) {
      this.network.recalibrate(this.anew, (k) => this.put(this.test + k * BATCH, BATCH));
      yield;
    }
    this.fold();
    for (let first = 0; first < this.test; first += BATCH) {
      const n = this.put(first, Math.min(BATCH, this.test - first)), logits = this.network.forward(n, false).data;
      for (let image = 0; image < n; image++) {
        let best = 0;
        for (let c = 1; c < 10; c++) if (logits[image * 10 + c] > logits[image * 10 + best]) best = c;
        answers[first + image] = best;
      }
      yield;
    }
  }
}

/** Weights of a dense layer from torch's (outputs, inputs); `from(row)` is the input that a row of ours reads, or NONE. */
function turn(layer, { weight, bias }, from) {
  const { inputs, outputs } = layer, to = layer.weight.value.data, wide = weight.length / outputs;
  for (let row = 0, at = 0; row < inputs; row++) {
    const source = from(row);
    for (let j = 0; j < outputs; j++) to[at++] = source < 0 ? 0 : weight[j * wide + source];
  }
  layer.bias.value.data.set(bias);
}

/** Listen in a worker. {data} brings networks and a picture; {ask: {network, treatment, amount}} prunes and answers, and
 * a later question takes the place of an earlier one that is still under way. */
export function serve(scope) {
  const { port1, port2 } = new MessageChannel(); // a timer of zero would wait four milliseconds
  let surgery, wanted, work = null, began, first, answers, awake = false;
  const wake = () => {
    if (!awake && surgery && (wanted || work)) port2.postMessage(awake = true);
  };
  port1.onmessage = () => {
    if (wanted) {
      began = performance.now();
      first = null;
      surgery.operate(wanted.network, wanted.treatment, wanted.amount);
      answers = new Uint8Array(surgery.test);
      work = { asked: wanted, steps: surgery.ask(answers, wanted.treatment.endsWith("recalibrated")) };
      wanted = null;
    }
    const end = performance.now() + SLICE;
    while (work && performance.now() < end) {
      if (!work.steps.next().done) {
        first ??= performance.now() - began; // to prune, and to recalibrate
        continue;
      }
      scope.postMessage({ asked: work.asked, answers, milliseconds: performance.now() - began, first, kind: surgery.machine.kind });
      work = null;
    }
    awake = false;
    wake();
  };
  scope.onmessage = async ({ data: { data, ask } }) => {
    try {
      if (ask) wanted = ask;
      if (data) {
        const picture = await createImageBitmap(new Blob([data.images]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
        const { width, height } = picture, pen = new OffscreenCanvas(width, height).getContext("2d");
        pen.drawImage(picture, 0, 0);
        surgery = new Surgery({ ...data, pixels: cut(pen.getImageData(0, 0, width, height).data, data.columns) });
      }
      wake();
    } catch (error) {
      scope.postMessage({ error: error.message });
    }
  };
}
