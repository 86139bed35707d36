"""Attacks on what policy looks at: a real service publishes a policy, a real device crosses, and something is a lie.

Labels are the boundary's word and claims the sender's: whoever can turn the one into the other, or lose one on the way,
carries data out. What can't be read, is not there, or is not known has to end in a refusal, each time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from attestd.credentials.bundle import BundleRolledBack
from attestd.policy import default_policy
from attestd_edge.asgi import EdgeMiddleware
from attestd_edge.edge import Edge
from attestd_edge.hop import CertificateSource, UnixSocketHop
from attestd_edge.settings import Guarded
from tests.service import SoftDevice, World, problem

from .test_edge import HOME, Gate

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
CROSS = 'action == Action::"cross", resource'
RESIDENT = (
    f'@id("only-eu") permit (principal, {CROSS}) when '
    '{ context.labels.hasTag("residency") && context.labels.getTag("residency") == "EU" };'
)


def put(world: World, text: str) -> Any:
    return world.admin.put("/v1/admin/policy", {"v": 1, "text": text})


def scope_of(headers: list[tuple[bytes, bytes]], *, hop: bool = True) -> dict[str, Any]:
    """A request from the hop, over a Unix socket, or from somebody else."""
    asked = {"type": "http", "method": "GET", "scheme": "https", "path": "/orders", "query_string": b""}
    peer = {"client": None, "server": ("/run/app.sock", None)} if hop else {"client": ("192.0.2.1", 5)}
    return {"server": ("192.0.2.2", 443), "headers": headers, **asked, **peer}


class Counter:
    """An application behind the edge, behind nginx: how often anything reached it."""

    def __init__(self, gate: Gate, device: SoftDevice, *, from_hop: bool = False, labels: Any = None) -> None:
        self.reached = 0
        boundaries = {HOME.name: Guarded(HOME, {}, labels_from_hop=from_hop)}
        self.edge = Edge(gate.store, tokens=None, boundaries=boundaries)
        self.app = EdgeMiddleware(
            self._application,
            self.edge,
            HOME.name,
            certificate_source=CertificateSource.NGINX,
            hop=UnixSocketHop(),
            labels=labels,
        )
        pem = device.answer.chain.split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"  # type: ignore[union-attr]
        self.certificate = ("x-client-cert", quote(pem, safe=""))

    async def _application(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.reached += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(self, *headers: tuple[str, str], hop: bool = True) -> tuple[int, str]:
        """Status, and the problem's name."""
        told: dict[str, Any] = {"body": b""}

        async def send(message: dict[str, Any]) -> None:
            told["status"] = message.get("status", told.get("status"))
            told["body"] += message.get("body", b"")

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        pairs = (("Host", "shop.example"), self.certificate, *headers)
        scope = scope_of([(name.lower().encode(), value.encode("latin-1")) for name, value in pairs], hop=hop)
        asyncio.run(self.app(scope, receive, send))
        name = str(json.loads(told["body"])["type"]).rpartition(":")[2] if told["body"] else ""
        return told["status"], name


@pytest.fixture
def device(world: World) -> SoftDevice:
    return world.enrolled()


@pytest.fixture
def gate(world: World, device: SoftDevice, tmp_path: Path) -> Iterator[Gate]:
    made = Gate(world, tmp_path / "edge")
    yield made
    made.edge.stop()


@pytest.fixture
def behind(gate: Gate, device: SoftDevice, world: World) -> Callable[..., Counter]:
    """`behind(policy, from_hop=True)`: the application, once that policy is in force at the edge."""

    def made(policy: str, **how: Any) -> Counter:
        assert put(world, policy).status_code == 200
        gate.fetch()
        return Counter(gate, device, **how)

    return made


# ---- Labels that lie --------------------------------------------------------------------------------------------


def test_a_sender_labels_nothing(behind: Callable[..., Counter]) -> None:
    told = 'residency="EU"'
    app = behind(RESIDENT)
    for name in ("Data-Labels", "Attestd-Labels", "Attestd_Labels", "X-Attestd-Labels", "Labels", "Residency"):
        assert app.ask((name, told)) == (403, "crossing-denied")
    assert app.reached == 0
    assert behind(RESIDENT, labels=lambda _: {"residency": "EU"}).ask() == (200, "")


def test_nobody_else_speaks_for_the_hop(behind: Callable[..., Counter]) -> None:
    app = behind(RESIDENT, from_hop=True)
    told = ("Attestd-Labels", 'residency="EU"')
    assert app.ask(told) == (200, "")
    assert app.ask(told, hop=False)[0] in (401, 503)
    assert app.ask(told, told)[0] in (401, 403)  # the client's own beside the hop's
    assert app.ask(("Data-Labels", told[1]))[0] == 503  # the hop lost it on the way
    assert app.reached == 1


@pytest.mark.parametrize(
    "value",
    [
        "EU",
        "{}",
        "residency=EU",
        "residency=:RVU=:",
        "residency=?1",
        'residency="EU',
        'residency="EU",',
        'residency="EU";x',
        'residency="EU", residency="US"',
        'residency="EU"\x00',
        'residency="EU", ' + "x" * 5000,
        'résidency="EU"',
    ],
)
@pytest.mark.parametrize("header", ["Attestd-Labels", "Data-Labels"])
def test_what_cant_be_read_passes_nowhere(behind: Callable[..., Counter], header: str, value: str) -> None:
    """Even where a policy would permit it without the label: half of a header is not what was said."""
    app = behind(f"permit (principal, {CROSS});", from_hop=True)
    honest = ("Attestd-Labels", 'class="plain"')
    assert app.ask(honest) == (200, "")
    sent = [(header, value)] if header == "Attestd-Labels" else [honest, (header, value)]
    assert app.ask(*sent)[0] == 403
    assert app.reached == 1


@pytest.mark.parametrize("told", [{"residency": "US"}, {"a b": "c"}, {"residency": None}, None, "EU"])
def test_an_application_that_contradicts_or_breaks(behind: Callable[..., Counter], told: Any) -> None:
    app = behind(RESIDENT, from_hop=True, labels=lambda _: told)
    assert app.ask(("Attestd-Labels", 'residency="EU"'))[0] == 403
    assert app.reached == 0


def test_an_application_whose_labels_raise(behind: Callable[..., Counter]) -> None:
    def broken(_: Any) -> dict[str, str]:
        raise KeyError("residency")

    app = behind(f"permit (principal, {CROSS});", labels=broken)
    assert app.ask() == (503, "edge-failed")
    assert app.reached == 0


def test_verdicts_of_one_label_are_not_another_s(behind: Callable[..., Counter]) -> None:
    """What is remembered is remembered for these labels and these claims."""
    asks = 'context.labels.hasTag("a") && context.claims.hasTag("b")'
    both = f'@id("both") permit (principal, {CROSS}) when {{ {asks} }};'
    app = behind(both, from_hop=True)
    good = (("Attestd-Labels", 'a="x"'), ("Data-Labels", 'b="x"'))
    for _ in range(2):
        assert app.ask(*good) == (200, "")
        assert app.ask(good[0])[0] == 403
        assert app.ask(good[0], ("Data-Labels", 'a="x"'))[0] == 403
        assert app.ask(("Attestd-Labels", 'b="x"'), ("Data-Labels", 'a="x"'))[0] == 403
    assert app.reached == 2


# ---- Facts that are not there -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        ('principal.boot.flags.hasTag("f") && principal.boot.flags.getTag("f")', "boot fact 'f'"),
        ('principal.hasTag("f") && principal.getTag("f") == "x"', "label 'f', which the device"),
        ('context.labels.hasTag("f") && context.labels.getTag("f") == "x"', "data label 'f'"),
        ('context.claims.hasTag("f") && context.claims.getTag("f") == "x"', "claim 'f'"),
    ],
)
def test_an_absent_fact_denies_and_the_log_says_so(
    behind: Callable[..., Counter], world: World, caplog: pytest.LogCaptureFixture, asks: str, told: str
) -> None:
    guard, _, read = asks.partition(" && ")
    unguarded = put(world, f"permit (principal, {CROSS}) when {{ {read} }};")
    assert (unguarded.status_code, problem(unguarded)) == (400, "policy-invalid")
    app = behind(f"permit (principal, {CROSS}) when {{ {guard} && {read} }};")
    with caplog.at_level(logging.WARNING, "attestd_edge.decisions"):
        assert app.ask() == (403, "crossing-denied")
    assert told in caplog.text
    assert app.reached == 0


def test_the_examples_deny_what_says_nothing(behind: Callable[..., Counter]) -> None:
    """A real device's credential, no labels, no claims, no reference values."""
    for name in ("billing", "gateways"):
        app = behind((EXAMPLES / f"{name}.cedar").read_text())
        assert app.ask() == (403, "crossing-denied")
        assert app.reached == 0


# ---- Policies that are none -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"permit (principal is User, {CROSS});",
        f'permit (principal == User::"root", {CROSS});',
        'permit (principal, action == Action::"cross", resource is File);',
        'permit (principal, action == Action::"crossing", resource);',
        f'permit (principal, {CROSS}) when {{ principal.tier == Tier::"Device" }};',
        f'permit (principal, {CROSS}) when {{ Own::"device".id == "x" }};',
        f"permit (principal, {CROSS}) when {{ context.origin == 1 }};",
        f"permit (principal, {CROSS}) when {{ context.claims == context.labels.residency }};",
        f'permit (principal, {CROSS}) when {{ context.labels.getTag("residency") == "EU" }};',
    ],
)
def test_what_nobody_knows_is_no_policy(behind: Callable[..., Counter], world: World, text: str) -> None:
    """Refused by the service, so that no edge ever has it; what was in force stays."""
    app = behind(default_policy())
    answer = put(world, default_policy() + text)
    assert (answer.status_code, problem(answer)) == (400, "policy-invalid")
    assert app.ask() == (200, "")


def test_a_rollback_is_in_force_at_the_edge(gate: Gate, behind: Callable[..., Counter], world: World) -> None:
    """A higher version with old content: an edge takes it, and the one before it not again."""
    app = behind(f"forbid (principal, {CROSS}); {default_policy()}")
    bad = gate.published()
    assert app.ask() == (403, "crossing-denied")
    assert world.admin.post("/v1/admin/policy/rollback", {"v": 1}).status_code == 200
    gate.fetch()
    assert app.ask() == (200, "")
    before = gate.store.view().bundle.policy_version
    with pytest.raises(BundleRolledBack):
        gate.adopt(bad)
    assert gate.store.view().bundle.policy_version == before
    assert app.ask() == (200, "")


def test_only_an_admin_goes_back(world: World) -> None:
    assert put(world, default_policy()).status_code == 200
    for caller in (world.viewer, world.operator):
        answer = caller.post("/v1/admin/policy/rollback", {"v": 1})
        assert (answer.status_code, problem(answer)) == (403, "role-too-low")
    assert world.viewer.get("/v1/admin/policy").json["version"] == 2


def test_what_the_caller_is_told_is_not_how_to_pass(behind: Callable[..., Counter], gate: Gate) -> None:
    """No policy's name, no reason, no label, whatever was lacking: only the log has them."""
    app = behind(RESIDENT)
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b"") + str(message.get("headers", "")).encode())

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    raw = [(b"host", b"shop.example"), (b"x-client-cert", app.certificate[1].encode()), (b"data-labels", b'x="y"')]
    scope = scope_of(raw)
    asyncio.run(app.app(scope, receive, send))
    told = b"".join(sent)
    assert b"crossing-denied" in told
    for secret in (b"only-eu", b"residency", b"label", b"EU", b"permits", HOME.name.encode()):
        assert secret not in told
