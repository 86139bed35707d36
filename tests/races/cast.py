"""Devices in every state, what each may ask and what operators may do to it, prepared once and played many times.

    cast = Cast(folder)                              # a world; its tables can be put back: cast.restore()
    part = cast.renew("active")                      # a signed request whose nonce is fresh after every restore
    other = cast.act("active", Event.RETIRE)

A `Part` also says what it does to the devices when it succeeds; `tests.races.oracle` holds the registry to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import JSON

from attestd.config import BrakeSettings, ReferenceSettings
from attestd.ids import DeviceId, EkHash, Serial, Site, Tier
from attestd.operations import Act
from attestd.protocol.derivations import completion_proof, device_certify_data
from attestd.protocol.evidence import CertifiedKey
from attestd.protocol.messages import CompleteRequest, RenewalRequest, TokenRequest, WaitAnswer
from attestd.protocol.signed import SignedEnvelope, sign_flattened
from attestd.registry import devices, issued
from attestd.registry.states import Event, State
from attestd.registry.tables import METADATA
from tests.database import KIND
from tests.forger import forge_ck
from tests.service import PCRS, SITE, URL, SoftDevice, World
from tests.soft_device import signer

__all__ = ["VOLATILE", "Cast", "Part"]

# What the verbs write, children before parents.
VOLATILE = (
    *("issued", "revocations", "spends", "audit", "blocked_eks", "devices", "counters"),
    *("evidence", "ima_parts", "endorsements", "held", "quarantines"),
)
BAD_PCRS = {"sha256": PCRS["sha256"] | {4: b"\xee" * 32}}
REFERENCES = (ReferenceSettings("good", {"sha256": {4: (PCRS["sha256"][4],)}}),)

Events = Callable[[object], tuple[Event, ...]]


@dataclass(frozen=True)
class Part:
    """A verb on one device. `slot` names the device; `appraised` is the reading, counted from 0, on which a credential
    is based (None: none is issued); `events` are what its success does; `rival` parts can't both succeed."""

    name: str
    slot: str
    verb: Callable[[], object]
    events: Events = lambda _outcome: ()
    appraised: int | None = None
    token: bool = False
    new_ek: str = ""  # whose EK takes the device over (replacing)
    rival: bool = False
    revokes: str = ""  # a single serial
    imports: bool = False  # the inventory names the device


@dataclass
class Cast:
    """One world with a device in each state, named by it; `unknown` has not asked, `second` is another active one."""

    folder: Path
    kind: str = KIND
    world: World = field(init=False)
    people: dict[str, SoftDevice] = field(init=False, default_factory=dict)
    ids: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        world = self.world = World(
            self.folder,
            database=self.kind,
            references=REFERENCES,
            brake=BrakeSettings(enabled=False),  # hundreds of bad attestations a minute are what is played here
        )
        for slot in ("active", "quarantined", "retired", "second"):
            self.people[slot] = world.enrolled()
        for slot in ("pending", "approved", "rejected", "unknown"):
            self.people[slot] = world.device()
            if slot != "unknown":
                assert self.people[slot].enroll().status_code == 202
        for slot, person in self.people.items():
            self.ids[slot] = "" if slot == "unknown" else str(world.row(person).id)
        world.approve(self.people["approved"])
        for slot, event in (
            ("quarantined", Event.QUARANTINE),
            ("retired", Event.RETIRE),
            ("rejected", Event.REJECT),
        ):
            self.act(slot, event).verb()
        self._database = _Sqlite(world) if world.url.startswith("sqlite") else _Postgres(world)
        self._database.run("DELETE FROM audit; DELETE FROM spends;")  # nobody asks for them, and they cost time
        self.base = self.rows()
        self._script = "".join(f"DELETE FROM {name};" for name in VOLATILE)
        for name in reversed(VOLATILE):
            self._script += "".join(self._insert(name, row) for row in self.base[name])

    def close(self) -> None:
        self._database.close()
        self.world.close()

    # ---- The tables -------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Puts every table back; what the parts prepared can be sent again."""
        self._database.run(self._script)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All rows that verbs write; JSON as its text."""
        return {name: self._database.rows(_select(name, self._database.as_text)) for name in VOLATILE}

    def waits_for_lock(self) -> Callable[[Any], bool] | None:
        """The stage's probe: None where acting transactions exclude each other."""
        return self._database.waits_for_lock

    def _insert(self, name: str, row: Mapping[str, Any]) -> str:
        values = ", ".join(self._database.literal(value) for value in row.values())
        columns = ", ".join(f'"{column}"' for column in row)
        return f"INSERT INTO {name} ({columns}) VALUES ({values});"

    # ---- What devices ask -------------------------------------------------------------------------------------

    def renew(self, slot: str) -> Part:
        verb = self._signed(slot, "/v1/renewals", RenewalRequest().to_bytes(), self.world.service.lifecycle.renew)
        return Part(f"renew {slot}", slot, verb, appraised=0)

    def token(self, slot: str) -> Part:
        payload = TokenRequest("edge", "dpop").to_bytes()
        verb = self._signed(slot, "/v1/tokens", payload, self.world.service.lifecycle.token)
        return Part(f"token {slot}", slot, verb, appraised=0, token=True)

    def rekey(self, slot: str) -> Part:
        person, nonce, key = self.people[slot], self._nonce(), forge_ck()
        said = {"device_id": self.ids[slot], "ak_name": person.tpm.ak.name, "ck_name": key.name}
        person.tpm.ck, old = key, person.tpm.ck
        attest, signature = person.tpm.certify(device_certify_data(nonce=nonce, **said))
        person.tpm.ck = old
        payload = RenewalRequest(CertifiedKey(key.public, attest, signature)).to_bytes()
        verb = self._signed(slot, "/v1/renewals", payload, self.world.service.lifecycle.renew, nonce=nonce)
        return Part(f"rekey {slot}", slot, verb, lambda _: (Event.REKEY,), appraised=0)

    def attest(self, slot: str, *, bad: bool = False) -> Part:
        person, nonce = self.people[slot], self._nonce()
        person.pcrs = BAD_PCRS if bad else PCRS
        payload = person.attestation(nonce).to_bytes()
        person.pcrs = PCRS
        verb = self._signed(slot, "/v1/attestations", payload, self.world.service.attestations.attest, nonce=nonce)

        # What a bad one does depends on the state that it finds: it quarantines an active device.
        events = (Event.ATTEST, Event.QUARANTINE) if bad else (Event.ATTEST,)
        return Part(f"attest {slot}{' badly' * bad}", slot, verb, lambda _: events, appraised=0)

    def complete(self, slot: str) -> Part:
        """A complete enrollment, with fresh evidence for a challenge that was begun before."""
        world, person = self.world, self.people[slot]
        challenge = world.service.enrollment.begin(person.begin_request(), now=world.clock())
        secret = person.tpm.activate(challenge.credential_blob, challenge.secret)
        person.tpm.ck, old = forge_ck(), person.tpm.ck
        body = person.evidence(challenge).to_bytes()
        person.tpm.ck = old
        request = CompleteRequest(challenge.challenge, body, completion_proof(secret=secret, body=body))

        def verb() -> object:
            return world.service.enrollment.complete(request, now=world.clock(), request_id="complete")

        def events(outcome: object) -> tuple[Event, ...]:
            return (Event.ASK,) if isinstance(outcome, WaitAnswer) else (Event.ACTIVATE,)

        return Part(f"complete {slot}", slot, verb, events, appraised=0)

    def _signed(
        self, slot: str, path: str, payload: bytes, verb: Callable[..., object], nonce: bytes = b""
    ) -> Callable[[], object]:
        sign = signer(self.people[slot].tpm.ck.private)
        said: dict[str, Any] = {"alg": "ES256", "kid": self.ids[slot], "url": URL + path}
        request = sign_flattened(payload, sign=sign, nonce=nonce or self._nonce(), **said)
        envelope = SignedEnvelope.parse_flattened(request, limit=1 << 20)
        return lambda: verb(envelope, url=URL + path, now=self.world.clock(), request_id=path)

    def _nonce(self) -> bytes:
        return self.world.service.lifecycle.nonce(self.world.clock())

    # ---- What operators do ------------------------------------------------------------------------------------

    def act(self, slot: str, event: Event, *, seen: bool = False) -> Part:
        """REJECT, QUARANTINE, RELEASE or RETIRE; with `seen` only if the device is as the operator saw it."""
        device_id, version = DeviceId(self.ids[slot]), self._version(slot) if seen else None

        def verb() -> object:
            operations = self.world.service.operations
            return operations.change_state(device_id, event, act=self._by_operator(), expected_version=version)

        return Part(f"{event.value} {slot}", slot, verb, lambda _: (event,), rival=seen)

    def acts(self, slot: str, *sequence: Event) -> Part:
        """One act after another, by the same operator."""
        verbs = [self.act(slot, event).verb for event in sequence]
        name = " and ".join(event.value for event in sequence)
        return Part(f"{name} {slot}", slot, lambda: [verb() for verb in verbs][-1], lambda _: sequence)

    def approve(self, slot: str, *, seen: bool = False) -> Part:
        device_id, version = DeviceId(self.ids[slot]), self._version(slot) if seen else None

        def verb() -> object:
            return self.world.service.operations.approve(
                device_id,
                tier=Tier.DEVICE,
                site=Site(SITE),
                labels=None,
                act=self._by_operator(),
                expected_version=version,
            )

        return Part(f"approve {slot}", slot, verb, lambda _: (Event.APPROVE,), rival=seen)

    def replace(self, slot: str, new: str, *, seen: bool = False) -> Part:
        """The device's TPM gives way to the one of `new`, who is unknown, or waits and was never approved."""
        device_id, version = DeviceId(self.ids[slot]), self._version(slot) if seen else None
        ek_hash: EkHash = self.people[new].ek_hash

        def verb() -> object:
            operations = self.world.service.operations
            return operations.replace_tpm(device_id, ek_hash, act=self._by_operator(), expected_version=version)

        return Part(f"replace {slot} by {new}", slot, verb, lambda _: (Event.REPLACE,), new_ek=new, rival=seen)

    def import_(self, slot: str) -> Part:
        """An inventory that names this device's TPM, and its id if it has one."""
        line = f"ek_hash,tier,site\n{self.people[slot].ek_hash.hex()},device,{SITE}\n"

        def verb() -> object:
            return self.world.service.operations.import_inventory(line.encode(), self._by_operator())

        return Part(f"import {slot}", slot, verb, imports=True)

    def revoke(self, slot: str) -> Part:
        """One certificate: the device's newest."""
        with self.world.registry.reading() as c:
            serial: Serial = issued.page(c, device_id=DeviceId(self.ids[slot]), limit=1)[0].serial

        def verb() -> object:
            self.world.service.operations.revoke(serial, self._by_operator())
            return serial

        return Part(f"revoke {slot}", slot, verb, revokes=str(serial))

    def _by_operator(self) -> Act:
        return Act(actor="operator", now=self.world.clock(), request_id="act", reason="a test")

    def _version(self, slot: str) -> int:
        with self.world.registry.reading() as c:
            return devices.by_id(c, DeviceId(self.ids[slot])).state_version

    def state(self, slot: str) -> State | None:
        """What the slot is before anything happens."""
        return None if slot == "unknown" else State("active" if slot == "second" else slot)


def _select(name: str, as_text: str) -> str:
    columns = METADATA.tables[name].c
    found = [as_text.format(column.name) if isinstance(column.type, JSON) else f'"{column.name}"' for column in columns]
    return f"SELECT {', '.join(found)} FROM {name} ORDER BY 1"


class _Sqlite:
    """The tables, past the registry."""

    as_text = '"{0}"'
    waits_for_lock = None

    def __init__(self, world: World) -> None:
        import sqlite3

        self._connection = sqlite3.connect(world.url.removeprefix("sqlite:///"), isolation_level=None)
        self._connection.row_factory = sqlite3.Row

    def run(self, script: str) -> None:
        self._connection.executescript(f"BEGIN IMMEDIATE;{script}COMMIT;")

    def rows(self, query: str) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(query)]

    def close(self) -> None:
        self._connection.close()

    @staticmethod
    def literal(value: object) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"X'{value.hex()}'"
        return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


class _Postgres:
    """The tables, and who waits for whom, past the registry."""

    as_text = '"{0}"::text AS "{0}"'

    def __init__(self, world: World) -> None:
        import psycopg
        from psycopg.rows import dict_row

        self._rows = dict_row
        self._connection = psycopg.connect(world.url, autocommit=True)
        self._watch = psycopg.connect(world.url, autocommit=True)
        self._runs = 0

    def run(self, script: str) -> None:
        self._connection.execute(f"BEGIN;{script}COMMIT;")
        self._runs += 1
        if self._runs % 100 == 0:  # nobody else clears away what is put back
            self._connection.execute(f"VACUUM {', '.join(VOLATILE)}")

    def rows(self, query: str) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=self._rows) as cursor:
            return cursor.execute(query).fetchall()

    def waits_for_lock(self, connection: Any) -> bool:
        query = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        return bool(self._watch.execute(query, (connection.info.backend_pid,)).fetchone()[0])

    def close(self) -> None:
        self._watch.close()
        self._connection.close()

    @staticmethod
    def literal(value: object) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, bytes):
            return f"'\\x{value.hex()}'"
        return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
