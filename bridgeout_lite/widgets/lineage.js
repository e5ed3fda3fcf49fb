import { uniforms } from "./maths.js";
import { figure, need, show, spaced } from "./toolkit.js";

const WEIGHTS = 400, GENERATIONS = 8, QUARTER = WEIGHTS / 4; // as in lineage.py
const BINS = 20, WIDEST = 4; // of the sizes
const SHARES = spaced(0, 1, 101);

/** The probability of a weight whose size is that share of the largest; see rivals.gates.survival. */
export const survival = (share, law) =>
  law === "exp" ? Math.exp(share - 1) : Math.min(1, Math.expm1(share) / Math.expm1(1));

/** The parent and its offspring: of each the sizes left, the number expected, and shares of the parent's quarters. */
export function lineage(factor, law, seed) {
  const next = uniforms(seed), draw = () => Array.from({ length: WEIGHTS }, next);
  const radius = draw().map((u) => Math.sqrt(-2 * Math.log1p(-u))), angle = draw();
  const parent = radius.map((r, k) => Math.abs(r * Math.cos(2 * Math.PI * angle[k]))).sort((a, b) => a - b);
  const share = (alive) => alive.filter(Boolean).length / QUARTER;
  let alive = parent.map(() => true);
  const found = [{ sizes: parent, expected: WEIGHTS, large: 1, small: 1 }];
  for (let g = 0; g < GENERATIONS; g++) {
    const largest = Math.max(...parent.filter((_, k) => alive[k]), 0), chosen = draw();
    const chance = parent.map((size, k) => (alive[k] ? factor * survival(Math.min(1, size / largest), law) : 0));
    alive = chance.map((c, k) => chosen[k] < c);
    const sizes = parent.filter((_, k) => alive[k]), expected = chance.reduce((a, b) => a + b, 0);
    found.push({ sizes, expected, large: share(alive.slice(-QUARTER)), small: share(alive.slice(0, QUARTER)) });
  }
  return found;
}

const mean = (sizes) => (sizes.length ? sizes.reduce((a, b) => a + b, 0) / sizes.length : 0);

export default figure((fig) => {
  const get = (key) => fig.model.get(key);
  for (const key of ["factor", "generation", "seed"]) need(Number.isFinite(get(key)), `${key} is not a number`);
  need(fig.model.get("controls").law.options.includes(get("law")), `there is no law ${get("law")}`);
  const at = spaced(0, GENERATIONS, GENERATIONS + 1);

  const law = fig.panel({
    title: "The law: who may stay", x: "size over the largest", y: "probability", xlim: [0, 1], ylim: [0, 1.05],
    description: "Probability of survival against the size of a weight; dashed: a cut by size that keeps as many",
  });
  const cut = law.line("grey"), chance = law.line("blue"), floor = law.word("word", "end");

  const sizes = fig.panel({
    title: "Sizes of those that are left", x: "size of a weight", y: "weights", xlim: [0, WIDEST], ylim: [0, 80],
    description: "Bars: sizes of the weights left in this generation; outlines: of the first parent",
  });
  const outlines = Array.from({ length: BINS }, () => sizes.box("ghost"));
  const bars = Array.from({ length: BINS }, () => sizes.box("blue")), edge = sizes.segment("grey"), note = sizes.word();

  const count = fig.panel({
    title: "How many are left", x: "generation", y: "weights", xlim: [0, GENERATIONS], ylim: [0, 1.05 * WEIGHTS],
    description: "Number of weights by generation; the dot is the one shown",
  });
  const left = count.line("blue"), now = count.dot("red");

  const kept = fig.panel({
    title: "What the draw prefers", x: "generation", y: "share left", xlim: [0, GENERATIONS], ylim: [0, 1.05],
    description: "Share left of the first parent's largest quarter of weights, and of its smallest, by generation",
  });
  const small = kept.line("orange"), large = kept.line("blue"), here = kept.segment("rule");
  const names = [kept.word("word", "end"), kept.word("word", "end")];

  fig.controls();
  fig.drawing(() => {
    const [factor, kind, generation, seed] = ["factor", "law", "generation", "seed"].map(get);
    const found = lineage(factor, kind, seed), parent = found[0].sizes, one = found[generation];
    const largest = parent.at(-1), many = one.sizes.length, threshold = many ? parent[WEIGHTS - many] : largest;

    chance.set(SHARES, SHARES.map((s) => factor * survival(s, kind)));
    cut.set([0, threshold / largest, threshold / largest, 1], [0, 0, 1, 1]);
    floor.set(1, 0.05, `at zero: ${show(factor * survival(0, kind))}; dashed: a cut that keeps ${many}`);

    const bin = (list, k) => list.filter((s) => Math.min(BINS - 1, Math.floor((s / WIDEST) * BINS)) === k).length;
    const heights = bars.map((_, k) => bin(parent, k)), high = 1.15 * Math.max(...heights);
    sizes.limits([0, WIDEST], [0, high]);
    bars.forEach((bar, k) => {
      const [from, to] = [(k * WIDEST) / BINS, ((k + 1) * WIDEST) / BINS];
      outlines[k].set(from, to, heights[k]);
      bar.set(from, to, bin(one.sizes, k));
    });
    edge.set(threshold, 0, threshold, high);
    note.set(0.7 * WIDEST, 0.9 * high, `a cut would keep what is right of ${show(threshold)}`);

    left.set(at, found.map((g) => g.sizes.length));
    now.set(generation, many);
    large.set(at, found.map((g) => g.large));
    small.set(at, found.map((g) => g.small));
    here.set(generation, 0, generation, 1.05);
    names[0].set(GENERATIONS, 0.95, "blue: largest quarter");
    names[1].set(GENERATIONS, 0.85, "orange: smallest quarter");

    fig.say(
      {
        left: [`left of ${WEIGHTS}`, many],
        expected: ["expected in this draw", one.expected],
        large: ["of the largest quarter", one.large],
        small: ["of the smallest quarter", one.small],
        mean_size: ["mean size", mean(one.sizes)],
        cut_mean_size: ["after a cut to as many", mean(parent.slice(WEIGHTS - many))],
      },
      `Generation ${generation}: ${many} of ${WEIGHTS} weights are left; of the largest quarter ${show(one.large)}, of ` +
        `the smallest ${show(one.small)}.`,
    );
  });
});
