"""A real `attestd-edge envoy serve`, and `attestd-edge serve` for the HTTP mode, asked as Envoy asks them.

Envoy itself is not run here: a real gRPC client speaks its own protobufs over the real socket, and a plain HTTP client
sends what its http_service does. Beside the accepted request each lie is a refusal with the status that clients see.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestd.credentials.jwk import jwk_thumbprint
from attestd.credentials.status import Status, StatusList
from attestd_edge.envoy.listen import bind_unix
from attestd_edge.settings import UnixListen
from attestd_edge.store import LOCK_FILE
from tests import authority as a
from tests.edge_site import EdgeSite, pem, private_pem
from tests.envoy_asker import CHECK, HOST, asked, escaped, forwarded, question, status_of, told, upstream

ORIGIN = f"https://{HOST}"
TOKENS = f'[tokens]\naudience = "{a.AUDIENCE}"\norigins = ["{ORIGIN}"]\n'
ENVOY = '[envoy]\nunix = "envoy.sock"\n'
SERVE = ("envoy", "serve")


def configured(folder: Path, *more: str, **listen: str) -> EdgeSite:
    site = EdgeSite(folder)
    site.configure(more="".join((TOKENS, *more)), **listen)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    site = configured(tmp_path_factory.mktemp("envoy"), ENVOY)
    with site.serving(command=SERVE):
        yield site


@pytest.fixture(scope="module")
def channel(site: EdgeSite) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{site.folder}/envoy.sock") as channel:
        yield channel


@pytest.fixture
def ask(channel):
    return lambda *arguments, **changes: asked(channel, question(*arguments, **changes))


def token(**lies: object) -> str:
    now = int(time.time())
    honest = {"iat": now, "nbf": now, "exp": now + 300, "cnf": {"jkt": jwk_thumbprint(a.LEAF_KEY.public_key())}}
    return a.token(**{**honest, **lies})


def proof(of: str, nonce: str, **lies: object) -> str:
    once = a.b64(hashlib.sha256(os.urandom(16)).digest())[:22]
    return a.proof(of, **{"jti": once, "iat": int(time.time()), "htu": f"{ORIGIN}/orders", "nonce": nonce, **lies})


class TestGrpc:
    def test_a_device_at_home_gets_through(self, ask, site):
        found = dict(upstream(ask(site.device()), [("accept", "*/*")]))
        assert found.pop("attestd-request-id")
        assert found == {
            "accept": "*/*",
            "attestd-identity": "spiffe://example.org/device/munich/bike-1",
            "attestd-tier": "device",
            "attestd-site": "munich",
            "attestd-device": "bike-1",
            "attestd-credential": "x509",
            "attestd-boundary": "field-to-munich",
        }

    def test_nobody_does_not(self, ask):
        response = ask()
        assert status_of(response) == 401
        assert told(response)["www-authenticate"] == 'DPoP algs="ES256"'
        assert told(response)["dpop-nonce"]

    @pytest.mark.parametrize(
        ("lie", "status"),
        [
            ({"site": "berlin"}, 403),
            ({"facts": a.Facts(a.FACTS.vector, {}, {}, 8, 1)}, 403),
            ({"facts": a.Facts(a.FACTS.vector, {}, {}, 9, 1)}, 403),
            (
                {"issuer": a.ca("issuer", issuer=a.ca("root", key=a.STRANGER_KEY, path_length=2), key=a.STRANGER_KEY)},
                401,
            ),
        ],
        ids=["another site's", "a quarantined one", "a retired one", "a stranger's"],
    )
    def test_a_device_that_may_not_does_not(self, ask, site, lie, status):
        assert status_of(ask(site.device(**lie))) == status

    @pytest.mark.parametrize("raw", [True, False])
    @pytest.mark.parametrize(
        "name", ["X-Client-Cert", "X_Client_Cert", "Client-Cert", "X-Forwarded-Client-Cert", "Attestd-Identity"]
    )
    def test_a_header_of_ones_own_is_nothing(self, ask, site, name, raw):
        value = forwarded(site.device()) if "Forwarded" in name else escaped(site.device())
        assert status_of(ask(None, (name, value), raw=raw)) == 401
        assert status_of(ask(site.device(site="berlin"), (name, value), raw=raw)) == 403
        on = upstream(ask(site.device(), (name, value), raw=raw), [(name, value)])
        assert value not in [found for _, found in on]

    def test_what_is_judged_is_in_the_log(self, ask, site):
        sent = (("x-forwarded-uri", "/harmless"), ("x-original-uri", "/harmless"), ("x-http-method-override", "HEAD"))
        assert status_of(ask(site.device(site="berlin"), *sent, path="/secret?q=1", method="POST")) == 403
        judged = site.log().splitlines()[-1]
        assert '"path": "/secret"' in judged
        assert '"method": "POST"' in judged
        assert "1f0a3b5c-0000-4000-8000-000000000001" in judged

    @pytest.mark.parametrize("path", ["/public/../secret", "//secret", "/public/..%2fsecret", "/a;/../secret"])
    def test_a_path_that_can_be_read_in_two_ways(self, ask, site, path):
        assert status_of(ask(site.device(), path=path)) == 403

    @pytest.mark.parametrize("named", [None, "", "elsewhere"])
    def test_a_route_without_a_boundary_of_ours(self, ask, site, named):
        assert status_of(ask(site.device(), boundary=named)) == 403

    @pytest.mark.parametrize("part", ["method", "scheme", "host", "path"])
    def test_a_part_is_missing(self, ask, site, part):
        assert status_of(ask(site.device(), **{part: ""})) == 503

    def test_what_is_no_message(self, channel):
        assert status_of(asked(channel, b"\xff\xff")) == 503
        assert status_of(asked(channel, b"")) == 403

    def test_a_token_with_its_proof_once(self, ask):
        credential = token()
        sent = (
            ("authorization", f"DPoP {credential}"),
            ("dpop", proof(credential, told(ask())["dpop-nonce"])),
        )
        response = ask(None, *sent)
        assert status_of(response) == 200
        assert told(response)["dpop-nonce"]
        assert status_of(ask(None, *sent)) == 401

    @pytest.mark.parametrize(
        ("credential", "lie"),
        [
            ({"aud": "https://elsewhere.example.org"}, {}),
            ({}, {"htu": "https://evil.example.org/orders"}),
            ({}, {"htm": "POST"}),
            ({}, {"nonce": "another edge's"}),
        ],
        ids=["another audience", "another host", "another method", "another nonce"],
    )
    def test_a_token_that_is_not_for_this(self, ask, credential, lie):
        said = token(**credential)
        sent = (("authorization", f"DPoP {said}"), ("dpop", proof(said, **{"nonce": told(ask())["dpop-nonce"], **lie})))
        assert status_of(ask(None, *sent)) == 401

    @pytest.mark.parametrize("raw", [True, False])
    def test_two_proofs(self, ask, raw):
        said, nonce = token(), told(ask())["dpop-nonce"]
        sent = [("dpop", proof(said, nonce)) for _ in range(2)]
        assert status_of(ask(None, ("authorization", f"DPoP {said}"), *sent, raw=raw)) == 401

    def test_a_question_beyond_all_measure(self, ask, site, channel):
        """Envoy takes the failed call for a refusal; the next question is answered."""
        assert status_of(ask(site.device(), ("x-long", "x" * 60_000))) == 200
        with pytest.raises(grpc.RpcError) as raised:
            ask(site.device(), ("x-long", "x" * 300_000))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert status_of(ask(site.device())) == 200

    def test_other_services_are_not_here(self, channel):
        call = channel.unary_unary("/envoy.service.auth.v2.Authorization/Check")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=20)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_health(self, channel):
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"

    def test_many_at_once(self, channel, site):
        octets = question(site.device()).SerializeToString()
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda _: status_of(asked(channel, octets)), range(400)))
        assert found == [200] * 400


class TestTheSocket:
    def test_nobody_else_may_connect(self, site):
        where = site.folder / "envoy.sock"
        assert stat.S_IMODE(where.stat().st_mode) == 0o660
        if os.geteuid() != 0:
            pytest.skip("takes another user to try")
        script = (
            "import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(os.environ['WHERE'])"
        )
        with tempfile.TemporaryDirectory() as folder:  # pytest's own folders let nobody else in anyway
            Path(folder).chmod(0o755)
            there = Path(folder) / "envoy.sock"
            server = grpc.server(ThreadPoolExecutor(1))
            bind_unix(server, UnixListen(there, 0o660, None))
            server.start()
            done = subprocess.run(
                [sys.executable, "-c", script], env={"WHERE": str(there)}, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            there.chmod(0o666)
            twin = subprocess.run(
                [sys.executable, "-c", script], env={"WHERE": str(there)}, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            server.stop(0).wait()
        assert "PermissionError" in done.stderr
        assert twin.returncode == 0, twin.stderr

    def test_a_second_process_does_not_take_it(self, site):
        done = site.run("envoy", "serve", "--config", str(site.config), "--json")
        assert done.returncode == 3
        assert "already" in done.stderr

    def test_it_ends_when_it_is_told(self, tmp_path):
        """What is under way gets its answer, the socket goes, and the counts are kept."""
        site = configured(tmp_path, ENVOY)
        with site.serving(command=SERVE) as process:
            answers: list[int] = []

            def go_on(channel: grpc.Channel) -> None:
                while not answers or answers[-1] == 200:
                    try:
                        answers.append(status_of(asked(channel, question(site.device()))))
                    except grpc.RpcError:
                        return

            with grpc.insecure_channel(f"unix:{tmp_path}/envoy.sock") as channel:
                assert status_of(asked(channel, question(site.device()))) == 200
                asking = threading.Thread(target=go_on, args=(channel,))
                asking.start()
                while len(answers) < 5:
                    time.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                channel.close()
                asking.join(20)
        assert set(answers) == {200}
        assert not (tmp_path / "envoy.sock").exists()
        assert (
            'attestd_edge_decisions_total{boundary="field-to-munich",outcome="allowed"'
            in (tmp_path / "state" / "envoy.prom").read_text()
        )


def test_a_stale_bundle(tmp_path):
    site = configured(tmp_path, ENVOY)
    site.publish(issued_at=int(time.time()) - 7200)
    with site.serving(command=SERVE), grpc.insecure_channel(f"unix:{tmp_path}/envoy.sock") as channel:
        response = asked(channel, question(site.device()))
        assert status_of(response) == 503
        assert told(response)["retry-after"]
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x02"


def test_revoked_while_it_runs(tmp_path):
    """A bundle that another process of this edge has fetched counts here, too, without a restart."""
    site = configured(tmp_path, ENVOY)
    held = (tmp_path / "state" / LOCK_FILE).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    with (
        held,
        site.serving(command=SERVE),
        grpc.insecure_channel(f"unix:{tmp_path}/envoy.sock") as channel,
    ):
        assert status_of(asked(channel, question(site.device()))) == 200
        suspended = StatusList.of({a.FACTS.status_index: Status.SUSPENDED}, 16)
        site.publish(version=6, status=suspended)
        deadline = time.monotonic() + 20
        while status_of(asked(channel, question(site.device()))) == 200:
            assert time.monotonic() < deadline, site.log()
            time.sleep(0.05)
        assert status_of(asked(channel, question(site.device()))) == 403


def test_over_tls_only_the_hops_authority_gets_in(tmp_path):
    site = EdgeSite(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hops = a.ca("hops", key=a.STRANGER_KEY, **site.times)
    server = site.leaf("service", key=a.LOWER_KEY, facts=None, names=[x509.DNSName("edge.example.org")],
                       purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))  # fmt: skip
    (tmp_path / "server.pem").write_bytes(pem(server) + pem(site.issuer.der))
    (tmp_path / "server.key").write_bytes(private_pem(a.LOWER_KEY))
    (tmp_path / "hops.pem").write_bytes(pem(hops.der))
    site.configure(
        more=f'[envoy]\ntls = "127.0.0.1:{port}"\ncertificate = "server.pem"\nkey = "server.key"\nhop_ca = "hops.pem"\n'
    )

    def status(leaf: bytes | None) -> int:
        own = {} if leaf is None else {"private_key": private_pem(a.LEAF_KEY), "certificate_chain": pem(leaf)}
        credentials = grpc.ssl_channel_credentials(pem(site.root.der), **own)
        options = (("grpc.ssl_target_name_override", "edge.example.org"),)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            call = channel.unary_unary(CHECK)
            octets = call(question(site.device()).SerializeToString(), timeout=20)
            from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

            return status_of(CheckResponse.FromString(octets))

    with site.serving(command=SERVE):
        assert status(site.leaf("hop", issuer=hops, facts=None)) == 200
        for intruder in (None, site.device()):
            with pytest.raises(grpc.RpcError):
                status(intruder)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(CHECK)(question(site.device()).SerializeToString(), timeout=20)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ("", "settings-invalid"),
        ('[envoy]\nunix = "envoy.sock"\nmode = "0666"\n', "settings-invalid"),
        ('[envoy]\ntcp = "127.0.0.1:9000"\n', "settings-invalid"),
        ('[envoy]\nunix = "missing/envoy.sock"\n', "listener-failed"),
    ],
)
def test_there_is_no_third_kind_of_listener(tmp_path, more, error):
    site = configured(tmp_path, more)
    done = site.run("envoy", "serve", "--config", str(site.config), "--json")
    assert done.returncode == 3
    assert f'"error": "{error}"' in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def http_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeSite]:
    header = 'unix = "auth.sock"\ncertificate_header = "x-forwarded-client-cert"'
    site = configured(tmp_path_factory.mktemp("http"), listen=header)
    with site.serving():
        yield site


class TestHttpMode:
    """What Envoy's http_service sends: the method, the path behind the prefix, Host, the listed headers, no body."""

    @pytest.fixture
    def site(self, http_site):
        return http_site

    @pytest.fixture
    def ask(self, site):
        def asked(leaf=None, *headers, target="/orders", method="GET", prefix="/envoy/field-to-munich"):
            connection = http.client.HTTPConnection("localhost", timeout=20)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(20)
            connection.sock.connect(str(site.socket))
            try:
                connection.putrequest(method, prefix + target, skip_host=True, skip_accept_encoding=True)
                sent = [("host", HOST), ("content-length", "0"), ("x-request-id", "made-by-envoy-1"), *headers]
                if leaf is not None:
                    sent.append(("x-forwarded-client-cert", forwarded(leaf)))
                for name, value in (*sent, ("x-forwarded-proto", "https")):
                    connection.putheader(name, value)
                connection.endheaders()
                answer = connection.getresponse()
                body = answer.read()
                return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body
            finally:
                connection.close()

        return asked

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    def test_a_device_at_home_gets_through(self, ask, site, method):
        status, headers, _ = ask(site.device(), method=method)
        assert status == 200
        assert headers["attestd-identity"] == "spiffe://example.org/device/munich/bike-1"
        assert headers["attestd-request-id"] == "made-by-envoy-1"

    def test_those_who_may_not(self, ask, site):
        assert ask()[0] == 401
        assert ask(site.device(site="berlin"))[0] == 403
        assert ask(site.device(facts=a.Facts(a.FACTS.vector, {}, {}, 8, 1)))[0] == 403
        assert ask(None, ("x-client-cert", escaped(site.device())))[0] == 401
        assert (
            ask(None, ("x-forwarded-client-cert", f"{forwarded(site.device())},{forwarded(site.device())}"))[0] == 401
        )

    def test_what_is_judged_is_the_request_line(self, ask, site):
        sent = (("x-forwarded-uri", "/harmless"), ("x-forwarded-method", "HEAD"))
        assert ask(site.device(site="berlin"), *sent, target="/secret?q=1", method="POST")[0] == 403
        judged = site.log().splitlines()[-1]
        assert '"path": "/secret"' in judged
        assert '"method": "POST"' in judged

    @pytest.mark.parametrize("target", ["/a/../b", "//b", "/a%2fb", "/%2e%2e/b", "/a;b", "/../../auth/field-to-munich"])
    def test_a_path_that_can_be_read_in_two_ways(self, ask, site, target):
        assert ask(site.device(), target=target)[0] == 403

    def test_an_escaped_path_comes_as_it_was_sent(self, ask, site):
        assert ask(site.device(), target="/%C3%BCber?a=%2f&b=//")[0] == 200
        assert ask(site.device(), target="/a%252fb")[0] == 403

    @pytest.mark.parametrize("prefix", ["/envoy/elsewhere", "/envoy", "/envoy/field-to-munich-2", ""])
    def test_no_boundary_of_ours(self, ask, site, prefix):
        assert ask(site.device(), prefix=prefix)[0] == 403

    def test_a_token_with_its_proof_once(self, ask):
        said, nonce = token(), ask()[1]["dpop-nonce"]
        sent = (("authorization", f"DPoP {said}"), ("dpop", proof(said, nonce)))
        status, headers, _ = ask(None, *sent)
        assert (status, bool(headers["dpop-nonce"])) == (200, True)
        assert ask(None, *sent)[0] == 401
        joined = ("dpop", f"{proof(said, nonce)},{proof(said, nonce)}")
        assert ask(None, sent[0], joined)[0] == 401

    def test_headers_beyond_all_measure(self, ask, site):
        assert ask(site.device(), ("x-long", "x" * 50_000))[0] == 200
        with contextlib.suppress(OSError):  # cut off while it was still sending
            assert ask(site.device(), ("x-long", "x" * 300_000))[0] >= 400
        assert ask(site.device())[0] == 200
