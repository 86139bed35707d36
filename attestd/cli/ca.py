"""`attestd ca`: the authority's own keys, looked after on the machine where they are (docs/keys.md).

These acts change files, so they need the instance's folder and its owner; each leaves a row in the audit trail, written
before the act. A running service takes up what changed within seconds.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(help="The authority's own keys: what there is, rotation, encryption.", no_args_is_help=True)

Named = Literal["root", "issuer", "bundle", "audit", "token", "sealing"]
_COLUMNS = {"kind": "KIND", "name": "NAME", "state": "STATE", "since": "SINCE", "ends": "ENDS", "place": "KEY"}
_DUE = {"kind": "KIND", "stage": "NEXT STAGE", "at": "FROM"}


@app.command("list")
def list_(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the keys, where each stands in its rotation, and what may be done next."""
    from attestd.cli.keydesk import KeyDesk

    with failing(as_json=as_json):
        desk = KeyDesk(dir)
        rows = [asdict(key) for key in desk.authority.held()]
        stages = [asdict(stage) for stage in desk.authority.stages(desk.now)]
        shown = [row | {"since": moment(row["since"] or None), "ends": moment(row["ends"])} for row in rows]
        soon = [stage | {"at": moment(stage["at"]) if stage["at"] else "any time"} for stage in stages]
        text = f"{table(shown, _COLUMNS, empty='')}\n\n{table(soon, _DUE, empty='')}"
        emit({"keys": rows, "due": stages}, as_json=as_json, text=text)


@app.command()
def rotate(
    kind: Annotated[Named, typer.Argument(help="Which keys: root, issuer, bundle, audit, token or sealing.")],
    dir: Dir = DEFAULT_DIR,
    stage: Annotated[
        Literal["prepare", "activate", "retire"] | None, typer.Option(help="This stage, and not the one that is due.")
    ] = None,
    at_once: Annotated[bool, typer.Option("--now", help="Do it although it is too early.")] = False,
    as_json: Json = False,
) -> None:
    """Do the stage of a rotation that is due: prepare a next key, activate it, or retire the old one.

    Says when the following stage is due. An issuer is never retired while a certificate of it is valid.
    """
    from attestd.cli.keydesk import KeyDesk

    with failing(as_json=as_json):
        desk = KeyDesk(dir)
        done, due = desk.rotate(kind, stage, at_once=at_once)
        when = f"from {moment(due.at)} on" if due.at else "whenever you want the next rotation"
        said = {"kind": kind, "stage": done[0], "name": done[1], "next": due.stage, "next_at": due.at}
        emit(said, as_json=as_json, text=f"{kind}: {done[0]} {done[1]}. Next: {due.stage}, {when}.")


@app.command()
def encrypt(
    dir: Dir = DEFAULT_DIR,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="The file with the passphrase; written into attestd.toml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Encrypt the key files that are not yet. Interrupted, it leaves a working instance; run it again then.

    The passphrase comes from the file that [keys] passphrase_file names. Back that file up apart from the instance.
    """
    from attestd.ca.encryption import encrypt_keys
    from attestd.ca.rotation import alone
    from attestd.cli.instance import name_passphrase_file
    from attestd.cli.keydesk import KeyDesk

    with failing(as_json=as_json):
        if passphrase_file is not None:
            name_passphrase_file(dir, passphrase_file)
        desk = KeyDesk(dir)
        with alone(dir):
            desk.note("encrypt-keys", "keys")
            names = encrypt_keys(dir, desk.unlocking, os.urandom)
        emit({"encrypted": names}, as_json=as_json, text=f"Encrypted: {', '.join(names) or 'nothing was plain'}.")
