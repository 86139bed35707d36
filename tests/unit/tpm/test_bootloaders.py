"""What was loaded: every digest is seen, every text is one that was measured, and names prove nothing."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import Any

import pytest

from attestd.tpm.bootfacts import unquoted_facts
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.replay import match_values
from tests import logwriter as w
from tests.logwriter import CMDLINE, EV, Boot

GRUB, UKI = w.grub_boot(), w.uki_boot()
LINES, COMMANDS = "kernel_command_lines", "grub_commands"


def facts_of(boot: Boot, *pcrs: int) -> dict[str, Any]:
    """The facts of a log that replays to what its TPM holds, in these PCRs or in all."""
    held = boot.pcrs["sha256"]
    values = {pcr: held.get(pcr, bytes(32)) for pcr in pcrs or range(16)}
    log = parse_event_log(boot.agile())
    facts = unquoted_facts(log, match_values(log, {"sha256": values}))
    assert facts is not None
    return facts.to_members()


def sha256(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def renamed(boot: Boot, pcr: int, kind: int) -> Boot:
    for number, event in enumerate(boot.log, 1):
        if event.pcr == pcr:
            boot = boot.lie(number, type=kind)
    return boot


# ---- Images and files -------------------------------------------------------------------------------------------


def test_loaders_and_drivers_by_their_authenticode_digests() -> None:
    facts = facts_of(GRUB)
    assert facts["loaders"] == [sha256(w.image(name)) for name in (b"shim", b"grub", b"kernel")]
    assert facts["drivers"] == [sha256(w.image(b"option ROM"))]


@pytest.mark.parametrize("kind", [EV.UNUSED, EV.EFI_ACTION, EV.SEPARATOR, EV.BLOB, EV.IPL])
def test_a_loader_can_not_be_renamed_away(kind: int) -> None:
    """The disclosure's second attack: an evil loader is called firmware, and a good one is appended."""
    evil = w.load(w.firmware(Boot()), b"evil", r"\EFI\BOOT\BOOTX64.EFI")
    lying = evil.lie(len(evil.log), type=kind, data=b"Calling EFI Application from Boot Option")
    w.load(lying, b"shim", r"\EFI\debian\shimx64.efi")
    assert facts_of(lying)["loaders"] == [sha256(w.image(b"evil")), sha256(w.image(b"shim"))]


def test_a_loader_s_own_octets_do_not_hide_it() -> None:
    """Whoever has a loader has octets for its digest: they are no reason to take it for a text that was measured."""
    evil = w.load(w.firmware(Boot()), b"evil", r"\EFI\BOOT\BOOTX64.EFI")
    assert facts_of(evil.lie(len(evil.log), data=w.image(b"evil")))["loaders"] == [sha256(w.image(b"evil"))]


def test_actions_are_no_loaders() -> None:
    boot = w.firmware(Boot())
    for action in (w.CALLING, b"Returning from EFI Application from Boot Option\0", b"Returned INT 19h"):
        boot.measure(4, EV.EFI_ACTION, action)
    assert facts_of(boot)["loaders"] == []
    boot.measure(4, EV.EFI_ACTION, b"some other text")
    assert facts_of(boot)["loaders"] == [sha256(b"some other text")]


def test_paths_and_names_are_in_no_fact() -> None:
    told = str(facts_of(GRUB))
    assert "shimx64" not in told.replace(r"\\EFI\\shimx64.efi", "")  # that is a boot option, which was measured
    assert "(hd0,gpt1)" not in told
    assert "MokListX" not in told


def test_files_and_lists_by_their_digests() -> None:
    facts = facts_of(GRUB)
    assert facts["boot_files"] == [sha256(content) for content in (b"grub.cfg", b"kernel", b"initrd")]
    lists = (b"a list of machine owner keys", b"a list of revoked ones", b"\x01")
    assert facts["mok_lists"] == [sha256(content) for content in lists]
    assert "initrd" not in facts


def test_a_file_of_a_separator_s_octets_is_a_file() -> None:
    """Separators end the firmware's own PCRs."""
    boot = w.grub_file(w.firmware(Boot()), "/zeros", bytes(4))
    boot.measure(14, EV.IPL, b"MokList", bytes(4))
    facts = facts_of(boot)
    assert (facts["boot_files"], facts["mok_lists"]) == ([sha256(bytes(4))], [sha256(bytes(4))])


@pytest.mark.parametrize("pcr", [9, 14])
def test_files_and_lists_can_not_be_renamed_away(pcr: int) -> None:
    name = {9: "boot_files", 14: "mok_lists"}[pcr]
    lying = renamed(GRUB, pcr, EV.ACTION)
    for number, event in enumerate(lying.log, 1):
        if event.pcr == pcr:
            lying = lying.lie(number, data=b"Calling INT 19h")
    assert facts_of(lying)[name] == facts_of(GRUB)[name]


def test_each_digest_once() -> None:
    boot = deepcopy(GRUB)
    w.load(boot, b"shim", r"\EFI\again.efi")
    assert facts_of(boot)["loaders"] == facts_of(GRUB)["loaders"]


@pytest.mark.parametrize(("pcr", "name", "most"), [(2, "drivers", 512), (4, "loaders", 128), (14, "mok_lists", 64)])
def test_no_more_digests_than_bounded(pcr: int, name: str, most: int) -> None:
    boot = Boot()
    for number in range(most):
        boot.measure(pcr, EV.IPL, b"", b"image %d" % number)
    assert len(facts_of(boot)[name]) == most
    facts = facts_of(boot.measure(pcr, EV.IPL, b"", b"one more"))
    assert name not in facts
    assert f"too-many-{name.replace('_', '-')}" in facts["doubts"]


def test_a_pcr_that_was_not_compared_says_nothing() -> None:
    facts = facts_of(GRUB, 0, 7)
    assert facts["pcrs"] == [0, 7]
    assert not {"loaders", "drivers", "boot_files", "mok_lists", COMMANDS, LINES, "disks", "uki"} & set(facts)
    assert facts_of(GRUB, 4)["loaders"] == facts_of(GRUB)["loaders"]


def test_a_pcr_that_was_compared_and_is_empty_says_so() -> None:
    facts = facts_of(w.firmware(Boot()))
    assert (facts["boot_files"], facts["mok_lists"], facts[COMMANDS], facts[LINES]) == ([], [], [], [])
    assert facts["uki"] is False


# ---- PCR 5 ------------------------------------------------------------------------------------------------------


def test_disks() -> None:
    assert facts_of(GRUB)["disks"] == [w.DISK]
    number = GRUB.find(5, b"EFI PART")
    other = w.gpt("00000000-0000-0000-0000-000000000001")
    assert facts_of(GRUB.lie(number, data=other))["disks"] == []


@pytest.mark.parametrize("octets", [w.gpt()[:-1], w.gpt() + b"\0", w.gpt()[:95], w.gpt(partitions=1)[:-128]])
def test_a_partition_table_that_is_none(octets: bytes) -> None:
    assert facts_of(w.firmware(Boot()).measure(5, EV.GPT, octets))["disks"] == []


def test_whether_the_firmware_was_left() -> None:
    assert facts_of(GRUB)["boot_services_exited"] is True
    assert facts_of(w.firmware(Boot()))["boot_services_exited"] is False
    assert facts_of(w.firmware(Boot()).measure(5, EV.EFI_ACTION, w.EXIT))["boot_services_exited"] is False
    lying = GRUB.lie(GRUB.find(5, w.EXITED), data=b"x", type=EV.UNUSED)
    assert facts_of(lying)["boot_services_exited"] is True


def test_whether_the_firmware_stopped_measuring() -> None:
    assert facts_of(GRUB)["boot_attempts_omitted"] is False
    boot = w.firmware(Boot()).measure(4, 0x12, b"BOOT ATTEMPTS OMITTED")
    assert facts_of(boot)["boot_attempts_omitted"] is True


# ---- GRUB -------------------------------------------------------------------------------------------------------


def test_commands_and_the_command_line() -> None:
    facts = facts_of(GRUB)
    assert facts[COMMANDS] == [
        *("set prefix=(hd0,gpt2)/grub", "[ -s (hd0,gpt2)/grub/grubenv ]", "insmod ext2"),
        *(f"linux {CMDLINE}", CMDLINE, "initrd /initrd.img-6.1"),
    ]
    assert facts[LINES] == [CMDLINE]
    assert facts["kernel_command_line"] == CMDLINE


@pytest.mark.parametrize("label", ["grub_cmd: ", "grub_cmd "])
@pytest.mark.parametrize("measured", [b"", b"\0"])
def test_how_versions_of_grub_measure(label: str, measured: bytes) -> None:
    """With the log's words or without a colon, with a NUL and without."""
    boot = w.firmware(Boot())
    line = f"linux {CMDLINE}"
    w.grub_command(boot, line, label=label, measured=line.encode() + measured)
    w.grub_command(boot, CMDLINE, label="grub_kernel_cmdline ")
    facts = facts_of(boot)
    assert (facts[COMMANDS], facts[LINES]) == ([line, CMDLINE], [CMDLINE])


@pytest.mark.parametrize("loading", ["linux", "linuxefi", "linux16", "multiboot2", "module"])
def test_every_command_that_loads_a_kernel(loading: str) -> None:
    boot = w.grub_command(w.firmware(Boot()), f"{loading} /vmlinuz init=/bin/sh")
    assert facts_of(boot)[LINES] == ["/vmlinuz init=/bin/sh"]


def test_a_command_line_can_not_lose_its_name() -> None:
    """The words before a text are not measured: an evil line called a command is a line all the same."""
    boot = w.grub(w.shim(w.firmware(Boot())), cmdline="/vmlinuz-6.1 init=/bin/sh")
    w.grub_command(boot, CMDLINE, label="kernel_cmdline: ")
    evil = boot.find(8, b"kernel_cmdline: /vmlinuz-6.1 init=/bin/sh")
    lying = boot.lie(evil, data=b"grub_cmd: /vmlinuz-6.1 init=/bin/sh\0", type=EV.UNUSED)
    facts = facts_of(lying)
    assert facts[LINES] == ["/vmlinuz-6.1 init=/bin/sh", CMDLINE]
    assert "kernel_command_line" not in facts


@pytest.mark.parametrize("lie", ["data", "label", "utf16"])
def test_one_text_that_was_not_measured_and_no_text_is_believed(lie: str) -> None:
    number = GRUB.find(8, b"grub_cmd: linux ")
    data = {
        "data": b"grub_cmd: linux /vmlinuz-6.1 good=1\0",
        "label": b"grub says: linux " + CMDLINE.encode() + b"\0",
        "utf16": b"grub_cmd: " + w.utf16("linux"),
    }[lie]
    facts = facts_of(GRUB.lie(number, data=data))
    assert facts["doubts"] == ["pcr-8-unexplained"]
    assert not {COMMANDS, LINES, "kernel_command_line"} & set(facts)
    assert facts["boot_files"]


def test_a_line_in_utf16_can_not_pass_for_a_command() -> None:
    """systemd-boot's text under GRUB's words would be a command that nobody looks at."""
    boot = w.firmware(Boot()).measure(8, EV.IPL, w.utf16("init=/bin/sh", end=True), w.utf16("init=/bin/sh"))
    assert facts_of(boot)[LINES] == ["init=/bin/sh"]
    lying = boot.lie(len(boot.log), data=b"grub_cmd: " + w.utf16("init=/bin/sh"))
    facts = facts_of(lying)
    assert facts["doubts"][-1] == "pcr-8-unexplained"
    assert LINES not in facts


def test_what_the_kernel_gets_in_quotes_is_one_line() -> None:
    """GRUB measures a command's arguments without quotes, and the command line with those that it puts there."""
    boot = w.grub_command(w.firmware(Boot()), "linux /vmlinuz dm=1 vroot none \"x\\y'")
    kernel = r'/vmlinuz "dm=1 vroot" none \"x\\y' + r"\'"
    w.grub_command(boot, kernel, label="kernel_cmdline: ")
    assert facts_of(boot)[LINES] == [kernel]
    other = w.grub_command(w.firmware(Boot()), "linux /vmlinuz dm=1 evil")
    w.grub_command(other, '/vmlinuz "dm=1 vroot"', label="kernel_cmdline: ")
    assert facts_of(other)[LINES] == ["/vmlinuz dm=1 evil", '/vmlinuz "dm=1 vroot"']


def test_long_commands_are_shortened_and_long_lines_are_not() -> None:
    boot = w.grub_command(w.firmware(Boot()), "menuentry " + "x" * 300 + "\n{}")
    w.grub_command(boot, "linux /vmlinuz " + "y" * 2000)
    facts = facts_of(boot)
    assert [len(command) for command in facts[COMMANDS]] == [256, 256]
    assert facts[COMMANDS][0].endswith("x…")
    assert len(facts[LINES][0]) == len("/vmlinuz ") + 2000


def test_no_more_texts_than_bounded() -> None:
    boot = w.firmware(Boot())
    for number in range(512):
        w.grub_command(boot, f"set x={number}")
    assert len(facts_of(boot)[COMMANDS]) == 512
    facts = facts_of(w.grub_command(boot, "set x=y"))
    assert facts["doubts"][-1] == "too-many-grub-commands"
    assert COMMANDS not in facts
    for texts in ([f"linux /vmlinuz {number}" for number in range(17)], ["linux " + "x" * 4097]):
        boot = w.firmware(Boot())
        for text in texts:
            w.grub_command(boot, text)
        facts = facts_of(boot)
        assert facts["doubts"][-1] == "too-many-kernel-command-lines"
        assert LINES not in facts


def test_no_line_is_no_proof_while_pcrs_are_open() -> None:
    """systemd-boot measures into PCR 12: an empty PCR 8 alone says nothing of command lines."""
    assert LINES not in facts_of(UKI, 4, 8)
    assert LINES not in facts_of(GRUB, 4, 12)
    assert facts_of(UKI, 4, 12)[LINES] == ["debug=1"]
    assert facts_of(GRUB, 4, 8)[LINES] == [CMDLINE]
    assert facts_of(w.uki_boot(cmdline=""), 8, 12)[LINES] == []


# ---- systemd ----------------------------------------------------------------------------------------------------


def test_a_unified_kernel_image() -> None:
    facts = facts_of(UKI)
    assert facts["uki"] is True
    assert facts["uki_sections"] == {name: sha256(content) for name, content in w.UKI}
    assert facts["initrd"] == sha256(b"the initrd")
    assert facts["system_extensions"] == [sha256(b"an extension")]
    assert facts["kernel_command_line"] == "debug=1"
    assert facts["boot_files"] == [sha256(b"the initrd")]  # as Linux measures what it is given


def test_sections_by_their_measured_names() -> None:
    """The log may call them what it likes."""
    lying = UKI
    for number, event in enumerate(UKI.log, 1):
        if event.pcr == 11:
            lying = lying.lie(number, data=w.utf16(".osrel", end=True), type=EV.UNUSED)
    assert facts_of(lying)["uki_sections"] == facts_of(UKI)["uki_sections"]


def test_a_section_whose_content_is_a_name() -> None:
    """Names and contents are told by their turns, so a content can't become a name."""
    contents = [("linux", b"kernel"), ("osrel", b".initrd\0"), ("cmdline", b"x")]
    facts = facts_of(w.uki_boot(contents=contents))
    assert facts["uki_sections"] == {name: sha256(content) for name, content in contents}
    assert "initrd" not in facts


def test_what_follows_the_sections_changes_none() -> None:
    boot = deepcopy(UKI)
    boot.measure(11, EV.IPL, b"a phase", b"enter-initrd")
    w.sections(boot, [("initrd", b"another initrd")])
    assert facts_of(boot)["initrd"] == sha256(b"the initrd")


def test_a_section_measured_twice() -> None:
    facts = facts_of(w.uki_boot(contents=[*w.UKI, ("initrd", b"another initrd")]))
    assert facts["doubts"] == ["uki-section-measured-twice"]
    assert not {"uki", "uki_sections", "initrd"} & set(facts)


def test_other_measurements_in_pcr_11_are_no_image() -> None:
    facts = facts_of(Boot().measure(11, EV.IPL, b"x", b"x").measure(11, EV.IPL, b".linux", b".linux\0"))
    assert facts["uki"] is False
    assert not {"uki_sections", "initrd"} & set(facts)


@pytest.mark.parametrize("form", ["bare", "ended", "half an end"])
def test_how_versions_of_systemd_measure_a_line(form: str) -> None:
    line, ended = w.utf16("quiet ro"), w.utf16("quiet ro", end=True)
    data, measured = {"bare": (ended, line), "ended": (ended, ended), "half an end": (ended[:-1], ended)}[form]
    for pcr in (8, 12):
        facts = facts_of(w.firmware(Boot()).measure(pcr, EV.IPL, data, measured))
        assert facts[LINES] == ["quiet ro"]


def test_one_measurement_in_pcr_12_that_is_no_text() -> None:
    """Credentials, or a command line that somebody calls so."""
    boot = deepcopy(UKI).measure(12, EV.IPL, w.utf16("Credentials initrd", end=True), b"an archive")
    facts = facts_of(boot)
    assert facts["doubts"] == ["pcr-12-unexplained"]
    assert LINES not in facts
    assert facts[COMMANDS] == []


def test_half_a_character_is_no_text() -> None:
    assert facts_of(w.firmware(Boot()).measure(12, EV.IPL, b"\x00\xd8"))["doubts"][-1] == "pcr-12-unexplained"


# ---- Windows has PCRs 11 to 14 for itself ------------------------------------------------------------------------


def test_windows_is_not_taken_for_linux() -> None:
    facts = facts_of(w.windows_boot())
    assert facts["windows"] is True
    assert not {"uki", "mok_lists", "system_extensions", "initrd"} & set(facts)
    assert facts["doubts"] == []
    assert facts["loaders"] == [sha256(w.image(b"bootmgfw"))]
    assert facts[LINES] == []
