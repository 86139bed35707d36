"""`attestd appraise ek`: is this a maker's certificate for some TPM's endorsement key, and what does it say?

It is judged as of a moment, with the roots that are given and no other. Every quirk is let through and named, so that
the verdict is about the certificate; which quirks a service refuses is that service's policy (`--refuse-quirk`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.appraise.verdicts import judging, read_input, tell
from attestd.cli.options import Json
from attestd.errors import EvidenceRefused, MalformedInput

if TYPE_CHECKING:
    from attestd.cli.certificates import Found
    from attestd.tpm.ekcert import MakerCertificate
    from attestd.tpm.ekprofile import VerifiedEkCertificate

_MAX_FILE = 256 * 1024  # octets: the largest NV area, or a chain in PEM


class TimeUnreadable(MalformedInput):
    """This is not a moment"""

    remedy = "Write it like 2026-06-01 or 2026-06-01T12:00:00Z."


class ChipContraindicated(EvidenceRefused):
    """An advisory contraindicates this kind of TPM"""

    remedy = "Update the TPM's firmware as its vendor says, or use another TPM."


def ek(
    certificate: Annotated[
        Path, typer.Argument(help="The EK certificate: DER, PEM or an NV dump; its issuers may follow in it.")
    ],
    intermediate: Annotated[
        list[Path] | None, typer.Option(help="A file with certificates between the EK's and the root; repeatable.")
    ] = None,
    roots: Annotated[
        Path | None,
        typer.Option(help="A folder, file or cabinet of makers' certificates: self-signed ones are trusted as roots."),
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Judge as of then (ISO 8601, UTC); now if left out.")
    ] = None,
    refuse_quirk: Annotated[
        list[str] | None, typer.Option(metavar="QUIRK", help="Do not let this quirk through; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge an EK certificate: chain, TPM maker, model, firmware, quirks, advisories.

    Exit code 0: a trusted maker certified this endorsement key. 1: it did not, or this is no EK certificate. 2: the
    input can't be used.
    """
    from attestd.cli.certificates import Found, find_issuers  # the small commands answer at once
    from attestd.issuance.makers import known_advisories, read_quirks
    from attestd.tpm.chain import TrustAnchors, UntrustedMaker
    from attestd.tpm.der import shown_name
    from attestd.tpm.ekcert import parse_certificate
    from attestd.tpm.ekprofile import verify_ek_certificate
    from attestd.tpm.firmware import read_certified

    with judging(as_json=as_json):
        now = _moment(at)
        leaf, *more = map(parse_certificate, _certificates(read_input(certificate, limit=_MAX_FILE)))
        for file in intermediate or ():
            more += map(parse_certificate, _certificates(read_input(file, limit=_MAX_FILE)))
        known = find_issuers(roots, (leaf, *more), now=now) if roots is not None else Found((), ())
        anchors = TrustAnchors.load(
            (found.der for found in known.certificates if found.kind == "root"),
            (found.der for found in known.certificates if found.kind == "intermediate"),
        )
        document = _document(leaf, known, now)
        try:
            if roots is not None and not anchors.roots:
                raise UntrustedMaker(seen=shown_name(leaf.issuer), expected="a name that leads to one of these roots")
            verified = verify_ek_certificate(
                leaf, intermediates=more, anchors=anchors, now=now, refused=read_quirks(refuse_quirk or ())
            )
        except EvidenceRefused as refusal:
            tell(document, as_json=as_json, text=f"bad: {refusal.detail}", refusal=refusal)
            return
        identity = verified.identity
        concerning = known_advisories().concerning(
            identity.manufacturer, identity.model, read_certified(identity.firmware_version)
        )
        contraindicated = [found for found in concerning if found.claim == "contraindicated"]
        document |= _verified(verified) | {
            "verdict": "bad" if contraindicated else "good",
            "advisories": [
                {"id": found.id, "claim": found.claim, "means": found.means, "source": found.source}
                for found in concerning
            ],
        }
        tell(
            document,
            as_json=as_json,
            text=_text(document),
            refusal=ChipContraindicated(contraindicated[0].means, seen=contraindicated[0].id)
            if contraindicated
            else None,
        )


def _moment(text: str | None) -> datetime:
    """The moment to judge as of; without a zone it is UTC. Raises TimeUnreadable."""
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise TimeUnreadable(seen=ascii(text[:60]), expected="ISO 8601") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _certificates(data: bytes) -> tuple[bytes, ...]:
    """The certificates of a file. One alone keeps what stands around it, which is a quirk to be named."""
    from attestd.tpm.ekcert import STORED_CERTIFICATE
    from attestd.tpm.makers import certificates_in

    if data.startswith(STORED_CERTIFICATE):
        return (data,)
    found = certificates_in(data)
    return (data,) if len(found) == 1 and data.startswith(found[0]) else found


def _document(leaf: MakerCertificate, known: Found, now: datetime) -> dict[str, Any]:
    """The verdict before anything is proven: bad. What the certificate says of itself stands under `unverified`."""
    from attestd.tpm.der import shown_name

    return {
        "verdict": "bad",
        "at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "chain": [],
        "maker": None,
        "model": None,
        "firmware": None,
        "quirks": [],
        "advisories": [],
        "unverified": {
            "sha256": leaf.sha256.hex(),
            "subject": shown_name(leaf.subject),
            "issuer": shown_name(leaf.issuer),
            "not_before": f"{leaf.claims.not_before:%Y-%m-%dT%H:%M:%SZ}",
            "not_after": f"{leaf.claims.not_after:%Y-%m-%dT%H:%M:%SZ}",
            "quirks": sorted(leaf.quirks),
        },
        "unreadable": [{"name": entry.name, "why": entry.why} for entry in known.unreadable],
    }


def _verified(verified: VerifiedEkCertificate) -> dict[str, Any]:
    from attestd.tpm.der import shown_name
    from attestd.tpm.ekcert import REFUSED_BY_DEFAULT
    from attestd.tpm.firmware import read_certified

    identity = verified.identity
    firmware = read_certified(identity.firmware_version)
    return {
        "chain": [
            {
                "sha256": found.sha256.hex(),
                "subject": shown_name(found.subject),
                "not_after": f"{found.claims.not_after:%Y-%m-%dT%H:%M:%SZ}",
            }
            for found in verified.path.certificates
        ],
        "maker": identity.manufacturer,
        "model": identity.model,
        "firmware": str(firmware) if firmware else identity.firmware_version,
        "quirks": sorted(verified.quirks),
        "refused_by_default": sorted(verified.quirks & REFUSED_BY_DEFAULT),
    }


def _text(document: dict[str, Any]) -> str:
    chip = " ".join(filter(None, (document["maker"], document["model"])))
    lines = [f"{document['verdict']}: a trusted maker's certificate for an endorsement key", f"  TPM         {chip}"]
    if document["firmware"]:
        lines.append(f"  firmware    {document['firmware']}, when it was made")
    for number, found in enumerate(document["chain"]):
        lines.append(f"  {'chain' if not number else '':<10}  {found['subject']} (until {found['not_after'][:10]})")
    if document["quirks"]:
        lines.append(f"  quirks      {', '.join(document['quirks'])}")
    if document["refused_by_default"]:
        lines.append(f"  a service refuses by default: {', '.join(document['refused_by_default'])}")
    lines += [f"  advisory    {found['id']} ({found['claim']}): {found['means']}" for found in document["advisories"]]
    if document["unreadable"]:
        lines.append(f"  {len(document['unreadable'])} files of the roots can't be read")
    return "\n".join(lines)
