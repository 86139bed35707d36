"""What a TPM states under its own name: `TPMS_ATTEST`, of a certified key or of quoted PCRs, parsed whole or refused.

TPM 2.0 Library, Part 2: Structures, revision 1.59: sections 10.12.12 (TPMS_ATTEST), 10.12.3 (TPMS_CERTIFY_INFO),
10.12.4 (TPMS_QUOTE_INFO), 10.11.1 (TPMS_CLOCK_INFO), 10.9.7 and 10.6.2 (PCR selections).

Nothing here is proven: anybody can write these octets. `attest` checks who signed them, and for which challenge.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from attestd.errors import EvidenceRefused
from attestd.tpm.objects import read_hash, read_name
from attestd.tpm.wire import MalformedTpmStructure, Reader

TPM_GENERATED = 0xFF544347  # "\xffTCG" (Part 2, section 6.2)
ATTEST_CERTIFY = 0x8017  # TPM_ST_ATTEST_CERTIFY and …_QUOTE (Part 2, section 6.9)
ATTEST_QUOTE = 0x8018

_MAX_DATA = 2 + 64  # TPM2B_DATA holds at most a TPMT_HA (Part 2, section 10.4.3)
_MAX_DIGEST = 64  # TPM2B_DIGEST (Part 2, section 10.4.2)
_MAX_SELECTIONS = 16  # TPML_PCR_SELECTION has one entry for each hash that a TPM implements
_MAX_SELECT = 4  # octets of one bitmap: 32 PCRs, more than any platform has (Part 2, section 10.6.1)
_HEAD = Struct(">IH")  # magic and type
_CLOCK = Struct(">QIIBQ")  # clock, resetCount, restartCount, safe; then TPMS_ATTEST's firmwareVersion


class NotMadeByTpm(EvidenceRefused):
    """The attestation was not composed by a TPM"""


class AttestationTypeWrong(EvidenceRefused):
    """The attestation is of another type"""

    remedy = "Send TPM2_Certify's attestation for a key, and TPM2_Quote's for PCRs."


class ClockInfo(NamedTuple):
    """TPMS_CLOCK_INFO: milliseconds of power-on time and the counts that tell one boot from the next.

    AKs outside the endorsement and platform hierarchies see the counts (and the firmware version) obfuscated: these
    then compare for equality within one AK only. `safe` is false where the TPM may have shown this `clock` before.
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


class Certification(NamedTuple):
    """TPM2_Certify's: an object with this Name is loaded in the TPM.

    The first four are those of every TPMS_ATTEST; `extra_data` is what the caller gave the TPM as qualifyingData.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    certified_name: bytes


class Quote(NamedTuple):
    """TPM2_Quote's: `selection` has the banks in the order in which they were digested, each one's PCRs ascending.

    The first four are those of every TPMS_ATTEST; `extra_data` is what the caller gave the TPM as qualifyingData.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    selection: tuple[tuple[str, tuple[int, ...]], ...]
    digest: bytes


def parse_certification(attest: bytes) -> Certification:
    """Reads a TPMS_ATTEST of TPM2_Certify.

    Raises MalformedTpmStructure, NotMadeByTpm or AttestationTypeWrong.
    """
    reader = Reader(attest, "certification")
    common = _read_common(reader, ATTEST_CERTIFY)
    certified_name = read_name(reader)
    read_name(reader)  # the qualified Name: only who knows every parent could check it
    reader.done()
    return Certification(*common, certified_name)


def parse_quote(attest: bytes) -> Quote:
    """Reads a TPMS_ATTEST of TPM2_Quote.

    Raises MalformedTpmStructure, NotMadeByTpm or AttestationTypeWrong.
    """
    reader = Reader(attest, "quote")
    common = _read_common(reader, ATTEST_QUOTE)
    selection = _read_selection(reader)
    digest = reader.sized(_MAX_DIGEST)
    reader.done()
    return Quote(*common, selection, digest)


def _read_common(reader: Reader, wanted: int) -> tuple[bytes, bytes, ClockInfo, int]:
    """TPMS_ATTEST up to its union. The magic comes first: a restricted key signs it for its own TPM only."""
    magic, kind = reader.unpack(_HEAD)
    if magic != TPM_GENERATED:
        raise NotMadeByTpm(seen=f"0x{magic:08x}", expected=f"0x{TPM_GENERATED:08x}")
    if kind != wanted:
        raise AttestationTypeWrong(seen=f"0x{kind:04x}", expected=f"0x{wanted:04x}")
    qualified_signer = read_name(reader)
    extra_data = reader.sized(_MAX_DATA)
    clock, reset_count, restart_count, safe, firmware_version = reader.unpack(_CLOCK)
    if safe > 1:
        raise MalformedTpmStructure("The clock's `safe` is neither yes nor no.", seen=safe, expected="0 or 1")
    return qualified_signer, extra_data, ClockInfo(clock, reset_count, restart_count, safe == 1), firmware_version


def _read_selection(reader: Reader) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """TPML_PCR_SELECTION.

    Two entries for one bank are refused: as a mapping they would stand for something else than what was digested.
    """
    count = reader.u32()
    if count > _MAX_SELECTIONS:
        raise MalformedTpmStructure(
            "The quote selects too many banks.", seen=count, expected=f"at most {_MAX_SELECTIONS}"
        )
    found: dict[str, tuple[int, ...]] = {}
    for _ in range(count):
        bank = read_hash(reader, "quote's PCR bank").name
        size = reader.u8()
        if size > _MAX_SELECT:
            raise MalformedTpmStructure(
                "A PCR selection is too large.", seen=f"{size} octets", expected=f"at most {_MAX_SELECT}"
            )
        if bank in found:
            raise MalformedTpmStructure("The quote selects one bank twice.", seen=bank)
        bits = int.from_bytes(reader.take(size), "little")  # the first octet holds PCRs 0 to 7, lowest bit first
        found[bank] = tuple([index for index in range(bits.bit_length()) if bits >> index & 1])
    return tuple(found.items())
