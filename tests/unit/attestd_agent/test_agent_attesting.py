"""Attestations by the service's newest words, without what it knows, and once more where a refusal says how."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestd.protocol.demanded import HEADER, EvidenceHeaderMalformed
from attestd.protocol.evidence import Lately
from attestd.protocol.messages import WaitAnswer
from attestd_agent.agent import Agent
from attestd_agent.records import Enrolled, MalformedEar
from attestd_agent.server import ServerRefused
from tests import ima_lists as w
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import MakeAgent
from tests.unit.attestd_agent.fake_service import FakeService, on, problem

EVENTS = b"the firmware's events"
LIST = [w.boot_aggregate(), *(w.ng(f"/usr/bin/{number}") for number in range(9))]
DIGEST = hashlib.sha256(EVENTS).digest()
BOTH = "sha256:0,1,2,3,4,5,6,7 eventlog ima"
WHOLE = ["another-boot", "another-policy", "another-list-form", "bank-not-replayed", "entries-missing"]
WHOLE += ["event-log-unknown", "evidence-incomplete"]


@pytest.fixture
def agent(make_agent: MakeAgent, tpm: SoftwareTpm, tmp_path: Path) -> Agent:
    """Enrolled, with logs at hand."""
    (tmp_path / "eventlog").write_bytes(EVENTS)
    (tmp_path / "ima").write_bytes(w.binary(LIST))
    found = make_agent(tpm)
    assert isinstance(found.enroll(), Enrolled)
    return found


def leaf(agent: Agent) -> Any:
    known = agent.state.load()
    assert known is not None
    return known.leaf


def sent(service: FakeService) -> tuple[bytes | None, bytes | None, bytes | None, int]:
    quote = service.evidence[-1]
    return quote.eventlog, quote.eventlog_sha256, quote.ima, quote.ima_from


# ---- By the newest words --------------------------------------------------------------------------------------------


def test_it_quotes_and_sends_what_the_header_says(agent: Agent, service: FakeService) -> None:
    service.demanded, service.selection = "sha256:0,7,10 ima", {"sha256": (0, 7, 10)}
    assert isinstance(agent.attest(), Enrolled)
    assert sent(service) == (None, None, w.binary(LIST), 0)


def test_the_words_are_asked_for_before_each_quote(agent: Agent, service: FakeService) -> None:
    """A nonce is at hand from the last answer, and with it what that one said."""
    service.demanded = BOTH
    agent.attest()
    service.demanded, service.selection = "sha256:0,7", {"sha256": (0, 7)}
    asked = service.asked("/v1/attestations")
    assert isinstance(agent.attest(), Enrolled)
    assert service.asked("/v1/attestations") == asked + 1
    assert sent(service) == (None, None, None, 0)


def test_without_a_header_the_enrollment_s_words_count(
    make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "eventlog").write_bytes(EVENTS)
    service.selection, service.wants = {"sha256": (0, 7)}, ("eventlog",)
    agent = make_agent(tpm)
    agent.enroll()
    assert isinstance(agent.attest(), Enrolled)
    assert sent(service) == (EVENTS, None, None, 0)


def test_a_service_that_says_nothing_any_more_is_an_older_one(agent: Agent, service: FakeService) -> None:
    service.demanded = BOTH
    agent.attest()
    service.demanded = None
    assert isinstance(agent.attest(), Enrolled)
    assert sent(service) == (None, None, None, 0)


@pytest.mark.parametrize("header", ["", "sha256", "sha256:0,0", "md5:0", "sha256:24", "sha256:0, sha256:1", "x" * 700])
def test_a_header_that_can_t_be_read_is_refused(agent: Agent, service: FakeService, header: str) -> None:
    before = leaf(agent)
    service.demanded = header
    with pytest.raises(EvidenceHeaderMalformed):
        agent.attest()
    assert leaf(agent) == before
    assert service.asked("/v1/attestations") == 0


def test_it_spoils_nothing_but_attestations(agent: Agent, service: FakeService) -> None:
    service.demanded = "nonsense"
    assert isinstance(agent.renew(), Enrolled)
    assert agent.token("readings").token


# ---- Without what is known ------------------------------------------------------------------------------------------


def test_what_the_service_knows_is_left_out(agent: Agent, service: FakeService, tmp_path: Path) -> None:
    service.demanded, service.lately = BOTH, Lately(DIGEST, len(LIST))
    agent.attest()
    assert sent(service) == (EVENTS, None, w.binary(LIST), 0)
    with (tmp_path / "ima").open("ab") as file:
        file.write(w.ng("/usr/bin/new").binary())
    agent.attest()
    assert sent(service) == (None, DIGEST, w.ng("/usr/bin/new").binary(), len(LIST))


def test_it_is_remembered_by_the_next_agent(
    agent: Agent, make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService
) -> None:
    service.demanded, service.lately = BOTH, Lately(DIGEST, len(LIST))
    agent.attest()
    make_agent(tpm).attest()
    assert sent(service) == (None, DIGEST, b"", len(LIST))


def test_an_answer_without_it_forgets_it(agent: Agent, service: FakeService) -> None:
    service.demanded, service.lately = BOTH, Lately(DIGEST, len(LIST))
    agent.attest()
    service.lately = Lately()
    agent.attest()
    agent.attest()
    assert sent(service) == (EVENTS, None, w.binary(LIST), 0)


def test_a_renewal_changes_nothing_of_it(agent: Agent, service: FakeService) -> None:
    service.demanded, service.lately = BOTH, Lately(DIGEST, len(LIST))
    agent.attest()
    service.lately = Lately()
    agent.renew()
    assert agent.state.lately() == Lately(DIGEST, len(LIST))


def test_an_enrollment_says_it_too(
    make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "eventlog").write_bytes(EVENTS)
    service.wants, service.lately = ("eventlog",), Lately(DIGEST)
    make_agent(tpm).enroll()
    make_agent(tpm).attest()
    assert sent(service) == (None, DIGEST, None, 0)


def test_so_does_a_quarantine(agent: Agent, service: FakeService) -> None:
    service.demanded, service.lately, service.state = BOTH, Lately(DIGEST, 3), "quarantined"
    assert isinstance(agent.attest(), WaitAnswer)
    agent.attest()
    assert sent(service) == (None, DIGEST, w.binary(LIST[3:]), 3)


@pytest.mark.parametrize("act", ["enroll", "attest"])
def test_the_list_is_read_after_the_quote(
    agent: Agent, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The kernel measures something while the agent works: what is in the quote is in the list."""
    service.demanded, service.wants = "sha256:0,1,2,3,4,5,6,7 ima", ("ima",)
    more = w.ng("/usr/bin/meanwhile").binary()
    name = "prove" if act == "enroll" else "quote"
    real: Callable[..., Any] = getattr(agent.device, name)

    def measured(*args: Any, **named: Any) -> Any:
        with (tmp_path / "ima").open("ab") as file:
            file.write(more)
        return real(*args, **named)

    monkeypatch.setattr(agent.device, name, measured)
    getattr(agent, act)()
    assert service.evidence[-1].ima == w.binary(LIST) + more


# ---- Once more ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", WHOLE)
def test_where_the_service_knows_less_all_is_sent_at_once(agent: Agent, service: FakeService, slug: str) -> None:
    service.demanded, service.lately = BOTH, Lately(DIGEST, len(LIST))
    agent.attest()
    service.hooks.append(on("/v1/attestations", problem(slug, 409)))
    nonces, asked = service.asked("/v1/nonce"), service.asked("/v1/attestations")
    assert isinstance(agent.attest(), Enrolled)
    assert sent(service) == (EVENTS, None, w.binary(LIST), 0)
    assert service.asked("/v1/attestations") == asked + 2
    assert service.asked("/v1/nonce") == nonces + 1  # the second one is the refusal's


@pytest.mark.parametrize("slug", WHOLE)
def test_a_second_such_answer_is_a_failure(agent: Agent, service: FakeService, slug: str) -> None:
    service.hooks += [on("/v1/attestations", problem(slug, 409)), on("/v1/attestations", problem("another-boot", 409))]
    with pytest.raises(ServerRefused) as refused:
        agent.attest()
    assert refused.value.problem == "another-boot"
    assert service.asked("/v1/attestations") == 2


def test_what_is_known_is_not_forgotten_by_a_refusal(agent: Agent, service: FakeService) -> None:
    """The next attestation is a new one; it may be another problem by then."""
    service.demanded, service.lately = BOTH, Lately(DIGEST, len(LIST))
    agent.attest()
    service.hooks += [on("/v1/attestations", problem("entries-missing", 409)) for _ in range(2)]
    with pytest.raises(ServerRefused):
        agent.attest()
    assert agent.state.lately() == service.lately


def test_other_pcrs_are_quoted_at_once(agent: Agent, service: FakeService) -> None:
    """The policy changes between the nonce and the attestation."""
    service.demanded = BOTH

    def change(handler: Any) -> Any:
        service.demanded, service.selection = "sha256:0,7", {"sha256": (0, 7)}

    service.hooks.append(on("/v1/attestations", change))
    service.hooks.append(on("/v1/attestations", lambda handler: problem("pcr-selection-mismatch", 403)))
    assert isinstance(agent.attest(), Enrolled)
    assert list(service.evidence[-1].pcrs["sha256"]) == [0, 7]
    assert service.asked("/v1/attestations") == 2


def test_the_header_of_the_refusal_is_the_newest(agent: Agent, service: FakeService) -> None:
    service.demanded, service.selection = "sha256:0,1", {"sha256": (0, 7)}
    refusal = problem("pcr-selection-mismatch", 403)
    refusal.headers[HEADER] = "sha256:0,7"
    service.hooks.append(on("/v1/attestations", refusal))
    assert isinstance(agent.attest(), Enrolled)


def test_pcrs_that_are_refused_twice_are_a_failure(agent: Agent, service: FakeService) -> None:
    service.demanded = BOTH
    service.hooks += [on("/v1/attestations", problem("pcr-selection-mismatch", 403)) for _ in range(2)]
    with pytest.raises(ServerRefused):
        agent.attest()
    assert service.asked("/v1/attestations") == 2


def test_an_older_service_is_not_asked_twice_for_the_same(agent: Agent, service: FakeService) -> None:
    service.hooks.append(on("/v1/attestations", problem("pcr-selection-mismatch", 403)))
    with pytest.raises(ServerRefused):
        agent.attest()
    assert service.asked("/v1/attestations") == 1


def test_both_may_come_after_each_other(agent: Agent, service: FakeService) -> None:
    service.demanded = BOTH
    service.hooks += [
        on("/v1/attestations", problem(slug, 409)) for slug in ("pcr-selection-mismatch", "event-log-unknown")
    ]
    assert isinstance(agent.attest(), Enrolled)
    assert service.asked("/v1/attestations") == 3


# ---- The result, for relying parties --------------------------------------------------------------------------------

EAR, LATER = "aGVhZGVy.cGF5bG9hZA.c2ln", "aGVhZGVy.bGF0ZXI.c2ln"


def test_the_result_lies_beside_the_certificate(agent: Agent, service: FakeService) -> None:
    assert not agent.state.ear_path.exists()
    service.ear = EAR
    agent.attest()
    assert agent.state.ear_path.read_text() == EAR
    assert agent.state.ear_path.parent == agent.state.chain_path.parent
    assert stat.S_IMODE(agent.state.ear_path.stat().st_mode) == stat.S_IMODE(agent.state.chain_path.stat().st_mode)
    known = agent.state.load()
    assert known is not None
    assert known.ear == EAR


def test_it_is_replaced_and_taken_away_with_the_certificate(agent: Agent, service: FakeService) -> None:
    service.ear = EAR
    agent.attest()
    service.ear = LATER
    agent.attest()
    assert agent.state.ear_path.read_text() == LATER
    service.ear = ""
    agent.attest()
    assert not agent.state.ear_path.exists()


@pytest.mark.parametrize("new_key", [False, True])
def test_a_renewal_that_says_none_keeps_it(agent: Agent, service: FakeService, new_key: bool) -> None:
    """Nothing was attested anew, and the earlier attestation counts."""
    service.ear = EAR
    agent.attest()
    service.ear = ""
    agent.renew(new_key=new_key)
    assert agent.state.ear_path.read_text() == EAR


@pytest.mark.parametrize("later", [LATER, ""])
def test_a_quarantined_device_does_not_go_on_with_a_good_one(agent: Agent, service: FakeService, later: str) -> None:
    service.ear = EAR
    before = agent.attest()
    service.state, service.ear = "quarantined", later
    assert isinstance(agent.attest(), WaitAnswer)
    known = agent.state.load()
    assert isinstance(before, Enrolled)
    assert known is not None
    assert (known.ear, known.leaf, known.ck) == (later, before.leaf, before.ck)
    assert agent.state.ear_path.exists() is bool(later)


@pytest.mark.parametrize("ear", ["no JWT", "a.b", "a.b.c.d", "a.b.ü", "a.b.c\n"])
def test_what_is_no_jwt_is_not_saved(agent: Agent, service: FakeService, ear: str) -> None:
    before = leaf(agent)
    service.ear = ear
    with pytest.raises(MalformedEar):
        agent.attest()
    assert leaf(agent) == before
    assert not agent.state.ear_path.exists()
