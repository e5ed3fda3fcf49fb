import { copyLink, figure, fromAddress, html, need, show, tiles, toAddress } from "./toolkit.js";

const ADDRESS = "surgery"; // the first word of the address's state
const THUMBS = 24, SHOWN = 48; // pictures of images whose answer changed, and their size
const NAMED = 4; // letters of a class over its column
const PALE = 0.6; // of the darkest tile, so that its number can be read

/** The interval of Wilson for `hits` of `n`, 95 %. */
export function wilson(hits, n, z = 1.959963984540054) {
  const p = hits / n, middle = p + (z * z) / (2 * n), reach = z * Math.sqrt((p * (1 - p) + (z * z) / (4 * n)) / n);
  return [(middle - reach) / (1 + (z * z) / n), (middle + reach) / (1 + (z * z) / n)];
}

/** The stored answers, four bits each, as one byte each: so many lists of `size`. */
export function decode(view, size) {
  const lists = [];
  for (let at = 0; at < view.byteLength; at += size / 2) {
    lists.push(Uint8Array.from({ length: size }, (_, i) => (view.getUint8(at + (i >> 1)) >> (i % 2 ? 0 : 4)) & 15));
  }
  return lists;
}

/** What the answers say: how many are right, how often each class (row) was called each (column), and the images whose
 * answer is another than `before`. */
export function judge(answers, before, labels, classes) {
  const table = Array.from({ length: classes }, () => new Array(classes).fill(0)), changed = [];
  answers.forEach((said, i) => {
    table[labels[i]][said]++;
    if (said !== before[i]) changed.push(i);
  });
  return { correct: table.reduce((sum, row, k) => sum + row[k], 0), table, changed };
}

export default figure((fig) => {
  const { model } = fig, get = (key) => model.get(key), controls = get("controls"), keys = Object.keys(controls);
  const { networks, layout, costs, labels: digits, classes, mean, std, columns, recorded, source } = get("index") ?? {};
  const amounts = controls.amount.values, treatments = controls.treatment.options, names = controls.network.options;
  need(Number.isFinite(get("amount")), "amount is not a number");
  need(names.includes(get("network")), `there is no network ${get("network")}`);
  need(treatments.includes(get("treatment")), `there is no treatment ${get("treatment")}`);
  need(networks && names.every((name) => networks[name]?.order?.length === 4), "its networks are missing");
  const labels = Uint8Array.from(digits ?? "", Number), test = labels.length, images = get("images");
  need(images?.byteLength > 0 && test > 0, "its images are missing");
  const stored = decode(get("answers") ?? new DataView(new ArrayBuffer(0)), test), told = treatments.filter((t) => t !== "silenced");
  need(stored.length === names.length * told.length * amounts.length && costs?.length === amounts.length, "its answers do not fit its networks");
  const alone = !model.send; // no kernel behind it: the address is the page's own
  if (alone) for (const [key, value] of Object.entries(fromAddress(ADDRESS, location.hash, controls))) model.set(key, value);

  /** The stored answers; silenced says what removed says. */
  const answersOf = (network, treatment, amount) => {
    const [n, t] = [names.indexOf(network), told.indexOf(treatment === "silenced" ? "removed" : treatment)];
    return stored[(n * told.length + t) * amounts.length + amounts.indexOf(amount)];
  };
  const share = (answers) => (100 * answers.reduce((sum, said, i) => sum + (said === labels[i]), 0)) / test;

  // --- panels
  const curve = fig.panel({
    title: "Accuracy", x: "share of filters pruned in each layer", y: "images right (%)", xlim: [-0.02, 0.92], ylim: [0, 100],
    description: "Accuracy against the share of filters pruned: this network on the page's images, and the recorded runs of a larger one",
  });
  const guess = curve.segment("rule"), past = curve.line("grey"), own = curve.line("blue"), reach = curve.segment("blue");
  const live = new Map(), dots = amounts.map(() => curve.dot("orange", 3.5)), now = curve.dot("blue", 5);
  const words = [["blue", "this network, as stored"], ["orange", "computed here"], ["", source]];
  words.map(([colour]) => curve.word(`word sbn-${colour}`, "end")).forEach((word, k) => word.set(0.92, 93 - 9 * k, words[k][1]));
  const filters = tiles(fig, "Which filters went", "The filters of each convolution: the more colour, the larger the norm; crossed out: pruned");
  const confusion = tiles(fig, "What is taken for what", "How often images of each class, by row, are called each class, by column");
  const file = URL.createObjectURL(new Blob([images], { type: "image/webp" }));
  fig.closers.push(() => URL.revokeObjectURL(file));
  const thumbs = html("ul", { class: "sbn-thumbs" }), heading = html("p", { class: "sbn-thumbs-title" });
  fig.panels.append(html("div", { class: "sbn-changed" }, heading, thumbs));

  // --- the worker: nothing runs before the reader asks
  let worker, wanted = false, whole = false, pending = "", trouble = "";
  const state = () => Object.fromEntries(keys.map((key) => [key, get(key)]));
  const keyOf = ({ network, treatment, amount }) => `${network}|${treatment}|${amount}`;
  const stop = () => {
    worker?.terminate();
    [worker, wanted, whole, pending] = [null, false, false, ""];
  };
  fig.closers.push(stop);

  function begin() {
    const address = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));
    const failed = (message) => {
      stop();
      trouble = message;
      fig.redraw();
    };
    try {
      worker = new Worker(address);
    } catch (error) {
      return failed(error.message);
    }
    URL.revokeObjectURL(address);
    worker.onerror = (event) => failed(event.message || "no worker is allowed");
    worker.onmessage = ({ data }) => {
      if (data.error) return failed(data.error);
      live.set(keyOf(data.asked), data);
      pending = "";
      fig.redraw();
    };
    const all = get("networks"), parts = {};
    let at = 0;
    for (const name of names) {
      parts[name] = { view: new DataView(all.buffer.slice(all.byteOffset + at, all.byteOffset + at + networks[name].bytes)), order: networks[name].order };
      at += networks[name].bytes;
    }
    worker.postMessage({ data: { images, columns, mean, std, test, networks: [layout, parts] } });
  }

  /** Ask for what is shown, then for the rest of its curve if the reader wants it. */
  function next() {
    if (!wanted) return;
    const open = [get("amount"), ...(whole ? amounts : [])].map((amount) => ({ ...state(), amount })).find((ask) => !live.has(keyOf(ask)));
    whole &&= !!open;
    if (!open || pending === keyOf(open)) return;
    pending = keyOf(open);
    if (!worker) begin();
    worker?.postMessage({ ask: open });
  }

  const run = (all) => {
    [wanted, whole, trouble] = [true, all, ""];
    fig.redraw();
  };
  const toggle = fig.button("Compute here", () => (wanted ? (stop(), fig.redraw()) : run(false)));
  fig.button("Whole curve", () => run(true));
  copyLink(fig, () => toAddress(ADDRESS, state()), alone);
  fig.controls();
  let first = true;
  fig.follow(["network", "treatment"], () => { whole = false; });
  fig.follow(keys, () => {
    if (!first && alone) window.history.replaceState(null, "", toAddress(ADDRESS, state()));
  });
  first = false;

  // --- drawing
  const clean = (name) => name.slice(0, NAMED);

  function filterTiles({ order, norms }, amount) {
    const squares = [], outlines = [], written = [];
    let top = 36;
    order.forEach((filters, k) => {
      const gone = new Set(filters.slice(0, Math.floor(filters.length * amount))), most = Math.max(...norms[k]);
      written.push([8, top - 5, `convolution ${k + 1}: ${gone.size} of ${filters.length} gone`]);
      norms[k].forEach((norm, f) => {
        const x = 8 + 10.75 * (f % 32), y = top + 19 * Math.floor(f / 32);
        squares.push([x, y, 10, gone.has(f) ? 0 : -norm / most, gone.has(f), 18]);
        outlines.push([x, y, 10, 18]);
      });
      top += 19 * Math.ceil(filters.length / 32) + 19;
    });
    return [squares, outlines, written];
  }

  function confusionTiles(table) {
    const squares = [], outlines = [], written = [], [left, top, wide, high] = [72, 40, 28, 17];
    classes.forEach((name, r) => {
      written.push([left - 4, top + high * r + 13, name, { "text-anchor": "end", class: "sbn-small" }]);
      written.push([left + wide * (r + 0.5), top - 5, clean(name), { "text-anchor": "middle", class: "sbn-small" }]);
      const sum = table[r].reduce((a, b) => a + b, 0);
      table[r].forEach((n, c) => {
        const [x, y] = [left + wide * c, top + high * r];
        squares.push([x, y, wide, ((r === c ? -1 : 1) * PALE * n) / Math.max(1, sum), false, high]);
        if (n) written.push([x + wide / 2, y + 13, String(n), { "text-anchor": "middle", class: "sbn-small" }]);
      });
      outlines.push([left + wide * r, top + high * r, wide, high]);
    });
    outlines.push([left, top, wide * classes.length, high * classes.length]);
    return [squares, outlines, written];
  }

  function thumb(image, before, after) {
    const truth = labels[image], say = (k) => classes[k] + (k === truth ? " ✓" : "");
    const spot = `background-position: ${-SHOWN * (image % columns)}px ${-SHOWN * Math.floor(image / columns)}px`;
    const name = `image ${image} of the test set, ${classes[truth]}: called ${classes[before]} before, ${classes[after]} now`;
    const picture = html("span", { role: "img", "aria-label": name, title: name, class: "sbn-thumb", style: `${spot}; background-image: url(${file}); background-size: ${SHOWN * columns}px auto` });
    const neither = before !== truth && after !== truth ? ` (is ${classes[truth]})` : "";
    return html("li", {}, picture, html("span", { "aria-hidden": "true" }, say(before), html("br"), `→ ${say(after)}${neither}`));
  }

  let thumbed = "";
  fig.drawing(() => {
    next();
    const { network, treatment, amount } = state(), kept = answersOf(network, treatment, amount), here = live.get(keyOf(state()));
    const answers = here?.answers ?? kept, intact = answersOf(network, treatments[0], 0);
    const { correct, table, changed } = judge(answers, intact, labels, classes.length);
    const accuracy = (100 * correct) / test, [low, high] = wilson(correct, test).map((v) => 100 * v);
    guess.set(-1, 10, 2, 10);
    own.set(amounts, amounts.map((a) => share(answersOf(network, treatment, a))));
    const line = recorded[network]?.[treatment] ?? [[], []];
    past.set(...line);
    amounts.forEach((a, k) => {
      const one = live.get(keyOf({ network, treatment, amount: a }));
      dots[k].set(one ? a : NaN, one ? share(one.answers) : NaN);
    });
    reach.set(amount, low, amount, high);
    now.set(amount, accuracy);
    filters(filterTiles(networks[network], amount), "more colour: larger norm; crossed out: pruned");
    confusion(confusionTiles(table), "rows: what it is; columns: what it is called");
    const seen = changed.slice(0, THUMBS), mark = `${seen.map((i) => [i, answers[i]])}|${network}`;
    heading.textContent = `Answers that changed: ${changed.length} of ${test}` + (changed.length > THUMBS ? `, the first ${THUMBS}` : "") + (changed.length ? " (before → now; ✓: right)" : "");
    if (mark !== thumbed) thumbs.replaceChildren(...seen.map((i) => thumb(i, intact[i], answers[i])));
    thumbed = mark;

    toggle.textContent = wanted ? "Stop" : "Compute here";
    toggle.setAttribute("aria-pressed", String(wanted));
    const differ = here ? answers.reduce((sum, said, i) => sum + (said !== kept[i]), 0) : 0;
    const shown = here ? `computed in this page: ${differ || "none"} of ${test} answers ${differ === 1 ? "differs" : "differ"} from the stored ones` : "stored answers (PyTorch)";
    const waiting = trouble ? `cannot be computed here: ${trouble}` : pending ? "computing" : wanted ? "done" : "not asked for; press Compute here";
    const removes = treatment.startsWith("removed"), [parameters, macs] = costs[removes ? amounts.indexOf(amount) : 0];
    const gone = networks[network].order.reduce((sum, { length }) => sum + Math.floor(length * amount), 0);
    const all = networks[network].order.reduce((sum, { length }) => sum + length, 0);
    fig.say(
      {
        shown: ["shown", shown],
        state: ["in this page", waiting],
        accuracy: ["right", accuracy, " %"],
        low: ["95 % interval from", low, " %"],
        high: ["to", high, " %"],
        changed: ["answers changed", changed.length],
        gone: [`filters gone, of ${all}`, gone],
        parameters: ["parameters", parameters / 1e3, " thousand"],
        macs: ["multiply-adds per image", macs / 1e6, " million"],
        milliseconds: ["time here", here ? `${show(here.milliseconds)} ms (${here.kind})` : "none yet"],
      },
      `${network}, ${show(100 * amount)} % of the filters ${treatment}: ${show(accuracy)} % of ${test} images right, between ${show(low)} and ` +
        `${show(high)} %; ${changed.length} answers changed. ${shown}.`,
    );
  });
});
