"""By what a device's TPM is endorsed, for people: the certificates from its own up to a maker's root."""

from __future__ import annotations

from dataclasses import dataclass

from attestd.ids import DeviceId
from attestd.issuance.chips import Chips
from attestd.registry import devices, evidence, trust
from attestd.registry.contents import ContentGone, Contents
from attestd.registry.engine import Registry
from attestd.tpm.advisories import Advisory
from attestd.tpm.der import shown_name
from attestd.tpm.ekcert import MakerCertificate, parse_certificate
from attestd.tpm.firmware import read_certified, read_dotted


@dataclass(frozen=True, slots=True)
class Link:
    """One certificate; `certificate` None: it is not kept, only its SHA-256 is. `trusted`: it is in the trust store."""

    sha256: bytes
    certificate: MakerCertificate | None
    own: bool  # the TPM's
    trusted: bool
    root: bool

    @property
    def subject(self) -> str:
        return "" if self.certificate is None else shown_name(self.certificate.subject)

    @property
    def not_after(self) -> int | None:
        return None if self.certificate is None else int(self.certificate.claims.not_after.timestamp())


@dataclass(frozen=True, slots=True)
class EndorsementChain:
    """The TPM's own certificate first; what is known against its kind of chip. `kind`: certificate, iak, inventory."""

    kind: str
    links: tuple[Link, ...]
    quirks: tuple[str, ...]
    advisories: tuple[Advisory, ...]
    accepted: frozenset[str]


def endorsement_chain(registry: Registry, contents: Contents, chips: Chips, device_id: DeviceId) -> EndorsementChain:
    """Of a device that enrolled; no links for one that an inventory alone knows. Raises UnknownDevice."""
    with registry.reading() as c:
        device = devices.by_id(c, device_id)
        endorsement = evidence.endorsed_by(c, device_id)
        makers = {maker.sha256: maker for maker in trust.every(c)} if endorsement.certificate is not None else {}
    links: list[Link] = []
    if endorsement.certificate is not None:
        own = parse_certificate(endorsement.certificate)
        links.append(Link(own.sha256, own, own=True, trusted=False, root=False))
        for sha256 in endorsement.issuers:
            maker = makers.get(sha256)
            try:
                found = parse_certificate(maker.der if maker is not None else contents.find(sha256))
            except ContentGone:
                found = None
            root = maker.is_root if maker is not None else found is not None and found.subject == found.issuer
            links.append(Link(sha256, found, own=False, trusted=maker is not None, root=root))
    facts = (device.result or {}).get("facts", {})
    firmware = read_dotted(str(facts.get("tpm.firmware_now", ""))) or read_certified(device.firmware_version)
    return EndorsementChain(
        kind=device.endorsement or "inventory",
        links=tuple(links),
        quirks=tuple(str(facts.get("tpm.quirks", "")).split()),
        advisories=chips.advisories.concerning(device.manufacturer, device.model, firmware),
        accepted=chips.accepted,
    )
