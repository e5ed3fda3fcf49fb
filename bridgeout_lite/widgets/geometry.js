import { figure, need, show, spaced } from "./toolkit.js";

const ARC = 48; // steps from one axis to the next
const AXIS = 740; // e^-740 is about the smallest number there is: beyond it one weight is zero
const TINY = 1e-12; // what rounding leaves of zero
const REACH = 1.4; // of the second weight's axis
const PLAN = { x: "weight w₁", y: "weight w₂", ylim: [-REACH, REACH], xlim: [-1, 1], height: 308 };
const QS = spaced(0.5, 4, 71), RS = spaced(0.02, 1.3, 65);
const CALM = [4, 2, 1.5, 1, 0.5]; // where "Play" stops for those who want no motion

/** The point of |w1|^q + |w2|^q = 1, both positive, at s = log(w2/w1). Along that curve, towards the second axis, the
 * slope of a function has the sign of c2 (its slope in w2) - c1 (its slope in w1). */
function unit(s, q) {
  const ratio = Math.exp(-Math.abs(s)), large = (1 + ratio ** q) ** (-1 / q), u = (q - 1) * s;
  const [x, y] = s < 0 ? [large, ratio * large] : [ratio * large, large];
  return { s, x, y, c1: Math.exp(Math.min(u, 0)), c2: Math.exp(Math.min(-u, 0)) };
}

/** A quarter of that curve, from the first axis to the second; kept, as a figure asks for few q again and again. */
const arcs = new Map();
function arc(q) {
  if (!arcs.has(q)) {
    const angles = spaced(0, Math.PI / 2, ARC + 1).slice(1, -1);
    arcs.set(q, [-AXIS, ...angles.map((angle) => (2 / q) * Math.log(Math.tan(angle))), AXIS].map((s) => unit(s, q)));
  }
  return arcs.get(q);
}

/** The whole curve |w1|^q + |w2|^q = r^q, closed. */
export function ball(q, r) {
  const quarter = arc(q), turned = [...quarter].reverse();
  const side = (points, one, two) => points.map(({ x, y }) => [one * r * x, two * r * y]);
  return [...side(quarter, 1, 1), ...side(turned, -1, 1), ...side(quarter, -1, -1), ...side(turned, 1, -1)];
}

/** Where `f`, of an object with s, turns from falling to rising between s = low and high: Ridders' method. */
function turn(f, low, high, at) {
  let down = f(at(low)), up = f(at(high)), last = Infinity;
  for (let k = 0; k < 100; k++) {
    const middle = (low + high) / 2, value = f(at(middle));
    if (value === 0) return at(middle);
    const s = middle - ((middle - low) * value) / Math.sqrt(value ** 2 - down * up), found = f(at(s));
    if (found === 0 || Math.abs(s - last) <= 1e-14 * Math.max(1, Math.abs(s))) return at(s);
    for (const [place, height] of [[middle, value], [s, found]]) {
      if (height < 0 && place > low) [low, down] = [place, height];
      if (height > 0 && place < high) [high, up] = [place, height];
    }
    last = s;
  }
  return at(last);
}

/** The loss above that of least squares (a1, a2): features of variance 1, correlation rho. */
export const loss = (w1, w2, { rho, a1, a2 }) => ((w1 - a1) ** 2 + (w2 - a2) ** 2) / 2 + rho * (w1 - a1) * (w2 - a2);

const zeros = ({ w1, w2 }) => (w1 === 0) + (w2 === 0);

/** The least loss under |w1|^q + |w2|^q <= r^q: {w1, w2, loss, lambda}; of equal ones, that with a zero, then that with
 * the larger |w1|.
 *
 * The ball is not convex for q < 1, so its whole edge is walked: on each quarter, the loss has a local minimum where its
 * slope along the edge turns from falling to rising; a corner on an axis is one if the loss rises along both quarters
 * that meet there. lambda is that of the same problem with a penalty; it is the same problem only for q >= 1. */
export function constrained(place) {
  const { q, r, rho, a1, a2 } = place, points = arc(q);
  if (Math.abs(a1) ** q + Math.abs(a2) ** q <= r ** q * (1 + 1e-12)) return { w1: a1, w2: a2, loss: 0, lambda: 0 };
  let best = { loss: Infinity };
  const offer = (w1, w2) => {
    const height = loss(w1, w2, place), tie = Math.abs(height - best.loss) <= TINY;
    const first = zeros({ w1, w2 }) - zeros(best) || Math.abs(w1) - Math.abs(best.w1) || w1 - best.w1 || w2 - best.w2;
    if (tie ? first > 0 : height < best.loss) best = { w1, w2, loss: height };
  };
  const climbs = { 1: 0, "-1": 0 }, rises = { 1: 0, "-1": 0 }; // quarters that climb from a corner of either axis
  for (const [one, two] of [[1, 1], [1, -1], [-1, 1], [-1, -1]]) {
    const slope = ({ x, y, c1, c2 }) => {
      const d1 = one * r * x - a1, d2 = two * r * y - a2;
      return c2 * two * (d2 + rho * d1) - c1 * one * (d1 + rho * d2);
    };
    let before = slope(points[0]);
    if (before >= -TINY) climbs[one]++;
    for (let k = 1; k <= ARC; k++) {
      const after = slope(points[k]);
      if (before < 0 && (k < ARC ? after >= 0 : after > 0)) {
        const { x, y } = turn(slope, points[k - 1].s, points[k].s, (s) => unit(s, q));
        offer(one * r * x, two * r * y);
      }
      before = after;
    }
    if (before <= TINY) rises[two]++;
  }
  for (const sign of [1, -1]) {
    if (climbs[sign] === 2) offer(sign * r, 0);
    if (rises[sign] === 2) offer(0, sign * r);
  }
  const { w1, w2 } = best, [d1, d2] = [w1 - a1, w2 - a2];
  const [w, g] = Math.abs(w1) >= Math.abs(w2) ? [w1, d1 + rho * d2] : [w2, d2 + rho * d1];
  return { ...best, lambda: (-Math.sign(w) * g) / (q * Math.abs(w) ** (q - 1)) };
}

/** The least-squares solutions in the polygon `box` whose constrained solution is the point `corner` of the ball: those
 * nearer to it, in the metric of the loss, than to any other point `b`, an intersection of half-planes. */
export function cell(corner, points, rho, box) {
  let polygon = box;
  for (const b of points) {
    if (Math.hypot(b[0] - corner[0], b[1] - corner[1]) < 1e-9) continue;
    const [d1, d2] = [b[0] - corner[0], b[1] - corner[1]], n = [d1 + rho * d2, rho * d1 + d2];
    const over = ([x, y]) => n[0] * (x - (b[0] + corner[0]) / 2) + n[1] * (y - (b[1] + corner[1]) / 2);
    polygon = polygon.flatMap((to, k) => {
      const from = polygon.at(k - 1), before = over(from), after = over(to);
      const cut = before > 0 !== after > 0 ? [from.map((v, i) => v + ((to[i] - v) * before) / (before - after))] : [];
      return after > 0 ? cut : [...cut, to];
    });
  }
  return polygon;
}

/** Set a line to a list of points, closed if asked. */
const trace = (line, points, closed) => {
  const all = closed && points.length ? [...points, points[0]] : points;
  line.set(all.map(([x]) => x), all.map(([, y]) => y));
};

/** The two weights along a control: curves that break at a jump, heavy where a weight is exactly zero. */
function weights(fig, key, at, options) {
  const panel = fig.panel({ y: "weight", xlim: [0, Math.max(...at)], ylim: [-0.5, 1], ...options });
  const now = panel.segment("rule");
  const parts = ["blue", "orange"].map((style) => ({
    ...{ least: panel.line(`grey ${style}`), curve: panel.line(style), zero: panel.line(`${style} sbn-zero`) },
    ...{ dot: panel.dot("red"), name: panel.word("word", "end") },
  }));
  const jump = panel.line("grey"), note = panel.word();
  let path, made; // the curve stays while only its own control moves
  return (place, { w1, w2 }) => {
    const held = JSON.stringify({ ...place, [key]: 0 });
    if (held !== made) path = at.map((value) => constrained({ ...place, [key]: value }));
    made = held;
    const jumps = path.map((to, k) => {
      const q = key === "q" ? at[k] : place.q, from = path[k - 1] ?? to;
      return q <= 1 && Math.max(Math.abs(to.w1 - from.w1), Math.abs(to.w2 - from.w2)) > 0.08;
    });
    const ends = [...path.flatMap((w) => [w.w1, w.w2]), 0];
    const [low, high] = [Math.min(...ends), Math.max(...ends)], room = 0.12 * (high - low);
    panel.limits(key === "q" ? [0.4, 4.05] : [0, 1.32], [low - 1.3 * room, high + 2 * room]);
    now.set(place[key], low - 2 * room, place[key], high + 2 * room);
    const lower = +(path.at(-1).w2 < path.at(-1).w1); // its name goes under its curve
    parts.forEach(({ curve, zero, dot, name, least }, j) => {
      const w = path.map(({ w1, w2 }) => (j ? w2 : w1)), target = j ? place.a2 : place.a1;
      const broken = (list) => list.flatMap((value, k) => (jumps[k] ? [NaN, value] : [value]));
      curve.set(broken(at), broken(w));
      zero.set(broken(at), broken(w.map((value) => (value === 0 ? 0 : NaN))));
      if (key === "r") least.set([at[0], at.at(-1)], [target, target]); // which a large budget reaches
      dot.set(place[key], j ? w2 : w1);
      name.set(at.at(-1), w.at(-1) + (lower === j ? -1.1 : 0.4) * room, j ? "w₂" : "w₁");
    });
    const k = jumps.indexOf(true), middle = (at[k] + at[k - 1]) / 2;
    jump.set(k > 0 ? [middle, middle] : [], k > 0 ? [low, high] : []);
    note.set(middle || 0, high + 0.8 * room, k > 0 ? "jump" : "");
  };
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key);
  fig.root.classList.add("sbn-geometry");
  const keys = ["q", "r", "rho", "a1", "a2"];

  const plan = fig.panel({
    ...PLAN, title: "The least loss within the ball",
    description: "The ball of allowed weights, ellipses of equal loss around least squares, and where the loss is least",
  });
  const body = plan.line("blue sbn-ball"), rings = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8].map((c) => [c, plan.line("rule")]);
  const touching = plan.line("red"), least = plan.dot("grey"), solution = plan.dot("red", 6);
  const words = [plan.word(), plan.word()];

  const map = fig.panel({
    ...PLAN, title: "Which least-squares weights lead to a zero", x: "least-squares weight a₁", y: "least-squares weight a₂",
    description: "Shaded: the least-squares solutions whose solution within the ball has a weight of exactly zero",
  });
  const zones = [["orange", 1], ["orange", -1], ["blue", 1], ["blue", -1]].map(([style, sign]) => [map.line(`${style} sbn-zone`), sign]);
  const outline = map.line("blue"), names = [map.word(), map.word()], there = map.dot("grey", 6);

  // one unit is as long on both axes: ellipses and balls keep their shape
  const wide = (REACH * plan.inner.width) / plan.inner.height;
  for (const panel of [plan, map]) panel.limits([-wide, wide], [-REACH, REACH]);
  const box = [[-wide, -REACH], [wide, -REACH], [wide, REACH], [-wide, REACH]];

  const alongQ = weights(fig, "q", QS, {
    title: "Both weights against q", x: "exponent q",
    description: "The two weights of the solution against q; heavy where a weight is exactly zero",
  });
  const alongR = weights(fig, "r", RS, {
    title: "Both weights against the budget", x: "budget r",
    description: "The two weights of the solution against the budget r; heavy where a weight is exactly zero; dashed: least squares",
  });

  fig.controls();
  for (const panel of [plan, map]) movable(fig, panel, wide);
  play(fig);
  fig.drawing(() => {
    const place = Object.fromEntries(keys.map((key) => [key, get(key)])), { q, r, rho, a1, a2 } = place;
    for (const key of keys) need(Number.isFinite(place[key]), `${key} is not a number`);
    need(q > 0 && r > 0 && Math.abs(rho) < 1, "q and r must be above 0, and rho between -1 and 1");
    const best = constrained(place), { w1, w2, lambda } = best, edge = ball(q, r);

    trace(body, edge, true);
    const ring = (line, c) => trace(line, spaced(0, 2 * Math.PI, 97).map((angle) => {
      const along = (c * Math.cos(angle)) / Math.sqrt(2 * (1 + rho)), across = (c * Math.sin(angle)) / Math.sqrt(2 * (1 - rho));
      return [a1 + along + across, a2 + along - across];
    }));
    for (const [c, line] of rings) ring(line, c);
    ring(touching, Math.sqrt(2 * best.loss));
    least.set(a1, a2);
    solution.set(w1, w2);
    const [away1, away2] = [a1 - w1, a2 - w2], far = Math.hypot(away1, away2) || 1;
    words[0].set(a1, a2 + (away2 < 0 ? -0.19 : 0.1), "least squares");
    words[1].set(w1 - (0.45 * away1) / far, w2 - (away2 < 0 ? -0.12 : 0.2), far > 0.3 && best.loss ? "solution" : "");

    zones.forEach(([line, sign], k) => {
      // above q = 1 only a line of solutions leads to a corner: that along which the loss pulls straight at it
      const [x, y] = k < 2 ? [r, 0] : [0, r], ray = k < 2 ? [1, -rho] : [-rho, 1];
      const zone = q > 1 ? [[x, y], [x + 4 * ray[0], y + 4 * ray[1]]] : cell([x, y], edge, rho, box);
      trace(line, zone.map(([u, v]) => [sign * u, sign * v]), q <= 1);
    });
    trace(outline, edge, true);
    there.set(a1, a2);
    const tail = q > 1 ? " on this line" : "";
    names[0].set(wide, -rho * (0.75 * wide - r) + (q > 1 ? 0.08 : -0.04), `w₂ = 0${tail}`);
    names[1].set(-rho * (0.85 * REACH - r), 0.85 * REACH, `w₁ = 0${tail}`);

    alongQ(place, best);
    alongR(place, best);

    const p = (2 * lambda) / (1 + 2 * lambda);
    const zero = ["no weight is exactly zero", `w${w1 === 0 ? 1 : 2} is exactly zero`, "both weights are exactly zero"][zeros(best)];
    fig.say(
      {
        w1: ["w₁", w1],
        w2: ["w₂", w2],
        exact_zeros: ["exact zeros", zeros(best)],
        loss: ["loss above least squares", best.loss],
        drop_probability: ["drop probability that gets there", q < 1 ? "–" : p],
      },
      `At q ${show(q)}, budget ${show(r)}: w1 ${show(w1)}, w2 ${show(w2)}; ${zero}` +
        (q < 1 ? "." : `; Bridgeout with p ${show(p)} has the same solution.`),
    );
  });
});

/** Let a click, or a drag of the mouse, put the least-squares solution where it points; the sliders do so by key. */
function movable(fig, panel, wide) {
  const sheet = panel.box("sheet");
  sheet.set(-wide, wide, REACH, -REACH);
  const move = (event) => {
    if (event.type !== "click" && !(event.buttons & 1 && event.pointerType === "mouse")) return;
    const { left, top, width, height } = sheet.node.getBoundingClientRect(), { a1, a2 } = fig.model.get("controls");
    const at = { a1: ((event.clientX - left) / width) * 2 * wide - wide, a2: REACH - ((event.clientY - top) / height) * 2 * REACH };
    const round = (value, { min, max, step }) => Math.max(min, Math.min(max, +(Math.round(value / step) * step).toFixed(6)));
    fig.assign({ a1: round(at.a1, a1), a2: round(at.a2, a2) });
  };
  for (const event of ["click", "pointermove"]) sheet.node.addEventListener(event, fig.guard(move));
}

/** A button that walks q from 4 to 0.5 until the reader takes over; with reduced motion, one stop a press. */
function play(fig) {
  const { max, min, step } = fig.model.get("controls").q, q = () => fig.model.get("q");
  let running = false, last = 0, set;
  const to = (value) => { set = value; fig.assign({ q: value }); };
  const run = (on) => {
    running = on;
    button.textContent = on ? "Pause" : "Play q down";
    if (on) to(q() > min ? q() : max);
  };
  if (fig.calm) {
    const next = () => to(CALM.find((stop) => stop < q()) ?? max);
    return fig.buttons.prepend(fig.button("Step q down", next));
  }
  const button = fig.button("", () => run(!running));
  fig.buttons.prepend(button);
  run(false);
  fig.loop(() => running, () => {
    if (q() !== set) return run(false);
    if (performance.now() - last < 70) return;
    last = performance.now();
    to(Math.max(min, +(q() - step).toFixed(6)));
    if (q() <= min) run(false);
  });
}
