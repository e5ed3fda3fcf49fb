import { figure, html, need, show, svg } from "./toolkit.js";

const SETTING = ["method", "p", "q", "target"];
const LINES = { // the treatments that are drawn beside each other, and the look of each
  zeroed: "orange", "zeroed, recalibrated": "green", removed: "bare",
  "removed, recalibrated": "blue", "removed, fine-tuned": "red",
};
const SHADES = { "no noise": "bare", dropout: "orange", "Batch Bridgeout": "blue", Sparseout: "green" };

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const fallen = (filters, amount) => Math.floor(filters * amount);
const rule = (treatment) => (/recalibrated|fine-tuned/.test(treatment) ? "removed, recalibrated" : "zeroed");
const counted = ({ seeds: { length } }) => `${length} ${length === 1 ? "seed" : "seeds"}`;
const isRemoval = (treatment) => treatment.includes("removed");
const hasQ = (method) => method !== "no noise" && method !== "dropout";
/** A setting in a few words, such as "dropout p = 0.1". */
const named = ({ method, p, q, target }) =>
  [method + (p ? ` p = ${show(p)}` : ""), ...(hasQ(method) ? [`q = ${show(q)}`] : []), ...(target === "everything" ? [] : [target])].join(", ");

/** The recorded studies from the model's bytes, checked; bridgeout_lite.widgets.pruning_explorer.pack says what they hold. */
async function unpack(model) {
  const packed = model.get("packed");
  need(packed?.byteLength, "it holds no recorded run");
  need(globalThis.DecompressionStream, "this browser cannot unpack its data; browsers since 2023 can");
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const studies = await new Response(stream).json().catch(() => need(false, "its data are damaged"));
  need(Object.keys(studies).length, "it holds no recorded run");
  for (const study of Object.values(studies)) {
    const { layers = [], settings = [], costs = {}, chosen } = study;
    const total = layers.reduce((sum, [, filters]) => sum + filters, 0);
    need(total > 0 && settings.length && costs.amount && chosen, "its data do not fit together");
    for (const setting of settings) {
      try {
        setting.levels = Uint8Array.from(atob(setting.norms), (c) => c.charCodeAt(0));
      } catch {
        need(false, "its data are damaged");
      }
      need(setting.levels.length === total && setting.tops?.length === layers.length, "its data do not fit together");
      for (const { amount, test } of Object.values(setting.curves ?? {})) {
        need(amount?.length === test?.length, "its data do not fit together");
        need(test.flat().every(Number.isFinite), "a recorded number is missing");
      }
    }
    for (const name of ["parameters", "macs", "latency"]) {
      need(costs[name]?.length === costs.amount.length, "its data do not fit together");
      need(costs[name].every(Number.isFinite), "a recorded number is missing");
    }
  }
  return studies;
}

/** The points of one setting under one treatment: {amount, test, means}; none where it is not recorded. */
function curve(setting, treatment) {
  const { amount, test } = setting?.curves[treatment] ?? { amount: [], test: [] };
  return { amount, test, means: test.map(mean) };
}

/** What is recorded for one amount: the accuracies of the seeds, or none. */
const at = (setting, treatment, amount) => {
  const { amount: known, test } = curve(setting, treatment);
  return test[known.indexOf(amount)] ?? [];
};

/** Keep p, q and target at a recorded setting: what was moved stays, the rest goes to the nearest; as in Python. */
function followRecorded(fig, studies) {
  const { model } = fig, get = (key) => model.get(key);
  const nearest = (study, moved) => {
    const here = study.settings.find((there) => SETTING.every((key) => there[key] === get(key)));
    if (here) return here; // so that a kernel's answer moves nothing
    const best = study.chosen[rule(get("treatment"))]?.[get("method")];
    if ((moved === "study" || moved === "method") && best !== undefined) return study.settings[best];
    const distance = (there) => [
      there.method !== get("method"), there[moved] !== get(moved),
      Math.abs(Math.log((there.p + 1e-3) / (get("p") + 1e-3))) + Math.abs(there.q - get("q")), there.target !== get("target"),
    ];
    const less = (one, other) => {
      const k = one.findIndex((value, place) => value !== other[place]);
      return k >= 0 && one[k] < other[k];
    };
    return study.settings.reduce((best, there) => (less(distance(there), distance(best)) ? there : best));
  };
  let busy = true;
  const keys = ["study", ...SETTING];
  const settle = (moved) => {
    if (busy) return;
    busy = true;
    const study = studies[get("study")];
    need(study, `there is no study ${get("study")} among the recorded ones`);
    const { method, p, q, target } = nearest(study, moved);
    const own = study.settings.filter((setting) => setting.method === method);
    const stops = { p: own.map((setting) => setting.p), q: own.map((setting) => setting.q), layer: study.layers.map((_, k) => k + 1) };
    const controls = structuredClone(get("controls"));
    for (const [key, values] of Object.entries(stops)) controls[key].values = [...new Set(values)].sort((a, b) => a - b);
    if (JSON.stringify(controls) !== JSON.stringify(get("controls"))) model.set("controls", controls);
    assign({ method, p, q, target, layer: Math.min(get("layer"), study.layers.length) });
    busy = false;
  };
  // what is set at once, as by Reset, comes in any order: only when all of it is there is a setting looked for
  const assign = fig.assign.bind(fig);
  fig.assign = fig.guard((values) => {
    const moved = keys.find((key) => key in values), free = !busy;
    busy ||= moved !== undefined;
    assign(values);
    if (free && busy) {
      busy = false;
      settle(moved);
    }
  });
  for (const moved of keys) fig.follow([moved], () => settle(moved));
  busy = false;
}

/** A panel with a line of HTML under it. */
function captioned(fig, panel, ...below) {
  const box = html("div", { class: "sbn-captioned" });
  panel.node.replaceWith(box);
  box.append(panel.node, ...below);
}

/** Accuracy against the share of pruned filters: the present setting, what stands beside it, what was published. */
function accuracy(fig, study) {
  const legend = html("ul", { class: "sbn-legend" });
  const { amount: amounts } = study.costs, last = Math.max(...amounts);
  const panel = fig.panel({
    title: "", x: "filters pruned in each layer (%)", y: "test accuracy (%)",
    xlim: [-0.015, last + 0.015], ylim: [0, 100], xticks: amounts.map((a) => [a, (100 * a).toFixed(0)]),
    description: "Test accuracy against the share of pruned filters; the marked point is the chosen share",
  });
  captioned(fig, panel, legend);
  const here = panel.segment("rule"), band = panel.mark("path", "band", (node, xs, lows, highs) => {
    const point = (x, y) => `${panel.x(x).toFixed(1)} ${panel.y(y).toFixed(1)}`;
    const back = xs.map((x, k) => point(x, lows[k])).reverse();
    node.setAttribute("d", xs.length ? `M${[...xs.map((x, k) => point(x, highs[k])), ...back].join("L")}Z` : "");
  });
  const others = Array.from({ length: 5 }, () => panel.line("beside")), paper = panel.line("paper"), own = panel.line("own");
  const scratch = study.scratch.map(() => panel.dot("scratch", 4.5)), dot = panel.dot("red", 6);
  const paint = (mark, style, shade) => mark.node.setAttribute("class", `${style} sbn-shade-${shade}`);
  const set = (mark, { amount, means }) => mark.set(amount, means);
  return ({ setting, treatment, amount, beside, overlay }) => {
    const { method } = setting, rows = [], points = curve(setting, treatment);
    const row = (style, shade, text) => rows.push(html("li", {}, html("i", { class: `sbn-${style} sbn-shade-${shade}` }), text));
    const methods = beside === "other methods", shade = methods ? SHADES[method] : LINES[treatment] ?? "ink";
    here.set(amount, 0, amount, 100);
    paint(band, "sbn-band", shade);
    band.set(points.amount, points.test.map((seeds) => Math.min(...seeds)), points.test.map((seeds) => Math.max(...seeds)));
    paint(own, "sbn-line sbn-own", shade);
    set(own, points);
    row("own", shade, methods ? `${named(setting)} (${counted(setting)})` : treatment);
    const lines = methods
      ? Object.entries(study.chosen[rule(treatment)] ?? {}).filter(([name]) => name !== method)
        .map(([name, k]) => [SHADES[name], curve(study.settings[k], treatment), `${named(study.settings[k])} (${counted(study.settings[k])})`])
      : Object.entries(LINES).filter(([name]) => name !== treatment).map(([name, tone]) => [tone, curve(setting, name), name]);
    others.forEach((mark, k) => {
      const [tone, line, name] = lines[k] ?? ["ink", curve(), ""];
      paint(mark, "sbn-line sbn-beside", tone);
      set(mark, line);
      if (line.amount.length) row("beside", tone, name);
    });
    const known = (overlay && study.published[method]) || [];
    paint(paper, "sbn-line sbn-paper", shade);
    paper.set(known.map(([x]) => x), known.map(([, y]) => y));
    if (known.length) row("paper", shade, `published: zeroed, ${study.network}, ${method}`);
    study.scratch.forEach(([cut, found], k) => scratch[k].set(cut, isRemoval(treatment) ? mean(found) : NaN));
    if (isRemoval(treatment) && scratch.length) row("point", "ink", "as small from the start, trained as long");
    const now = at(setting, treatment, amount);
    dot.set(amount, now.length ? mean(now) : NaN);
    legend.replaceChildren(...rows);
    panel.heading.textContent = `Accuracy: ${treatment}`;
  };
}

/** Every recorded setting at the chosen share: columns are methods with their q and target, rows are p. */
function settingsMap(fig, study) {
  const { settings } = study, words = html("p", {}), methods = [...new Set(settings.map(({ method }) => method))];
  const column = ({ method, q, target }) => (hasQ(method) ? `${method} ${q} ${target}` : method);
  const columns = [...new Map(settings.map((setting) => [column(setting), setting])).values()].sort((a, b) =>
    methods.indexOf(a.method) - methods.indexOf(b.method) || a.q - b.q || (b.target === "everything") - (a.target === "everything"));
  const places = columns.map(column), strengths = [...new Set(settings.map(({ p }) => p).filter(Boolean))];
  const rows = strengths.length ? strengths.sort((a, b) => a - b) : [0];
  const short = (setting) => {
    if (setting.method === "no noise") return "none";
    if (setting.method === "dropout") return "dropout";
    return `${show(setting.q)}${setting.target === "everything" ? "" : `, ${parseFloat(setting.target)} %`}`;
  };
  const panel = fig.panel({
    title: "", x: "", y: "drop probability p", xlim: [0, columns.length], ylim: [0, rows.length],
    xticks: columns.map((setting, k) => [k + 0.5, short(setting)]), yticks: rows.map((p, k) => [k + 0.5, show(p)]),
    description: "Accuracy of every recorded setting at the chosen share of pruned filters, as shades and numbers; click one to go there",
  });
  panel.node.classList.add("sbn-heat");
  const [start, floor] = [+panel.plot.getAttribute("x"), +panel.plot.getAttribute("y") + panel.inner.height];
  for (const method of methods.filter(hasQ)) { // a bracket under its columns
    const own = columns.flatMap((setting, k) => (setting.method === method ? [k] : [])), name = `${method} at q`;
    const [left, right] = [own[0] + 0.1, own.at(-1) + 0.9].map((x) => start + panel.x(x));
    const middle = Math.min((left + right) / 2, start + panel.inner.width - 3.2 * name.length);
    panel.node.append(
      svg("path", { d: `M${left} ${floor + 21}v3H${right}v-3`, class: "sbn-bracket" }),
      svg("text", { x: middle, y: floor + 36, "text-anchor": "middle" }, name),
    );
  }
  captioned(fig, panel, words);
  const cells = settings.map((setting) => {
    const box = panel.box("cell"), word = panel.word("value"), left = places.indexOf(column(setting));
    const [low, high] = setting.p ? [rows.indexOf(setting.p), rows.indexOf(setting.p) + 1] : [0, rows.length];
    box.set(left + 0.04, left + 0.96, high - 0.04, low + 0.04);
    const { method, p, q, target } = setting;
    box.node.addEventListener("click", () => fig.assign({ method, p, q, target }));
    box.node.append(svg("title"));
    return { setting, box, word, left, low, high };
  });
  const here = panel.box("here");
  return ({ setting: now, treatment, amount }) => {
    const values = cells.map(({ setting }) => at(setting, treatment, amount)).map((seeds) => (seeds.length ? mean(seeds) : NaN));
    const known = values.filter(Number.isFinite), lowest = Math.min(...known), span = Math.max(...known) - lowest || 1;
    const chosen = Object.values(study.chosen[rule(treatment)] ?? {});
    cells.forEach(({ setting, box, word, left, low, high }, k) => {
      const value = values[k], text = Number.isFinite(value) ? value.toFixed(1) : "–";
      box.node.style.setProperty("--share", Number.isFinite(value) ? (value - lowest) / span : 0);
      word.set(left + 0.5, (low + high) / 2 - 0.018 * rows.length, text);
      word.node.classList.toggle("sbn-best", chosen.includes(k) && setting.p > 0);
      box.node.firstChild.textContent =
        `${named(setting)}: ${Number.isFinite(value) ? `${text} % (${counted(setting)})` : "not recorded"}`;
      if (setting === now) here.set(left + 0.04, left + 0.96, high - 0.04, low + 0.04);
    });
    words.textContent = "Only these settings are recorded; p, q and target move to the nearest. Bold and underlined: chosen for a method on validation images.";
    panel.heading.textContent = `Every setting, ${percent(amount)} pruned: accuracy (%)`;
  };
}

/** The sorted norms of one layer's filters, and where they are cut. */
function norms(fig, study) {
  const words = html("p", {});
  const panel = fig.panel({
    title: "", x: "filters, sorted by norm", y: "L2 norm", xlim: [0, 1], ylim: [0, 1],
    description: "The norms of the filters of the chosen layer in order; those left of the cut fall",
  });
  captioned(fig, panel, words);
  const stairs = (style) => panel.mark("path", `stairs sbn-${style}`, (node, values, from) => {
    let d = `M${panel.x(from).toFixed(1)} ${panel.y(0)}`;
    values.forEach((value, k) => { d += `V${panel.y(value).toFixed(1)}H${panel.x(from + k + 1).toFixed(1)}`; });
    node.setAttribute("d", values.length ? `${d}V${panel.y(0)}Z` : "");
  });
  const falling = stairs("falling"), staying = stairs("staying"), cut = panel.segment("cut"), edge = panel.segment("rule");
  const word = panel.word("word", "start");
  return ({ setting, treatment, amount, layer }) => {
    const [name, filters, ties] = study.layers[layer - 1];
    const start = study.layers.slice(0, layer - 1).reduce((sum, [, n]) => sum + n, 0), top = setting.tops[layer - 1];
    const sizes = Array.from(setting.levels.subarray(start, start + filters), (level) => (level * top) / 255);
    const count = fallen(filters, amount), other = treatment.startsWith("random") || treatment.startsWith("folded");
    const byOwn = !other && !(ties && isRemoval(treatment)), split = byOwn ? count : 0;
    panel.limits([0, filters], [0, 1.12 * top]);
    falling.set(sizes.slice(0, split), 0);
    staying.set(sizes.slice(split), split);
    const level = sizes[split];
    cut.set(0, level, filters, level);
    edge.set(split, 0, split, 1.12 * top);
    for (const { node } of [cut, edge]) node.classList.toggle("sbn-hidden", !split);
    word.set(0, 1.02 * top, split ? `cut below ${show(level)}` : "");
    panel.heading.textContent = `${name}: ${count} of ${filters} filters fall`;
    const why = treatment.startsWith("random") ? "Here filters are picked at random, not by norm."
      : other ? "Here filters are ranked by another norm, with BatchNorm folded in."
      : !byOwn ? "An addition ties these channels to other layers; they are ranked by the norms of all of them together."
      : isRemoval(treatment) ? "Left of the cut: removed, with all that only serves them."
      : treatment.includes("released") ? "Left of the cut: set to zero; as many of the smallest BatchNorm scales too."
      : "Left of the cut: set to zero; bias and BatchNorm stay.";
    words.textContent = `${why} Norms: mean of ${counted(setting)}.`;
  };
}

/** The network as boxes, as tall as a layer has filters, that thin out; and what it costs. */
function network(fig, study) {
  const { layers } = study, most = Math.max(...layers.map(([, filters]) => filters));
  const isSide = (name) => name.includes("shortcut");
  let end = 0;
  const places = layers.map(([name, filters], k) => {
    const left = end;
    end += isSide(name) ? 0.6 : 1;
    return { name, filters, k, left, right: end, side: isSide(name) };
  });
  const few = layers.length <= 12, panel = fig.panel({
    title: "", x: "layer, from the image to the classes", y: "filters", xlim: [0, end], ylim: [-0.54 * most, 0.68 * most],
    xticks: places.filter(({ k, side }) => few || (!side && k % 5 === 0)).map(({ k, left, right }) => [(left + right) / 2, String(k + 1)]),
    yticks: [],
    description: "The convolutions from left to right, each as tall as it has filters; the outline is the network as trained, the filling what is left",
  });
  panel.node.classList.add("sbn-network");
  const gauges = Object.entries({ filters: "filters", parameters: "parameters", macs: "multiply-adds", latency: "latency" })
    .map(([key, label]) => {
      const bar = html("i"), value = html("b");
      return { key, bar, value, row: html("div", {}, html("span", {}, label), html("div", { class: "sbn-gauge" }, bar), value) };
    });
  const words = html("p", {});
  captioned(fig, panel, html("div", { class: "sbn-gauges" }, ...gauges.map(({ row }) => row)), words);
  const stream = places.filter(({ side }) => !side).slice(1).map(() => panel.mark("path", "stream", (node, d) => node.setAttribute("d", d)));
  const boxes = places.map(({ k, left, right, filters }) => {
    const gap = few ? 0.16 : 0.1, whole = panel.box("whole"), kept = panel.box("kept"), word = few ? panel.word("word") : null;
    whole.set(left + gap, right - gap, filters / 2, -filters / 2);
    for (const { node } of [whole, kept]) node.addEventListener("click", () => fig.assign({ layer: k + 1 }));
    whole.node.append(svg("title", {}, `layer ${k + 1}, ${layers[k][0]}`));
    return { whole, kept, word, gap };
  });
  const ring = panel.box("here");
  return ({ treatment, amount, layer, shares }) => {
    const cut = isRemoval(treatment), left = places.map(({ filters }) => filters - fallen(filters, amount));
    const main = places.filter(({ side }) => !side);
    stream.forEach((mark, k) => {
      const [one, two] = [main[k], main[k + 1]], [a, b] = [left[one.k] / 2, left[two.k] / 2];
      const [x1, x2] = [panel.x(one.right - boxes[one.k].gap), panel.x(two.left + boxes[two.k].gap)];
      mark.set(`M${x1} ${panel.y(a)}L${x2} ${panel.y(b)}V${panel.y(-b)}L${x1} ${panel.y(-a)}Z`);
    });
    places.forEach(({ left: from, right, filters }, k) => {
      const { kept, whole, word, gap } = boxes[k];
      kept.set(from + gap, right - gap, left[k] / 2, -left[k] / 2);
      whole.node.classList.toggle("sbn-zeroed", !cut);
      word?.set((from + right) / 2, filters / 2 + 0.035 * most, String(left[k]));
      if (k === layer - 1) ring.set(from + gap / 3, right - gap / 3, filters / 2 + 0.01 * most, -filters / 2 - 0.01 * most);
    });
    for (const { key, bar, value } of gauges) {
      bar.style.width = `${Math.min(100, 100 * shares[key])}%`;
      value.textContent = Number.isFinite(shares[key]) ? percent(shares[key]) : "–";
    }
    const total = layers.reduce((sum, [, n]) => sum + n, 0);
    panel.heading.textContent = `${left.reduce((sum, n) => sum + n, 0)} of ${total} filters ${cut ? "remain" : "are not zero"}`;
    words.textContent = cut
      ? `Outline: the whole network. Latency: ${study.timed}.`
      : "Pale: zero and still computed, so nothing is saved.";
  };
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key), note = html("p", { class: "sbn-note" });
  fig.root.classList.add("sbn-pruning");
  fig.panels.append(html("p", {}, "Unpacking the recorded runs."));
  let studies, parts, shown, closed = false;
  fig.closers.push(() => { closed = true; });

  const build = (study) => {
    shown = study;
    fig.panels.replaceChildren();
    parts = [accuracy(fig, study), settingsMap(fig, study), norms(fig, study), network(fig, study)];
  };

  const draw = () => {
    const [treatment, amount, layer, beside, overlay] = ["treatment", "amount", "layer", "beside", "overlay"].map(get);
    const study = studies[get("study")];
    need(study, `there is no study ${get("study")} among the recorded ones`);
    for (const [name, value] of Object.entries({ p: get("p"), q: get("q"), amount, layer })) need(Number.isFinite(value), `${name} is not a number`);
    const setting = study.settings.find((each) => SETTING.every((key) => each[key] === get(key)));
    need(setting, `nothing is recorded of ${get("method")} with p ${get("p")} and q ${get("q")}`);
    need(study.layers[layer - 1], `there is no layer ${layer} in this network`);
    const { costs } = study, cut = isRemoval(treatment);
    const cost = (name, share) => costs[name][costs.amount.indexOf(share)] ?? NaN;
    const run = (name) => cost(name, cut ? amount : 0);
    const total = study.layers.reduce((sum, [, filters]) => sum + filters, 0);
    const filters = study.layers.reduce((sum, [, n]) => sum + n - fallen(n, amount), 0);
    const shares = { filters: filters / total };
    for (const name of ["parameters", "macs", "latency"]) shares[name] = run(name) / cost(name, 0);
    if (study !== shown) build(study);
    for (const part of parts) part({ setting, treatment, amount, layer, beside, overlay, shares });

    const seeds = at(setting, treatment, amount), { amount: known } = curve(setting, treatment);
    const list = known.filter((share) => share > 0).map((share) => percent(share)).join(", ");
    const what = named(setting);
    note.textContent = !known.length ? `${treatment}: not recorded with ${what}.`
      : seeds.length ? "" : `${treatment} is recorded at ${list} only, not at ${percent(amount)}.`;
    const paper = study.published[setting.method]?.find(([share]) => share === amount)?.[1];
    const [average, low, high] = seeds.length ? [mean(seeds), Math.min(...seeds), Math.max(...seeds)] : ["–", "–", "–"];
    fig.say(
      {
        accuracy: ["accuracy, mean of seeds", average, " %"],
        lowest: ["lowest", low, " %"],
        highest: ["highest", high, " %"],
        published: ["published, zeroed", paper ?? "–", " %"],
        filters: ["filters left", filters],
        parameters: ["parameters", 1e-6 * run("parameters"), " M"],
        macs: ["multiply-adds", 1e-6 * run("macs"), " M"],
        latency: ["latency", 100 * run("latency"), " %"],
      },
      `${what}, ${treatment}, ${percent(amount)} of the filters: ` +
        (seeds.length ? `accuracy ${show(average)} %, ` : "accuracy not recorded, ") +
        `parameters ${percent(shares.parameters)}, multiply-adds ${percent(shares.macs)}, latency ${percent(shares.latency)}. ${note.textContent}`,
    );
  };

  const start = (found) => {
    if (closed) return;
    studies = found;
    followRecorded(fig, studies);
    fig.controls();
    const menus = html("div", { class: "sbn-rows sbn-menus" }, ...[...fig.rows.children].filter((row) => row.querySelector("select")));
    fig.panels.before(menus);
    fig.rows.before(note);
    // what cannot be moved says so: without noise there is no q, and a target that is recorded of one method alone
    fig.follow(["controls", "method", "study"], () => {
      for (const input of fig.rows.querySelectorAll("input")) input.disabled = get("controls")[input.name].values.length < 2;
      const { settings = [] } = studies[get("study")] ?? {};
      const able = (select, holds) => { for (const option of select?.options ?? []) option.disabled = !settings.some((each) => holds(each, option.value)); };
      able(menus.querySelector("[name=method]"), (each, value) => each.method === value);
      able(menus.querySelector("[name=target]"), (each, value) => each.method === get("method") && each.target === value);
    });
    const check = html("input", { type: "checkbox", name: "overlay" });
    check.addEventListener("change", () => fig.assign({ overlay: check.checked }));
    fig.follow(["overlay"], () => { check.checked = get("overlay"); });
    menus.append(html("label", { class: "sbn-check" }, check, "published curve"));
    fig.drawing(draw, ["overlay"]);
  };
  unpack(fig.model).then(fig.guard(start)).catch((error) => fig.fail(error));
});
