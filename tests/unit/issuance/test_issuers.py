"""Issuers' certificates fetched by a stranger's hint: what is asked of whom, and what it can cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from attestd.config import EndorsementSettings, SettingInvalid
from attestd.issuance.issuers import MAX_ANSWER, Issuers
from tests import ek_ca as ca

HOST, PUBLIC = "pki.example", "93.184.216.34"
URL = f"http://{HOST}/ca.crt"
ROOT = ca.maker().root
KEY = ca.ec_key("aia ek").public_key()


def hint(*urls: str) -> ca.Extension:
    method = ca.oid("1.3.6.1.5.5.7.48.2")
    return ca.Extension("1.3.6.1.5.5.7.1.1", ca.seq(*(ca.seq(method, ca.der(0x86, url.encode())) for url in urls)))


def chain(length: int) -> list[bytes]:
    """A leaf and `length` CAs above it, each naming where its issuer is: /1, /2, …"""
    above = ROOT
    cas: list[ca.MakerCa] = []
    for number in range(length, 0, -1):
        made = ca.MakerCa(f"AIA {number}", ca.ec_key(f"aia {number}"))
        form = made.form(above).with_extension(hint(f"http://{HOST}/{number + 1}"))
        above = made.certified_by(above, form)
        cas.insert(0, above)
    leaf = cas[0].ek_form(KEY).with_extension(hint(f"http://{HOST}/1")).sign(cas[0].key)
    return [leaf, *(each.certificate for each in cas)]


LEAF, MIDDLE = chain(1)


class Network:
    """Answers by URL (as asked, with the name), and what was asked."""

    def __init__(self, answers: dict[str, httpx.Response | Callable[[], httpx.Response]] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[httpx.Request] = []
        self.addresses: dict[str, list[str]] = {HOST: [PUBLIC]}
        self.now = 1000.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        url = f"{request.url.scheme}://{request.headers['Host'].lower()}{request.url.path}"
        found = self.answers.get(url, httpx.Response(404))
        return (
            found()
            if callable(found)
            else httpx.Response(found.status_code, headers=found.headers, content=found.content)
        )

    def issuers(self, **settings: object) -> Issuers:
        told = EndorsementSettings(fetch_issuers_from=(HOST,))
        return Issuers(
            replace(told, **settings),  # type: ignore[arg-type]
            transport=httpx.MockTransport(self.answer),
            resolve=lambda host, port: self.addresses.get(host, []),
            clock=lambda: self.now,
        )


def good() -> Network:
    return Network({f"http://{HOST}/1": httpx.Response(200, content=MIDDLE)})


def test_an_issuer_is_fetched_from_where_the_certificate_says() -> None:
    network = good()
    assert network.issuers().above([LEAF]) == (MIDDLE,)
    (asked,) = network.asked[:1]
    assert (asked.method, asked.url.host, asked.headers["Host"]) == ("GET", PUBLIC, HOST)
    assert asked.extensions["sni_hostname"] == HOST
    assert {"cookie", "authorization"} & set(asked.headers) == set()


def test_nothing_is_fetched_unless_a_setting_names_hosts() -> None:
    network = good()
    off = network.issuers(fetch_issuers_from=())
    assert not off.enabled
    assert off.above([LEAF]) == ()
    assert network.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/1",
        f"http://{HOST}:8080/1",
        f"http://{HOST}.evil.example/1",
        f"http://user@{HOST}/1",
        f"http://evil.example@{HOST}/1",
        f"https://{HOST}:80/1",
        f"http://{HOST}:x/1",
        "http://[::1]/1",
        "http://127.0.0.1/1",
    ],
)
def test_an_address_that_is_not_a_named_host_s_is_not_asked(url: str) -> None:
    network = good()
    leaf = ca.MakerCa("AIA 1", ca.ec_key("aia 1")).ek_form(KEY).with_extension(hint(url)).sign(ca.ec_key("aia 1"))
    assert network.issuers().above([leaf]) == ()
    assert network.asked == []


@pytest.mark.parametrize("host", ["http://pki.example", "pki.example/", "a b", "[::1]", "pki.example:0", "*.example"])
def test_a_setting_that_names_no_host(host: str) -> None:
    with pytest.raises(SettingInvalid):
        Network().issuers(fetch_issuers_from=(HOST, host))


def test_names_have_no_case() -> None:
    network = good()
    leaf = ca.MakerCa("AIA 1", ca.ec_key("aia 1")).ek_form(KEY).with_extension(hint(f"HTTP://{HOST.upper()}/1"))
    assert network.issuers().above([leaf.sign(ca.ec_key("aia 1"))]) == (MIDDLE,)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "100.64.0.1", "::1", "fe80::1%eth0", "fd00::1",
     "::ffff:10.0.0.1", "0.0.0.0", "224.0.0.1", "ff02::1"],
)  # fmt: skip
def test_a_name_that_leads_inside_is_not_asked(address: str) -> None:
    """Also if it leads to a public address as well."""
    for addresses in ([address], [PUBLIC, address]):
        network = good()
        network.addresses[HOST] = addresses
        assert network.issuers().above([LEAF]) == ()
        assert network.asked == []


def test_private_addresses_can_be_allowed() -> None:
    network = good()
    network.addresses[HOST] = ["10.1.2.3"]
    assert network.issuers(fetch_private_addresses=True).above([LEAF]) == (MIDDLE,)
    assert network.asked[0].url.host == "10.1.2.3"


def test_an_ipv6_address_is_written_as_one() -> None:
    network = good()
    network.addresses[HOST] = ["2606:2800:220:1:248:1893:25c8:1946"]
    assert network.issuers().above([LEAF]) == (MIDDLE,)
    assert network.asked[0].url.host == "2606:2800:220:1:248:1893:25c8:1946"


def test_a_name_without_addresses() -> None:
    network = good()
    network.addresses = {}
    assert network.issuers().above([LEAF]) == ()


# ---- Redirects --------------------------------------------------------------------------------------------------


def test_a_redirect_is_followed_within_the_named_hosts() -> None:
    network = good()
    network.answers[f"http://{HOST}/1"] = httpx.Response(302, headers={"Location": "/moved"})
    network.answers[f"http://{HOST}/moved"] = httpx.Response(301, headers={"Location": f"https://{HOST}/x"})
    network.answers[f"https://{HOST}/x"] = httpx.Response(200, content=MIDDLE)
    assert network.issuers().above([LEAF]) == (MIDDLE,)


@pytest.mark.parametrize("location", ["http://other.example/x", "http://127.0.0.1/", "file:///etc/passwd", "/1", ""])
def test_a_redirect_elsewhere_or_in_circles_ends(location: str) -> None:
    network = good()
    network.answers[f"http://{HOST}/1"] = httpx.Response(302, headers={"Location": location})
    assert network.issuers().above([LEAF]) == ()
    assert len(network.asked) <= 3
    assert {request.headers["Host"] for request in network.asked} == {HOST}


# ---- Answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(404), id="not found"),
        pytest.param(httpx.Response(500, content=MIDDLE), id="an error with a certificate"),
        pytest.param(httpx.Response(200), id="nothing"),
        pytest.param(httpx.Response(200, content=MIDDLE, headers={"Content-Encoding": "br"}), id="packed"),
        pytest.param(httpx.Response(200, content=b"<html>"), id="a page"),
        pytest.param(httpx.Response(200, content=MIDDLE[:-1]), id="half a certificate"),
        pytest.param(httpx.Response(200, content=MIDDLE + bytes(MAX_ANSWER)), id="too large"),
    ],
)
def test_an_answer_that_is_no_certificate(answer: httpx.Response) -> None:
    network = good()
    network.answers[f"http://{HOST}/1"] = answer
    assert network.issuers().above([LEAF]) == ()


def test_an_answer_in_pem_is_read() -> None:
    import ssl

    network = good()
    network.answers[f"http://{HOST}/1"] = httpx.Response(200, content=ssl.DER_cert_to_PEM_cert(MIDDLE).encode())
    assert network.issuers().above([LEAF]) == (MIDDLE,)


def test_a_network_that_fails() -> None:
    def fail() -> httpx.Response:
        raise httpx.ConnectTimeout("too slow")

    network = good()
    network.answers[f"http://{HOST}/1"] = fail
    assert network.issuers().above([LEAF]) == ()


def test_an_answer_that_drips_is_cut_off() -> None:
    network = good()

    def drip() -> httpx.Response:
        def body():  # type: ignore[no-untyped-def]
            for octet in MIDDLE:
                network.now += 0.1
                yield bytes([octet])

        return httpx.Response(200, content=body())

    network.answers[f"http://{HOST}/1"] = drip
    assert network.issuers(fetch_timeout=timedelta(seconds=3)).above([LEAF]) == ()
    assert network.now < 1000 + 4


# ---- Chains -----------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """A real one, for what an imitated network can't show: that the request reaches the address that was looked at."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(MIDDLE)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_real_server_at_a_port_that_is_named() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        settings = EndorsementSettings(fetch_issuers_from=(f"{HOST}:{port}",), fetch_private_addresses=True)
        made = ca.MakerCa("AIA 1", ca.ec_key("aia 1"))
        leaf = made.ek_form(KEY).with_extension(hint(f"http://{HOST}:{port}/1")).sign(made.key)
        assert Issuers(settings, resolve=lambda host, port: ["127.0.0.1"]).above([leaf]) == (MIDDLE,)
        assert Server.asked[0] == ("/1", f"{HOST}:{port}")
        assert Issuers(settings, resolve=lambda host, port: ["127.0.0.1"]).above([LEAF]) == ()  # at port 80
        server.shutdown()


def test_a_whole_chain_is_fetched_step_by_step_and_no_longer_than_a_path_may_be() -> None:
    certificates = chain(9)
    network = Network({f"http://{HOST}/{n}": httpx.Response(200, content=der) for n, der in enumerate(certificates)})
    assert network.issuers().above([certificates[0]]) == tuple(certificates[1:7])
    assert len(network.asked) == 6


def test_time_is_bounded_for_the_whole_chain() -> None:
    certificates = chain(5)
    network = Network()

    def slow(der: bytes) -> Callable[[], httpx.Response]:
        def answer() -> httpx.Response:
            network.now += 2
            return httpx.Response(200, content=der)

        return answer

    network.answers = {f"http://{HOST}/{n}": slow(der) for n, der in enumerate(certificates)}
    assert len(network.issuers(fetch_timeout=timedelta(seconds=3)).above([certificates[0]])) < 3


def test_a_certificate_that_can_not_be_read_gives_no_hint() -> None:
    network = good()
    assert network.issuers().above([b"", b"\x30\x03abc"]) == ()


# ---- Memory -----------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_for_a_day() -> None:
    network = good()
    issuers = network.issuers()
    for _ in range(3):
        assert issuers.above([LEAF]) == (MIDDLE,)
    first = len(network.asked)
    network.now += 24 * 3600 + 1
    assert issuers.above([LEAF]) == (MIDDLE,)
    assert len(network.asked) > first


def test_a_failure_is_kept_for_ten_minutes() -> None:
    network = Network()
    issuers = network.issuers()
    for _ in range(3):
        assert issuers.above([LEAF]) == ()
    assert len(network.asked) == 1
    network.now += 601
    network.answers[f"http://{HOST}/1"] = httpx.Response(200, content=MIDDLE)
    assert issuers.above([LEAF]) == (MIDDLE,)


def with_hint(number: int) -> bytes:
    made = ca.MakerCa("AIA 1", ca.ec_key("aia 1"))
    return made.ek_form(KEY).with_extension(hint(f"http://{HOST}/odd-{number}")).sign(made.key)


def test_requests_of_a_minute_are_bounded() -> None:
    """Certificates are anybody's to make, each with an address of its own."""
    network = Network()
    issuers = network.issuers()
    for number in range(50):
        issuers.above([with_hint(number)])
    assert len(network.asked) == 30
    network.now += 61
    issuers.above([with_hint(50)])
    assert len(network.asked) == 31


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.issuance.issuers._KEPT", 4)
    network = Network()
    issuers = network.issuers()
    for number in range(20):
        issuers.above([with_hint(number)])
    assert len(issuers._kept) == 4


def test_requests_at_once_are_bounded() -> None:
    waiting, go = threading.Barrier(3), threading.Event()
    network = Network()

    def wait() -> httpx.Response:
        waiting.wait(5)
        go.wait(5)
        return httpx.Response(404)

    network.answers = {f"http://{HOST}/odd-{number}": wait for number in range(3)}
    issuers = network.issuers()
    threads = [threading.Thread(target=issuers.above, args=([with_hint(number)],)) for number in range(2)]
    for thread in threads:
        thread.start()
    waiting.wait(5)
    assert issuers.above([with_hint(2)]) == ()
    assert len(network.asked) == 2
    go.set()
    for thread in threads:
        thread.join(5)
