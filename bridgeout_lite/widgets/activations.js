import { figure, html, need, show, svg } from "./toolkit.js";

const MEASURES = ["Hoyer", "Gini", "zero fraction", "rms"]; // as the packed numbers of a layer begin
const NUMBERS = 5; // of a layer: the measures, and the value of the maps' top level
const DEEPEST = 5; // that level; each is twice the one before
const SIDE = 32; // of a picture, in pixels

/** The recorded runs from the model's bytes; bridgeout_lite.widgets.activations.pack tells their order. */
async function unpack(model) {
  const index = model.get("index") ?? {}, packed = model.get("packed");
  const { runs = [], layers = [], edges = [], top, shapes = {}, images = [], pictured } = index;
  need(runs.length && layers.length && packed?.byteLength, "it holds no recorded run");
  need(globalThis.DecompressionStream, "this browser cannot unpack its data; browsers since 2023 can");
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer().catch(() => need(false, "its data are damaged"));

  const width = 1 + NUMBERS * layers.length, bins = edges.length - 1, mapped = runs.filter((run) => run[3] >= 0).length;
  const size = (layer) => shapes[layer].reduce((product, n) => product * n, 1);
  let at = 0;
  const take = (length) => (at += length) - length;
  const start = { numbers: take(4 * runs.length * width), shares: take(runs.length * layers.length * bins), maps: {} };
  if (mapped) for (const layer of layers) start.maps[layer] = take(Math.ceil((mapped * size(layer)) / 2));
  start.pictures = take(pictured ? images.length * 3 * SIDE ** 2 : 0);
  need(bytes.byteLength === at && Number.isFinite(top), "its data do not fit its index");
  const numbers = new Float32Array(bytes, 0, runs.length * width), small = new Uint8Array(bytes);
  need(numbers.every(Number.isFinite), "a recorded number is missing");

  const key = (p, q, seed) => `${p} ${p ? q : 0} ${seed}`;
  const places = new Map(runs.map(([p, q, seed], run) => [key(p, q, seed), run]));
  const place = (layer) => {
    need(layers.includes(layer), `there is no layer ${layer} in the recorded runs`);
    return layers.indexOf(layer);
  };
  const number = (run, layer, which) => numbers[run * width + 1 + NUMBERS * place(layer) + which];
  return {
    ...{ layers, edges, shapes, images, mapped, number },
    seeds: [...new Set(runs.map((run) => run[2]))],
    find: (p, q, seed) => places.get(key(p, q, seed)),
    accuracy: (run) => numbers[run * width],
    /** Percent of all activations in each bin. */
    shares(run, layer) {
      const from = start.shares + (run * layers.length + place(layer)) * bins;
      return Array.from(small.subarray(from, from + bins), (byte) => (100 * byte * top) / 255);
    },
    /** Levels 0 to 5 of the feature maps, in the order of the layer's shape; null if the run has none. */
    levels(run, layer) {
      if (runs[run][3] < 0) return null;
      const count = size(layer), from = runs[run][3] * count;
      return Uint8Array.from({ length: count }, (_, k) => {
        const byte = small[start.maps[layer] + ((from + k) >> 1)];
        return (from + k) % 2 ? byte & 15 : byte >> 4;
      });
    },
    /** Red, green and blue of a picture, plane by plane; null if there are none. */
    picture: (image) => (pictured ? small.subarray(start.pictures + image * 3 * SIDE ** 2).subarray(0, 3 * SIDE ** 2) : null),
  };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The heat map over the plane; its cells set the sliders. */
function heatMap(fig, data, get) {
  const { p: { values: rows }, q: { values: columns } } = get("controls");
  const middle = (list) => list.map((value, k) => [k + 0.5, show(value)]);
  const panel = fig.panel({
    title: "", x: "exponent q", y: "drop probability p",
    xlim: [0, columns.length], ylim: [0, rows.length], xticks: middle(columns), yticks: middle(rows),
    description: "A measure for every recorded p and q, as shades and numbers; the sliders p and q move the marked cell",
  });
  // without noise there is no q: one cell for all of them
  const cells = rows.flatMap((p, row) => (p ? columns : [get("q")]).map((q, column) => {
    const box = panel.box("cell"), word = panel.word("value");
    const right = p ? column + 1 : columns.length, place = () => (p ? { p, q } : { p });
    box.set(column + 0.03, right - 0.03, row + 0.96, row + 0.04);
    box.node.addEventListener("click", () => fig.assign(place()));
    box.node.append(svg("title"));
    return { p, q, row, middle: (column + right) / 2, box, word };
  }));
  const here = panel.box("here");
  panel.node.classList.add("sbn-heat");
  return ({ p, q, layer, measure }) => {
    const which = MEASURES.indexOf(measure);
    const value = (run) => (which < 0 ? data.accuracy(run) : data.number(run, layer, which));
    for (const cell of cells) {
      const runs = data.seeds.map((seed) => data.find(cell.p, cell.q, seed)).filter((run) => run !== undefined);
      Object.assign(cell, { seeds: runs.length, value: mean(runs.map(value)) });
    }
    const known = cells.map((cell) => cell.value).filter(Number.isFinite);
    const low = Math.min(...known), span = Math.max(...known) - low || 1;
    for (const { p, q, row, middle, box, word, seeds, value } of cells) {
      box.node.style.setProperty("--share", seeds ? (value - low) / span : 0);
      box.node.classList.toggle("sbn-missing", !seeds);
      const digits = value.toFixed(which < 0 ? 1 : 3);
      word.set(middle, row + 0.39, seeds ? (p ? "" : "no noise: ") + digits : "–");
      const setting = p ? `p ${show(p)}, q ${show(q)}` : "no noise";
      box.node.firstChild.textContent = seeds ? `${setting}: mean of ${seeds} seeds ${digits}` : `${setting}: not recorded`;
    }
    const row = rows.indexOf(p), column = columns.indexOf(q);
    here.set(p ? column + 0.03 : 0.03, p ? column + 0.97 : columns.length - 0.03, row + 0.96, row + 0.04);
    panel.heading.textContent = which < 0 ? "Validation accuracy (%), mean of seeds" : `${measure} in ${layer}, mean of seeds`;
  };
}

/** The histogram of one layer, with that of q = 2. */
function histogram(fig, data) {
  const { edges } = data, steps = edges.flatMap((edge) => [edge, edge]);
  const outline = (shares) => [0, ...shares.flatMap((share) => [share, share]), 0];
  const panel = fig.panel({
    title: "", x: "log10 of activation / rms of the layer", y: "share of activations (%)",
    xlim: [edges[0], edges.at(-1)], ylim: [0, 1],
    description: "Histogram of the logarithm of the activations that are not zero; dashed: the run with q = 2",
  });
  const shape = panel.line("blue sbn-filled"), reference = panel.line("grey");
  const words = [panel.word("word", "start"), panel.word("word", "start")];
  return ({ layer, seed, run, other }) => {
    const shares = run === undefined ? [] : data.shares(run, layer);
    const others = other === undefined ? [] : data.shares(other, layer);
    const highest = Math.max(0.5, ...shares, ...others);
    panel.limits([edges[0], edges.at(-1)], [0, 1.25 * highest]);
    shape.set(shares.length ? steps : [], outline(shares));
    reference.set(others.length ? steps : [], outline(others));
    const zeros = (at) => `${(100 * data.number(at, layer, 2)).toFixed(1)} %`;
    words[0].set(edges[0], 1.17 * highest, run === undefined ? "not recorded" : `${zeros(run)} are exactly zero`);
    words[1].set(edges[0], 1.06 * highest, other === undefined ? "" : `dashed, q = 2: ${zeros(other)}`);
    panel.heading.textContent = `Activations of ${layer}, seed ${seed}`;
  };
}

/** Three measures of every layer: the present run, the other seeds, and q = 2. */
function byLayer(fig, data) {
  const { layers, seeds } = data, step = layers.length + 1, groups = MEASURES.slice(0, 3);
  const at = (group, k) => group * step + k;
  const panel = fig.panel({
    title: "All layers", x: "layer", y: "0 to 1",
    xlim: [-1, 3 * step - 1], ylim: [0, 1.15], yticks: [0, 0.25, 0.5, 0.75, 1],
    xticks: groups.flatMap((_, group) => layers.map((name, k) => [at(group, k), name.match(/\d+$/)?.[0] ?? String(k + 1)])),
    description: "Hoyer, Gini and the zero fraction of each layer; faint: other seeds; dashed: the run with q = 2",
  });
  const marks = groups.map((name, group) => {
    panel.word("word").set(at(group, (layers.length - 1) / 2), 1.05, name === "zero fraction" ? "zeros" : name);
    return {
      reference: panel.line("grey"),
      faint: seeds.map(() => layers.map(() => panel.dot("blue sbn-faint", 3.5))),
      line: panel.line("blue"),
      strong: layers.map(() => panel.dot("blue", 4)),
      here: panel.dot("red", 5.5),
    };
  });
  return ({ p, q, layer, run, other }) => {
    marks.forEach(({ reference, faint, line, strong, here }, group) => {
      const xs = layers.map((_, k) => at(group, k));
      const values = (from) => (from === undefined ? layers.map(() => NaN) : layers.map((name) => data.number(from, name, group)));
      reference.set(xs, values(other));
      line.set(xs, values(run));
      const rest = seeds.map((seed) => values(data.find(p, q, seed)));
      layers.forEach((name, k) => {
        faint.forEach((dots, which) => dots[k].set(xs[k], rest[which][k]));
        strong[k].set(xs[k], values(run)[k]);
        if (name === layer) here.set(xs[k], values(run)[k]);
      });
    });
  };
}

/** The feature maps: paper is exactly zero, and whatever is more is seen to be more. */
function featureMaps(fig, data) {
  if (!data.mapped) return () => {};
  const heading = html("p", { class: "sbn-maptitle" }), grid = html("div", { class: "sbn-mapgrid" });
  const legend = html("p", {});
  fig.panels.append(html("div", { class: "sbn-maps" }, heading, grid, legend));
  const canvas = (width, height, colour, words) => {
    const node = html("canvas", { width, height, role: "img", "aria-label": words });
    const pixels = new ImageData(width, height);
    for (let k = 0; k < width * height; k++) pixels.data.set(colour(k), 4 * k);
    node.getContext("2d").putImageData(pixels, 0, 0);
    return node;
  };
  const pictures = data.images.map((name, image) => {
    const planes = data.picture(image), area = SIDE ** 2;
    const node = planes && canvas(SIDE, SIDE, (k) => [planes[k], planes[k + area], planes[k + 2 * area], 255], name);
    return html("div", { class: "sbn-picture" }, ...(node ? [node] : []), html("span", {}, name));
  });
  const blue = (level) => [0, 114, 178, (255 * level) / DEEPEST];
  return ({ layer, run }) => {
    const levels = run === undefined ? null : data.levels(run, layer);
    heading.textContent = `Images in ${layer}`;
    if (!levels) {
      grid.replaceChildren();
      legend.textContent = run === undefined ? "not recorded" : "no feature maps were recorded for this run";
      return;
    }
    const [, channels, height, width] = data.shapes[layer], units = height === undefined;
    const parts = units ? 1 : channels, size = levels.length / data.images.length / parts;
    const columns = units ? Math.min(16, size) : width;
    grid.replaceChildren(...pictures.flatMap((picture, image) => [picture, ...Array.from({ length: parts }, (_, part) => {
      const own = levels.subarray((image * parts + part) * size, (image * parts + part + 1) * size);
      const words = units ? `${size} units` : `channel ${part + 1}`;
      const node = canvas(columns, Math.ceil(size / columns), (k) => blue(own[k] ?? 0), `${data.images[image]}, ${words} of ${layer}`);
      node.classList.add("sbn-map");
      node.classList.toggle("sbn-units", units);
      return node;
    })]));
    const what = units ? `its ${size} units` : `${parts} channels`, most = show(data.number(run, layer, NUMBERS - 1));
    heading.textContent = `Images in ${layer}: ${what}`;
    legend.textContent = `blank: exactly zero; the shades double, up to ${most}`;
  };
}

/** Where a kernel answers: fields and a button that train a setting of the reader's own. */
function trainer(fig, get) {
  const { model } = fig;
  if (typeof model.send !== "function") return;
  const field = (key, limits) => html("input", { type: "number", name: `train-${key}`, min: 0, step: "any", ...limits });
  const fields = { p: field("p", { max: 0.99, step: 0.01 }), q: field("q", { step: 0.1 }), seed: field("seed", { step: 1 }) };
  const bar = html("progress", { max: 1, "aria-label": "training" }), words = html("span", { role: "status" });
  const button = html("button", {}, "Train this setting now");
  const labels = Object.entries(fields).map(([key, input]) => html("label", {}, key, " ", input));
  const form = html("form", { class: "sbn-trainer", hidden: true, novalidate: true }, ...labels, button, bar, words);
  fig.rows.after(form);
  for (const key of Object.keys(fields)) fig.follow([key], () => { fields[key].value = get(key); });

  let patience;
  fig.closers.push(() => clearTimeout(patience));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const setting = Object.fromEntries(Object.entries(fields).map(([key, input]) => [key, input.valueAsNumber]));
    model.send({ kind: "train", ...setting });
    words.textContent = "asking the kernel";
    patience = setTimeout(() => {
      words.textContent = "No answer yet: the kernel is busy or gone. Training starts when it is free; else run this cell again.";
    }, 4000);
  });
  fig.follow(["training"], () => {
    clearTimeout(patience);
    const { share, words: told } = get("training") ?? {};
    button.disabled = share !== undefined;
    bar.hidden = share === undefined;
    bar.value = share ?? 0;
    const minutes = show((get("index")?.seconds ?? NaN) / 60, 2);
    words.textContent = told ?? `A recorded run took about ${minutes} min.`;
  });
  const heard = (message) => { if (message.kind === "here") form.hidden = false; };
  model.on("msg:custom", heard);
  fig.closers.push(() => model.off("msg:custom", heard));
  model.send({ kind: "hello" });
}

export default figure((fig) => {
  const get = (key) => fig.model.get(key);
  const note = html("p", { class: "sbn-note" });
  fig.root.classList.add("sbn-explorer");
  fig.panels.append(html("p", {}, "Unpacking the recorded runs."));
  let data, parts, closed = false;
  fig.closers.push(() => { closed = true; });

  const draw = () => {
    const [p, q, seed, layer, measure] = ["p", "q", "seed", "layer", "measure"].map(get);
    for (const [name, value] of Object.entries({ p, q, seed })) need(Number.isFinite(value), `${name} is not a number`);
    const run = data.find(p, q, seed), other = run !== undefined && p && q !== 2 ? data.find(p, 2, seed) : undefined;
    for (const part of parts) part({ p, q, seed, layer, measure, run, other });

    const setting = (p ? `p ${show(p)}, q ${show(q)}` : "No noise") + `, seed ${seed}`;
    note.textContent = run === undefined ? `${setting}: not recorded.` : p ? "" : "p = 0 is training without noise: q has no effect.";
    const [hoyer, gini, zeros, rms] = MEASURES.map((_, k) => (run === undefined ? "–" : data.number(run, layer, k)));
    const seeds = data.seeds.map((other) => data.find(p, q, other)).filter((other) => other !== undefined).map(data.accuracy);
    const range = seeds.length ? [mean(seeds), Math.min(...seeds), Math.max(...seeds)] : Array(3).fill("–");
    const accuracy = run === undefined ? "–" : data.accuracy(run);
    fig.say(
      {
        hoyer: ["Hoyer", hoyer],
        gini: ["Gini", gini],
        zero_fraction: ["zero fraction", zeros],
        rms: ["rms", rms],
        valid_accuracy: ["validation accuracy", accuracy, " %"],
        mean_accuracy: ["accuracy, mean of seeds", range[0], " %"],
        lowest_accuracy: ["lowest", range[1], " %"],
        highest_accuracy: ["highest", range[2], " %"],
      },
      run === undefined
        ? note.textContent
        : `${setting}, ${layer}: Hoyer ${show(hoyer)}, Gini ${show(gini)}, zero fraction ${show(zeros)}, ` +
          `rms ${show(rms)}; validation accuracy ${show(accuracy)} %. ${note.textContent}`,
    );
  };

  const fill = (fresh) => {
    if (closed) return;
    const first = !data;
    data = fresh;
    fig.panels.replaceChildren();
    parts = [heatMap(fig, data, get), histogram(fig, data), byLayer(fig, data), featureMaps(fig, data)];
    if (!first) return fig.redraw();
    fig.rows.before(note);
    fig.controls();
    trainer(fig, get);
    fig.drawing(draw);
  };
  fig.follow(["packed"], () => { unpack(fig.model).then(fig.guard(fill)).catch((error) => fig.fail(error)); });
});
