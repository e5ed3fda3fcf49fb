// The layers, forward and backward, on batches whose last axis is the channel: (images, rows, columns, channels).
// A layer keeps what its backward pass needs and writes into tensors of its own, made once for the largest batch.
// forward(x, n, training) takes n images; backward(dy, n) takes the gradient of the loss for the output, leaves that
// for the parameters in their `gradient` and returns that for the input.

import { addThrough, drawMask, perturb, prepare } from "./noise.js";

const count = (shape) => shape.reduce((product, n) => product * n, 1);

/** Numbers that are learnt: value, gradient, velocity. */
function parameter(machine, name, ...shape) {
  const [value, gradient, velocity] = [0, 0, 0].map(() => machine.tensor(...shape));
  return { name, value, gradient, velocity };
}

/** y = x w + b, with `inputs` the number of features or a shape that is flattened. */
export class Dense {
  /** `rows` of x belong to one image. */
  constructor(machine, batch, shape, outputs, rows = 1) {
    const inputs = count(shape);
    Object.assign(this, { machine, inputs, outputs, rows, shape: [outputs] });
    this.weight = parameter(machine, "weight", inputs, outputs);
    this.bias = parameter(machine, "bias", outputs);
    this.parameters = [this.weight, this.bias];
    this.y = machine.tensor(batch * rows, outputs);
    this.dx = machine.tensor(batch * rows, inputs);
    // the weights as they are used, turned for the backward pass; for the noise, what it does to them and its gradient
    for (const name of ["noisy", "turned", "reach", "slope", "through"]) this[name] = machine.tensor(inputs, outputs);
    this.batch = batch;
  }

  /** Noise on the weights: {p, q, form, each, next}, with `each` a mask of its own for every image (Bridgeout), else
   * one for the batch (Batch Bridgeout). null for none. */
  set noise(noise) {
    this.settings = noise;
    const masks = noise?.each ? this.batch : 1;
    if (noise && !(this.mask?.length >= masks * this.noisy.size)) this.mask = new Uint8Array(masks * this.noisy.size);
  }

  /** The images that share a mask, as [first image, how many, where their mask begins]. */
  groups(n) {
    return this.used?.each ? Array.from({ length: n }, (_, i) => [i, 1, i * this.noisy.size]) : [[0, n, 0]];
  }

  forward(x, n, training) {
    const { machine, inputs, outputs, rows, weight: { value }, noisy, y } = this;
    const used = training && this.settings?.p > 0 ? this.settings : null;
    Object.assign(this, { x, used });
    if (used) {
      prepare(value.data, this.reach.data, this.slope.data, value.size, used.q, used.form);
      drawMask(this.mask, (used.each ? n : 1) * value.size, used.p, used.next);
    }
    const bias = this.bias.value.data, out = y.data;
    for (let r = 0; r < n * rows; r++) out.set(bias, r * outputs);
    if (used?.each && rows === 1) {
      for (let image = 0; image < n; image++) this.alone(image);
      return y;
    }
    for (const [image, images, mask] of this.groups(n)) {
      if (used) perturb(value.data, this.reach.data, this.mask, mask, noisy.data, value.size, used.p);
      const w = (used ? noisy : value).matrix(outputs), first = image * rows;
      machine.multiply(x.matrix(inputs, first * inputs), w, y.matrix(outputs, first * outputs), images * rows, outputs, inputs, true);
    }
    return y;
  }

  backward(dy, n, deeper = true) {
    const { machine, inputs, outputs, rows, weight: { value, gradient }, noisy, turned, used, through, x, dx } = this;
    const up = dy.data, bias = this.bias.gradient.data.fill(0), groups = this.groups(n);
    for (let r = 0, at = 0; r < n * rows; r++) for (let j = 0; j < outputs; j++) bias[j] += up[at++];
    if (used) gradient.data.fill(0);
    if (used?.each && rows === 1) {
      for (let image = 0; image < n; image++) this.back(image, up);
      return dx;
    }
    for (const [image, images, mask] of groups) {
      const first = image * rows, dyHere = dy.matrix(outputs, first * outputs), xHere = x.turned(inputs, first * inputs);
      machine.multiply(xHere, dyHere, (used ? through : gradient).matrix(outputs), inputs, outputs, images * rows);
      if (used) addThrough(through.data, this.slope.data, this.mask, mask, gradient.data, value.size, used.p);
      if (!deeper) continue;
      if (groups.length > 1) perturb(value.data, this.reach.data, this.mask, mask, noisy.data, value.size, used.p);
      const w = (used ? noisy : value).data, other = turned.data;
      for (let i = 0, at = 0; i < inputs; i++) for (let j = 0; j < outputs; j++) other[j * inputs + i] = w[at++];
      machine.multiply(dyHere, turned.matrix(inputs), dx.matrix(inputs, first * inputs), images * rows, inputs, outputs);
    }
    return dx;
  }

  /** One row with a mask of its own is no product of matrices: the noisy weights are used as they arise. */
  alone(image) {
    const { inputs, outputs, mask, used: { p } } = this, kept = p / (1 - p), size = inputs * outputs;
    const x = this.x.data, y = this.y.data, w = this.weight.value.data, reach = this.reach.data;
    for (let i = 0; i < inputs; i++) {
      const factor = x[image * inputs + i], at = i * outputs, from = image * size + at, to = image * outputs;
      if (factor === 0) continue;
      for (let j = 0; j < outputs; j++) y[to + j] += factor * (w[at + j] + reach[at + j] * (mask[from + j] ? kept : -1));
    }
  }

  back(image, up) {
    const { inputs, outputs, mask, used: { p } } = this, kept = p / (1 - p), size = inputs * outputs;
    const x = this.x.data, dx = this.dx.data, w = this.weight.value.data, reach = this.reach.data;
    const slope = this.slope.data, gradient = this.weight.gradient.data;
    for (let i = 0; i < inputs; i++) {
      const factor = x[image * inputs + i], at = i * outputs, from = image * size + at, to = image * outputs;
      let sum = 0;
      for (let j = 0; j < outputs; j++) {
        const xi = mask[from + j] ? kept : -1, g = up[to + j];
        sum += g * (w[at + j] + reach[at + j] * xi);
        gradient[at + j] += factor * g * (1 + slope[at + j] * xi);
      }
      dx[image * inputs + i] = sum;
    }
  }
}

/** A 3x3 convolution with a border of zeros: the patch of 9 C numbers around every pixel, times the weights. The
 * weights are (9 C, filters), a patch runs over its rows, its columns, then the channels. */
export class Convolution {
  constructor(machine, batch, [height, width, channels], filters) {
    Object.assign(this, { height, width, channels, shape: [height, width, filters] });
    this.dense = new Dense(machine, batch, [9, channels], filters, height * width);
    this.parameters = this.dense.parameters;
    this.patches = machine.tensor(batch * height * width, 9 * channels);
    this.bordered = new machine.Numbers((height + 2) * (width + 2) * channels);
    this.dx = machine.tensor(batch, height, width, channels);
  }

  set noise(noise) {
    this.dense.noise = noise;
  }

  forward(x, n, training) {
    const { height, width, channels, bordered } = this, line = width * channels, wide = line + 2 * channels;
    const from = x.data, patches = this.patches.data, strip = 3 * channels;
    for (let image = 0, at = 0; image < n; image++) {
      for (let r = 0; r < height; r++) {
        const start = (image * height + r) * line, to = (r + 1) * wide + channels;
        for (let i = 0; i < line; i++) bordered[to + i] = from[start + i];
      }
      for (let r = 0; r < height; r++) {
        for (let c = 0; c < line; c += channels) {
          for (let k = 0; k < 3; k++) {
            const start = (r + k) * wide + c;
            for (let i = 0; i < strip; i++) patches[at++] = bordered[start + i];
          }
        }
      }
    }
    return this.dense.forward(this.patches, n, training);
  }

  backward(dy, n, deeper = true) {
    const { height, width, channels, bordered } = this, line = width * channels, wide = line + 2 * channels;
    const patches = this.dense.backward(dy, n, deeper).data, to = this.dx.data, strip = 3 * channels;
    for (let image = 0, at = 0; deeper && image < n; image++) {
      bordered.fill(0);
      for (let r = 0; r < height; r++) {
        for (let c = 0; c < line; c += channels) {
          for (let k = 0; k < 3; k++) {
            const start = (r + k) * wide + c;
            for (let i = 0; i < strip; i++) bordered[start + i] += patches[at++];
          }
        }
      }
      for (let r = 0; r < height; r++) {
        const start = (r + 1) * wide + channels, end = (image * height + r) * line;
        for (let i = 0; i < line; i++) to[end + i] = bordered[start + i];
      }
    }
    if (deeper) bordered.fill(0); // the border is zeros again for the next forward pass
    return this.dx;
  }
}

/** What every layer without weights of its own has: an output and a gradient of the input's shape. */
class Simple {
  parameters = [];

  constructor(machine, batch, shape) {
    Object.assign(this, { shape, size: count(shape), y: machine.tensor(batch, ...shape), dx: machine.tensor(batch, ...shape) });
  }
}

export class ReLU extends Simple {
  forward(x, n) {
    const from = x.data, to = this.y.data;
    for (let i = 0; i < n * this.size; i++) to[i] = from[i] > 0 ? from[i] : 0;
    return this.y;
  }

  backward(dy, n) {
    const y = this.y.data, up = dy.data, to = this.dx.data;
    for (let i = 0; i < n * this.size; i++) to[i] = y[i] > 0 ? up[i] : 0;
    return this.dx;
  }
}

/** Sparseout: noise on activations, every element its own mask. `settings` are {p, q, form, next}; null for none. */
export class Sparseout extends Simple {
  constructor(machine, batch, shape) {
    super(machine, batch, shape);
    [this.reach, this.slope] = [0, 0].map(() => new machine.Numbers(batch * this.size));
    this.mask = new Uint8Array(batch * this.size);
  }

  forward(x, n, training) {
    const used = training && this.settings?.p > 0 ? this.settings : null, size = n * this.size;
    this.used = used;
    if (!used) return x;
    prepare(x.data, this.reach, this.slope, size, used.q, used.form);
    drawMask(this.mask, size, used.p, used.next);
    perturb(x.data, this.reach, this.mask, 0, this.y.data, size, used.p);
    return this.y;
  }

  backward(dy, n) {
    if (!this.used) return dy;
    this.dx.data.fill(0, 0, n * this.size);
    addThrough(dy.data, this.slope, this.mask, 0, this.dx.data, n * this.size, this.used.p);
    return this.dx;
  }
}

/** The largest of every 2x2 pixels; of equal ones the first. */
export class MaxPool {
  parameters = [];

  constructor(machine, batch, [height, width, channels]) {
    if (height % 2 || width % 2) throw new Error(`max-pooling needs an even height and width, got ${height} x ${width}`);
    Object.assign(this, { height, width, channels, shape: [height / 2, width / 2, channels] });
    this.y = machine.tensor(batch, ...this.shape);
    this.dx = machine.tensor(batch, height, width, channels);
    this.from = new Uint32Array(this.y.size);
  }

  forward(x, n) {
    const { height, width, channels } = this, line = width * channels, source = x.data, to = this.y.data;
    for (let r = 0, at = 0; r < n * height; r += 2) {
      for (let c = 0; c < width; c += 2) {
        for (let i = 0, first = r * line + c * channels; i < channels; i++, first++, at++) {
          let best = first;
          if (source[first + channels] > source[best]) best = first + channels;
          if (source[first + line] > source[best]) best = first + line;
          if (source[first + line + channels] > source[best]) best = first + line + channels;
          to[at] = source[best];
          this.from[at] = best;
        }
      }
    }
    return this.y;
  }

  backward(dy, n) {
    const up = dy.data, to = this.dx.data.fill(0, 0, n * this.height * this.width * this.channels);
    for (let at = 0; at < n * count(this.shape); at++) to[this.from[at]] = up[at];
    return this.dx;
  }
}

/** Batch normalisation, channel by channel, as torch has it: the statistics of the batch in training, running ones
 * otherwise. `momentum` is the share of the new batch in them; null takes the plain mean over batches since reset(). */
export class BatchNorm extends Simple {
  momentum = 0.1;
  epsilon = 1e-5;

  constructor(machine, batch, shape) {
    super(machine, batch, shape);
    const channels = shape.at(-1);
    this.channels = channels;
    this.scale = parameter(machine, "scale", channels);
    this.shift = parameter(machine, "shift", channels);
    this.scale.value.data.fill(1);
    this.parameters = [this.scale, this.shift];
    this.normal = new machine.Numbers(batch * this.size);
    // statistics in float64: sums over a whole batch lose nothing
    for (const name of ["mean", "variance", "factor", "runningMean", "runningVariance"]) this[name] = new Float64Array(channels);
    this.reset();
  }

  /** Forget the running statistics. */
  reset() {
    this.runningMean.fill(0);
    this.runningVariance.fill(1);
    this.batches = 0;
  }

  forward(x, n, training) {
    const { channels, mean, variance, factor, normal, runningMean, runningVariance } = this, size = n * this.size;
    const rows = size / channels, from = x.data, to = this.y.data;
    this.training = training;
    if (training) {
      if (rows < 2) throw new Error("BatchNorm in training needs more than one value per channel");
      mean.fill(0);
      variance.fill(0);
      for (let i = 0; i < size;) for (let c = 0; c < channels; c++) mean[c] += from[i++];
      for (let c = 0; c < channels; c++) mean[c] /= rows;
      for (let i = 0; i < size;) {
        for (let c = 0; c < channels; c++) {
          const away = from[i++] - mean[c];
          variance[c] += away * away;
        }
      }
      for (let c = 0; c < channels; c++) variance[c] /= rows;
      const share = this.momentum ?? 1 / ++this.batches;
      for (let c = 0; c < channels; c++) {
        runningMean[c] += share * (mean[c] - runningMean[c]);
        runningVariance[c] += share * ((variance[c] * rows) / (rows - 1) - runningVariance[c]);
      }
    }
    const centre = training ? mean : runningMean, spread = training ? variance : runningVariance;
    const scale = this.scale.value.data, shift = this.shift.value.data;
    for (let c = 0; c < channels; c++) factor[c] = 1 / Math.sqrt(spread[c] + this.epsilon);
    for (let i = 0; i < size;) {
      for (let c = 0; c < channels; c++, i++) {
        normal[i] = (from[i] - centre[c]) * factor[c];
        to[i] = normal[i] * scale[c] + shift[c];
      }
    }
    return this.y;
  }

  backward(dy, n) {
    const { channels, factor, normal } = this, size = n * this.size, rows = size / channels;
    const up = dy.data, to = this.dx.data, scale = this.scale.value.data;
    const sum = new Float64Array(channels), along = new Float64Array(channels);
    for (let i = 0; i < size;) {
      for (let c = 0; c < channels; c++, i++) {
        sum[c] += up[i];
        along[c] += up[i] * normal[i];
      }
    }
    this.shift.gradient.data.set(sum);
    this.scale.gradient.data.set(along);
    const live = this.training ? 1 / rows : 0; // running statistics do not depend on the batch
    for (let i = 0; i < size;) {
      for (let c = 0; c < channels; c++, i++) {
        to[i] = scale[c] * factor[c] * (up[i] - live * (sum[c] + normal[i] * along[c]));
      }
    }
    return this.dx;
  }
}

/** Softmax and cross-entropy, in nats: the mean over n images. */
export class CrossEntropy {
  constructor(machine, batch, classes) {
    Object.assign(this, { classes, dx: machine.tensor(batch, classes) });
  }

  /** The loss; leaves its gradient for the logits in `dx`, and in `correct` how many images have their largest logit
   * at their label. */
  forward(logits, labels, n) {
    const { classes } = this, from = logits.data, to = this.dx.data;
    let loss = 0;
    this.correct = 0;
    for (let image = 0; image < n; image++) {
      const at = image * classes, label = at + labels[image];
      let top = at, sum = 0;
      for (let i = at + 1; i < at + classes; i++) if (from[i] > from[top]) top = i;
      if (top === label) this.correct++;
      for (let i = at; i < at + classes; i++) sum += Math.exp(from[i] - from[top]);
      loss += Math.log(sum) + from[top] - from[label];
      for (let i = at; i < at + classes; i++) to[i] = (Math.exp(from[i] - from[top]) / sum - +(i === label)) / n;
    }
    return loss / n;
  }
}
