// The editor of policies: numbers beside the lines, and a check as one types. Without this the page checks when asked.
const PAUSE = 700; // milliseconds without a key before the service is asked
const form = document.getElementById("draft");
const editor = form?.querySelector("textarea");
const pair = form?.querySelector("[data-pair]");

function icon(name) {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("class", "i");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(NS, "use");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}

function marks(items) {
  return new Map(items.map((item) => [Number(item.dataset.line), item.className === "bad" ? "flaw" : "look"]));
}

if (editor && pair) {
  const gutter = document.createElement("div");
  gutter.className = "gutter";
  gutter.setAttribute("aria-hidden", "true");
  pair.prepend(gutter);
  pair.classList.add("numbered");
  const list = form.querySelector("[data-flaws]");
  const verdict = form.querySelector("[data-verdict]");
  const hint = form.querySelector("[data-hint]");
  const tried = document.querySelector("[data-of-draft]");
  const first = editor.value;
  hint.textContent = "Checked as you type; faults name line and column";
  form.querySelector("[data-marked]")?.remove(); // the marks stand in the text itself now
  let timer = 0;
  let asked = 0;

  function number() {
    const wanted = editor.value.split("\n").length;
    const marked = marks([...list.children]);
    while (gutter.childElementCount > wanted) gutter.lastElementChild.remove();
    while (gutter.childElementCount < wanted) {
      const line = document.createElement("span");
      line.textContent = String(gutter.childElementCount + 1);
      gutter.append(line);
    }
    [...gutter.children].forEach((line, at) => (line.className = marked.get(at + 1) ?? ""));
    gutter.style.height = editor.clientHeight + "px";
    gutter.scrollTop = editor.scrollTop;
  }

  function item(tone, flaw) {
    const line = document.createElement("li");
    line.className = tone;
    line.dataset.line = flaw.line;
    const words = document.createElement("span");
    words.textContent = "Line " + flaw.line + ", column " + flaw.column + ": " + flaw.message;
    line.append(icon(tone), words);
    return line;
  }

  function show(found) {
    list.replaceChildren(
      ...found.flaws.map((flaw) => item("bad", flaw)),
      ...found.warnings.map((flaw) => item("warn", flaw)),
    );
    const said = document.createElement("span");
    said.className = "st " + (found.valid ? "ok" : "bad");
    const count = found.flaws.length;
    const words = found.valid
      ? "Fits the schema"
      : count + (count === 1 ? " fault" : " faults") + ", the first in line " + found.flaws[0].line;
    said.append(icon(found.valid ? "ok" : "bad"), words);
    verdict.replaceChildren(said);
    if (found.valid) editor.removeAttribute("aria-invalid");
    else editor.setAttribute("aria-invalid", "true");
    number();
  }

  async function check() {
    const mine = ++asked;
    const body = new URLSearchParams(new FormData(form));
    body.set("do", "check");
    try {
      const answer = await fetch(form.action, { method: "POST", headers: { Accept: "application/json" }, body });
      const found = await answer.json();
      if (mine !== asked) return; // more was typed since
      if (answer.ok) show(found);
      else verdict.textContent = found.heading + ". " + found.remedy;
    } catch {
      if (mine === asked) verdict.textContent = "Not checked: the service does not answer. Your text is still here.";
    }
  }

  editor.addEventListener("input", () => {
    number();
    clearTimeout(timer);
    timer = setTimeout(check, PAUSE);
    const outdated = editor.value !== first;
    if (tried) {
      tried.querySelector("button").disabled = outdated;
      tried.querySelector("[data-outdated]").hidden = !outdated;
    }
  });
  editor.addEventListener("scroll", () => (gutter.scrollTop = editor.scrollTop));
  new ResizeObserver(number).observe(editor);
  number();
}
