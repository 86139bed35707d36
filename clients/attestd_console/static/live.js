// Live pages. <main data-topics="devices approvals"> says what the page is about, and data-device, where it is about one
// device alone, whose. When the service says that something of it changed, the page is fetched again, and what differs is
// put in the place of what was there, by id. Nothing else moves:
//
//   data-live       an element that is replaced whole
//   data-still      with it: what lies below does not move (still.js)
//   data-rows       a table's body: its rows are replaced in their places; new ones wait behind "3 new, show" in the
//                   slot above it, <div data-newer="ID"><button hidden>, until somebody presses it
//
// While somebody selects or fills in a form, it waits. A hidden page closes its stream, and looks again when it is seen.
//
// The stream is read with fetch, not EventSource: the service sends a comment every second, and only so can it be seen
// that the line still stands; and a refusal has a status, which tells a session that is over from a service that is away.
import { announce } from "./announce.js";
import { settle } from "./still.js";

const SILENCE = 8000; // milliseconds without any sign of life
const UNATTENDED = "Attestd-Unattended"; // says that nobody asked for this: a page left open keeps no session alive
const LEAST = 2000; // milliseconds between two looks; more where the service takes long to answer
const OF_ALL = ["edges", "receipts"]; // topics whose news name no devices and may be about any
const main = document.querySelector("main[data-topics]");
const topics = new Set(main ? main.dataset.topics.split(" ") : []);

let heard = 0; // when the service was last heard
let shownAt = Date.now(); // when what is shown was true
let stale = false; // something changed that is not shown
let refreshing = false;
let next = 0; // not before then is looked again
let over = false; // the session is
let line = null; // what is listened to

function busy() {
  const at = document.activeElement;
  if (at && at.matches("main input:not([type=checkbox]), main textarea, main select")) return true;
  if (document.querySelector("main [data-select] input:checked, main dialog[open], main form[data-dirty]")) return true;
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed);
}

function state() {
  if (over) return ["Signed out", "sign in to go on", "lost"];
  if (Date.now() - heard > SILENCE) {
    return heard ? ["Reconnecting", `shown as of ${clock(shownAt)}`, "lost"] : ["Connecting", `shown as of ${clock(shownAt)}`, ""];
  }
  if (stale && busy()) return ["Paused", `shown as of ${clock(shownAt)}`, "on"];
  return ["Live", ago(Date.now() - shownAt), "on"];
}

function say() {
  const [words, time, look] = state();
  for (const indicator of document.querySelectorAll("[data-indicator]")) {
    indicator.classList.toggle("on", look === "on");
    indicator.classList.toggle("lost", look === "lost");
    // One text in one place: of two, the second would move whenever the first has another length.
    write(indicator.querySelector("[data-indicator-words]"), `${words}, ${time}`);
    const use = indicator.querySelector("use");
    const shape = look === "lost" ? "#i-warn" : "#i-dot";
    if (use && use.getAttribute("href") !== shape) use.setAttribute("href", shape);
  }
}

function write(place, text) {
  if (place && place.textContent !== text) place.textContent = text;
}

function clock(at) {
  return new Date(at).toISOString().slice(11, 19);
}

function ago(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
}

function fetchPage() {
  // An XMLHttpRequest parses without running anything, and no text becomes markup by our hand.
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.setRequestHeader(UNATTENDED, "1");
    request.responseType = "document";
    request.timeout = 30000;
    request.onload = () => resolve(request);
    request.onerror = request.ontimeout = reject;
    request.send();
  });
}

async function refresh() {
  if (refreshing || !stale || over || document.hidden || busy() || Date.now() < next) return;
  refreshing = true;
  stale = false;
  const asked = Date.now();
  try {
    const answer = await fetchPage();
    if (answer.status === 401 || new URL(answer.responseURL).pathname !== location.pathname) {
      over = true; // the service sends this page to the sign-in
      return;
    }
    if (answer.status !== 200 || !answer.response) throw new Error("no page");
    if (busy()) {
      stale = true;
      return;
    }
    swap(answer.response);
    shownAt = asked;
  } catch {
    stale = true;
  } finally {
    next = Date.now() + Math.max(LEAST, 5 * (Date.now() - asked));
    refreshing = false;
  }
}

function swap(fresh) {
  const told = [];
  for (const element of document.querySelectorAll("[data-live][id]")) {
    const other = fresh.getElementById(element.id);
    const before = element.dataset.tell;
    if (other && put(element, other) && other.dataset.tell && other.dataset.tell !== before) told.push(other.dataset.tell);
  }
  for (const rows of document.querySelectorAll("[data-rows][id]")) {
    const other = fresh.getElementById(rows.id);
    if (other) swapRows(rows, other);
  }
  if (told.length) announce(told.join(". "));
}

function put(element, other) {
  if (other.isEqualNode(element)) return false;
  const at = document.activeElement;
  const focused = at !== document.body && element.contains(at) ? at.id : "";
  if ("still" in element.dataset) {
    if (!settle(element, other)) return false;
  } else element.replaceWith(document.adoptNode(other));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  return true;
}

function swapRows(rows, fresh) {
  const shown = new Set(Array.from(rows.children, (row) => row.id));
  const added = Array.from(fresh.children).filter((row) => row.id && !shown.has(row.id)).length;
  const whole = fresh.cloneNode(true);
  for (const row of Array.from(rows.children)) {
    const other = row.id && fresh.ownerDocument.getElementById(row.id);
    if (other) put(row, other);
  }
  const button = document.querySelector(`[data-newer="${CSS.escape(rows.id)}"] button`);
  if (!button || !added) return;
  button.hidden = false;
  write(button, `${added} new, show`);
  button.onclick = () => {
    button.hidden = true;
    document.getElementById(rows.id).replaceWith(document.adoptNode(whole));
    announce(`${added} new rows are shown`);
  };
}

function concerns(data) {
  try {
    const news = JSON.parse(data);
    if (OF_ALL.some((topic) => news.topics.includes(topic) && topics.has(topic))) return true;
    const mine = main.dataset.device;
    if (mine && news.devices && !news.devices.includes(mine)) return false;
    return news.topics.some((topic) => topics.has(topic));
  } catch {
    return true; // a newer service says it otherwise: look
  }
}

function take(block) {
  // One event of the stream (WHATWG HTML, 9.2.6): here only its kind and data matter.
  let kind = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trim());
  }
  if (kind === "changed" && concerns(data.join("\n"))) {
    stale = true;
    setTimeout(refresh, 50 + Math.random() * 200); // many pages hear the same
  }
}

async function hear(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard = Date.now();
    rest += value.replaceAll("\r", "");
    const blocks = rest.split("\n\n");
    rest = blocks.pop().slice(-65536);
    blocks.forEach(take);
  }
}

async function listen() {
  let pause = 500;
  while (!over) {
    if (document.hidden) {
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      continue;
    }
    line = new AbortController();
    const before = heard;
    try {
      // What happened between the making of this page and now is told first; after that, what was missed is looked at.
      const since = heard ? "" : `?since=${main.dataset.rendered ?? ""}`;
      const answer = await fetch(`/events${since}`, { signal: line.signal, cache: "no-store", headers: { [UNATTENDED]: "1" } });
      if (answer.status === 401) over = true;
      if (!answer.ok || !answer.body) throw new Error("no stream");
      if (heard) stale = true;
      await hear(answer);
    } catch {
      // The indicator says it. Values stay, with their time; acts stay possible, the service checks them.
    }
    if (heard > before) pause = 500;
    await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
    pause = Math.min(pause * 2, 15000);
  }
}

function everySecond() {
  if (heard && Date.now() - heard > SILENCE) line?.abort();
  if (over && !busy()) {
    location.reload(); // to the sign-in, and back here
    return;
  }
  say();
  refresh();
}

if (main && "TextDecoderStream" in window) {
  document.addEventListener("input", (event) => {
    const form = event.target.closest("main form");
    if (form) form.dataset.dirty = "";
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) line?.abort();
    else refresh();
  });
  setInterval(everySecond, 1000);
  listen();
}
