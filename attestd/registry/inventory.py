"""The inventory file: which EKs may enroll as what. Pure: octets in, entries out, or every error with its line.

CSV with a header, or JSON Lines; the first character tells which. Columns (members) are `ek_hash`, `tier`, `site`,
and if wanted `serial_number`, `id` and `labels`. In CSV `labels` reads `name=value;name=value`, and a column named
`label.NAME` holds that one label; in JSON `labels` is an object. A record never spans lines.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from attestd.credentials.facts import LABEL_NAME
from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.ids import DeviceId, EkHash, MalformedName, Site, Tier
from attestd.protocol.encoding import read_object
from attestd.registry.labels import MalformedLabels, parse_labels

MAX_FILE = 64 * 1024 * 1024  # octets
MAX_LINE = 8192  # octets
MAX_ERRORS = 100
_MAX_SERIAL_NUMBER = 64

_REQUIRED = ("ek_hash", "tier", "site")
_COLUMNS = (*_REQUIRED, "serial_number", "id", "labels")
_LABEL = "label."

_T = TypeVar("_T")


class InventoryInvalid(MalformedInput):
    """The inventory has errors"""

    remedy = "Nothing was imported. Correct the named lines, then import the whole file again."

    def __init__(self, errors: list[tuple[int, str]], *, more: bool) -> None:
        """`errors` are (line number, what is wrong) in order; `more`: reading ended before the file did."""
        self.errors = tuple(errors)
        self.more = more
        shown = "; ".join(f"line {line}: {what}" for line, what in self.errors[:5])
        super().__init__(f"The inventory's errors ({len(errors)}{' or more' if more else ''}): {shown}")


class InventoryEmpty(MalformedInput):
    """The inventory names no device"""

    remedy = "Give a file with a header and at least one line (CSV), or at least one object (JSON Lines)."


class InventoryTooLarge(InputTooLarge):
    """The inventory file is too large"""

    remedy = "Split the file; each part is imported whole or not at all."


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """One device that may enroll. `device_id` None: the registry makes one up."""

    line: int
    ek_hash: EkHash = field(repr=False)
    tier: Tier
    site: Site
    serial_number: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    device_id: DeviceId | None = None


def parse_inventory(data: bytes) -> tuple[InventoryEntry, ...]:
    """All entries of a file, or none.

    Raises InventoryTooLarge, InventoryEmpty, and InventoryInvalid with up to 100 errors.
    """
    if len(data) > MAX_FILE:
        raise InventoryTooLarge(seen=f"{len(data)} octets", expected=f"at most {MAX_FILE}")
    reading = _Reading()
    lines = reading.lines(data)
    try:
        if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
            _read_json_lines(reading, lines)
        else:
            _read_csv(reading, lines)
    except _TooManyErrors:
        raise InventoryInvalid(reading.errors, more=True) from None
    if reading.errors:
        raise InventoryInvalid(reading.errors, more=False)
    if not reading.entries:
        raise InventoryEmpty
    return tuple(reading.entries)


class _TooManyErrors(Exception):
    """Nobody reads more."""


class _Reading:
    """What was read so far."""

    def __init__(self) -> None:
        self.entries: list[InventoryEntry] = []
        self.errors: list[tuple[int, str]] = []
        self._lines_of: dict[tuple[str, bytes | str], int] = {}

    def wrong(self, line: int, what: str) -> None:
        self.errors.append((line, what))
        if len(self.errors) >= MAX_ERRORS:
            raise _TooManyErrors

    def lines(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Lines that are not blank, with their numbers, from 1."""
        stream = io.BytesIO(data.removeprefix(b"\xef\xbb\xbf"))
        for number, raw in enumerate(stream, start=1):
            if len(raw) > MAX_LINE:
                self.wrong(number, f"the line is longer than {MAX_LINE} octets")
                continue
            try:
                line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                self.wrong(number, "the line is not UTF-8")
                continue
            if line.strip():
                yield number, line

    def add(self, line: int, fields: Mapping[str, str], labels: Mapping[str, object]) -> None:
        """One record's fields; empty ones count as absent."""
        before = len(self.errors)
        ek_hash = self._field(line, fields, "ek_hash", _ek_hash)
        tier = self._field(line, fields, "tier", Tier.parse)
        site = self._field(line, fields, "site", Site)
        serial_number = self._field(line, fields, "serial_number", _serial_number)
        device_id = self._field(line, fields, "id", DeviceId)
        try:
            checked = parse_labels(labels)
        except MalformedLabels as error:
            self.wrong(line, f"labels: {error}")
        self._once(line, "EK hash", ek_hash)
        self._once(line, "id", device_id)
        if len(self.errors) == before and ek_hash is not None and tier is not None and site is not None:
            self.entries.append(InventoryEntry(line, ek_hash, tier, site, serial_number, checked, device_id))

    def _field(self, line: int, fields: Mapping[str, str], name: str, parse: Callable[[str], _T]) -> _T | None:
        text = fields.get(name, "").strip()
        if not text:
            if name in _REQUIRED:
                self.wrong(line, f"{name} is missing")
            return None
        try:
            return parse(text)
        except AttestdError as error:
            self.wrong(line, f"{name}: {error}")
            return None

    def _once(self, line: int, what: str, value: bytes | str | None) -> None:
        if value is None:
            return
        first = self._lines_of.setdefault((what, value), line)
        if first != line:
            self.wrong(line, f"this {what} is on line {first} already")


def _ek_hash(text: str) -> EkHash:
    try:
        return EkHash.parse(text)
    except MalformedName as error:
        # Without what was seen: an EK hash with a slip of the pen still tells which TPM it is.
        raise MalformedName(error.detail, seen=f"{len(text)} characters", expected=error.expected) from None


def _serial_number(text: str) -> str:
    if len(text) > _MAX_SERIAL_NUMBER or not text.isprintable():
        raise MalformedName(
            "This is not a serial number.", seen=repr(text[:80]), expected=f"1 to {_MAX_SERIAL_NUMBER} characters"
        )
    return text


# ---- JSON Lines -------------------------------------------------------------------------------------------------


def _read_json_lines(reading: _Reading, lines: Iterator[tuple[int, str]]) -> None:
    for number, line in lines:
        try:
            members = read_object(line.encode(), limit=MAX_LINE, name="line")
        except AttestdError as error:
            reading.wrong(number, str(error))
            continue
        labels = members.pop("labels", {})
        unknown = sorted(members.keys() - set(_COLUMNS))
        if unknown:
            reading.wrong(number, f"unknown members: {', '.join(map(repr, unknown))[:200]}")
        elif not isinstance(labels, dict):
            reading.wrong(number, "labels is not an object")
        elif wrong := [name for name, value in members.items() if not isinstance(value, str | None)]:
            reading.wrong(number, f"{', '.join(wrong)}: not a string")
        else:
            reading.add(number, {name: value for name, value in members.items() if value is not None}, labels)


# ---- CSV (RFC 4180, records of one line) ------------------------------------------------------------------------


def _read_csv(reading: _Reading, lines: Iterator[tuple[int, str]]) -> None:
    header: list[str] | None = None
    for number, line in lines:
        try:
            cells = next(csv.reader([line], strict=True))
        except csv.Error as error:
            reading.wrong(number, f"not CSV: {error}")
            if header is None:
                return
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if complaint := _complaint_about(header):
                reading.wrong(number, complaint)
                return  # without a header no cell has a meaning
        elif len(cells) != len(header):
            reading.wrong(number, f"{len(cells)} columns where the header has {len(header)}")
        else:
            _add_row(reading, number, dict(zip(header, cells, strict=True)))


def _complaint_about(header: list[str]) -> str | None:
    unknown = [name for name in header if name not in _COLUMNS and not _is_label(name)]
    missing = [name for name in _REQUIRED if name not in header]
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if unknown:
        return f"unknown columns: {', '.join(map(repr, unknown))[:200]}; known: {', '.join(_COLUMNS)}, label.NAME"
    if missing:
        return f"missing columns: {', '.join(missing)}"
    if twice:
        return f"columns named twice: {', '.join(twice)[:200]}"
    return None


def _is_label(name: str) -> bool:
    return name.startswith(_LABEL) and LABEL_NAME.fullmatch(name.removeprefix(_LABEL)) is not None


def _add_row(reading: _Reading, number: int, row: Mapping[str, str]) -> None:
    labels: dict[str, str] = {}
    pairs = [pair for pair in row.get("labels", "").split(";") if pair.strip()]
    found = [(name.strip(), equals, value.strip()) for name, equals, value in (pair.partition("=") for pair in pairs)]
    own = [(name.removeprefix(_LABEL), "=", value.strip()) for name, value in row.items() if name.startswith(_LABEL)]
    for name, equals, value in [*found, *(label for label in own if label[2])]:
        if not equals:
            reading.wrong(number, f"labels: {name[:80]!r} is not name=value")
            return
        if name in labels:
            reading.wrong(number, f"labels: {name[:80]!r} is given twice")
            return
        labels[name] = value
    reading.add(number, row, labels)
