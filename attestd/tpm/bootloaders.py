"""What was loaded between the firmware and the operating system, as far as PCRs prove it.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52, sections 3.3.4.3 (PCR 2) and 3.3.4.5 (PCR 4); GNU
GRUB manual 2.12, "Measured Boot" (PCRs 8 and 9); systemd, docs/TPM2_PCR_MEASUREMENTS.md (PCRs 11 to 13); shim, mok.c
(PCR 14); Linux, drivers/firmware/efi/libstub (PCR 9).

| PCR | the digest is of | what is taken |
|---|---|---|
| 2, 4 | an image, by Authenticode | every digest but those of actions |
| 8 | a command or a command line, without the words that the log puts before it, with or without a NUL | the text |
| 8, 12 | a command line in UTF-16, with or without its NUL | the text |
| 9 | a file that GRUB read; an initrd or load options, by Linux | every digest |
| 11 | a section's name with its NUL, then that section, in turns | both |
| 13, 14 | an extension image; a MOK list | every digest |

The words before GRUB's texts are not measured, and neither are the file names in PCR 9. So a command line is told by
what it is: the arguments of a command that loads a kernel, or text in UTF-16. Which of the digests in PCR 9 is an
initrd's nobody can prove; that of a unified kernel image can be proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attestd.tpm.measured import EXITED, OMITTED, Measured, Measurement, Trace
from attestd.tpm.uefi import MalformedUefiStructure, printable, read_gpt_disk

_MOST: Final = {"drivers": 512, "loaders": 128, "boot_files": 1024, "system_extensions": 64, "mok_lists": 64}
_MOST_COMMANDS: Final = 512
_MOST_COMMAND: Final = 256  # characters; longer ones are menu entries
_MOST_LINES: Final = 16
_MOST_LINE: Final = 4096  # characters of a kernel's command line
_MOST_SECTIONS: Final = 64
_MOST_DISKS: Final = 16

# What GRUB's log entries begin with; Fedora's and Red Hat's before 2.04 are without the colon.
_PREFIXES: Final = (b"grub_cmd: ", b"kernel_cmdline: ", b"grub_cmd ", b"grub_kernel_cmdline ", b"module_cmdline: ")
_CMDLINES: Final = (b"kernel_cmdline: ", b"grub_kernel_cmdline ")
_LOADING: Final = ("linux", "linuxefi", "linux16", "kernel", "xen_hypervisor", "multiboot", "multiboot2", "module")

# Sections of a unified kernel image that systemd-stub measures (UAPI.5, "UKI Components"), in its order.
_SECTIONS: Final = (
    *("linux", "osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "dtbauto", "efifw", "hwids", "uname", "sbat"),
    *("pcrsig", "pcrpkey", "profile"),
)


@dataclass(frozen=True, slots=True)
class LoadingFacts:
    """None: not proven. Digests are in hexadecimal, in the order in which they were measured, each once."""

    drivers: tuple[str, ...] | None = None
    loaders: tuple[str, ...] | None = None
    boot_attempts_omitted: bool | None = None
    boot_services_exited: bool | None = None
    disks: tuple[str, ...] | None = None
    grub_commands: tuple[str, ...] | None = None
    kernel_command_lines: tuple[str, ...] | None = None
    boot_files: tuple[str, ...] | None = None
    uki: bool | None = None
    uki_sections: tuple[tuple[str, str], ...] | None = None
    initrd: str | None = None
    system_extensions: tuple[str, ...] | None = None
    mok_lists: tuple[str, ...] | None = None


def loading_facts(measured: Measured, *, windows: bool, doubts: list[str]) -> LoadingFacts:
    """What PCRs 2, 4, 5, 8, 9 and 11 to 14 prove. Windows has 11 to 14 for itself."""
    sections = None if windows else _uki(measured, doubts)
    commands, lines = _commands(measured, windows=windows, doubts=doubts)
    return LoadingFacts(
        drivers=_digests(measured, 2, "drivers", doubts),
        loaders=_digests(measured, 4, "loaders", doubts),
        boot_attempts_omitted=_acted(measured, 4, OMITTED),
        boot_services_exited=_acted(measured, 5, EXITED),
        disks=_disks(measured),
        grub_commands=commands,
        kernel_command_lines=lines,
        boot_files=_digests(measured, 9, "boot_files", doubts),
        uki=None if sections is None else bool(sections),
        uki_sections=sections or None,
        initrd=dict(sections or ()).get("initrd"),
        system_extensions=None if windows else _digests(measured, 13, "system_extensions", doubts),
        mok_lists=None if windows else _digests(measured, 14, "mok_lists", doubts),
    )


def _digests(measured: Measured, pcr: int, name: str, doubts: list[str]) -> tuple[str, ...] | None:
    """Every digest of a PCR but separators and actions: what is added is seen, what is renamed as well."""
    register = measured[pcr]
    if register is None:
        return None
    found = dict.fromkeys(m.digest for m in register.all if measured.action(m) is None)
    if len(found) > _MOST[name]:
        doubts.append(f"too-many-{name.replace('_', '-')}")
        return None
    return tuple(digest.hex() for digest in found)


def _acted(measured: Measured, pcr: int, action: str) -> bool | None:
    register = measured[pcr]
    return None if register is None else any(measured.action(m) == action for m in register.all)


def _disks(measured: Measured) -> tuple[str, ...] | None:
    """The GUIDs of disks whose partition tables PCR 5 proves."""
    register = measured[5]
    if register is None:
        return None
    found: dict[str, None] = {}
    for measurement in register.all:
        if measurement.data.startswith(b"EFI PART") and measured.proves(measurement.digest, measurement.data):
            try:
                found[read_gpt_disk(measurement.data)] = None
            except MalformedUefiStructure:
                continue
    return tuple(found)[:_MOST_DISKS]


# ---- Where it was measured ---------------------------------------------------------------------------------------

_DIGESTS: Final = {2: "drivers", 4: "loaders", 9: "boot_files", 13: "system_extensions", 14: "mok_lists"}


def trace_loading(measured: Measured, facts: LoadingFacts) -> Iterator[Trace]:
    """Which events these facts rest on, as far as they are proven."""
    for pcr, name in _DIGESTS.items():
        register = measured[pcr]
        if register is not None and getattr(facts, name) is not None:
            for m in register.all:
                if measured.action(m) is None:
                    yield Trace(m.number, name, m.digest.hex())
    for pcr in (8, 12):
        register = measured[pcr]
        for m in register.all if register is not None else ():
            yield from _trace_text(measured, m, facts)
    sections, eleven = facts.uki_sections or (), measured[11]
    for (name, digest), m in zip(sections, eleven.all[1::2] if eleven is not None else (), strict=False):
        yield Trace(m.number, "uki_sections", digest)
        if name == "initrd":
            yield Trace(m.number, "initrd", digest)


def _trace_text(measured: Measured, m: Measurement, facts: LoadingFacts) -> Iterator[Trace]:
    command = _grub_text(measured, m)
    if command is not None and facts.grub_commands is not None:
        yield Trace(m.number, "grub_commands", printable(command, _MOST_COMMAND))
    lines = facts.kernel_command_lines or ()
    text = command if command is not None else _utf16_text(measured, m)
    for line in lines if text is not None else ():
        loading, _, arguments = (text or "").partition(" ")
        if printable(text or "", _MOST_LINE) == line or (
            loading in _LOADING and _unquoted(line) == printable(arguments, _MOST_LINE)
        ):
            yield Trace(m.number, "kernel_command_lines", line)
            if len(lines) == 1:
                yield Trace(m.number, "kernel_command_line", line)


# ---- Commands and command lines ----------------------------------------------------------------------------------


def _commands(
    measured: Measured, *, windows: bool, doubts: list[str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """GRUB's commands from PCR 8, and all command lines of kernels from PCRs 8 and 12.

    A measurement in one of them whose text is not known could be any text, so nothing of these is believed then.
    """
    eight, twelve = measured[8], None if windows else measured[12]
    texts = _Texts(measured, doubts)
    eight_known = eight is not None and texts.read_eight(eight.all)
    twelve_known = twelve is None or texts.read_twelve(twelve.all)
    commands = _bounded(texts.commands, doubts) if eight_known else None
    if not twelve_known or not (eight_known or eight is None):
        return commands, None
    lines = texts.command_lines()
    # No command line is no proof that there is none, while it may stand in a PCR that nobody has proven.
    if not lines and (eight is None or (twelve is None and not windows)):
        return commands, None
    return commands, _lines(lines, doubts)


class _Texts:
    """The texts of PCRs 8 and 12, as they are read."""

    def __init__(self, measured: Measured, doubts: list[str]) -> None:
        self._measured, self._doubts = measured, doubts
        self.commands: list[str] = []
        self._loading: dict[str, None] = {}  # arguments of commands that load a kernel
        self._labelled: dict[str, None] = {}  # what the log calls a command line
        self._wide: dict[str, None] = {}  # texts in UTF-16

    def read_eight(self, measurements: list[Measurement]) -> bool:
        for measurement in measurements:
            if (text := _grub_text(self._measured, measurement)) is not None:
                self.commands.append(text)
                loading, _, arguments = text.partition(" ")
                if loading in _LOADING:
                    self._loading[arguments] = None
                elif measurement.data.startswith(_CMDLINES):
                    self._labelled[text] = None
            elif (line := _utf16_text(self._measured, measurement)) is not None:
                self._wide[line] = None
            else:
                self._doubts.append("pcr-8-unexplained")
                return False
        return True

    def read_twelve(self, measurements: list[Measurement]) -> bool:
        for measurement in measurements:
            if (line := _utf16_text(self._measured, measurement)) is None:
                self._doubts.append("pcr-12-unexplained")
                return False
            self._wide[line] = None
        return True

    def command_lines(self) -> list[str]:
        """Each command line once. GRUB measures the same one as a command without quotes, and as the kernel gets it."""
        quoted = {_unquoted(line): line for line in self._labelled}
        loaded = [quoted.get(arguments, arguments) for arguments in self._loading]
        return list(dict.fromkeys((*loaded, *self._labelled, *self._wide)))


def _unquoted(line: str) -> str:
    """A command line without the quotes and backslashes that GRUB puts around and before what needs them."""
    if '"' not in line and "\\" not in line:
        return line
    found, escaped = [], False
    for character in line:
        if escaped or character not in '"\\':
            found.append(character)
            escaped = False
        else:
            escaped = character == "\\"
    return "".join(found)


def _bounded(commands: list[str], doubts: list[str]) -> tuple[str, ...] | None:
    if len(commands) > _MOST_COMMANDS:
        doubts.append("too-many-grub-commands")
        return None
    return tuple(printable(command, _MOST_COMMAND) for command in commands)


def _lines(lines: list[str], doubts: list[str]) -> tuple[str, ...] | None:
    if len(lines) > _MOST_LINES or any(len(line) > _MOST_LINE for line in lines):
        doubts.append("too-many-kernel-command-lines")
        return None
    return tuple(printable(line, _MOST_LINE) for line in lines)


def _grub_text(measured: Measured, measurement: Measurement) -> str | None:
    """The text that GRUB measured: what follows the log's own words, with or without its NUL.

    A text with a NUL inside is not GRUB's: it would be one in UTF-16 that somebody gave GRUB's words.
    """
    data = measurement.data
    for prefix in _PREFIXES:
        if data.startswith(prefix):
            rest = data[len(prefix) :]
            text = rest.removesuffix(b"\0")
            if b"\0" in text:
                return None
            digest = measurement.digest
            known = measured.proves(digest, text) or measured.proves(digest, rest)
            return text.decode("utf-8", "replace") if known else None
    return None


def _utf16_text(measured: Measured, measurement: Measurement) -> str | None:
    """A text that systemd-boot or systemd-stub measured: its description is the text, with or without its NUL.

    Some versions log half of the NUL that they measure.
    """
    data = measurement.data
    bare = data[: len(data) & ~1].removesuffix(b"\0\0") if len(data) % 2 == 0 else data.removesuffix(b"\0")
    for octets in (data, bare, data + b"\0", bare + b"\0\0"):
        if len(octets) % 2 == 0 and measured.proves(measurement.digest, octets):
            try:
                return octets.decode("utf-16-le").rstrip("\0")
            except UnicodeDecodeError:
                return None
    return None


# ---- Unified kernel images ---------------------------------------------------------------------------------------


def _uki(measured: Measured, doubts: list[str]) -> tuple[tuple[str, str], ...] | None:
    """The sections in PCR 11 and their digests: names and contents in turns from its first measurement on."""
    register = measured[11]
    if register is None:
        return None
    names = {measured.hash(f".{name}\0".encode()).digest(): name for name in _SECTIONS} if register.all else {}
    found: list[tuple[str, str]] = []
    measurements = register.all
    for at in range(0, len(measurements) - 1, 2):
        name = names.get(measurements[at].digest)
        if name is None:
            break
        found.append((name, measurements[at + 1].digest.hex()))
    if len({name for name, _ in found}) != len(found):
        doubts.append("uki-section-measured-twice")
        return None
    return tuple(found[:_MOST_SECTIONS])
