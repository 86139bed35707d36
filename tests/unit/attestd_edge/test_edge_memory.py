"""What an edge remembers never lets through what it would refuse now: time, state, policy, other credentials."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.bundle import BundleStale
from attestd.credentials.certificates import CertificateExpired, CertificateForged
from attestd.credentials.identity import CredentialRevoked, DeviceRevoked, DeviceSuspended
from attestd.credentials.jws import SignatureWrong
from attestd.credentials.tokens import BoundElsewhere, TokenAudienceWrong, TokenExpired, TokenRefused
from attestd.credentials.x509 import UnknownIssuer, verify_chain
from attestd.errors import AttestdError, Unauthenticated
from attestd.ids import Serial, Site, Tier
from attestd.policy import Boundary, default_policy
from attestd_edge import decide as decide_module
from attestd_edge import paths as paths_module
from attestd_edge import views as views_module
from attestd_edge.decide import ProofMissing, TokenRules
from attestd_edge.edge import Admitted, Asked
from attestd_edge.memo import Memo
from attestd_edge.paths import PathAmbiguous, read_path
from attestd_edge.views import (
    CREDENTIAL_OBJECTS,
    CREDENTIALS_OCTETS,
    DECISIONS_OCTETS,
    VERDICT_OBJECTS,
    VERDICTS_OCTETS,
    View,
)
from tests import authority as a

CROSS = 'permit (principal, action == Action::"cross", resource)'
MOMENT = timedelta(microseconds=1)


def view_of(*, before: View | None = None, pinned: tuple[bytes, ...] = (a.ROOT.der,), **lies) -> View:
    honest = {"policy": default_policy(), "stale_after": 86400}
    return View.of(a.bundle(**{**honest, **lies}), pinned=pinned, before=before)


def bound_token(chain: tuple[bytes, ...], **lies) -> str:
    thumbprint = verify_chain(chain, authorities=view_of().authorities, now=a.NOW).thumbprint
    return a.token(**{"cnf": {"x5t#S256": thumbprint}, "srl": str(Serial(77)), **lies})


@pytest.fixture
def chain() -> tuple[bytes, ...]:
    return (a.leaf(serial=77), a.ISSUER.der)


@pytest.fixture
def hot(ask):
    """Asks twice; the second answer was remembered."""

    def twice(**asked):
        assert ask(**asked).decision.allowed
        assert ask(**asked).remembered

    return twice


class TestTime:
    def test_a_verdict_ends_where_its_certificate_does(self, ask, hot, chain):
        view, end = view_of(), a.NOW + timedelta(hours=1)
        hot(chain=chain, view=view)
        assert ask(chain=chain, view=view, now=end - MOMENT).remembered
        assert not ask(chain=chain, view=view, now=end).remembered  # RFC 5280's last moment: asked again
        with pytest.raises(CertificateExpired):
            ask(chain=chain, view=view, now=end + MOMENT)

    def test_a_verdict_ends_where_its_issuer_does(self, ask, hot):
        view, end = view_of(issuers=()), a.NOW + timedelta(minutes=5)
        short = a.ca("issuer", issuer=a.ROOT, path_length=0, not_after=end)
        chain = (a.leaf(issuer=short), short.der)
        hot(chain=chain, view=view)
        with pytest.raises(CertificateExpired):
            ask(chain=chain, view=view, now=end + MOMENT)

    def test_a_verdict_ends_exactly_where_its_token_does(self, ask, hot, chain):
        view, end = view_of(), a.NOW + timedelta(seconds=300)
        asked = {"chain": chain, "token": bound_token(chain), "scheme": "bearer", "view": view}
        hot(**asked)
        assert ask(**asked, now=end - MOMENT).remembered
        with pytest.raises(TokenExpired):
            ask(**asked, now=end)

    def test_a_verdict_ends_exactly_where_its_bundle_becomes_stale(self, ask, hot, chain):
        view = view_of(stale_after=60)
        hot(chain=chain, view=view)
        assert ask(chain=chain, view=view, now=a.NOW + timedelta(seconds=60) - MOMENT).remembered
        with pytest.raises(BundleStale):
            ask(chain=chain, view=view, now=a.NOW + timedelta(seconds=60))

    def test_a_verdict_does_not_begin_before_it_was_given(self, ask, hot, chain):
        """Nor does it let a certificate count before its own beginning."""
        early = (a.leaf(serial=77, not_before=a.NOW), a.ISSUER.der)
        view = view_of()
        hot(chain=early, view=view)
        with pytest.raises(Unauthenticated, match="not valid yet"):
            ask(chain=early, view=view, now=a.NOW - MOMENT)

    def test_a_clock_that_is_set_back_gives_no_verdict_more_time(self, edge, watch, boundary, ask):
        presented = decide_module.Presented((a.leaf(not_after=a.NOW + timedelta(minutes=10)),))
        request = decide_module.Request("GET", "https://shop.example.org", "/orders")

        def crosses() -> bool:
            return isinstance(edge.admit(boundary, lambda: Asked(presented, request)), Admitted)

        assert crosses()
        watch.pass_(599)
        assert crosses()
        watch.wall -= timedelta(hours=5)
        assert crosses()
        watch.counted += 2
        assert not crosses()


class TestState:
    @pytest.mark.parametrize(
        ("lie", "error"),
        [
            ({"status": a.StatusList.of({7: a.Status.SUSPENDED}, 16)}, DeviceSuspended),
            ({"status": a.StatusList.of({7: a.Status.INVALID}, 16)}, DeviceRevoked),
            ({"revoked": frozenset({Serial(77)})}, CredentialRevoked),
            ({"revoked": frozenset({Serial(a.ISSUER.certificate.serial_number)})}, CredentialRevoked),
        ],
    )
    def test_a_later_bundle_counts_at_once(self, ask, hot, chain, lie, error):
        view = view_of()
        after = view_of(before=view, version=6, **lie)
        for token in ({}, {"token": bound_token(chain), "scheme": "bearer"}):
            hot(chain=chain, **token, view=view)
            with pytest.raises(error):
                ask(chain=chain, **token, view=after)

    def test_another_policy_under_the_same_version_counts_at_once(self, ask, hot, chain):
        view = view_of()
        hot(chain=chain, view=view)
        assert not ask(chain=chain, view=view_of(before=view, version=6, policy="")).decision.allowed

    def test_other_pins_are_other_authorities(self, ask, hot, chain):
        other = a.ca("other", key=a.STRANGER_KEY)
        roots = (a.ROOT.der, other.der)
        view = view_of(roots=roots)
        hot(chain=chain, view=view)
        with pytest.raises(UnknownIssuer):
            ask(chain=chain, view=view_of(before=view, roots=roots, pinned=(other.der,)))

    def test_the_same_authorities_are_not_proven_again(self):
        view = view_of()
        assert view_of(before=view, version=6).authorities is view.authorities
        assert view_of(before=view, version=6, issuers=()).authorities is not view.authorities


class TestOtherCredentials:
    @pytest.mark.parametrize("at", [-1, -40, 300])
    def test_one_changed_octet_is_another_certificate(self, ask, hot, chain, at):
        view = view_of()
        hot(chain=chain, view=view)
        forged = bytearray(chain[0])
        forged[at] ^= 1
        with pytest.raises(AttestdError):
            ask(chain=(bytes(forged), *chain[1:]), view=view)
        assert ask(chain=chain, view=view).remembered

    def test_a_forged_signature_beside_a_remembered_certificate(self, ask, hot, chain):
        view = view_of()
        hot(chain=chain, view=view)
        with pytest.raises(CertificateForged):
            ask(chain=(a.leaf(serial=77, signed_by=a.STRANGER_KEY), a.ISSUER.der), view=view)

    def test_what_is_cut_elsewhere_is_another_chain(self, ask, hot, chain):
        view = view_of()
        hot(chain=chain, view=view)
        whole = b"".join(chain)
        for parts in [(whole,), (whole[:100], whole[100:]), (chain[0] + chain[1][:1], chain[1][1:])]:
            with pytest.raises(Unauthenticated):
                ask(chain=parts, view=view)

    def test_another_signature_under_a_remembered_token(self, ask, hot, chain):
        token = bound_token(chain)
        asked = {"chain": chain, "scheme": "bearer", "view": view_of()}
        hot(**asked, token=token)
        forged = bound_token(chain, jti="token-2").rpartition(".")[2]
        with pytest.raises(SignatureWrong):
            ask(**asked, token=f"{token.rpartition('.')[0]}.{forged}")

    def test_a_remembered_bound_token_without_its_certificate_or_with_another(self, ask, hot, chain):
        asked = {"token": bound_token(chain), "scheme": "bearer", "view": view_of()}
        hot(**asked, chain=chain)
        with pytest.raises(BoundElsewhere):
            ask(**asked)
        with pytest.raises(BoundElsewhere):
            ask(**asked, chain=(a.leaf(serial=78), a.ISSUER.der))

    def test_a_remembered_bound_token_in_another_scheme(self, ask, hot, chain, prove):
        token, view = bound_token(chain), view_of()
        hot(token=token, scheme="bearer", chain=chain, view=view)
        with pytest.raises(ProofMissing):
            ask(token=token, chain=chain, view=view)
        with pytest.raises(BoundElsewhere):
            ask(token=token, proof=prove(token), chain=chain, view=view)

    def test_a_proven_token_needs_its_proof_each_time(self, ask, prove):
        token, view = a.token(), view_of()
        for number in range(2):
            assert ask(token=token, proof=prove(token, jti=f"p{number}"), view=view).decision.allowed
        with pytest.raises(ProofMissing):
            ask(token=token, view=view)
        with pytest.raises(BoundElsewhere):
            ask(token=token, view=view, scheme="bearer")

    def test_for_another_audience(self, ask, hot, rules, chain):
        """Two edges with one store: what one of them takes, the other does not."""
        asked = {"chain": chain, "token": bound_token(chain), "scheme": "bearer", "view": view_of()}
        hot(**asked)
        other = TokenRules("https://bank.example.org", rules.origins, rules.nonces, rules.replays)
        with pytest.raises(TokenAudienceWrong):
            ask(**asked, tokens=other)

    def test_a_token_that_nobody_read_is_read_where_tokens_count(self, ask, hot, chain):
        asked = {"chain": chain, "token": "opaque", "scheme": "bearer", "view": view_of()}
        hot(**asked, tokens=None)
        with pytest.raises(TokenRefused):
            ask(**asked)


class TestOtherCrossings:
    @pytest.mark.parametrize(
        "lie",
        [{"from_tier": Tier.CLOUD}, {"from_site": Site("berlin")}, {"name": "no-way"}],
        ids=lambda lie: next(iter(lie)),
    )
    def test_boundaries_of_one_name_are_told_apart(self, ask, hot, boundary, chain, lie):
        closed = 'forbid (principal, action, resource == Boundary::"no-way");'
        view = view_of(policy=default_policy() + closed)
        hot(chain=chain, view=view)
        assert not ask(chain=chain, view=view, boundary=replace(boundary, **lie)).decision.allowed

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("b", Tier.DEVICE, None), ("b", Tier.DEVICE, Site("null"))),
            (('b","device', Tier.DEVICE, None), ("b", Tier.DEVICE, None)),
            (("b", Tier.DEVICE, Site("m")), ("b", Tier.EDGE, Site("m"))),
        ],
    )
    def test_no_boundary_can_be_named_like_another(self, one, other):
        first, second = (Boundary(*parts, Tier.EDGE, Site("m")) for parts in (one, other))
        assert first.key != second.key
        assert first != second

    def test_an_ambiguous_path_is_refused_while_hot(self, ask, hot, chain):
        view = view_of()
        hot(chain=chain, view=view)
        with pytest.raises(PathAmbiguous):
            ask(chain=chain, view=view, target="/orders/../admin")

    def test_a_query_is_not_part_of_it(self, ask, hot, chain):
        view = view_of()
        hot(chain=chain, view=view)
        assert ask(chain=chain, view=view, target="/orders?page=2").remembered


class TestMachinesThatLookTheSame:
    def device(self, number: int, **lies) -> tuple[bytes, ...]:
        facts = replace(a.FACTS, status_index=number, **lies)
        return (a.leaf(uris=[f"spiffe://example.org/device/munich/bike-{number}"], serial=number, facts=facts),)

    def test_policy_is_asked_once_for_them(self, ask, monkeypatch):
        asked = []
        real = views_module.decide
        monkeypatch.setattr(views_module, "decide", lambda *args: asked.append(args) or real(*args))
        view = view_of()
        for number in (1, 2, 3):
            assert ask(chain=self.device(number), view=view).decision.allowed
        assert len(asked) == 1

    @pytest.mark.parametrize(
        "condition",
        [
            'principal == Device::"bike-2"',
            'principal.id == "bike-2"',
            '[Device::"bike-2"].contains(principal)',
            'principal in Device::"bike-2"',
            '{"who": principal}.who.id == "bike-2"',
            'principal.hasTag("recalled")',
            'principal.boot.flags.hasTag("debug")',
            'principal has attested_at && context.now.durationSince(principal.attested_at) > duration("1h")',
        ],
    )
    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    def test_what_policy_looks_at_tells_them_apart(self, ask, condition, order):
        view = view_of(policy=f"{CROSS}; forbid (principal, action, resource) when {{ {condition} }};")
        odd = {"labels": {"recalled": "yes"}, "boot": {"debug": True}, "attested_at": a.FACTS.attested_at - 7200}
        chains = {1: self.device(1), 2: self.device(2, **odd)}
        for number in (*order, *order):
            assert ask(chain=chains[number], view=view).decision.allowed is (number == 1)

    def test_their_identities_are_their_own(self, ask):
        view = view_of()
        seen = [str(ask(chain=self.device(number), view=view).identity.device_id) for number in (1, 2, 1)]
        assert seen == ["bike-1", "bike-2", "bike-1"]


class TestPlainPaths:
    @given(st.text("/.ab~-_%;?#\\é \n", max_size=12))
    def test_are_read_as_any_path_is(self, target):
        """The short way is a way to the same answer."""

        def read() -> str | None:
            try:
                return read_path(target)
            except PathAmbiguous:
                return None

        short = read()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paths_module, "_PLAIN", paths_module.re.compile("(?!)"))
            assert read() == short


class Same:
    """Keys of one hash."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.name == other.name


class TestRoom:
    def test_keys_of_one_hash_are_told_apart(self):
        memo: Memo[Same, str] = Memo(4)
        memo.keep(Same("a"), "a")
        assert memo.get(Same("b")) is None
        memo.keep(Same("b"), "b")
        assert (memo.get(Same("a")), memo.get(Same("b"))) == ("a", "b")

    def test_octets_are_bounded(self):
        memo: Memo[int, int] = Memo(1000, octets=1600)
        for number in range(100):
            memo.keep(number, number, octets=100)
            assert len(memo) <= 16
        assert memo.get(99) == 99
        assert memo.get(0) is None

    def test_what_is_too_heavy_is_not_kept(self):
        memo: Memo[int, int] = Memo(1000, octets=1600)
        assert memo.keep(1, 10, octets=101) == 10
        assert memo.get(1) is None
        memo.keep(1, 10, octets=100)
        assert memo.get(1) == 10

    def test_the_last_value_counts(self):
        memo: Memo[int, int] = Memo(100, octets=1600)
        memo.keep(0, 0)
        for other in (2, 3):
            for value in range(100):
                memo.keep(1, value, octets=10)
            memo.keep(other, other)
        assert (memo.get(1), memo.get(0)) == (99, 0)  # what is replaced makes room

    def test_a_long_tail_of_certificates_takes_no_more_room(self, ask, view):
        """What a genuine device adds behind its chain counts as what it takes."""
        long = (a.leaf(), a.ISSUER.der, bytes(CREDENTIALS_OCTETS // 8))
        assert ask(chain=long).decision.allowed
        assert not ask(chain=long).remembered
        assert len(view.proofs.certificates) == 0

    def test_the_bounds_are_as_large_as_what_they_bound(self, ask):
        """Weighs two hundred remembered devices: what decide.py counts for one is not less than what one takes."""
        devices = TestMachinesThatLookTheSame()
        chains = [devices.device(number % 7, labels={"n": str(number)}) for number in range(1, 201)]
        view = view_of()
        ask(chain=chains[0], view=view)
        gc.collect()
        tracemalloc.start()
        try:
            for chain in chains[1:]:
                assert ask(chain=(bytes(bytearray(chain[0])),), view=view).decision.allowed
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0] / 199
        finally:
            tracemalloc.stop()
        assert taken < CREDENTIAL_OBJECTS + VERDICT_OBJECTS + len(chains[0][0])

    def test_all_of_it_is_bounded(self):
        assert 2 * CREDENTIALS_OCTETS + VERDICTS_OCTETS + DECISIONS_OCTETS <= 224 << 20
