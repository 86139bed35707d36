"""What must be true after any interleaving: the commits, in their order, explain every answer and every row.

1. Every refusal has a name, and none of them is the database's.
2. The commits in their order are a legal story: each event finds the device in a state that allows it, and whatever is
   issued is issued to an active device.
3. Nothing is issued on an old state: between the reading that a credential is based on and its commit, nobody else
   changed that device (the rule of `state_version`).
4. The device ends in the state of that story, with a version that counts its changes.
5. Who was answered is recorded: certificate, used nonce with the very answer, audit row; and nobody else is.
6. A certificate that is not revoked belongs to an active or a quarantined device, and to what it last enrolled as.
7. Of acts that were decided on the same version, one wins. A replaced TPM stands for nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attestd.errors import AttestdError, Misconfigured, Unavailable
from attestd.ids import DeviceId
from attestd.protocol.encoding import read_object
from attestd.protocol.messages import WaitAnswer
from attestd.registry.devices import STATUS
from attestd.registry.states import TRANSITIONS, Event, State
from tests.races.cast import Cast, Part
from tests.races.schedule import Run

__all__ = ["judge"]

_BUMPS = frozenset(Event) - {Event.ATTEST}


def judge(cast: Cast, parts: Sequence[Part], run: Run) -> None:
    """Raises AssertionError with the story that breaks a rule."""
    rows = cast.rows()
    try:
        _Trial(cast, parts, run, rows).hold()
    except AssertionError as broken:
        told = [f"{parts[number].name}: {label}" for number, label in run.log]
        outcomes = [f"{part.name} -> {outcome!r}"[:300] for part, outcome in zip(parts, run.outcomes, strict=True)]
        raise AssertionError("\n".join([str(broken), *told, *outcomes])) from None


class _Trial:
    def __init__(self, cast: Cast, parts: Sequence[Part], run: Run, rows: dict[str, list[dict[str, Any]]]) -> None:
        self.cast, self.parts, self.run, self.rows = cast, parts, run, rows
        self.targets = {number: part.slot for number, part in enumerate(parts)}  # whose device it was, in the end
        self.devices = {row["id"]: row for row in rows["devices"]}
        self.revoked = {row["serial"] for row in rows["revocations"]}
        self.spent = {bytes(row["answer"]) for row in rows["spends"] if row["answer"] is not None}
        # (place in the log, verb) of every commit; a verb may commit more than once.
        self.commits = [(place, number) for place, (number, label) in enumerate(run.log) if label == "committed"]

    def hold(self) -> None:
        for outcome in self.run.outcomes:  # 1
            if isinstance(outcome, BaseException):
                named = isinstance(outcome, AttestdError) and not isinstance(outcome, Unavailable | Misconfigured)
                assert named, f"not a refusal: {outcome!r}"
        self._story()
        for number, part in enumerate(self.parts):
            self._on_current_state(number, part)
            self._recorded(number, part)
        self._nothing_else_recorded()
        self._certificates()
        self._conflicts()

    def succeeded(self, number: int) -> bool:
        return not isinstance(self.run.outcomes[number], BaseException)

    def commits_of(self, number: int) -> list[int]:
        return [place for place, who in self.commits if who == number]

    def effects(self) -> list[tuple[int, int, Event]]:
        """(place, verb, event) of what succeeded, in the order of commits."""
        found: list[tuple[int, int, Event]] = []
        for number, part in enumerate(self.parts):
            places = self.commits_of(number)
            if not self.succeeded(number) or not places:
                continue
            events = part.events(self.run.outcomes[number])
            apart = len(places) == len(events)  # as many transactions as events, or all events in the last one
            found.extend((places[n] if apart else places[-1], number, event) for n, event in enumerate(events))
        return sorted(found, key=lambda effect: effect[0])

    # ---- 2, 4 -------------------------------------------------------------------------------------------------

    def _story(self) -> None:
        """Plays the commits on a model: what state each slot's device is in, and whom each slot's TPM stands for."""
        slots = {part.slot for part in self.parts} | {part.new_ek for part in self.parts if part.new_ek}
        states: dict[str, State | None] = {slot: self.cast.state(slot) for slot in slots}
        stands_for = {slot: slot for slot in slots}
        changes = dict.fromkeys(slots, 0)
        reborn: set[str] = set()  # its row is a new one, under an id that nobody knew before
        effects = self.effects()
        for place, number in self.commits:
            part = self.parts[number]
            slot = self.targets[number] = stands_for[part.slot]
            if part.imports and self.succeeded(number):
                if self.run.outcomes[number].added:  # type: ignore[attr-defined]
                    assert states[slot] in (None, State.PENDING), f"the inventory took {slot}, {states[slot]}"
                    states[slot] = State.APPROVED
                    reborn.add(slot)
                continue
            for event in (event for at, who, event in effects if (at, who) == (place, number)):
                if event is Event.ASK and states[slot] is None:
                    states[slot] = State.PENDING
                    reborn.add(slot)
                    continue
                if (event, states[slot]) == (Event.QUARANTINE, State.QUARANTINED) and part.appraised is not None:
                    continue  # it was bad, and stays where it is
                transition = TRANSITIONS[event]
                assert states[slot] in transition.come_from, f"{event} found {slot} {states[slot]}"
                changes[slot] += event in _BUMPS and not (event is Event.ASK and states[slot] is State.PENDING)
                states[slot] = transition.go_to or states[slot]
                if event is Event.REPLACE:
                    assert states[part.new_ek] in (None, State.PENDING), f"the TPM of a {states[part.new_ek]} device"
                    states[part.new_ek] = None
                    stands_for[part.new_ek] = slot
            if self._issues(number) and place == self.commits_of(number)[-1]:
                assert states[slot] is State.ACTIVE, f"{part.name} issued to {states[slot]}"
        for slot, state in states.items():
            self._ended(slot, state, changes[slot], slot in reborn, stands_for[slot])

    def _ended(self, slot: str, state: State | None, changes: int, reborn: bool, stands_for: str) -> None:
        if reborn and state is not None:
            ek_hash = bytes(self.cast.people[slot].ek_hash)
            found = [row["state"] for row in self.rows["devices"] if row["ek_hash"] == ek_hash]
            assert found == [state], f"{slot} is {found}, not {state}"
            return
        row = self.devices.get(self.cast.ids[slot])
        if state is None:
            assert row is None, f"{slot} is still there"
            assert stands_for != slot or not reborn, f"{slot} is nobody"
            return
        assert row is not None, f"{slot} is gone"
        before = next(r for r in self.cast.base["devices"] if r["id"] == row["id"])
        assert row["state"] == state, f"{slot} is {row['state']}, not {state}"
        assert row["state_version"] == before["state_version"] + changes, f"{slot}'s version"
        if STATUS[State(before["state"])] is not STATUS[state]:
            assert self._counter(self.rows) > self._counter(self.cast.base), "no bundle will say it"

    @staticmethod
    def _counter(rows: dict[str, list[dict[str, Any]]]) -> int:
        return int(next(row["value"] for row in rows["counters"] if row["name"] == "revision"))

    # ---- 3 ----------------------------------------------------------------------------------------------------

    def _issues(self, number: int) -> bool:
        """Whether it was given a credential now, not an answer that had been stored."""
        if self.parts[number].appraised is None or not isinstance(self.run.outcomes[number], bytes):
            return False
        return bool(self.commits_of(number))

    def _on_current_state(self, number: int, part: Part) -> None:
        if not self._issues(number) or part.appraised is None:
            return
        based_on = self.run.at(number, "view", part.appraised)
        committed = self.commits_of(number)[-1]
        assert based_on is not None, f"{part.name} read nothing"
        for place, other, event in self.effects():
            if other != number and self.targets[other] == self.targets[number] and event in _BUMPS:
                assert not based_on < place < committed, (
                    f"{part.name} was issued on what {self.parts[other].name} ended"
                )
        if part.token:
            for other, revoking in enumerate(self.parts):
                if revoking.revokes and revoking.slot == part.slot and self.succeeded(other):
                    place = self.commits_of(other)[-1]
                    chosen = self.run.at(number, "view", 2)
                    assert chosen is not None, f"{part.name} read no certificate"
                    assert not chosen < place < committed, f"{part.name} is bound to a revoked certificate"

    # ---- 5 ----------------------------------------------------------------------------------------------------

    def _recorded(self, number: int, part: Part) -> None:
        outcome = self.run.outcomes[number]
        if isinstance(outcome, bytes):
            assert outcome in self.spent, f"{part.name}'s answer is not kept for a retry"
            chain = read_object(outcome, limit=1 << 20).get("chain")
            if chain is not None:
                assert any(_serial_of(row["detail"]) in self.issued_serials() for row in self.rows["audit"])

    def issued_serials(self) -> set[str]:
        return {row["serial"] for row in self.rows["issued"]}

    def _nothing_else_recorded(self) -> None:
        before = {row["serial"] for row in self.cast.base["issued"]}
        fresh = self.issued_serials() - before
        certificates = sum(self._issues(number) and not part.token for number, part in enumerate(self.parts))
        assert len(fresh) == certificates, f"{len(fresh)} certificates for {certificates} answers"
        noted = {_serial_of(row["detail"]) for row in self.rows["audit"]}
        assert fresh <= noted, "a certificate is not in the trail"
        asked = sum(
            isinstance(outcome, bytes | WaitAnswer) and bool(self.commits_of(number))
            for number, outcome in enumerate(self.run.outcomes)
        )
        kept = len(self.rows["spends"]) - len(self.cast.base["spends"])
        assert kept >= asked, f"{kept} spent for {asked} answers"
        acted = len(self.rows["audit"]) - len(self.cast.base["audit"])
        assert acted >= len(self.commits), "an act is not in the trail"

    # ---- 6, 7 -------------------------------------------------------------------------------------------------

    def _certificates(self) -> None:
        for row in self.rows["issued"]:
            if row["device_id"] is None or row["serial"] in self.revoked:
                continue
            state = self.devices[row["device_id"]]["state"]
            assert state in (State.ACTIVE, State.QUARANTINED), f"a {state} device has a certificate that is not revoked"
        ends = {event: place for place, _, event in self.effects()}
        enrolled = ends.get(Event.ACTIVATE)
        if enrolled is not None:
            for number, part in enumerate(self.parts):
                issued_before = self._issues(number) and not part.token and self.commits_of(number)[-1] < enrolled
                if issued_before and part.slot == self._slot_of(Event.ACTIVATE, enrolled):
                    assert self._serial(number) in self.revoked, f"{part.name} outlived a new enrollment"

    def _slot_of(self, event: Event, place: int) -> str:
        return next(self.parts[who].slot for at, who, what in self.effects() if (at, what) == (place, event))

    def _serial(self, number: int) -> str:
        answer = self.run.outcomes[number]
        with self.cast.world.registry.reading() as c:
            from attestd.registry import issued

            device_id = DeviceId(self.cast.ids[self.parts[number].slot])
            chain = str(read_object(bytes(answer), limit=1 << 20)["chain"])  # type: ignore[call-overload]
            return next(str(i.serial) for i in issued.page(c, device_id=device_id) if _pem_of(i.der) in chain)

    def _conflicts(self) -> None:
        rivals = [number for number, part in enumerate(self.parts) if part.rival]
        if len(rivals) > 1:
            assert sum(map(self.succeeded, rivals)) == 1, "acts on one version: exactly one wins"
        blocked = {bytes(row["ek_hash"]) for row in self.rows["blocked_eks"]}
        assert not blocked & {bytes(row["ek_hash"]) for row in self.rows["devices"]}, (
            "a replaced TPM stands for a device"
        )


def _serial_of(detail: str) -> str:
    return str(read_object(detail.encode(), limit=1 << 20).get("serial", ""))


def _pem_of(der: bytes) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
