"""A real browser: headless Chromium that trusts a test's own root, with an authenticator that a test can look into.

    with chromium(root_pem) as browser:
        page = browser.page("https://localhost:8443", seed=seed)   # signed in; without a seed: nobody
        page.goto("/")
        assert violations(page) == []

Chromium takes no passkey over a connection whose certificate it would have to be told to ignore. So the root goes into
a store of certificates in a home of the browser's own.
"""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from werkzeug.serving import WSGIRequestHandler, make_server

from attestd_console.sessions import SESSION, Seed

CHROMIUM: Final = "/usr/bin/chromium"
WIDE: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]


def require_browser() -> None:
    """Skips a test where there is no browser."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    missing = [name for name in (CHROMIUM, "certutil") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@dataclass
class Browser:
    """One Chromium; each page of `page` has cookies of its own."""

    playwright_browser: Any
    contexts: list[Any] = field(default_factory=list)

    def page(
        self, origin: str, *, seed: Seed | None = None, theme: str = "light", phone: bool = False, **more: Any
    ) -> Any:
        """A page that reports what its console said, and fails nothing by itself: see `complaints`. `more`: how else
        the browser is, as Playwright's `new_context` takes it."""
        context = self.playwright_browser.new_context(
            base_url=origin,
            viewport=PHONE if phone else WIDE,
            color_scheme=theme,
            reduced_motion="reduce",
            timezone_id="UTC",
            locale="en-GB",
            **more,
        )
        self.contexts.append(context)
        if seed is not None:
            cookie = {"name": SESSION, "value": seed.text, "url": origin, "secure": True, "httpOnly": True}
            context.add_cookies([cookie | {"sameSite": "Lax"}])
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda said: page.complaints.append(_said(said)) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        return page

    def close_pages(self) -> None:
        while self.contexts:
            self.contexts.pop().close()


def _said(message: Any) -> str:
    """With the address that it is about: "404" alone says little."""
    return f"{message.text} [{message.location.get('url', '')}]"


@contextmanager
def chromium(*roots: bytes) -> Iterator[Browser]:
    """A browser that trusts these roots (PEM) besides its own."""
    from playwright.sync_api import sync_playwright

    home = Path(tempfile.mkdtemp(prefix="attestd-browser-"))
    try:
        _trust(home, roots)
        with sync_playwright() as playwright:
            arguments = ["--disable-dev-shm-usage"]  # containers have little of it
            if os.geteuid() == 0:
                arguments.append("--no-sandbox")
            launched = playwright.chromium.launch(
                executable_path=CHROMIUM, args=arguments, env={**os.environ, "HOME": str(home)}
            )
            try:
                yield Browser(launched)
            finally:
                launched.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _trust(home: Path, roots: tuple[bytes, ...]) -> None:
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    database = f"sql:{store}"
    _certutil("-N", "-d", database, "--empty-password")
    for number, root in enumerate(roots):
        file = home / f"root-{number}.pem"
        file.write_bytes(root)
        _certutil("-A", "-d", database, "-t", "C,,", "-n", f"test root {number}", "-i", str(file))


def _certutil(*words: str) -> None:
    subprocess.run(["certutil", *words], check=True, capture_output=True, timeout=60)


@dataclass
class Authenticator:
    """A passkey store that answers by itself, as if somebody touched it; `deny` makes it refuse."""

    session: Any
    id: str

    @classmethod
    def beside(cls, page: Any) -> Authenticator:
        session = page.context.new_cdp_session(page)
        session.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        made = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
        return cls(session, made["authenticatorId"])

    def passkeys(self) -> list[dict[str, Any]]:
        found = self.session.send("WebAuthn.getCredentials", {"authenticatorId": self.id})
        return list(found["credentials"])

    def verifies(self, yes: bool) -> None:
        """Whether its owner is recognised from now on."""
        self.session.send("WebAuthn.setUserVerified", {"authenticatorId": self.id, "isUserVerified": yes})


def violations(page: Any, *, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds against WCAG 2.2 A and AA, and good practice, or against these rules alone: `rule: element`."""
    from axe_playwright_python.sync_playwright import Axe

    page.context.set_default_timeout(60_000)
    only = {"type": "rule", "values": list(rules)} if rules else {"type": "tag", "values": RULES}
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate("(options) => axe.run(options)", {"resultTypes": ["violations"], "runOnly": only})
    return [
        f"{violation['id']}: {node['html'][:160]}" for violation in found["violations"] for node in violation["nodes"]
    ]


def overflow(page: Any) -> int:
    """How many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


# ---- A server in this process, for pages over a World --------------------------------------------------------------


@dataclass
class Served:
    """A WSGI application behind HTTPS on loopback."""

    origin: str
    root: bytes  # PEM


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextmanager
def served(application: Any) -> Iterator[Served]:
    """`application` at https://localhost:PORT, whose certificate leads to `root`."""
    folder = Path(tempfile.mkdtemp(prefix="attestd-served-"))
    root = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet, ssl_context=context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Served(f"https://localhost:{server.server_port}", root)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(folder, ignore_errors=True)


def _certificate(folder: Path) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    called = (f"test root {folder.name}"[:64], "localhost")  # a browser's store knows certificates by their names
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in called]

    def sign(subject: int, ca: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(names[0], names[subject], keys[subject].public_key(), 1 + subject)
        builder = builder.not_valid_before(now - hour).not_valid_after(now + 24 * hour)
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        if not ca:
            local = x509.SubjectAlternativeName([x509.DNSName("localhost")])
            builder = builder.add_extension(local, critical=False)
        return builder.sign(keys[0], hashes.SHA256())

    root, leaf = sign(0, True), sign(1, False)
    (folder / "chain.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    private = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return root.public_bytes(Encoding.PEM)
