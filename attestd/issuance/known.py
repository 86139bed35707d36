"""A device that can sign requests: the registry's row with everything in it that an enrollment leaves, parsed once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.appraisal.results import AttestationResult
from attestd.credentials.facts import Facts
from attestd.errors import Unauthenticated
from attestd.ids import DeviceId
from attestd.issuance.grants import Grant
from attestd.issuance.records import Placement
from attestd.protocol.evidence import Lately
from attestd.registry.standing import Standing
from attestd.tpm.activation import VerifiedAk, recall_ak
from attestd.tpm.objects import parse_public


class DeviceUnknown(Unauthenticated):
    """No device of this name can sign requests here"""

    remedy = "Enroll first; the enrollment's answer holds the device id."


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """`key` is the credential key and `ck_name` its Name, `ak_area` the attestation key, by the registry's word."""

    row: Standing
    place: Placement
    key: ec.EllipticCurvePublicKey
    ck_name: bytes
    ak_area: bytes

    @classmethod
    def of(cls, row: Standing) -> Self:
        """Raises DeviceUnknown for a device that has not completed an enrollment."""
        if row.ck_public is None or row.ck_name is None or row.ak_public is None:
            raise DeviceUnknown("This device has not completed an enrollment.", seen=row.state.value)
        key = parse_public(row.ck_public).key
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise DeviceUnknown("This device's credential key is of another kind.", seen=type(key).__name__)
        return cls(row, Placement.of(row), key, row.ck_name, row.ak_public)

    @property
    def id(self) -> DeviceId:
        return self.row.id

    @property
    def ak(self) -> VerifiedAk:
        """The attestation key, activated when the device enrolled."""
        return recall_ak(self.ak_area)

    def facts(self, result: AttestationResult) -> Facts:
        """What its credentials say of it."""
        return Facts(
            vector=result.vector,
            labels=self.row.labels,
            boot=result.facts,
            status_index=self.place.status_index,
            attested_at=result.attested_at,
        )

    def grant(
        self,
        key: ec.EllipticCurvePublicKey,
        result: AttestationResult,
        good_until: datetime,
        *,
        ear: str = "",
        lately: Lately | None = None,
    ) -> Grant:
        """What it may be given, for this key."""
        place = self.place
        return Grant(
            self.id,
            place.tier,
            place.site,
            self.row.labels,
            place.status_index,
            key,
            result,
            good_until,
            ear,
            lately or Lately(),
        )
