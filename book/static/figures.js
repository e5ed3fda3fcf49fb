// Brings every figure of the page to life from the widget state that the notebook run left in it: no kernel, no
// widget manager, no request. Only figures of bridgeout_lite.widgets (they carry their own JavaScript) are mounted.
addEventListener("DOMContentLoaded", async () => {
  const views = [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')];
  let models = {}, broken = null;
  try {
    for (const tag of document.querySelectorAll('script[type="application/vnd.jupyter.widget-state+json"]')) {
      Object.assign(models, JSON.parse(tag.textContent).state);
    }
  } catch (error) {
    broken = `its data is damaged (${error.message})`;
  }
  for (const view of views) {
    const place = document.createElement("div");
    view.before(place);
    try {
      if (broken) throw new Error(broken);
      const found = models[JSON.parse(view.textContent).model_id];
      if (!found?.state?._esm) throw new Error("it needs a running kernel; open this chapter as a notebook");
      const { _esm, _css } = found.state;
      style(_css ?? "");
      const address = URL.createObjectURL(new Blob([_esm], { type: "text/javascript" }));
      const module = await import(address);
      await module.default.render({ model: still(found), el: place });
    } catch (error) {
      const words = Object.assign(document.createElement("p"), { textContent: `This figure cannot be drawn: ${error.message}` });
      words.setAttribute("role", "alert");
      place.replaceChildren(words);
    }
  }
});

const styles = new Set();

function style(text) {
  if (styles.has(text)) return;
  styles.add(text);
  document.head.append(Object.assign(document.createElement("style"), { textContent: text }));
}

// A widget model with no kernel behind it. It has no send(): a figure sees by that what it cannot ask for.
function still({ state, buffers = [] }) {
  const data = { ...state }, listeners = {};
  for (const { path, data: text } of buffers) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const last = path.at(-1);
    path.slice(0, -1).reduce((part, key) => part[key], data)[last] = new DataView(bytes.buffer);
  }
  const call = (event, ...values) => (listeners[event] ?? []).forEach((listener) => listener(...values));
  return {
    get: (key) => data[key],
    set(key, value) {
      if (data[key] === value) return;
      data[key] = value;
      call(`change:${key}`);
    },
    on(event, listener) { (listeners[event] ??= []).push(listener); },
    off(event, listener) { listeners[event] = (listeners[event] ?? []).filter((other) => other !== listener); },
    save_changes() {},
  };
}
