"""What reaches a device: the service's answers, roots and certificates, EK certificates from NV, and its own files."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.protocol.encoding import b64encode, write_object
from attestd.protocol.messages import CredentialAnswer, RenewalRequest, TokenRequest, WaitAnswer
from attestd_agent.clock import DeviceClock
from attestd_agent.ekcerts import names_key, read_certificate_file, split_certificates
from attestd_agent.records import Record, Waiting
from attestd_agent.server import Server
from attestd_agent.transport import Reply, read_roots, read_url
from tests import authority as a
from tests import ek_ca
from tests.fuzz.harness import Target, once

_NONCE = b"n" * 32
_WORDS = (
    b"\n",
    b"replay-nonce: ",
    b"retry-after: ",
    b"content-type: application/problem+json",
    b"202\n",
    b"401\n",
    b"503\n",
    b'"retry_after":-1',
    b'"type":"urn:attestd:problem:nonce-expired"',
)


class _Service:
    """Answers every question with the same octets: status, headers and body of the fuzzer's making."""

    url = "https://attestd.example"

    def __init__(self, data: bytes) -> None:
        head, _, body = data.partition(b"\n\n")
        status, *lines = head.decode("latin-1").split("\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        self.reply = Reply(int(status) if status.isdecimal() and len(status) == 3 else 500, headers, body)
        self.asked = 0

    def exchange(self, method: str, path: str, *, body: bytes | None = None, headers: object = None) -> Reply:
        self.asked += 1
        return self.reply


def _answered(status: int, body: bytes, **headers: str) -> bytes:
    told = {"replay-nonce": b64encode(bytes(45)), "content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [str(status), *(f"{name}: {value}" for name, value in told.items())]
    return "\n".join(lines).encode() + b"\n\n" + body


@once
def _answers() -> list[bytes]:
    credential = CredentialAnswer(
        device_id="device-1", spiffe_id=a.BIKE, chain="-----BEGIN", result={"status": 2}, renew_after=5, expires_in=10
    )
    return [
        _answered(200, credential.to_bytes()),
        _answered(202, WaitAnswer("pending", 30, {}).to_bytes(), retry_after="30"),
    ]


def _server(data: bytes) -> tuple[Server, _Service]:
    service = _Service(data)
    root = x509.load_der_x509_certificate(a.ROOT.der).public_bytes(Encoding.PEM)
    return Server(service, root, entropy=lambda count: _NONCE[:count]), service  # type: ignore[arg-type]


# ---- What the targets do -----------------------------------------------------------------------------------------


def _granted(data: bytes) -> None:
    """An answer to a renewal: bounded questions, whatever it says."""
    server, service = _server(data)
    try:
        answer = server.renew(lambda _: RenewalRequest().to_bytes(), sign=a.es256(a.LEAF_KEY), kid="device-1")
        assert answer.to_bytes()
    finally:
        assert service.asked <= 6


def _refused(data: bytes) -> None:
    """A refusal, shown to people in one line each."""
    server, _ = _server(data)
    server.token(TokenRequest("edge", "dpop"), sign=a.es256(a.LEAF_KEY), kid="device-1")


@once
def _tokens() -> list[bytes]:
    body = write_object({"v": 1, "token": "a.b.c", "expires_in": 300})
    return [_answered(200, body)]


def _time(data: bytes) -> None:
    """The service's time teaches the clock; it never goes back."""
    root = _later_root().certificate.public_bytes(Encoding.PEM)
    server = Server(_Service(data), root, entropy=lambda count: _NONCE[:count])  # type: ignore[arg-type]
    before = datetime(2025, 1, 1, tzinfo=UTC)
    clock = DeviceClock(system=lambda: before, boot=lambda: 0.0, floor=before)
    floor = clock.floor
    server.fetch_time(clock)
    assert clock.floor >= floor
    assert clock.now() >= floor


_LATER = datetime(2026, 12, 1, tzinfo=UTC)  # after the agent was built


@cache
def _later_root() -> a.Ca:
    return a.ca("root", key=a.ROOT_KEY, path_length=2, not_before=_LATER - a.DAY, not_after=_LATER + a.DAY)


@once
def _times() -> list[bytes]:
    signer = a.signer(issuer=_later_root(), not_before=_LATER - a.DAY, not_after=_LATER + a.DAY)
    signed = a.signed_time(nonce=_NONCE, time=int(_LATER.timestamp()), certificates=[signer])
    return [_answered(200, signed.encode())]


def _nv(data: bytes) -> None:
    """An NV area: what is cut out was there, in its order, and is not judged."""
    at = 0
    for certificate in split_certificates(data):
        assert (at := data.index(certificate, at)) >= 0
        names_key(certificate, bytes(range(32)))


def _file(data: bytes) -> None:
    assert read_certificate_file(data)


@once
def _nv_areas() -> list[bytes]:
    leaf = ek_ca.maker().intermediate.ek_certificate(ek_ca.ec_key("fuzz ek").public_key())
    return [leaf + b"\xff" * 30, leaf + leaf, b"\x10\x01\x00\x03\x00\x10\x02" + leaf]


@once
def _files() -> list[bytes]:
    leaf = _nv_areas()[1][: len(_nv_areas()[1]) // 2]
    return [leaf, x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)]


def _roots(data: bytes) -> None:
    assert all(read_roots(data))


def _url(data: bytes) -> None:
    url = read_url(data.decode("latin-1"))
    assert url.lower().startswith("https://")


def _record(data: bytes) -> None:
    record = Record.parse(data)
    assert Record.parse(record.to_bytes()) == record


def _waiting(data: bytes) -> None:
    waiting = Waiting.parse(data)
    assert Waiting.parse(waiting.to_bytes()) == waiting


_RECORD = Record(
    server="https://attestd.example",
    device_id="device-1",
    spiffe_id=a.BIKE,
    ek="ecc-p256",
    selection={"sha256": (0, 7)},
    wants=("eventlog",),
    obtained_at=1_700_000_000,
    renew_at=1_700_001_000,
    expires_at=1_700_003_600,
    result={"status": 2},
)

TARGETS = (
    Target("agent-answer", _granted, _answers, _WORDS),
    Target("agent-token", _refused, _tokens, _WORDS),
    Target("agent-time", _time, _times, _WORDS),
    Target("agent-nv", _nv, _nv_areas, (b"\x30\x82", b"\x30\x84", b"\x30\x80", b"\x10\x01\x00"), refuses=False),
    Target("agent-ek-file", _file, _files, (b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----")),
    Target(
        "agent-roots",
        _roots,
        lambda: [x509.load_der_x509_certificate(a.ROOT.der).public_bytes(Encoding.PEM)],
        (b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"),
    ),
    Target("agent-url", _url, lambda: [b"https://attestd.example:8443/base", b"https://[::1]:8443"], limit=512),
    Target("agent-record", _record, lambda: [_RECORD.to_bytes()], (b'"v":1', b"[24]", b'"sha1"')),
    Target("agent-waiting", _waiting, lambda: [Waiting("pending", "https://a.example", 5, 9).to_bytes()]),
)
