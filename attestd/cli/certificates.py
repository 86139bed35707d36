"""Certificates out of what people have: a file of PEM or DER, a folder of such files, or a cabinet (TrustedTpm.cab).

One file that can't be read must not hide the two thousand beside it, and must not vanish either: it is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.tpm.cabinets import MAX_UNPACKED, SIGNATURE, unpack
from attestd.tpm.ekcert import MakerCertificate, read_names
from attestd.tpm.makers import MAX_FILE, CertificateDescription, certificates_in, describe_certificate

_SUFFIXES: Final = frozenset({".cer", ".crt", ".der", ".pem"})
_MAX_FILES: Final = 20_000  # of a folder


class SourceUnreadable(MalformedInput):
    """The certificates can't be read"""

    remedy = "Name a file of PEM or DER, a folder of such files, or a cabinet file, which you may read."


class SourceTooLarge(InputTooLarge):
    """There is too much to be read for certificates"""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What could not be read, and why, in one line for people."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """The certificates of a source, each once, in its order; and what in it could not be read."""

    certificates: tuple[CertificateDescription, ...]
    unreadable: tuple[Unreadable, ...]


def find_certificates(source: Path, *, now: datetime) -> Found:
    """Everything in a file, a folder or a cabinet. Raises SourceUnreadable, SourceTooLarge, and what unpacking raises;
    for a file of certificates also what reading them raises."""
    certificates: dict[bytes, CertificateDescription] = {}
    unreadable = []
    single = not source.is_dir()
    for name, content in _files(source):
        try:
            for der in certificates_in(content):
                found = describe_certificate(der, now=now)
                certificates.setdefault(found.sha256, found)
        except AttestdError as error:
            if single and name == source.name:
                raise
            unreadable.append(Unreadable(name, str(error)[:300]))
    return Found(tuple(certificates.values()), tuple(unreadable))


def find_issuers(source: Path, below: Sequence[MakerCertificate], *, now: datetime) -> Found:
    """Those of a source that may stand above these certificates, by name, step by step; the rest is not looked into.

    Raises what `find_certificates` raises.
    """
    by_subject: dict[bytes, list[bytes]] = {}
    issuer_of: dict[bytes, bytes] = {}
    unreadable = []
    for name, content in _files(source):
        try:
            for der in certificates_in(content):
                issuer, subject = read_names(der)
                by_subject.setdefault(subject, []).append(der)
                issuer_of[der] = issuer
        except AttestdError as error:
            unreadable.append(Unreadable(name, str(error)[:300]))
    certificates: dict[bytes, CertificateDescription] = {}
    wanted = [certificate.issuer for certificate in below]
    while wanted:
        for der in by_subject.pop(wanted.pop(), ()):
            wanted.append(issuer_of[der])
            try:
                found = describe_certificate(der, now=now)
            except AttestdError as error:
                unreadable.append(Unreadable(source.name, str(error)[:300]))
            else:
                certificates.setdefault(found.sha256, found)
    return Found(tuple(certificates.values()), tuple(unreadable))


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file that may hold certificates."""
    if not source.is_dir():
        content = _read(source, MAX_FILE)
        if content.startswith(SIGNATURE):
            for packed in unpack(content):
                if Path(packed.name).suffix.lower() in _SUFFIXES:
                    yield packed.name, packed.content
        else:
            yield source.name, content
        return
    left, count = MAX_UNPACKED, 0
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            content = _read(path, left)
            left, count = left - len(content), count + 1
            if count > _MAX_FILES:
                raise SourceTooLarge(f"{source} holds too many files.", expected=f"at most {_MAX_FILES}")
            yield str(path.relative_to(source)), content


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SourceUnreadable(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from None
    if len(content) > limit:
        raise SourceTooLarge(f"{path} is too large.", seen=f"more than {limit} octets", expected=f"at most {limit}")
    return content
