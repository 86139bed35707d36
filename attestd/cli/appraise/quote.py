"""`attestd appraise quote`: did this key quote these PCRs, in answer to this nonce?

Reads what tpm2-tools write: `tpm2_readpublic` (TPM2B_PUBLIC, TPMT_PUBLIC, PEM, DER), `tpm2_quote` (TPMS_ATTEST, and a
signature as TPMT_SIGNATURE or plain) and PCR values in the forms that `read_pcrs` lists. The verdict is about the
quote. That its key lives in a TPM, and in whose, is for enrollment to show; of a bare public key nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.appraise.verdicts import judging, read_input, tell
from attestd.cli.options import Json
from attestd.errors import EvidenceRefused, MalformedInput

if TYPE_CHECKING:
    from attestd.protocol.evidence import PcrValues
    from attestd.tpm.attest import AttestingKey, SignedQuote
    from attestd.tpm.eventlog import UnverifiedEventLog
    from attestd.tpm.objects import TpmPublic, TpmSignature

_MAX_FILE = 64 * 1024
_MAX_NONCE = 64  # octets: TPM2B_DATA holds no more than the largest digest

Selection = Sequence[tuple[str, tuple[int, ...]]]


class NonceUnreadable(MalformedInput):
    """This is not a nonce"""

    remedy = "Write it in hexadecimal digits, as `tpm2_quote -q` takes it."


class KeyUnreadable(MalformedInput):
    """This is not an attestation key"""

    remedy = "Use the output of `tpm2_readpublic -o FILE`, or a public key in PEM or DER."


class PcrsUnreadable(MalformedInput):
    """These are not PCR values"""

    remedy = 'Use the output of `tpm2_quote -o`, of `tpm2_pcrread`, or JSON like {"sha256": {"0": "…"}}.'


def quote(
    ak: Annotated[Path, typer.Option(help="The attestation key: by tpm2_readpublic, or a public key in PEM or DER.")],
    quote: Annotated[Path, typer.Option(help="The quote: what `tpm2_quote -m` writes.")],
    signature: Annotated[Path, typer.Option(help="Its signature: what `tpm2_quote -s` writes.")],
    nonce: Annotated[str | None, typer.Option(metavar="HEX", help="What was asked: `tpm2_quote -q`.")] = None,
    pcrs: Annotated[Path | None, typer.Option(help="The values of the quoted PCRs.")] = None,
    eventlog: Annotated[
        Path | None, typer.Option(help="The firmware's event log: it must replay to the quoted PCRs.")
    ] = None,
    allow_sha1: Annotated[bool, typer.Option("--allow-sha1", help="Take SHA-1 PCR banks for evidence.")] = False,
    as_json: Json = False,
) -> None:
    """Judge a quote: its signature, and its nonce, PCR values and event log where they are given.

    Exit code 0: all that was given fits. 1: it does not, or the key may sign what no TPM said. 2: the input can't be
    used. Without --nonce the quote may be an old one, and the verdict says so.
    """
    from attestd.tpm.activation import vet_ak
    from attestd.tpm.attest import (
        AttestingKey,
        NonceMismatch,
        NothingSelected,
        Sha1BankRefused,
        verify_signed_quote,
    )
    from attestd.tpm.bootfacts import unquoted_facts
    from attestd.tpm.eventlog import MAX_OCTETS, parse_event_log
    from attestd.tpm.firmware import read_quoted
    from attestd.tpm.replay import match_values

    with judging(as_json=as_json):
        key = _read_key(read_input(ak, limit=_MAX_FILE))
        wanted = _read_nonce(nonce)
        attest = _unwrapped(read_input(quote, limit=_MAX_FILE))
        signed_by = read_input(signature, limit=_MAX_FILE)
        values = None if pcrs is None else read_input(pcrs, limit=_MAX_FILE)
        log = None if eventlog is None else parse_event_log(read_input(eventlog, limit=MAX_OCTETS))
        document: dict[str, Any] = {"verdict": "bad", "nonce_checked": False, "pcrs": None}
        try:
            # 1. The key is one that signs what the TPM itself composed, if its attributes are known.
            public = None if isinstance(key, AttestingKey) else vet_ak(key.area).public
            by = key if isinstance(key, AttestingKey) else AttestingKey.of(key)
            # 2. It signed this quote.
            signed = verify_signed_quote(by, attest=attest, signature=_read_signature(signed_by, by))
            document |= _said(signed)
            # 3. In answer to this nonce.
            if wanted is not None:
                if not wanted or signed.quote.extra_data != wanted:
                    raise NonceMismatch(seen=signed.quote.extra_data.hex() or "nothing", expected=wanted.hex() or "one")
                document["nonce_checked"] = True
            # 4. Over PCRs of a bank that is worth something. What SHA-1 banks say beside others is no evidence.
            banks = {bank for bank, indices in signed.quote.selection if indices}
            if not banks:
                raise NothingSelected(seen="a quote over no PCR")
            if banks == {"sha1"} and not allow_sha1:
                raise Sha1BankRefused
            # 5. With these values; without any, those that the log replays to must be the quoted ones.
            matched: PcrValues | None = None
            if values is not None:
                matched = signed.match(read_pcrs(values, signed.quote.selection))
            elif log is not None:
                matched = signed.match(_replayed(log, signed.quote.selection))
            if matched is not None:
                matched = {bank: each for bank, each in matched.items() if bank != "sha1" or allow_sha1}
                document["pcrs"] = {
                    bank: {str(index): value.hex() for index, value in each.items()} for bank, each in matched.items()
                }
            # 6. The log replays to them, and says what was booted.
            if log is not None and matched is not None:
                facts = unquoted_facts(log, match_values(log, matched))
                document["facts"] = None if facts is None else facts.to_members()
        except EvidenceRefused as refusal:
            tell(document, as_json=as_json, text=f"bad: {refusal.detail}", refusal=refusal)
            return
        firmware = public and read_quoted(
            signed.quote.firmware_version, qualified_signer=signed.quote.qualified_signer, ak=public
        )
        document |= {"verdict": "good", "firmware": str(firmware) if firmware else None}
        tell(document, as_json=as_json, text=_text(document, bare=public is None, sha1_counts=allow_sha1))


def _replayed(log: UnverifiedEventLog, selection: Selection) -> PcrValues:
    """What the log says that the quoted PCRs hold; the quote's digest decides whether that is so.

    A PCR that the log has no events of is as it is after a reset: zeros.
    """
    from attestd.protocol.evidence import BANKS
    from attestd.tpm.replay import replay

    found = replay(log)
    return {
        bank: {index: found.get(bank, {}).get(index, bytes(BANKS[bank])) for index in indices}
        for bank, indices in selection
    }


# ---- Reading ----------------------------------------------------------------------------------------------------


def _read_nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        octets = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        octets = b"\0" * (_MAX_NONCE + 1)
    if len(octets) > _MAX_NONCE:
        raise NonceUnreadable(seen=ascii(text[:80]), expected=f"at most {_MAX_NONCE} octets in hexadecimal")
    return octets


def _unwrapped(attest: bytes) -> bytes:
    """A TPMS_ATTEST, also out of a TPM2B_ATTEST; which of the two it is, its magic tells."""
    sized = len(attest) > 2 and len(attest) == 2 + int.from_bytes(attest[:2], "big")
    return attest[2:] if sized and attest[2:6] == b"\xffTCG" else attest


def _read_key(data: bytes) -> TpmPublic | AttestingKey:
    """A public area, or a bare key in PEM or DER. Raises KeyUnreadable, or what reading a public area raises."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

    from attestd.tpm.attest import AttestingKey
    from attestd.tpm.objects import parse_public

    if data.startswith((b"-----BEGIN", b"\x30")):
        try:
            key = load_pem_public_key(data) if data.startswith(b"-") else load_der_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as refusal:
            raise KeyUnreadable(seen=str(refusal)[:120]) from None
        if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            return AttestingKey(key, None, None)
        raise KeyUnreadable("This key is of another kind.", seen=type(key).__name__, expected="RSA or ECDSA")
    if len(data) > 2 and len(data) == 2 + int.from_bytes(data[:2], "big"):
        return parse_public(data[2:])  # TPM2B_PUBLIC
    return parse_public(data)


def _read_signature(data: bytes, by: AttestingKey) -> TpmSignature:
    """A TPMT_SIGNATURE, or the plain octets of one by the key's scheme; a bare key's are by RSASSA or ECDSA with
    SHA-256, which is what `tpm2_quote` makes unless told otherwise."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    from attestd.tpm.objects import HASHES, Alg, TpmSignature, parse_signature

    digest = by.hash or HASHES[Alg.SHA256]
    if isinstance(by.key, rsa.RSAPublicKey):
        if len(data) == (by.key.key_size + 7) // 8:
            return TpmSignature(by.scheme or Alg.RSASSA, digest, value=data)
    elif data.startswith(b"\x30"):  # no TPM_ALG_ID begins so
        try:
            r, s = decode_dss_signature(data)
        except ValueError as refusal:
            raise MalformedInput("This is not an ECDSA signature.", seen=str(refusal)[:120]) from None
        return TpmSignature(by.scheme or Alg.ECDSA, digest, r=r, s=s)
    return parse_signature(data)


def read_pcrs(data: bytes, selection: Selection) -> PcrValues:
    """PCR values in any of four forms; `selection` is the quote's, in its order.

    JSON as elsewhere in attestd (`{"sha256": {"0": "…"}}`); what `tpm2_pcrread` prints; the digests one after another,
    as `tpm2_pcrread -o` and `tpm2_quote -F values -o` write them; and the structures of `tpm2_quote -o`.
    """
    from attestd.cli.appraise.pcrs import parse_pcrs

    text = data.lstrip()
    if text.startswith(b"{") or re.match(rb"(---|pcrs|selected_pcrs|sha\d+)\s*:?", text):
        return parse_pcrs(data)
    sizes = [(bank, index, _size(bank)) for bank, indices in selection for index in indices]
    if len(data) == sum(size for _, _, size in sizes):
        found: dict[str, dict[int, bytes]] = {}
        at = 0
        for bank, index, size in sizes:
            found.setdefault(bank, {})[index] = data[at : at + size]
            at += size
        return found
    return _from_structures(data)


def _size(bank: str) -> int:
    from attestd.protocol.evidence import BANKS

    return BANKS[bank]


def _from_structures(data: bytes) -> PcrValues:
    """tpm2-tools' own: TPML_PCR_SELECTION, a count, and TPML_DIGESTs, as C lays them out on a little-endian machine.

    tpm2-tools 5, lib/files.c and tools/tpm2_quote.c; sizes are those of tpm2-tss's tss2_tpm2_types.h.
    """
    from attestd.tpm.objects import HASHES

    names = {int(alg): found.name for alg, found in HASHES.items()}
    banks, at = _word(data, 0), 4 + 16 * 8
    lists = _word(data, at)
    if banks > 16 or lists > 64 or len(data) != at + 4 + lists * _LIST:
        raise PcrsUnreadable(seen=f"{len(data)} octets")
    digests = []
    for number in range(lists):
        begin = at + 4 + number * _LIST
        count = _word(data, begin)
        if count > 8:
            raise PcrsUnreadable(seen=f"{count} digests in a list")
        for place in range(count):
            entry = begin + 4 + place * _DIGEST
            size = int.from_bytes(data[entry : entry + 2], "little")
            digests.append(data[entry + 2 : entry + 2 + min(size, 64)])
    found: dict[str, dict[int, bytes]] = {}
    for number in range(banks):
        entry = 4 + 8 * number
        bank = names.get(int.from_bytes(data[entry : entry + 2], "little"), "")
        bits = int.from_bytes(data[entry + 3 : entry + 3 + min(data[entry + 2], 4)], "little")
        for index in range(bits.bit_length()):
            if bits >> index & 1:
                if not bank or not digests:
                    raise PcrsUnreadable("The file holds fewer values than it names PCRs.")
                found.setdefault(bank, {})[index] = digests.pop(0)
    return found


_DIGEST = 2 + 64  # TPM2B_DIGEST
_LIST = 4 + 8 * _DIGEST  # TPML_DIGEST


def _word(data: bytes, at: int) -> int:
    if len(data) < at + 4:
        raise PcrsUnreadable(seen=f"{len(data)} octets")
    return int.from_bytes(data[at : at + 4], "little")


# ---- Telling ----------------------------------------------------------------------------------------------------


def _said(signed: SignedQuote) -> dict[str, Any]:
    """What the key signed."""
    quote = signed.quote
    return {
        "nonce": quote.extra_data.hex(),
        "selection": {bank: list(indices) for bank, indices in quote.selection},
        "pcr_digest": quote.digest.hex(),
        "qualified_signer": quote.qualified_signer.hex(),
        "clock": {
            "clock": quote.clock.clock,
            "reset_count": quote.clock.reset_count,
            "restart_count": quote.clock.restart_count,
            "safe": quote.clock.safe,
        },
    }


def _text(document: dict[str, Any], *, bare: bool, sha1_counts: bool) -> str:
    lines = ["good: this key signed this quote"]
    lines.append(
        f"  nonce       {document['nonce'] or 'none'}, "
        + ("as it was asked" if document["nonce_checked"] else "not compared with anything: it may be an old quote")
    )
    for bank, indices in document["selection"].items():
        worth = ", which is no evidence" if bank == "sha1" and not sha1_counts else ""
        lines.append(f"  {bank:<10}  PCRs {', '.join(map(str, indices))}{worth}")
    lines.append("  values      " + ("as quoted" if document["pcrs"] is not None else "not given, so not compared"))
    if bare:
        lines.append("  key         a bare public key: nothing shows that a TPM holds it, or what else it signs")
    return "\n".join(lines)
