"""attestd comes to the values in tests/vectors/protocol/, and those are what the protocol's text says.

`make_protocol_vectors.py` beside this file makes them, and shares no code with attestd.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attestd.credentials.facts import FACTS_OID, Facts
from attestd.credentials.jwk import jwk_thumbprint, public_jwk, read_jwk
from attestd.credentials.requests import verify_request
from attestd.credentials.status import Status, StatusList
from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol import derivations
from attestd.protocol.encoding import MalformedBase64, Members, b64decode, b64encode
from attestd.protocol.signed import SignedEnvelope, sign_detached, sign_flattened

FOLDER = Path(__file__).resolve().parent / "protocol"


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_protocol_vectors", FOLDER.parent / "make_protocol_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()


@pytest.mark.parametrize("name", MAKER.FILES)
def test_the_files_are_what_the_script_makes(name: str) -> None:
    """Not the compressed texts octet for octet: they depend on the ZLIB at hand."""
    made, committed = json.loads(MAKER.written(name)), load(name)
    if name == "status_lists.json":
        for found in (made, committed):
            for entry in found["accepted"]:
                del entry["lst"]
            del found["refused"]
    assert made == committed


def test_no_file_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(MAKER.FILES)


@pytest.mark.parametrize("case", load("derivations.json")["cases"], ids=lambda case: case["derivation"])
def test_derivations(case: dict[str, Any]) -> None:
    parts = {name: bytes.fromhex(text) for name, text in case["octets"].items()}
    derive = getattr(derivations, case["derivation"])
    assert derive(**parts, **case.get("text", {})).hex() == case["result"]


def test_every_derivation_has_vectors() -> None:
    named = {case["derivation"] for case in load("derivations.json")["cases"]}
    public = {
        name
        for name, found in vars(derivations).items()
        if callable(found) and not name.startswith("_") and found.__module__ == derivations.__name__
    }
    assert named == public


@pytest.mark.parametrize("case", load("base64url.json")["accepted"], ids=lambda case: case["text"][:12])
def test_base64url(case: dict[str, str]) -> None:
    assert b64encode(bytes.fromhex(case["octets"])) == case["text"]
    assert b64decode(case["text"]) == bytes.fromhex(case["octets"])


@pytest.mark.parametrize("case", load("base64url.json")["refused"], ids=lambda case: ascii(case["text"]))
def test_base64url_that_is_none(case: dict[str, str]) -> None:
    with pytest.raises(MalformedBase64):
        b64decode(case["text"])


SIGNED = load("signed_requests.json")


@pytest.mark.parametrize("case", SIGNED["requests"], ids=lambda case: f"{case['kind']} {case['method']}")
def test_signed_requests(case: dict[str, str]) -> None:
    payload, nonce = bytes.fromhex(case["payload"]), bytes.fromhex(case["nonce"])
    signed: list[bytes] = []

    def sign(octets: bytes) -> bytes:
        signed.append(octets)
        return b64decode(case["signature"])

    if case["kind"] == "device":
        made = sign_flattened(payload, sign=sign, alg="ES256", kid=case["kid"], url=case["url"], nonce=nonce).decode()
        read = SignedEnvelope.parse_flattened(case["wire"].encode(), limit=10_000)
    else:
        made = sign_detached(
            payload, sign=sign, alg="ES256", kid=case["kid"], method=case["method"], url=case["url"], nonce=nonce
        )
        read = SignedEnvelope.parse_detached(case["wire"], payload)
    assert made == case["wire"]
    assert signed == [case["signing_input"].encode()]
    assert read.signing_input == case["signing_input"].encode()
    assert (read.unverified_kid, read.url, read.method) == (case["kid"], case["url"], case["method"])
    assert (read.nonce, read.unverified_payload) == (nonce, payload)
    assert verify_request(read, key=read_jwk(SIGNED["jwk"]), url=case["url"], method=case["method"]) == payload


@pytest.mark.parametrize("case", load("keys_and_tokens.json")["thumbprints"], ids=lambda case: case["jkt"])
def test_thumbprints(case: dict[str, Any]) -> None:
    key = read_jwk(case["jwk"])
    assert jwk_thumbprint(key) == case["jkt"]
    assert public_jwk(key) == case["jwk"]


@pytest.mark.parametrize("case", load("keys_and_tokens.json")["token_hashes"], ids=lambda case: case["ath"])
def test_token_hashes(case: dict[str, str]) -> None:
    assert b64encode(hashlib.sha256(case["token"].encode()).digest()) == case["ath"]


FACTS = load("facts.json")


@pytest.mark.parametrize("case", FACTS["accepted"], ids=lambda case: f"{len(case['json'])} characters")
def test_facts(case: dict[str, Any]) -> None:
    facts = Facts.decode(case["json"].encode())
    assert facts.to_members() == case["members"]
    assert facts.encode() == case["json"].encode()
    assert Facts.read(Members(case["members"], "facts")) == facts
    assert facts.to_extension().value == bytes.fromhex(case["extension"])
    assert Facts.from_extension(bytes.fromhex(case["extension"])) == facts
    assert FACTS_OID.dotted_string == FACTS["oid"]


@pytest.mark.parametrize("case", FACTS["refused"], ids=lambda case: case["why"])
def test_facts_that_are_none(case: dict[str, str]) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        Facts.decode(case["json"].encode())


@pytest.mark.parametrize("case", load("status_lists.json")["accepted"], ids=lambda case: case["lst"][:16])
def test_status_lists(case: dict[str, Any]) -> None:
    listed = StatusList.decode(case["lst"])
    assert listed.octets.hex() == case["octets"]
    for index, value in enumerate(case["values"]):
        assert listed[index] == (Status.INVALID if value == 3 else value)
    assert StatusList.decode(listed.encode()) == listed
    if 3 not in case["values"]:
        assert StatusList.of(dict(enumerate(map(Status, case["values"]))), len(case["values"])) == listed


@pytest.mark.parametrize("case", load("status_lists.json")["refused"], ids=lambda case: case["why"])
def test_status_lists_that_are_none(case: dict[str, str]) -> None:
    with pytest.raises(MalformedInput):
        StatusList.decode(case["lst"])
