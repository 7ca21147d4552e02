// Makes charts interactive: reads values with the pointer or the arrow keys, and
// selects a range of the axis. The server draws the curves.

const words = {
  step: (x) => `step ${round(x)}`,
  epoch: (x) => `epoch ${round(x)}`,
  time: (x) => {
    const s = Math.round(x);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  },
};

function round(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toFixed(4)));
}

// Returns the index of the nearest value in a sorted list.
function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

// Parses the curves of a chart. `places` are positions in percent.
function read(chart) {
  const lines = [...chart.querySelectorAll("polyline[data-xs]")];
  const numbers = (text) => (text ? text.split(" ").map(Number) : []);
  return lines.map((line) => ({
    name: line.dataset.name,
    colour: line.classList[line.classList.length - 2],
    xs: numbers(line.dataset.xs),
    ys: numbers(line.dataset.ys),
    places: [...line.points].map((point) => [point.x / 10, point.y / 10]),
  })).filter((curve) => curve.xs.length > 0);
}

// Requests a range of the axis from the server, or with null the whole axis.
function showRange(part) {
  const form = document.querySelector("form.view");
  if (form === null) return;
  for (const [i, name] of ["from", "to"].entries()) {
    form.elements[name].value = part === null ? "" : String(Number(part[i].toPrecision(6)));
  }
  form.elements.to.dispatchEvent(new Event("change", { bubbles: true }));
}

const pair = (text) => text.split(" ").map(Number);

// Scales the visible range by a factor around a position.
function zoom(chart, factor, at) {
  const [low, high] = pair(chart.dataset.range);
  const [least, most] = pair(chart.dataset.whole);
  const width = (high - low) * factor;
  if (width >= most - least) return showRange(null);
  const middle = at !== null && at >= low && at <= high ? at : (low + high) / 2;
  const start = Math.max(least, Math.min(middle - width / 2, most - width));
  return showRange([start, start + width]);
}

const known = new WeakSet();

// Adds cursor, zoom and keyboard control to a chart. The curves are read at each
// event, because live pages change them.
function makeInteractive(chart) {
  const label = chart.dataset.label;
  chart.setAttribute("tabindex", "0");
  chart.setAttribute("role", "slider");
  chart.setAttribute("aria-label", `${label}; arrow keys read its values, plus and minus zoom, 0 shows all`);
  const all = read(chart).flatMap((curve) => curve.xs);
  if (all.length === 0) return;
  chart.setAttribute("aria-valuemin", String(Math.min(...all)));
  chart.setAttribute("aria-valuemax", String(Math.max(...all)));
  if (!chart.hasAttribute("aria-valuenow")) chart.setAttribute("aria-valuenow", String(Math.max(...all)));
  if (known.has(chart)) return;
  known.add(chart);

  const field = chart.querySelector(".field");
  const reading = chart.parentElement.querySelector(".reading");
  let cursor = null;
  let at = null;

  const hide = () => {
    cursor?.remove();
    cursor = null;
    reading.replaceChildren();
  };

  const show = (x) => {
    const curves = read(chart);
    if (curves.length === 0) return;
    at = x;
    cursor?.remove();
    cursor = document.createElementNS("http://www.w3.org/2000/svg", "g");
    cursor.setAttribute("class", "cursor");
    const add = (kind, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      cursor.append(element);
    };
    const texts = [];
    const parts = [];
    for (const [i, curve] of curves.entries()) {
      const place = nearest(curve.xs, x);
      // Skip curves without a point near the cursor.
      const distance = Math.abs(curve.xs[place] - x);
      const width = Math.max(...curve.xs) - Math.min(...curve.xs);
      if (distance > width / 20 + 1e-9 && curves.length > 1) continue;
      const [px, py] = curve.places[place];
      if (i === 0 || parts.length === 0) add("line", { x1: `${px}%`, x2: `${px}%`, y1: "0", y2: "100%" });
      add("circle", { cx: `${px}%`, cy: `${py}%`, r: "4", class: curve.colour });
      const text = `${curve.name} ${round(curve.ys[place])}`;
      texts.push(text);
      const part = document.createElement("span");
      part.className = `key ${curve.colour}`;
      const name = document.createElement("bdi");
      name.textContent = text;
      part.append(name);
      parts.push(part);
    }
    field.append(cursor);
    const where = (words[chart.dataset.x] ?? words.step)(x);
    const title = document.createElement("b");
    title.textContent = where;
    reading.replaceChildren(title, ...parts);
    chart.setAttribute("aria-valuenow", String(x));
    chart.setAttribute("aria-valuetext", `${where}: ${texts.join(", ")}`);
  };

  // Dragging with a mouse selects a range; touch only reads values.
  let begun = null;
  let part = null;
  const shareOf = (event) => {
    const box = field.getBoundingClientRect();
    return Math.max(0, Math.min(100, ((event.clientX - box.left) / box.width) * 100));
  };
  const stop = () => {
    part?.remove();
    begun = null;
    part = null;
  };
  chart.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    begun = shareOf(event);
    chart.setPointerCapture(event.pointerId);
    event.preventDefault();
    chart.focus({ preventScroll: true });
  });
  chart.addEventListener("pointercancel", stop);
  chart.addEventListener("pointerup", (event) => {
    if (begun === null) return;
    const shares = [begun, shareOf(event)].sort((a, b) => a - b);
    stop();
    if (shares[1] - shares[0] < 1) return;
    const [low, high] = pair(chart.dataset.range);
    showRange(shares.map((share) => low + (share / 100) * (high - low)));
  });
  chart.addEventListener("dblclick", () => showRange(null));

  chart.addEventListener("pointermove", (event) => {
    const share = shareOf(event);
    if (begun !== null) {
      part ??= field.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
      const rect = { class: "part", x: `${Math.min(begun, share)}%`, y: "0", width: `${Math.abs(share - begun)}%`, height: "100%" };
      for (const [name, value] of Object.entries(rect)) part.setAttribute(name, value);
    }
    let best = null;
    for (const curve of read(chart)) {
      const places = curve.places.map(([px]) => px);
      const place = nearest(places, share);
      const distance = Math.abs(places[place] - share);
      if (best === null || distance < best.distance) best = { distance, x: curve.xs[place] };
    }
    if (best !== null) show(best.x);
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("focus", () => {
    if (at !== null && chart.matches(":focus-visible")) show(at);
  });
  chart.addEventListener("keydown", (event) => {
    const keys = { "+": 0.5, "=": 0.5, "-": 2 };
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (isPlain && event.key in keys) {
      event.preventDefault();
      return zoom(chart, keys[event.key], at);
    }
    if (isPlain && (event.key === "0" || event.key === "Escape")) {
      event.preventDefault();
      return showRange(null);
    }
    const xs = [...new Set(read(chart).flatMap((curve) => curve.xs))].sort((a, b) => a - b);
    if (xs.length === 0) return;
    const here = at === null ? xs.length - 1 : nearest(xs, at);
    const page = Math.max(1, Math.round(xs.length / 10));
    const to = {
      ArrowLeft: here - 1, ArrowRight: here + 1, ArrowDown: here - 1, ArrowUp: here + 1,
      PageDown: here - page, PageUp: here + page, Home: 0, End: xs.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(xs[Math.min(Math.max(to, 0), xs.length - 1)]);
  });
}

export function charts(root) {
  for (const chart of root.querySelectorAll(".chart[data-x]")) makeInteractive(chart);
}
