"""`attestd appraise bundle`: does this evidence lead to this result?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.appraise.verdicts import judging, read_input, tell
from attestd.cli.options import Json
from attestd.errors import EvidenceRefused

if TYPE_CHECKING:
    from attestd.appraisal.results import AttestationResult


class ResultContraindicated(EvidenceRefused):
    """The evidence shows a state that must not be trusted"""

    remedy = "The reasons name what differs from the reference values."


def bundle(
    file: Annotated[Path, typer.Argument(help="What `attestd evidence export` wrote; - is stdin.")],
    roots: Annotated[
        Path | None, typer.Option(help="Your own roots of TPM makers: a folder, file or cabinet, as for `appraise ek`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result's canonical octets to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Appraise exported evidence again: endorsement, quote, logs, reference values; no instance, no network.

    The result must come out as it was, octet by octet. Without --roots the endorsement is followed to the root that the
    file names, and whether that one deserves trust is yours to say.

    Exit code 0: the result is drawn again, and is not contraindicated. 1: it is another one, or a bad one. 2: the file
    can't be used.
    """
    from attestd.appraisal.bundle import MAX_BUNDLE, EvidenceBundle
    from attestd.cli.certificates import Found, find_issuers
    from attestd.cli.explaining import differences
    from attestd.tpm.ekcert import parse_certificate

    with judging(as_json=as_json):
        evidence = EvidenceBundle.parse(read_input(file, limit=MAX_BUNDLE))
        document: dict[str, Any] = {"verdict": "bad", "reproduced": False, "endorsement": None, "result": None}
        try:
            record, result = evidence.reproduce()
            document |= {"reproduced": True, "device": record.device, "at": record.at, "result": result.to_members()}
            explanation = evidence.explain(record)
            document["differences"] = [each.to_members() for each in explanation.differences]
            own = None
            if roots is not None:
                chain = tuple(map(parse_certificate, evidence.certificates))
                known = find_issuers(roots, chain, now=_at(record.at)) if chain else Found((), ())
                own = [found.der for found in known.certificates if found.kind == "root"]
            path = evidence.endorse(record, roots=own)
            document["endorsement"] = {
                "kind": record.endorsed.kind,
                "chain": [certificate.sha256.hex() for certificate in path],
                "roots": "yours" if roots is not None else "the file's own",
            }
            if out is not None:
                out.write_bytes(evidence.result)
            if result.contraindicated:
                raise ResultContraindicated(seen="; ".join(result.reasons)[:400])
        except EvidenceRefused as refusal:
            differing = differences(document.get("differences", ()))
            tell(document, as_json=as_json, text="\n".join([f"bad: {refusal.detail}", *differing]), refusal=refusal)
            return
        document["verdict"] = "good"
        tell(document, as_json=as_json, text=_text(document, result))


def _at(seconds: int) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC)


def _text(document: dict[str, Any], result: AttestationResult) -> str:
    endorsement = document["endorsement"]
    chain = f"{len(endorsement['chain'])} certificates, roots: {endorsement['roots']}"
    lines = [
        f"good: the evidence of {document['device']} leads to this very result",
        f"  status       {result.status}",
        *(f"  {claim:<22} {value}" for claim, value in result.vector.items()),
        f"  endorsed by  {endorsement['kind']}, {chain}",
        *(f"  policy       {policy}" for policy in result.policies),
        *(f"  because      {reason}" for reason in result.reasons),
    ]
    return "\n".join(lines)
