// A network is a list of layers and its training: the noise by its name, stochastic gradient descent, the explicit
// penalty beside it.

import { magnitude, uniforms } from "../maths.js";
import { BatchNorm, Convolution, CrossEntropy, Dense, MaxPool, ReLU, Sparseout } from "./layers.js";

const LAYERS = { convolution: Convolution, dense: Dense, norm: BatchNorm, pool: MaxPool, relu: ReLU, sparseout: Sparseout };

/** Layers one after the other: `plan` is a list of [kind, outputs?, options?]; the option {noise: false} keeps noise off
 * a layer's weights. Weights begin uniform within sqrt(6 / inputs) (He's), drawn from the seed in the order of the plan;
 * the same generator then serves every mask. */
export class Network {
  constructor(machine, { batch, shape, plan, seed = 0 }) {
    this.machine = machine;
    this.batch = batch;
    this.next = uniforms(seed);
    this.input = machine.tensor(batch, ...shape);
    this.layers = [];
    for (const [kind, outputs, { noise = true } = {}] of plan) {
      if (!LAYERS[kind]) throw new Error(`there is no layer ${kind}; there are ${Object.keys(LAYERS).join(", ")}`);
      const layer = new LAYERS[kind](machine, batch, shape, outputs);
      Object.assign(layer, { kind, spared: !noise });
      shape = layer.shape;
      this.layers.push(layer);
      for (const { name, value } of layer.parameters) {
        if (name !== "weight") continue;
        const bound = Math.sqrt(6 / value.shape[0]), numbers = value.data;
        for (let i = 0; i < value.size; i++) numbers[i] = bound * (2 * this.next() - 1);
      }
    }
    this.loss = new CrossEntropy(machine, batch, shape[0]);
    this.parameters = this.layers.flatMap((layer) => layer.parameters);
  }

  /** Choose the noise. `method` is "Sparseout", "Dropout" (Sparseout at q = 2), "Bridgeout" (a mask for every image),
   * "Batch Bridgeout" (one mask for the batch), or anything else for none. */
  noise(method, p, q, { activations = "odd", weights = "even" } = {}) {
    const { next } = this, onWeights = method.endsWith("Bridgeout");
    const some = { p, q: method === "Dropout" ? 2 : q, next, form: onWeights ? weights : activations, each: method === "Bridgeout" };
    for (const layer of this.layers) {
      if (layer.kind === "sparseout") layer.settings = ["Sparseout", "Dropout"].includes(method) ? some : null;
      if (layer.kind === "convolution" || layer.kind === "dense") layer.noise = onWeights && !layer.spared ? some : null;
    }
  }

  /** The logits of the first n images of `input`. */
  forward(n, training) {
    return this.layers.reduce((x, layer) => layer.forward(x, n, training), this.input);
  }

  /** The gradients of all parameters; `loss` has been computed. */
  backward(n) {
    let up = this.loss.dx;
    for (let k = this.layers.length - 1; k >= 0; k--) up = this.layers[k].backward(up, n, k > 0);
    return up;
  }

  /** One step on the n images in `input`; returns the loss (with the noise, without the penalty). */
  step(labels, n, { rate, momentum = 0, decay = 0, penalty = null }) {
    const loss = this.loss.forward(this.forward(n, true), labels, n);
    this.backward(n);
    descend(this.parameters, rate, momentum, decay);
    if (penalty?.strength > 0) for (const weight of this.weights()) shrink(weight.value.data, rate, penalty);
    return loss;
  }

  /** The weights that noise and penalty act on. */
  weights() {
    return this.layers.filter((layer) => !layer.spared).flatMap((layer) => layer.parameters).filter(({ name }) => name === "weight");
  }

  /** Estimate the statistics of every BatchNorm anew, as the plain mean over batches; `fill(k)` puts the images of
   * batch k into `input` and returns how many they are. */
  recalibrate(batches, fill) {
    const norms = this.layers.filter(({ kind }) => kind === "norm"), before = norms.map(({ momentum }) => momentum);
    for (const norm of norms) {
      norm.reset();
      norm.momentum = null;
    }
    for (let k = 0; k < batches; k++) {
      const n = fill(k);
      this.layers.reduce((x, layer) => layer.forward(x, n, layer.kind === "norm"), this.input);
    }
    norms.forEach((norm, k) => { norm.momentum = before[k]; });
  }
}

/** v = momentum v + g + decay w; w -= rate v, as torch.optim.SGD has it. */
export function descend(parameters, rate, momentum, decay) {
  for (const { value, gradient, velocity } of parameters) {
    const w = value.data, g = gradient.data, v = velocity.data;
    for (let i = 0; i < w.length; i++) {
      v[i] = momentum * v[i] + g[i] + decay * w[i];
      w[i] -= rate * v[i];
    }
  }
}

/** The explicit penalty strength * sum |w|^q. */
export function penaltyValue(w, { q, strength }) {
  return strength * w.reduce((sum, v) => sum + magnitude(v, q), 0);
}

/** Its derivative for one weight; 0 at 0. */
export const penaltySlope = (w, { q, strength }) => (w === 0 ? 0 : strength * q * Math.sign(w) * Math.abs(w) ** (q - 1));

/** A step against the penalty. A weight that it would carry across zero stays there: at q <= 1 the derivative does not
 * vanish at zero, and weights would swing about it. */
export function shrink(w, rate, penalty) {
  for (let i = 0; i < w.length; i++) {
    const pull = rate * penaltySlope(w[i], penalty);
    w[i] = Math.abs(pull) >= Math.abs(w[i]) ? 0 : w[i] - pull;
  }
}
