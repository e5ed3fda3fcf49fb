import { law, penalty, relativeNoise, uniforms, variance } from "./maths.js";
import { figure, need, show, spaced } from "./toolkit.js";

const AXIS = spaced(-2, 2, 161);

/** Mean and variance of `draws` simulated values of the noisy x. */
export function simulate(x, p, q, form, seed, draws) {
  const [dropped, kept] = law(x, p, q, form), next = uniforms(seed);
  let hits = 0;
  for (let k = 0; k < draws; k++) hits += next() >= p;
  const share = hits / draws, gap = kept.value - dropped.value;
  return { mean: dropped.value + share * gap, variance: share * (1 - share) * gap ** 2 };
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key);
  for (const key of ["p", "q", "x"]) need(Number.isFinite(get(key)), `${key} is not a number`);

  const two = fig.panel({
    title: "The noisy activation has two values",
    x: "value", y: "probability", xlim: [-4, 4], ylim: [0, 1.05],
    description: "Two bars: the probability that the activation is dropped or kept, at the value it then takes",
  });
  const dropped = two.box("red"), kept = two.box("blue"), clean = two.segment("grey");
  const words = [two.word(), two.word(), two.word()];

  const moments = fig.panel({
    title: "Mean and variance: draws and theory",
    x: "filled: simulated draws; outlined: theory", y: "value", xlim: [0, 2], ylim: [0, 1],
    xticks: [[0.5, "mean"], [1.5, "variance"]],
    description: "Bars of the simulated mean and variance inside outlines of the theoretical ones",
  });
  const drawn = [moments.box("blue"), moments.box("blue")], theory = [moments.box("ghost"), moments.box("ghost")];
  const zero = moments.segment("rule");

  const relative = fig.panel({
    title: "Relative noise: who is hit hardest",
    x: "activation x", y: "noise / activation", xlim: [-2, 2], ylim: [0, 4],
    description: "Standard deviation of the noise over the activation, against the activation",
  });
  const reference = relative.line("grey"), ratio = relative.line("blue"), here = relative.dot("red");

  const cost = fig.panel({
    title: "The penalty it makes", x: "activation x", y: "penalty (nats)", xlim: [-2, 2], ylim: [0, 2],
    description: "The penalty that the noise adds to a squared loss, against the activation; dashed: dropout, q = 2",
  });
  const dropout = cost.line("grey"), curve = cost.line("blue"), there = cost.dot("red"), note = cost.word("word", "end");

  fig.controls();
  fig.drawing(() => {
    const [x, p, q, form] = ["x", "p", "q", "form"].map(get);
    const pair = law(x, p, q, form), spread = variance(x, p, q);

    const reach = Math.max(2, ...pair.map(({ value }) => Math.abs(value) * 1.15));
    two.limits([-reach, reach], [0, 1.05]);
    const wide = reach / 40, crowded = Math.abs(2 * p - 1) < 0.12 && Math.abs(pair[1].value - pair[0].value) < reach;
    pair.forEach(({ value, chance }, k) => {
      [dropped, kept][k].set(value - wide, value + wide, chance);
      words[k].set(value, chance + (k && crowded ? 0.11 : 0.02), k ? `kept: ${show(value)}` : `dropped: ${show(value)}`);
    });
    clean.set(x, 0, x, 1.05);
    words[2].set(x, 0.97, `mean ${show(x)}`);

    const { mean, variance: simulated } = simulate(x, p, q, form, get("seed"), get("draws"));
    const values = [mean, simulated], expected = [x, spread];
    moments.limits([0, 2], [Math.min(0, 1.2 * Math.min(mean, x)), 1.2 * Math.max(0.1, ...values, ...expected)]);
    values.forEach((value, k) => {
      drawn[k].set(k + 0.3, k + 0.7, value);
      theory[k].set(k + 0.2, k + 0.8, expected[k]);
    });
    zero.set(0, 0, 2, 0);

    ratio.set(AXIS, AXIS.map((v) => relativeNoise(v, p, q)));
    reference.set(AXIS, AXIS.map((v) => relativeNoise(v, p, 2)));
    here.set(x, relativeNoise(x, p, q));

    const top = Math.max(penalty(2, p, q), penalty(2, p, 2), 1e-3);
    cost.limits([-2, 2], [-0.04 * top, 1.1 * top]);
    dropout.set(AXIS, AXIS.map((v) => penalty(v, p, 2)));
    curve.set(AXIS, AXIS.map((v) => penalty(v, p, q)));
    there.set(x, penalty(x, p, q));
    note.set(2, 1.02 * top, q === 2 ? "q = 2: dropout" : `|x|^${show(q)}; dashed |x|^2`);

    const hardest = q < 2 ? "small activations are hit hardest" : q > 2 ? "large activations are hit hardest" : "all alike";
    fig.say(
      {
        dropped: ["dropped to", pair[0].value],
        kept: ["kept at", pair[1].value],
        variance: ["variance", spread],
        penalty: ["penalty", penalty(x, p, q), " nats"],
        relative: ["noise / activation", p ? relativeNoise(x, p, q) : 0],
        sample_mean: ["mean of draws", mean],
        sample_variance: ["variance of draws", simulated],
      },
      `At p ${show(p)}, q ${show(q)}, x ${show(x)}: dropped to ${show(pair[0].value)} or kept at ${show(pair[1].value)}; ` +
        `penalty ${show(penalty(x, p, q))} nats; ${hardest}.`,
    );
  });
});
