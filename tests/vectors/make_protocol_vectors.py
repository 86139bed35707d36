"""Makes tests/vectors/protocol/*.json: what every implementation of docs/protocol.md must come to.

    python tests/vectors/make_protocol_vectors.py           writes the files
    python tests/vectors/make_protocol_vectors.py --check   exits 1 if a file differs from what would be written

This is a second implementation: it follows the protocol's text with the standard library (and cryptography for
signatures), and imports nothing from attestd. So a slip in either shows as a difference between the two, and a change
of the protocol shows as a change of committed files. Octets are hexadecimal in the files; the rest is as on the wire.
"""

# ruff: noqa: T201

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import zlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

FOLDER = Path(__file__).resolve().parent / "protocol"

# A P-256 key for these files alone; its private number is no secret.
KEY = ec.derive_private_key(int.from_bytes(hashlib.sha256(b"attestd test vectors").digest(), "big"), ec.SECP256R1())


def b64url(data: bytes) -> str:
    return base64.b64encode(data).decode().replace("+", "-").replace("/", "_").replace("=", "")


def compact(members: Any) -> str:
    return json.dumps(members, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def octets(label: str, size: int) -> bytes:
    """Octets that look random and are the same each time."""
    return b"".join(hashlib.sha256(f"{label} {n}".encode()).digest() for n in range(size // 32 + 1))[:size]


def es256(message: bytes) -> bytes:
    """RFC 6979 makes the signature a function of key and message."""
    r, s = decode_dss_signature(KEY.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def jwk() -> dict[str, str]:
    numbers = KEY.public_key().public_numbers()
    x, y = (b64url(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def derivations() -> Any:
    """docs/protocol.md, sections 1 and 2."""
    nonce, id_, ek_hash = octets("nonce", 32), octets("id", 16), octets("ek hash", 32)
    ak_name, ck_name = (b"\x00\x0b" + octets(f"{key} name", 32) for key in ("ak", "ck"))  # nameAlg SHA-256 (0x000b)
    sealed = octets("sealed nonce", 100)
    cases = []
    for what, label in (("certify", b"attestd/certify/1\x00"), ("quote", b"attestd/quote/1\x00")):
        for n, i, e, a, c in (
            (nonce, id_, ek_hash, ak_name, ck_name),
            (bytes(32), bytes(16), bytes(32), b"\x00\x0b" + bytes(32), b"\x00\x0b" + bytes(32)),
        ):
            cases.append(
                {
                    "derivation": f"enrollment_{what}_data",
                    "octets": {
                        k: v.hex()
                        for k, v in zip(("nonce", "id", "ek_hash", "ak_name", "ck_name"), (n, i, e, a, c), strict=True)
                    },
                    "result": hashlib.sha256(label + n + i + e + a + c).hexdigest(),
                }
            )
        for device in ("bike-1", "a", "x" * 64):
            cases.append(
                {
                    "derivation": f"device_{what}_data",
                    "octets": {"nonce": sealed.hex(), "ak_name": ak_name.hex(), "ck_name": ck_name.hex()},
                    "text": {"device_id": device},
                    "result": hashlib.sha256(label + sealed + device.encode() + ak_name + ck_name).hexdigest(),
                }
            )
    for n, i, e, a in (
        (nonce, id_, ek_hash, ak_name),
        (bytes(32), bytes(16), bytes(32), b"\x00\x0b" + bytes(32)),
    ):
        named = zip(("nonce", "id", "ek_hash", "ak_name"), (n, i, e, a), strict=True)
        cases.append(
            {
                "derivation": "enrollment_identify_data",
                "octets": {k: v.hex() for k, v in named},
                "result": hashlib.sha256(b"attestd/identify/1\x00" + n + i + e + a).hexdigest(),
            }
        )
    for body in (b"", b"{}", b'{"ck":{},"pcrs":{},"quote":{}}', octets("body", 1000)):
        secret = octets("secret", 32)
        proof = hmac.new(secret, hashlib.sha256(body).digest(), hashlib.sha256).hexdigest()
        cases.append(
            {
                "derivation": "completion_proof",
                "octets": {"secret": secret.hex(), "body": body.hex()},
                "result": proof,
            }
        )
        cases.append(
            {
                "derivation": "request_digest",
                "octets": {"body": body.hex()},
                "result": hashlib.sha256(body).hexdigest(),
            }
        )
    return {"about": derivations.__doc__, "cases": cases}


def base64url() -> Any:
    """RFC 4648, section 10 without padding; RFC 7515, appendix C; and texts that must be refused."""
    values = [b"", b"f", b"fo", b"foo", b"foob", b"fooba", b"foobar", bytes((3, 236, 255, 224, 193)), bytes(range(256))]
    refused = {
        "Zg==": "padding",
        "Zg=": "padding",
        "Zh": "stray bits after 8",
        "Zm9": "stray bits after 16",
        "Z": "six bits are no octet",
        "Zm9vY": "six bits too many",
        "Zm+v": "the other alphabet",
        "Zm/v": "the other alphabet",
        "Zm9v\n": "a line feed",
        " Zm9v": "a space",
        "Zm9v.": "a dot",
        "Zm9\u0076\u0301": "beyond ASCII",
    }
    return {
        "about": base64url.__doc__,
        "accepted": [{"octets": value.hex(), "text": b64url(value)} for value in values],
        "refused": [{"text": text, "why": why} for text, why in refused.items()],
    }


def signed_requests() -> Any:
    """docs/protocol.md, section 2: the protected header, the octets that are signed, and a signature over them."""
    nonce = octets("request nonce", 64)
    requests = []
    for kind, typ, method, url, kid, payload in (
        ("device", "attestd-request+jws", "POST", "https://attestd.example.org/v1/renewals", "bike-1", b'{"v":1}'),
        (
            "device",
            "attestd-request+jws",
            "POST",
            "https://attestd.example.org/v1/tokens",
            "x" * 64,
            '{"audience":"https://münchen.example/","binding":"dpop","v":1}'.encode(),
        ),
        (
            "caller",
            "attestd-call+jws",
            "GET",
            "https://attestd.example.org:8443/v1/bundle?site=munich",
            thumbprint(),
            b"",
        ),
        (
            "caller",
            "attestd-call+jws",
            "PUT",
            "https://attestd.example.org/v1/policies",
            thumbprint(),
            octets("b", 100),
        ),
    ):
        header = {"alg": "ES256", "kid": kid, "nonce": b64url(nonce), "typ": typ, "url": url}
        if kind == "caller":
            header["htm"] = method
        protected = b64url(compact(header).encode())
        signing_input = f"{protected}.{b64url(payload)}"
        signature = b64url(es256(signing_input.encode()))
        wire = (
            compact({"payload": b64url(payload), "protected": protected, "signature": signature})
            if kind == "device"
            else f"Attestd {protected}..{signature}"
        )
        requests.append(
            {
                "kind": kind,
                "method": method,
                "url": url,
                "kid": kid,
                "nonce": nonce.hex(),
                "payload": payload.hex(),
                "protected": protected,
                "signing_input": signing_input,
                "signature": signature,
                "wire": wire,
            }
        )
    return {"about": signed_requests.__doc__, "jwk": jwk(), "thumbprint": thumbprint(), "requests": requests}


def thumbprint() -> str:
    """RFC 7638: the required members in lexicographic order."""
    key = jwk()
    text = f'{{"crv":"{key["crv"]}","kty":"{key["kty"]}","x":"{key["x"]}","y":"{key["y"]}"}}'
    return b64url(hashlib.sha256(text.encode()).digest())


def keys_and_tokens() -> Any:
    """RFC 9449, sections 4.2, 6.1 and 7.1: a key, its thumbprint, a token and its hash; and a key of our own."""
    example = {
        "kty": "EC",
        "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    }
    return {
        "about": keys_and_tokens.__doc__,
        "thumbprints": [
            {"jwk": example, "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
            {"jwk": jwk(), "jkt": thumbprint()},
        ],
        "token_hashes": [
            {
                "token": "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
                "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
            }
        ],
    }


def facts() -> Any:
    """docs/protocol.md, section 4: one JSON text for the same facts, and the extension's value (DER, UTF8String)."""
    bare = {"v": 1, "vec": {}, "lbl": {}, "boot": {}, "idx": 0, "att": 1}
    accepted = []
    for changes in (
        {},
        {"idx": 67108863, "att": 1772366400},
        {
            "vec": {"instance-identity": 2, "configuration": -128, "executables": 127, "sourced-data": 0},
            "lbl": {"fleet": "bikes", "team/owner": "Zürich 😀", "Z": "", "a.b_c-d": 'quote " and \\'},
            "boot": {"secure_boot": True, "kernel": "6.1.0-18", "boot_count": 41, "debug": False, "offset": -7},
            "idx": 4711,
            "att": 1772366400,
        },
        {"lbl": {f"label-{n}": "x" * 90 for n in range(9)}},
    ):
        text = compact({**bare, **changes}).encode()
        size = len(text)
        length = (
            bytes((size,)) if size < 128 else bytes((0x81, size)) if size < 256 else b"\x82" + size.to_bytes(2, "big")
        )
        accepted.append(
            {"members": {**bare, **changes}, "json": text.decode(), "extension": (b"\x0c" + length + text).hex()}
        )
    refused = {
        "white space": '{"att":1,"boot":{},"idx":0,"lbl":{},"v":1, "vec":{}}',
        "another order": '{"boot":{},"att":1,"idx":0,"lbl":{},"v":1,"vec":{}}',
        "an escaped letter": '{"att":1,"boot":{},"idx":0,"lbl":{"a":"\\u0061"},"v":1,"vec":{}}',
        "a duplicate": '{"att":1,"att":1,"boot":{},"idx":0,"lbl":{},"v":1,"vec":{}}',
        "another version": '{"att":1,"boot":{},"idx":0,"lbl":{},"v":2,"vec":{}}',
        "an unknown member": '{"att":1,"boot":{},"idx":0,"lbl":{},"more":1,"v":1,"vec":{}}',
        "an unknown claim": '{"att":1,"boot":{},"idx":0,"lbl":{},"v":1,"vec":{"luck":2}}',
        "a claim out of range": '{"att":1,"boot":{},"idx":0,"lbl":{},"v":1,"vec":{"hardware":128}}',
        "no index": '{"att":1,"boot":{},"lbl":{},"v":1,"vec":{}}',
        "a fraction": '{"att":1.0,"boot":{},"idx":0,"lbl":{},"v":1,"vec":{}}',
        "a control character": '{"att":1,"boot":{},"idx":0,"lbl":{"a":"\\n"},"v":1,"vec":{}}',
        "too large": compact({**bare, "lbl": {f"label-{n}": "x" * 100 for n in range(9)}}),
    }
    return {
        "about": facts.__doc__,
        "oid": guid_oid("d3e6d8e8-579a-46ca-8eb5-2c0df0a1d846"),
        "accepted": accepted,
        "refused": [{"json": text, "why": why} for why, text in refused.items()],
    }


def guid_oid(uuid: str) -> str:
    """docs/adr/0009-object-ids.md: the arc for GUIDs, then the UUID's digits cut into 4, 4, 4, 4, 4, 6 and 6."""
    digits, arcs = uuid.replace("-", ""), []
    for size in (4, 4, 4, 4, 4, 6, 6):
        arcs.append(str(int(digits[:size], 16)))
        digits = digits[size:]
    return ".".join(("1.2.840.113556.1.8000.2554", *arcs))


def status_lists() -> Any:
    """draft-ietf-oauth-status-list, section 4: two bits an index, least significant first, ZLIB, base64url.

    The first is the draft's own example, with its value 3, which means INVALID here. How well a writer compresses is
    its own business; every reader must come to these octets.
    """
    lists = []
    for source, values, text in (
        ("the draft, section 4.1", [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3], "eNo76fITAAPfAgc"),
        ("this project", [], None),
        ("this project", [0, 0, 0, 0], None),
        ("this project", [1, 0, 0, 2], None),
        ("this project", [octet % 3 for octet in octets("statuses", 400)], None),
    ):
        packed = bytearray(len(values) // 4)
        for index, value in enumerate(values):
            packed[index // 4] |= value << 2 * (index % 4)
        encoded = text or b64url(zlib.compress(bytes(packed), 9))
        lists.append({"source": source, "values": values, "octets": packed.hex(), "lst": encoded})
    stream = zlib.compress(b"\xc9\x44\xf9", 9)
    refused = {
        "cut off": stream[:-1],
        "a wrong checksum": stream[:-1] + bytes((stream[-1] ^ 1,)),
        "something after the end": stream + b"\x00",
        "DEFLATE without ZLIB": stream[2:-4],
        "nothing": b"",
    }
    return {
        "about": status_lists.__doc__,
        "accepted": lists,
        "refused": [{"lst": b64url(data), "why": why} for why, data in refused.items()],
    }


FILES = {
    "derivations.json": derivations,
    "base64url.json": base64url,
    "signed_requests.json": signed_requests,
    "keys_and_tokens.json": keys_and_tokens,
    "facts.json": facts,
    "status_lists.json": status_lists,
}


def written(name: str) -> str:
    """The text of one file."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    differing = []
    for name in FILES:
        path, text = FOLDER / name, written(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differing.append(name)
            if arguments != ["--check"]:
                path.write_text(text, encoding="utf-8")
    print(f"{len(differing)} of {len(FILES)} files {'differ' if arguments == ['--check'] else 'written'}", *differing)
    return 1 if differing and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
