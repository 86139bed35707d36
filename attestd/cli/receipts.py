"""`attestd audit receipts`: what crossed at edges, exported and examined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.devices import UnreadableFile
from attestd.cli.devices import read_file as read_octets
from attestd.cli.options import DEFAULT_DIR, Dir, Json, elsewhere
from attestd.cli.output import FAILED, emit, failing, moment, say, table
from attestd.errors import MalformedInput, NotFound

if TYPE_CHECKING:
    from attestd.auditing.receipts import Examined, Finding, Given
    from attestd.cli.api import AdminApi
    from attestd.ids import TrustDomain

app = typer.Typer(help="Edges' receipts: list, export, verify.", no_args_is_help=True)

_COLUMNS = {
    "when": "WHEN",
    "edge": "EDGE",
    "boundary": "BOUNDARY",
    "who": "WHO",
    "what": "WHAT",
    "decision": "DECISION",
    "place": "RECEIPT",
}
Edge = Annotated[str | None, typer.Option(help="Only this edge's.")]
Root = Annotated[Path | None, typer.Option(help="The root certificate that you trust (PEM).")]


class MomentUnreadable(MalformedInput):
    """This is not a moment"""

    remedy = "Give a date or a moment in UTC: 2026-03-01 or 2026-03-01T12:00:00Z."


class NothingThere(NotFound):
    """There are no such receipts"""

    remedy = (
        "`attestd audit receipts list` shows what was delivered; docs/receipts.md says how a boundary demands them."
    )


@app.command("list")
def list_(
    dir: Dir = DEFAULT_DIR,
    edge: Edge = None,
    boundary: Annotated[str | None, typer.Option(help="Only crossings of this boundary.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this device's.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this moment on, by the edges' clocks (UTC).")] = None,
    after: Annotated[int | None, typer.Option(help="Only those that came after this number.", min=0)] = None,
    limit: Annotated[int, typer.Option(help="At most this many.", min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """List what crossed, in the order in which it was delivered. What is shown is as signed; `verify` proves it."""
    with failing(as_json=as_json):
        found = service(dir).get(
            "/receipts", edge=edge, boundary=boundary, device=device, since=_since(since), after=after, limit=limit
        )
        rows = [_row(one) for one in found["receipts"]]
        emit(rows, as_json=as_json, text=table(rows, _COLUMNS, empty="There are no such receipts."))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where the receipts go.")],
    dir: Dir = DEFAULT_DIR,
    edge: Edge = None,
) -> None:
    """Write whole chains of receipts to a file, each with the audit trail's proof of where it stands.

    Who gets the file checks it with `attestd audit receipts verify FILE --root root.pem`, without this service.
    """
    from attestd.auditing.receipts import header, write_chain

    with failing():
        api = service(dir)
        chains = receipts = 0
        try:
            with file.open("wb") as out:
                out.write(header(_trust_domain(api)))
                for given, lines in _chains(api, edge):
                    chains += 1
                    for line in write_chain(given, lines):
                        out.write(line)
                        receipts += not line.startswith(b"{")
        except OSError as error:
            raise UnreadableFile(f"{file} can't be written.", seen=error.strerror) from None
        if not chains:
            file.unlink(missing_ok=True)
            raise NothingThere(seen=edge)
        say(f"{receipts} receipts in {chains} chains are in {file}.")


@app.command()
def verify(
    file: Annotated[Path | None, typer.Argument(help="A file that `export` wrote.")] = None,
    spool: Annotated[Path | None, typer.Option(help="An edge's state folder, before it delivers.")] = None,
    root: Root = None,
    trust_domain: Annotated[str | None, typer.Option(help="With --spool: the trust domain.")] = None,
    edge: Edge = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Prove that receipts are genuine and whole: signatures, chains, gaps, forks, times, and the audit trail's word.

    A file or an edge's folder is examined offline, under the root that you name. With neither, the service's own
    receipts are. Names each receipt that is wrong or missing. Exit code 0: all is well; 1: it is not.
    """
    from attestd.auditing.receipts import Pinned, examine, link, read_file
    from attestd.auditing.spools import read_spool
    from attestd.ids import TrustDomain

    with failing(as_json=as_json):
        if file is not None and spool is not None:
            raise typer.BadParameter("Name a file or --spool, not both.")
        notes: list[str] = []
        seen: list[Examined] = []
        if spool is not None:
            if root is None or trust_domain is None:
                raise typer.BadParameter("--spool needs --root and --trust-domain.")
            pinned = Pinned(_roots(root), TrustDomain(trust_domain))
            for one in read_spool(spool):
                seen.append(examine(one.given, one.lines, pinned))
                if one.torn:
                    notes.append(f"Chain {one.given.chain}: {one.torn} octets at its end are no receipt yet.")
        elif file is not None:
            if root is None:
                raise typer.BadParameter("A file needs --root: the root certificate that you trust.")
            with _opened(file) as lines:
                named, chains = read_file(lines)
                pinned = Pinned(_roots(root), named)
                seen = [examine(given, receipts, pinned) for given, receipts in chains]
        else:
            api = service(dir)
            if root is None and elsewhere.get() is not None:
                raise typer.BadParameter("From elsewhere, name the root that you trust: --root.")
            pinned = Pinned(_roots(root) if root is not None else _own_roots(dir), _trust_domain(api))
            seen = [examine(given, lines, pinned) for given, lines in _chains(api, edge)]
        if not seen:
            raise NothingThere(seen=edge or file or spool)
        notes += [
            f"Chain {one.chain}: receipts 0 to {one.first - 1} are not here: delivered, forgotten in time, or left out."
            for one in seen
            if one.first
        ]
        findings = [finding for one in seen for finding in one.findings]
        findings += [] if spool is not None else link(seen)
    _tell(seen, findings, notes, as_json=as_json)
    if findings:
        raise typer.Exit(FAILED)


def _chains(api: AdminApi, edge: str | None) -> Iterator[tuple[Given, list[str]]]:
    """The service's chains, each with its receipts."""
    from attestd.auditing.receipts import Given
    from attestd.protocol.encoding import b64decode

    after: str | None = None
    while True:
        page = api.get("/receipts/chains", edge=edge, after=after)
        for one in page["chains"]:
            receipts = list(_receipts(api, one["chain"], until=one["next"]))
            kept_from = receipts[0][0] if receipts else one["next"]
            given = Given(
                one["chain"],
                one["beginning"],
                (one["next"] - 1, b64decode(one["digest"], name="digest")),
                tuple((first, last) for first, last in one["lost"]),
                _anchor(api, one["chain"], one["next"] - 1),
                kept_from if _may_be_forgotten(one, receipts) else 0,
            )
            yield given, [jws for _, jws in receipts]
        after = page["after"]
        if after is None:
            return


def _may_be_forgotten(chain: dict[str, Any], receipts: list[tuple[int, str]]) -> bool:
    """Whether the first receipts went by their retention: the oldest do, so that the first one is gone, too."""
    return not receipts or receipts[0][0] > 0


def _receipts(api: AdminApi, chain: str, *, until: int) -> Iterator[tuple[int, str]]:
    """Numbers and receipts, as far as the chain's row tells of them: more may come meanwhile."""
    after = 0
    while (page := api.get("/receipts", chain=chain, after=after, limit=1000))["receipts"]:
        for one in page["receipts"]:
            if one["seq"] < until:
                yield one["seq"], one["jws"]
        after = page["after"]


def _anchor(api: AdminApi, chain: str, last: int) -> Any:
    """The proof of the row that the delivery up to receipt `last` left; None if that row is in an archive."""
    from attestd.auditing.receipts import ACT
    from attestd.cli.api import CallRefused
    from attestd.credentials.transparency import InclusionProof
    from attestd.protocol.encoding import write_object

    before: int | None = None
    while rows := api.get("/audit", subject=chain, before=before, limit=100)["audit"]:
        for row in rows:
            if row["act"] == ACT and row["detail"].get("last") == last:
                try:
                    return InclusionProof.parse(write_object(api.get(f"/audit/{row['number']}/proof")))
                except CallRefused:
                    return None
        before = rows[-1]["number"]
    return None


def _trust_domain(api: AdminApi) -> TrustDomain:
    from attestd.ids import TrustDomain

    return TrustDomain(api.get("/overview")["trust_domain"])


def _roots(file: Path) -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from attestd.cli.audit import RootUnreadable

    try:
        return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(read_octets(file))]
    except (ValueError, x509.InvalidVersion):
        raise RootUnreadable(f"{file} can't be read.") from None


def _own_roots(dir: Path) -> list[bytes]:
    """The instance's, former ones, too: what was signed under them stays evidence."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from attestd.ca.manifest import CERTIFICATES, read_manifest
    from attestd.ca.signer import load_certificate

    manifest = read_manifest(dir)
    names = (*(root.name for root in manifest.entries["roots"]), *manifest.retired)
    return [load_certificate(dir / CERTIFICATES / f"{name}.pem").public_bytes(Encoding.DER) for name in names]


def _opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise UnreadableFile(f"{file} can't be read.", seen=error.strerror) from None


def _since(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise MomentUnreadable(seen=repr(text[:40])) from None
    return int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())


def _row(one: dict[str, Any]) -> dict[str, Any]:
    from attestd.credentials.receipts import Beginning, read_unverified

    receipt = read_unverified(one["jws"])
    row: dict[str, Any] = {
        "number": one["number"],
        "chain": receipt.chain,
        "seq": receipt.seq,
        "place": f"{receipt.chain[:8]}/{receipt.seq}",
        "edge": one["edge"],
        "at": receipt.time,
        "when": moment(receipt.time),
    }
    said = receipt.said
    if isinstance(said, Beginning):
        return row | {"decision": f"begins: {said.why}", "boundary": "", "who": "", "what": ""}
    return row | {
        "boundary": said.where.boundary,
        "who": "" if said.who is None else str(said.who),
        "what": f"{said.method} {said.path}".strip(),
        "decision": "allow" if said.allowed else f"deny: {said.problem}",
    }


def _tell(seen: list[Examined], findings: list[Finding], notes: list[str], *, as_json: bool) -> None:
    chains = [
        {
            "chain": one.chain,
            "edge": one.edge,
            "why": one.why,
            "first": one.first,
            "last": one.last,
            "count": one.count,
            "refusals": one.refusals,
            "omitted": one.omitted,
            "anchored": one.anchored,
        }
        for one in seen
    ]
    lines = [finding.text for finding in findings] + notes
    for one in seen:
        anchored = "its end proven by the audit trail" if one.anchored else "its end proven by nobody else"
        omitted = f", {one.omitted} refusals without one" if one.omitted else ""
        lines.append(
            f"Chain {one.chain} of {one.edge or 'nobody'}: {one.count} receipts ({one.first} to {one.last}), "
            f"{one.refusals} of refusals{omitted}; {anchored}."
        )
    lines.append("Something is wrong with these receipts." if findings else "All is as the edges signed it.")
    document = {"chains": chains, "findings": [asdict(finding) for finding in findings], "notes": notes}
    emit(document, as_json=as_json, text="\n".join(lines))
