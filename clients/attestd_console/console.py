"""What every page works with: the service, who looks, and how a page is rendered.

def routes(console: Console) -> Blueprint:
    page = Blueprint("fleet", __name__)

    @page.get("/fleet")
    def fleet() -> Response:
        found = console.api().get("/v1/admin/devices", tier=request.args.get("tier"))
        return console.page("fleet.html", topics=("devices",), devices=found["devices"])

    return page
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import load_pem_x509_certificates
from flask import Response, g, make_response, render_template, request

from attestd.errors import Unauthenticated
from attestd_console import acts, sessions
from attestd_console.acts import Act, Failed
from attestd_console.api import UNATTENDED, Api, Refused, Service, Unreachable
from attestd_console.sessions import Seed

RANKS: Final = {"viewer": 1, "operator": 2, "admin": 3}
PROVEN: Final = "attestd.proven"  # told to the front of the service that this is mounted in: whose session it is
_COUNTS_FOR: Final = 2.0  # seconds that the counts beside the navigation may be old
_ROOT_FOR: Final = 60.0  # seconds; a rollover announces itself for much longer
_AGENT_MOST: Final = 300

View = TypeVar("View", bound=Callable[..., Any])


class SignedOut(Unauthenticated):
    """Nobody is signed in"""

    remedy = "Sign in."


@dataclass(frozen=True, slots=True)
class Who:
    """Who looks at this page."""

    name: str
    role: str
    trust_domain: str
    session: Mapping[str, Any] | None
    passkeys: int

    def may(self, role: str) -> bool:
        """Whether this role's acts are this person's, too. The service decides; this only spares a vain button."""
        return RANKS.get(self.role, 0) >= RANKS[role]


def open_to_all(view: View) -> View:
    """Marks a page that needs no session."""
    view.open_to_all = True  # type: ignore[attr-defined]
    return view


@dataclass
class Console:
    """The console of one service."""

    service: Service
    clock: Callable[[], float] = time.time
    _counts: dict[str, int] = field(default_factory=dict)
    _counted: float = -_COUNTS_FOR
    _root: str = ""
    _root_read: float = -_ROOT_FOR
    _lock: Lock = field(default_factory=Lock)

    # ---- The service ------------------------------------------------------------------------------------------

    def api(self, seed: Seed | None = None) -> Api:
        """Calls in the name of this browser's session, or of `seed`'s. Raises SignedOut."""
        return self._api((seed or self.seed()).key)

    def public(self) -> Api:
        """Calls in nobody's name."""
        return self._api(None)

    def _api(self, key: Any) -> Api:
        return Api(
            self.service,
            key,
            request.remote_addr or "",
            self.browser()["agent"],
            # What a script of ours says of a page that it fetches again. A person's own look says nothing.
            unattended=UNATTENDED in request.headers,
        )

    @staticmethod
    def browser() -> dict[str, str]:
        """What a session says of the browser that it began in."""
        agent = request.headers.get("User-Agent", "")
        shown = "".join(c for c in agent if c.isprintable())[:_AGENT_MOST]
        return {"agent": shown, "address": request.remote_addr or ""}

    @staticmethod
    def seed() -> Seed:
        """This browser's. Raises SignedOut."""
        if (seed := sessions.seed_of(request)) is None:
            raise SignedOut
        return seed

    def who(self) -> Who:
        """Who looks; asked once for each page. Raises SignedOut, Refused, Unreachable."""
        known: Who | None = g.get("who")
        if known is None:
            known = g.who = _read(self.api().get("/v1/admin/session"))
            request.environ[PROVEN] = True
        return known

    def counts(self) -> Mapping[str, int]:
        """The numbers beside the navigation: devices, and pending ones. They are the same for all, and may be some
        seconds old; without an answer there are none."""
        with self._lock:
            if time.monotonic() - self._counted < _COUNTS_FOR:
                return self._counts
            self._counted = time.monotonic()
        try:
            devices = self.api().get("/v1/admin/counts").get("devices") or {}
            self._counts = {"fleet": sum(devices.values()), "approvals": int(devices.get("pending", 0))}
        except (Refused, Unreachable):
            self._counts = {}
        return self._counts

    def root_fingerprint(self) -> str:
        """SHA-256 of the service's first root, in hex, by which a device knows it; empty if it can't be had."""
        if time.monotonic() - self._root_read < _ROOT_FOR:
            return self._root
        try:
            pem = self.public().call("GET", "/v1/root").content
            self._root = load_pem_x509_certificates(pem)[0].fingerprint(hashes.SHA256()).hex()
            self._root_read = time.monotonic()
        except (Refused, Unreachable, ValueError, IndexError):
            return ""
        return self._root

    # ---- Pages ------------------------------------------------------------------------------------------------

    def page(
        self,
        template: str,
        *,
        topics: tuple[str, ...] = (),
        about: str = "",
        failed: Failed | None = None,
        status: int | None = None,
        **shown: Any,
    ) -> Response:
        """A page inside the shell. `topics`: what makes it look again, of the device `about` alone if it is about one;
        `failed`: an act that was not done."""
        who = self.who()
        seed = self.seed()
        said = sessions.said(request, seed)
        text = render_template(
            template, who=who, counts=self.counts(), topics=topics, about=about, failed=failed, said=said, **shown
        )
        response = make_response(text, status or (failed.status if failed is not None else 200))
        if request.cookies.get(sessions.SAID):
            sessions.drop(response, sessions.SAID)
        return response

    def gate(self, template: str, *, status: int = 200, **shown: Any) -> Response:
        """A page for somebody who is not signed in."""
        return make_response(render_template(template, who=None, **shown), status)

    def carry_out(self, act: Act) -> Response | Failed:
        """Does what a form asks for. An answer is returned as it is; a `Failed` goes back into the page."""
        return acts.carry_out(request, self.api(), self.seed(), act)

    @property
    def now(self) -> float:
        if "now" not in g:
            g.now = self.clock()
        return float(g.now)


def _read(answer: Mapping[str, Any]) -> Who:
    operator = answer.get("operator")
    if not isinstance(operator, dict):
        raise Unreachable("The service's answer can't be read.", seen="no operator in the session")
    return Who(
        name=str(operator.get("name", "")),
        role=str(operator.get("role", "")),
        trust_domain=str(answer.get("trust_domain", "")),
        session=answer.get("session"),
        passkeys=int(answer.get("passkeys") or 0),
    )
