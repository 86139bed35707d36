// The keyboard, as /help lists it. No single key acts on a device. <html data-keys="off"> switches all of it off.
import { announce } from "./announce.js";

let going = 0; // when "g" was pressed

function typing(target) {
  return target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
}

function rows() {
  return [...document.querySelectorAll("main [data-row]")];
}

function current() {
  return rows().findIndex((row) => row.classList.contains("at"));
}

function goTo(index) {
  const all = rows();
  const row = all[Math.max(0, Math.min(index, all.length - 1))];
  if (!row) return;
  for (const other of all) other.classList.toggle("at", other === row);
  const link = row.querySelector("a[href]");
  if (link) link.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

function select(index, range) {
  const row = rows()[index];
  const box = row && row.querySelector("input[type=checkbox]");
  if (!box) return;
  box.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, shiftKey: range }));
}

const acts = {
  "/": () => {
    const search = document.querySelector("main [data-search]");
    if (search) search.focus();
    else document.querySelector("[data-find]")?.click();
  },
  j: () => goTo(current() + 1),
  k: () => goTo(current() < 0 ? 0 : current() - 1),
  x: () => select(current(), false),
  X: () => select(current(), true),
  Escape: () => document.dispatchEvent(new CustomEvent("attestd:clear")),
  c: () => {
    const row = rows()[current()];
    const copy = (row || document).querySelector("[data-copy-id], [data-copy]");
    if (copy) copy.click();
    else announce("Nothing to copy here");
  },
  "?": () => location.assign("/help"),
};

document.addEventListener("keydown", (event) => {
  if (document.documentElement.dataset.keys === "off" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && typing(event.target)) {
    event.target.blur();
    return;
  }
  if (typing(event.target)) return;
  if (Date.now() - going < 1500) {
    going = 0;
    const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
    if (link) {
      event.preventDefault();
      link.click();
    }
    return;
  }
  if (event.key === "g") {
    going = Date.now();
    return;
  }
  const act = acts[event.key];
  if (!act) return;
  if (event.key === "/") event.preventDefault();
  act();
});
