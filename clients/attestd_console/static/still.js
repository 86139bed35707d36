// A part of a live page that takes what is new without moving what lies below it: <section data-live data-still>.
//
//   data-room       on it, or around it and its neighbour: whose height may not change
//   ol[data-keeps]  a list whose rows have ids: they keep their places, one that is gone says so there, and new ones follow
//   data-show       the button for what does not fit: shown, with data-waiting on the part, until somebody presses it
//
// Everything is tried and measured before the browser draws, so that nothing is seen of what is taken back.
import { announce } from "./announce.js";

const SAME = 0.5; // pixels
const waiting = new Map(); // by id: what did not fit

function height(element) {
  return element.getBoundingClientRect().height;
}

export function settle(element, other) {
  const room = element.closest("[data-room]") ?? element;
  const before = height(room);
  const fresh = document.adoptNode(other);
  const whole = fresh.cloneNode(true);
  const keeps = element.querySelector("ol[data-keeps]");
  const list = fresh.querySelector("ol[data-keeps]");
  if (keeps && list) keepPlaces(keeps, list);
  const held = room === element ? "" : room.style.minHeight;
  element.replaceWith(fresh);
  const around = room === element ? fresh : room;
  around.style.minHeight = "";
  const difference = height(around) - before;
  if (difference > SAME) {
    fresh.replaceWith(element);
    if (room !== element) room.style.minHeight = held;
    if (!("waiting" in element.dataset)) announce(`${element.querySelector("h2")?.textContent ?? "A part"} has changed`);
    element.dataset.waiting = "";
    waiting.set(element.id, whole);
    return false;
  }
  if (difference < -SAME) around.style.minHeight = `${before}px`;
  waiting.delete(element.id);
  return true;
}

function keepPlaces(old, list) {
  const rows = new Map(Array.from(list.children, (row) => [row.id, row]));
  const placed = [];
  for (const row of old.children) {
    const again = rows.get(row.id);
    const shown = again ?? gone(row);
    shown.style.minHeight = `${height(row)}px`;
    placed.push(shown);
    rows.delete(row.id);
  }
  // Where all are gone, the new ones are a list of their own.
  if (rows.size && placed.every((row) => "gone" in row.dataset)) return;
  list.replaceChildren(...placed, ...rows.values());
}

function gone(row) {
  if ("gone" in row.dataset) return row.cloneNode(true);
  const left = document.createElement("li");
  left.id = row.id;
  left.className = "none";
  left.dataset.gone = "";
  const shape = document.querySelector("#i-ok") && row.querySelector("svg")?.cloneNode(true);
  shape?.querySelector("use")?.setAttribute("href", "#i-ok");
  const words = document.createElement("b");
  words.textContent = "No longer needs you";
  const what = document.createElement("p");
  what.textContent = row.querySelector("b")?.textContent ?? "";
  left.append(...[shape, words, what].filter(Boolean));
  return left;
}

document.addEventListener("click", (event) => {
  const part = event.target.closest("[data-show]")?.closest("[data-still]");
  const fresh = part && waiting.get(part.id);
  if (!fresh) return;
  waiting.delete(part.id);
  const room = part.closest("[data-room]");
  if (room && room !== part) room.style.minHeight = "";
  part.replaceWith(fresh);
  fresh.querySelector("h2")?.scrollIntoView({ block: "nearest" });
  announce("What is new is shown");
});
