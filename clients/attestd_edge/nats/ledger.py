"""Who logged in here: which connections last, and what is known of each device that ever sent something.

On disk, so that a restart forgets neither whom to disconnect nor whose messages wait in the stream. A power cut may
cost the last second: connections end by themselves within minutes, and a message whose device is unknown is withheld.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self

from attestd.credentials.facts import Facts
from attestd.credentials.identity import VerifiedIdentity, admit
from attestd.errors import AttestdError, Misconfigured
from attestd.ids import DeviceId, Serial, SpiffeId
from attestd_edge.nats.request import Permissions
from attestd_edge.views import View

LEDGER_FILE: Final = "nats.sqlite3"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS device (
    id TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, facts BLOB NOT NULL, serial TEXT NOT NULL, credential TEXT NOT NULL,
    kind TEXT NOT NULL, not_after INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS connection (
    server TEXT NOT NULL, number INTEGER NOT NULL, device TEXT NOT NULL, publish TEXT NOT NULL, subscribe TEXT NOT NULL,
    until INTEGER NOT NULL, PRIMARY KEY (server, number)
) WITHOUT ROWID;
"""


class LedgerUnusable(Misconfigured):
    """The record of logins can't be used"""

    remedy = "Check the state folder's space and permissions; a damaged nats.sqlite3 may be removed: all log in anew."


@dataclass(frozen=True, slots=True)
class Known:
    """What a device's last login proved."""

    spiffe_id: SpiffeId
    facts: Facts
    serial: Serial
    credential_id: str
    kind: Literal["x509", "jwt"]
    not_after: datetime

    @classmethod
    def of(cls, identity: VerifiedIdentity) -> Self:
        return cls(
            identity.spiffe_id,
            identity.facts,
            identity.certificate_serial,
            identity.credential_id,
            identity.kind,
            identity.not_after,
        )

    def stands(self, view: View) -> VerifiedIdentity:
        """The identity, if it still stands under this bundle. Raises what `admit` raises.

        The credential's end is not asked about: a connection ends with it by itself, and what was sent while it lasted
        was sent by this device.
        """
        return admit(
            spiffe_id=self.spiffe_id,
            facts=self.facts,
            serials=(self.serial,),
            credential_id=self.credential_id,
            not_after=self.not_after,
            kind=self.kind,
            status=view.bundle.status,
            revoked=view.bundle.revoked,
        )


@dataclass(frozen=True, slots=True)
class Connection:
    """One that was let in: a server's id, its number there, and what it was told it may do."""

    server: str
    number: int
    device: DeviceId
    permissions: Permissions
    until: datetime


class Ledger:
    """One file; one process writes it. Not safe for threads: the event loop owns it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._last: dict[tuple[str, int], tuple[Connection, Known]] = {}
        self._entered: list[Connection] | None = None  # in the block that is open
        rows = database.execute("SELECT server, number, device, publish, subscribe, until FROM connection").fetchall()
        for server, number, device, publish, subscribe, until in rows:
            permissions = Permissions(tuple(publish.split()), tuple(subscribe.split()))
            found = Connection(server, number, DeviceId(device), permissions, datetime.fromtimestamp(until, UTC))
            if (known := self.known(found.device)) is not None:
                self._last[server, number] = found, known

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises LedgerUnusable."""
        try:
            database = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
            return cls(database)
        except (sqlite3.Error, AttestdError, ValueError) as error:
            raise LedgerUnusable(f"{folder / LEDGER_FILE}: {error}") from error

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is entered in the block is written at its end, and counts only then. Raises LedgerUnusable, also where a
        full disk ended the transaction before."""
        self._run("BEGIN IMMEDIATE")
        entered: list[Connection] = []
        self._entered = entered
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            for connection in entered:
                self._last.pop((connection.server, connection.number), None)
            raise
        finally:
            self._entered = None

    def _run(self, statement: str) -> None:
        try:
            self._database.execute(statement)
        except sqlite3.Error as error:
            raise LedgerUnusable(f"Logins can't be written down: {error}") from error

    def enter(self, identity: VerifiedIdentity, connection: Connection) -> None:
        """Before the answer goes out: what is not written down is not let in. Raises LedgerUnusable."""
        if self._entered is None:
            with self.together():
                self.enter(identity, connection)
            return
        allowed = connection.permissions
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    str(identity.device_id),
                    str(identity.spiffe_id),
                    identity.facts.encode(),
                    str(identity.certificate_serial),
                    identity.credential_id,
                    identity.kind,
                    int(identity.not_after.timestamp()),
                ),
            )
            self._database.execute(
                "INSERT OR REPLACE INTO connection VALUES (?, ?, ?, ?, ?, ?)",
                (
                    connection.server,
                    connection.number,
                    str(identity.device_id),
                    " ".join(allowed.publish),
                    " ".join(allowed.subscribe),
                    int(connection.until.timestamp()),
                ),
            )
        except (sqlite3.Error, OverflowError) as error:
            raise LedgerUnusable(f"A login can't be written down: {error}") from error
        self._last[connection.server, connection.number] = connection, Known.of(identity)
        self._entered.append(connection)

    def known(self, device: DeviceId) -> Known | None:
        """What the last login of this device proved; None for one that never logged in here."""
        row = self._database.execute("SELECT * FROM device WHERE id = ?", (str(device),)).fetchone()
        if row is None:
            return None
        _, spiffe_id, facts, serial, credential, kind, not_after = row
        try:
            return Known(
                SpiffeId.parse(spiffe_id),
                Facts.decode(facts),
                Serial.parse(serial),
                credential,
                "jwt" if kind == "jwt" else "x509",
                datetime.fromtimestamp(not_after, UTC),
            )
        except AttestdError as error:
            raise LedgerUnusable(f"The record of {device} is damaged: {error}") from error

    def connections(self) -> list[tuple[Connection, Known]]:
        """All that were let in and may last, each with what its login proved."""
        return list(self._last.values())

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        self._last.pop((connection.server, connection.number), None)
        self._database.execute(
            "DELETE FROM connection WHERE server = ? AND number = ?", (connection.server, connection.number)
        )
