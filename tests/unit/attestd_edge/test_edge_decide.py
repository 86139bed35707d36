"""Each step of `judge`: what is accepted, and the one lie that is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from attestd.credentials.bundle import BundleStale
from attestd.credentials.certificates import CertificateExpired, CertificateForged, CertificateNotYetValid
from attestd.credentials.dpop import (
    FreshNonceNeeded,
    ProofForAnotherRequest,
    ProofForAnotherToken,
    ProofKeyWrong,
    ProofMalformed,
    ProofReplayed,
)
from attestd.credentials.facts import Facts
from attestd.credentials.identity import CredentialRevoked, DeviceRevoked, DeviceSuspended, NotADevice, StatusUnknown
from attestd.credentials.tokens import (
    BoundElsewhere,
    TokenAudienceWrong,
    TokenExpired,
    TokenIssuerWrong,
    TokenKeyUnknown,
)
from attestd.credentials.x509 import UnknownIssuer, verify_chain
from attestd.ids import Serial, Site, Tier
from attestd.policy import default_policy
from attestd_edge import decide as decide_module
from attestd_edge import views as views_module
from attestd_edge.decide import (
    CredentialsDisagree,
    NoCredential,
    OriginUnknown,
    Presented,
    ProofMissing,
    TokensNotAccepted,
)
from attestd_edge.memo import Memo
from attestd_edge.paths import PathAmbiguous, encode_path, read_path
from attestd_edge.views import BundleUnusable, View
from tests import authority as a

FACTS = a.FACTS


def facts(**lies) -> Facts:
    return replace(FACTS, **lies)


class TestCertificates:
    def test_a_device_at_home_may_cross(self, ask):
        verdict = ask(chain=(a.leaf(),))
        assert verdict.decision.allowed
        assert str(verdict.identity.spiffe_id) == a.BIKE
        assert (verdict.identity.tier, verdict.identity.site, verdict.identity.kind) == ("device", "munich", "x509")

    def test_nothing_presented(self, ask):
        with pytest.raises(NoCredential):
            ask()

    def test_of_a_stranger(self, ask):
        stranger = a.ca("root", key=a.STRANGER_KEY, path_length=2)
        with pytest.raises(UnknownIssuer):
            ask(chain=(a.leaf(issuer=a.ca("strange", issuer=stranger, key=a.LOWER_KEY)),))

    def test_signed_by_another_key(self, ask):
        with pytest.raises(CertificateForged):
            ask(chain=(a.leaf(signed_by=a.STRANGER_KEY),))

    def test_expired(self, ask):
        chain = (a.leaf(),)
        assert ask(chain=chain, now=a.NOW + timedelta(minutes=59)).decision.allowed
        with pytest.raises(CertificateExpired):
            ask(chain=chain, now=a.NOW + timedelta(hours=1, seconds=1), view=_fresh_view(stale_after=86400))

    def test_not_yet_valid(self, ask):
        with pytest.raises(CertificateNotYetValid):
            ask(chain=(a.leaf(not_before=a.NOW + timedelta(seconds=1)),))

    def test_revoked(self, ask):
        assert ask(chain=(a.leaf(serial=0xBAE),)).decision.allowed
        with pytest.raises(CredentialRevoked):
            ask(chain=(a.leaf(serial=0xBAD),))

    @pytest.mark.parametrize(("index", "error"), [(8, DeviceSuspended), (9, DeviceRevoked), (16, StatusUnknown)])
    def test_of_a_device_that_fell(self, ask, index, error):
        assert ask(chain=(a.leaf(facts=facts(status_index=7)),)).decision.allowed
        with pytest.raises(error):
            ask(chain=(a.leaf(facts=facts(status_index=index)),))

    def test_of_a_proxy(self, ask):
        with pytest.raises(NotADevice):
            ask(chain=(a.leaf(uris=["spiffe://example.org/proxy/munich/p1"], facts=None),))

    def test_for_another_boundary(self, ask, boundary):
        berlin = replace(boundary, from_site=Site("berlin"))
        verdict = ask(chain=(a.leaf(),), boundary=berlin)
        assert not verdict.decision.allowed
        assert verdict.decision.reasons[0] == "this boundary is for site berlin; the credential is of site munich"

    def test_of_another_tier(self, ask, boundary):
        assert not ask(chain=(a.leaf(),), boundary=replace(boundary, from_tier=Tier.CLOUD)).decision.allowed

    def test_of_a_contraindicated_device(self, ask):
        bad = facts(vector={"instance-identity": 2, "executables": 99})
        assert not ask(chain=(a.leaf(facts=bad),)).decision.allowed


def _fresh_view(**lies) -> View:
    return View.of(a.bundle(**{"policy": default_policy(), **lies}), pinned=[a.ROOT.der])


class TestProvenKeys:
    def test_a_token_with_its_proof(self, ask, prove):
        token = a.token()
        verdict = ask(token=token, proof=prove(token))
        assert verdict.decision.allowed
        assert verdict.identity.kind == "jwt"

    def test_without_the_proof(self, ask):
        with pytest.raises(ProofMissing):
            ask(token=a.token())

    def test_as_a_bearer(self, ask, prove):
        token = a.token()
        with pytest.raises(BoundElsewhere):
            ask(token=token, proof=prove(token), scheme="bearer")

    def test_as_a_bearer_beside_a_certificate_that_it_is_not_bound_to(self, ask):
        with pytest.raises(BoundElsewhere):
            ask(token=a.token(), scheme="bearer", chain=(a.leaf(),))

    def test_a_proof_without_our_nonce(self, ask, prove):
        token = a.token()
        for nonce in (..., "n", "bm9uY2U"):
            with pytest.raises(FreshNonceNeeded):
                ask(token=token, proof=prove(token, nonce=nonce))

    def test_a_nonce_that_is_too_old(self, ask, prove):
        token = a.token(exp=int(a.NOW.timestamp()) + 3000)
        assert ask(token=token, proof=prove(token), now=a.NOW + timedelta(seconds=299)).decision.allowed
        with pytest.raises(FreshNonceNeeded):
            ask(token=token, proof=prove(token, jti="later"), now=a.NOW + timedelta(seconds=300))

    def test_a_proof_used_twice(self, ask, prove):
        token = a.token()
        proof = prove(token)
        assert ask(token=token, proof=proof).decision.allowed
        with pytest.raises(ProofReplayed):
            ask(token=token, proof=proof)

    def test_a_remembered_token_still_needs_its_proof(self, ask, prove):
        token = a.token()
        assert ask(token=token, proof=prove(token)).decision.allowed
        with pytest.raises(ProofKeyWrong):
            ask(token=token, proof=prove(token, key=a.STRANGER_KEY, jti="2"))

    @pytest.mark.parametrize(
        ("lie", "error"),
        [
            ({"htm": "POST"}, ProofForAnotherRequest),
            ({"htu": "https://shop.example.org/other"}, ProofForAnotherRequest),
            ({"htu": "https://evil.example.org/orders"}, ProofForAnotherRequest),
            ({"ath": a.b64(bytes(32))}, ProofForAnotherToken),
            ({"jti": ...}, ProofMalformed),
        ],
    )
    def test_a_proof_for_something_else(self, ask, prove, lie, error):
        token = a.token()
        with pytest.raises(error):
            ask(token=token, proof=prove(token, **lie))
        assert ask(token=token, proof=prove(token)).decision.allowed

    def test_the_query_is_no_part_of_a_proof(self, ask, prove):
        token = a.token()
        assert ask(token=token, proof=prove(token), target="/orders?page=2").decision.allowed

    def test_at_an_origin_that_is_not_ours(self, ask, prove):
        token = a.token()
        proof = prove(token, htu="https://evil.example.org/orders")
        with pytest.raises(OriginUnknown):
            ask(token=token, proof=proof, origin="https://evil.example.org")

    def test_our_origin_in_another_spelling(self, ask, prove):
        token = a.token()
        assert ask(token=token, proof=prove(token), origin="https://SHOP.example.org:443").decision.allowed

    @pytest.mark.parametrize(
        ("lie", "error"),
        [
            ({"aud": "https://bank.example.org"}, TokenAudienceWrong),
            ({"iss": "https://evil.example.org"}, TokenIssuerWrong),
            ({"header": a.token_header(kid="t9")}, TokenKeyUnknown),
        ],
    )
    def test_a_token_for_something_else(self, ask, prove, lie, error):
        token = a.token(**lie)
        with pytest.raises(error):
            ask(token=token, proof=prove(token))

    def test_a_token_that_has_expired_since_it_was_remembered(self, ask, prove):
        token = a.token(exp=int(a.NOW.timestamp()) + 10)
        assert ask(token=token, proof=prove(token)).decision.allowed
        with pytest.raises(TokenExpired):
            ask(token=token, proof=prove(token, jti="2"), now=a.NOW + timedelta(seconds=10))

    def test_a_token_of_a_revoked_certificate(self, ask, prove):
        token = a.token(srl=str(Serial(0xBAD)))
        with pytest.raises(CredentialRevoked):
            ask(token=token, proof=prove(token))

    def test_a_token_of_a_quarantined_device(self, ask, prove):
        token = a.token(attestd=facts(status_index=8).to_members())
        with pytest.raises(DeviceSuspended):
            ask(token=token, proof=prove(token))

    def test_where_tokens_are_not_taken(self, ask, prove):
        token = a.token()
        with pytest.raises(TokensNotAccepted):
            ask(token=token, proof=prove(token), tokens=None)


class TestBothTogether:
    @pytest.fixture
    def chain(self):
        return (a.leaf(serial=77),)

    @pytest.fixture
    def bound(self, chain, view):
        thumbprint = verify_chain(chain, authorities=view.authorities, now=a.NOW).thumbprint
        return a.token(cnf={"x5t#S256": thumbprint}, srl=str(Serial(77)))

    def test_a_token_with_the_certificate_that_it_is_bound_to(self, ask, chain, bound):
        verdict = ask(chain=chain, token=bound, scheme="bearer")
        assert verdict.decision.allowed
        assert verdict.identity.kind == "jwt"

    def test_without_the_certificate(self, ask, bound):
        with pytest.raises(BoundElsewhere):
            ask(token=bound, scheme="bearer")

    def test_with_another_certificate_of_the_same_device(self, ask, bound):
        with pytest.raises(BoundElsewhere):
            ask(chain=(a.leaf(serial=77, not_after=a.NOW + timedelta(minutes=30)),), token=bound, scheme="bearer")

    def test_with_a_proof_in_place_of_the_certificate(self, ask, prove, bound):
        with pytest.raises(BoundElsewhere):
            ask(token=bound, proof=prove(bound))

    def test_it_dies_with_the_certificate(self, ask, chain, bound):
        view = _fresh_view(revoked=frozenset({Serial(77)}))
        with pytest.raises(CredentialRevoked):
            ask(chain=chain, token=bound, scheme="bearer", view=view)

    def test_a_proven_token_beside_its_devices_certificate(self, ask, prove):
        token = a.token()
        assert ask(chain=(a.leaf(),), token=token, proof=prove(token)).decision.allowed

    def test_a_proven_token_beside_another_devices_certificate(self, ask, prove):
        token = a.token()
        other = a.leaf(uris=["spiffe://example.org/device/munich/bike-2"])
        with pytest.raises(CredentialsDisagree):
            ask(chain=(other,), token=token, proof=prove(token))

    def test_a_proven_token_beside_a_revoked_certificate(self, ask, prove):
        token = a.token()
        with pytest.raises(CredentialRevoked):
            ask(chain=(a.leaf(serial=0xBAD),), token=token, proof=prove(token))

    def test_the_applications_own_bearer_token(self, ask):
        """Where the edge takes no tokens, a bearer token beside a certificate is none of its business."""
        assert ask(chain=(a.leaf(),), token="opaque", scheme="bearer", tokens=None).decision.allowed
        with pytest.raises(NoCredential):
            ask(token="opaque", scheme="bearer", tokens=None)


class TestStaleness:
    def test_a_stale_bundle_lets_nobody_cross_and_says_since_when(self, ask):
        chain = (a.leaf(not_after=a.NOW + timedelta(days=1)),)
        assert ask(chain=chain, now=a.NOW + timedelta(seconds=3599)).decision.allowed
        with pytest.raises(BundleStale) as caught:
            ask(chain=chain, now=a.NOW + timedelta(seconds=3600))
        assert "stale since 2026-03-01 13:00:00Z" in caught.value.detail

    def test_staleness_is_told_before_anything_else(self, ask):
        with pytest.raises(BundleStale):
            ask(now=a.NOW + timedelta(seconds=3600))


class TestMemory:
    @pytest.fixture
    def asked(self, monkeypatch):
        """How often policy, and how often signatures, were asked."""
        counts = {"policy": 0, "chain": 0}

        def counting(name, real):
            def wrapper(*args, **kwargs):
                counts[name] += 1
                return real(*args, **kwargs)

            return wrapper

        monkeypatch.setattr(views_module, "decide", counting("policy", views_module.decide))
        monkeypatch.setattr(decide_module, "verify_chain", counting("chain", decide_module.verify_chain))
        return counts

    def test_a_verdict_is_remembered(self, ask, asked):
        chain = (a.leaf(),)
        assert not ask(chain=chain).remembered
        assert ask(chain=chain).remembered
        assert asked == {"policy": 1, "chain": 1}

    def test_a_denial_is_remembered_and_stays_one(self, ask, asked, boundary):
        elsewhere = replace(boundary, from_site=Site("berlin"))
        chain = (a.leaf(),)
        for _ in range(2):
            assert not ask(chain=chain, boundary=elsewhere).decision.allowed
        assert asked["policy"] == 1

    def test_not_for_another_boundary(self, ask, boundary):
        chain = (a.leaf(),)
        assert ask(chain=chain).decision.allowed
        assert not ask(chain=chain, boundary=replace(boundary, from_site=Site("berlin"))).decision.allowed

    def test_not_for_other_labels(self, ask):
        labelled = 'forbid (principal, action == Action::"cross", resource) when { context.labels.hasTag("secret") };'
        view = _fresh_view(policy=default_policy() + labelled)
        chain = (a.leaf(),)
        assert ask(chain=chain, view=view).decision.allowed
        assert not ask(chain=chain, view=view, labels={"secret": "yes"}).decision.allowed

    @pytest.mark.parametrize("other", [{"method": "POST"}, {"target": "/admin"}])
    def test_not_for_another_request_where_policy_reads_requests(self, ask, other):
        routed = 'permit (principal, action == Action::"cross", resource) when '
        view = _fresh_view(policy=routed + '{ context.path == "/orders" && context.method == "GET" };')
        chain = (a.leaf(),)
        assert ask(chain=chain, view=view).decision.allowed
        assert not ask(chain=chain, view=view, **other).decision.allowed
        assert ask(chain=chain, view=view).remembered

    def test_not_where_policy_reads_the_time(self, ask):
        timed = 'permit (principal, action == Action::"cross", resource) when '
        view = _fresh_view(policy=timed + '{ context.now < datetime("2026-03-01T12:30:00Z") };')
        chain = (a.leaf(),)
        assert ask(chain=chain, view=view).decision.allowed
        assert not ask(chain=chain, view=view, now=a.NOW + timedelta(minutes=30)).decision.allowed

    def test_not_past_the_certificates_end(self, ask, asked):
        chain = (a.leaf(),)
        view = _fresh_view(stale_after=86400)
        assert ask(chain=chain, view=view).decision.allowed
        with pytest.raises(CertificateExpired):
            ask(chain=chain, view=view, now=a.NOW + timedelta(hours=1, seconds=1))

    def test_not_past_an_issuers_end(self, ask):
        short = a.ca("issuer", issuer=a.ROOT, path_length=0, not_after=a.NOW + timedelta(minutes=10))
        view = _fresh_view(issuers=(short.der,))
        chain = (a.leaf(issuer=short),)
        assert ask(chain=chain, view=view, now=a.NOW + timedelta(minutes=9)).decision.allowed
        with pytest.raises(CertificateExpired):
            ask(chain=chain, view=view, now=a.NOW + timedelta(minutes=10, seconds=1))

    def test_not_before_it_was_learned(self, ask, asked):
        """A caller whose time went backwards does not get what was proven later."""
        chain = (a.leaf(),)
        ask(chain=chain)
        ask(chain=chain, now=a.NOW - timedelta(minutes=1))
        assert asked["chain"] == 2

    def test_a_new_bundle_judges_again_without_signatures_and_the_same_policy(self, ask, asked, bundle, view):
        chain = (a.leaf(),)
        assert ask(chain=chain).decision.allowed
        after = View.of(bundle(version=6), pinned=[a.ROOT.der], before=view)
        assert not ask(chain=chain, view=after).remembered
        assert asked == {"policy": 1, "chain": 1}
        other = View.of(bundle(version=7, policy_version=4), pinned=[a.ROOT.der], before=after)
        assert not ask(chain=chain, view=other).remembered
        assert asked == {"policy": 2, "chain": 1}

    def test_a_new_bundle_that_quarantines_counts_at_once(self, ask, bundle, view):
        chain = (a.leaf(),)
        assert ask(chain=chain).decision.allowed
        fallen = a.StatusList.of({7: a.Status.SUSPENDED}, 16)
        after = View.of(bundle(version=6, status=fallen), pinned=[a.ROOT.der], before=view)
        with pytest.raises(DeviceSuspended):
            ask(chain=chain, view=after)

    def test_a_new_bundle_without_the_issuer_forgets_its_signatures(self, ask, bundle, view):
        chain = (a.leaf(),)
        assert ask(chain=chain).decision.allowed
        after = View.of(bundle(version=6, issuers=()), pinned=[a.ROOT.der], before=view)
        with pytest.raises(UnknownIssuer):
            ask(chain=chain, view=after)

    def test_a_new_bundle_without_the_token_key_forgets_its_signatures(self, ask, prove, bundle, view):
        token = a.token()
        assert ask(token=token, proof=prove(token)).decision.allowed
        after = View.of(bundle(version=6, token_keys={}), pinned=[a.ROOT.der], before=view)
        with pytest.raises(TokenKeyUnknown):
            ask(token=token, proof=prove(token, jti="2"), view=after)

    def test_a_new_policy_counts_at_once(self, ask, bundle, view):
        chain = (a.leaf(),)
        assert ask(chain=chain).decision.allowed
        after = View.of(bundle(version=6, policy_version=4, policy=""), pinned=[a.ROOT.der], before=view)
        assert not ask(chain=chain, view=after).decision.allowed

    def test_two_tokens_of_one_device_are_two_credentials(self, ask, prove):
        other = a.token(jti="token-2", attestd=facts(vector={"instance-identity": 96}).to_members())
        token = a.token()
        assert ask(token=token, proof=prove(token)).decision.allowed
        assert not ask(token=other, proof=prove(other, jti="2")).decision.allowed

    def test_memory_is_bounded(self):
        memo: Memo[int, int] = Memo(2)
        for number in range(3):
            memo.keep(number, number)
        assert len(memo) == 2
        assert (memo.get(0), memo.get(1), memo.get(2)) == (None, 1, 2)

    def test_a_memory_without_room(self):
        Memo(2)
        with pytest.raises(ValueError, match="at least two"):
            Memo(1)

    def test_what_was_used_lately_stays(self):
        memo: Memo[str, int] = Memo(2)
        memo.keep("a", 1)
        memo.keep("b", 2)
        memo.get("a")
        memo.keep("c", 3)
        assert memo.get("a") == 1
        assert memo.get("b") is None


class TestBundlesThatCantBeUsed:
    def test_a_policy_of_another_version(self, bundle):
        with pytest.raises(BundleUnusable, match="schema"):
            View.of(bundle(policy='permit (principal, action == Action::"fly", resource);'), pinned=[a.ROOT.der])

    def test_no_pinned_root(self, bundle):
        View.of(bundle(), pinned=[a.ROOT.der])
        with pytest.raises(BundleUnusable, match="pinned"):
            View.of(bundle(), pinned=[a.ca("other", key=a.STRANGER_KEY).der])

    def test_the_policy_is_parsed_again_only_if_it_changed(self, bundle, view):
        assert View.of(bundle(version=6), pinned=[a.ROOT.der], before=view).decisions is view.decisions
        newer = View.of(bundle(version=6, policy_version=4), pinned=[a.ROOT.der], before=view)
        assert newer.decisions.policies.version == 4


class TestPaths:
    @pytest.mark.parametrize(
        ("target", "path"),
        [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/orders?x=/../y", "/orders"),
            ("/caf%C3%A9", "/café"),
            ("/a%20b", "/a b"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%61", "/a"),
        ],
    )
    def test_that_can_be_read_in_one_way(self, target, path):
        assert read_path(target) == path

    @pytest.mark.parametrize(
        "target",
        ["", "orders", "*", "https://evil.example/", "//evil", "/a//b", "/a/../b", "/a/..", "/./a", "/a/.", "/%2e%2e/a",
         "/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/a;x=1", "/a%3bx", "/a%00", "/a%0d%0ab", "/%ff", "/a%252e", "/a#b",
         "/a\x7f", "/" + "a" * 8192],
    )  # fmt: skip
    def test_that_can_be_read_in_two_ways(self, ask, target):
        with pytest.raises(PathAmbiguous):
            read_path(target)
        with pytest.raises(PathAmbiguous):
            ask(chain=(a.leaf(),), target=target)

    @pytest.mark.parametrize("path", ["/", "/a b", "/café", "/a:b@c", "/~x"])
    def test_are_encoded_so_that_they_are_read_again(self, path):
        assert read_path(encode_path(path.encode())) == path

    def test_encoding_does_not_hide_what_is_ambiguous(self):
        for path in (b"/a/../b", b"//a", b"/a%2fb", b"/a\\b", b"/\xff"):
            with pytest.raises(PathAmbiguous):
                read_path(encode_path(path))


def test_tokens_and_proofs_stay_out_of_logs():
    assert "secret" not in repr(Presented((), "secret", "dpop", "secret"))
