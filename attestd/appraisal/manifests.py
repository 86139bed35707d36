"""Reference manifests: what operators say is good, for which devices, and what that means for now (docs/adr/0025).

A manifest is an object, written by people in TOML and kept as canonical JSON (sorted, compact), whose SHA-256 names it:

    name = "bike-4"                          # several versions may be in force at once, for an update
    stage = "enforce"                        # learn, monitor or enforce
    not_before = 2026-11-01T00:00:00Z        # both optional; in JSON unix seconds
    not_after = 2027-05-01T00:00:00Z

    [match]                                  # all that is given must hold; nothing: every device
    tier = "device"
    labels = { model = "bike-4", ring = "canary" }
    manufacturer = "INFINEON"                # the TPM's
    tpm_model = "SLB9670"

    [pcrs.sha256]                            # index -> the values that are good
    0 = ["<hex>", "<hex>"]

    [boot]                                   # fact -> the values that are good (docs/measured-boot.md)
    secure_boot = true
    loaders = ["<hex>", "<hex>"]             # of a list, every element must be among these
    sbat_level = { at_least = 2023012900 }
    doubts = []                              # which are tolerated; none, if it is left out

    [runtime]                                # what may run after the boot (`runtimesection`, docs/ima.md)

A manifest that speaks of what runs must say which boot is good, too: the list of what ran is the booted kernel's word.

A manifest without a section that says what is good is refused: it would affirm whatever it is compared with.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from attestd.appraisal.runtimepolicy import RuntimePolicy
from attestd.appraisal.runtimesection import parse_runtime
from attestd.credentials.facts import LABEL_NAME, MAX_LABEL
from attestd.errors import InputTooLarge, MalformedInput
from attestd.ids import Tier
from attestd.protocol.encoding import Members, read_object, write_object
from attestd.protocol.evidence import BANKS

MAX_MANIFEST: Final = 16 * 1024 * 1024  # octets, of either form
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}", re.ASCII)
_FACT: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
MAX_VALUES: Final = 4096  # good values of one PCR or fact
_MAX_FACTS: Final = 128
MAX_TEXT: Final = 4096  # characters of one value: a kernel's command line
_MAX_TIME: Final = 1 << 40
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NUMBER: Final = (1 << 63) - 1  # a number of TOML has 64 bits

FactValue = str | bool | int


class ManifestInvalid(MalformedInput):
    """The reference manifest can't be used"""

    remedy = "Correct the named member; docs/references.md shows a whole manifest."


class Stage(StrEnum):
    """What a manifest is for, now."""

    LEARN = "learn"  # a draft: collects, and is compared with nothing
    MONITOR = "monitor"  # says what it would refuse
    ENFORCE = "enforce"  # decides


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is appraised, by the registry's and the endorsement's word. `tier` is None for a device that waits."""

    tier: Tier | None
    labels: Mapping[str, str]
    manufacturer: str
    model: str


@dataclass(frozen=True, slots=True)
class Match:
    """Which devices a manifest is for; None and no labels: any."""

    tier: Tier | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    manufacturer: str | None = None
    model: str | None = None

    def fits(self, subject: Subject) -> bool:
        """Whether this subject is among them."""
        return (
            (self.tier is None or self.tier is subject.tier)
            and (self.manufacturer is None or self.manufacturer == subject.manufacturer)
            and (self.model is None or self.model == subject.model)
            and all(subject.labels.get(name) == value for name, value in self.labels.items())
        )


@dataclass(frozen=True, slots=True)
class Good:
    """The good values of one fact: one of `values`, or a number of `at_least` so much. Of a list, each element."""

    values: frozenset[tuple[type, FactValue]]  # with their types: True, 1 and 1.0 are equal in Python
    at_least: int | None = None

    def covers(self, value: FactValue) -> bool:
        """Whether this value is good."""
        if self.at_least is not None:
            return type(value) is int and value >= self.at_least
        return (type(value), value) in self.values


@dataclass(frozen=True, slots=True)
class ReferenceManifest:
    """One manifest, checked whole. `document` is its canonical JSON, `digest` that one's SHA-256 in hexadecimal."""

    name: str
    stage: Stage
    not_before: int | None  # unix seconds, both inclusive
    not_after: int | None
    match: Match
    pcrs: Mapping[str, Mapping[int, frozenset[bytes]]]
    boot: Mapping[str, Good]
    runtime: RuntimePolicy | None
    document: bytes
    digest: str

    @property
    def policy_id(self) -> str:
        """How results name it."""
        return f"{self.name}@sha256:{self.digest}"

    def applies(self, subject: Subject, at: int) -> bool:
        """Whether it speaks of this subject at this time (unix seconds)."""
        return (
            (self.not_before is None or self.not_before <= at)
            and (self.not_after is None or at <= self.not_after)
            and self.match.fits(subject)
        )

    def at_stage(self, stage: Stage) -> ReferenceManifest:
        """The same references, for something else."""
        return self.from_members({**read_object(self.document, limit=MAX_MANIFEST), "stage": stage.value})

    @classmethod
    def from_toml(cls, data: bytes) -> Self:
        """As people write it. Raises ManifestInvalid, InputTooLarge."""
        if len(data) > MAX_MANIFEST:
            raise InputTooLarge("The manifest is too large.", seen=len(data), expected=f"at most {MAX_MANIFEST} octets")
        try:
            members = tomllib.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # one of them: a number too long for Python to read
            raise ManifestInvalid("The manifest is not TOML.", seen=str(error)[:200]) from None
        for name in ("not_before", "not_after"):
            if isinstance(moment := members.get(name), datetime):
                if moment.tzinfo is None:
                    raise ManifestInvalid(f"{name} has no time zone.", seen=moment, expected="2026-11-01T00:00:00Z")
                members[name] = int((moment - _EPOCH).total_seconds())
        return cls.from_members(members)

    @classmethod
    def of_pcrs(cls, name: str, pcrs: Mapping[str, Mapping[int, tuple[bytes, ...]]], tier: Tier | None) -> Self:
        """One that decides by PCR values alone, as attestd.toml holds them."""
        match = {} if tier is None else {"tier": tier.value}
        good = {
            bank: {str(index): [value.hex() for value in each] for index, each in values.items()}
            for bank, values in pcrs.items()
        }
        return cls.from_members({"name": name, "stage": Stage.ENFORCE.value, "match": match, "pcrs": good})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """As it is kept, or as a program sends it. Raises ManifestInvalid, MalformedInput, InputTooLarge."""
        return cls.from_members(read_object(data, limit=MAX_MANIFEST, name="manifest"))

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        """Raises ManifestInvalid, MalformedInput, InputTooLarge."""
        reader = Members(members, "manifest")
        name = reader.text("name", limit=63)
        if not _NAME.fullmatch(name):
            raise ManifestInvalid(
                "name is not a manifest's.", seen=repr(name), expected="letters, digits, spaces, . _ -"
            )
        stage = _stage(reader.text("stage", limit=16))
        begins, ends = (_time(reader, which) for which in ("not_before", "not_after"))
        if begins is not None and ends is not None and begins > ends:
            raise ManifestInvalid("It would end before it begins.", seen=ends, expected=f"at least {begins}")
        match = read_match(reader.object("match")) if "match" in reader else Match()
        pcrs = _pcrs(reader.object("pcrs")) if "pcrs" in reader else {}
        boot = _boot(reader.object("boot")) if "boot" in reader else {}
        runtime = None
        if "runtime" in reader:
            section = reader.object("runtime")
            runtime = parse_runtime(section)
        reader.done()
        if runtime is not None and not pcrs and not boot:
            raise ManifestInvalid("runtime rests on the kernel that was booted.", expected="pcrs or boot beside it")
        if stage is not Stage.LEARN and not pcrs and not boot:
            raise ManifestInvalid("The manifest says nothing about what is good.", expected="pcrs or boot")
        document = write_object(members)
        return cls(
            name=name,
            stage=stage,
            not_before=begins,
            not_after=ends,
            match=match,
            pcrs=MappingProxyType(pcrs),
            boot=MappingProxyType(boot),
            runtime=runtime,
            document=document,
            digest=hashlib.sha256(document).hexdigest(),
        )


# ---- Members ----------------------------------------------------------------------------------------------------


def _stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        raise ManifestInvalid("This is not a stage.", seen=repr(text), expected=", ".join(Stage)) from None


def _time(reader: Members, name: str) -> int | None:
    if name not in reader:
        return None
    if not 0 < (value := reader.integer(name)) < _MAX_TIME:
        raise ManifestInvalid(f"{name} is not a time.", seen=value, expected="unix seconds")
    return value


def read_match(members: Members) -> Match:
    """A section `match`. Raises ManifestInvalid, MalformedInput."""
    tier = Tier.parse(members.text("tier", limit=16)) if "tier" in members else None
    labels: dict[str, str] = {}
    for name, value in members.object("labels").items() if "labels" in members else ():
        if not LABEL_NAME.fullmatch(name) or not isinstance(value, str) or len(value) > MAX_LABEL:
            raise ManifestInvalid("match.labels holds what no label is.", seen=repr(name[:70]))
        labels[name] = value
    manufacturer = members.text("manufacturer", limit=64) if "manufacturer" in members else None
    model = members.text("tpm_model", limit=64) if "tpm_model" in members else None
    members.done()
    return Match(tier, MappingProxyType(labels), manufacturer, model)


def _pcrs(members: Members) -> dict[str, Mapping[int, frozenset[bytes]]]:
    banks: dict[str, Mapping[int, frozenset[bytes]]] = {}
    for bank, values in members.items():
        if bank not in BANKS:
            raise ManifestInvalid("This is not a PCR bank.", seen=repr(bank[:20]), expected=", ".join(BANKS))
        if not isinstance(values, dict) or not values:
            raise ManifestInvalid(f"pcrs.{bank} names no PCR.", expected="index = [values]")
        found: dict[int, frozenset[bytes]] = {}
        for index, good in values.items():
            if not (index.isascii() and index.isdigit() and str(int(index[:3])) == index and int(index) < 24):
                raise ManifestInvalid("This is not a PCR index.", seen=repr(index[:20]), expected="0 to 23")
            found[int(index)] = frozenset(
                _digest(value, BANKS[bank], f"pcrs.{bank}.{index}") for value in _list(good, f"pcrs.{bank}.{index}")
            )
        banks[bank] = MappingProxyType(found)
    return banks


def _boot(members: Members) -> dict[str, Good]:
    facts: dict[str, Good] = {}
    for name, said in members.items():
        where = f"boot.{name[:70]}"
        if not _FACT.fullmatch(name) or len(facts) == _MAX_FACTS:
            raise ManifestInvalid("This is not a fact, or one too many.", seen=repr(name[:70]))
        if isinstance(said, dict):
            condition = Members(said, where)
            facts[name] = Good(frozenset(), at_least=_number(condition.integer("at_least"), where))
            condition.done()
            continue
        values = _list(said, where, least=0 if name == "doubts" else 1) if isinstance(said, list) else [said]
        facts[name] = Good(frozenset((type(value), _fact(value, where)) for value in values))
    return facts


def _list(value: Any, where: str, *, least: int = 1) -> list[Any]:
    """Good values. None at all would refuse every device, or, elsewhere, none."""
    if not isinstance(value, list) or not least <= len(value) <= MAX_VALUES:
        raise ManifestInvalid(f"{where} is not a list of good values.", expected=f"{least} to {MAX_VALUES} values")
    return value


def _digest(value: Any, size: int, where: str) -> bytes:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) and len(value) == 2 * size else b""
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise ManifestInvalid(f"{where} holds no digest.", seen=repr(value)[:80], expected=f"{2 * size} hex digits")
    return digest


def _fact(value: Any, where: str) -> FactValue:
    if type(value) not in (str, bool, int) or (isinstance(value, str) and len(value) > MAX_TEXT):
        raise ManifestInvalid(f"{where} holds what is no fact's value.", seen=repr(value)[:80])
    return _number(value, where) if type(value) is int else value


def _number(value: int, where: str) -> int:
    if abs(value) > _MAX_NUMBER:
        raise ManifestInvalid(f"{where} holds a number that is too large.", expected=f"at most {_MAX_NUMBER}")
    return value
