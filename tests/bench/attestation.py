"""What one attestation of a known device costs the service, beside the signatures and hashes that it can't do without:

    python -m tests.bench.attestation                      # a table
    python -m tests.bench.attestation --profile unchanged  # where the time goes; or: rebooted, many, few; and: cumtime

From the octets of the signed request to those of the answer: quote, event log, IMA list, appraisal by a manifest that
speaks of both, EAR, certificate, durable commit. CPU time of the whole process (user and kernel, all threads), with
CLIENTS requests at once; what the devices compute is computed before and is not in it. Kinds of attestation and floor
are measured in turns, each the median of its turns.

- unchanged: the boot that is known, its log told by its digest, 50 new IMA entries.
- rebooted: a boot that nobody has seen, with a log of its own and a whole list of 50 entries and the boot's aggregate.
- many and few: 20 new entries after 10,000 known ones, and after 20.
"""

# ruff: noqa: T201

from __future__ import annotations

import cProfile
import hashlib
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attestd.config import AttestationSettings
from attestd.protocol.messages import MAX_BODY, CredentialAnswer
from attestd.protocol.signed import SignedEnvelope, sign_flattened
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.bootfacts import boot_facts
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.replay import verify_event_log
from attestd.tpm.statements import ClockInfo
from tests.bench import eventlog
from tests.bench.enrollment import CLIENTS, Floor, each
from tests.booted import Machine, enrolled, refer, runtime
from tests.service import URL, SoftDevice, World

DEVICES = CLIENTS  # of each kind
WARM, TURNS = 3, 25
ENTRIES = 50
KNOWN, NEW = 10_000, 20
GOAL = 6.0
_PATH = "/v1/attestations"


@dataclass
class Kind:
    """Devices that attest alike. `prepare(turn)` lets happen on each what is attested in that turn."""

    name: str
    devices: Sequence[SoftDevice]
    prepare: Callable[[int], None]

    def requests(self, turn: int) -> list[bytes]:
        """The signed requests of one turn, one a device."""
        self.prepare(turn)
        return [_signed(device) for device in self.devices]


def measure(database: str | None = None) -> list[dict[str, Any]]:
    """The benchmark's entries: {name, value, unit, against, ratio, goal, met}."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        world = _world(Path(folder), database)
        floors = Floor(**_hashes())
        spent: dict[str, list[float]] = {}
        try:
            kinds = [make(world) for make in _KINDS.values()]
            with ThreadPoolExecutor(CLIENTS) as pool:
                for turn in range(WARM + TURNS):
                    prepared = [(kind, kind.requests(turn)) for kind in kinds]
                    for kind, requests in prepared:
                        started = time.process_time()
                        answers = each(pool, _verb(world), requests)
                        if turn >= WARM:
                            spent.setdefault(kind.name, []).append((time.process_time() - started) / len(requests))
                        for answer in answers:
                            _require_affirmed(answer)
                    floors.turn()
                    world.clock.advance(seconds=1)
        finally:
            world.close()
    costs = {name: statistics.median(values) for name, values in spent.items()}
    steps = floors.medians()
    # Checked: the quote and the request. Signed: the certificate and the EAR. That the certificate is verified when it
    # is read back is a choice of ours and is not in the floor.
    signatures = 2 * steps["verify"] + 2 * steps["sign"]
    entries = ENTRIES * steps["entry"]
    logs = entries + steps["log"]
    return [
        _entry(f"attestation, unchanged log, {ENTRIES} new IMA entries", costs["unchanged"], signatures, entries),
        _entry(f"attestation, new boot and log, {ENTRIES} IMA entries", costs["rebooted"], signatures, logs),
        _incremental(costs),
    ]


def _entry(name: str, spent: float, signatures: float, hashed: float) -> dict[str, Any]:
    floor = signatures + hashed
    return {
        "name": name,
        "value": round(spent * 1e6),
        "unit": "µs",
        "against": f"its signatures and hashes, {floor * 1e6:.0f} µs in the same run",
        "ratio": round(spent / floor, 2),
        "goal": f"at most {GOAL:g} times",
        "met": spent <= GOAL * floor,
        "parts": {"signatures, µs": round(signatures * 1e6), "hashes, µs": round(hashed * 1e6)},
    }


def _incremental(costs: Mapping[str, float]) -> dict[str, Any]:
    many, few = costs["many"], costs["few"]
    return {
        "name": f"attestation, {NEW} new IMA entries after {KNOWN:,} known ones",
        "value": round(many * 1e6),
        "unit": "µs",
        "against": f"after {NEW}, {few * 1e6:.0f} µs",
        "ratio": round(many / few, 2),
        "goal": "within 1.1 times",
        "met": many <= 1.1 * few,
    }


# ---- Machines -----------------------------------------------------------------------------------------------------


def _world(folder: Path, database: str | None = None) -> World:
    """A service whose manifest speaks of the boot and of every file that will run."""
    settings = AttestationSettings(pcrs={"sha256": tuple(range(10))})
    world = World(folder, attestation=settings, **({} if database is None else {"database": database}))
    boot = eventlog.grub()
    quote = VerifiedQuote({"sha256": boot.pcrs["sha256"]}, ClockInfo(0, 0, 0, True), 0, b"")
    facts = boot_facts(verify_event_log(parse_event_log(boot.agile()), quote)).to_members()
    good = {name: facts[name] for name in ("secure_boot", "loaders")}
    refer(world, boot=good, runtime=runtime(*(_file(number) for number in range(KNOWN + (WARM + TURNS + 1) * ENTRIES))))
    return world


def _file(number: int) -> str:
    return f"/usr/lib/x86_64-linux-gnu/package-{number % 997}/libexample-{number}.so.1"


def _run(machine: Machine, count: int) -> None:
    for _ in range(count):
        machine.run(_file(len(machine.items)))


def _going_on(name: str, world: World, *, known: int, new: int) -> Kind:
    """One boot, of which new entries travel and the log's digest."""
    machine = Machine(_file(0), boot=eventlog.grub())
    _run(machine, known - len(machine.items))
    devices = [enrolled(world, machine) for _ in range(DEVICES)]
    digest = hashlib.sha256(machine.eventlog).digest()

    def prepare(_: int) -> None:
        begins_at = len(machine.items)
        _run(machine, new)
        machine.present(devices[0], eventlog=None, eventlog_sha256=digest, ima_from=begins_at)
        for device in devices[1:]:
            device.pcrs, device.logs = devices[0].pcrs, devices[0].logs

    return Kind(name, devices, prepare)


def _unchanged(world: World) -> Kind:
    return _going_on("unchanged", world, known=ENTRIES, new=ENTRIES)


def _many(world: World) -> Kind:
    return _going_on("many", world, known=KNOWN, new=NEW)


def _few(world: World) -> Kind:
    return _going_on("few", world, known=NEW, new=NEW)


def _rebooted(world: World) -> Kind:
    """A boot in every turn, with a log that nobody has seen."""
    devices = [enrolled(world, Machine(_file(0), boot=eventlog.grub())) for _ in range(DEVICES)]

    def prepare(turn: int) -> None:
        for number, device in enumerate(devices):
            machine = Machine(*(_file(one) for one in range(ENTRIES)), boot=eventlog.grub(f"device {number}, {turn}"))
            machine.present(device)
            device.tpm.clock = {"reset_count": 8 + turn, "restart_count": 0}

    return Kind("rebooted", devices, prepare)


_KINDS = {"unchanged": _unchanged, "rebooted": _rebooted, "many": _many, "few": _few}


# ---- Requests and answers -----------------------------------------------------------------------------------------


def _signed(device: SoftDevice) -> bytes:
    nonce = device.world.nonce()
    payload = device.attestation(nonce).to_bytes()
    return sign_flattened(payload, sign=device.sign, alg="ES256", kid=device.id, url=URL + _PATH, nonce=nonce)


def _verb(world: World) -> Callable[[bytes], bytes]:
    attestations, now = world.service.attestations, world.clock()

    def attest(request: bytes) -> bytes:
        envelope = SignedEnvelope.parse_flattened(request, limit=MAX_BODY)
        answer = attestations.attest(envelope, url=URL + _PATH, now=now, request_id="bench")
        assert isinstance(answer, bytes)
        return answer

    return attest


def _require_affirmed(answer: bytes) -> None:
    result = CredentialAnswer.parse(answer).result
    assert result["status"] == "affirming", result
    assert result["vector"]["executables"] == 2


# ---- The floor ----------------------------------------------------------------------------------------------------


def _hashes() -> dict[str, Callable[[], object]]:
    """`entry`: an IMA entry's template digest, its digest in the bank, the extension. `log`: the whole log's digest,
    and for each of its events the digest of what was measured and the extension."""
    machine = Machine(_file(0), boot=eventlog.grub())
    data, whole = machine.items[1].data(), machine.eventlog
    events = [event.data for event in parse_event_log(whole).events]

    def entry() -> None:
        hashlib.sha1(data).digest()
        hashlib.sha256(bytes(32) + hashlib.sha256(data).digest()).digest()

    def log() -> None:
        value = hashlib.sha256(whole).digest()
        for event in events:
            value = hashlib.sha256(value + hashlib.sha256(event).digest()).digest()

    return {"entry": entry, "log": log}


def _profile(name: str, order: str) -> None:
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        world = _world(Path(folder))
        kind = _KINDS[name](world)
        profiler = cProfile.Profile()
        for turn in range(WARM + TURNS):
            requests: Iterable[bytes] = kind.requests(turn)
            attest = _verb(world)
            for request in requests:
                if turn >= WARM:
                    profiler.enable()
                attest(request)
                profiler.disable()
            world.clock.advance(seconds=1)
        pstats.Stats(profiler).sort_stats(
            sys.argv[-1] if sys.argv[-1] in ("cumtime", "tottime") else "tottime"
        ).print_stats(60)
        world.close()


if __name__ == "__main__":
    if "--profile" in sys.argv:
        _profile(*(*sys.argv[2:], "tottime")[:2])
    else:
        for found in measure():
            print(found)
