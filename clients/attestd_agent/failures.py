"""How a TPM's failures are named. Pure: no TPM library is needed to catch them.

Return codes: TPM 2.0 Library, Part 2, section 6.6 (TPM_RC); TSS 2.0 Overview and Common Structures, section 4 (layers).
"""

from __future__ import annotations

import os
from pathlib import Path

from attestd.errors import AttestdError, Conflict, Misconfigured, Unavailable


class TpmUnavailable(Unavailable):
    """The TPM can't be reached"""

    remedy = (
        "Check --tcti. For device:/dev/tpmrm0 the kernel must have the TPM, and this user must be in the group `tss`."
    )


class TpmFailed(Unavailable):
    """The TPM did not do what it was asked to"""

    remedy = "The agent tries again. If it stays, the TPM's return code says what is wrong."


class TpmFull(Unavailable):
    """The TPM has no room for another key or session"""

    remedy = "Another program holds objects in the TPM. Use a resource manager: --tcti device:/dev/tpmrm0."


class HierarchyLocked(Misconfigured):
    """A hierarchy of the TPM has a password that the agent does not have"""

    remedy = (
        "Clear the endorsement hierarchy's password, and clear the owner's or keep a P-256 storage root key at "
        "0x81000001."
    )


class KeysNotOfThisTpm(Conflict):
    """The stored keys can't be loaded by this TPM"""

    remedy = "The TPM was cleared or exchanged, or its storage root key was. Enroll again: `attestd-agent enroll`."


class NoEndorsementKey(Misconfigured):
    """The TPM has no endorsement key that can be used"""

    remedy = "`attestd-agent evidence` shows what the TPM has; --ek chooses among the keys of the TCG's templates."


class CertificateOfAnotherTpm(Misconfigured):
    """The EK certificate does not name a key of this TPM"""

    remedy = "Give --ek-cert the certificate that the maker issued for this very chip."


class IdentityKeyUnusable(Misconfigured):
    """The TPM has no identity key that can be used at this handle"""

    remedy = (
        "Give --iak the persistent handle of the IAK (tpm2_getcap handles-persistent), which must work without a "
        "password, and --iak-cert the certificate for this very key."
    )


class PcrsUnavailable(Misconfigured):
    """The TPM does not have the PCRs that the service asks for"""

    remedy = "Switch the bank on in the firmware's settings, or name another bank in the service's policy."


class PcrsKeepChanging(Unavailable):
    """The PCRs changed during each attempt to quote them"""

    remedy = "The agent tries again. A PCR that is extended all the time should not be in the service's policy."


# Return codes without the position of the handle, parameter or session that they complain about.
_AUTH = {0x08E, 0x0A2, 0x09D}  # AUTH_FAIL, BAD_AUTH, POLICY_FAIL
_FULL = {0x902, 0x903, 0x904, 0x905, 0x906}  # OBJECT_MEMORY, SESSION_MEMORY, MEMORY, SESSION_HANDLES, OBJECT_HANDLES
_FOREIGN = {0x08A, 0x08B, 0x09F, 0x0A5, 0x155}  # TYPE, HANDLE, INTEGRITY, BINDING, SENSITIVE: not this parent's key
# NV_RANGE, NV_LOCKED, NV_AUTHORIZATION, NV_UNINITIALIZED, AUTH_UNAVAILABLE
_UNREADABLE = {0x146, 0x148, 0x149, 0x14A, 0x12F}
_NOT_STARTED = 0x100
_TCTI_LAYER = 0x000A0000
_LAYERS = 0x00FF0000


def _plain(rc: int) -> int:
    """The error alone: format-one codes (bit 7) carry a position in bits 6 and 8 to 11."""
    return rc & 0x0BF if rc & 0x080 else rc & 0xFFF


def says_foreign_key(rc: int) -> bool:
    """TPM2_Load's way to say that a key was not made by this TPM, or not under this parent."""
    return not rc & _LAYERS and _plain(rc) in _FOREIGN


def says_locked(rc: int) -> bool:
    """The TPM wants a password, or says that it was wrong."""
    return not rc & _LAYERS and _plain(rc) in _AUTH


def says_unsupported(rc: int) -> bool:
    """The TPM itself refused, and neither for want of a password nor of room: it can't do this thing."""
    return not rc & _LAYERS and _plain(rc) not in _AUTH | _FULL | {_NOT_STARTED}


def says_unreadable(rc: int) -> bool:
    """TPM2_NV_Read's way to say that an index needs a password, is locked, or was never written."""
    return not rc & _LAYERS and _plain(rc) in _AUTH | _UNREADABLE


def named(rc: int, text: str, *, what: str, tcti: str) -> AttestdError:
    """The typed error for a return code; `what` completes "could not …", `text` is the TSS's own description."""
    seen = f"0x{rc:08x}, {text}"
    if rc & _LAYERS == _TCTI_LAYER or rc == _NOT_STARTED:
        return TpmUnavailable(f"Could not {what}: {_why_not(tcti)}", seen=seen)
    if _plain(rc) in _FULL:
        return TpmFull(f"Could not {what}: the TPM is full.", seen=seen)
    if _plain(rc) in _AUTH:
        return HierarchyLocked(f"Could not {what}: the TPM wants a password.", seen=seen, expected="none is set")
    return TpmFailed(f"Could not {what}.", seen=seen)


def _why_not(tcti: str) -> str:
    kind, _, where = tcti.partition(":")
    if kind != "device" or not where:
        return f"no TPM answers at {tcti}."
    path = Path(where)
    if not path.exists():
        return f"{path} does not exist."
    if not os.access(path, os.R_OK | os.W_OK):
        return f"this user may not read and write {path}."
    return f"{path} does not answer, or another program holds it."
