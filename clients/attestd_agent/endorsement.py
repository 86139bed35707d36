"""Which endorsement key this device enrolls with. Pure: the TPM is behind `EndorsementSource`.

The answer must be the same each time, for another EK is another device to the service: first the rows of
`templates.ENDORSEMENT` that have a certificate, in their order, then the rows that make a key at all.

TCG EK Credential Profile for TPM Family 2.0, version 2.4, sections 2.2.1.4 and 2.2.1.5 (NV indices) and annex B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from attestd.errors import AttestdError
from attestd.protocol.evidence import MAX_CERTIFICATES
from attestd.tpm.ektemplates import check_ek_template
from attestd.tpm.objects import Attributes, TpmPublic, parse_public
from attestd_agent.ekcerts import names_key, split_certificates
from attestd_agent.failures import CertificateOfAnotherTpm, IdentityKeyUnusable, NoEndorsementKey
from attestd_agent.keys import EndorsementKey, HeldIdentity
from attestd_agent.templates import CHAIN_INDICES, ENDORSEMENT, EndorsementTemplate


class EndorsementSource(Protocol):
    """What is asked of a TPM to find its endorsement key."""

    def endorsement_indices(self) -> Sequence[int]:
        """The NV indices in the range reserved for endorsement certificates."""

    def endorsement_keys(self) -> Mapping[int, bytes]:
        """The persistent keys in the range reserved for endorsement keys: handle -> TPMT_PUBLIC."""

    def nv(self, index: int) -> bytes:
        """An NV area's octets; b"" where it can't be read without a password."""

    def make_endorsement(self, template: bytes) -> bytes | None:
        """The TPMT_PUBLIC that this template makes; None where this TPM does not make keys of this kind."""


def find_endorsement(tpm: EndorsementSource, *, kind: str | None, given: Sequence[bytes]) -> EndorsementKey:
    """The endorsement key. `kind` names one row; `given` is a certificate from a file, with its issuers' after it.

    Raises NoEndorsementKey or CertificateOfAnotherTpm.
    """
    rows = [row for row in ENDORSEMENT if kind in (None, row.name)]
    if not rows:
        raise NoEndorsementKey(seen=repr(kind), expected=", ".join(row.name for row in ENDORSEMENT))
    indices = tpm.endorsement_indices()
    # 1. A certificate given by hand decides; then the rows whose certificate lies in NV; then all rows.
    held = {row.name: split_certificates(tpm.nv(row.certificate)) for row in rows if row.certificate in indices}
    wanted: list[tuple[EndorsementTemplate, tuple[bytes, ...]]]
    if given:
        wanted = [(row, tuple(given)) for row in rows]
    elif any(held.values()):
        chain = _chain(tpm, indices)
        wanted = [(row, held[row.name][:1] + chain) for row in rows if held.get(row.name)]
    else:
        wanted = [(row, ()) for row in rows]
    # 2. The key that the certificate names: a persistent one, or else what the row's template makes.
    persistent = tpm.endorsement_keys()
    for row, certificates in wanted:
        for handle, public, template in _candidates(tpm, row, indices, persistent):
            if not certificates or names_key(certificates[0], _unique(public)):
                return EndorsementKey(row.name, public.area, certificates[:MAX_CERTIFICATES], handle, template)
    names = ", ".join(row.name for row, _ in wanted)
    if any(certificates for _, certificates in wanted):
        raise CertificateOfAnotherTpm(expected=f"a certificate for this TPM's key of one of these kinds: {names}")
    raise NoEndorsementKey(expected=names)


def read_identity(area: bytes | None, handle: int, given: Sequence[bytes]) -> HeldIdentity:
    """The identity key at a handle (`area` is its TPMT_PUBLIC, or None where there is no key), with its certificate.

    Raises IdentityKeyUnusable for what the service would refuse as well, and for what this agent can't use.
    """
    public = None if area is None else _read(area)
    if public is None:
        raise IdentityKeyUnusable(seen=f"no such key at 0x{handle:08x}")
    for attribute, what in ((Attributes.RESTRICTED, "restricted"), (Attributes.USER_WITH_AUTH, "userWithAuth")):
        if not public.attributes & attribute:
            raise IdentityKeyUnusable(f"The key at 0x{handle:08x} is not {what}.", seen=f"0x{public.attributes:08x}")
    if not given or not names_key(given[0], _unique(public)):
        raise IdentityKeyUnusable("The certificate names another key.", expected=f"one for the key at 0x{handle:08x}")
    return HeldIdentity(handle, public.area, tuple(given[:MAX_CERTIFICATES]))


def _candidates(
    tpm: EndorsementSource, row: EndorsementTemplate, indices: Sequence[int], persistent: Mapping[int, bytes]
) -> Iterator[tuple[int | None, TpmPublic, bytes]]:
    for handle, area in sorted(persistent.items()):
        public = _read(area)
        if public is not None and _profile_name(public) == row.profile:
            yield handle, public, row.area
    template = row.area
    if row.template in indices and (replaced := tpm.nv(row.template)):
        template = replaced
    elif row.nonce is not None and row.nonce in indices:
        template = row.with_nonce(tpm.nv(row.nonce))
    made = tpm.make_endorsement(template)
    public = _read(made) if made is not None else None
    if public is not None:
        yield None, public, template


def _chain(tpm: EndorsementSource, indices: Sequence[int]) -> tuple[bytes, ...]:
    """The issuers' certificates: concatenated over the indices, so that one may go on in the next index."""
    areas = [tpm.nv(index) for index in sorted(indices) if index in CHAIN_INDICES]
    whole = split_certificates(b"".join(areas))
    each = tuple(certificate for area in areas for certificate in split_certificates(area))  # where areas are padded
    return whole if len(whole) >= len(each) else each


def _read(area: bytes) -> TpmPublic | None:
    try:
        return parse_public(area)
    except AttestdError:
        return None  # not a kind of key that the service knows


def _profile_name(public: TpmPublic) -> str | None:
    try:
        return check_ek_template(public)
    except AttestdError:
        return None  # the service would refuse it


def _unique(public: TpmPublic) -> bytes:
    """The octets that a certificate for this key must hold: the modulus, or the point's x."""
    return public.unique if public.exponent else public.unique[: len(public.unique) // 2]
