"""Firmware, loaders and a TPM's PCRs for tests: logs of boots that happened, and logs that lie about them.

It shares no code with attestd: records, UEFI's structures and the extension of PCRs are written a second time here. A
`Boot` measures events into PCRs, as a TPM would, and keeps their log; a lie changes the log and leaves the PCRs alone,
or measures what no honest firmware does.

    boot = grub_boot()                           # shim and GRUB, Secure Boot on
    boot.agile(), boot.pcrs                      # the log, and what it must replay to
    boot.sha1()                                  # the same in the older format
    boot.lie(3, type=EV.UNUSED)                  # a copy whose third event is called something else
    boot.measure(4, EV.BS_APP, b"", image(b"evil"))   # what somebody appends later
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ALGS = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D, "sm3_256": 0x0012}
SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3_256": 32}


class EV:
    """Types of events (TCG PC Client Platform Firmware Profile, section 10.4.1)."""

    POST_CODE, UNUSED, NO_ACTION, SEPARATOR, ACTION, TAG = 1, 2, 3, 4, 5, 6
    CRTM_VERSION, COMPACT_HASH, IPL, NONHOST_INFO = 8, 0xC, 0xD, 0x11
    VAR_CONFIG, VAR_BOOT, BS_APP, BS_DRIVER = 0x80000001, 0x80000002, 0x80000003, 0x80000004
    GPT, EFI_ACTION, BLOB, HCRTM, VAR_AUTHORITY = 0x80000006, 0x80000007, 0x80000008, 0x80000010, 0x800000E0


GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f").bytes_le
SHIM_LOCK = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23").bytes_le
OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b").bytes_le
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
IMAGE_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
DISK = "2723d28a-4a21-48e9-9c92-ad1376745a49"

CALLING = b"Calling EFI Application from Boot Option"
EXIT, EXITED = b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"


# ---- Structures --------------------------------------------------------------------------------------------------


@cache
def certificate(name: str) -> bytes:
    """A self-signed certificate, the same for the same name within one process."""
    key = ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big"), ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "An organization with a name long enough for two octets"),
        ]
    )
    built = x509.CertificateBuilder(subject, subject, key.public_key(), 7)
    built = built.not_valid_before(datetime(2020, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
    found: bytes = built.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert found[:2] == b"\x30\x82"
    return found


def image(name: bytes) -> bytes:
    """What Authenticode hashes of an image: its digest stands in the log, its octets nowhere."""
    return b"image " + name


def utf16(text: str, *, end: bool = False) -> bytes:
    return text.encode("utf-16-le") + (b"\0\0" if end else b"")


def variable(vendor: bytes, name: str, content: bytes) -> bytes:
    return vendor + struct.pack("<QQ", len(name), len(content)) + utf16(name) + content


def signatures(*entries: bytes, kind: bytes = X509, owner: bytes = OWNER, each: bool = True) -> bytes:
    """Signature lists: one an entry, as certificates have, or one for all (`each=False`), as images' digests have."""
    groups = [[entry] for entry in entries] if each else [list(entries)] if entries else []
    return b"".join(
        kind
        + struct.pack("<III", 28 + sum(16 + len(entry) for entry in group), 0, 16 + len(group[0]))
        + b"".join(owner + entry for entry in group)
        for group in groups
    )


def node(kind: int, subtype: int, content: bytes = b"") -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(content)) + content


END = node(0x7F, 0xFF)


def hard_drive(partition: int = 1, guid: str = DISK) -> bytes:
    """An HD() node of a GPT partition."""
    content = struct.pack("<IQQ", partition, 2048, 4096) + uuid.UUID(guid).bytes_le + bytes([2, 2])
    return node(4, 1, content)


def file_path(path: str) -> bytes:
    return node(4, 4, utf16(path, end=True))


def load_option(description: str, *path: bytes, optional: bytes = b"") -> bytes:
    whole = b"".join(path) + END
    return struct.pack("<IH", 1, len(whole)) + utf16(description, end=True) + whole + optional


def image_load(*path: bytes) -> bytes:
    """A UEFI_IMAGE_LOAD_EVENT; nothing of it is measured."""
    whole = b"".join(path) + END
    return struct.pack("<QQQQ", 0x1000, 0x2000, 0, len(whole)) + whole


def gpt(disk: str = DISK, partitions: int = 2) -> bytes:
    header = b"EFI PART" + struct.pack("<IIIIQQQQ", 0x10000, 92, 0, 0, 1, 2, 34, 5000)
    header += uuid.UUID(disk).bytes_le + struct.pack("<QIII", 2, 128, 128, 0)
    return header + struct.pack("<Q", partitions) + bytes(128 * partitions)


def sipa(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content


# ---- Booting -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logged:
    """One record: `digests` by bank in their order, None for a record of the log's own."""

    pcr: int
    type: int
    data: bytes
    digests: tuple[tuple[str, bytes], ...]


@dataclass
class Boot:
    """A machine's PCRs and the log of what was measured into them."""

    banks: tuple[str, ...] = ("sha1", "sha256")
    locality: int = 0
    log: list[Logged] = field(default_factory=list)
    pcrs: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pcrs = {bank: {} for bank in self.banks if bank in hashlib.algorithms_guaranteed}

    def extend(self, pcr: int, measured: bytes) -> None:
        """A measurement without a record: what comes after the firmware."""
        for bank, values in self.pcrs.items():
            digest = hashlib.new(bank, measured).digest()
            first = bytes(SIZES[bank] - 1) + bytes([self.locality if pcr == 0 else 0])
            values[pcr] = hashlib.new(bank, values.get(pcr, first) + digest).digest()

    def measure(self, pcr: int, type: int, data: bytes, measured: bytes | None = None) -> Self:
        """Extends by the digests of `measured`, of the data itself if there is none, and keeps a record."""
        measured = data if measured is None else measured
        self.extend(pcr, measured)
        digests = tuple((bank, _digest(bank, measured)) for bank in self.banks)
        self.log.append(Logged(pcr, type, data, digests))
        return self

    def note(self, data: bytes, pcr: int = 0, type: int = EV.NO_ACTION) -> Self:
        """A record that extends nothing."""
        self.log.append(Logged(pcr, type, data, tuple((bank, bytes(SIZES[bank])) for bank in self.banks)))
        return self

    def separate(self, pcrs: Iterable[int], value: bytes = bytes(4)) -> Self:
        for pcr in pcrs:
            self.measure(pcr, EV.SEPARATOR, value)
        return self

    def lie(self, number: int, **changed: Any) -> Boot:
        """A copy whose log has another event `number`, counted from 1 as in a crypto-agile log; the PCRs stay."""
        lying = deepcopy(self)
        lying.log[number - 1] = replace(lying.log[number - 1], **changed)
        return lying

    def without(self, number: int) -> Boot:
        lying = deepcopy(self)
        del lying.log[number - 1]
        return lying

    def find(self, pcr: int, data: bytes) -> int:
        """The number of the event in this PCR whose data hold these octets."""
        (found,) = [at for at, event in enumerate(self.log, 1) if event.pcr == pcr and data in event.data]
        return found

    # ---- Writing

    def agile(self, *, spec_id: bytes | None = None, padding: bytes = b"") -> bytes:
        head = self.spec_id() if spec_id is None else spec_id
        first = struct.pack("<II20sI", 0, EV.NO_ACTION, bytes(20), len(head)) + head
        return first + b"".join(map(write_agile, self.log)) + padding

    def spec_id(self, algs: Sequence[tuple[int, int]] | None = None, vendor: bytes = b"") -> bytes:
        chosen = [(ALGS[bank], SIZES[bank]) for bank in self.banks] if algs is None else algs
        head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(chosen))
        return head + b"".join(struct.pack("<HH", *alg) for alg in chosen) + bytes([len(vendor)]) + vendor

    def sha1(self, *, padding: bytes = b"") -> bytes:
        return b"".join(write_sha1(event) for event in self.log) + padding


def write_agile(event: Logged) -> bytes:
    written = struct.pack("<III", event.pcr, event.type, len(event.digests))
    written += b"".join(struct.pack("<H", ALGS[bank]) + digest for bank, digest in event.digests)
    return written + struct.pack("<I", len(event.data)) + event.data


def write_sha1(event: Logged) -> bytes:
    return struct.pack("<II20sI", event.pcr, event.type, dict(event.digests)["sha1"], len(event.data)) + event.data


def digests_of(measured: bytes, banks: Iterable[str] = ("sha1", "sha256")) -> tuple[tuple[str, bytes], ...]:
    return tuple((bank, _digest(bank, measured)) for bank in banks)


def _digest(bank: str, octets: bytes) -> bytes:
    if bank == "sm3_256":  # no TPM here has it: any octets will do
        return hashlib.sha256(b"sm3" + octets).digest()
    return hashlib.new(bank, octets).digest()


# ---- Firmware ----------------------------------------------------------------------------------------------------

DBX = tuple(hashlib.sha256(bytes([number])).digest() for number in range(77))
KEYS: dict[str, bytes] = {}


def keys() -> dict[str, bytes]:
    """A maker's Secure Boot variables."""
    if not KEYS:
        KEYS["PK"] = signatures(certificate("A maker's platform key"))
        KEYS["KEK"] = signatures(certificate("A maker's KEK"), certificate("Microsoft's KEK"))
        KEYS["db"] = signatures(certificate("Windows Production PCA"), certificate("UEFI CA"))
        KEYS["db"] += signatures(hashlib.sha256(b"an image").digest(), kind=IMAGE_SHA256, each=False)
        KEYS["dbx"] = signatures(*DBX, kind=IMAGE_SHA256, each=False) + signatures(certificate("A revoked CA"))
    return KEYS


def firmware(
    boot: Boot,
    *,
    secure_boot: bytes = b"\x01",
    variables: dict[str, bytes] | None = None,
    options: Sequence[bytes] = (),
    actions: Sequence[bytes] = (),
    whole_options: bool = False,
    separated: bool = True,
) -> Boot:
    """PCRs 0 to 7 up to the separators."""
    boot.note(b"StartupLocality\0" + bytes([boot.locality])) if boot.locality else None
    boot.measure(0, EV.CRTM_VERSION, utf16("N40ET41W", end=True))
    boot.measure(0, EV.BLOB, struct.pack("<QQ", 0xFF000000, 0x10000), b"firmware volume")
    boot.measure(7, EV.VAR_CONFIG, variable(GLOBAL, "SecureBoot", secure_boot))
    for name, content in (keys() if variables is None else variables).items():
        boot.measure(7, EV.VAR_CONFIG, variable(SECURITY if name.startswith("db") else GLOBAL, name, content))
    for action in actions:
        boot.measure(7, EV.EFI_ACTION, action)
    boot.measure(2, EV.BS_DRIVER, image_load(node(4, 8, bytes(20))), image(b"option ROM"))
    boot.measure(1, EV.VAR_CONFIG, variable(GLOBAL, "AuditMode", b"\0"))
    boot.measure(1, EV.VAR_CONFIG, variable(GLOBAL, "DeployedMode", b"\x01"))
    for number, option in enumerate(options or (load_option("debian", hard_drive(), file_path(r"\EFI\shimx64.efi")),)):
        logged = variable(GLOBAL, f"Boot{number:04X}", option)
        boot.measure(1, EV.VAR_BOOT, logged, logged if whole_options else option)
    boot.measure(1, EV.VAR_BOOT, variable(GLOBAL, "BootOrder", struct.pack("<HH", 0, 1)), struct.pack("<HH", 0, 1))
    boot.measure(4, EV.EFI_ACTION, CALLING)
    return boot.separate(range(8)) if separated else boot


def authority(boot: Boot, name: str, signer: str, *, vendor: bytes = SECURITY, owner: bytes = OWNER) -> Boot:
    """A key that vouched for an image."""
    return boot.measure(7, EV.VAR_AUTHORITY, variable(vendor, name, owner + certificate(signer)))


def load(boot: Boot, name: bytes, path: str) -> Boot:
    return boot.measure(4, EV.BS_APP, image_load(hard_drive(), file_path(path)), image(name))


def exit_boot_services(boot: Boot) -> Boot:
    return boot.measure(5, EV.EFI_ACTION, EXIT).measure(5, EV.EFI_ACTION, EXITED)


# ---- Loaders -----------------------------------------------------------------------------------------------------

CMDLINE = "/vmlinuz-6.1 root=/dev/mapper/root ro quiet"


def shim(boot: Boot, *, sbat: bytes | None = b"sbat,1,2023012900\nshim,2\ngrub,3\n", mok_state: bytes = b"") -> Boot:
    authority(boot, "db", "UEFI CA")
    boot.measure(5, EV.GPT, gpt())
    load(boot, b"shim", r"\EFI\debian\shimx64.efi")
    boot.measure(14, EV.IPL, b"MokList\0", b"a list of machine owner keys")
    boot.measure(14, EV.IPL, b"MokListX\0", b"a list of revoked ones")
    if mok_state:
        boot.measure(7, EV.VAR_AUTHORITY, variable(SHIM_LOCK, "MokSBState", mok_state))
        boot.measure(14, EV.IPL, b"MokSBState\0", mok_state)
    if sbat is not None:
        boot.measure(7, EV.VAR_AUTHORITY, variable(SHIM_LOCK, "SbatLevel", sbat))
    boot.measure(7, EV.VAR_AUTHORITY, variable(SHIM_LOCK, "MokListTrusted", b"\x01"))
    boot.measure(14, EV.IPL, b"MokListTrusted\0", b"\x01")
    return boot


def grub_command(boot: Boot, text: str, *, label: str = "grub_cmd: ", measured: bytes | None = None) -> Boot:
    return boot.measure(8, EV.IPL, f"{label}{text}\0".encode(), text.encode() if measured is None else measured)


def grub_file(boot: Boot, name: str, content: bytes) -> Boot:
    return boot.measure(9, EV.IPL, f"{name}\0".encode(), content)


def grub(boot: Boot, *, cmdline: str = CMDLINE, kernel: bytes = b"kernel", initrd: bytes = b"initrd") -> Boot:
    authority(boot, "Shim", "A distribution's CA", vendor=SHIM_LOCK, owner=b"")
    load(boot, b"grub", r"\EFI\debian\grubx64.efi")
    grub_file(boot, "(hd0,gpt1)/EFI/debian/grub.cfg", b"grub.cfg")
    for command in ("set prefix=(hd0,gpt2)/grub", "[ -s (hd0,gpt2)/grub/grubenv ]", "insmod ext2"):
        grub_command(boot, command)
    grub_command(boot, f"linux {cmdline}")
    grub_file(boot, "/vmlinuz-6.1", kernel)
    load(boot, kernel, "")
    grub_command(boot, cmdline, label="kernel_cmdline: ")
    grub_command(boot, "initrd /initrd.img-6.1")
    grub_file(boot, "/initrd.img-6.1", initrd)
    return boot


def grub_boot(**lies: Any) -> Boot:
    """shim, GRUB and Linux, with Secure Boot on; `lies` go to `firmware`."""
    return exit_boot_services(grub(shim(firmware(Boot(), **lies))))


def sections(boot: Boot, contents: Iterable[tuple[str, bytes]]) -> Boot:
    for name, content in contents:
        boot.measure(11, EV.IPL, utf16(f".{name}", end=True), f".{name}\0".encode())
        boot.measure(11, EV.IPL, utf16(f".{name}", end=True), content)
    return boot


UKI = (("linux", b"kernel"), ("osrel", b"ID=debian"), ("cmdline", b"root=LABEL=x"), ("initrd", b"the initrd"))


def uki_boot(*, cmdline: str = "debug=1", contents: Iterable[tuple[str, bytes]] = UKI) -> Boot:
    """systemd-boot and a unified kernel image, whose command line was added to."""
    boot = load(authority(firmware(Boot(locality=3)), "db", "A house's own key"), b"systemd-boot", r"\EFI\sd.efi")
    sections(load(boot, b"uki", r"\EFI\Linux\house.efi"), contents)
    if cmdline:
        boot.measure(12, EV.IPL, utf16(cmdline, end=True), utf16(cmdline))
    boot.measure(13, EV.IPL, utf16("System extension initrd", end=True), b"an extension")
    boot.measure(9, EV.TAG, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", b"the initrd")
    return exit_boot_services(boot)


def windows_block(**changed: Any) -> bytes:
    """What the boot manager or the loader says of the system; names of facts without "windows_", and values."""
    told: dict[str, int | None] = {
        "boot_debugging": 0,
        "kernel_debugging": 0,
        "test_signing": 0,
        "flight_signing": 0,
        "code_integrity": 1,
        "safe_mode": 0,
        "pe": 0,
        **changed,
    }
    kinds = {
        "boot_debugging": 0x40001,
        "kernel_debugging": 0x50001,
        "code_integrity": 0x50002,
        "test_signing": 0x50003,
        "safe_mode": 0x50005,
        "pe": 0x50006,
        "hypervisor_debugging": 0x5000D,
        "flight_signing": 0x50021,
    }
    said = b"".join(sipa(kinds[name], bytes([value])) for name, value in told.items() if value is not None)
    said += sipa(0x50012, struct.pack("<Q", 2)) + sipa(0x5000A, struct.pack("<Q", 1))
    said += sipa(0x20002, struct.pack("<Q", 85)) + sipa(0x20003, struct.pack("<I", 1))
    said += sipa(0x20005, struct.pack("<I", 4)) + sipa(0x50029, b"something newer")
    elam = sipa(0x90001, utf16("Windows Defender", end=True)) + sipa(0x90004, bytes(20))
    return said + sipa(0x40010002, elam)


def windows_module(name: bytes, *, validated: int = 1) -> bytes:
    return sipa(
        0x40010003,
        sipa(0x70001, utf16("\\Windows\\x.sys"))
        + sipa(0x70004, hashlib.sha256(image(name)).digest())
        # Whether the loader validated it:
        + sipa(0x7000A, bytes([validated])),
    )


def windows_boot(*, early: bytes | None = None, late: bytes | None = None, ends: Iterable[int] = (12, 13, 14)) -> Boot:
    boot = load(
        authority(firmware(Boot()), "db", "Windows Production PCA"), b"bootmgfw", r"\EFI\Microsoft\bootmgfw.efi"
    )
    boot.measure(11, EV.COMPACT_HASH, b"\x10\0\0\0")
    early = windows_block() if early is None else early
    late = windows_block() + windows_module(b"ci.dll") + windows_module(b"partmgr.sys") if late is None else late
    boot.measure(12, EV.TAG, sipa(0x40010001, early))
    boot.measure(13, EV.TAG, sipa(0x40010001, late))
    boot.measure(14, EV.TAG, sipa(0x60002, b"a key"))
    boot.separate(ends, b"WBCL")
    boot.note(b"a quote of its own", pcr=0xFFFFFFFF)
    return exit_boot_services(boot)
