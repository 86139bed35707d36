"""Who may vouch for a TPM here: the makers' certificates that operators trust, and the inventory.

Where a chain lacks a certificate between the EK's and a trusted root, it is looked for in what the device sent, then in
the store, and last, if settings name hosts for it, where the chain's own certificates say that it is (`issuers`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from attestd.config import EndorsementSettings
from attestd.errors import EvidenceRefused
from attestd.ids import EkHash
from attestd.issuance.issuers import Issuers
from attestd.issuance.makers import read_quirks
from attestd.protocol.evidence import IdentityKey
from attestd.registry import devices, trust
from attestd.registry.contents import CERTIFICATE, Contents
from attestd.registry.engine import Registry
from attestd.registry.evidence import Endorsement
from attestd.tpm.chain import TrustAnchors, UntrustedMaker
from attestd.tpm.endorsement import (
    CertificateForAnotherKey,
    VerifiedEndorsement,
    endorse_by_identity,
    endorse_by_inventory,
    verify_endorsement,
)
from attestd.tpm.identity import vet_identity_key
from attestd.tpm.vouching import BadCertificateSignature, IssuerKeyDiffers

_MAX_ABOVE = 1024  # issuers' certificates that a process remembers: 2 MB


class NoEndorsement(EvidenceRefused):
    """Nothing vouches for this TPM"""

    remedy = "Send the TPM's endorsement certificate, or have an operator import its EK hash with the inventory."


class IdentityKeysNotTaken(EvidenceRefused):
    """This service takes no identity keys in the place of an EK"""

    remedy = "Enroll by the TPM's EK, or have an operator set `endorsement.accept_iak = true`."


class Trust:
    """The trust store, parsed once and parsed again when an operator changes it."""

    def __init__(
        self, registry: Registry, settings: EndorsementSettings | None = None, *, issuers: Issuers | None = None
    ) -> None:
        """Raises SettingInvalid for a quirk of an unknown name."""
        settings = settings or EndorsementSettings()
        self._registry = registry
        self._takes_identities = settings.accept_iak
        self._refused = read_quirks(settings.refuse_quirks)
        self._issuers = issuers or Issuers(settings)
        self._lock = threading.Lock()
        self._version: int | None = None
        self._anchors = TrustAnchors.load((), ())
        self._contents = Contents(registry)
        self._above: dict[bytes, bytes] = {}  # issuers' certificates that led to a root, by SHA-256

    def _current(self) -> TrustAnchors:
        with self._registry.reading() as c:
            version = trust.version(c)
            if version != self._version:
                makers = trust.every(c)
                anchors = TrustAnchors.load(
                    (maker.der for maker in makers if maker.is_root),
                    (maker.der for maker in makers if not maker.is_root),
                )
                with self._lock:
                    self._version, self._anchors = version, anchors
            return self._anchors

    def keep_issuers(self, endorsement: VerifiedEndorsement, *, now: datetime) -> Endorsement:
        """By what a TPM is endorsed. The certificates above its own are kept, as far as this process has seen them:
        many TPMs share these, and any of them brings them again."""
        if endorsement.certificate is None:
            return Endorsement(None, ())
        with self._lock:
            known = [self._above[issuer] for issuer in endorsement.issuers if issuer in self._above]
        for certificate in known:
            self._contents.keep(CERTIFICATE, certificate, now=int(now.timestamp()))
        return Endorsement(endorsement.certificate, endorsement.issuers)

    def _seen(self, endorsement: VerifiedEndorsement) -> VerifiedEndorsement:
        with self._lock:
            if len(self._above) > _MAX_ABOVE:
                self._above.clear()
            self._above.update(zip(endorsement.issuers, endorsement.above, strict=True))
        return endorsement

    def endorse(self, ek_public: bytes, certificates: Sequence[bytes], *, now: datetime) -> VerifiedEndorsement:
        """A maker's certificate chain, or else the inventory's own word for this EK.

        The inventory helps where there is no certificate or one that proves nothing: from a maker not trusted here,
        expired, of an odd shape. A certificate that is a lie (for another key, or with a forged signature) is refused
        whatever the inventory says.
        """
        if certificates:
            try:
                return self._seen(self._by_maker(ek_public, certificates, now))
            except (CertificateForAnotherKey, BadCertificateSignature):
                raise
            except EvidenceRefused:
                if (listed := self._listed(ek_public)) is not None:
                    return listed
                raise
        if (listed := self._listed(ek_public)) is not None:
            return listed
        raise NoEndorsement("This TPM has no endorsement certificate, and the inventory does not list its EK.")

    def identify(self, ek_public: bytes, iak: IdentityKey, *, now: datetime) -> VerifiedEndorsement:
        """A certified identity key, where this instance takes such (docs/endorsements.md). No inventory stands in."""
        if not self._takes_identities:
            raise IdentityKeysNotTaken
        return self._seen(
            endorse_by_identity(
                ek_public,
                vet_identity_key(iak.public),
                iak.certificates,
                anchors=self._current(),
                now=now,
                refused=self._refused,
            )
        )

    def _by_maker(self, ek_public: bytes, certificates: Sequence[bytes], now: datetime) -> VerifiedEndorsement:
        anchors, refused = self._current(), self._refused
        try:
            return verify_endorsement(ek_public, certificates, anchors=anchors, now=now, refused=refused)
        except (UntrustedMaker, IssuerKeyDiffers):
            # Everything before the chain was in order: the key, its template, the certificate for this very key.
            fetched = self._issuers.above(certificates) if self._issuers.enabled else ()
            if not fetched:
                raise
        return verify_endorsement(ek_public, certificates, anchors=anchors, now=now, fetched=fetched, refused=refused)

    def _listed(self, ek_public: bytes) -> VerifiedEndorsement | None:
        ek_hash = EkHash.of(ek_public)
        with self._registry.reading() as c:
            device = devices.by_ek_hash(c, ek_hash)
        if device is None or device.source != "inventory":
            return None
        return endorse_by_inventory(ek_public, known=ek_hash)
