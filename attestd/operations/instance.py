"""What operators do: each verb is one transaction that acts and leaves an audit row with the operator's name.

Losing trust is immediate: quarantine, retire and replace change the state, its version and the status list in the
transaction that is acknowledged (docs/protocol.md, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from attestd.config import Settings
from attestd.errors import MalformedInput
from attestd.ids import DeviceId, EkHash, Serial, Site, Tier
from attestd.issuance.makers import known_makers
from attestd.operations import deciding
from attestd.operations.act import Act
from attestd.policy import PolicySet
from attestd.policy.review import require_readable
from attestd.registry import admission, brake, demands, issued, policies, trust
from attestd.registry.acts import perform
from attestd.registry.admission import Imported
from attestd.registry.demands import Cohort, Demanded
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.inventory import parse_inventory
from attestd.registry.states import Event
from attestd.registry.trust import TrustedMaker
from attestd.tpm.makers import CertificateDescription, certificates_in, describe_certificate


class NotAMaker(MalformedInput):
    """This certificate can't vouch for TPMs"""

    remedy = "Add the maker's CA certificates, not a TPM's own; a single TPM belongs into the inventory."


@dataclass(frozen=True, slots=True)
class Operations:
    """The operators' verbs. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    entropy: Callable[[int], bytes]

    # ---- Devices ----------------------------------------------------------------------------------------------

    def import_inventory(self, data: bytes, act: Act) -> Imported:
        """All of a CSV or JSON Lines file, or nothing. Raises InventoryInvalid (by line) or InventoryConflicts."""
        entries = parse_inventory(data)
        with self.registry.acting() as c:
            imported = admission.import_approved(c, entries, entropy=self.entropy, now=act.at)
            act.note(c, "import-inventory", "inventory", added=imported.added, unchanged=imported.unchanged)
        return imported

    def approve(
        self,
        device_id: DeviceId,
        *,
        tier: Tier,
        site: Site,
        labels: Mapping[str, str] | None,
        act: Act,
        expected_version: int | None,
    ) -> Device:
        """Binds a waiting device to a tier and a site. Issues nothing: the agent enrolls again by itself."""
        with self.registry.acting() as c:
            return deciding.approve(
                c, device_id, tier=tier, site=site, labels=labels, act=act, expected_version=expected_version
            )

    def change_state(self, device_id: DeviceId, event: Event, *, act: Act, expected_version: int | None) -> Device:
        """Reject, quarantine, release or retire; `expected_version` is what the operator saw, if that matters."""
        with self.registry.acting() as c:
            return deciding.change_state(c, device_id, event, act=act, expected_version=expected_version)

    def replace_tpm(self, device_id: DeviceId, ek_hash: EkHash, *, act: Act, expected_version: int | None) -> Device:
        """Another TPM stands for this device from now on; the old one is blocked for ever."""
        with self.registry.acting() as c:
            device = admission.replace_ek(
                c, device_id, ek_hash, reason=act.reason, now=act.at, expected_version=expected_version
            )
            perform(c, brake.forgetting(device_id))
            act.note(c, "replace-tpm", str(device_id), version=device.state_version)
        return device

    def demand(self, device_id: DeviceId, *, act: Act, expected_version: int | None) -> Device:
        """This device shall attest now: its agent is told, and soon nothing is renewed for it unless it did."""
        with self.registry.acting() as c:
            return self._demand(c, device_id, act, expected_version)

    def demand_cohort(self, cohort: Cohort, *, after: DeviceId | None, act: Act) -> Demanded:
        """The same of a cohort's next devices, all or none. Raises UnknownDevice, TransitionRefused."""
        with self.registry.acting() as c:
            page = demands.page(c, cohort, after=after)
            for device_id in page.ids:
                self._demand(c, device_id, act, None)
        return page

    def _demand(self, c: Connection, device_id: DeviceId, act: Act, expected_version: int | None) -> Device:
        within = int(self.settings.attestation.demand_within.total_seconds())
        return deciding.demand(c, device_id, within=within, act=act, expected_version=expected_version)

    # ---- TPM makers -------------------------------------------------------------------------------------------

    def add_makers(self, file: bytes, act: Act) -> tuple[TrustedMaker, ...]:
        """Trusts the makers' CA certificates in a PEM or DER file; all of them are readable and CAs, or none is added.

        Returns those that the file held, also the ones that were trusted before.
        """
        makers = tuple(_trusted(described, act) for described in _described(file, act.now))
        with self.registry.acting() as c:
            added = trust.add(c, makers)
            known = known_makers().certificates
            act.note(
                c,
                "trust-makers",
                "tpm-makers",
                added=added,
                makers=sorted({known[each.sha256].maker if each.sha256 in known else "unknown" for each in makers}),
                sha256=[maker.sha256.hex() for maker in makers],
            )
        return makers

    def remove_maker(self, sha256: bytes, act: Act) -> None:
        """Stops trusting one certificate; devices that enrolled through it stay enrolled."""
        with self.registry.acting() as c:
            trust.remove(c, sha256)
            act.note(c, "distrust-maker", "tpm-makers", sha256=sha256.hex())

    # ---- Credentials, policy ----------------------------------------------------------------------------------

    def revoke(self, serial: Serial, act: Act) -> None:
        """Revokes one certificate: edges refuse it within a second, the CRL names it."""
        with self.registry.acting() as c:
            issued.revoke(c, serial, reason=act.reason, now=act.at)
            act.note(c, "revoke", str(serial))

    def set_policy(self, text: str, act: Act, *, expected_version: int | None = None) -> int:
        """A new version of the policy, checked against the schema first. Returns its version. `expected_version`: the
        one that its author began at; raises PolicyRaced if another one is in force by now."""
        with self.registry.acting() as c:
            version = policies.latest(c).version + 1
            policies.require_newest(c, expected_version)
            require_readable(text)
            PolicySet.parse(text, version)
            policies.add(c, text=text, created_by=act.actor, now=act.at, expected_version=version - 1)
            act.note(c, "set-policy", f"policy {version}")
        return version

    def rollback_policy(self, to: int | None, act: Act, *, expected_version: int | None = None) -> tuple[int, int]:
        """A new version with the text of an old one (None: of the text before this one). Returns both numbers.

        The old text has to fit today's schema: edges would not understand it otherwise.
        """
        with self.registry.acting() as c:
            newest = policies.latest(c)
            policies.require_newest(c, expected_version)
            old = policies.before_this_text(c) if to is None else policies.by_version(c, to)
            if old.text == newest.text:
                raise policies.AlreadyInForce(
                    seen=f"version {old.version}", expected=f"another text than {newest.version}'s"
                )
            version = newest.version + 1
            PolicySet.parse(old.text, version)
            policies.add(c, text=old.text, created_by=act.actor, now=act.at, expected_version=newest.version)
            act.note(c, "rollback-policy", f"policy {version}", to=old.version)
        return version, old.version


def _described(file: bytes, now: datetime) -> list[CertificateDescription]:
    """The CA certificates in a file. Raises NotAMaker for a certificate that is no CA's."""
    described = [describe_certificate(der, now=now) for der in certificates_in(file)]
    for certificate in described:
        if certificate.kind == "leaf":
            raise NotAMaker("This certificate is no CA's.", seen=certificate.subject, expected="a maker's root or CA")
    return described


def _trusted(described: CertificateDescription, act: Act) -> TrustedMaker:
    return TrustedMaker(
        sha256=described.sha256,
        der=described.der,
        subject=described.subject,
        not_after=int(described.not_after.timestamp()),
        is_root=described.kind == "root",
        added_at=act.at,
        added_by=act.actor,
    )
