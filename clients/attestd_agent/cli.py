"""attestd-agent: gives this device an identity from its TPM, and keeps it."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from attestd.protocol.messages import WaitAnswer
from attestd_agent.agent import Agent, NotEnrolled
from attestd_agent.assemble import DEFAULT_TCTI, Options, assemble, open_clock, open_device, read_file
from attestd_agent.checkins import DEFAULT_INTERVAL
from attestd_agent.daemon import StopRequest
from attestd_agent.ekcerts import read_certificate_file
from attestd_agent.journal import configure
from attestd_agent.options import (
    DEFAULT_STATE,
    CaOption,
    EkCertOption,
    EkOption,
    EventLogOption,
    IakCertOption,
    IakOption,
    ImaOption,
    JsonOption,
    ServerOption,
    StateOption,
    TctiOption,
    reported,
)
from attestd_agent.outcomes import CODES, EXPIRED, NOT_ENROLLED, OK, WAITING
from attestd_agent.programs.cli import serve
from attestd_agent.records import Enrolled
from attestd_agent.resident import become
from attestd_agent.state import StateDir

app = typer.Typer(
    name="attestd-agent",
    help="""Gives this device an identity from its TPM, and keeps it.

    \b
    A first device with a real TPM:
      attestd-agent evidence       shows the TPM, and its EK hash for the inventory
      attestd-agent enroll --server https://attestd.example.org:8443 --ca root.pem
      attestd-agent run            attests and renews from now on (better: the systemd unit)

    The key never leaves the TPM. Programs use STATE/credentials/key.pem and chain.pem through OpenSSL's tpm2 provider,
    or ask `attestd-agent serve` for a token and a proof.
    """,
    epilog=CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog=CODES)
def enroll(
    state_dir: StateOption = DEFAULT_STATE,
    tcti: TctiOption = DEFAULT_TCTI,
    server: ServerOption = None,
    ca: CaOption = None,
    ek: EkOption = None,
    ek_cert: EkCertOption = None,
    iak: IakOption = None,
    iak_cert: IakCertOption = None,
    eventlog: EventLogOption = None,
    ima: ImaOption = None,
    again: Annotated[bool, typer.Option("--again", help="Enroll anew with new keys, though enrolled already.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until an operator has approved the device.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove this device's TPM to the service and get its first certificate.

    A device that the inventory does not know waits for an operator's approval (exit code 4): run it again, or --wait.
    """
    with reported(as_json):
        agent = assemble(Options(state_dir, tcti, server, ca, ek, ek_cert, iak, iak_cert, eventlog, ima))
        known, now = None if again else agent.state.load(), agent.clock.now().timestamp()
        if known is not None and known.record.expires_at > now:
            _show_credential("already enrolled (--again enrolls anew, with new keys)", known, as_json, now=now)
            return
        stop = StopRequest()
        if wait:
            stop.listen()
        answer = agent.enroll()
        while wait and isinstance(answer, WaitAnswer) and not stop.requested:
            typer.echo(f"{answer.state}; asking again in {answer.retry_after} s (Ctrl-C ends)", err=True)
            stop.sleep(max(answer.retry_after, 1))
            if not stop.requested:
                answer = agent.enroll()
        _show_answer("enrolled", answer, as_json)


@app.command(epilog=CODES)
def run(
    state_dir: StateOption = DEFAULT_STATE,
    tcti: TctiOption = DEFAULT_TCTI,
    server: ServerOption = None,
    ca: CaOption = None,
    ek: EkOption = None,
    ek_cert: EkCertOption = None,
    iak: IakOption = None,
    iak_cert: IakCertOption = None,
    eventlog: EventLogOption = None,
    ima: ImaOption = None,
    check_in: Annotated[
        float,
        typer.Option(
            "--check-in",
            envvar="ATTESTD_AGENT_CHECK_IN",
            min=0,
            max=86400,
            metavar="SECONDS",
            help="Ask the service this often whether it wants an attestation at once; 0: never.",
        ),
    ] = DEFAULT_INTERVAL,
    once: Annotated[bool, typer.Option("--once", help="Enroll or attest once, now, then end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log more.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keep this device's certificate fresh: enroll if needed, attest and renew ahead of time, until told to stop.

    Uses the TPM for moments only. Goes on through a dead service until the certificate ends, and after. SIGTERM stops,
    SIGHUP attests now.
    """
    options = Options(state_dir, tcti, server, ca, ek, ek_cert, iak, iak_cert, eventlog, ima)
    if not once:
        become(options, check_in=check_in, as_json=as_json, debug=debug)
    configure(objects=as_json, debug=debug)
    with reported(as_json):
        agent = assemble(options)
        waiting = agent.state.waiting()
        pending = waiting is not None and waiting.state == "pending"
        if pending or agent.state.load() is None:
            _show_answer("enrolled", agent.enroll(), as_json)
        else:
            _show_answer("attested", agent.attest(), as_json)


@app.command(epilog=CODES)
def renew(
    state_dir: StateOption = DEFAULT_STATE,
    tcti: TctiOption = DEFAULT_TCTI,
    eventlog: EventLogOption = None,
    ima: ImaOption = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="For a new key, certified by the attestation key.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Get a new certificate now, without a new quote, while the last attestation still counts."""
    with reported(as_json):
        _show_answer("renewed", _enrolled(state_dir, tcti, eventlog, ima).renew(new_key=new_key), as_json)


@app.command(epilog=CODES)
def token(
    audience: Annotated[str, typer.Option("--audience", help="Whom the token is for; issuance policy names them.")],
    state_dir: StateOption = DEFAULT_STATE,
    tcti: TctiOption = DEFAULT_TCTI,
    eventlog: EventLogOption = None,
    ima: ImaOption = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Bind it to the certificate, for mutual TLS; else to the key.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print an access token, bound to this device's key: worthless without it."""
    with reported(as_json):
        agent = _enrolled(state_dir, tcti, eventlog, ima)
        answer = agent.token(audience, binding="tls" if tls else "dpop")
        _show({"token": answer.token, "expires_in": answer.expires_in}, answer.token, as_json)


@app.command(epilog=CODES)
def status(state_dir: StateOption = DEFAULT_STATE, as_json: JsonOption = False) -> None:
    """Say who this device is, until when, and when it renews. Asks neither the TPM nor the service.

    Exit code 0: healthy. 3: not enrolled. 4: waiting for approval, or quarantined. 5: the certificate has expired.
    """
    with reported(as_json):
        state = StateDir(state_dir)
        known, waiting = state.load(), state.waiting()
        now = open_clock(state).now().timestamp()
        code, word = OK, "healthy"
        if known is None:
            code, word = NOT_ENROLLED, "not enrolled"
        elif known.record.expires_at <= now:
            code, word = EXPIRED, "expired"
        if waiting is not None:
            code, word = WAITING, waiting.state
        found: dict[str, Any] = {"state": word}
        lines = [f"state:        {word}"]
        if known is not None:
            found |= _members(known)
            lines += _lines(known, now)
        if waiting is not None:
            found |= {"waiting_since": waiting.since, "retry_at": waiting.retry_at, "server": waiting.server}
            lines.append(f"waiting:      since {_when(waiting.since)}, asks again {_when(waiting.retry_at)}")
        if code == NOT_ENROLLED:
            lines.append(f"what to do:   {NotEnrolled.remedy}")
        _show(found, "\n".join(lines), as_json)
        raise typer.Exit(code)


@app.command(epilog=CODES)
def evidence(
    tcti: TctiOption = DEFAULT_TCTI, ek: EkOption = None, ek_cert: EkCertOption = None, as_json: JsonOption = False
) -> None:
    """Show what this TPM is: its EK hash (for the inventory), EK certificate and PCRs. Asks nobody but the TPM."""
    with reported(as_json):
        given = () if ek_cert is None else read_certificate_file(read_file(ek_cert))
        device = open_device(tcti)
        maker, found = device.properties(), device.endorsement(kind=ek, given=given)
        pcrs = device.read_pcrs(device.banks())
        certificates = [_certificate(der) for der in found.certificates]
        members = {
            "ek_hash": found.hash.hex(),
            "ek": found.kind,
            "ek_handle": None if found.handle is None else f"0x{found.handle:08x}",
            "certificates": certificates,
            "tpm": dict(maker),
            "pcrs": {bank: {str(i): value.hex() for i, value in values.items()} for bank, values in pcrs.items()},
        }
        where = "created when needed" if found.handle is None else f"at 0x{found.handle:08x}"
        lines = [
            f"EK hash:      {found.hash.hex()}",
            f"EK:           {found.kind}, {where}",
            f"TPM:          {maker['manufacturer']} {maker['model']}, firmware {maker['firmware_version']}",
        ]
        if not certificates:
            lines.append("certificate:  none: only an inventory entry with the EK hash lets this device in")
        for one in certificates:
            lines.append(f"certificate:  sha256 {one['sha256']}")
            lines += [f"  {name:11} {one[name]}" for name in ("issuer", "not_after") if name in one]
        for bank, values in pcrs.items():
            lines += [f"{f'{bank}:{index}':13} {value.hex()}" for index, value in values.items()]
        _show(members, "\n".join(lines), as_json)


app.command(epilog=CODES)(serve)


# ---- What people and machines are shown -----------------------------------------------------------------------------


def _enrolled(state_dir: Path, tcti: str, eventlog: Path | None, ima: Path | None) -> Agent:
    """For commands that attest first where no attestation counts any more."""
    if StateDir(state_dir).load() is None:
        raise NotEnrolled(seen=str(state_dir))
    return assemble(Options(state_dir, tcti, eventlog=eventlog, ima=ima))


def _show(members: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(members, ensure_ascii=False) if as_json else text)


def _show_answer(word: str, answer: Enrolled | WaitAnswer, as_json: bool) -> None:
    if isinstance(answer, Enrolled):
        _show_credential(word, answer, as_json)
        return
    text = f"{answer.state}: known to the service, and given nothing yet; ask again in {answer.retry_after} s"
    _show({"state": answer.state, "retry_after": answer.retry_after, "result": dict(answer.result)}, text, as_json)
    raise typer.Exit(WAITING)


def _show_credential(word: str, known: Enrolled, as_json: bool, *, now: float | None = None) -> None:
    text = "\n".join([word, *_lines(known, known.record.obtained_at if now is None else now)])
    _show({"state": word.partition(" (")[0]} | _members(known), text, as_json)


def _members(known: Enrolled) -> dict[str, Any]:
    record = known.record
    return {
        "server": record.server,
        "device_id": record.device_id,
        "spiffe_id": record.spiffe_id,
        "serial": f"{known.leaf.serial_number:040x}",
        "obtained_at": record.obtained_at,
        "renew_at": record.renew_at,
        "expires_at": record.expires_at,
        "result": dict(record.result),
    }


def _lines(known: Enrolled, now: float) -> list[str]:
    record = known.record
    return [
        f"identity:     {record.spiffe_id}",
        f"serial:       {known.leaf.serial_number:040x}",
        f"server:       {record.server}",
        f"expires:      {_when(record.expires_at)} ({_span(record.expires_at - now)})",
        f"renews:       {_when(record.renew_at)} ({_span(record.renew_at - now)})",
    ]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    size = abs(int(seconds))
    said = f"{size // 3600} h {size // 60 % 60} min" if size >= 3600 else f"{size // 60} min {size % 60} s"
    return f"in {said}" if seconds >= 0 else f"{said} ago"


def _certificate(der: bytes) -> dict[str, str]:
    found = {"sha256": hashlib.sha256(der).hexdigest()}
    try:
        read = x509.load_der_x509_certificate(der)
        found |= {"issuer": read.issuer.rfc4514_string(), "not_after": f"{read.not_valid_after_utc:%Y-%m-%d}"}
    except (ValueError, AttributeError):
        pass  # some makers' certificates are odd; the service reads them with more patience
    return found


def main() -> None:
    """The entry point."""
    sys.exit(app())
