"""The edge and its service: fetching, renewing, backing off, and being cut off."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from datetime import timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.credentials.bundle import BundleRolledBack
from attestd.credentials.certificates import CertificateRefused
from attestd.credentials.requests import SoftwareKey, verify_request
from attestd.errors import InputTooLarge
from attestd.protocol.encoding import b64encode
from attestd.protocol.signed import SignedEnvelope
from attestd_edge import service as service_module
from attestd_edge.identity import ProxyIdentity, ProxyIdentityWrong, read_certificates, renewed
from attestd_edge.refresh import Refresher
from attestd_edge.service import (
    Service,
    ServiceAnswerWrong,
    ServiceBusy,
    ServiceRefused,
    ServiceUnreachable,
    tls_context,
)
from attestd_edge.store import BundleStore
from tests import authority as a

BASE = "https://attestd.example.org:8443"
PROXY = "spiffe://example.org/proxy/munich/p1"
PROXY_KEY = a.p256(50)


def proxy_chain(**lies) -> list[bytes]:
    honest = {"uris": [PROXY], "facts": None, "key": PROXY_KEY, **lies}
    return [a.leaf(**honest), a.ISSUER.der]


def pem(chain) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in chain)


class Chunks(httpx.SyncByteStream):
    """A body as it comes over a network, piece by piece."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self):
        for start in range(0, len(self._content), 1 << 16):
            yield self._content[start : start + (1 << 16)]


class FakeService:
    """The service's two doors, checking every signature; `status` and `headers` make it misbehave."""

    def __init__(self, make_bundle) -> None:
        self._make_bundle = make_bundle
        self.publish(version=5)
        self.renewal = {"v": 1, "chain": "", "renew_after": 1, "expires_in": 2}
        self.asked: list[str] = []
        self.nonces: set[str] = set()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.down = False
        self.gives_nonces = True
        self.nonce_answer = httpx.Response(204)
        self.key = SoftwareKey(PROXY_KEY)

    def publish(self, *, version: int, **lies) -> None:
        before = getattr(self, "copy", None)
        self.copy = a.copy_of(self._make_bundle(version=version, **lies))
        self.content = self.copy.to_bytes()
        self.deltas = {} if before is None else {self.etag: self.copy.since(before, self.etag.strip('"'))}
        self.etag = f'"2.{version}"'

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("no route to host")
        path = request.url.path
        self.asked.append(f"{request.method} {path}")
        nonce = b64encode(hashlib.sha256(str(len(self.asked)).encode()).digest())
        answer = self.answer(request, path)
        if self.gives_nonces:
            answer.headers.setdefault("Replay-Nonce", nonce)
            self.nonces.add(answer.headers["Replay-Nonce"])
        return httpx.Response(answer.status_code, headers=answer.headers, stream=Chunks(answer.content))

    def answer(self, request: httpx.Request, path: str) -> httpx.Response:
        if path == "/v1/nonce":
            return self.nonce_answer
        envelope = SignedEnvelope.parse_detached(request.headers["Authorization"], request.content)
        verify_request(envelope, key=self.key.public_key, url=BASE + path, method=request.method)
        assert envelope.unverified_kid == self.key.thumbprint
        if b64encode(envelope.nonce) not in self.nonces:
            return httpx.Response(401, json={"type": "urn:attestd:problem:nonce-spent"})
        self.nonces.discard(b64encode(envelope.nonce))
        if self.status is not None:
            return httpx.Response(self.status, headers=self.headers, content=self.body)
        if path == "/v1/bundle":
            if request.headers.get("If-None-Match") == self.etag:
                return httpx.Response(304, headers={"ETag": self.etag})
            base = request.headers.get("If-None-Match")
            if request.headers.get("A-IM") == "attestd-delta" and base in self.deltas:
                told = {"ETag": self.etag, "IM": "attestd-delta", "Delta-Base": base}
                return httpx.Response(226, content=self.deltas[base], headers=told)
            return httpx.Response(200, content=self.content, headers={"ETag": self.etag})
        assert (request.method, path) == ("POST", "/v1/proxies/renewals")
        assert json.loads(request.content) == {"v": 1}
        return httpx.Response(200, json=self.renewal)


@pytest.fixture
def fake(bundle):
    return FakeService(bundle)


@pytest.fixture
def who():
    return ProxyIdentity.of(SoftwareKey(PROXY_KEY), proxy_chain())


@pytest.fixture
def service(fake):
    with Service(BASE, roots=[a.ROOT.der], transport=httpx.MockTransport(fake)) as made:
        yield made


@pytest.fixture
def files(tmp_path):
    key, certificate = tmp_path / "proxy.key.pem", tmp_path / "proxy.pem"
    key.write_bytes(
        PROXY_KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    certificate.write_bytes(pem(proxy_chain()))
    return key, certificate


@pytest.fixture
def refresher(store, service, files):
    return Refresher(
        store,
        service,
        load_identity=lambda: ProxyIdentity.load(*files),
        certificate_file=files[1],
        trust_domain=a.TRUST_DOMAIN,
        chance=lambda: 0.5,
    )


class TestAsking:
    def test_fetches_a_bundle_with_a_nonce_of_the_service(self, service, fake, who):
        fetched = service.bundle(who, known=None)
        assert (fetched.content, fetched.is_delta) == (fake.content, False)
        assert fake.asked == ["GET /v1/nonce", "GET /v1/bundle"]

    def test_each_answer_brings_the_next_nonce(self, service, fake, who):
        for _ in range(3):
            service.bundle(who, known=None)
        assert fake.asked == ["GET /v1/nonce"] + ["GET /v1/bundle"] * 3

    def test_an_unchanged_bundle_is_not_sent_again(self, service, who):
        assert service.bundle(who, known="2.5") is None
        assert service.bundle(who, known="2.4") is not None

    def test_a_nonce_is_not_used_again_after_a_request_that_got_no_answer(self, service, fake, who):
        service.bundle(who, known=None)
        fake.down = True
        with pytest.raises(ServiceUnreachable):
            service.bundle(who, known=None)
        fake.down = False
        service.bundle(who, known=None)
        assert fake.asked == ["GET /v1/nonce", "GET /v1/bundle"] * 2

    def test_what_is_different_from_the_one_that_it_has(self, service, fake, who):
        fake.publish(version=6)
        fetched = service.bundle(who, known="2.5")
        assert (fetched.content, fetched.is_delta) == (fake.deltas['"2.5"'], True)

    def test_a_delta_that_was_not_asked_for(self, service, fake, who):
        fake.status, fake.headers, fake.body = 226, {"IM": "attestd-delta"}, b"{}"
        assert service.bundle(who, known="2.5").is_delta
        with pytest.raises(ServiceAnswerWrong):
            service.bundle(who, known=None)
        fake.headers = {"IM": "gzip"}
        with pytest.raises(ServiceAnswerWrong):
            service.bundle(who, known="2.5")

    def test_a_304_that_was_not_asked_for(self, service, fake, who):
        fake.status = 304
        with pytest.raises(ServiceAnswerWrong):
            service.bundle(who, known=None)

    def test_a_spent_nonce_is_replaced_once(self, service, fake, who):
        service.bundle(who, known=None)
        fake.nonces.clear()
        assert service.bundle(who, known=None) is not None
        assert fake.asked[-2:] == ["GET /v1/bundle", "GET /v1/bundle"]

    def test_a_refusal_is_not_repeated_for_ever(self, service, fake, who):
        fake.status, fake.body = 401, b'{"type":"urn:attestd:problem:caller-disabled"}'
        with pytest.raises(ServiceRefused, match="caller-disabled"):
            service.bundle(who, known=None)
        assert fake.asked.count("GET /v1/bundle") == 2

    @pytest.mark.parametrize(("text", "seconds"), [("7", 7), ("", 5), ("soon", 5), ("999999", 300), ("٣", 5)])
    def test_a_busy_service_is_obeyed_within_bounds(self, service, fake, who, text, seconds):
        fake.status, fake.headers = 503, {"Retry-After": text.encode() if not text.isascii() else text}
        with pytest.raises(ServiceBusy) as caught:
            service.bundle(who, known=None)
        assert caught.value.retry_after == seconds

    @pytest.mark.parametrize(("status", "body"), [(226, b"{}"), (404, b""), (302, b""), (500, b"")])
    def test_an_answer_that_makes_no_sense(self, service, fake, who, status, body):
        fake.status, fake.body = status, body
        with pytest.raises(ServiceAnswerWrong):
            service.bundle(who, known=None)

    def test_an_answer_without_end(self, service, fake, who, monkeypatch):
        monkeypatch.setattr(service_module, "MAX_COPY", 100)
        fake.status, fake.body = 200, b"x" * 100
        assert service.bundle(who, known=None)
        fake.body += b"x"
        with pytest.raises(InputTooLarge):
            service.bundle(who, known=None)

    def test_an_answer_that_drips(self, fake, who):
        seconds = iter(range(0, 1000, 31))
        fake.status, fake.body = 200, b"x" * (1 << 18)
        with (
            Service(
                BASE, roots=[a.ROOT.der], transport=httpx.MockTransport(fake), monotonic=lambda: next(seconds)
            ) as slow,
            pytest.raises(ServiceUnreachable, match="too long"),
        ):
            slow.bundle(who, known=None)

    @pytest.mark.parametrize("nonce", ["not base64!", "AB"])
    def test_a_nonce_that_is_none(self, service, fake, who, nonce):
        fake.status, fake.headers = 200, {"Replay-Nonce": nonce}
        with pytest.raises(ServiceAnswerWrong):
            service.bundle(who, known=None)

    def test_a_service_that_gives_no_nonce(self, service, fake, who):
        fake.nonce_answer = httpx.Response(200)
        fake.gives_nonces = False
        with pytest.raises(ServiceAnswerWrong, match="no nonce"):
            service.bundle(who, known=None)
        fake.nonce_answer = httpx.Response(503, headers={"Retry-After": "9"})
        with pytest.raises(ServiceBusy) as caught:
            service.bundle(who, known=None)
        assert caught.value.retry_after == 9

    def test_a_renewal_that_was_not_granted(self, service, fake, who):
        fake.renewal["chain"] = "x"
        assert service.renew(who) == b"x"
        fake.status, fake.body = 202, json.dumps(fake.renewal).encode()
        with pytest.raises(ServiceAnswerWrong):
            service.renew(who)

    @pytest.mark.parametrize("body", [b"{}", b'{"v":2,"chain":"x"}', b'{"v":1,"chain":"\xc3\xa9"}', b"[]"])
    def test_a_renewal_that_makes_no_sense(self, service, fake, who, body):
        fake.status, fake.body = 200, body
        with pytest.raises(ServiceAnswerWrong):
            service.renew(who)

    def test_a_service_that_is_down(self, service, fake, who):
        fake.down = True
        with pytest.raises(ServiceUnreachable):
            service.bundle(who, known=None)

    def test_tls_trusts_the_pinned_root_alone_and_checks_names(self):
        context = tls_context([a.ROOT.der])
        assert [dict(name[0] for name in ca["subject"])["commonName"] for ca in context.get_ca_certs()] == ["root"]
        assert context.check_hostname
        assert context.verify_mode.name == "CERT_REQUIRED"


class TestRounds:
    def test_a_round_brings_the_bundle_into_use(self, refresher, store):
        assert refresher.tick() == pytest.approx(1.0)
        assert store.view().bundle.version == 5
        assert refresher.connection == "connected"

    def test_the_next_round_takes_what_is_different(self, refresher, fake, store):
        refresher.tick()
        fake.publish(version=6, policy="forbid(principal, action, resource);")
        fake.content = b"must not be sent"
        refresher.tick()
        assert store.view().bundle.version == 6
        assert store.view().bundle.policy.startswith("forbid")

    def test_a_delta_that_is_refused_is_followed_by_a_whole_bundle(self, refresher, fake, store):
        refresher.tick()
        fake.publish(version=6)
        fake.deltas = {name: delta.replace(b'"base":"2.5"', b'"base":"2.4"') for name, delta in fake.deltas.items()}
        refresher.tick()
        assert store.view().bundle.version == 5
        refresher.tick()
        assert store.view().bundle.version == 6

    def test_the_next_round_asks_with_its_etag(self, refresher, fake, store):
        refresher.tick()
        fake.content = b"must not be sent"
        refresher.tick()
        assert store.view().bundle.version == 5
        fake.publish(version=6)
        refresher.tick()
        assert store.view().bundle.version == 6

    def test_cut_off_it_backs_off_and_goes_on_deciding(self, refresher, fake, store):
        refresher.tick()
        fake.down = True
        assert [refresher.tick() for _ in range(6)] == pytest.approx([1, 2, 4, 5, 5, 5])
        assert refresher.connection == "cut off"
        assert store.view().bundle.version == 5
        fake.down = False
        assert refresher.tick() == pytest.approx(1.0)
        assert refresher.connection == "connected"

    def test_pauses_have_jitter(self, store, service, files):
        pauses = set()
        for chance in (0.0, 0.999):
            refresher = Refresher(
                store, service, load_identity=lambda: ProxyIdentity.load(*files), certificate_file=files[1],
                trust_domain=a.TRUST_DOMAIN, chance=lambda chance=chance: chance,
            )  # fmt: skip
            pauses.add(round(refresher.tick(), 2))
        assert pauses == {0.9, 1.1}

    def test_it_obeys_retry_after(self, refresher, fake):
        fake.status, fake.headers = 429, {"Retry-After": "40"}
        assert refresher.tick() == pytest.approx(40.0)

    def test_a_bundle_that_is_refused_leaves_the_old_one(self, refresher, fake, store, caplog):
        refresher.tick()
        fake.publish(version=4)
        refresher.tick()
        assert refresher.connection == "cut off"
        assert BundleRolledBack.slug() in caplog.text
        assert store.view().bundle.version == 5

    def test_a_refused_bundles_etag_is_not_kept(self, refresher, fake, store, bundle):
        """Else the service's 304 would hide that this edge has something else."""
        fake.content = a.signed_bundle(bundle(), key=a.STRANGER_KEY)
        refresher.tick()
        fake.content = a.signed_bundle(bundle())
        refresher.tick()
        assert store.view().bundle.version == 5

    def test_the_same_trouble_is_logged_once(self, refresher, fake, caplog):
        fake.down = True
        with caplog.at_level(logging.INFO, "attestd_edge"):
            for _ in range(3):
                refresher.tick()
            troubles = [record for record in caplog.records if "cut off" in record.getMessage()]
            assert len(troubles) == 1
            fake.down = False
            refresher.tick()
            refresher.tick()
        assert [r.getMessage() for r in caplog.records].count("connected") == 1

    def test_staleness_is_logged_when_it_begins_and_ends_and_kept_at_once(self, refresher, fake, store, watch, caplog):
        refresher.tick()
        fake.down = True
        watch.pass_(3590)
        refresher.tick()
        watch.pass_(10)
        with caplog.at_level(logging.INFO, "attestd_edge"):
            refresher.tick()
            refresher.tick()
            assert caplog.text.count("stale since") == 1
            assert store.floor.time == watch.wall
            fake.down = False
            fake.publish(version=6, issued_at=int(watch.wall.timestamp()))
            refresher.tick()
        assert "fresh again" in caplog.text

    def test_beside_another_process_it_reads_along(self, refresher, fake, store, bundle, watch):
        other = BundleStore(store.folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=watch.clock())
        assert other.own()
        refresher.tick()
        assert refresher.connection == "reading along"
        assert fake.asked == []
        other.adopt(a.signed_bundle(bundle(version=8)))
        refresher.tick()
        assert store.view().bundle.version == 8
        other.disown()
        fake.publish(version=9)
        refresher.tick()
        assert refresher.connection == "connected"
        assert store.view().bundle.version == 9

    def test_a_thread_that_stops_cleanly(self, refresher, store, watch, fake):
        seen = threading.Event()
        real = refresher.tick

        def tick():
            pause = real()
            seen.set()
            return pause

        refresher.tick = tick
        refresher.start()
        assert seen.wait(10)
        watch.pass_(5)
        refresher.stop()
        assert "attestd-edge-refresh" not in {thread.name for thread in threading.enumerate()}
        assert store.floor.time == watch.wall

    def test_a_round_that_fails_unforeseen_does_not_end_the_thread(self, refresher, caplog):
        rounds = threading.Event()

        def tick():
            rounds.set()
            raise RuntimeError("unforeseen")

        refresher.tick = tick
        refresher.start()
        assert rounds.wait(10)
        assert any(thread.name == "attestd-edge-refresh" for thread in threading.enumerate())
        refresher.stop()
        assert "unforeseen" in caplog.text


class TestRenewing:
    HALF = timedelta(hours=1)  # of NOW - 1 h to NOW + 1 h: half of it is over now

    @pytest.fixture
    def longer(self):
        return proxy_chain(not_before=a.NOW, not_after=a.NOW + timedelta(hours=2))

    @pytest.fixture
    def renews(self, fake, longer):
        fake.renewal["chain"] = pem(longer).decode()
        return fake

    def test_renews_at_half_its_life(self, refresher, renews, watch, files, longer):
        watch.wall -= timedelta(seconds=1)
        refresher.tick()
        assert "POST /v1/proxies/renewals" not in renews.asked
        watch.pass_(1)
        refresher.tick()
        assert renews.asked.count("POST /v1/proxies/renewals") == 1
        assert files[1].read_bytes() == pem(longer)
        refresher.tick()
        assert renews.asked.count("POST /v1/proxies/renewals") == 1

    def test_a_failure_is_tried_again_a_minute_later(self, refresher, renews, watch, files):
        good, renews.renewal = renews.renewal, {"v": 1}
        before = files[1].read_bytes()
        refresher.tick()
        refresher.tick()
        assert renews.asked.count("POST /v1/proxies/renewals") == 1
        assert files[1].read_bytes() == before
        renews.renewal = good
        watch.pass_(91)
        refresher.tick()
        assert files[1].read_bytes() != before

    def test_a_refused_proxy_reads_its_files_again(self, refresher, fake, files):
        """An operator may have put a new certificate there."""
        refresher.tick()
        fake.status = 403
        refresher.tick()
        files[1].write_bytes(b"no certificate")
        fake.status = None
        refresher.tick()
        assert refresher.connection == "cut off"
        files[1].write_bytes(pem(proxy_chain()))
        refresher.tick()
        assert refresher.connection == "connected"

    def renew(self, who, chain):
        return renewed(who, pem(chain), roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, now=a.NOW)

    def test_the_new_certificate_is_the_same_proxys(self, who, longer):
        assert self.renew(who, longer).chain == tuple(longer)

    @pytest.mark.parametrize(
        ("lie", "error"),
        [
            ({"key": a.STRANGER_KEY}, ProxyIdentityWrong),
            ({"uris": ["spiffe://example.org/proxy/munich/p2"]}, ProxyIdentityWrong),
            ({"uris": ["spiffe://example.org/service/attestd"]}, ProxyIdentityWrong),
            ({"signed_by": a.STRANGER_KEY}, CertificateRefused),
            ({"not_after": a.NOW + timedelta(hours=1)}, ProxyIdentityWrong),
            ({"not_before": a.NOW + timedelta(minutes=5)}, CertificateRefused),
        ],
    )
    def test_another_one_is_refused(self, who, lie, error):
        honest = {"not_before": a.NOW, "not_after": a.NOW + timedelta(hours=2)}
        with pytest.raises(error):
            self.renew(who, proxy_chain(**{**honest, **lie}))

    @pytest.mark.parametrize("path", ["device/munich/p1", "proxy/munich", "proxy/munich/p1/more"])
    def test_a_certificate_of_something_else_is_no_proxys(self, who, path):
        verify = {"roots": [a.ROOT.der], "trust_domain": a.TRUST_DOMAIN, "now": a.NOW}
        who.verify(**verify)
        other = proxy_chain(uris=[f"spiffe://example.org/{path}"], facts=a.FACTS)
        with pytest.raises(ProxyIdentityWrong):
            ProxyIdentity.of(who.key, other).verify(**verify)

    def test_files_that_do_not_fit_together(self, files):
        files[1].write_bytes(pem(proxy_chain(key=a.STRANGER_KEY)))
        with pytest.raises(ProxyIdentityWrong):
            ProxyIdentity.load(*files)

    def test_a_file_without_certificates(self):
        with pytest.raises(ProxyIdentityWrong):
            read_certificates(b"nothing", where="proxy.pem")
