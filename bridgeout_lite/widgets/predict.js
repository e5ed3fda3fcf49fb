// Prediction locks (predict.py): a reader commits to an answer before it, and what follows it, opens. A plain script: a
// page of the book loads it once, a notebook has it beside each lock.
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  };
  const rich = (tag, ...parts) => make(tag, { innerHTML: parts.join("") });
  const show = (value) => String(value).replace("-", "−");

  /** What the browser keeps for this page; one that may keep nothing forgets. */
  const memory = (action, ...values) => { try { return localStorage[action](...values); } catch { return null; } };

  /** Radio buttons from the list of choices: [what is shown, the reader's answer, set it, what to say to it]. */
  function choices(ask, answer) {
    const told = [...answer.querySelectorAll("li")];
    const name = `predict-${ask.parentNode.dataset.name}`; // the browser groups radio buttons by it
    const inputs = told.map((_, k) => make("input", { type: "radio", name, value: k }));
    const rows = [...ask.querySelectorAll("li")].map((li, k) =>
      make("label", { className: "sbn-choice" }, inputs[k], rich("span", li.innerHTML)));
    const right = told.findIndex((li) => "right" in li.dataset);
    const words = (k) => told[k].querySelector("span").innerHTML;
    const bold = (k) => told[k].querySelector("b").outerHTML;
    return {
      rows,
      get: () => inputs.find((input) => input.checked)?.value,
      set: (value) => inputs.forEach((input, k) => { input.checked = String(k) === value; }),
      mark: (open) => rows.forEach((row, k) => row.classList.toggle("sbn-right", open && k === right)),
      right: (value) => +value === right,
      say: (value) => value === "" || +value === right
        ? [rich("p", `It is: ${bold(right)}. `, words(right))]
        : [rich("p", words(+value)), rich("p", `It is: ${bold(right)}. `, words(right))],
      fits: (value) => value === "" || value in told,
    };
  }

  /** A slider over the stops of a number, in the same way. */
  function slider(ask, answer) {
    const { stops, answer: truth, within, unit } = JSON.parse(ask.querySelector("[data-number]").dataset.number);
    const input = make("input", { type: "range", min: 0, max: stops.length - 1, step: 1, value: 0 });
    let touched = false; // where the slider starts is nobody's guess
    const output = make("output"), mark = make("span", { className: "sbn-mark", hidden: true });
    output.setAttribute("aria-live", "off");
    mark.setAttribute("aria-hidden", "true");
    const follow = () => {
      output.textContent = touched ? show(stops[input.value]) + unit : "?";
      input.setAttribute("aria-valuetext", touched ? output.textContent : "not set");
    };
    input.addEventListener("input", () => { touched = true; follow(); });
    const above = stops.findIndex((stop) => stop >= truth), below = Math.max(0, above - 1);
    const place = above ? below + (truth - stops[below]) / (stops[above] - stops[below]) : 0;
    mark.style.setProperty("--place", place / (stops.length - 1));
    const off = (value) => stops[value] - truth;
    const right = (value) => Math.abs(off(value)) <= within + 1e-12;
    const side = (value) => answer.querySelector(`[data-side="${off(value) < 0 ? "low" : "high"}"] span`).innerHTML;
    const truthSaid = answer.querySelector(".sbn-truth").innerHTML;
    return {
      rows: [make("label", { className: "sbn-guess" }, make("span", {}, "Your guess"), input, output), mark],
      get: () => (touched ? input.value : undefined),
      set: (value) => { touched = value !== ""; input.value = value || 0; follow(); },
      mark: (open) => { mark.hidden = !open; },
      right,
      say: (value) => value === "" || right(value)
        ? [rich("p", truthSaid)]
        : [rich("p", `You said ${show(stops[value])}${unit}. `, truthSaid), rich("p", side(value))],
      fits: (value) => value === "" || value in stops,
    };
  }

  /** On a page, what a lock covers: outputs after it, and prose from "What happened" to the next cell or heading. */
  function following(lock) {
    const found = [];
    let told = false;
    for (let node = lock.closest(".cell")?.nextElementSibling; node; node = node.nextElementSibling) {
      const cell = node.matches(".cell");
      if (/^(H\d|SECTION)$/.test(node.tagName) || node.querySelector(".sbn-predict") || (told && cell)) break;
      told ||= /^\s*What happened/.test(node.textContent);
      if (told) found.push(node);
      else if (cell) found.push(...node.querySelectorAll(".cell_output"));
    }
    return told ? found : [];
  }

  function prepare(lock) {
    lock.dataset.ready = "";
    const key = `sbn-predict:${lock.dataset.name}`;
    const ask = lock.querySelector(".sbn-ask"), answer = lock.querySelector(".sbn-answer");
    const field = ask.querySelector("[data-number]") ? slider(ask, answer) : choices(ask, answer);
    const covered = "opens" in lock.dataset ? following(lock) : [];
    const fields = make("fieldset", {}, rich("legend", ask.querySelector(".sbn-question").innerHTML), ...field.rows);
    const verdict = make("div", { className: "sbn-verdict" });
    verdict.setAttribute("role", "status");
    verdict.setAttribute("aria-live", "polite");
    const main = make("button", { type: "button" }), skip = make("button", { type: "button" }, "Just show me");
    const note = make("span", { className: "sbn-note" }, "What follows opens with the answer.");

    function open(value) {
      lock.classList.add("sbn-open");
      field.set(value);
      const right = value !== "" && field.right(value);
      const head = value === "" ? "" : right ? "Right." : "Not so.";
      const because = answer.querySelector(".sbn-because");
      verdict.className = `sbn-verdict ${value === "" ? "" : right ? "sbn-yes" : "sbn-no"}`;
      verdict.replaceChildren(...field.say(value), ...(because ? [rich("p", because.innerHTML)] : []));
      if (head) verdict.firstChild.prepend(make("b", {}, head), " ");
      arrange(true);
    }
    function close() {
      lock.classList.remove("sbn-open");
      field.set("");
      verdict.className = "sbn-verdict";
      verdict.replaceChildren();
      arrange(false);
    }
    function arrange(isOpen) {
      fields.disabled = isOpen;
      field.mark(isOpen);
      answer.querySelector("summary").textContent = "All answers";
      main.textContent = isOpen ? "Ask me again" : "Commit";
      skip.hidden = isOpen;
      note.hidden = isOpen || !covered.length;
      for (const node of covered) node.classList.toggle("sbn-covered", !isOpen);
    }
    function commit(value) {
      if (value === undefined) return verdict.replaceChildren(make("p", {}, "Answer first, or have it shown."));
      memory("setItem", key, value);
      open(value);
      main.focus({ preventScroll: true }); // the field that had the focus is closed now
    }
    main.addEventListener("click", () => {
      if (!fields.disabled) return commit(field.get());
      memory("removeItem", key);
      close();
      (fields.querySelector("input:checked") ?? fields.querySelector("input")).focus({ preventScroll: true });
    });
    skip.addEventListener("click", () => commit(""));
    fields.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // or the key would press the button that then has the focus
      commit(field.get());
    });
    // JupyterLab takes the arrow keys from every focused element that lacks this attribute
    lock.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", ""));
    for (const [event, state] of [["beforeprint", true], ["afterprint", false]]) {
      addEventListener(event, () => { answer.open = state; });
    }
    ask.replaceChildren(fields, verdict, make("div", { className: "sbn-buttons" }, main, skip, note));
    const kept = memory("getItem", key);
    if (kept !== null && field.fits(kept)) open(kept);
    else close();
  }

  const all = () => document.querySelectorAll(".sbn-predict:not([data-ready])").forEach(prepare);
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", all);
  else all();
})();
