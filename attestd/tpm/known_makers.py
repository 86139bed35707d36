"""The manifest of known makers' CA certificates: which maker a certificate is said to be of. It identifies, no more.

`certs/tpm-roots/manifest.csv` holds facts about certificates that are public, one a line, and no certificate. Being in
it makes no certificate trusted: an operator does that, maker by maker (`attestd trust import`). A certificate that is
not in it may be as good; nobody has looked at it here.

Columns: `maker`; `kind` ("root": signed with its own key, or "intermediate"); `purposes` (what it may vouch for: "ek",
"attestation" for attestation keys alone, or "any" where it names none); `key`; `not_before` and `not_after` (UTC);
`sha256` (of the DER octets); `subject` (as `shown_name` writes it); `source` (repository and commit where it was read).
`tests/make_tpm_manifest.py` writes the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, Self, cast

from attestd.errors import InputTooLarge, MalformedInput
from attestd.tpm.makers import CertificateDescription

COLUMNS: Final = ("maker", "kind", "purposes", "key", "not_before", "not_after", "sha256", "subject", "source")
MAX_MANIFEST: Final = 8 * 1024 * 1024  # octets; some 3,000 certificates a MiB
_MAX_FIELD: Final = 512  # characters
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAKER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .-]{0,39}", re.ASCII)
_DATE: Final = "%Y-%m-%dT%H:%M:%SZ"

Kind = Literal["root", "intermediate"]
Purposes = Literal["ek", "attestation", "any"]


class MalformedManifest(MalformedInput):
    """The manifest of makers' certificates can't be read"""

    remedy = "Use the manifest that comes with attestd, or make one with tests/make_tpm_manifest.py."


class ManifestTooLarge(InputTooLarge):
    """The manifest of makers' certificates is too large"""


class Standing(StrEnum):
    """What the manifest can say of a certificate at hand."""

    KNOWN = "known"  # this very certificate is in the manifest
    CHANGED = "changed"  # another certificate of this name is: renewed by its maker, or made by somebody else
    NEW = "new"  # nothing of this name is


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """One line of the manifest."""

    maker: str
    kind: Kind
    purposes: Purposes
    key: str
    not_before: datetime
    not_after: datetime
    sha256: bytes
    subject: str
    source: str


@dataclass(frozen=True, slots=True)
class Identified:
    """A certificate at hand beside what the manifest says; `maker` is empty where it says nothing.

    A changed certificate's maker is the one whose name it carries: a name that anybody can write.
    """

    certificate: CertificateDescription
    standing: Standing
    maker: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The known certificates by fingerprint, and the makers by subject."""

    certificates: Mapping[bytes, KnownCertificate]
    by_subject: Mapping[str, str]

    @property
    def makers(self) -> frozenset[str]:
        return frozenset(self.by_subject.values())

    def identify(self, certificate: CertificateDescription) -> Identified:
        """By fingerprint; failing that, by name."""
        known = self.certificates.get(certificate.sha256)
        if known is not None:
            return Identified(certificate, Standing.KNOWN, known.maker)
        maker = self.by_subject.get(certificate.subject, "")
        return Identified(certificate, Standing.CHANGED if maker else Standing.NEW, maker)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Reads the file. Raises ManifestTooLarge, or MalformedManifest naming the line."""
        if len(data) > MAX_MANIFEST:
            raise ManifestTooLarge(seen=f"{len(data)} octets", expected=f"at most {MAX_MANIFEST}")
        certificates: dict[bytes, KnownCertificate] = {}
        by_subject: dict[str, str] = {}
        try:
            lines = csv.reader(data.decode("utf-8").splitlines(), strict=True)
            if (header := tuple(next(lines, ()))) != COLUMNS:
                raise MalformedManifest(seen=", ".join(header)[:200], expected=", ".join(COLUMNS))
            for number, fields in enumerate(lines, 2):
                known = _read_line(fields, number)
                if known.sha256 in certificates:
                    raise MalformedManifest(f"Line {number} repeats a certificate.", seen=known.sha256.hex())
                if by_subject.setdefault(known.subject, known.maker) != known.maker:
                    raise MalformedManifest(f"Line {number} gives a name to another maker.", seen=known.subject[:120])
                certificates[known.sha256] = known
        except (UnicodeDecodeError, csv.Error) as error:
            raise MalformedManifest("The manifest is not CSV in UTF-8.", seen=str(error)[:120]) from None
        return cls(MappingProxyType(certificates), MappingProxyType(by_subject))


def _read_line(fields: list[str], number: int) -> KnownCertificate:
    def refusal(what: str, seen: str) -> MalformedManifest:
        return MalformedManifest(f"Line {number} of the manifest has no usable {what}.", seen=ascii(seen[:80]))

    if len(fields) != len(COLUMNS):
        raise refusal("columns", ",".join(fields))
    for field in fields:
        if len(field) > _MAX_FIELD or not field.isprintable():
            raise refusal("text", field)
    maker, kind, purposes, key, not_before, not_after, sha256, subject, source = fields
    if not _MAKER.fullmatch(maker):
        raise refusal("maker", maker)
    if kind not in ("root", "intermediate"):
        raise refusal("kind", kind)
    if purposes not in ("ek", "attestation", "any"):
        raise refusal("purposes", purposes)
    if not _SHA256.fullmatch(sha256):
        raise refusal("sha256", sha256)
    if not subject:
        raise refusal("subject", subject)
    try:
        begins, ends = (datetime.strptime(text, _DATE).replace(tzinfo=UTC) for text in (not_before, not_after))
    except ValueError:
        raise refusal("dates", f"{not_before} {not_after}") from None
    return KnownCertificate(
        maker,
        cast("Kind", kind),
        cast("Purposes", purposes),
        key,
        begins,
        ends,
        bytes.fromhex(sha256),
        subject,
        source,
    )


def write_date(moment: datetime) -> str:
    """As the columns `not_before` and `not_after` have it, to the second."""
    return f"{moment.year:04d}{moment.astimezone(UTC):-%m-%dT%H:%M:%SZ}"
