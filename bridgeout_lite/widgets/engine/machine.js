// Numbers in one memory, and the product of matrices on them: by the WebAssembly kernel where the browser has SIMD, in
// plain JavaScript where it has not, or in float64 where a test asks for it.

import { KERNEL } from "./kernel.js";

const PAGE = 65536;

/** The bytes of the kernel if this browser can run them, else null. */
export function kernel() {
  if (typeof WebAssembly === "undefined") return null;
  const bytes = Uint8Array.from(atob(KERNEL), (c) => c.charCodeAt(0));
  return WebAssembly.validate(bytes) ? bytes : null;
}

/** Where tensors live. `plain` and `float64` do without the kernel. */
export class Machine {
  constructor({ plain = false, float64 = false } = {}) {
    const bytes = plain || float64 ? null : kernel();
    this.Numbers = float64 ? Float64Array : Float32Array;
    this.kind = bytes ? "WebAssembly" : "JavaScript";
    if (!bytes) return;
    this.memory = new WebAssembly.Memory({ initial: 1 });
    this.top = 0;
    const module = new WebAssembly.Module(bytes);
    this.kernel = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports.multiply;
  }

  /** A new tensor of zeros. */
  tensor(...shape) {
    return new Tensor(this, shape);
  }

  /** Forget all tensors: the memory is used again for those to come. */
  clear() {
    if (!this.memory) return;
    new Uint8Array(this.memory.buffer, 0, this.top).fill(0);
    this.top = 0;
  }

  /** Room for `count` float32 numbers: its address in bytes. */
  reserve(count) {
    const at = this.top, missing = at + 4 * count - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE));
    this.top = Math.ceil((at + 4 * count) / 64) * 64;
    return at;
  }

  /** C = A B, or C + A B if `add`. Each matrix is that of a tensor, see Tensor.matrix; A may be turned. */
  multiply(a, b, c, rows, columns, inner, add = false) {
    let whole = 0, wide = 0;
    if (this.kernel && rows >= 4 && columns >= 8) {
      whole = rows - (rows % 4);
      wide = columns - (columns % 8);
      const address = (m) => m.tensor.address + 4 * m.at;
      this.kernel(address(a), address(b), address(c), whole, wide, inner, 4 * a.row, 4 * a.step, 4 * b.row, 4 * c.row, +add);
    }
    // the edges, or everything
    const numbers = [a, b, c].map((m) => m.tensor.data);
    if (wide < columns) product(numbers, a, b, c, 0, whole, wide, columns, inner, add);
    if (whole < rows) product(numbers, a, b, c, whole, rows, 0, columns, inner, add);
  }
}

/** The same in plain JavaScript, for the rows from `top` to `bottom` and the columns from `left` to `right` of C. */
function product([A, B, C], a, b, c, top, bottom, left, right, inner, add) {
  for (let i = top; i < bottom; i++) {
    const to = c.at + i * c.row;
    if (!add) C.fill(0, to + left, to + right);
    for (let k = 0; k < inner; k++) {
      const factor = A[a.at + i * a.row + k * a.step], from = b.at + k * b.row;
      if (factor !== 0) for (let j = left; j < right; j++) C[to + j] += factor * B[from + j];
    }
  }
}

class Tensor {
  constructor(machine, shape) {
    Object.assign(this, { machine, shape, size: shape.reduce((product, n) => product * n, 1) });
    if (machine.memory) this.address = machine.reserve(this.size);
    else this.numbers = new machine.Numbers(this.size);
  }

  /** Its numbers. Take them anew after another tensor was made: a memory that grows moves. */
  get data() {
    const buffer = this.machine.memory?.buffer;
    if (buffer && this.numbers?.buffer !== buffer) this.numbers = new Float32Array(buffer, this.address, this.size);
    return this.numbers;
  }

  /** A matrix in it: `columns` numbers a row, from the number `at` on. */
  matrix(columns, at = 0) {
    return { tensor: this, at, row: columns, step: 1 };
  }

  /** The same matrix turned, as the left factor of a product alone. */
  turned(columns, at = 0) {
    return { tensor: this, at, row: 1, step: columns };
  }
}
