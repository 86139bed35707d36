"""What attestations with logs leave behind and go on from: records, bundles, states, manifests, lists in parts, clocks;
and the logs themselves, sent to a whole service by a machine that must not be let in.

Seeds are one machine's: what it booted, what ran on it, the manifest that holds it good, and its result.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from struct import Struct, error
from typing import Any

from attestd.appraisal.bundle import EvidenceBundle
from attestd.appraisal.comparison import _not_good
from attestd.appraisal.hardware import Endorsed
from attestd.appraisal.learning import Golden, Wish, learn
from attestd.appraisal.manifests import Match, ReferenceManifest, Stage, Subject
from attestd.appraisal.record import AppraisalRecord, canonical, reappraise
from attestd.appraisal.runtimes import Runtimes, judge_runtime
from attestd.appraisal.writing import write_toml
from attestd.config import AttestationSettings, BrakeSettings
from attestd.errors import MalformedInput
from attestd.ids import Tier
from attestd.protocol.demanded import Demanded
from attestd.protocol.encoding import read_object, write_object
from attestd.registry.states import State
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.clock import ClockWentBack, Reading, read_clock
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.imalist import BEGINNING, MAX_LINE, form_of, is_text, position_of, read_line, refuse
from attestd.tpm.statements import ClockInfo
from tests import ima_lists
from tests import logwriter as w
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, refer, runtime
from tests.forger import Forger
from tests.fuzz.harness import Target, once
from tests.service import SoftDevice, World
from tests.unit.appraisal.test_writing import WHOLE

_AT = 1_780_000_000
_LIMIT = 32_768
_NONCE = bytes(range(32))
_ADVISORIES = b""


@cache
def short_machine() -> Machine:
    """One whose log is short."""
    keys = {name: w.signatures(name.encode()) for name in ("PK", "KEK", "db")} | {"dbx": w.signatures(b"\1" * 32)}
    return Machine(boot=w.exit_boot_services(w.grub(w.shim(w.firmware(w.Boot(), variables=keys)))))


@cache
def own_manifests() -> tuple[ReferenceManifest, ...]:
    said = {"boot": BOOT, "runtime": runtime(*GOOD_FILES)}
    decides = {"name": "model", "stage": "enforce", "match": {"tier": "device", "labels": {"ring": "1"}}, **said}
    watched = {"name": "next", "stage": "monitor", "boot": BOOT, "runtime": runtime("/usr/bin/init")}
    return tuple(map(ReferenceManifest.from_members, (decides, watched)))


@cache
def true_record() -> AppraisalRecord:
    tpm, pcrs = Forger(), short_machine().pcrs()
    attest, signature = tpm.quote(_NONCE, pcrs)
    return AppraisalRecord(
        device="device-1",
        at=_AT,
        tier=Tier.DEVICE,
        labels={"ring": "1"},
        endorsed=Endorsed("certificate", "IFX", "SLB9670", "id:00070055"),
        ek_area=tpm.ek.public,
        ak_area=tpm.ak.public,
        attest=attest,
        signature=signature,
        qualifying_data=_NONCE,
        pcrs=pcrs,
        manifests=tuple(sorted(manifest.digest for manifest in own_manifests())),
        advisories=hashlib.sha256(_ADVISORIES).hexdigest(),
        accepted=(),
        eventlog=hashlib.sha256(short_machine().eventlog).digest(),
        ima_entries=3,
    )


def drawn(record: AppraisalRecord) -> bytes:
    documents = [manifest.document for manifest in own_manifests()]
    machine = short_machine()
    result = reappraise(
        record, manifests=documents, advisories=_ADVISORIES, eventlog=machine.eventlog, ima=machine.ima()
    )
    return canonical(result)


@cache
def true_bundle() -> EvidenceBundle:
    documents = tuple(manifest.document for manifest in own_manifests())
    return EvidenceBundle(
        record=true_record().to_bytes(),
        result=drawn(true_record()),
        certificates=(b"\x30\x00",),
        missing=("ab" * 32,),
        manifests=documents,
        advisories=_ADVISORIES,
        eventlog=short_machine().eventlog,
        ima=short_machine().ima(),
    )


# ---- What is kept -----------------------------------------------------------------------------------------------


def _kept_record(data: bytes) -> None:
    """One spelling; and of all records that there are, those with this quote alone lead to a result."""
    record = AppraisalRecord.parse(data)
    assert AppraisalRecord.parse(record.to_bytes()) == record
    found = drawn(record)
    true = true_record()
    assert (record.attest, record.pcrs, record.ima_entries) == (true.attest, true.pcrs, true.ima_entries)
    told, wanted = (json.loads(octets)["vector"] for octets in (found, true_bundle().result))
    assert told["executables"] in (0, wanted["executables"])  # labels and tier are words that it can't prove


def _evidence_bundle(data: bytes) -> None:
    bundle = EvidenceBundle.parse(data)
    assert EvidenceBundle.parse(bundle.to_bytes()) == bundle
    record, result = bundle.reproduce()
    assert canonical(result) == bundle.result
    assert record.attest == true_record().attest
    bundle.endorse(record, roots=None)


@once
def _bundles() -> list[bytes]:
    """Without a maker's certificate: that one is another target's."""
    by_inventory = AppraisalRecord.parse(
        true_bundle().record.replace(b'"kind":"certificate"', b'"kind":"inventory"'),
    )
    return [
        EvidenceBundle(
            by_inventory.to_bytes(),
            drawn(by_inventory),
            (),
            (),
            true_bundle().manifests,
            true_bundle().advisories,
            true_bundle().eventlog,
            true_bundle().ima,
        ).to_bytes()
    ]


def _runtimes(data: bytes) -> None:
    """Going on from whatever can be read, the rest of a list proves nothing that the whole of it would not."""
    states = Runtimes.parse(data)
    assert Runtimes.parse(states.to_bytes()) == states
    machine, quote = _grown(), _grown_quote()
    whole = judge_runtime(machine.ima(), quote=quote, deciding=own_manifests()[:1], watched=())
    known = Runtimes(states.decided)
    found = judge_runtime(
        machine.ima(3), quote=quote, deciding=own_manifests()[:1], watched=(), known=known, begins_at=3
    )
    assert found.entries == whole.entries
    assert found.decided.state.replay.pcr10 == whole.decided.state.replay.pcr10


@cache
def _grown() -> Machine:
    machine = Machine(boot=short_machine().boot)
    machine.run("/usr/bin/vim")
    return machine


@cache
def _grown_quote() -> VerifiedQuote:
    return ima_lists.quote(_grown().items, pcrs=_grown().pcrs())


@once
def _kept_states() -> list[bytes]:
    quote = ima_lists.quote(short_machine().items, pcrs=short_machine().pcrs())
    return [
        judge_runtime(short_machine().ima(), quote=quote, deciding=own_manifests()[:1], watched=()).states.to_bytes()
    ]


# ---- What operators say -----------------------------------------------------------------------------------------

_SUBJECT = Subject(Tier.DEVICE, {"ring": "canary"}, "INFINEON", "SLB9670")


def _manifest(read: Callable[[bytes], ReferenceManifest]) -> Callable[[bytes], None]:
    """Whatever is taken is kept in one form, which is taken again, in JSON and in TOML."""

    def run(data: bytes) -> None:
        manifest = read(data)
        members = read_object(manifest.document, limit=1 << 20)
        assert write_object(members) == manifest.document
        assert ReferenceManifest.from_json(manifest.document).digest == manifest.digest
        assert ReferenceManifest.from_toml(write_toml(members).encode()).digest == manifest.digest
        assert manifest.at_stage(manifest.stage).digest == manifest.digest
        manifest.applies(_SUBJECT, _AT)
        assert manifest.pcrs or manifest.boot or manifest.stage is Stage.LEARN

    return run


def _tomls() -> list[bytes]:
    plain = b'name="x"\nstage="enforce"\nnot_before=2026-01-01T00:00:00Z\n[boot]\ndbx_count=7\nsbat={at_least=9}\n'
    return [
        plain,
        plain + b'[runtime]\nviolations = 3\ndigests = ["sha256:' + b"cc" * 32 + b'"]\n',
        write_toml(WHOLE).encode(),
    ]


def _learned(data: bytes) -> None:
    """What a log teaches holds the machine good that it was learned from, and reads back as it was written."""
    log = parse_event_log(data)
    facts = unquoted_facts(log, None)
    told = None if facts is None else facts.to_members()
    golden = Golden("device-1", {"sha256": {0: bytes(32), 7: b"\7" * 32}}, told)
    draft = learn([golden], name="draft", match=Match(), wish=Wish())
    written = write_toml(draft.members, draft.notes)
    assert ReferenceManifest.from_toml(written.encode()).digest == draft.manifest.digest
    for name, good in draft.manifest.boot.items():
        assert told is not None
        assert _not_good(told[name], good) == [], name


def _header(data: bytes) -> None:
    read = Demanded.parse(data.decode("latin-1"))
    assert Demanded.parse(read.to_header()) == read


# ---- Lists in parts, and clocks ---------------------------------------------------------------------------------


def _position(data: bytes) -> None:
    """The quick way and one entry after another end at the same octet, or refuse alike."""
    entries, listed = (data[0], data[1:]) if data else (0, b"")
    try:
        wanted: int | None = _walked(listed, entries)
        refusal = None
    except MalformedInput as refused:
        wanted, refusal = None, refused
    try:
        assert position_of(listed, entries) == wanted
        assert refusal is None
    except MalformedInput as refused:
        assert refusal is not None
        assert (type(refused), str(refused)) == (type(refusal), str(refusal))
    if refusal is not None:
        raise refusal


def _walked(data: bytes, entries: int) -> int | None:
    if entries == 0:
        return 0
    if not data:
        return None
    at = 0
    if not is_text(data):
        form = form_of(data[:BEGINNING])
        for number in range(1, entries + 1):
            if at == len(data):
                return None
            found = form.cut(data, at, number)
            if isinstance(found, int):
                refuse(number, "ends too early", f"{len(data) - at} octets", f"at least {found}")
            at = found[1]
        return at
    number = 0
    for line in data.split(b"\n"):
        at += len(line) + 1
        if line:
            number += 1
            read_line(line[: MAX_LINE + 1], number, "little", strict=False)
            if number == entries:
                return min(at, len(data))
    return None


@once
def _positions() -> list[bytes]:
    items = [*_grown().items, ima_lists.old("/bin/old"), ima_lists.violation("/x"), ima_lists.ng("/bin/z")]
    lists = [
        ima_lists.binary(items),
        ima_lists.text(items),
        ima_lists.binary(items, ">"),
        ima_lists.binary(items[:4], algorithm="sha256"),
    ]
    return [bytes((count,)) + data for data in lists for count in (2, 4)]


_CLOCK = Struct(">QIIB")


def _clocks(data: bytes) -> None:
    """Time has a direction: of two different moments one is after the other, or neither; and nothing is both."""
    try:
        one, other = (
            ClockInfo(clock, resets, restarts, bool(safe & 1))
            for clock, resets, restarts, safe in (_CLOCK.unpack_from(data), _CLOCK.unpack_from(data, _CLOCK.size))
        )
    except error:
        raise MalformedInput("too short") from None
    there, back = _read(one, other), _read(other, one)
    assert _read(one, one) is Reading.SAME_BOOT
    moved = (other.reset_count - one.reset_count) & 0xFFFFFFFF
    woken = (other.restart_count - one.restart_count) & 0xFFFFFFFF
    forward = 0 < moved < 1 << 31 or (moved == 0 and 0 < woken < 1 << 31)
    same = moved == woken == 0
    behind = other.clock < one.clock
    assert (there is None) is (not (forward or same) or (behind and same))
    assert (there is Reading.REBOOTED) is (forward and moved > 0 and there is not None)
    if there is not None and back is not None:
        assert same
        assert one.clock == other.clock


def _read(before: ClockInfo, now: ClockInfo) -> Reading | None:
    try:
        return read_clock(before, now)
    except ClockWentBack:
        return None


def _clock_seeds() -> list[bytes]:
    moments = [(1000, 7, 3, 1), (2000, 7, 3, 1), (10, 8, 0, 0), (5, 7, 4, 0), (0, 0xFFFFFFFF, 1, 1), (1, 0, 0, 1)]
    return [_CLOCK.pack(*one) + _CLOCK.pack(*other) for one in moments for other in moments]


# ---- A whole service --------------------------------------------------------------------------------------------


class _Stranger:
    """A machine with a tampered kernel and a rogue file, quarantined where a good result would release it."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="attestd-fuzz-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        ten = {"sha256": tuple(range(10))}
        settings = AttestationSettings(pcrs=ten, release_after_good=True)
        self.world = World(folder / "instance", attestation=settings, brake=BrakeSettings(enabled=False))
        refer(self.world, boot=BOOT, runtime=runtime(*GOOD_FILES))
        self.good = Machine(boot=short_machine().boot)
        self.device: SoftDevice = enrolled(self.world, self.good)
        keys = {name: w.signatures(name.encode()) for name in ("PK", "KEK", "db")} | {"dbx": w.signatures(b"\1" * 32)}
        boot = w.exit_boot_services(w.grub(w.shim(w.firmware(w.Boot(), variables=keys)), kernel=b"tampered"))
        self.bad = Machine("/usr/bin/init", "/usr/bin/rogue", boot=boot)
        self.device.tpm.clock = {"reset_count": 8, "restart_count": 0}
        self.bad.present(self.device)
        assert self.device.attest().status_code == 202

    def attest(self, **logs: Any) -> None:
        """Its own PCRs, and these logs: a refusal by name or a contraindicated result, and nothing else."""
        self.bad.present(self.device)
        self.device.logs |= logs
        answer = self.device.attest()
        assert answer.status_code < 500, answer.text
        assert b"BEGIN CERTIFICATE" not in answer.data
        assert self.world.row(self.device).state is State.QUARANTINED
        if answer.status_code != 202:
            raise MalformedInput(answer.text)
        told = json.loads(answer.data)["result"]
        assert told["status"] == "contraindicated"
        assert told["reasons"]


_stranger = cache(_Stranger)


def _sent(data: bytes) -> None:
    """The event log or the IMA list that a stranger makes up, whole or from some entry on."""
    which, begins, log = data[:1], int.from_bytes(data[1:2], "big"), data[2:]
    if which == b"i":
        _stranger().attest(ima=log, ima_from=begins)
    else:
        _stranger().attest(eventlog=log)


@once
def _sent_seeds() -> list[bytes]:
    bad, good = _stranger().bad, _stranger().good
    return [
        b"e\0" + bad.eventlog,
        b"i\0" + bad.ima(),
        b"i\3" + bad.ima(3),
        b"i\0" + ima_lists.text(bad.items),
        b"i\0" + bad.ima() + good.ima(1),
    ]


_JSON = (b'"v":1', b"null", b"1e999", b'"\\u0000"', b"[]", b"{}", b"-1", b"9" * 30, b'"eventlog":"', b'"ima_entries":')
_TOML = (
    b"0x" + b"f" * 4000,
    b"9" * 5000,
    b"1979-05-27",
    b"0001-01-01T00:00:00+23:59",
    b"inf",
    b'"""',
    b"[boot]",
    b"{ at_least = ",
    b"\n",
)
_HEADS = (b"sha256:", b"+", b"-", b" eventlog", b" ima", b",23", b"sha1:10")
_LISTS = (b"ima-ng", b"ima", b"10 ", b"\n", b"sha256:", bytes(20))

TARGETS = (
    Target("appraisal-record", _kept_record, lambda: [true_record().to_bytes()], _JSON),
    Target("evidence-bundle", _evidence_bundle, _bundles, _JSON, limit=_LIMIT),
    Target("runtime-states", _runtimes, _kept_states, _JSON),
    Target(
        "manifest-json",
        _manifest(ReferenceManifest.from_json),
        lambda: [write_object(WHOLE), *(manifest.document for manifest in own_manifests())],
        _JSON,
    ),
    Target("manifest-toml", _manifest(ReferenceManifest.from_toml), _tomls, _TOML, limit=_LIMIT),
    Target("learning", _learned, lambda: [short_machine().eventlog, w.uki_boot().agile()], limit=_LIMIT),
    Target("demanded-evidence", _header, lambda: [b"-", b"sha256:0,1,7+sha1:10 eventlog ima"], _HEADS, limit=700),
    Target("ima-position", _position, _positions, _LISTS),
    Target("clock-reading", _clocks, _clock_seeds, limit=64),
    Target("logs-sent", _sent, _sent_seeds, _LISTS, limit=_LIMIT),
)
