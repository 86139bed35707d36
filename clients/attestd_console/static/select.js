// Selecting rows: <table data-select> with checkboxes named alike, and a bar <div class="bulk" data-bulk hidden> inside
// the same form. The bar says how many; Shift takes all in between; Esc clears. Without this script the bar is shown
// always, and the checkboxes work as they are.
import { announce } from "./announce.js";

let last = null;

function boxes() {
  return [...document.querySelectorAll("[data-select] tbody input[type=checkbox]")];
}

function show() {
  const all = boxes();
  const chosen = all.filter((box) => box.checked);
  for (const box of all) box.closest("tr")?.classList.toggle("sel", box.checked);
  for (const head of document.querySelectorAll("[data-select] thead input[type=checkbox]")) {
    head.checked = all.length > 0 && chosen.length === all.length;
    head.indeterminate = chosen.length > 0 && chosen.length < all.length;
  }
  for (const bar of document.querySelectorAll("[data-bulk]")) {
    bar.hidden = chosen.length === 0;
    const count = bar.querySelector("[data-count]");
    if (count) count.textContent = `${chosen.length} selected`;
    const shared = bar.querySelector("[data-shared]");
    if (shared) shared.textContent = common(chosen);
  }
}

function common(chosen) {
  // What they share, as their rows say: data-site="ber-plant-02".
  const sites = new Set(chosen.map((box) => box.closest("tr")?.dataset.site ?? ""));
  const [site] = sites;
  return chosen.length > 1 && sites.size === 1 && site ? `all at ${site}` : "";
}

document.addEventListener("click", (event) => {
  const box = event.target.closest("[data-select] input[type=checkbox]");
  if (!box) return;
  if (box.closest("thead")) {
    for (const other of boxes()) other.checked = box.checked;
  } else {
    const all = boxes();
    if (event.shiftKey && last && all.includes(last)) {
      const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
      for (const other of all.slice(from, to + 1)) other.checked = box.checked;
    }
    last = box;
  }
  show();
});

document.addEventListener("attestd:clear", () => {
  for (const box of boxes()) box.checked = false;
  show();
  announce("Nothing selected");
});

if (document.querySelector("[data-select]")) show();
