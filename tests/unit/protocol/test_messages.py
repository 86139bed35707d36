"""Every message is read back as it was written, and any other shape of it is a typed error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol import evidence as e
from attestd.protocol import messages as m
from attestd.protocol.encoding import b64encode

REFUSALS = (MalformedInput, InputTooLarge)

KEY = e.CertifiedKey(public=b"public", attest=b"attest", signature=b"signature")
QUOTE = e.QuoteEvidence(
    attest=b"attest",
    signature=b"signature",
    pcrs={"sha256": {0: b"0" * 32, 23: b"1" * 32}, "sha1": {7: b"7" * 20}},
    eventlog=b"log",
    ima=b"",
)
BARE_QUOTE = e.QuoteEvidence(attest=b"attest", signature=b"signature", pcrs={})

MESSAGES: dict[str, Any] = {
    "begin": m.BeginRequest(b"ek", b"ak", (b"certificate", b"other")),
    "begin bare": m.BeginRequest(b"ek", b"ak"),
    "begin by iak": m.BeginRequest(b"ek", b"ak", iak=e.IdentityKey(b"iak", (b"certificate", b"other"))),
    "begin answer": m.BeginAnswer(
        id=b"i" * 16,
        challenge=b"challenge",
        credential_blob=b"blob",
        secret=b"secret",
        nonce=b"n" * 32,
        pcrs={"sha256": (0, 2, 23), "sha384": ()},
        wants=("eventlog", "ima"),
        expires_in=300,
    ),
    "evidence": m.EnrollmentEvidence(KEY, QUOTE),
    "evidence bare": m.EnrollmentEvidence(KEY, BARE_QUOTE),
    "evidence by iak": m.EnrollmentEvidence(KEY, BARE_QUOTE, e.Identification(b"attest", b"signature")),
    "complete": m.CompleteRequest(b"challenge", b"{}", b"p" * 32),
    "credential": m.CredentialAnswer("bike-1", "spiffe://x/device/y/bike-1", "pem", {"status": [1, {"a": None}]}, 5, 9),
    "wait": m.WaitAnswer("pending", 60, {"why": "new"}),
    "attestation": m.AttestationRequest(QUOTE),
    "renewal": m.RenewalRequest(),
    "re-key": m.RenewalRequest(KEY),
    "token": m.TokenRequest("https://shop.example.org", "tls"),
    "token answer": m.TokenAnswer("a.b.c", 300),
}
FREE_FORM = ("result", "pcrs")  # objects whose names are data

by_name = pytest.mark.parametrize("name", MESSAGES)


def parse(name: str, data: bytes) -> Any:
    return type(MESSAGES[name]).parse(data)


def members_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MESSAGES[name].to_bytes())
    return found


def refused(name: str, members: Any) -> None:
    with pytest.raises(REFUSALS):
        parse(name, json.dumps(members).encode())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every member that has a fixed name."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict) and key not in FREE_FORM:
            yield from paths(inner, (*path, key))


def changed(members: dict[str, Any], path: tuple[Any, ...], change: Callable[[dict[str, Any], Any], None]) -> Any:
    copied = copy.deepcopy(members)
    inner = copied
    for step in path[:-1]:
        inner = inner[step]
    change(inner, path[-1])
    return copied


@by_name
def test_what_is_written_is_read(name: str) -> None:
    message = MESSAGES[name]
    data = message.to_bytes()
    assert parse(name, data) == message
    assert parse(name, json.dumps(json.loads(data), indent=1).encode()).to_bytes() == data


OPTIONAL = {
    "begin by iak": (("iak",),),
    "evidence": (("eventlog",), ("ima",)),
    "evidence by iak": (("iak",),),
    "attestation": (("eventlog",), ("ima",)),
    "re-key": (("ck",),),
    "token": (("binding",),),
}


@by_name
def test_a_member_that_is_missing(name: str) -> None:
    members = members_of(name)
    for path in paths(members):
        lacking = changed(members, path, lambda inner, key: inner.pop(key))
        if path in OPTIONAL.get(name, ()):
            parse(name, json.dumps(lacking).encode())
        else:
            refused(name, lacking)


@by_name
def test_a_member_that_nobody_knows(name: str) -> None:
    members = members_of(name)
    refused(name, {**members, "more": 1})
    for path in paths(members):
        inner = members
        for step in path:
            inner = inner[step]
        if isinstance(inner, dict) and path[-1] not in FREE_FORM:
            refused(name, changed(members, path, lambda holder, key: holder[key].update(more=1)))


@by_name
def test_a_member_of_another_type(name: str) -> None:
    members = members_of(name)
    for path in paths(members):
        original: Any = members
        for step in path:
            original = original[step]
        for instead in (None, True, 5, 1.5, "!", [], [[]], {"x": 1}, [None]):
            if type(instead) is type(original) and (
                instead == [] or (path[-1] in ("device_id", "spiffe_id", "chain", "state", "audience", "token"))
            ):
                continue  # that is another honest value
            if path == ("result",) and isinstance(instead, dict):
                continue
            if (
                isinstance(instead, int)
                and type(instead) is int
                and path[-1] in ("expires_in", "renew_after", "retry_after")
            ):
                continue
            refused(name, changed(members, path, lambda inner, key, value=instead: inner.update({key: value})))


@by_name
def test_a_duplicate_member(name: str) -> None:
    data = MESSAGES[name].to_bytes()
    for key in members_of(name):
        with pytest.raises(REFUSALS):
            parse(name, b'{"' + key.encode() + b'":1,' + data[1:])


@by_name
def test_truncated_messages(name: str) -> None:
    data = MESSAGES[name].to_bytes()
    for length in range(len(data)):
        with pytest.raises(REFUSALS):
            parse(name, data[:length])


@by_name
def test_deep_and_strange_messages(name: str) -> None:
    for data in (b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"v":' * 10_000, b"{}", b'{"v":1}', b'{"v":NaN}'):
        if name in ("renewal", "re-key") and data == b'{"v":1}':
            continue
        with pytest.raises(REFUSALS):
            parse(name, data)


@by_name
def test_oversized_messages(name: str) -> None:
    data = MESSAGES[name].to_bytes()
    with pytest.raises(InputTooLarge):
        parse(name, data[:-1] + b" " * (13 * 1024 * 1024) + b"}")


@by_name
@given(data=st.binary(max_size=100))
def test_random_octets(name: str, data: bytes) -> None:
    with pytest.raises(REFUSALS):
        parse(name, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@by_name
@given(data=st.data())
def test_random_members(name: str, data: st.DataObject) -> None:
    members = members_of(name)
    path = data.draw(st.sampled_from(sorted(paths(members), key=str)))
    value = data.draw(json_values)
    octets = json.dumps(changed(members, path, lambda inner, key: inner.update({key: value}))).encode()
    try:
        message = parse(name, octets)
    except REFUSALS:
        return
    assert parse(name, message.to_bytes()) == message


# ---- Single values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "good", "bad"),
    [
        ("begin", ("v",), 1, 2),
        ("begin", ("ek", "public"), b64encode(b"x" * 1024), b64encode(b"x" * 1025)),
        ("begin", ("ek", "public"), "AA", ""),
        ("begin", ("ak", "public"), b64encode(b"x" * 1024), b64encode(b"x" * 1025)),
        ("begin", ("ak", "public"), "AA", ""),
        ("begin", ("ek", "certificates"), ["AA"] * 8, ["AA"] * 9),
        ("begin", ("ek", "certificates"), [b64encode(b"x" * 5000)], [b64encode(b"x" * 8193)]),
        ("begin", ("ek", "certificates"), [], [5]),
        ("begin by iak", ("iak", "public"), b64encode(b"x" * 1024), b64encode(b"x" * 1025)),
        ("begin by iak", ("iak", "public"), "AA", ""),
        ("begin by iak", ("iak", "certificates"), ["AA"] * 8, ["AA"] * 9),
        ("begin by iak", ("iak", "certificates"), [b64encode(b"x" * 5000)], [b64encode(b"x" * 8193)]),
        ("begin by iak", ("ek", "certificates"), [], ["AA"]),
        ("evidence by iak", ("iak", "attest"), b64encode(b"x" * 2048), b64encode(b"x" * 2049)),
        ("evidence by iak", ("iak", "attest"), "AA", ""),
        ("evidence by iak", ("iak", "signature"), b64encode(b"x" * 1100), b64encode(b"x" * 1101)),
        ("evidence by iak", ("iak", "signature"), "AA", ""),
        ("begin answer", ("id",), b64encode(b"x" * 16), b64encode(b"x" * 15)),
        ("begin answer", ("id",), b64encode(b"x" * 16), b64encode(b"x" * 17)),
        ("begin answer", ("nonce",), b64encode(b"x" * 32), b64encode(b"x" * 31)),
        ("begin answer", ("nonce",), b64encode(b"x" * 32), b64encode(b"x" * 33)),
        ("begin answer", ("challenge",), b64encode(b"x" * m.MAX_SEALED), b64encode(b"x" * (m.MAX_SEALED + 1))),
        ("begin answer", ("credential_blob",), b64encode(b"x" * 1024), b64encode(b"x" * 1025)),
        ("begin answer", ("secret",), b64encode(b"x" * 1024), b64encode(b"x" * 1025)),
        ("begin answer", ("wants",), ["x"] * 8, ["x"] * 9),
        ("begin answer", ("expires_in",), 0, -1),
        ("begin answer", ("pcrs",), {"sha512": [0, 23]}, {"sha512": [24]}),
        ("begin answer", ("pcrs",), {}, {"sha512": [-1]}),
        ("begin answer", ("pcrs",), {}, {"sha512": [True]}),
        ("begin answer", ("pcrs",), {}, {"sha512": ["0"]}),
        ("begin answer", ("pcrs",), {}, {"sha512": 0}),
        ("begin answer", ("pcrs",), {}, {"md5": [0]}),
        ("begin answer", ("pcrs",), {}, {"SHA256": [0]}),
        ("evidence", ("pcrs",), {"sha384": {"0": b64encode(b"x" * 48)}}, {"sha384": {"0": b64encode(b"x" * 32)}}),
        ("evidence", ("pcrs",), {"sha256": {}}, {"md5": {}}),
        ("evidence", ("pcrs",), {}, {"sha256": []}),
        ("evidence", ("pcrs",), {}, {"sha256": {"0": 5}}),
        ("evidence", ("pcrs",), {}, {"sha256": {"0": "A" * 101}}),
        ("evidence", ("pcrs",), {}, {"sha256": {"0": "!"}}),
        *(
            ("evidence", ("pcrs",), {"sha1": {"10": b64encode(b"x" * 20)}}, {"sha1": {i: b64encode(b"x" * 20)}})
            for i in ("24", "-1", "01", "1.0", "", " 1", "+1", "x", "\u0661", "\u00b2", "9" * 1000)
        ),
        ("evidence", ("ck", "public"), b64encode(b"x" * 1024), b64encode(b"x" * 1025)),
        ("evidence", ("ck", "attest"), b64encode(b"x" * 2048), b64encode(b"x" * 2049)),
        ("evidence", ("ck", "signature"), b64encode(b"x" * 1100), b64encode(b"x" * 1101)),
        ("evidence", ("quote", "attest"), b64encode(b"x" * 2048), b64encode(b"x" * 2049)),
        ("evidence", ("quote", "attest"), "AA", ""),
        ("evidence", ("quote", "signature"), b64encode(b"x" * 1100), b64encode(b"x" * 1101)),
        ("evidence", ("quote", "signature"), "AA", ""),
        ("complete", ("proof",), b64encode(b"x" * 32), b64encode(b"x" * 31)),
        ("complete", ("proof",), b64encode(b"x" * 32), b64encode(b"x" * 33)),
        ("complete", ("body",), b64encode(b"{}"), b64encode(b"{")),
        ("complete", ("challenge",), "AA", ""),
        ("complete", ("challenge",), b64encode(b"x" * m.MAX_SEALED), b64encode(b"x" * (m.MAX_SEALED + 1))),
        ("credential", ("device_id",), "x" * 64, "x" * 65),
        ("credential", ("spiffe_id",), "x" * 2048, "x" * 2049),
        ("credential", ("renew_after",), 3660 * 86400, 3660 * 86400 + 1),
        ("credential", ("expires_in",), 0, -1),
        ("wait", ("state",), "x" * 20, "x" * 21),
        ("wait", ("retry_after",), 0, -1),
        ("token", ("audience",), "x" * 255, "x" * 256),
        ("token", ("binding",), "dpop", "none"),
        ("token", ("binding",), "tls", "TLS"),
        ("token answer", ("expires_in",), 0, -1),
    ],
)
def test_bounds(name: str, path: tuple[str, ...], good: Any, bad: Any) -> None:
    members = members_of(name)
    parse(name, json.dumps(changed(members, path, lambda inner, key: inner.update({key: good}))).encode())
    refused(name, changed(members, path, lambda inner, key: inner.update({key: bad})))


def test_a_bank_has_24_pcrs() -> None:
    members = members_of("evidence")
    digest = b64encode(b"x" * 32)
    members["pcrs"] = {"sha256": {str(index): digest for index in range(24)}}
    assert len(parse("evidence", json.dumps(members).encode()).quote.pcrs["sha256"]) == 24
    members["pcrs"]["sha256"] |= {f"0{index}": digest for index in range(24)}
    with pytest.raises(MalformedInput, match="maps PCR indices"):
        parse("evidence", json.dumps(members).encode())


def test_a_pcr_value_is_bounded_before_it_is_decoded() -> None:
    members = members_of("evidence")
    members["pcrs"] = {"sha512": {"0": "A" * 101}}
    with pytest.raises(MalformedInput, match="is a base64url string"):
        parse("evidence", json.dumps(members).encode())


def test_a_selection_is_sorted_and_without_doubles() -> None:
    members = members_of("begin answer")
    members["pcrs"] = {"sha256": [7, 0, 7]}
    assert parse("begin answer", json.dumps(members).encode()).pcrs == {"sha256": (0, 7)}


def test_large_logs_fit() -> None:
    log = b"\x00" * e.MAX_LOG
    quote = e.QuoteEvidence(attest=b"a", signature=b"s", pcrs={}, eventlog=log[: e.MAX_LOG // 4], ima=log[:100])
    message = m.AttestationRequest(quote)
    assert m.AttestationRequest.parse(message.to_bytes()) == message
    too_large = m.AttestationRequest(e.QuoteEvidence(attest=b"a", signature=b"s", pcrs={}, ima=log + b"\x00"))
    with pytest.raises(REFUSALS):
        m.AttestationRequest.parse(too_large.to_bytes())


def test_the_binding_of_a_token_is_a_proof_unless_said_otherwise() -> None:
    assert m.TokenRequest.parse(b'{"v":1,"audience":"a"}').binding == "dpop"
