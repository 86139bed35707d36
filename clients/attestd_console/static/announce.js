// One polite live region for everything that a script tells: nothing on the page moves for it.
export function announce(words) {
  const region = document.getElementById("announced");
  if (region) region.textContent = words;
}
