"""The service's doors: nonces, retries, problems, the signed time. No TPM: a software key signs."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.jws import SignatureWrong
from attestd.credentials.requests import SoftwareKey
from attestd.credentials.times import TimeBehindFloor, TimeNonceWrong
from attestd.errors import AttestdError, Unauthenticated
from attestd.protocol.demanded import HEADER
from attestd.protocol.messages import (
    BeginAnswer,
    BeginRequest,
    CredentialAnswer,
    RenewalRequest,
    TokenRequest,
    WaitAnswer,
)
from attestd.tpm.activation import recall_ak
from attestd.tpm.attest import VerifiedKey
from attestd_agent.clock import DeviceClock
from attestd_agent.server import AnswerMalformed, Server, ServerRefused
from attestd_agent.transport import ServerCertificateOutdated, ServerTooSlow, ServerUnreachable, Transport
from tests.forger import Forger
from tests.unit.attestd_agent.fake_service import (
    DEVICE_ID,
    Answer,
    Authority,
    FakeService,
    _Registered,
    on,
    problem,
    utc_now,
)

FORGER = Forger()
KEY = SoftwareKey(FORGER.ck.private)  # type: ignore[arg-type]


@pytest.fixture
def server(service: FakeService, clock: DeviceClock) -> Server:
    from attestd.tpm.objects import parse_public

    public = parse_public(FORGER.ck.public)
    assert isinstance(public.key, ec.EllipticCurvePublicKey)
    service.registered = _Registered(recall_ak(FORGER.ak.public), VerifiedKey(public=public, key=public.key))
    transport = Transport(service.url, service.root_pem, clock, limit=2.0)
    return Server(transport, service.root_pem, entropy=os.urandom)


def renew(server: Server) -> Any:
    return server.renew(lambda _: RenewalRequest().to_bytes(), sign=KEY.sign, kid=DEVICE_ID)


# ---- Nonces ---------------------------------------------------------------------------------------------------------


def test_the_first_nonce_is_fetched_and_each_answer_brings_the_next(server: Server, service: FakeService) -> None:
    for _ in range(3):
        renew(server)
    assert service.asked("/v1/nonce") == 1
    assert service.asked("/v1/renewals") == 3


def test_a_nonce_is_used_once(server: Server, service: FakeService) -> None:
    def without_a_nonce(handler: Any) -> Answer:
        answer = service.answer(handler.command, handler.path, service.requests[-1][2])
        answer.headers["Replay-Nonce"] = ""
        return answer

    renew(server)
    service.hooks.append(on("/v1/renewals", without_a_nonce))
    renew(server)
    renew(server)
    assert service.asked("/v1/renewals") == 3
    assert service.asked("/v1/nonce") == 2


@pytest.mark.parametrize("slug", ["nonce-spent", "nonce-expired", "nonce-invalid", "seal-broken", "seal-key-unknown"])
def test_a_refused_nonce_is_replaced_by_the_refusal_s(server: Server, service: FakeService, slug: str) -> None:
    seen: list[bytes] = []
    service.hooks.append(on("/v1/renewals", problem(slug, 401)))

    def build(nonce: bytes) -> bytes:
        seen.append(nonce)
        return RenewalRequest().to_bytes()

    server.renew(build, sign=KEY.sign, kid=DEVICE_ID)
    assert len(set(seen)) == 2  # the payload is built again: a quote covers its nonce
    assert service.asked("/v1/renewals") == 2
    assert service.asked("/v1/nonce") == 1


def test_it_is_tried_once_and_no_more(server: Server, service: FakeService) -> None:
    service.hooks += [on("/v1/renewals", problem("nonce-spent", 401)) for _ in range(3)]
    with pytest.raises(ServerRefused) as refused:
        renew(server)
    assert refused.value.problem == "nonce-spent"
    assert service.asked("/v1/renewals") == 2


@pytest.mark.parametrize(
    ("slug", "status"), [("device-unknown", 401), ("device-quarantined", 403), ("nonce-spent", 500)]
)
def test_other_refusals_are_not_tried_again(server: Server, service: FakeService, slug: str, status: int) -> None:
    service.hooks.append(on("/v1/renewals", problem(slug, status)))
    with pytest.raises(ServerRefused):
        renew(server)
    assert service.asked("/v1/renewals") == 1


def test_a_service_that_restarted_is_served_by_the_retry(server: Server, service: FakeService) -> None:
    renew(server)
    service.forget_nonces()
    renew(server)
    assert service.asked("/v1/renewals") == 3


def test_a_service_without_nonces_is_named(server: Server, service: FakeService) -> None:
    service.hooks.append(on("/v1/nonce", Answer(204, headers={"Replay-Nonce": ""})))
    with pytest.raises(AnswerMalformed):
        renew(server)


@pytest.mark.parametrize("nonce", ["not base64url!", "A" * 4000])
def test_a_nonce_that_is_none_is_refused(server: Server, service: FakeService, nonce: str) -> None:
    service.hooks.append(on("/v1/nonce", Answer(204, headers={"Replay-Nonce": nonce})))
    with pytest.raises(AttestdError, match=r"[nN]once"):
        renew(server)


# ---- Lost answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["hang up", "time out"])
def test_a_lost_answer_is_asked_for_again_by_the_same_octets(server: Server, service: FakeService, loss: str) -> None:
    def lose(handler: Any) -> None:
        handler.wrote = True
        body = service.requests[-1][2]
        service.answers[body] = service.answer(handler.command, handler.path, body)  # acted upon, and not answered
        if loss == "time out":
            time.sleep(3)

    service.hooks.append(on("/v1/renewals", lose))
    answer = renew(server)
    sent = [body for _, path, body in service.requests if path == "/v1/renewals"]
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert len(service.issued) == 1
    assert isinstance(answer, CredentialAnswer)


def test_a_dead_service_is_named(server: Server, service: FakeService) -> None:
    service.stop()
    with pytest.raises((ServerUnreachable, ServerTooSlow)):
        renew(server)


# ---- Answers --------------------------------------------------------------------------------------------------------


def test_waiting_is_an_answer(server: Server, service: FakeService) -> None:
    body = WaitAnswer("pending", 30).to_bytes()
    service.hooks.append(on("/v1/renewals", Answer(202, body, {"Retry-After": "30"})))
    assert renew(server) == WaitAnswer("pending", 30)


def test_a_token_is_an_answer(server: Server) -> None:
    answer = server.token(TokenRequest("readings", "tls"), sign=KEY.sign, kid=DEVICE_ID)
    assert answer.token.startswith("token.readings.tls")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b"<html>", b'{"v":2}', b"[" * 100_000])
@pytest.mark.parametrize("status", [200, 202])
def test_an_answer_that_is_none_is_named(server: Server, service: FakeService, body: bytes, status: int) -> None:
    service.hooks.append(on("/v1/renewals", Answer(status, body)))
    with pytest.raises(AnswerMalformed):
        renew(server)


def test_the_first_round_trip_needs_no_nonce(server: Server, service: FakeService) -> None:
    begun = server.begin(BeginRequest(FORGER.ek.public, FORGER.ak.public))
    assert isinstance(begun, BeginAnswer)
    assert service.asked("/v1/nonce") == 0


# ---- Problems -------------------------------------------------------------------------------------------------------


def test_a_problem_is_told_in_full(server: Server, service: FakeService) -> None:
    members = {
        "title": "The device is quarantined",
        "detail": "An operator said so.",
        "seen": "quarantined",
        "expected": "active",
        "remedy": "Ask an operator.",
        "request_id": "r-77",
    }
    answer = problem("device-quarantined", 403, **members)
    answer.headers["Retry-After"] = "120"
    service.hooks.append(on("/v1/renewals", answer))
    with pytest.raises(ServerRefused) as refused:
        renew(server)
    error = refused.value
    assert (error.status, error.problem, error.retry_after) == (403, "device-quarantined", 120)
    assert error.what_to_do == "Ask an operator."
    for text in ("quarantined", "An operator said so.", "active", "r-77", "403", "The device is quarantined"):
        assert text in str(error)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"title": "No", "detail": "No."}, "No (403, x)"),
        ({"title": "No", "detail": "No.", "seen": "a"}, "No (403, x): seen: a"),
        ({"title": "No", "detail": "Not now.", "request_id": "r"}, "No (403, x): Not now.; request r"),
        ({"title": "No"}, "No (403, x)"),
    ],
)
def test_nothing_is_told_twice(server: Server, service: FakeService, members: dict[str, str], told: str) -> None:
    service.hooks.append(on("/v1/renewals", problem("x", 403, **members)))
    with pytest.raises(ServerRefused) as refused:
        renew(server)
    assert str(refused.value) == told


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<h1>502 Bad Gateway</h1>"),
        ("application/problem+json", b"not JSON"),
        ("application/problem+json", b'{"type": 7, "title": {"a": 1}, "detail": ["x"]}'),
        ("application/problem+json", b"[]"),
        ("", b""),
    ],
)
def test_a_refusal_without_a_problem_is_told_too(
    server: Server, service: FakeService, content_type: str, body: bytes
) -> None:
    service.hooks.append(on("/v1/renewals", Answer(502, body, {"Content-Type": content_type})))
    with pytest.raises(ServerRefused, match="502") as refused:
        renew(server)
    assert refused.value.status == 502


def test_what_a_stranger_writes_can_t_steer_the_terminal(server: Server, service: FakeService) -> None:
    service.hooks.append(on("/v1/renewals", problem("x", 403, detail="a\x1b[2Jb\r\nc" + "d" * 9000)))
    with pytest.raises(ServerRefused) as refused:
        renew(server)
    assert "\x1b" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0", 0), ("999999999", 86400), ("-1", None), ("soon", None), ("Mon, 23 Nov 2026 12:00:00 GMT", None)],
)
def test_retry_after_is_seconds_within_a_day(
    server: Server, service: FakeService, text: str, seconds: int | None
) -> None:
    answer = problem("too-many", 429)
    answer.headers["Retry-After"] = text
    service.hooks.append(on("/v1/renewals", answer))
    with pytest.raises(ServerRefused) as refused:
        renew(server)
    assert refused.value.retry_after == seconds


# ---- Time -----------------------------------------------------------------------------------------------------------


def _lost_clock(service: FakeService) -> tuple[DeviceClock, Server]:
    """A device whose clock went back to 1970 and whose floor is a year old."""
    start = utc_now()
    clock = DeviceClock(
        system=lambda: start - timedelta(days=20000), boot=lambda: 0.0, floor=start - timedelta(days=10)
    )
    transport = Transport(service.url, service.root_pem, clock, limit=5.0)
    return clock, Server(transport, service.root_pem, entropy=os.urandom)


def test_a_lost_clock_learns_the_signed_time(service: FakeService) -> None:
    clock, server = _lost_clock(service)
    assert clock.needs_time
    server.fetch_time(clock)
    assert not clock.needs_time
    assert abs(clock.now() - utc_now()) < timedelta(seconds=10)
    assert service.asked("/v1/time") == 1


def test_the_server_s_dates_are_judged_again_at_that_time(authority: Authority) -> None:
    service = FakeService(authority)
    service.server_begin, service.server_end = utc_now() - timedelta(days=30), utc_now() - timedelta(days=5)
    with service.running():
        clock, server = _lost_clock(service)  # the floor lies within the dates, the true time after them
        with pytest.raises(ServerCertificateOutdated):
            server.fetch_time(clock)
    service.server_end = utc_now() + timedelta(days=5)
    with service.running():
        clock, server = _lost_clock(service)
        server.fetch_time(clock)


def _lie(service: FakeService, make: Any) -> None:
    from urllib.parse import parse_qs, urlsplit

    from attestd.protocol.encoding import b64decode

    def answer(handler: Any) -> Answer:
        nonce = b64decode(parse_qs(urlsplit(handler.path).query)["nonce"][0])
        return Answer(200, make(nonce))

    service.hooks.append(on("/v1/time", answer))


FAKE = FakeService(Authority(utc_now()))


def _forge(text: str) -> bytes:
    head, payload, signature = text.split(".")
    return f"{head}.{payload}.{signature[:-4]}AAAA".encode()


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        (lambda service, nonce: service.signed_time(b"x" * 32, utc_now()).encode(), TimeNonceWrong),
        (lambda service, nonce: service.signed_time(nonce, utc_now() - timedelta(days=11)).encode(), TimeBehindFloor),
        (lambda service, nonce: _forge(service.signed_time(nonce, utc_now())), SignatureWrong),
        (
            lambda service, nonce: FakeService(Authority(utc_now())).signed_time(nonce, utc_now()).encode(),
            Unauthenticated,
        ),
        (lambda service, nonce: b"\xff\xfe", AnswerMalformed),
        (lambda service, nonce: b"", AttestdError),
    ],
    ids=["another nonce", "before the floor", "forged", "another authority", "no text", "empty"],
)
def test_a_false_time_teaches_nothing(service: FakeService, lie: Any, refusal: type[AttestdError]) -> None:
    clock, server = _lost_clock(service)
    _lie(service, lambda nonce: lie(service, nonce))
    with pytest.raises(refusal):
        server.fetch_time(clock)
    assert clock.needs_time


# ---- Demands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_an_attestation_is_wanted(server: Server, service: FakeService, wanted: bool) -> None:
    service.wants_attestation = wanted
    assert server.demands(DEVICE_ID) is wanted


@pytest.mark.parametrize("body", [b'{"v":1}', b'{"v":1,"attest":false}', b'{"v":1,"attest":"yes"}'])
def test_only_true_is_yes(server: Server, service: FakeService, body: bytes) -> None:
    service.hooks.append(on(f"/v1/demands/{DEVICE_ID}", Answer(200, body)))
    assert not server.demands(DEVICE_ID)


@pytest.mark.parametrize("body", [b"", b"true", b'{"v":2,"attest":true}', b'{"attest":true}'])
def test_what_is_no_answer_is_refused(server: Server, service: FakeService, body: bytes) -> None:
    service.hooks.append(on(f"/v1/demands/{DEVICE_ID}", Answer(200, body)))
    with pytest.raises(AnswerMalformed):
        server.demands(DEVICE_ID)


def test_a_service_that_knows_no_demands_refuses(server: Server) -> None:
    with pytest.raises(ServerRefused):
        server.demands("../tokens")


def test_words_of_an_answer_without_a_nonce_are_not_the_newest(server: Server, service: FakeService) -> None:
    """The nonce and the words go into one quote."""
    service.demanded = "sha256:0,7 ima"
    server.ask()
    assert server.demanded == ({"sha256": (0, 7)}, ("ima",))
    quiet = Answer(204, headers={"Replay-Nonce": "", HEADER: "sha256:1"})
    service.hooks.append(on("/v1/nonce", quiet))
    server.ask()
    assert server.demanded == ({"sha256": (0, 7)}, ("ima",))
