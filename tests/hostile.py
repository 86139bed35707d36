"""A fleet in which every text that others give is an attack: markup, templates, formulas, turned writing.

    hostile = Hostile(folder)
    hostile.world, hostile.device, hostile.pending, …    # what addresses of pages need
    harmless(page.text)                                   # nothing of it is markup, an address, or unseen

What a device, an edge or a provider tells travels through the real doors where they take it. What they refuse, such as
markup in a site's name, is written past them where it is shown all the same: a door may have been more lenient once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import delete, insert, update

from attestd.config import AttestationSettings
from attestd.policy import default_policy
from attestd.registry import audit
from attestd.registry.tables import METADATA
from tests import ek_ca
from tests import logwriter as w
from tests.booted import BOOT, GOOD_FILES, GRUB_COMMANDS, Machine, enrolled, refer, runtime
from tests.console import Markup
from tests.edge_reports import edge_report
from tests.logwriter import Boot
from tests.receipt_site import ReceiptSite
from tests.service import SITE, SoftDevice, World

# Without control characters, as the strictest doors take it; `EVIL` has those, too.
PRINTABLE: Final = (
    "h0stile\"'><evil-tag evil-attr=1 onmouseover=alert(1) style=x><script>alert(1)</script>"
    "<img src=x onerror=alert(1)></textarea></title>{{99991*99989}}{% raw %}${99991*99989}"
)
EVIL: Final = PRINTABLE + "\u202e\u2066\x1b[31m\x07"
ADDRESS: Final = "javascript:alert('h0stile')"
FORMULA: Final = "=cmd|'/c calc'!A1 h0stile"
_UNSEEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_ADDRESSED: Final = ("href", "src", "action", "formaction", "content", "data", "poster", "xlink:href")


def harmless(text: str) -> None:
    """Whatever others gave is text in this page, and can be seen."""
    page = Markup(text)
    for tag, attributes in page.tags:
        assert tag not in ("evil-tag", "img", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith(("on", "evil")) and name != "style", (tag, name)
            if name in _ADDRESSED and value and (tag, name) != ("meta", "content"):
                assert value.startswith(("/", "#", "?", "https://")), (tag, name, value[:80])
            assert not _UNSEEN.search(value or ""), (tag, name, value)
    assert all(str(script.get("src", "")).startswith("/static/") for script in page.all("script"))
    assert "9998000099" not in text
    assert not _UNSEEN.search(page.words), _UNSEEN.search(page.words)


class Hostile:
    """The world and what its pages are about."""

    def __init__(self, folder: Path) -> None:
        selection = AttestationSettings(pcrs={"sha256": tuple(range(10))})
        self.world = world = World(folder / "instance", attestation=selection)
        refer(world, boot=BOOT | {"grub_commands": [*GRUB_COMMANDS, PRINTABLE]}, runtime=runtime(*GOOD_FILES))
        refer(world, "monitor", name="watched", match={"labels": {"ring": PRINTABLE[:100]}}, boot={"secure_boot": True})
        self.device = self._tampered()
        self.active = enrolled(world, Machine())
        self.pending = self._stranger()
        self._crossings(folder)
        self._people()
        self._policy()
        self._trail()
        self._registry()

    @property
    def id(self) -> str:
        return str(self.world.row(self.device).id)

    def close(self) -> None:
        self.site.edge.stop()
        self.world.close()

    # ---- Who tells it -----------------------------------------------------------------------------------------

    def _tampered(self) -> SoftDevice:
        device = enrolled(self.world, Machine())
        boot = w.firmware(Boot(), secure_boot=b"\0", options=(w.load_option(EVIL, w.hard_drive(), w.file_path(EVIL)),))
        boot.measure(4, w.EV.BS_APP, w.image_load(w.hard_drive(), w.file_path(EVIL)), w.image(b"evil"))
        w.grub_command(boot, EVIL)
        machine = Machine(boot=w.exit_boot_services(w.grub(w.shim(boot))))
        machine.run("/tmp/" + EVIL)
        machine.present(device)
        assert device.attest().status_code == 202
        return device

    def _stranger(self) -> SoftDevice:
        """Whose certificates have such names; it waits."""
        maker = ek_ca.maker(PRINTABLE)
        self.world.service.operations.add_makers(maker.root.certificate, self.world.act)
        device = self.world.device()
        subject = ek_ca.name(EVIL)
        leaf = maker.intermediate.ek_certificate(device.tpm.ek.private.public_key(), subject=subject)
        device.certificates = maker.chain(leaf)
        Machine().present(device)
        assert device.enroll().status_code == 202
        return device

    def _crossings(self, folder: Path) -> None:
        (folder / "edge").mkdir()
        self.site = ReceiptSite(self.world, folder / "edge")
        self.site.device = self.active
        self.site.refresher.tick()
        self.site.cross()
        self.site.deliver()
        counts = {"field": {"allowed": 1, "refused": {"no-credential": 5}}}
        here = {"tier": "edge", "site": SITE}
        guarded = {"from": {"tier": "device", "site": SITE}, "to": here, "receipts": "all"}
        report = edge_report(counts=counts, boundaries={"field": guarded})
        assert self.world.proxy.post("/v1/proxies/reports", report).status_code == 200

    def _people(self) -> None:
        invited = {"v": 1, "name": "grace", "role": "viewer"}
        self.invitation = self.world.admin.post("/v1/admin/invitations", invited).json

    def _policy(self) -> None:
        """Whoever wrote it copied a comment and a name from somewhere."""
        quoted = PRINTABLE.replace("\\", "").replace('"', "")
        self.policy = f'// {PRINTABLE}\n@id("{quoted}")\nforbid (principal, action, resource);\n{default_policy()}'
        put = self.world.admin.put("/v1/admin/policy", {"v": 1, "text": self.policy})
        assert put.status_code == 200, put.text

    def _trail(self) -> None:
        with self.world.registry.acting() as c:
            for act in ("quarantine", "label", "refuse-attestation", "add-operator", "restore", PRINTABLE[:60]):
                detail = {"reason": EVIL, "why": EVIL, "because": [EVIL], "old": {EVIL: EVIL}, "new": {"a": EVIL}}
                for subject in (self.id, EVIL):
                    at = int(self.world.clock().timestamp())
                    audit.append(c, at=at, actor=EVIL, act=act, subject=subject, request_id=None, detail=detail)

    # ---- What no door takes, and the registry holds all the same ------------------------------------------------

    def _registry(self) -> None:
        result = {"status": "contraindicated", "vector": {}, "reasons": [EVIL], "facts": {"tpm.advisories": EVIL}}
        self._write(
            "devices",
            serial_number=EVIL,
            manufacturer=EVIL,
            model=EVIL,
            firmware_version=EVIL,
            state_reason=EVIL,
            labels={"ring": EVIL, EVIL: EVIL, "link": ADDRESS},
            source=EVIL,
        )
        with self.world.registry.acting() as c:
            rows = METADATA.tables["devices"]
            for device in (self.device, self.pending):
                held = self.world.row(device).result or {}
                c.execute(update(rows).where(rows.c.id == self.world.row(device).id).values(result={**held, **result}))
        self._write("tpm_makers", subject=EVIL, added_by=EVIL)
        self._write("reference_manifests", added_by=EVIL)
        self._write("policies", created_by=EVIL)
        self._write("demands", reason=EVIL)
        self._write("receipts", boundary=EVIL, edge=EVIL)
        self._write("edge_counts", where={"reason": "no-credential"}, reason=EVIL)
        self._write("invitations", created_by=EVIL)
        self._write("issued", profile=EVIL)
        held = {"status": "contraindicated", "vector": {}, "reasons": [EVIL], "attested_at": 1}
        rows, device = METADATA.tables["held"], self.world.row(self.active).id
        with self.world.registry.acting() as c:
            c.execute(delete(rows))
            c.execute(insert(rows).values(device_id=device, at=int(self.world.clock().timestamp()), result=held))
        self._write("brake", engaged_at=int(self.world.clock().timestamp()), engaged_by=EVIL, reason=EVIL)

    def _write(self, table: str, *, where: Mapping[str, str] = MappingProxyType({}), **values: Any) -> None:
        rows = METADATA.tables[table]
        with self.world.registry.acting() as c:
            c.execute(update(rows).where(*(rows.c[name] == value for name, value in where.items())).values(values))
