"""Event logs from devices, and PCR values from files. No octets make a log say more than its PCRs bear out.

Seeds are the project's own: boots with GRUB, with a unified kernel image and of Windows, in both formats.
"""

from __future__ import annotations

import json

from attestd.cli.appraise.pcrs import parse_pcrs
from attestd.tpm.bootclaims import boot_claims
from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import MAX_EVENTS, parse_event_log
from attestd.tpm.replay import match_values, replay
from tests import logwriter as w
from tests.fuzz.harness import Target, once

_LIMIT = 16_384


@once
def _small() -> list[w.Boot]:
    """Boots whose logs are short enough to be mutated often."""
    keys = {
        "PK": w.signatures(b"pk"),
        "KEK": w.signatures(b"kek"),
        "db": w.signatures(b"key", b"another"),
        "dbx": w.signatures(b"\1" * 32),
    }
    grub = w.exit_boot_services(w.grub(w.shim(w.firmware(w.Boot(), variables=keys))))
    agile = w.firmware(w.Boot(("sha1", "sha256", "sha384", "sm3_256"), locality=3), variables=keys)
    return [grub, agile, w.uki_boot(), w.windows_boot()]


@once
def _logs() -> list[bytes]:
    guest = b"\x01" + _small()[1].agile()[1:]
    older = [boot.sha1() for boot in _small()]
    return [*(boot.agile(padding=b"\xff" * 64) for boot in _small()), *older, guest]


@once
def _quoted() -> list[bytes]:
    return [_small()[0].agile()]


def _log(data: bytes) -> None:
    """Whatever is read replays in every bank, and its facts and claims are JSON."""
    log = parse_event_log(data)
    assert len(log.events) <= MAX_EVENTS
    values = replay(log)
    facts = unquoted_facts(log, None)
    if facts is not None:
        assert facts.to_members()["compared"] is False
        json.dumps(facts.to_members())
        json.dumps(boot_claims(log, facts.bank))
        assert unquoted_facts(log, match_values(log, values)) is not None


_HONEST = ("secure_boot", "setup_mode", "pk", "kek", "db", "db_images", "dbx_count", "loaders", "drivers", "mok_lists")


def _believed(data: bytes) -> None:
    """Of all logs there are, those that replay to one machine's PCRs say of it what its own says, or less."""
    boot = _small()[0]
    own = parse_event_log(boot.agile())
    honest = unquoted_facts(own, match_values(own, boot.pcrs))
    log = parse_event_log(data)
    found = unquoted_facts(log, match_values(log, boot.pcrs))
    assert honest is not None
    assert found is not None
    told, wanted = found.to_members(), honest.to_members()
    for name in _HONEST:
        assert told.get(name, wanted[name]) == wanted[name], name
    assert set(wanted["kernel_command_lines"]) <= set(told.get("kernel_command_lines", wanted["kernel_command_lines"]))


def _pcrs(data: bytes) -> None:
    values = parse_pcrs(data)
    again = {bank: {str(pcr): value.hex() for pcr, value in found.items()} for bank, found in values.items()}
    assert parse_pcrs(json.dumps(again).encode()) == values


def _pcr_files() -> list[bytes]:
    value = "0x" + "AB" * 32
    return [
        f"  sha1:\n  sha256:\n    0 : {value}\n    17: {value}\n".encode(),
        json.dumps({"sha256": {"0": "ab" * 32, "7": "cd" * 32}}).encode(),
    ]


_WORDS = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"StartupLocality\0\x03",
    b"grub_cmd: linux ",
    b"\x01\x00\x01\x40",
    b"\x03\x00\x01\x40",
    b"\x04\x00\x00\x00\x00\x00\x00\x00",
    w.X509,
    w.GLOBAL,
)

TARGETS = (
    Target("event-log", _log, _logs, _WORDS, limit=_LIMIT),
    Target("event-log-believed", _believed, _quoted, _WORDS, limit=_LIMIT),
    Target("pcr-file", _pcrs, _pcr_files, (b"  sha256:\n", b"    1 : 0x", b'{"pcrs":', b"\xff"), limit=2048),
)
