// Passkeys. A form with data-passkey="get" signs in, with "create" makes one: its data-begin is asked for a challenge,
// the authenticator answers, and the form is sent with the answer in it. A form with data-touch is first sent as it is
// with the header `Touch: begin`; what comes back is what the authenticator confirms: this act and no other.

function octets(text) {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

function text(buffer) {
  const plain = String.fromCharCode(...new Uint8Array(buffer));
  return btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function descriptors(list) {
  return (list ?? []).map((item) => ({ ...item, id: octets(item.id) }));
}

function readOptions(json) {
  const options = { ...json, challenge: octets(json.challenge) };
  if (json.user) options.user = { ...json.user, id: octets(json.user.id) };
  if (json.allowCredentials) options.allowCredentials = descriptors(json.allowCredentials);
  if (json.excludeCredentials) options.excludeCredentials = descriptors(json.excludeCredentials);
  return options;
}

function written(credential) {
  const response = { clientDataJSON: text(credential.response.clientDataJSON) };
  for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (credential.response[name]) response[name] = text(credential.response[name]);
  }
  if (credential.response.getTransports) response.transports = credential.response.getTransports();
  return {
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response,
    clientExtensionResults: {},
    ...(credential.authenticatorAttachment ? { authenticatorAttachment: credential.authenticatorAttachment } : {}),
  };
}

async function ask(kind, options) {
  const publicKey = readOptions(options);
  const answer = await navigator.credentials[kind]({ publicKey });
  if (!answer) throw new DOMException("no credential", "NotAllowedError");
  return written(answer);
}

function tell(form, heading, detail) {
  // Above the form, where errors of the server's stand, too.
  let place = document.getElementById("told");
  if (!place) {
    place = document.createElement("div");
    place.id = "told";
    form.before(place);
  }
  const note = document.createElement("div");
  note.className = "note warn";
  note.setAttribute("role", "alert");
  const words = document.createElement("p");
  const strong = document.createElement("b");
  strong.textContent = heading;
  words.append(strong, " " + detail);
  note.append(words);
  place.replaceChildren(note);
}

async function begin(form, address, headers) {
  const filled = new FormData(form); // a form with a file goes in parts, as the browser will send it
  const answer = await fetch(address, {
    method: "POST",
    headers: { Accept: "application/json", ...headers },
    body: form.enctype === "multipart/form-data" ? filled : new URLSearchParams(filled),
  });
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  const trouble = new Error(said.heading ?? "That did not begin.");
  trouble.detail = said.detail ?? "";
  if (said.remedy) trouble.detail += " " + said.remedy;
  throw trouble;
}

function explain(form, trouble) {
  if (trouble.detail !== undefined) tell(form, trouble.message, trouble.detail);
  else if (trouble.name === "NotAllowedError" || trouble.name === "AbortError")
    tell(form, "No passkey was used.", "The window was closed, or no passkey fits here. Nothing was done; try again.");
  else if (trouble.name === "InvalidStateError") tell(form, "This passkey is here already.", "Use another one.");
  else if (trouble.name === "SecurityError")
    tell(form, "Passkeys do not work at this address.", "Open the console at the address that this instance is known by.");
  else tell(form, "That did not work.", "The browser says: " + trouble.message);
}

const busy = new WeakSet();

async function run(form, button) {
  // As the browser would send it: with the pressed button's name and value.
  const pressed = button && button.name ? [button.name, button.value] : null;
  let extra = null;
  if (pressed) {
    extra = document.createElement("input");
    extra.type = "hidden";
    [extra.name, extra.value] = pressed;
    form.append(extra);
  }
  try {
    if (!window.PublicKeyCredential)
      throw Object.assign(new Error("This browser knows no passkeys here."), {
        detail: "They need HTTPS with a certificate that the browser trusts.",
      });
    if ("touch" in form.dataset) {
      const begun = await begin(form, form.action, { Touch: "begin" });
      const credential = await ask("get", begun.options);
      const proof = JSON.stringify({ challenge: begun.challenge, credential });
      form.elements.namedItem("touch").value = text(new TextEncoder().encode(proof));
    } else {
      const begun = await begin(form, form.dataset.begin, {});
      const credential = await ask(form.dataset.passkey, begun.options);
      form.elements.namedItem("challenge").value = begun.challenge;
      form.elements.namedItem("credential").value = JSON.stringify(credential);
    }
    form.submit();
  } catch (trouble) {
    extra?.remove();
    explain(form, trouble);
    busy.delete(form);
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-passkey], form[data-touch]");
  if (!form || event.submitter?.hasAttribute("formaction")) return; // a button that leads elsewhere asks for nothing
  event.preventDefault();
  if (busy.has(form)) return; // a second press does nothing
  busy.add(form);
  run(form, event.submitter);
});

// A page that the browser brings back from its memory is fresh again.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
