// Live pages. <main data-topics="devices approvals"> says what the page is about. When the service says that something
// of it changed, the page is fetched again, and those elements with data-live that differ are put in the places of the
// old ones, by id. Nothing else moves. While somebody selects or fills in a form, it waits.
//
// The stream is read with fetch, not EventSource: the service sends a comment every second, and only so can it be seen
// that the line still stands.
import { announce } from "./announce.js";

const SILENCE = 8000; // milliseconds without any sign of life
const main = document.querySelector("main[data-topics]");
const topics = new Set(main ? main.dataset.topics.split(" ") : []);

let heard = 0; // when the service was last heard
let shownAt = new Date(); // when what is shown was true
let stale = false; // something changed that is not shown
let refreshing = false;

function busy() {
  const at = document.activeElement;
  if (at && at.matches("main input:not([type=checkbox]), main textarea, main select")) return true;
  if (document.querySelector("main [data-select] input:checked, main dialog[open], main form[data-dirty]")) return true;
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed);
}

function say() {
  const now = Date.now();
  const lost = now - heard > SILENCE;
  let words;
  if (lost) words = (heard ? "Reconnecting, shown as of " : "Connecting, shown as of ") + clock(shownAt);
  else if (stale && busy()) words = "Paused, shown as of " + clock(shownAt);
  else words = "Live";
  for (const indicator of document.querySelectorAll("[data-indicator]")) {
    indicator.classList.toggle("on", !lost);
    indicator.classList.toggle("lost", lost && heard > 0);
    const use = indicator.querySelector("use");
    if (use) use.setAttribute("href", lost && heard > 0 ? "#i-warn" : "#i-dot");
    const place = indicator.querySelector("[data-indicator-words]");
    if (place && place.textContent !== words) place.textContent = words;
  }
}

function clock(date) {
  return date.toISOString().slice(11, 19);
}

function fetchPage() {
  // An XMLHttpRequest parses without running anything, and no text becomes markup by our hand.
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.responseType = "document";
    request.timeout = 30000;
    request.onload = () => resolve(request);
    request.onerror = request.ontimeout = reject;
    request.send();
  });
}

async function refresh() {
  if (refreshing || !stale || document.hidden || busy()) return;
  refreshing = true;
  stale = false;
  try {
    const asked = new Date();
    const answer = await fetchPage();
    if (new URL(answer.responseURL).pathname !== location.pathname) {
      location.reload(); // the session is over: the service sends this page to the sign-in
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
    refreshing = false;
  }
}

function swap(fresh) {
  const told = [];
  for (const element of document.querySelectorAll("[data-live][id]")) {
    const other = fresh.getElementById(element.id);
    if (!other || other.isEqualNode(element)) continue;
    if (element.contains(document.activeElement) && document.activeElement !== document.body) {
      const focused = document.activeElement.id;
      element.replaceWith(document.adoptNode(other));
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    } else {
      element.replaceWith(document.adoptNode(other));
    }
    if (other.dataset.tell) told.push(other.dataset.tell);
  }
  if (told.length) announce(told.join(". "));
}

function concerns(data) {
  try {
    return JSON.parse(data).topics.some((topic) => topics.has(topic));
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

async function listen() {
  let pause = 500;
  for (;;) {
    const line = new AbortController();
    const watch = setInterval(() => {
      if (heard && Date.now() - heard > SILENCE) line.abort();
    }, 1000);
    try {
      const answer = await fetch("/events", { signal: line.signal, cache: "no-store" });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (!answer.ok || !answer.body) throw new Error("no stream");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      if (heard) stale = true; // what happened in between, nobody told
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        heard = Date.now();
        pause = 500;
        rest += value.replaceAll("\r", "");
        const blocks = rest.split("\n\n");
        rest = blocks.pop().slice(-65536);
        blocks.forEach(take);
      }
    } catch {
      // It is said by the indicator. Values stay, with their time; acts stay possible, the service checks them.
    } finally {
      clearInterval(watch);
    }
    await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
    pause = Math.min(pause * 2, 15000);
  }
}

if (main && "TextDecoderStream" in window) {
  document.addEventListener("input", (event) => {
    const form = event.target.closest("main form");
    if (form) form.dataset.dirty = "";
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(() => {
    say();
    refresh();
  }, 1000);
  listen();
}
