"""A made-up fleet with something of everything, for pictures of the console and for tests that open every page of it.

    fleet = MadeUp(folder)
    fleet.tampered           # the id of a device that booted something else, with a week of history before that
    fleet.app                # the console over it, and `fleet.seed`: Mara, an admin, is signed in

A few of its devices have an imitated TPM and went all the way; the others are rows of the registry. The clock stands
still at the end of the story, so that what is shown changes only when a page does.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import insert

from attestd.config import AttestationSettings
from attestd.credentials.requests import SoftwareKey
from attestd.ids import EkHash, Site
from attestd.policy import default_policy, edge_tokens_policy
from attestd.registry import bundles, counts, outcomes
from attestd.registry.tables import devices, refusal_counts, result_counts
from tests import ek_ca
from tests import logwriter as w
from tests.authenticator import Person, invite
from tests.booted import BOOT, GOOD_FILES, Machine, loaders, runtime
from tests.console import console_app, signed_in
from tests.edge_reports import edge_report
from tests.forger import Forger
from tests.logwriter import Boot
from tests.receipt_site import ReceiptSite
from tests.service import SITE, START, Caller, SoftDevice, World

NOW: Final = START + timedelta(days=6, hours=4, minutes=24)
_NOW: Final = int(NOW.timestamp())
KERNEL: Final = "The kernel's digest is not among the reference values for ring stable"
SUFFIX: Final = """@id("no-orders")
forbid (principal, action == Action::"cross", resource)
when { context.path == "/orders" };
"""
POLICY: Final = default_policy() + edge_tokens_policy()
LABELS: Final = {"ring": "stable"}
_DAY: Final = 86400
_Figures = tuple[int, Mapping[str, int], int, Mapping[str, int]]
_SITES: Final = {  # devices, and what became of them
    "ams-store-014": 38,
    "ber-plant-02": 96,
    "got-depot-009": 24,
    "ham-store-003": 31,
    "lis-tower-221": 23,
    "osl-store-001": 18,
}
_RESULT: Final = {
    "vector": {"instance-identity": 2, "hardware": 2, "executables": 2, "configuration": 2},
    "policies": ["gateway-os-5.2@" + "a" * 64],
}


class MadeUp:
    """The whole of it, made step by step."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        selection = AttestationSettings(pcrs={"sha256": tuple(range(10))})
        self.world = World(folder / "instance", attestation=selection)
        self.clock = self.world.clock
        self.app = console_app(self.world)
        self.mara = Person(self.world, "mara", "admin")
        self.jonas = Person(self.world, "jonas", "operator")
        self._trust()
        self._a_week(folder)
        self._rows()
        self._results()
        self._people()
        self._edges()
        with self.world.registry.acting() as c:
            counts.fold(c)
        viewer = self.world.viewer
        assert viewer.get("/v1/admin/audit/head").status_code == 200  # sealed up to here
        history = viewer.get(f"/v1/admin/devices/{self.tampered}/history?only=attestation&limit=1").json
        self.last = history["entries"][0]["first"]  # the number of its newest attestation whose evidence is kept
        query = "actor=operator%3Ajonas&act=quarantine&limit=1"
        self.row = viewer.get(f"/v1/admin/audit?{query}").json["audit"][0]["number"]
        pending = viewer.get("/v1/admin/devices?state=pending").json["devices"]
        self.waiting = [str(each["id"]) for each in pending]
        self.token = invite(self.world, "kofi", "operator")["token"]
        self.maker = viewer.get("/v1/admin/trust").json["makers"][0]["sha256"]
        self.seed = signed_in(self.world, "admin", "ada", app=self.app).seed

    def close(self) -> None:
        self.site.edge.stop()
        self.world.close()

    # ---- The story ----------------------------------------------------------------------------------------------

    def _trust(self) -> None:
        """What is good, and what is watched as the next that is."""
        self._refer("gateway-os-5.2", "enforce", boot=BOOT, runtime=runtime(*GOOD_FILES))
        self._refer("gateway-os-5.3", "monitor", boot=BOOT | {"loaders": loaders(b"kernel-5.3")})
        text = POLICY.replace('@id("', '// Who may cross, and with what.\n@id("', 1)
        said = {"v": 1, "text": text, "expected_version": 1, "reason": "says what it is for"}
        self._done(self.mara.confirmed("PUT", "/v1/admin/policy", said))
        self.clock.advance(seconds=5)

    def _refer(self, name: str, stage: str, **sections: Any) -> None:
        said = {"name": name, "stage": stage, "match": {"labels": LABELS}, **sections}
        path = "/v1/admin/references?unwatched=true"
        self._done(self.mara.confirmed("POST", path, json.dumps(said).encode()))

    def _a_week(self, folder: Path) -> None:
        """Two devices that are well, twice a day; then one of them boots with Secure Boot off."""
        good, tampered = self._enrolled("gw-shop1-01", SITE), self._enrolled("gw-ams014-07", "ams-store-014")
        self.good, self.tampered = good.id, tampered.id
        while NOW - self.clock() > timedelta(hours=12):
            self.clock.advance(hours=11, minutes=40)
            for device in (good, tampered):
                Machine().present(device)
                self._done(device.attest())
        self._cross(folder, good)
        self.clock.now = NOW - timedelta(hours=3)
        self._others_wait()
        self.clock.now = NOW - timedelta(hours=2, minutes=12)
        self._reports("lis-tower-221", (41, {}, 12, {}), version=1)
        for device in (good, tampered):
            self.clock.now = NOW - timedelta(minutes=50)
            Machine().present(device)
            self._done(device.attest())
        self.clock.now = NOW - timedelta(minutes=22)
        boot = w.grub(w.shim(w.firmware(Boot(), secure_boot=b"\0")), kernel=b"tampered")
        Machine(boot=w.exit_boot_services(boot)).present(tampered)
        for _ in range(3):
            assert tampered.attest().status_code == 202
            self.clock.advance(minutes=2)
        Machine().present(good)
        self._done(good.attest())

    def _enrolled(self, serial: str, site: str) -> SoftDevice:
        """In the inventory, booted and with credentials."""
        device = self.world.device()
        Machine().present(device)
        line = f"ek_hash,tier,site,serial_number,label.ring\n{device.ek_hash.hex()},device,{site},{serial},stable\n"
        answer = self.jonas.post("/v1/admin/devices/import", line.encode(), content_type="text/csv")
        if answer.status_code == 403:
            answer = self.mara.post("/v1/admin/devices/import", line.encode(), content_type="text/csv")
        self._done(answer)
        self._done(device.enroll())
        return device

    def _cross(self, folder: Path, device: SoftDevice) -> None:
        """Crossings with receipts, which a draft of a policy can be tried on."""
        (folder / "edge").mkdir()
        self.site = ReceiptSite(self.world, folder / "edge")
        self.site.device = device
        self.site.refresher.tick()
        self.site.cross(12)
        self.site.deliver()

    # ---- Rows ---------------------------------------------------------------------------------------------------

    def _rows(self) -> None:
        rows = list(self._devices())
        with self.world.registry.acting() as c:
            c.execute(insert(devices), rows)
        self.alike = [str(row["id"]) for row in rows if row["state_reason"] == KERNEL]
        self.released = str(next(row["id"] for row in rows if row["serial_number"] == "gw-got009-02"))

    def _devices(self) -> Iterator[dict[str, Any]]:
        for site, many in _SITES.items():
            place = site.replace("-store-", "").replace("-plant-", "").replace("-depot-", "").replace("-tower-", "")
            for number in range(1, many + 1):
                tier = "edge" if number > many - 3 else "device"
                yield self._device(f"{'edge' if tier == 'edge' else 'gw'}-{place}-{number:02}", site, tier, number)
        for number in range(1, 5):
            yield self._device(f"srv-fra-{number:02}", "fra-cloud", "cloud", number)

    def _device(self, serial: str, site: str, tier: str, number: int) -> dict[str, Any]:
        state, status, reason, by, since, left = "active", "affirming", None, None, None, 2_700
        if site == "ber-plant-02" and number in (3, 5, 8, 11, 12, 17, 21, 22, 26):
            state, status, reason, by, since = "quarantined", "contraindicated", KERNEL, "appraisal", 44 * 60
        elif serial == "gw-ham003-18":
            state, status, by, since = "quarantined", "contraindicated", "appraisal", 6 * 3600
            reason = "The event log does not replay to the quote: PCR 4 first differs at event 31"
        elif serial == "gw-got009-02":
            state, reason, by, since = "quarantined", "stolen from the van", "operator", 3 * _DAY
        elif serial in ("gw-osl001-01", "gw-osl001-02"):
            state, reason = "retired", "scrapped"
        elif site == "lis-tower-221":
            left = -7_920
        elif number % 17 == 4:
            status = "warning"
        why = [reason] if by == "appraisal" else []
        why += ["TPM firmware 7.4 is named in the advisory IFX-2021-1"] if status == "warning" else []
        norvik = number % 3
        return {
            "id": hashlib.md5(serial.encode(), usedforsecurity=False).hexdigest()[:26],
            "state": state,
            "state_version": 3,
            "tier": tier,
            "site": site,
            "serial_number": serial,
            "labels": {"ring": "canary" if number % 10 == 0 else "stable"},
            "ek_hash": EkHash.of(serial.encode()),
            "ek_public": b"e" * 120,
            "ak_public": b"a" * 90,
            "ck_public": b"c" * 90,
            "ck_name": b"n" * 34,
            "status_index": None,
            "manufacturer": "Norvik" if norvik else "Halden",
            "model": "NV20" if norvik else "T2",
            "firmware_version": "1.16" if norvik else "7.4",
            "endorsement": "certificate",
            "created_at": _NOW - 90 * _DAY,
            "updated_at": _NOW - 600,
            "attested_at": _NOW - 900 + left if left < 0 else _NOW - 60 * (number % 15) - 20,
            "attestation_good_until": _NOW + left,
            "result": {**_RESULT, "status": status, "reasons": why, "attested_at": _NOW - 600},
            "result_status": status,
            "clock": {"clock": 5, "reset_count": 1, "restart_count": 2, "safe": True},
            "state_reason": reason,
            "source": "inventory",
            "quarantined_by": by,
            "quarantined_at": None if since is None else _NOW - since,
        }

    def _results(self) -> None:
        """A day: a quiet night, a fault in the morning, and the nine an hour ago."""
        chance, last = random.Random(4), _NOW - _NOW % outcomes.STEP
        odd = {44: (3, 0), 40: (1, 1), 31: (2, 0), 26: (4, 0), 25: (2, 0), 17: (1, 1), 9: (3, 0), 1: (1, 9), 0: (0, 1)}
        rows, refused = [], []
        for back in range(47, -1, -1):
            at = last - back * outcomes.STEP
            warnings, bad = odd.get(back, (0, 0))
            many = 470 + chance.randrange(50) - (140 if back in (2, 3) else 0)
            rows.append({"at": at, "status": "affirming", "count": many})
            rows += [{"at": at, "status": "warning", "count": warnings}] if warnings else []
            rows += [{"at": at, "status": "contraindicated", "count": bad}] if bad else []
        at = last - outcomes.STEP
        for why, site, many, who in (
            (KERNEL, "ber-plant-02", 9, self.alike[:5]),
            ("event-log-mismatch", "ham-store-003", 2, [self.alike[0]]),
            ("nonce-mismatch", "osl-store-001", 1, [self.alike[1]]),
        ):
            refused.append({"at": at, "why": why, "site": site, "verb": "attest", "count": many, "devices": who})
        with self.world.registry.acting() as c:
            c.execute(insert(result_counts), rows)
            c.execute(insert(refusal_counts), refused)

    # ---- Edges ----------------------------------------------------------------------------------------------------

    def _edges(self) -> None:
        """Every site has an edge that reports; Lisbon's has not been heard for two hours."""
        told: dict[str, _Figures] = {
            "ams-store-014": (1_195, {"device-suspended": 9}, 880, {}),
            "ber-plant-02": (9_821, {"device-suspended": 44, "no-credential": 5}, 6_110, {}),
            "got-depot-009": (2_310, {}, 1_905, {}),
            "ham-store-003": (3_402, {"result-too-old": 2}, 402, {"crossing-denied": 1}),
            "osl-store-001": (1_020, {}, 640, {}),
        }
        self.clock.now = NOW
        self.site.refresher.tick()  # a bundle that knows of everything
        for site, figures in told.items():
            self._reports(site, figures)
        self._report(
            Caller(self.world, self.site.key),
            {"field": {"allowed": 12, "refused": {"no-credential": 1}}},
            {"field": _guarded("device", SITE, "edge", SITE, receipts="all")},
        )
        self.world.new_caller("proxy", "edge-new-1")

    def _reports(self, site: str, figures: _Figures, *, version: int | None = None) -> None:
        """A site's edge: what came in from its devices and was refused, and what went up to the cloud."""
        allowed, refused, up, denied = figures
        key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self.world.service.certifying.add_proxy(f"{site}-a", Site(site), pem, self.world.act)
        names = (f"{site}-in", f"{site}-up")
        said = ((allowed, refused), (up, denied))
        self._report(
            Caller(self.world, key),
            {name: {"allowed": n, "refused": dict(no)} for name, (n, no) in zip(names, said, strict=True)},
            {
                names[0]: _guarded("device", site, "edge", site, receipts="allowed", max_staleness=14_400),
                names[1]: _guarded("edge", site, "cloud", "fra-cloud", max_staleness=900, when_stale="telemetry"),
            },
            version,
        )

    def _report(
        self, edge: Caller, sums: Mapping[str, Any], boundaries: Mapping[str, Any], version: int | None = None
    ) -> None:
        with self.world.registry.reading() as c:
            newest = bundles.newest(c)
        at = int(self.clock().timestamp())
        assert newest is not None, "the edge of the crossings asked for one"
        bundle = {"epoch": newest.epoch, "version": version or newest.version, "issued_at": newest.issued_at}
        report = edge_report(
            since=at - 600, until=at, bundle=bundle, counts=dict(sums), boundaries=dict(boundaries),
            stale_for={},
        )  # fmt: skip
        self._done(edge.post("/v1/proxies/reports", report))

    # ---- People ---------------------------------------------------------------------------------------------------

    def _people(self) -> None:
        self.clock.now = NOW - timedelta(minutes=14)
        for person in (self.mara, self.jonas):  # their sessions of a week ago are over
            person.key = person.another_browser().key
        Person(self.world, "ines", "viewer")
        for name, role in (("lena", "operator"), ("noor", "viewer")):
            self.clock.advance(minutes=2)
            self._done(self.mara.confirmed("POST", "/v1/admin/invitations", {"v": 1, "name": name, "role": role}))
        self.clock.advance(minutes=3)
        act = {"v": 1, "reason": "seen at the wrong door"}
        self._done(self.jonas.post(f"/v1/admin/devices/{self.good}/demand", {"v": 1}))
        self.nowhere = hashlib.md5(b"srv-fra-04", usedforsecurity=False).hexdigest()[:26]
        self._done(self.jonas.post(f"/v1/admin/devices/{self.nowhere}/quarantine", act))
        self.clock.advance(minutes=4)
        self._done(self.jonas.confirmed("POST", f"/v1/admin/devices/{self.nowhere}/release", {**act, "reason": "ours"}))

    def _others_wait(self) -> None:
        """Three that are alike, one of another make, and one whose boot would be refused."""
        for _ in range(3):
            self._waits(self.world.device())
        form = Forger()
        other = ek_ca.tpm_attributes("id:4E544300", "NPCT75x", "id:00070002")
        certificate = self.world.maker.intermediate.ek_form(form.ek.private.public_key())
        leaf = certificate.with_extension(ek_ca.alternative_name(other)).sign(self.world.maker.intermediate.key)
        self._waits(self.world.device(form, certificates=self.world.maker.chain(leaf)))

    def _waits(self, device: SoftDevice) -> None:
        Machine().present(device)
        assert device.enroll().status_code == 202

    @staticmethod
    def _done(answer: Any) -> None:
        assert answer.status_code < 300, answer.text


def _guarded(start: str, at: str, end: str, to: str, **more: Any) -> dict[str, Any]:
    return {"from": {"tier": start, "site": at}, "to": {"tier": end, "site": to}, **more}
