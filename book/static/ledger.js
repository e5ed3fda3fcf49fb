// Filters the ledger's table by words, paper, kind and verdict. The choice stands in the address, so that it can be
// sent; an address that ends in a row's name opens that row. Without this script the whole table is there to read.
(() => {
  const table = document.getElementById("ledger");
  const place = document.getElementById("ledger-filter");
  const rows = [...table.querySelectorAll("tbody[id]")];
  const heads = [...table.querySelectorAll("tbody.section")];
  const fields = {};

  const labelled = (name, words, control) => {
    control.id = `ledger-${name}`;
    const label = Object.assign(document.createElement("label"), { htmlFor: control.id, textContent: words });
    const pair = document.createElement("span");
    pair.append(label, control);
    place.append(pair);
    fields[name] = control;
    control.addEventListener("input", () => { show(); remember(); });
  };
  const select = (name, words) => {
    const count = new Map();
    for (const row of rows) count.set(row.dataset[name], (count.get(row.dataset[name]) ?? 0) + 1);
    const control = document.createElement("select");
    control.append(new Option(`all (${rows.length})`, ""));
    for (const [value, n] of count) control.append(new Option(`${value} (${n})`, value));
    labelled(name, words, control);
  };

  labelled("words", "words", Object.assign(document.createElement("input"), { type: "search" }));
  select("verdict", "verdict");
  select("kind", "kind");
  select("paper", "paper");
  const clear = Object.assign(document.createElement("button"), { type: "button", textContent: "show all" });
  clear.addEventListener("click", () => {
    for (const field of Object.values(fields)) field.value = "";
    show();
    remember();
  });
  const said = document.createElement("output");
  place.append(clear, said);
  place.hidden = false;

  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function show() {
    const words = fields.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const chosen = ["verdict", "kind", "paper"].every((name) => !fields[name].value || row.dataset[name] === fields[name].value);
      row.hidden = !(chosen && words.every((word) => text.get(row).includes(word)));
      left += !row.hidden;
    }
    for (const head of heads) {
      let next = head.nextElementSibling;
      while (next?.id && next.hidden) next = next.nextElementSibling;
      head.hidden = !next?.id;
    }
    said.textContent = left === 1 ? "1 row" : `${left} of ${rows.length} rows`;
  }

  function remember() {
    const state = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value) state.set(name, field.value);
    history.replaceState(null, "", String(state) ? `#${state}` : location.pathname + location.search);
  }

  function read() {
    const name = decodeURIComponent(location.hash.slice(1));
    const row = rows.find(({ id }) => id === name);
    const state = new URLSearchParams(row ? "" : location.hash.slice(1));
    for (const [key, field] of Object.entries(fields)) field.value = state.get(key) ?? "";
    for (const field of Object.values(fields)) if (field.selectedIndex === -1) field.value = "";
    show();
    if (row) {
      row.querySelector("details").open = true;
      row.scrollIntoView();
    }
  }

  addEventListener("hashchange", read);
  read();
})();
