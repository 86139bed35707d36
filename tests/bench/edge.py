"""How fast an edge decides, beside the signature checks that no edge can do without:

    python -m tests.bench.edge            # a table
    python -m tests.bench.edge --json     # the same as an array of objects

All of it in one thread of one process, in CPU time, in short turns one after the other, so that a busy machine slows
the floor and the figure alike; a figure is the median of its turns. A decision is a whole `Edge.admit`, what every door
calls: the request's id, the edge's clock, staleness, the path, who it is, its state, policy, metrics. Logs are as in
production: refusals only. Not in it: TLS, HTTP and the application.

Hot: the same credential at the same boundary under the same bundle. Cold: a credential that was never seen before, of
a device with a key, a name and a label that were never seen before, under a policy that looks at the label, so that no
memory helps ("policy asked anew"). "Of a fleet": such credentials of devices that differ in nothing that policy looks
at, as most do, so that the engine is asked about the first of them. Certificates and tokens are all new in both.
"""

# ruff: noqa: T201

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.dpop import EdgeNonces, ReplayCache
from attestd.credentials.jwk import jwk_thumbprint
from attestd.ids import Serial, Site, Tier
from attestd.policy import Boundary, default_policy
from attestd_edge import asgi, wsgi
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Presented, Request, TokenRules
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.hop import CertificateSource, UnixSocketHop
from attestd_edge.store import BundleStore
from tests import authority as a
from tests.edge_site import pem

TURNS = 25
COLD = 12  # decisions in a turn, each with a credential of its own
HOT = 250
ORIGIN = "https://shop.example.org"
HOME = Boundary("field-to-munich", Tier.DEVICE, Site("munich"), Tier.EDGE, Site("munich"))
LOOKING = default_policy() + (
    'forbid (principal, action == Action::"cross", resource) when '
    '{ principal.hasTag("unit") && principal.getTag("unit") == "recalled" };'
)
# The permit itself looks at the label, and at all else that there is about a device.
ALL_AT_ONCE = """
permit (principal is Device, action == Action::"cross", resource is Boundary) when {
  principal.tier == resource.from.tier && resource.from has site && principal.site == resource.from.site &&
  principal.trust.instance_identity == Trust::"affirming" && principal.trust.worst != Trust::"contraindicated" &&
  principal.boot.flags.hasTag("secure_boot") && principal.boot.flags.getTag("secure_boot") &&
  principal.hasTag("unit") && principal.getTag("unit") like "u-*"
};"""
# The policies of a hundred other boundaries beside those of this one.
HUNDRED = LOOKING + "".join(
    f'permit (principal, action == Action::"cross", resource == Boundary::"other-{number}") when '
    '{ principal.hasTag("team") && principal.getTag("team") == "night" };'
    for number in range(100)
)
VERIFY, SIGN = "P-256 verification", "P-256 signature"
_ECDSA = ec.ECDSA(hashes.SHA256())
_numbers = itertools.count(1)


@dataclass
class Figure:
    """One thing to measure: `run` for each of the things that `prepare` makes, which is not timed."""

    name: str
    prepare: Callable[[], list[Any]]
    run: Callable[[Any], object]
    goal: float | None = None
    absolute: bool = False  # the goal is in µs, not in verifications


class Guard:
    """An edge at HOME, with a bundle of its own on disk."""

    def __init__(self, folder: Path, policy: str, **lies: Any) -> None:
        folder.mkdir()
        begun = datetime.now(UTC)
        clock = EdgeClock(lambda: a.NOW + (datetime.now(UTC) - begun), time.monotonic, a.NOW)
        store = BundleStore(folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=clock)
        status = a.StatusList.of({}, 1 << 17)
        store.adopt(
            a.signed_bundle(a.bundle(policy=policy, status=status, revoked=frozenset(), stale_after=86400, **lies))
        )
        self.clock = clock
        self.rules = TokenRules(a.AUDIENCE, frozenset({ORIGIN}), EdgeNonces(os.urandom(32)), ReplayCache())
        self.edge = Edge(store, tokens=self.rules)

    def admit(self, presented: Presented) -> None:
        """One crossing, which must be allowed."""
        answer = self.edge.admit(HOME, lambda: Asked(presented, Request("GET", ORIGIN, "/orders")))
        assert isinstance(answer, Admitted), answer


@dataclass(frozen=True)
class Device:
    """A device, its certificate, its token for that certificate and its token for its key."""

    key: ec.EllipticCurvePrivateKey
    leaf: bytes
    issuer: bytes
    mutual: str
    proven: str

    @classmethod
    def new(cls, *, issuer: a.Ca = a.ISSUER, says: dict[str, str] | None = None, **lies: Any) -> Device:
        """One that nobody has seen before; `lies` are facts that it shares with others, `says` its tokens' labels."""
        number = next(_numbers)
        key = a.p256(1000 + number)
        facts = replace(a.FACTS, **{"labels": {"unit": f"u-{number}"}, "status_index": number, **lies})
        uri = f"spiffe://example.org/device/munich/bike-{number}"
        leaf = a.leaf(issuer=issuer, key=key, uris=[uri], serial=number, facts=facts)
        thumbprint = a.b64(x509.load_der_x509_certificate(leaf).fingerprint(hashes.SHA256()))
        told = facts if says is None else replace(facts, labels=says)
        said = {"sub": uri, "srl": str(Serial(number)), "attestd": told.to_members()}
        return cls(
            key,
            leaf,
            issuer.der,
            a.token(**said, jti=f"m-{number}", cnf={"x5t#S256": thumbprint}),
            a.token(**said, jti=f"p-{number}", cnf={"jkt": jwk_thumbprint(key.public_key())}),
        )

    def connected(self) -> Presented:
        return Presented((self.leaf, self.issuer))

    def with_token(self) -> Presented:
        return Presented((self.leaf, self.issuer), self.mutual, "bearer")

    def proving(self, guard: Guard) -> Presented:
        nonce = guard.rules.nonces.issue(guard.clock.now())
        proof = a.proof(self.proven, key=self.key, jti=os.urandom(8).hex(), nonce=nonce)
        return Presented((), self.proven, "dpop", proof)


def _figures(folder: Path) -> Iterator[Figure]:
    home = Guard(folder / "home", default_policy())
    looking = Guard(folder / "looking", LOOKING)
    all_at_once = Guard(folder / "all", ALL_AT_ONCE)
    hundred = Guard(folder / "hundred", HUNDRED)
    rootward = Guard(
        folder / "rootward", default_policy(), issuers=()
    )  # knows the root alone: issuers come with the leaf

    known = Device.new()
    public = known.key.public_key()

    def signed() -> tuple[bytes, bytes]:
        """Made just before, as the credentials are, so that the floor finds the same cold caches."""
        message = os.urandom(600)
        return known.key.sign(message, _ECDSA), message

    def same(thing: Any, times: int = HOT) -> Callable[[], list[Any]]:
        return lambda: [thing] * times

    def cold(make: Callable[[], Any]) -> Callable[[], list[Any]]:
        return lambda: [make() for _ in range(COLD)]

    def crossed(guard: Guard, presented: Callable[[], Presented]) -> Callable[[], list[Any]]:
        """What it presents was seen once."""
        first = presented()
        guard.admit(first)
        return same(first)

    def connected_before() -> Presented:
        """A token that says something new about a device whose certificate was seen."""
        device = Device.new(says={"unit": f"renamed-{next(_numbers)}"})
        looking.admit(device.connected())
        return device.with_token()

    def alike_before() -> Presented:
        device = alike()
        home.admit(device.connected())
        return device.with_token()

    def alike(**lies: Any) -> Device:
        return Device.new(labels={"fleet": "bikes"}, **lies)

    yield Figure(SIGN, cold(lambda: os.urandom(600)), lambda data: known.key.sign(data, _ECDSA))
    yield Figure(VERIFY, cold(signed), lambda pair: public.verify(*pair, _ECDSA))
    yield Figure("edge hot, certificate", crossed(home, known.connected), home.admit, 10.0, absolute=True)
    yield Figure(
        "edge hot, certificate and bound token", crossed(home, known.with_token), home.admit, 10.0, absolute=True
    )
    asked, fleet = "policy asked anew", "of a fleet"
    yield Figure(f"edge cold, certificate, {asked}", cold(lambda: Device.new().connected()), looking.admit, 3.0)
    yield Figure(
        f"edge cold, certificate, {asked}, of one permit that looks at all",
        cold(lambda: Device.new().connected()),
        all_at_once.admit,
        3.0,
    )
    yield Figure(
        f"edge cold, certificate, {asked}, beside a hundred boundaries'",
        cold(lambda: Device.new().connected()),
        hundred.admit,
        3.0,
    )
    yield Figure(f"edge cold, certificate, {fleet}", cold(lambda: alike().connected()), home.admit, 3.0)
    yield Figure(
        f"edge cold, certificate, {fleet}, issuer not in the bundle",
        cold(lambda: alike().connected()),
        rootward.admit,
        3.0,
    )
    yield Figure(
        f"edge cold, certificate and its new issuer, {fleet}",
        cold(lambda: alike(issuer=_another_issuer()).connected()),
        rootward.admit,
        3.0,
    )
    yield Figure(f"edge cold, token, certificate known, {asked}", cold(connected_before), looking.admit, 3.0)
    yield Figure(f"edge cold, token, certificate known, {fleet}", cold(alike_before), home.admit, 3.0)
    # Two credentials at once, or two signatures for one: 3 verifications for each.
    yield Figure(f"edge cold, token and certificate, {fleet}", cold(lambda: alike().with_token()), home.admit, 6.0)
    yield Figure(f"edge cold, token and DPoP proof, {fleet}", cold(lambda: alike().proving(home)), home.admit, 6.0)
    yield Figure("edge hot, token with a new DPoP proof", cold(lambda: known.proving(home)), home.admit, 3.0)
    yield from _doors(home, known)


def _another_issuer() -> a.Ca:
    """An intermediate under the root with a key that nobody has seen before."""
    return a.ca("issuer", issuer=a.ROOT, key=a.p256((1 << 100) + next(_numbers)), path_length=0)


def _doors(guard: Guard, device: Device) -> Iterator[Figure]:
    """Hot requests through the middleware: its own time is the figure less that of the application alone."""
    plain = [(b"host", b"shop.example.org"), (b"user-agent", b"bench"), (b"accept", b"*/*")]
    text = pem(device.leaf).decode()
    tls = {"tls": {"client_cert_chain": [text, pem(device.issuer).decode()]}}
    scope = {
        "type": "http", "scheme": "https", "method": "GET", "path": "/orders", "query_string": b"",
        "headers": plain, "extensions": tls, "client": ("192.0.2.1", 4711), "server": ("192.0.2.2", 443),
    }  # fmt: skip
    told = [*plain, (b"x-client-cert", quote(text, safe="").encode())]
    by_hop = {**scope, "headers": told, "extensions": {}, "client": None, "server": ("/run/edge.sock", None)}
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/orders", "QUERY_STRING": "", "wsgi.url_scheme":
        "https", "SERVER_NAME": "shop.example.org", "REMOTE_ADDR": "", "HTTP_HOST": "shop.example.org",
        "HTTP_USER_AGENT": "bench", "HTTP_ACCEPT": "*/*", "HTTP_X_CLIENT_CERT": quote(text, safe=""),
    }  # fmt: skip

    def wsgi_app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"ok"]

    async def asgi_app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    def answered(status: str, _headers: Any, _error: Any = None) -> None:
        assert status == "200 OK", status

    nginx, hop = CertificateSource.NGINX, UnixSocketHop()
    guarded_wsgi = wsgi.EdgeMiddleware(wsgi_app, guard.edge, HOME, certificate_source=nginx, hop=hop)
    guarded_tls = asgi.EdgeMiddleware(asgi_app, guard.edge, HOME, certificate_source=CertificateSource.TLS)
    guarded_hop = asgi.EdgeMiddleware(asgi_app, guard.edge, HOME, certificate_source=nginx, hop=hop)
    loop = asyncio.new_event_loop()

    def through(app: Any) -> Callable[[Any], object]:
        async def many(scopes: list[Any]) -> None:
            for one in scopes:
                await app(dict(one), receive, send)

        return lambda scopes: loop.run_until_complete(many(scopes))

    def hundred_of(thing: Any) -> Callable[[], list[Any]]:
        return lambda: [[thing] * 100]

    def served(app: Any) -> Callable[[Any], object]:
        return lambda environs: [list(app(dict(one), answered)) for one in environs]

    yield Figure("/100 WSGI application alone", hundred_of(environ), served(wsgi_app))
    yield Figure("/100 edge hot, WSGI, certificate from nginx", hundred_of(environ), served(guarded_wsgi))
    yield Figure("/100 ASGI application alone", hundred_of(scope), through(asgi_app))
    yield Figure("/100 edge hot, ASGI, certificate from TLS", hundred_of(scope), through(guarded_tls))
    yield Figure("/100 edge hot, ASGI, certificate from nginx", hundred_of(by_hop), through(guarded_hop))


def measure() -> list[dict[str, Any]]:
    """Every figure: `{name, value, unit, against, ratio, goal, met}`; without a goal `goal` and `met` are null."""
    with tempfile.TemporaryDirectory() as folder:
        figures = list(_figures(Path(folder)))
        taken: dict[str, list[float]] = {figure.name: [] for figure in figures}
        for _ in range(TURNS):
            for figure in figures:
                things = figure.prepare()
                begun = time.thread_time()
                for thing in things:
                    figure.run(thing)
                taken[figure.name].append((time.thread_time() - begun) / len(things) * 1e6)
    found = {name: statistics.median(turns) for name, turns in taken.items()}
    return [_entry(figure, found) for figure in figures]


def _entry(figure: Figure, found: dict[str, float]) -> dict[str, Any]:
    name, value, against = figure.name, found[figure.name], VERIFY
    if name.startswith("/100 "):
        name, value = name.removeprefix("/100 "), value / 100
        alone = "WSGI application alone" if "WSGI" in name else "ASGI application alone"
        if name != alone:
            against = "edge hot, certificate"
            name, value = f"{name}, beside both", value - found[f"/100 {alone}"] / 100 - found[against]
    floor = found[against]
    compared = value if figure.absolute else value / floor
    goal = None
    if figure.goal is not None:
        goal = f"under {figure.goal:g} us" if figure.absolute else f"at most {figure.goal:g} times"
    return {
        "name": name,
        "value": round(value, 2),
        "unit": "us of CPU",
        "against": f"{against}, {floor:.1f} us",
        "ratio": round(value / floor, 2),
        "goal": goal,
        "met": None if figure.goal is None else compared <= figure.goal,
    }


def main(arguments: list[str]) -> int:
    """Prints the figures; 1 if a goal was missed."""
    entries = measure()
    if "--json" in arguments:
        print(json.dumps(entries, indent=1))
    else:
        for entry in entries:
            verdict = "" if entry["met"] is None else "met" if entry["met"] else "MISSED"
            print(
                f"{entry['name']:58} {entry['value']:9.2f} us {entry['ratio']:7.2f} x ({entry['against']}) "
                f"{entry['goal'] or '':18} {verdict}"
            )
    return int(any(entry["met"] is False for entry in entries))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
