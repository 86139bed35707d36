"""Secure Boot as PCR 7 proves it: on or off, by whose keys, and which of them vouched for what was started.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52, section 3.3.4.8 (PCR 7); UEFI Specification 2.10,
section 32 (Secure Boot); shim, tpm.c and mok.c (what shim measures after the firmware).

| measured octets | when | what they say |
|---|---|---|
| UEFI_VARIABLE_DATA of SecureBoot, PK, KEK, db, dbx | before the separator | state and keys |
| the same of AuditMode, DeployedMode (PCR 1) | before that PCR's separator | the mode |
| the same with a signature for content, with or without its owner | at any time | who vouched |
| the same of SbatLevel, MokSBState, by shim | after the separator | shim's own state |
| texts of actions | at any time | debugging, DMA protection |

All or nothing: one measurement in PCR 7 of which nobody knows the octets could be any of these, so then nothing of
PCR 7 is believed. A variable measured twice before the separator is believed neither time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from attestd.tpm import uefi
from attestd.tpm.der import SEQUENCE, MalformedCertificate, children, element, shown_name
from attestd.tpm.measured import DEBUG_MODE, DMA_PROTECTION_DISABLED, Measured, Measurement, Register, Trace
from attestd.tpm.uefi import MalformedUefiStructure, SignatureList, Variable, read_signature_lists, read_variable

_CONFIGURATION_PCR: Final = 1
_POLICY_PCR: Final = 7
_MOST_KEYS: Final = 128  # in one database; real ones have up to ten
_MOST_SIGNERS: Final = 64
_MOST_SBAT: Final = 4096  # octets
_MOST_ACTIONS: Final = 16
_SHA256: Final = 32

# What shim measures of its own state, under the same vendor as its keys when they vouch (shim, mok.c).
_STATES: Final = ("SbatLevel", "MokSBState", "MokDBState", "MokListTrusted", "MokPolicy")


@dataclass(frozen=True, slots=True)
class Signer:
    """Who vouched for something that was started: where the key stood ("db", "Shim", "MokList"), and the key.

    `certificate` is the SHA-256 of the certificate, or what stood there instead of one: an image's SHA-256.
    `subject` is a name for people.
    """

    source: str
    certificate: str
    subject: str


@dataclass(frozen=True, slots=True)
class SecureBootFacts:
    """None everywhere: not proven. Digests are in hexadecimal. See `bootfacts` for each one's meaning."""

    secure_boot: bool | None = None
    setup_mode: bool | None = None
    audit_mode: bool | None = None
    deployed_mode: bool | None = None
    pk: tuple[str, ...] | None = None
    kek: tuple[str, ...] | None = None
    db: tuple[str, ...] | None = None
    db_images: tuple[str, ...] | None = None
    dbx_count: int | None = None
    dbx_digest: str | None = None
    dbx_certificates: tuple[str, ...] | None = None
    signers: tuple[Signer, ...] | None = None
    firmware_debug_mode: bool | None = None
    dma_protection_disabled: bool | None = None
    firmware_actions: tuple[str, ...] | None = None
    shim: bool | None = None
    sbat: tuple[str, ...] | None = None
    sbat_level: int | None = None
    mok_used: bool | None = None
    mok_validation_disabled: bool | None = None


def secure_boot_facts(measured: Measured, doubts: list[str]) -> SecureBootFacts:
    """What PCRs 1 and 7 prove. Reasons to doubt the log or the firmware are added to `doubts`."""
    modes = _modes(measured)
    register = measured[_POLICY_PCR]
    if register is None:
        return SecureBootFacts(**modes)
    texts: list[str] = []
    before = _explained(measured, register.before, texts)
    after = _explained(measured, register.after, texts)
    if before is None or after is None:
        doubts.append("pcr-7-unexplained")
        return SecureBootFacts(**modes)
    if len(texts) > _MOST_ACTIONS:
        doubts.append("too-many-firmware-actions")
        return SecureBootFacts(**modes)
    facts = {
        **modes,
        **_signers(before + after, doubts),
        **_shim(after),
        "firmware_debug_mode": DEBUG_MODE in texts,
        "dma_protection_disabled": DMA_PROTECTION_DISABLED in texts,
        "firmware_actions": tuple(texts),
    }
    if register.separated:
        facts |= _configuration(before, doubts)
    else:
        doubts.append("pcr-7-not-separated")
    if facts.get("secure_boot") and not facts.get("signers"):
        doubts.append("secure-boot-on-and-nobody-vouched")
    return SecureBootFacts(**facts)


def _explained(measured: Measured, measurements: list[Measurement], texts: list[str]) -> list[Variable] | None:
    """The variables among these measurements; texts of actions are added to `texts`. None: one is neither."""
    found = []
    for measurement in measurements:
        data = measurement.data
        if (action := measured.action(measurement)) is not None:
            texts.append(action)
        elif measured.proves(measurement.digest, data):
            if (variable := read_variable(data)) is not None:
                found.append(variable)
            elif data.rstrip(b"\0").isascii() and (text := data.rstrip(b"\0").decode()).isprintable():
                texts.append(uefi.printable(text, 128))
            else:
                return None
        # Shims before commit 8a27a48 measured five zeros behind the content, and logged an octet more than that.
        elif (variable := read_variable(data[:-1], padding=5)) and measured.proves(measurement.digest, data[:-1]):
            found.append(variable)
        else:
            return None
    return found


def _once(variables: list[Variable], name: str, doubts: list[str]) -> bytes | None:
    """The content of one of the firmware's own variables; None where there is none, or more than one."""
    vendors = (uefi.GLOBAL, uefi.IMAGE_SECURITY)
    found = [variable.content for variable in variables if variable.name == name and variable.vendor in vendors]
    if len(found) > 1:
        doubts.append(f"{name.lower()}-measured-twice")
    return found[0] if len(found) == 1 else None


def _configuration(variables: list[Variable], doubts: list[str]) -> dict[str, Any]:
    """State and keys, from what the firmware measured before the separator."""
    # Authorities have the names of databases, too; those of drivers come before the separator. Told by their content.
    databases = [variable for variable in variables if not _is_authority(variable)]
    facts: dict[str, Any] = {}
    state = _once(databases, "SecureBoot", doubts)
    if state in (b"", b"\0", b"\x01"):
        facts["secure_boot"] = state == b"\x01"
    for name in ("PK", "KEK", "db", "dbx"):
        content = _once(databases, name, doubts)
        if content is None:
            continue
        try:
            lists = read_signature_lists(content)
            facts |= _READ[name](lists, content)
        except MalformedUefiStructure:
            doubts.append(f"{name.lower()}-unreadable")
    return facts


def _digests(lists: list[SignatureList], *, of_images: bool = False) -> tuple[str, ...]:
    """SHA-256 over each entry's data; an image's SHA-256 stands for itself."""
    wanted = [found for found in lists if (found.kind == uefi.IMAGE_SHA256) == of_images]
    if sum(map(len, wanted)) > _MOST_KEYS:
        raise MalformedUefiStructure("A signature database holds more keys than any machine's.")
    return tuple(data.hex() if of_images else hashlib.sha256(data).hexdigest() for found in wanted for data in found)


def _pk(lists: list[SignatureList], _content: bytes) -> dict[str, Any]:
    return {"pk": _digests(lists), "setup_mode": not lists}


def _kek(lists: list[SignatureList], _content: bytes) -> dict[str, Any]:
    return {"kek": _digests(lists)}


def _db(lists: list[SignatureList], _content: bytes) -> dict[str, Any]:
    return {"db": _digests(lists), "db_images": _digests(lists, of_images=True)}


def _dbx(lists: list[SignatureList], content: bytes) -> dict[str, Any]:
    return {
        "dbx_count": sum(map(len, lists)),
        "dbx_digest": hashlib.sha256(content).hexdigest(),
        "dbx_certificates": _digests([found for found in lists if found.kind == uefi.X509]),
    }


_READ: Final = {"PK": _pk, "KEK": _kek, "db": _db, "dbx": _dbx}


def _modes(measured: Measured) -> dict[str, Any]:
    """AuditMode and DeployedMode, which some firmware measures into PCR 1 before its separator."""
    register: Register | None = measured[_CONFIGURATION_PCR]
    found: dict[str, Any] = {}
    if register is None or not register.separated:
        return found
    for measurement in register.before:
        if (mode := _mode(measured, measurement)) is not None:
            found.setdefault(*mode)
    return found


def _mode(measured: Measured, measurement: Measurement) -> tuple[str, bool] | None:
    """Which mode a measurement tells, and whether it is on."""
    variable = read_variable(measurement.data) if len(measurement.data) < 64 else None
    if (
        variable is not None
        and variable.name in _MODES
        and variable.vendor == uefi.GLOBAL
        and variable.content in (b"\0", b"\x01")
        and measured.proves(measurement.digest, measurement.data)
    ):
        return _MODES[variable.name], variable.content == b"\x01"
    return None


_MODES: Final = {"AuditMode": "audit_mode", "DeployedMode": "deployed_mode"}


# ---- Where it was measured ---------------------------------------------------------------------------------------


def trace_secure_boot(measured: Measured, facts: SecureBootFacts) -> Iterator[Trace]:
    """Which events these facts rest on, as far as they are proven."""
    register = measured[_POLICY_PCR]
    for measurement in register.all if register is not None else ():
        texts: list[str] = []
        variables = _explained(measured, [measurement], texts) or []
        given = dict(_given(variables[0], early=measurement in register.before)) if variables and register else {}
        for text in texts:
            given |= {"firmware_actions": [text]}
            given |= {_ACTIONS[text]: True} if text in _ACTIONS else {}
        for name, values in given.items():
            if (fact := getattr(facts, name)) is not None:
                for value in values if isinstance(fact, tuple) else [values]:
                    yield Trace(measurement.number, name, value)
    register = measured[_CONFIGURATION_PCR]
    for measurement in register.before if register is not None else ():
        if (mode := _mode(measured, measurement)) is not None and getattr(facts, mode[0]) is not None:
            yield Trace(measurement.number, *mode)


_ACTIONS: Final = {DEBUG_MODE: "firmware_debug_mode", DMA_PROTECTION_DISABLED: "dma_protection_disabled"}


def _given(variable: Variable, *, early: bool) -> Iterator[tuple[str, Any]]:
    """What one variable says, by itself; `early`: measured before the separator."""
    if variable.vendor == uefi.SHIM_LOCK and not early:
        yield from _shim([variable]).items()
    if variable.name in _STATES:
        return
    signers = _signers([variable], [])
    for signer in signers.get("signers", ()):
        yield "signers", [{"source": signer.source, "certificate": signer.certificate, "subject": signer.subject}]
    if early and not signers.get("signers"):
        yield from _configuration([variable], []).items()


# ---- Who vouched -------------------------------------------------------------------------------------------------


def _authority(variable: Variable) -> tuple[bytes, bool] | None:
    """The certificate or the image's digest that a variable's content is, and whether it is a certificate.

    EFI_SIGNATURE_DATA (UEFI 2.10, section 32.4.1) is an owner of 16 octets, then the signature; shim leaves owners out.
    A database has the same name as its keys when they vouch, and is made of lists.
    """
    content = variable.content
    try:
        if read_signature_lists(content):
            return None
    except MalformedUefiStructure:
        pass
    for data in (content, content[16:]):
        if data[:2] == b"\x30\x82" and len(data) == 4 + int.from_bytes(data[2:4], "big"):
            return data, True
    if len(content) in (_SHA256, 16 + _SHA256):
        return content[-_SHA256:], False
    return None


def _is_authority(variable: Variable) -> bool:
    return variable.vendor == uefi.IMAGE_SECURITY and _authority(variable) is not None


def _signers(variables: list[Variable], doubts: list[str]) -> dict[str, Any]:
    found: dict[tuple[str, str], Signer] = {}
    for variable in variables:
        if variable.vendor not in (uefi.IMAGE_SECURITY, uefi.SHIM_LOCK) or variable.name in _STATES:
            continue
        if (known := _authority(variable)) is None:
            continue
        data, certificate = known
        digest = hashlib.sha256(data).hexdigest() if certificate else data.hex()
        source = uefi.printable(variable.name, 32)
        found[source, digest] = Signer(source, digest, _subject(data) if certificate else "an image by its digest")
    if len(found) > _MOST_SIGNERS:
        doubts.append("too-many-signers")
        return {}
    return {"signers": tuple(found.values()), "mok_used": any(source == "MokList" for source, _ in found)}


@lru_cache(maxsize=64)  # of at most 64 KiB each; a fleet's signers are few
def _subject(certificate: bytes) -> str:
    """A certificate's subject for people (RFC 5280, section 4.1)."""
    try:
        parts = children(children(element(certificate))[0])
        names = [part for part in parts if part.tag == SEQUENCE]  # algorithm, issuer, validity, subject, key
        return shown_name(names[3].raw)
    except (MalformedCertificate, IndexError):
        return "an unreadable certificate"


def _shim(after: list[Variable]) -> dict[str, Any]:
    """What shim measures of its own: the SBAT level, and whether its user switched validation off."""
    own = [variable for variable in after if variable.vendor == uefi.SHIM_LOCK]
    facts: dict[str, Any] = {"shim": bool(own)}
    if not own:
        return facts
    facts["mok_validation_disabled"] = any(v.name == "MokSBState" and v.content[:1] != b"\0" for v in own)
    levels = [variable.content for variable in own if variable.name == "SbatLevel"]
    # The first: whoever comes after shim can append another, and shim's own can't be taken away.
    if levels and len(levels[0]) <= _MOST_SBAT and levels[0].isascii():
        lines = levels[0].decode().rstrip("\0").split()
        facts["sbat"] = tuple(uefi.printable(line, 128) for line in lines[:64])
        fields = lines[0].split(",") if lines else []
        if len(fields) >= 3 and fields[0] == "sbat" and fields[2].isdigit() and len(fields[2]) <= 12:
            facts["sbat_level"] = int(fields[2])
    return facts
