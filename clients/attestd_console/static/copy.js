// Buttons with data-copy copy their value, and say so.
import { announce } from "./announce.js";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    announce("Copied");
  } catch {
    announce("The browser does not allow copying here");
  }
});
