// Progressive enhancement: refreshes live parts of pages, follows logs, shows the
// progress of uploads. Without it, every page works and is current after a reload.
import { charts } from "./charts.js";

// Converts times to the browser's time zone.
function localTimes(root) {
  const form = new Intl.DateTimeFormat([], {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
    hourCycle: "h23", timeZoneName: "short",
  });
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    const part = {};
    for (const { type, value } of form.formatToParts(date)) part[type] = value;
    time.textContent = `${part.year}-${part.month}-${part.day} ${part.hour}:${part.minute} ${part.timeZoneName}`;
    time.title = time.dateTime;
  }
}

// `morph` updates an element to match a new one. It changes only differences, so
// that selection, focus and ticked boxes survive. Attributes in `scripted` are set
// by charts.js and kept on charts.
const scripted = new Set(["tabindex", "role", "aria-label", "aria-valuenow", "aria-valuemin",
  "aria-valuemax", "aria-valuetext"]);

function attributes(have, want) {
  const chart = have.classList.contains("chart");
  const kept = (name) => (chart && scripted.has(name)) || (have.nodeName === "DETAILS" && name === "open");
  for (const { name } of [...have.attributes]) {
    if (!want.hasAttribute(name) && !kept(name)) have.removeAttribute(name);
  }
  for (const { name, value } of want.attributes) {
    if (have.getAttribute(name) !== value && !kept(name)) have.setAttribute(name, value);
  }
}

const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset.key ?? (node.id || null) : null);

function morph(have, want) {
  const keyed = new Map();
  for (const node of have.children) if (key(node) !== null) keyed.set(key(node), node);
  let next = have.firstChild;
  for (const wanted of [...want.childNodes]) {
    const name = key(wanted);
    let found = name === null ? next : keyed.get(name) ?? null;
    const alike = found !== null && found.nodeName === wanted.nodeName && key(found) === name;
    if (!alike) {
      have.insertBefore(wanted, next);
      continue;
    }
    if (found === next) next = next.nextSibling;
    else have.insertBefore(found, next);
    if (found.nodeType !== Node.ELEMENT_NODE) {
      if (found.data !== wanted.data) found.data = wanted.data;
      continue;
    }
    if ("keep" in found.dataset) continue;
    attributes(found, wanted);
    morph(found, wanted);
  }
  while (next !== null) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

// Tells the user while the server does not answer.
const connection = document.querySelector("#connection");
let lost = null;
function setConnected(isConnected) {
  if (connection === null) return;
  if (isConnected) {
    lost = null;
    connection.textContent = "";
  } else if (lost === null) {
    lost = new Date();
    const time = lost.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    connection.textContent = `The server has not answered since ${time}. This page may be out of date.`;
  }
}

async function load(address) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  // A proxy answers 502 to 504 if the server is down.
  if (answer.status >= 500) throw new Error(answer.statusText);
  setConnected(true);
  if (!answer.ok || answer.redirected) return null;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  localTimes(page);
  return page;
}

// Returns whether the user has selected text in a part, which an update would lose.
function isSelected(part) {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed && selection.containsNode(part, true);
}

// Updates the number of selected runs of a list, and the box that selects all.
function updateSelection() {
  const boxes = [...document.querySelectorAll("#runs input[name=run]")];
  const chosen = boxes.filter((box) => box.checked).length;
  for (const all of document.querySelectorAll("#runs input[data-all]")) {
    all.hidden = boxes.length === 0;
    all.checked = chosen > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
  for (const count of document.querySelectorAll("#runs [data-count]")) {
    const text = chosen === 0 ? "No runs are selected: the CSV file contains the whole list." : `${chosen} selected`;
    if (count.textContent !== text) count.textContent = text;
  }
}

document.addEventListener("change", ({ target }) => {
  if (target.matches("#runs input[data-all]")) {
    for (const box of document.querySelectorAll("#runs input[name=run]")) box.checked = target.checked;
  }
  if (target.closest("#runs") !== null) updateSelection();
});

function enhance(root) {
  charts(root);
  updateSelection();
  for (const form of root.querySelectorAll("form[data-auto]")) form.classList.add("auto");
}

// Replaces the content of this page by that of another address.
async function replace(address) {
  const page = await load(address);
  if (page === null) return location.assign(address);
  const main = document.querySelector("main");
  morph(main, page.querySelector("main"));
  // `morph` does not change typed values; reset them to those of the new view.
  for (const field of main.querySelectorAll("form[data-auto] input")) field.value = field.getAttribute("value") ?? "";
  enhance(main);
  return undefined;
}

// Refreshes the live parts of the page. Returns whether they can still change.
async function refresh(live) {
  const page = await load(live.dataset.live);
  if (page === null) return false;
  for (const fresh of [...page.body.children]) {
    const part = document.getElementById(fresh.id);
    if (part === null || isSelected(part)) continue;
    morph(part, fresh);
    enhance(part);
  }
  return page.querySelector("[data-final]") === null;
}

for (const live of document.querySelectorAll("[data-live]")) {
  const pause = Number(live.dataset.every ?? 2) * 1000;
  const again = async () => {
    let more = true;
    // Hidden tabs are not refreshed.
    if (!document.hidden && live.dataset.live !== undefined) {
      more = await refresh(live).catch(() => { setConnected(false); return true; });
    }
    if (more) setTimeout(again, pause);
    else await replace(location.href).catch(() => setConnected(false));
  };
  setTimeout(again, pause);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && live.dataset.live !== undefined) refresh(live).catch(() => setConnected(false));
  });
}

// Appends new lines to the log of a run.
for (const log of document.querySelectorAll("[data-follow]")) {
  const known = Number(log.dataset.lines);
  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.scrollTop = log.scrollHeight;
  const lines = new EventSource(log.dataset.follow);
  let seen = 0;
  lines.onmessage = (message) => {
    const follow = atEnd();
    for (const line of message.data.split("\n")) {
      seen += 1;
      // The stream starts with the lines that the page already contains.
      if (seen > known) log.append(line + "\n");
    }
    if (follow) log.scrollTop = log.scrollHeight;
  };
  lines.addEventListener("end", () => lines.close());
}

// Forms that are submitted by each change.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-auto]");
  if (form === null) return;
  const fields = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...fields]) if (value === "") fields.delete(name, value);
  const address = new URL(`${form.getAttribute("action")}?${fields}`, location.href);
  history.replaceState(null, "", address);
  for (const live of document.querySelectorAll("[data-live]")) {
    const from = new URL(address);
    from.searchParams.set("part", "live");
    live.dataset.live = from;
  }
  replace(address.href).catch(() => setConnected(false));
});

// Uploads: shows the progress, and keeps the chosen file after an error.
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-upload]");
  if (form === null) return;
  event.preventDefault();
  const bar = form.querySelector("progress");
  const status = form.querySelector("[role=status]");
  const button = form.querySelector("[type=submit]");
  const end = (text) => {
    bar.hidden = true;
    status.textContent = text;
    button.disabled = false;
  };
  const request = new XMLHttpRequest();
  request.responseType = "document";
  request.upload.onprogress = ({ loaded, total }) => {
    bar.max = total;
    bar.value = loaded;
    status.textContent = loaded < total
      ? `${Math.floor((100 * loaded) / total)} % sent`
      : "The server is reading the file.";
  };
  request.onload = () => {
    const here = new URL(form.action).pathname;
    if (new URL(request.responseURL).pathname !== here) {
      location.assign(request.responseURL);
      return;
    }
    const answer = request.response?.querySelector("main");
    if (!answer) return end("The server's answer can't be read. Send the file again.");
    const main = document.querySelector("main");
    morph(main, answer);
    enhance(main);
    end("");
    main.querySelector("[role=alert]")?.scrollIntoView({ block: "center" });
  };
  request.onerror = () => end("The connection broke. Send the file again.");
  request.open("POST", form.action);
  request.send(new FormData(form));
  bar.hidden = false;
  button.disabled = true;
});

localTimes(document);
enhance(document);

// Sends the result of a login to the waiting program.
for (const form of document.querySelectorAll("form[data-submit]")) form.requestSubmit();
