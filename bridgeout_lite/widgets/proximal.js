import { bridgeProx } from "./maths.js";
import { figure, need, show, spaced } from "./toolkit.js";

const REACH = 3, AXIS = [...spaced(-REACH, REACH, 241)];
const STEP = 0.2, STEPS = 60, SMALL = 0.05, SHAPE = 3.7; // as in proximal.py

/** The penalty on v, as penalty() in proximal.py; below, slope(), dead_zone(), proximal() and walks(). */
export function charge(kind, v, mu, q) {
  const size = Math.abs(v);
  if (kind === "bridge") return mu * size ** q;
  if (kind === "L0") return v === 0 ? 0 : mu;
  if (kind === "transformed L1") return (2 * mu * size) / (1 + size);
  if (size <= mu) return mu * size;
  if (size > SHAPE * mu) return ((SHAPE + 1) * mu ** 2) / 2;
  return (2 * SHAPE * mu * size - size ** 2 - mu ** 2) / (2 * (SHAPE - 1));
}

function pull(kind, v, mu, q) {
  if (v === 0 || kind === "L0") return 0;
  const size = Math.max(Math.abs(v), SMALL);
  let rise = Math.abs(v) <= mu ? mu : Math.max(SHAPE * mu - Math.abs(v), 0) / (SHAPE - 1);
  if (kind === "bridge") rise = mu * q * size ** (q - 1);
  if (kind === "transformed L1") rise = (2 * mu) / (1 + size) ** 2;
  return Math.sign(v) * rise;
}

export function deadZone(kind, mu, q) {
  if (kind === "L0") return Math.sqrt(2 * mu);
  if (kind === "transformed L1") return mu <= 0.25 ? 2 * mu : Math.sqrt(4 * mu) - 0.5;
  if (kind === "SCAD" || q === 1) return mu;
  if (q > 1 || mu === 0) return 0;
  return ((2 - q) / (2 * (1 - q))) * (2 * mu * (1 - q)) ** (1 / (2 - q));
}

export function proximal(kind, w, mu, q, step = 1) {
  const size = Math.abs(w), price = step * mu, sign = Math.sign(w);
  if (kind === "bridge") return bridgeProx(w, price, q);
  if (price === 0) return w;
  if (kind === "L0") return size <= Math.sqrt(2 * price) ? 0 : w;
  if (kind === "SCAD") {
    if (size <= (1 + step) * mu) return sign * Math.max(size - price, 0);
    return size > SHAPE * mu ? w : (sign * ((SHAPE - 1) * size - step * SHAPE * mu)) / (SHAPE - 1 - step);
  }
  if (size <= deadZone(kind, price, q)) return 0; // a root of v's cubic equation, by cosines
  const phi = Math.acos(Math.min(1, Math.max(-1, 1 - (27 * price) / (1 + size) ** 3)));
  const root = (2 / 3) * (1 + size) * Math.cos(phi / 3) - 2 / 3 + size / 3;
  return sign * Math.min(Math.max(root, 0), size);
}

export function walks(kind, w, mu, q) {
  const down = [w], near = [w];
  for (let k = 0; k < STEPS; k++) {
    down.push(down[k] - STEP * (down[k] - w + pull(kind, down[k], mu, q)));
    near.push(proximal(kind, near[k] - STEP * (near[k] - w), mu, q, STEP));
  }
  return [down, near];
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key), names = fig.model.get("controls").kind.options;
  for (const key of ["mu", "q", "w"]) need(Number.isFinite(get(key)), `${key} is not a number`);
  need(names.includes(get("kind")), `there is no penalty ${get("kind")}`);

  const cost = fig.panel({
    title: "The penalty", x: "weight v", y: "penalty", xlim: [-REACH, REACH], ylim: [0, 2],
    description: "The penalty against the weight; dashed: L1 at the same price",
  });
  const lasso = cost.line("grey"), curve = cost.line("blue"), paid = cost.dot("red"), name = cost.word();

  const sum = fig.panel({
    title: "What is traded: penalty and way", x: "weight v", y: "penalty + (v − w)²/2", xlim: [-REACH, REACH], ylim: [0, 4],
    description: "Penalty plus half the squared distance to w, against v; the dot is its least point, the proximal map of w",
  });
  const way = sum.line("grey"), both = sum.line("orange"), start = sum.segment("rule"), least = sum.dot("red");
  const word = sum.word();

  const map = fig.panel({
    title: "The proximal map", x: "weight w", y: "where it goes", xlim: [-REACH, REACH], ylim: [-REACH, REACH],
    description: "The proximal map against w; dashed: where w stays; the dot is the present w",
  });
  const zone = map.box("ghost"), same = map.line("grey"), to = map.line("blue"), here = map.dot("red"), width = map.word();

  const steps = fig.panel({
    title: "Two ways down from least squares", x: "step", y: "weight", xlim: [0, STEPS], ylim: [-1, 1],
    description: "The weight along 60 steps by the gradient of the penalty, and by its proximal map",
  });
  const zero = steps.segment("rule"), gradient = steps.line("orange"), proximity = steps.line("blue");
  const labels = [steps.word("word", "end"), steps.word("word", "end")];

  fig.controls();
  fig.drawing(() => {
    const [kind, mu, q, w] = ["kind", "mu", "q", "w"].map(get);
    const price = (v) => charge(kind, v, mu, q), found = proximal(kind, w, mu, q), edge = deadZone(kind, mu, q);
    const total = (v) => price(v) + (v - w) ** 2 / 2;

    const top = 1.15 * Math.max(0.5, 2 * mu, price(found));
    cost.limits([-REACH, REACH], [0, top]);
    lasso.set(AXIS, AXIS.map((v) => mu * Math.abs(v)));
    curve.set(AXIS, AXIS.map(price));
    paid.set(found, price(found));
    name.set(0, 0.92 * top, `${kind}${kind === "bridge" ? `, q = ${show(q)}` : ""}; dashed: L1`);

    const high = 1.3 * Math.max(1, total(found), total(0), w ** 2 / 4);
    sum.limits([-REACH, REACH], [0, high]);
    way.set(AXIS, AXIS.map((v) => (v - w) ** 2 / 2));
    both.set(AXIS, AXIS.map(total));
    start.set(w, 0, w, high);
    least.set(found, total(found));
    word.set(w, 0.9 * high, `w = ${show(w)}`);

    same.set([-REACH, REACH], [-REACH, REACH]);
    zone.set(-edge, edge, 0.12);
    to.set(AXIS, AXIS.map((v) => proximal(kind, v, mu, q)));
    here.set(w, found);
    width.set(0, -0.85 * REACH, edge ? `zero up to ${show(edge)}` : "nothing but zero becomes zero");

    const [down, near] = walks(kind, w, mu, q), all = [0, ...down, ...near];
    const [low, up] = [Math.min(...all), Math.max(...all)], room = 0.15 * Math.max(up - low, 0.2);
    steps.limits([0, STEPS], [low - room, up + 2 * room]);
    zero.set(0, 0, STEPS, 0);
    const at = down.map((_, k) => k);
    gradient.set(at, down);
    proximity.set(at, near);
    labels[0].set(STEPS, up + 1.3 * room, "orange: gradient steps");
    labels[1].set(STEPS, up + 0.5 * room, "blue: proximal steps");

    const ends = near.at(-1) === 0 ? "exactly zero" : show(near.at(-1));
    fig.say(
      {
        map: ["proximal map of w", found],
        penalty: ["penalty there", price(found)],
        least: ["penalty and way", total(found)],
        dead_zone: ["zero up to", edge],
        by_gradient: ["60 gradient steps end at", down.at(-1)],
        by_map: ["60 proximal steps end at", near.at(-1)],
      },
      `${kind} at price ${show(mu)}: w ${show(w)} goes to ${show(found)}; zero up to ${show(edge)}; proximal steps end at ` +
        `${ends}, gradient steps at ${show(down.at(-1))}.`,
    );
  });
});
