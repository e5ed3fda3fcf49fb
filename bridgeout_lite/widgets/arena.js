import { figure, html, need, show, svg, ticks } from "./toolkit.js";

// The columns of a point, as bridgeout_lite.widgets.arena sends them.
const NETWORK = 0, METHOD = 1, TREATMENT = 2, AMOUNT = 3, SHARE = 4, MEAN = 5, LOW = 6, HIGH = 7, SEEDS = 8, MACS = 9, PARAMETERS = 10, LATENCY = 11;
// The mark of each place of colour; the colour and the dash are in arena.css.
const SHAPES = ["circle", "square", "triangle", "diamond", "down", "square", "circle", "diamond"];
const OTHER = -1;

/** The places of the points that no other beats, by rising cost; bridgeout_lite.protocol.pareto_front in JavaScript. */
export function paretoFront(costs, scores) {
  const front = [], order = costs.map((_, k) => k).sort((a, b) => costs[a] - costs[b] || scores[b] - scores[a] || a - b);
  for (const k of order) if (!front.length || scores[k] > scores[front.at(-1)]) front.push(k);
  return front;
}

/** Of each method its largest network within the budget (%), the most accurate first. */
export function ranking(points, budget) {
  const best = new Map();
  for (const point of points) {
    if (point[SHARE] <= budget && !(point[SHARE] < best.get(point[METHOD])?.[SHARE])) best.set(point[METHOD], point);
  }
  return [...best.values()].sort((a, b) => b[MEAN] - a[MEAN] || a[METHOD] - b[METHOD]);
}

/** The outline of a mark around a place. */
function shape(kind, x, y, r) {
  const at = (dx, dy) => `${(x + dx * r).toFixed(1)} ${(y + dy * r).toFixed(1)}`;
  if (kind === "circle") return `M${at(-1, 0)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  const corners = {
    square: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    triangle: [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
    diamond: [[0, -1.3], [1.1, 0], [0, 1.3], [-1.1, 0]],
    down: [[0, 1.2], [1.1, -0.8], [-1.1, -0.8]],
  }[kind];
  return `M${corners.map(([dx, dy]) => at(dx, dy)).join("L")}Z`;
}

const whole = (value, digits) => value.toFixed(digits).replace("-", "−");
const interval = (point, to) => (point[LOW] === null ? "one seed" : `${whole(point[LOW], 1)}${to}${whole(point[HIGH], 1)}`);
/** Three digits, trailing zeros kept, so that a column lines up. */
const three = (value) => (value >= 1000 ? whole(value, 0) : value.toPrecision(3));
const seeds = (count) => (count === 1 ? "one seed" : `${count} seeds`);
/** The points around all values, with a little room. */
function room(values, part) {
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  return [low - part * span, high + part * span];
}

/** A group of radio buttons in place of a menu; `names` are what a reader sees. */
function radios(fig, key, { label, options }, names) {
  const inputs = options.map((value) => {
    const input = html("input", { type: "radio", name: key, value });
    input.addEventListener("change", () => fig.assign({ [key]: value }));
    return input;
  });
  fig.follow([key], () => inputs.forEach((input, k) => { input.checked = options[k] === fig.model.get(key); }));
  const choices = inputs.map((input, k) => html("label", {}, input, names[k]));
  return html("fieldset", { class: "sbn-radios" }, html("legend", {}, label), ...choices);
}

/** A short piece of a method's line with its mark, for legend and table. */
const swatch = (place) => {
  const node = svg("svg", { viewBox: "0 0 30 12", width: 30, height: 12, class: "sbn-swatch", "aria-hidden": "true", "data-slot": place });
  node.append(svg("path", { d: "M1 6H29", class: "sbn-way" }));
  if (place !== OTHER) node.append(svg("path", { d: shape(SHAPES[place], 15, 6, 4), class: "sbn-marks" }));
  return node;
};

/** Accuracy against the multiply-adds that are kept: all methods, the front, the budget. */
function chart(fig, methods) {
  const panel = fig.panel({
    title: "", x: "multiply-adds kept (%, logarithmic)", y: "test accuracy (%)", xlim: [0, 2], ylim: [0, 100], height: 236,
    description: "Test accuracy against the share of multiply-adds that are kept, a line a method with 95 % intervals; ringed points are the Pareto front, the upright line is the budget",
  });
  const legend = html("ul", { class: "sbn-legend sbn-methods" });
  fig.panels.append(legend);
  const beyond = panel.box("beyond");
  const groups = methods.map(([, label], k) => {
    const parts = Object.fromEntries(["hit", "interval", "way", "marks"].map((name) => [name, svg("path", { class: `sbn-${name}` })]));
    const group = panel.mark("g", "method", (node, points, place) => {
      node.dataset.slot = place;
      const at = points.map((point) => [panel.x(Math.log10(point[SHARE])), panel.y(point[MEAN]), point]);
      const way = at.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
      const bar = ([x, , point]) => {
        const [top, end] = [HIGH, LOW].map((side) => panel.y(point[side]).toFixed(1));
        return `M${x.toFixed(1)} ${top}V${end}M${(x - 2).toFixed(1)} ${top}h4M${(x - 2).toFixed(1)} ${end}h4`;
      };
      parts.hit.setAttribute("d", way);
      parts.way.setAttribute("d", way);
      parts.interval.setAttribute("d", place === OTHER ? "" : at.filter(([, , point]) => point[LOW] !== null).map(bar).join(""));
      parts.marks.setAttribute("d", at.map(([x, y]) => (place === OTHER ? shape("circle", x, y, 1.2) : shape(SHAPES[place], x, y, 2.6))).join(""));
    });
    group.node.append(svg("title", {}, label), parts.hit, parts.interval, parts.way, parts.marks);
    group.node.addEventListener("click", () => toggle(fig, methods[k][0]));
    return group;
  });
  const stairs = panel.mark("path", "stairs", (node, xs, ys, end) => {
    const point = (k) => `${panel.x(xs[k]).toFixed(1)} ${panel.y(ys[k]).toFixed(1)}`;
    let d = xs.length ? `M${point(0)}` : "";
    for (let k = 1; k < xs.length; k++) d += `H${panel.x(xs[k]).toFixed(1)}V${panel.y(ys[k]).toFixed(1)}`;
    node.setAttribute("d", xs.length ? `${d}H${panel.x(end).toFixed(1)}` : "");
  });
  const rings = panel.mark("path", "rings", (node, xs, ys) =>
    node.setAttribute("d", xs.map((x, k) => shape("circle", panel.x(x), panel.y(ys[k]), 4.4)).join("")));
  const here = panel.segment("here"), none = panel.word();
  let order = "";
  return ({ name, treatment, shares, points, front, budget, places, alone }) => {
    panel.heading.textContent = `${name}: ${treatment}`;
    const xlim = room(shares.map(Math.log10), 0.03), ylim = points.length ? room(points.map((point) => point[MEAN]), 0.1) : [0, 100];
    panel.given.xticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].filter((v) => Math.log10(v) >= xlim[0]).map((v) => [Math.log10(v), show(v)]);
    panel.given.yticks = ticks(...ylim, 5);
    panel.limits(xlim, ylim);
    const edge = Math.min(Math.log10(budget), xlim[1]);
    beyond.set(edge, xlim[1], ylim[1], ylim[0]);
    here.set(edge, ylim[0], edge, ylim[1]);
    groups.forEach((group, k) => {
      group.set(points.filter((point) => point[METHOD] === k && (!alone || places[k] !== OTHER)), places[k]);
    });
    const now = places.join(); // the chosen stand before the others
    if (now !== order) stairs.node.before(...groups.map(({ node }) => node).sort((a, b) => (a.dataset.slot >= 0) - (b.dataset.slot >= 0)));
    order = now;
    const [xs, ys] = [front.map((point) => Math.log10(point[SHARE])), front.map((point) => point[MEAN])];
    stairs.set(xs, ys, xlim[1]);
    rings.set(xs, ys);
    const shown = points.some((point) => !alone || places[point[METHOD]] !== OTHER);
    none.set((xlim[0] + xlim[1]) / 2, (ylim[0] + ylim[1]) / 2, shown ? "" : points.length ? "choose a method in the table" : "nothing is recorded here");
    const key = (sign, text) => html("li", {}, sign, text);
    const lines = places.map((place, k) => [place, k]).filter(([place]) => place !== OTHER).sort(([a], [b]) => a - b);
    legend.replaceChildren(
      ...lines.map(([place, k]) => key(swatch(place), methods[k][1])),
      ...(alone ? [] : [key(swatch(OTHER), "the others")]),
      key(html("i", { class: "sbn-ring", "aria-hidden": "true" }), "Pareto front: no other is both cheaper and better"),
      key(html("i", { class: "sbn-bar", "aria-hidden": "true" }), "budget"),
    );
  };
}

/** Give a method the first free colour, or take its colour away. */
function toggle(fig, key) {
  const chosen = [...fig.model.get("chosen")], place = chosen.indexOf(key), free = chosen.indexOf("");
  if (place >= 0) chosen[place] = "";
  else if (free >= 0) chosen[free] = key;
  else if (chosen.length < SHAPES.length) chosen.push(key);
  else return;
  fig.assign({ chosen });
}

/** All methods, by their accuracy within the budget; a tick gives a method a colour. */
function table(fig, methods) {
  const caption = html("caption", {}), body = html("tbody", {});
  const heads = [["#", "rank"], ["method", "name"], ["", "span"], ["accuracy (%)", "mean"], ["multiply-adds (M)", "macs"], ["para\u00admeters (M)", "size"], ["la\u00adtency (%)", "time"]];
  const cell = (tag, name, attributes, ...children) => html(tag, { class: `sbn-${name}`, ...attributes }, ...children);
  const head = heads.map(([text, name]) =>
    text ? cell("th", name, { scope: "col", "aria-label": name === "rank" && "rank" }, text) : cell("td", name, { "aria-hidden": "true" }));
  const rows = methods.map(([key, label]) => {
    const check = html("input", { type: "checkbox", name: `show ${key}` }), sign = html("span", {}), rank = cell("td", "rank");
    const ring = html("span", { class: "sbn-ring", role: "img", "aria-label": "on the front" });
    check.addEventListener("change", () => toggle(fig, key));
    const node = html("tr", {}, rank, cell("th", "name", { scope: "row" }, html("label", {}, check, sign, html("span", {}, label), ring)));
    return { node, check, sign, ring, rank };
  });
  body.append(...rows.map(({ node }) => node));
  fig.rows.after(html("div", { class: "sbn-ranks" }, html("table", {}, caption, html("thead", {}, html("tr", {}, ...head)), body)));
  return ({ ranked, front, places, missing, budget }) => {
    const full = places.filter((place) => place !== OTHER).length >= SHAPES.length;
    const [from, to] = ranked.length ? room(ranked.map((point) => point[MEAN]), 0.15) : [0, 1];
    const percent = (value) => 100 * Math.max(0, Math.min(1, (value - from) / (to - from)));
    const order = [...ranked.map((point) => point[METHOD]), ...missing.map(([k]) => k)];
    const value = (name, number, text) => cell("td", name, { "data-value": String(number) }, text);
    rows.forEach(({ node, check, sign, ring, rank }, k) => {
      check.checked = places[k] !== OTHER;
      check.disabled = full && !check.checked;
      node.dataset.slot = places[k];
      sign.replaceChildren(...(places[k] === OTHER ? [] : [swatch(places[k])]));
      while (node.children.length > 2) node.lastChild.remove();
      const place = ranked.findIndex((point) => point[METHOD] === k), point = ranked[place];
      ring.hidden = !front.includes(point);
      rank.textContent = point ? String(place + 1) : "–";
      if (!point) {
        node.append(cell("td", "why", { colspan: 5 }, missing.find(([other]) => other === k)[1]));
        return;
      }
      const bar = html("i", {}), dot = html("b", {});
      const [low, high] = point[LOW] === null ? [point[MEAN], point[MEAN]] : [point[LOW], point[HIGH]];
      bar.style.left = `${percent(low)}%`;
      bar.style.width = `${percent(high) - percent(low)}%`;
      dot.style.left = `${percent(point[MEAN])}%`;
      const mean = value("mean", point[MEAN], `${whole(point[MEAN], 1)} `);
      mean.append(html("small", {}, interval(point, "–")));
      node.append(
        cell("td", "span", { "aria-hidden": "true" }, html("div", {}, bar, dot)), mean,
        value("macs", point[MACS], `${three(1e-6 * point[MACS])} `), value("size", point[PARAMETERS], three(1e-6 * point[PARAMETERS])),
        value("time", point[LATENCY], point[LATENCY] === null ? "–" : three(point[LATENCY])),
      );
      node.querySelector(".sbn-macs").append(html("small", {}, `${three(point[SHARE])} %`));
    });
    const wanted = order.map((k) => rows[k].node);
    if (wanted.some((node, k) => node !== body.children[k])) {
      const focused = document.activeElement;
      body.append(...wanted);
      if (body.contains(focused)) focused.focus();
    }
    const most = Math.max(0, ...ranked.map((point) => point[SEEDS])), least = Math.min(...ranked.map((point) => point[SEEDS]));
    caption.textContent = ranked.length
      ? `Within ${show(budget)} % of the multiply-adds: the largest recorded network of each method that keeps the budget, by mean accuracy ` +
        `(small: 95 % interval, ${least === most ? seeds(most) : `${least} to ${most} seeds`}). Where intervals overlap, the order may be chance.`
      : `No network is within ${show(budget)} % of the multiply-adds.`;
  };
}

/** The data of the model, checked. */
function recorded(get) {
  const [networks, methods, points, failures] = ["networks", "methods", "points", "failures"].map((key) => get(key) ?? []);
  need(networks.length && methods.length && points.length, "it holds no recorded run");
  for (const point of points) {
    need(point.length === LATENCY + 1 && networks[point[NETWORK]] && methods[point[METHOD]], "its data do not fit together");
    const known = point.filter((_, k) => ![LOW, HIGH, LATENCY].includes(k));
    need(known.every(Number.isFinite) && (point[LOW] === null) === (point[HIGH] === null), "a recorded number is missing");
  }
  return { networks, methods, points, failures };
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key);
  fig.root.classList.add("sbn-arena");
  const { networks, methods, points, failures } = recorded(get);
  const treatments = get("controls").treatment.options;
  const drawChart = chart(fig, methods), choices = {};
  fig.menu = (key, control) => {
    const named = new Map(networks);
    choices[key] = radios(fig, key, control, control.options.map((value) => (key === "network" ? named.get(value) ?? value : value)));
    return choices[key];
  };
  fig.controls();
  fig.start.chosen = get("chosen");
  fig.start.alone = get("alone");
  fig.panels.before(html("div", { class: "sbn-choices" }, choices.network, choices.treatment)); // stored pages sort the controls
  const drawTable = table(fig, methods), timed = get("timed");
  const about = `Latency: of the whole network's in the same run, median over seeds; of controls, that of networks of their shape${timed ? `; ${timed}` : ""}.`;
  fig.readout.before(html("p", { class: "sbn-timed" }, about));

  const frontOf = (shown) => paretoFront(shown.map((point) => point[SHARE]), shown.map((point) => point[MEAN])).map((k) => shown[k]);
  const present = () => {
    const network = networks.findIndex(([key]) => key === get("network")), treatment = treatments.indexOf(get("treatment"));
    need(network >= 0, `there is no network ${get("network")} among the recorded ones`);
    need(treatment >= 0, `there is no treatment ${get("treatment")} among the recorded ones`);
    const all = points.filter((point) => point[NETWORK] === network);
    return { network, shares: all.map((point) => point[SHARE]), own: all.filter((point) => point[TREATMENT] === treatment) };
  };
  const front = fig.button("Colour the front", () => {
    const keys = new Set(frontOf(present().own).map((point) => methods[point[METHOD]][0]));
    fig.assign({ chosen: [...keys].slice(-SHAPES.length) });
  });
  const hide = fig.button("Hide the others", () => fig.assign({ alone: !get("alone") }));
  fig.buttons.prepend(front, hide);

  const draw = () => {
    const [budget, chosen, alone] = ["budget", "chosen", "alone"].map(get), { network, shares, own } = present();
    need(Number.isFinite(budget) && budget > 0, "budget is not a positive number");
    need(Array.isArray(chosen) && chosen.length <= SHAPES.length, "chosen is not a list of at most eight methods");
    for (const key of chosen) need(!key || methods.some(([other]) => other === key), `there is no method ${key}`);
    const places = methods.map(([key]) => chosen.indexOf(key)), name = networks[network][1], treatment = get("treatment");
    const shown = own.filter((point) => !alone || places[point[METHOD]] !== OTHER), front = frontOf(shown);
    const ranked = ranking(own, budget);
    const missing = methods.map((_, k) => k).filter((k) => !ranked.some((point) => point[METHOD] === k)).map((k) => {
      const shares = own.filter((point) => point[METHOD] === k).map((point) => point[SHARE]);
      const failed = failures.find(([where, method]) => where === network && method === k);
      return [k, shares.length ? `smallest network: ${show(Math.min(...shares))} %` : failed ? `failed: ${failed[2]}` : `not recorded: ${treatment}`];
    });
    hide.setAttribute("aria-pressed", String(alone));
    drawChart({ name, treatment, shares, points: own, front, budget, places, alone });
    drawTable({ ranked, front, places, missing, budget });
    const [best] = ranked;
    fig.say(
      {
        methods: ["methods within the budget", ranked.length],
        accuracy: ["best accuracy", best?.[MEAN] ?? "–", " %"],
        low: ["from", best?.[LOW] ?? "–", " %"],
        high: ["to", best?.[HIGH] ?? "–", " %"],
        front: ["points on the front", front.length],
      },
      `${name}, ${treatment}, budget ${show(budget)} % of the multiply-adds: ${ranked.length} of ${methods.length} methods. ` +
        ranked.slice(0, 3).map((point, k) => `${k + 1}: ${methods[point[METHOD]][1]}, ${whole(point[MEAN], 1)} % (${interval(point, " to ")}).`).join(" "),
    );
  };
  fig.drawing(draw, ["chosen", "alone"]);
});
