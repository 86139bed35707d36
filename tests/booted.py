"""A machine that booted: what its firmware, loaders and kernel measured, as an imitated device presents it.

machine = Machine()                    # shim, GRUB and Linux with Secure Boot; IMA measured two files since
machine.present(device)                # its PCRs, and both logs, go with the device's next quote
machine.run("/usr/bin/rogue")          # IMA measures a file more
machine.present(device, ima_from=3)    # only the entries after the third
machine = Machine(kernel=b"tampered")  # another kernel: PCRs and a log to match
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from attestd.appraisal.manifests import ReferenceManifest
from attestd.registry import references
from tests import ima_lists
from tests.ima_lists import Item
from tests.logwriter import Boot, digests_of, exit_boot_services, firmware, grub, image, shim
from tests.service import SoftDevice, World

GOOD_FILES = ("/usr/bin/init", "/usr/bin/sh", "/usr/bin/vim")
GRUB_COMMANDS = [
    "set prefix=(hd0,gpt2)/grub",
    "[ -s (hd0,gpt2)/grub/grubenv ]",
    "insmod ext2",
    "linux /vmlinuz-6.1 root=/dev/mapper/root ro quiet",
    "/vmlinuz-6.1 root=/dev/mapper/root ro quiet",
    "initrd /initrd.img-6.1",
]
PCRS = range(10)  # those that are quoted, besides IMA's


class Machine:
    """One boot. `items` are IMA's entries, the boot's aggregate first."""

    def __init__(self, *files: str, kernel: bytes = b"kernel", boot: Boot | None = None) -> None:
        self.boot = boot or exit_boot_services(grub(shim(firmware(Boot())), kernel=kernel))
        values = [self._value(index) for index in PCRS]
        self.items: list[Item] = [ima_lists.boot_aggregate(values)]
        for path in files or ("/usr/bin/init", "/usr/bin/sh"):
            self.run(path)

    def _value(self, index: int) -> bytes:
        return self.boot.pcrs["sha256"].get(index, bytes(32))

    def run(self, path: str, content: bytes = b"content") -> None:
        """IMA measures a file."""
        self.items.append(ima_lists.ng(path, content))

    @property
    def eventlog(self) -> bytes:
        return self.boot.agile()

    def ima(self, first: int = 0) -> bytes:
        """The list from an entry on, counted from 0."""
        return ima_lists.binary(self.items[first:])

    def pcrs(self, *, ima: bool = True) -> Mapping[str, Mapping[int, bytes]]:
        """What a quote covers."""
        values = {index: self._value(index) for index in PCRS}
        return {"sha256": values | ({10: ima_lists.pcr10(self.items)} if ima else {})}

    def present(self, device: SoftDevice, *, ima: bool = True, ima_from: int = 0, **logs: Any) -> None:
        """`logs` replace what goes with the quote: eventlog, eventlog_sha256, ima; None leaves it out."""
        device.pcrs = self.pcrs(ima=ima)
        said: dict[str, Any] = {"eventlog": self.eventlog}
        if ima:
            said |= {"ima": self.ima(ima_from), "ima_from": ima_from}
        device.logs = {name: value for name, value in (said | logs).items() if value is not None}


# ---- References and devices for them -----------------------------------------------------------------------------


def loaders(*kernels: bytes) -> list[str]:
    return [dict(digests_of(image(name)))["sha256"].hex() for name in (b"shim", b"grub", *kernels)]


BOOT = {"secure_boot": True, "loaders": loaders(b"kernel")}


def kernel_digest(kernel: bytes = b"kernel") -> str:
    return dict(digests_of(image(kernel)))["sha256"].hex()


def runtime(*paths: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    return {"files": {path: [digest] for path in paths}}


def refer(world: World, stage: str = "enforce", *, name: str = "model", overlap: int = 0, **sections: Any) -> str:
    """A manifest in the registry, in force from now on; its digest."""
    manifest = ReferenceManifest.from_members({"name": name, "stage": stage, **sections})
    with world.registry.acting() as c:
        references.add(
            c,
            name=manifest.name,
            stage=manifest.stage.value,
            digest=manifest.digest,
            document=manifest.document,
            added_by="test",
            now=int(world.clock().timestamp()),
            overlap=overlap,
        )
    world.clock.advance(seconds=2)
    return manifest.digest


def enrolled(world: World, machine: Machine, **shown: Any) -> SoftDevice:
    device = world.device()
    machine.present(device, **shown)
    assert device.enroll().status_code == 202
    world.approve(device)
    answer = device.enroll()
    assert answer.status_code == 200, answer.text
    return device
