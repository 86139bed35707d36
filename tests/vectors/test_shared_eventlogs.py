"""Event logs of real machines: each gets the PCR values and the verdict that the manifest states.

The files are other projects' data and stay where they are: `../shared/vectors`, or where `ATTESTD_VECTORS` points.
Where the folder is absent these tests are skipped, each by its name. What is compared with tpm2_eventlog is in
test_tpm2_eventlog.py; the facts below are what people read off these logs, with the digests that they rest on.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attestd.cli.main import app
from attestd.errors import AttestdError
from attestd.protocol.evidence import PcrValues
from attestd.tpm.bootclaims import boot_claims
from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import MalformedEventLog, UnverifiedEventLog, parse_event_log
from attestd.tpm.replay import PREFERENCE, EventLogBankMissing, EventLogMismatch, match_values, replay

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[2].parent / "shared" / "vectors"))

pytestmark = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(), reason=f"no test vectors of real machines in {VECTORS}"
)

# Without the folder each log is still named once, as skipped.
LOGS = (
    *("ccel-CCEL_unpadded.data", "ccel-event_log", "goattest-crypto_agile_eventlog"),
    *("goattest-ebs_event_missing_eventlog", "goattest-short_no_action_eventlog", "goattest-windows_gcp_shielded_vm"),
    *("gotpmtools-arch-linux-workstation", "gotpmtools-confidential-gke-debug-251000_eventlog"),
    *("gotpmtools-cos-85-amd-sev", "gotpmtools-cos-93-amd-sev", "gotpmtools-gce-cos-85-no-nonce"),
    *("gotpmtools-glinux-alex", "gotpmtools-rhel8-uefi", "gotpmtools-ubuntu-1804-amd-sev"),
    *("gotpmtools-ubuntu-2104-no-secure-boot", "hirs-TpmLog", "hirs-laptop_badOemInstall_oem.1.rimel"),
    *("hirs-laptop_badVarInstall_var.1.rimel", "immune-DESKTOP-MIMU51J-EPP-ESET", "immune-Haruhi"),
    *("immune-IMN-SUPERMICRO-EPP-MSDefender", "immune-binary_bios_measurements_15"),
    *(f"immune-dell-notebook-5eventlogs-WBCL-{number}" for number in range(5)),
    *("immune-elitebook", "immune-good-1", "immune-h12ssl.bios_measurements", "immune-h12ssl.values"),
    *("immune-hahuri-invalid-eventlog.values", "immune-linux_event_log", "immune-ludmilla", "immune-r340"),
    *("immune-supermicro-WBCL-OSLOAD-quoted", "immune-test-before", "immune-test-update"),
    *("immune-tpm2_windows_lenovo_yogax1v2", "immune-windows_event_log", "keylime-binary_bios_measurements"),
    *("keylime-binary_bios_measurements-bogus", "keylime-binary_bios_measurements-empty"),
    *("tcglogparser-binary_bios_measurements", "tpm2tools-event", "tpm2tools-event-arch-linux"),
    *("tpm2tools-event-postcode", "tpm2tools-event-uefi-sha1-log", "tpm2tools-event-uefiaction"),
    *("tpm2tools-event-uefivar",),
)
BROKEN = ("keylime-binary_bios_measurements-bogus", "keylime-binary_bios_measurements-empty")
REAL = tuple(name for name in LOGS if name not in BROKEN)
OF_GUESTS = tuple(name for name in REAL if name.startswith("ccel"))
OF_PCRS = tuple(name for name in REAL if name not in OF_GUESTS)


runner = CliRunner()


@cache
def manifest() -> dict[str, Any]:
    entries = json.loads((VECTORS / "manifest.json").read_text())
    logs = (entry for entry in entries if entry["file"].startswith("eventlogs/"))
    return {entry["file"].removeprefix("eventlogs/").removesuffix(".bin"): entry["expected"] for entry in logs}


@cache
def octets(name: str) -> bytes:
    return (VECTORS / "eventlogs" / f"{name}.bin").read_bytes()


@cache
def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "expected" / f"{name}.json").read_text())
    return found


@cache
def log_of(name: str) -> UnverifiedEventLog:
    return parse_event_log(octets(name))


def known(name: str) -> dict[str, dict[int, bytes]]:
    """The PCR values that came with the log, by bank; {} where none did."""
    return {
        bank: {int(pcr): bytes.fromhex(value) for pcr, value in values.items()}
        for bank, values in expected(name).get("known_pcrs", {}).items()
    }


def facts_of(name: str) -> dict[str, Any]:
    facts = unquoted_facts(log_of(name), None)
    assert facts is not None
    return facts.to_members()


def test_every_log_of_the_manifest_is_here() -> None:
    assert set(manifest()) == set(LOGS)


@pytest.mark.parametrize("name", REAL)
def test_each_log_gets_the_values_that_the_manifest_states(name: str) -> None:
    log, stated = log_of(name), manifest()[name]
    replayed = {
        bank: {str(pcr): value.hex() for pcr, value in values.items()} for bank, values in replay(log).items() if values
    }
    assert replayed == {bank: values for bank, values in expected(name)["replay_own"].items() if values}
    assert len(log.events) == stated["events"]
    assert log.format == {"crypto-agile": "crypto-agile", "sha1/tcg1.2": "sha1"}[stated["format"]]
    assert log.startup_locality == (3 if "StartupLocality 3" in stated["notes"] else None)
    assert log.of_pcrs is (name not in OF_GUESTS)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_log_is_rejected(name: str) -> None:
    assert "must be rejected" in manifest()[name]["verdict"]
    with pytest.raises(MalformedEventLog):
        parse_event_log(octets(name))


@pytest.mark.parametrize("name", OF_PCRS)
def test_each_log_replays_to_the_values_that_came_with_it_or_is_refused(name: str) -> None:
    """Bank by bank as the manifest says, and the first PCR that differs is the manifest's, too."""
    values = known(name)
    for bank in values:
        verdict = expected(name)["replay_vs_known"].get(bank)
        if verdict is None:  # a bank that the log has no digests of
            with pytest.raises(EventLogBankMissing):
                match_values(log_of(name), {bank: values[bank]})
        elif verdict["mismatch"]:
            with pytest.raises(EventLogMismatch) as refused:
                match_values(log_of(name), {bank: values[bank]})
            assert (refused.value.bank, refused.value.pcr) == (bank, min(verdict["mismatch"]))
        else:
            match = match_values(log_of(name), {bank: values[bank]})
            assert (match.banks, match.phases) == ((bank,), ())
            assert set(verdict["match"]) <= match.pcrs


QUOTES = {
    "immune-DESKTOP-MIMU51J-EPP-ESET": "immune-DESKTOP-MIMU51J-EPP-ESET",
    "immune-IMN-SUPERMICRO-EPP-MSDefender": "immune-IMN-SUPERMICRO-EPP-MSDefender",
    "immune-dell-notebook-5eventlogs-WBCL": "immune-dell-notebook-5eventlogs-WBCL-4",
    "immune-good-1": "immune-good-1",
    "immune-ludmilla": "immune-ludmilla",
    "immune-r340": "immune-r340",
}


@pytest.mark.parametrize("quote", QUOTES)
def test_logs_replay_to_the_values_of_the_quotes_beside_them(quote: str) -> None:
    vector = json.loads((VECTORS / "quotes" / f"{quote}.json").read_text())
    values: PcrValues = {"sha256": {int(pcr): bytes.fromhex(v) for pcr, v in vector["pcrs"]["sha256"].items()}}
    assert match_values(log_of(QUOTES[quote]), values).bank == "sha256"


@pytest.mark.parametrize("quote", ["immune-failed-1", "immune-failed-2"])
def test_the_same_log_with_another_pcr_0_is_refused(quote: str) -> None:
    """`good-1`, `failed-1` and `failed-2` share one log; only PCR 0 in the quote differs."""
    vector = json.loads((VECTORS / "quotes" / f"{quote}.json").read_text())
    values: PcrValues = {"sha256": {int(pcr): bytes.fromhex(v) for pcr, v in vector["pcrs"]["sha256"].items()}}
    with pytest.raises(EventLogMismatch) as refused:
        match_values(log_of("immune-good-1"), values)
    assert refused.value.pcr == 0


@pytest.mark.parametrize("name", LOGS)
def test_the_command_says_the_same(name: str) -> None:
    """`attestd appraise eventlog`: 0 for a log that can be read, 2 for what is none."""
    result = runner.invoke(app, ["appraise", "eventlog", str(VECTORS / "eventlogs" / f"{name}.bin"), "--json"])
    assert result.exit_code == (2 if name in BROKEN else 0)
    if name not in BROKEN:
        document = json.loads(result.stdout)
        assert document["pcrs"] == expected(name)["replay_own"]
        assert (document["events"], document["compared"]) == (manifest()[name]["events"], False)


@pytest.mark.parametrize("name", OF_PCRS)
def test_the_command_compares_with_the_values_that_came_with_a_log(name: str, tmp_path: Path) -> None:
    """All banks at once, as tpm2_pcrread prints them: one that differs, and the log is refused."""
    values = known(name)
    if not values:
        return
    lines = [
        [f"  {bank}:", *(f"    {pcr:<2}: 0x{v.hex()}" for pcr, v in found.items())] for bank, found in values.items()
    ]
    (tmp_path / "pcrs").write_text("\n".join(line for bank in lines for line in bank))
    file = str(VECTORS / "eventlogs" / f"{name}.bin")
    result = runner.invoke(app, ["appraise", "eventlog", file, "--pcrs", str(tmp_path / "pcrs"), "--json"])
    differs = any(verdict["mismatch"] for verdict in expected(name)["replay_vs_known"].values())
    assert result.exit_code == (1 if differs else 0)
    assert ("mismatch" in json.loads(result.stdout)) is differs


# ---- Facts ------------------------------------------------------------------------------------------------------

UEFI_CA = "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507"  # Microsoft Corporation UEFI CA 2011
WINDOWS_CA = "e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961"  # Windows Production PCA 2011

SEEN: dict[str, dict[str, Any]] = {
    "immune-ludmilla": {
        "secure_boot": False,
        "firmware_version": "R1CET67W",
        "sbat_level": 2021030218,
        "dbx_count": 83,
        "disks": ["2723d28a-4a21-48e9-9c92-ad1376745a49"],
        "kernel_command_line": "/vmlinuz-5.13.0-30-generic root=/dev/mapper/vgubuntu-root ro quiet splash "
        "mem_encrypt=on kvm_amd.sev=1 iomem=strict vt.handoff=7",
    },
    "immune-r340": {
        "secure_boot": True,
        "deployed_mode": True,
        "authorities": [UEFI_CA, WINDOWS_CA],
        "windows": True,
        "windows_test_signing": False,
        "windows_code_integrity": True,
        "windows_bitlocker_unlocks": [0],
        "windows_elam": ["Windows Defender"],
        "windows_boot_count": 85,
        "boot_services_exited": True,
    },
    "gotpmtools-rhel8-uefi": {
        "secure_boot": True,
        "firmware_version": "GCE Virtual Firmware v1",
        "mok_used": False,
        "shim": True,
    },
    "gotpmtools-arch-linux-workstation": {"secure_boot": False, "uki": None, "grub_commands": []},
    "immune-hahuri-invalid-eventlog.values": {
        "secure_boot": True,
        "uki": True,
        "initrd": "8ae7cd0db5694829b70e3d4d148233812d8d9984defd92fc24119d15f37a2953",
    },
    "immune-binary_bios_measurements_15": {"secure_boot": False, "setup_mode": True, "dbx_count": 0},
    "hirs-laptop_badVarInstall_var.1.rimel": {"secure_boot": None, "doubts": ["pcr-7-not-separated"]},
    "immune-IMN-SUPERMICRO-EPP-MSDefender": {"secure_boot": None, "windows": True},
    "gotpmtools-confidential-gke-debug-251000_eventlog": {"secure_boot": True, "sbat_level": 2021030218},
    "tpm2tools-event-postcode": {"secure_boot": True, "shim": True},  # by a shim that logged an octet too many
}


@pytest.mark.parametrize("name", SEEN)
def test_facts(name: str) -> None:
    facts = facts_of(name)
    assert {fact: facts.get(fact) for fact in SEEN[name]} == SEEN[name]


@pytest.mark.parametrize("name", OF_PCRS)
def test_every_log_has_facts_without_doubts(name: str) -> None:
    """But for those of no whole boot, and they say that nobody compared them."""
    facts = facts_of(name)
    assert facts["compared"] is False
    part_of_a_boot = ("hirs-laptop_badVarInstall_var.1.rimel", "tpm2tools-event-uefivar")
    assert facts["doubts"] == (["pcr-7-not-separated"] if name in part_of_a_boot else [])
    assert len(json.dumps(facts)) < 16_384
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("name", OF_GUESTS)
def test_registers_of_guests_give_no_facts(name: str) -> None:
    assert unquoted_facts(log_of(name), None) is None


@pytest.mark.parametrize("name", OF_PCRS)
def test_no_name_that_a_log_gives_to_a_digest_is_a_fact(name: str) -> None:
    """Each device path and file name changed: the facts stay as they are."""
    bank = next(bank for bank in PREFERENCE if bank in log_of(name).banks)
    before = facts_of(name)
    log = log_of(name)
    named = {claim["event"] for claims in boot_claims(log, bank).values() for claim in claims}
    changed = tuple(event._replace(data=b"\0" * 40) if event.number in named else event for event in log.events)
    lying = UnverifiedEventLog(log.format, log.banks, changed, (), log.startup_locality, True, 0)
    after = unquoted_facts(lying, None)
    assert after is not None
    assert after.to_members() == before


# ---- Malformed --------------------------------------------------------------------------------------------------


def mutated(data: bytes, count: int, chance: random.Random) -> Iterator[bytes]:
    """Bit flips, cut tails, huge numbers, nested sizes: near real logs, the same ones every time."""
    for _ in range(count):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            case 1:
                yield data[:at]
            case 2:
                huge = chance.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8))
                yield data[:at] + huge + data[at + len(huge) :]
            case _:
                yield data[:at] + chance.randbytes(4) + data[at:]


@pytest.mark.parametrize("name", REAL)
def test_a_mutated_log_is_read_or_refused_by_name(name: str) -> None:
    chance = random.Random(name)
    values = known(name) or {bank: dict(pcrs) for bank, pcrs in replay(log_of(name)).items()}
    begin = time.process_time()
    for data in mutated(octets(name), 40, chance):
        try:
            log = parse_event_log(data)
            unquoted_facts(log, None)
            unquoted_facts(log, match_values(log, values))
        except AttestdError:
            continue
    assert time.process_time() - begin < 20
