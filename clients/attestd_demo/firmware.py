"""The story's firmware: what it measures into a software TPM when a machine boots, and the log that it keeps of it.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52: section 9.2.2 (crypto-agile records), 9.4.5.1 (the
first record) and 10.4.1 (types of events). TPM 2.0 Library, Part 3, section 22.2 (TPM2_PCR_Extend). A software TPM has
no firmware of its own, so PCRs stay zero until somebody plays it.
"""

from __future__ import annotations

import hashlib
import socket
import struct
from dataclasses import dataclass
from typing import Final

from attestd.errors import Unavailable

_NO_ACTION, _SEPARATOR, _CRTM_VERSION = 0x3, 0x4, 0x8
_VARIABLE, _APPLICATION, _AUTHORITY = 0x80000001, 0x80000003, 0x800000E0
_SHA256: Final = 0x000B
# GUIDs as they lie in memory: EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, EFI_CERT_X509, and an owner of keys.
_GLOBAL: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_IMAGES: Final = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
_X509: Final = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")
_OWNER: Final = b"attestd demo key"
_MAX_ANSWER: Final = 4096


class TpmRefused(Unavailable):
    """The software TPM refuses a measurement"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One event: what is extended is the SHA-256 of `octets`, what the log shows is `shown`."""

    pcr: int
    type: int
    shown: bytes
    octets: bytes


def boot(kernel: bytes, vendor: bytes) -> list[Measured]:
    """A boot with Secure Boot on, up to this kernel, which the vendor's certificate (DER) vouches for."""
    version = "demo 1.0\0".encode("utf-16-le")
    events = [Measured(0, _CRTM_VERSION, version, version)]
    keys = _signature_list(vendor)
    variables = [("SecureBoot", b"\x01"), ("PK", keys), ("KEK", keys), ("db", keys), ("dbx", b"")]
    for name, content in variables:
        shown = _variable(_IMAGES if name.startswith("db") else _GLOBAL, name, content)
        events.append(Measured(7, _VARIABLE, shown, shown))
    events += [Measured(pcr, _SEPARATOR, bytes(4), bytes(4)) for pcr in range(8)]
    vouched = _variable(_IMAGES, "db", _OWNER + vendor)
    events.append(Measured(7, _AUTHORITY, vouched, vouched))
    events.append(Measured(4, _APPLICATION, _image(), kernel))
    return events


def _variable(vendor: bytes, name: str, content: bytes) -> bytes:
    """UEFI_VARIABLE_DATA (section 10.2.6)."""
    written = name.encode("utf-16-le")
    return vendor + struct.pack("<QQ", len(name), len(content)) + written + content


def _signature_list(certificate: bytes) -> bytes:
    """EFI_SIGNATURE_LIST of one X.509 certificate (UEFI 2.10, section 32.4.1)."""
    each = len(_OWNER) + len(certificate)
    return _X509 + struct.pack("<III", 28 + each, 0, each) + _OWNER + certificate


def _image() -> bytes:
    """UEFI_IMAGE_LOAD_EVENT (section 10.2.3) with no device path but its end."""
    end = b"\x7f\xff\x04\x00"
    return struct.pack("<QQQQ", 0, 0, 0, len(end)) + end


def write_log(events: list[Measured]) -> bytes:
    """The crypto-agile log of SHA-256 digests."""
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HHB", _SHA256, 32, 0)
    log = struct.pack("<II20sI", 0, _NO_ACTION, bytes(20), len(head)) + head
    for event in events:
        digest = hashlib.sha256(event.octets).digest()
        log += struct.pack("<IIIH", event.pcr, event.type, 1, _SHA256) + digest
        log += struct.pack("<I", len(event.shown)) + event.shown
    return log


def measure(path: str, events: list[Measured]) -> None:
    """Extends a software TPM, which listens at this socket, event by event. Raises TpmRefused."""
    with socket.socket(socket.AF_UNIX) as tpm:
        tpm.connect(path)
        for event in events:
            tpm.sendall(_extend(event.pcr, hashlib.sha256(event.octets).digest()))
            answer = tpm.recv(_MAX_ANSWER)
            if answer[6:10] != bytes(4):
                raise TpmRefused(seen=answer.hex(), expected="TPM_RC_SUCCESS")


def _extend(pcr: int, digest: bytes) -> bytes:
    """TPM2_PCR_Extend of one SHA-256 digest, with the empty password."""
    password = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    body = struct.pack(">I", pcr) + struct.pack(">I", len(password)) + password
    body += struct.pack(">IH", 1, _SHA256) + digest
    return struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body
