"""`attestd trust import`: many makers' certificates at once, told apart by the manifest, trusted maker by maker.

The manifest says whose a certificate is, and no more: nothing is trusted that a person did not choose, by the maker's
name for what the manifest knows, by its fingerprint for everything else. What the service then makes of it, the service
decides: a certificate signed with its own key becomes an anchor, any other one helps to build chains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attestd.cli.api import AdminApi
from attestd.cli.certificates import Found
from attestd.cli.output import moment, table
from attestd.errors import AttestdError, MalformedInput
from attestd.tpm.known_makers import Identified, Manifest, Standing
from attestd.tpm.makers import CertificateDescription

_AT_ONCE: Final = 256  # certificates in one call, and in one row of the audit trail
_SHOWN: Final = 50  # lines of what is new, changed or unreadable


class NothingChosen(AttestdError):
    """Nothing was chosen, so nothing is trusted"""

    remedy = "Say --yes MAKER (several times), --all, or --certificate SHA256; on a terminal you are asked."


class UnknownChoice(MalformedInput):
    """What was chosen is not among these certificates"""

    remedy = "Choose from what `attestd trust import SOURCE --dry-run` shows."


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line chose. `makers` are names as written there; `certificates` are SHA-256 fingerprints."""

    makers: frozenset[str] = frozenset()
    every_maker: bool = False
    certificates: frozenset[bytes] = frozenset()
    expired: bool = False

    @property
    def made(self) -> bool:
        return bool(self.makers or self.every_maker or self.certificates)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one maker offers. `fresh` can be trusted and is not yet; expired ones are among them only if asked for."""

    maker: str
    all: tuple[Identified, ...]
    fresh: tuple[Identified, ...]
    trusted: int
    expired: int

    @property
    def roots(self) -> int:
        return sum(found.certificate.kind == "root" for found in self.fresh)

    def row(self) -> dict[str, Any]:
        """For people and for machines."""
        return {
            "maker": self.maker,
            "roots": self.roots,
            "intermediates": len(self.fresh) - self.roots,
            "trusted": self.trusted,
            "expired": self.expired,
            "attestation_only": sum(found.certificate.purposes == "attestation" for found in self.fresh),
        }

    def question(self) -> str:
        row = self.row()
        return f"Trust {self.maker}: {row['roots']} roots, {row['intermediates']} intermediates?"


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that a source holds, sorted by what is known of it."""

    offers: tuple[Offer, ...]
    others: tuple[Identified, ...]  # new and changed
    no_cas: tuple[Identified, ...]
    trusted: frozenset[bytes]
    found: Found

    @classmethod
    def of(cls, found: Found, manifest: Manifest, *, trusted: frozenset[bytes], expired: bool) -> Survey:
        """`trusted`: the fingerprints in the instance's store. `expired`: offer what has expired, too."""
        identified = [manifest.identify(certificate) for certificate in found.certificates]
        cas = [each for each in identified if each.certificate.kind != "leaf"]
        known: dict[str, list[Identified]] = {}
        for each in cas:
            if each.standing is Standing.KNOWN:
                known.setdefault(each.maker, []).append(each)
        return cls(
            offers=tuple(_offer(maker, known[maker], trusted, expired=expired) for maker in sorted(known)),
            others=tuple(each for each in cas if each.standing is not Standing.KNOWN),
            no_cas=tuple(each for each in identified if each.certificate.kind == "leaf"),
            trusted=trusted,
            found=found,
        )

    def chosen(self, choice: Choice) -> list[tuple[str, list[CertificateDescription]]]:
        """What the command line chose, maker by maker. Raises UnknownChoice: a slip must not trust less in silence."""
        offered = {offer.maker.lower(): offer for offer in self.offers}
        wanted = {name.lower() for name in choice.makers}
        if missing := sorted(wanted - set(offered)):
            raise UnknownChoice(seen=", ".join(missing), expected=", ".join(sorted(offered)) or "none is here")
        here = {each.certificate.sha256: each for each in (*self.others, *(e for o in self.offers for e in o.all))}
        if absent := sorted(sha256.hex() for sha256 in choice.certificates - set(here)):
            raise UnknownChoice("No CA certificate with this fingerprint is here.", seen=", ".join(absent)[:400])
        picked: list[tuple[str, list[CertificateDescription]]] = []
        for name, offer in offered.items():
            if choice.every_maker or name in wanted:
                picked.append((offer.maker, [each.certificate for each in offer.fresh]))
        taken = {certificate.sha256 for _, certificates in picked for certificate in certificates}
        single = [
            here[sha256].certificate for sha256 in sorted(choice.certificates) if sha256 not in self.trusted | taken
        ]
        return [*picked, *([("by fingerprint", single)] if single else [])]

    def asked(self, confirm: Callable[[str], bool]) -> list[tuple[str, list[CertificateDescription]]]:
        """What a person at a terminal chooses: each maker, then each certificate that the manifest does not know."""
        picked = [
            (offer.maker, [each.certificate for each in offer.fresh])
            for offer in self.offers
            if offer.fresh and confirm(offer.question())
        ]
        for each in self.others[:_SHOWN]:
            certificate = each.certificate
            if certificate.sha256 not in self.trusted and not certificate.expired and confirm(_about(each)):
                picked.append(("by fingerprint", [certificate]))
        return picked

    # ---- Showing ----------------------------------------------------------------------------------------------

    def document(self, added: dict[str, int]) -> dict[str, Any]:
        """The JSON form; `added`: how many were trusted for each maker."""
        return {
            "makers": [offer.row() | {"added": added.get(offer.maker, 0)} for offer in self.offers],
            "others": [_members(each, self.trusted) for each in self.others],
            "no_cas": [_members(each, self.trusted) for each in self.no_cas],
            "unreadable": [{"name": entry.name, "why": entry.why} for entry in self.found.unreadable],
            "added": sum(added.values()),
        }

    def text(self) -> str:
        """What a person reads before choosing."""
        rows = [offer.row() for offer in self.offers]
        lines = [table(rows, _COLUMNS, empty="No certificate here is a known maker's.")]
        if self.others:
            lines += ["", "Not in the manifest; each is trusted by its fingerprint alone (--certificate SHA256):"]
            lines += _first(_about(each) for each in self.others)
        if self.no_cas:
            lines += ["", f"No CAs, so nothing to trust: {len(self.no_cas)}"]
            lines += _first(f"  {each.certificate.subject}" for each in self.no_cas)
        if self.found.unreadable:
            lines += ["", f"Unreadable: {len(self.found.unreadable)}"]
            lines += _first(f"  {entry.name}: {entry.why}" for entry in self.found.unreadable)
        return "\n".join(lines)


_COLUMNS: Final = {
    "maker": "MAKER",
    "roots": "NEW ROOTS",
    "intermediates": "NEW INTERMEDIATES",
    "attestation_only": "FOR ATTESTATION KEYS ONLY",
    "expired": "EXPIRED",
    "trusted": "TRUSTED ALREADY",
}


def _offer(maker: str, found: Sequence[Identified], trusted: frozenset[bytes], *, expired: bool) -> Offer:
    untrusted = [each for each in found if each.certificate.sha256 not in trusted]
    return Offer(
        maker=maker,
        all=tuple(found),
        fresh=tuple(each for each in untrusted if expired or not each.certificate.expired),
        trusted=len(found) - len(untrusted),
        expired=sum(each.certificate.expired for each in found),
    )


def _members(each: Identified, trusted: frozenset[bytes]) -> dict[str, Any]:
    certificate = each.certificate
    return {
        "standing": each.standing.value,
        "maker": each.maker,
        "sha256": certificate.sha256.hex(),
        "subject": certificate.subject,
        "kind": certificate.kind,
        "not_after": int(certificate.not_after.timestamp()),
        "expired": certificate.expired,
        "trusted": certificate.sha256 in trusted,
    }


def _about(each: Identified) -> str:
    certificate = each.certificate
    claim = f"changed (the manifest knows another of this name, of {each.maker})" if each.maker else "new"
    state = "expired" if certificate.expired else f"until {moment(int(certificate.not_after.timestamp()))}"
    return f"  {claim}: {certificate.kind} {certificate.subject}, {state}\n    sha256:{certificate.sha256.hex()}"


def _first(lines: Iterable[str]) -> Iterator[str]:
    shown = list(lines)
    yield from shown[:_SHOWN]
    if len(shown) > _SHOWN:
        yield f"  … and {len(shown) - _SHOWN} more (--json shows all)"


def send(api: AdminApi, picked: Sequence[tuple[str, Sequence[CertificateDescription]]]) -> dict[str, int]:
    """Trusts what was picked; one call, and one row of the audit trail, for at most 256 certificates of one maker."""
    added: dict[str, int] = {}
    for name, certificates in picked:
        for begin in range(0, len(certificates), _AT_ONCE):
            part = certificates[begin : begin + _AT_ONCE]
            api.upload("/trust", b"".join(each.der for each in part), "application/octet-stream")
            added[name] = added.get(name, 0) + len(part)
    return added


def at_a_terminal() -> bool:
    """Whether there is a person to ask: both ends, since a question into a file is no question."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def read_fingerprints(texts: Iterable[str]) -> frozenset[bytes]:
    """`sha256:…` or the digits alone. Raises UnknownChoice."""
    found = set()
    for text in texts:
        digits = text.removeprefix("sha256:").replace(":", "")
        try:
            octets = bytes.fromhex(digits)
        except ValueError:
            octets = b""
        if len(octets) != 32:
            raise UnknownChoice("This is no SHA-256 fingerprint.", seen=ascii(text[:80]), expected="64 digits")
        found.add(octets)
    return frozenset(found)


def trusted_here(api: AdminApi) -> frozenset[bytes]:
    """The fingerprints in the instance's store."""
    return frozenset(bytes.fromhex(maker["sha256"]) for maker in api.get("/trust")["makers"])
