"""Heads: what two readers could take in two ways is refused."""

from __future__ import annotations

import pytest

from attestd_edge.heads import MAX_FIELDS, HeadReader, HeadRefused, HeadTooLarge, closing, write

START = b"GET /auth?x=1 HTTP/1.1\r\nHost: edge\r\n"


def read(octets: bytes):
    return HeadReader().read(octets)


class TestRead:
    def test_a_plain_one(self):
        head = read(START + b"X-A: one \r\nx-a:two\r\nX-B:\r\nX-C: \xe4\r\n\r\n")
        assert (head.method, head.target, head.keep_alive) == ("GET", "/auth?x=1", True)
        assert head.headers.values == {"host": ("edge",), "x-a": ("one ", "two"), "x-b": ("",), "x-c": ("ä",)}

    def test_one_after_the_other(self):
        reader = HeadReader()
        for number in range(3):
            assert reader.read(START + b"X-A: %d\r\n\r\n" % number).headers.one("x-a") == str(number)

    @pytest.mark.parametrize(
        ("start", "keeps"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", True),
            (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
            (b"GET / HTTP/1.0\r\n\r\n", False),
            (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        ],
    )
    def test_how_long_the_connection_lasts(self, start, keeps):
        assert read(start).keep_alive is keeps

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
    def test_any_method(self, method):
        assert read(START.replace(b"GET", method.encode()) + b"Content-Length: 0\r\n\r\n").method == method

    @pytest.mark.parametrize(
        "line",
        [
            b"GET /auth HTTP/2.0", b"GET /auth HTTP/0.9", b"GET /auth HTTP/1.2", b"GET /auth HTTP/11", b"GET /auth",
            b"GET /auth http/1.1", b"GET /auth RTSP/1.0", b"SOURCE /auth ICE/1.0", b"get /auth HTTP/1.1",
            b"GET  /auth HTTP/1.1", b"GET\t/auth HTTP/1.1", b"GET /auth\tHTTP/1.1", b"GET /auth HTTP/1.1 ",
            b" GET /auth HTTP/1.1", b"GET /au th HTTP/1.1", b"GET http://edge/auth HTTP/1.1", b"GET auth HTTP/1.1",
            b"OPTIONS * HTTP/1.1", b"CONNECT edge:443 HTTP/1.1", b"CONNECT /auth HTTP/1.1", b"GET /auth#x HTTP/1.1",
            b"GET /\xc3\xa4 HTTP/1.1", b"GET /a\x00 HTTP/1.1", b"GET /a\x7f HTTP/1.1", b"XYZZY /auth HTTP/1.1",
            b"PRI * HTTP/2.0", b"", b"\r\nGET /auth HTTP/1.1",
        ],
    )  # fmt: skip
    def test_a_request_line_of_another_form(self, line):
        with pytest.raises(HeadRefused):
            read(line + b"\r\nHost: edge\r\n\r\n")

    @pytest.mark.parametrize(
        "field",
        [
            b"X-A : one", b" X-A: one", b"X-A: one\r\n two", b"X-A: one\r\n\ttwo", b"X-A: one\nX-B: two", b"X-A: a\rb",
            b"X-A: one\r", b"X-A: a\x00b", b"X-A: a\x01b", b"X-A: a\x7fb", b"X\x00-A: one", b"X\xe4: one", b": one",
            b"X-A", b"X(A): one", b'"X-A": one', b"\x0bX-A: one",
        ],
    )  # fmt: skip
    def test_a_field_of_another_form(self, field):
        with pytest.raises(HeadRefused):
            read(START + field + b"\r\n\r\n")

    @pytest.mark.parametrize(
        "fields",
        [
            b"Content-Length: 5", b"Content-Length: 0\r\nContent-Length: 0", b"Content-Length: 0\r\nContent-Length: 5",
            b"Content-Length: 0, 0", b"Content-Length: +0", b"Content-Length: -0", b"Content-Length: 0x0",
            b"Content-Length:", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: identity", b"Transfer-Encoding: xchunked", b"Transfer-Encoding:\x0bchunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 0", b"Content-Length: 0\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked", b"Connection: Upgrade\r\nUpgrade: websocket",
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    def test_a_body_or_another_protocol(self, fields, method):
        with pytest.raises(HeadRefused):
            read(START.replace(b"GET", method) + fields + b"\r\n\r\n")

    @pytest.mark.parametrize("rest", [START + b"\r\n", START, b"\r\n", b"\n", b"x"])
    def test_something_behind_the_head(self, rest):
        with pytest.raises(HeadRefused, match="behind"):
            read(START + b"\r\n" + rest)

    @pytest.mark.parametrize("octets", [START, START + b"\r", START[:-2]])
    def test_a_head_without_its_end(self, octets):
        with pytest.raises(HeadRefused):
            read(octets)

    def test_as_many_fields_as_there_may_be(self):
        assert read(START + b"X-A: b\r\n" * (MAX_FIELDS - 1) + b"\r\n")
        with pytest.raises(HeadTooLarge):
            read(START + b"X-A: b\r\n" * MAX_FIELDS + b"\r\n")


class TestWrite:
    def test_an_answer(self):
        assert write(200, [("A", "b")], b"xy") == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nxy"

    def test_to_head(self):
        assert write(403, [], b"xy", bodiless=True) == b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n"

    @pytest.mark.parametrize("text", ["a\r\nB: c", "a\nB: c", "a\rb", "\r\n"])
    def test_a_header_that_would_begin_another(self, text):
        with pytest.raises(ValueError, match="line break"):
            write(200, [("A", text)])
        with pytest.raises(ValueError, match="line break"):
            write(200, [(text, "a")])

    def test_the_last_one(self):
        assert closing(write(200, [("A", "b")])) == (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\nContent-Length: 0\r\n\r\n"
        )
