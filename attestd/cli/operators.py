"""`attestd operators`: who may call the admin API, by a key of their own, or in the web console by passkey."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.ca.keyfiles import KeyFileExists, write_public, write_secret
from attestd.cli.calls import service
from attestd.cli.devices import UnreadableFile, read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Reason
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(
    help="Operators: people and programs that may look, act or administer, in the console or by a key of their own.",
    epilog="For the console: `attestd operators invite ada --role operator`, and send ada the link. For the command "
    "line an operator makes a key on their own machine: `attestd operators keygen --out ada.key`. An admin adds it: "
    "`attestd operators add ada --role operator --key ada.key.pub --out ada.pem`. From then on the operator works from "
    "there: `attestd --server URL --key ada.key --credential ada.pem devices list`.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The operator's name, as audit rows will show it.")]

_COLUMNS = {
    "name": "NAME",
    "role": "ROLE",
    "ways": "WAYS IN",
    "seen": "IN THE CONSOLE",
    "since": "SINCE",
    "disabled": "DISABLED",
}
_INVITATIONS = {"id": "ID", "name": "NAME", "role": "ROLE", "created_by": "BY", "until": "UNTIL"}
_SESSIONS = {
    "id": "ID",
    "operator": "OPERATOR",
    "role": "ROLE",
    "method": "BY",
    "from": "FROM",
    "seen": "SEEN",
    "until": "UNTIL",
    "browser": "BROWSER",
}
_PASSKEYS = {"id": "ID", "label": "LABEL", "kept": "KEPT", "since": "SINCE", "used": "USED"}


def _ways(entry: dict[str, Any]) -> str:
    """By what an operator comes in."""
    count = entry["passkeys"]
    ways = ["key"] if entry["key"] else []
    ways += [f"{count} passkey{'s' if count > 1 else ''}"] if count else []
    return ", ".join([*ways, *entry["identities"]])


@app.command()
def keygen(
    out: Annotated[Path, typer.Option(help="Write the private key here; nobody but you will be able to read it.")],
    as_json: Json = False,
) -> None:
    """Make a key on this machine. Its public half is written beside it, to FILE.pub, for an admin to add."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    with failing(as_json=as_json):
        public = out.with_name(f"{out.name}.pub")
        for file in (out, public):
            if file.exists() or file.is_symlink():
                raise KeyFileExists(f"{file} exists.", remedy="Name another file with --out: no key is overwritten.")
        key = ec.generate_private_key(ec.SECP256R1())
        private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_secret(out, private_pem, entropy=os.urandom)
        write_public(public, public_pem, entropy=os.urandom)
        emit(
            {"key": str(out), "public_key": str(public)},
            as_json=as_json,
            text=f"Your key is {out}. Keep it.\nGive {public} to an admin: "
            f"attestd operators add NAME --role ROLE --key {public} --out NAME.pem",
        )


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer looks, operator acts on devices, admin may do everything.")],
    key: Annotated[Path, typer.Option(help="The operator's public key (PEM), made on their machine by `keygen`.")],
    out: Annotated[Path | None, typer.Option(help="Write the credential here (PEM), for the operator.")] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Add an operator. The credential goes to the operator; it holds the root that their machine will pin.

    Who was disabled can be added anew, with any role. Repeat the command before the credential ends to renew it.
    """
    with failing(as_json=as_json):
        message = {"name": name, "role": role, "public_key": read_file(key).decode("ascii", "replace")}
        done = service(dir).post("/operators", message)
        credential = done["chain"] + done["root"]
        if out is not None:
            try:
                out.write_text(credential, "ascii")
            except OSError as error:
                raise UnreadableFile(f"{out} can't be written.", seen=error.strerror) from None
        emit(done, as_json=as_json, text=credential.rstrip("\n") if out is None else f"Wrote {out}.")


@app.command()
def invite(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer looks, operator acts on devices, admin may do everything.")],
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Invite a person to the web console: a one-time link, good for 24 hours, by which they register a passkey.

    Whoever opens the link first is that person, so send it where only they read. A new link ends the one before.
    """
    with failing(as_json=as_json):
        done = service(dir).post("/invitations", {"name": name, "role": role})
        text = (
            f"{done['link']}\nIt makes whoever opens it {done['name']} ({done['role']}), once, "
            f"until {moment(done['expires_at'])}."
        )
        emit(done, as_json=as_json, text=text)


@app.command()
def invitations(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the invitations that can still be used, without their secrets."""
    with failing(as_json=as_json):
        found: list[dict[str, Any]] = service(dir).get("/invitations")["invitations"]
        rows = [each | {"until": moment(each["expires_at"])} for each in found]
        emit(found, as_json=as_json, text=table(rows, _INVITATIONS, empty="No open invitations."))


@app.command()
def withdraw(
    id: Annotated[str, typer.Argument(metavar="ID", help="The invitation's id, as `invitations` shows it.")],
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Withdraw an invitation: its link opens nothing any more."""
    with failing(as_json=as_json):
        done = service(dir).post(f"/invitations/{id}/withdraw", {"reason": reason})
        emit(done, as_json=as_json, text=f"The invitation for {done['name']} is withdrawn.")


@app.command()
def sessions(
    end: Annotated[str | None, typer.Option(metavar="ID", help="End this session instead.")] = None,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """List who is signed in to the web console, and where; or end a session at once."""
    with failing(as_json=as_json):
        api = service(dir)
        if end is not None:
            done = api.post(f"/sessions/{end}/revoke", {"reason": reason})
            emit(done, as_json=as_json, text=f"Session {end} is over.")
            return
        found: list[dict[str, Any]] = api.get("/sessions")["sessions"]
        rows = [
            each
            | {"seen": moment(each["seen_at"]), "until": moment(each["idle_until"])}
            | {"from": each["browser"]["address"], "browser": each["browser"]["agent"][:60]}
            for each in found
        ]
        emit(found, as_json=as_json, text=table(rows, _SESSIONS, empty="Nobody is signed in."))


@app.command()
def passkeys(
    name: Name,
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Remove this passkey instead.")] = None,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """List an operator's passkeys; or remove one, which ends the sessions that it opened."""
    with failing(as_json=as_json):
        api = service(dir)
        if remove is not None:
            done = api.post(f"/passkeys/{remove}/remove", {"reason": reason})["passkey"]
            emit(done, as_json=as_json, text=f"{done['label']} of {done['operator']} is removed.")
            return
        found: list[dict[str, Any]] = api.get("/passkeys", operator=name)["passkeys"]
        rows = [
            each
            | {"since": moment(each["created_at"]), "used": moment(each["used_at"])}
            | {"kept": "synced" if each["backed_up"] else "on one device"}
            for each in found
        ]
        emit(found, as_json=as_json, text=table(rows, _PASSKEYS, empty=f"{name} has no passkeys."))


@app.command("list")
def list_(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the operators, the disabled ones too."""
    with failing(as_json=as_json):
        found: list[dict[str, Any]] = service(dir).get("/operators")["operators"]
        rows = [
            entry
            | {"since": moment(entry["created_at"]), "disabled": moment(entry["disabled_at"])}
            | {"ways": _ways(entry), "seen": moment(entry["seen_at"])}
            for entry in found
        ]
        emit(found, as_json=as_json, text=table(rows, _COLUMNS, empty="No operators."))


@app.command()
def disable(name: Name, dir: Dir = DEFAULT_DIR, reason: Reason = "", as_json: Json = False) -> None:
    """Disable an operator: their next call is refused, by every process. The last admin can't be disabled."""
    with failing(as_json=as_json):
        done = service(dir).post(f"/operators/{name}/disable", {"reason": reason})
        emit(done, as_json=as_json, text=f"{name} is disabled.")
