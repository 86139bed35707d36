"""The TPM's commands, given over one connection through the TSS's ESAPI.

TPM 2.0 Library, Part 3: ActivateCredential (12.5), Certify (18.2), Quote (18.4), PCR_Read (22.4), NV_Read (31.13).
EK authorisation: TCG EK Credential Profile 2.4, annex B.3 (PolicyA) and B.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_HR,
    TPM2_PT,
    TPM2_PT_FIRMWARE,
    TPM2_PT_VENDOR,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
)
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMS_ATTEST,
    TPMS_PCR_SELECTION,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
)

from attestd.protocol.evidence import BANKS, PcrSelection
from attestd_agent.failures import (
    IdentityKeyUnusable,
    KeysNotOfThisTpm,
    PcrsKeepChanging,
    PcrsUnavailable,
    says_foreign_key,
    says_locked,
    says_unreadable,
    says_unsupported,
)
from attestd_agent.keys import EndorsementKey, HeldIdentity, Quoted, Signed, TpmKey
from attestd_agent.templates import (
    ENDORSEMENT,
    ENDORSEMENT_HANDLES,
    ENDORSEMENT_INDICES,
    OWNER,
    SRK_HANDLE,
    STORAGE_ROOT,
    is_storage_root,
)

_MAX_NV = 64 * 1024
_QUOTE_ATTEMPTS = 5


class Tpm:
    """One connection. What is loaded through it is registered in `kept` and flushed when the connection ends."""

    def __init__(self, esapi: Any, kept: ExitStack) -> None:
        self._esapi = esapi
        self._kept = kept

    def flush_orphans(self) -> None:
        for first in (TPM2_HR.TRANSIENT, TPM2_HR.HMAC_SESSION):  # the latter lists every loaded session
            for handle in self._handles(first):
                self._esapi.flush_context(self._esapi.tr_from_tpmpublic(handle))

    def _handles(self, first: int) -> list[int]:
        found: list[int] = []
        more, at = True, int(first)
        while more:
            more, data = self._esapi.get_capability(TPM2_CAP.HANDLES, at, 254)
            batch = [int(handle) for handle in data.data.handles]
            found, more = found + batch, more and bool(batch)
            at = batch[-1] + 1 if batch else at
        return found

    # ---- Storage root, attestation and credential keys ----------------------------------------------------------

    def choose_parent(self) -> int:
        """The persistent storage root if it is one that OpenSSL's provider can use too, else the owner's primary."""
        if SRK_HANDLE in self._handles(TPM2_HR.PERSISTENT) and is_storage_root(self._public_area(SRK_HANDLE)):
            return SRK_HANDLE
        return OWNER

    def persistent_key(self, handle: int) -> bytes | None:
        return self._public_area(handle) if handle in self._handles(TPM2_HR.PERSISTENT) else None

    def _public_area(self, handle: int) -> bytes:
        found = self._esapi.tr_from_tpmpublic(handle)
        try:
            return bytes(self._esapi.read_public(found)[0].publicArea.marshal())
        finally:
            self._esapi.tr_close(found)

    def _primary(self, hierarchy: ESYS_TR, template: bytes, kept: ExitStack) -> tuple[ESYS_TR, bytes]:
        handle, public, *_ = self._esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(),
            TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(template)[0]),
            primary_handle=hierarchy,
            outside_info=TPM2B_DATA(),
            creation_pcr=TPML_PCR_SELECTION(),
        )
        kept.callback(self._esapi.flush_context, handle)
        return handle, bytes(public.publicArea.marshal())

    def _parent(self, handle: int, kept: ExitStack) -> ESYS_TR:
        if handle == OWNER:
            return self._primary(ESYS_TR.OWNER, STORAGE_ROOT, kept)[0]
        found = self._esapi.tr_from_tpmpublic(handle)
        kept.callback(self._esapi.tr_close, found)
        return found

    def create(self, template: bytes, parent: int) -> TpmKey:
        with ExitStack() as kept:
            private, public, *_ = self._esapi.create(
                self._parent(parent, kept),
                TPM2B_SENSITIVE_CREATE(),
                TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(template)[0]),
                outside_info=TPM2B_DATA(),
                creation_pcr=TPML_PCR_SELECTION(),
            )
        return TpmKey(bytes(public.marshal()), bytes(private.marshal()), parent)

    def load(self, *keys: TpmKey) -> list[ESYS_TR]:
        """Loads keys of one parent, which leaves before they work: small TPMs hold three objects."""
        found: list[ESYS_TR] = []
        with ExitStack() as kept:
            try:
                parent = self._parent(keys[0].parent, kept)
                for key in keys:
                    private, _ = TPM2B_PRIVATE.unmarshal(key.private)
                    public, _ = TPM2B_PUBLIC.unmarshal(key.public)
                    found.append(self._esapi.load(parent, private, public))
                    self._kept.callback(self._esapi.flush_context, found[-1])
            except TSS2_Exception as failure:
                if not says_foreign_key(int(failure.rc)):
                    raise
                raise KeysNotOfThisTpm(
                    "The TPM refuses to load the stored keys.", seen=f"0x{int(failure.rc):08x}, {failure}"
                ) from failure
        return found

    def sign(self, key: ESYS_TR, data: bytes) -> bytes:
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA)
        scheme.details.ecdsa.hashAlg = TPM2_ALG.SHA256
        no_ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        # The binding's members are views into their structure: it must live for as long as they are read.
        signed = self._esapi.sign(key, hashlib.sha256(data).digest(), scheme, no_ticket)
        found = signed.signature.ecdsa
        return bytes(found.signatureR).rjust(32, b"\0") + bytes(found.signatureS).rjust(32, b"\0")

    # ---- The endorsement key ------------------------------------------------------------------------------------

    def endorsement_indices(self) -> list[int]:
        return [index for index in self._handles(TPM2_HR.NV_INDEX) if index in ENDORSEMENT_INDICES]

    def endorsement_keys(self) -> dict[int, bytes]:
        handles = self._handles(TPM2_HR.PERSISTENT)
        return {handle: self._public_area(handle) for handle in handles if handle in ENDORSEMENT_HANDLES}

    def make_endorsement(self, template: bytes) -> bytes | None:
        with ExitStack() as kept:
            try:
                return self._primary(ESYS_TR.ENDORSEMENT, template, kept)[1]
            except TSS2_Exception as failure:
                if not says_unsupported(int(failure.rc)):
                    raise
                return None

    def nv(self, index: int) -> bytes:
        found = self._esapi.tr_from_tpmpublic(index)
        try:
            size = int(self._esapi.nv_read_public(found)[0].nvPublic.dataSize)
            data = b""
            while len(data) < min(size, _MAX_NV):
                step = self._esapi.nv_read(found, min(512, size - len(data)), len(data), auth_handle=found)
                data += bytes(step)
        except TSS2_Exception as failure:
            if not says_unreadable(int(failure.rc)):
                raise
            return b""  # as good as absent
        finally:
            self._esapi.tr_close(found)
        return data

    def activate(self, ak: ESYS_TR, endorsement: EndorsementKey, credential_blob: bytes, secret: bytes) -> bytes:
        """TPM2_ActivateCredential: the EK needs USER role, the AK ADMIN role (its empty authValue)."""
        blob, _ = TPM2B_ID_OBJECT.unmarshal(credential_blob)
        seed, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
        with ExitStack() as kept:
            if endorsement.handle is None:
                ek = self._primary(ESYS_TR.ENDORSEMENT, endorsement.template, kept)[0]
            else:
                ek = self._esapi.tr_from_tpmpublic(endorsement.handle)
                kept.callback(self._esapi.tr_close, ek)
            return bytes(
                self._esapi.activate_credential(
                    ak, ek, blob, seed, session1=ESYS_TR.PASSWORD, session2=self._ek_session(endorsement, kept)
                )
            )

    def _ek_session(self, endorsement: EndorsementKey, kept: ExitStack) -> ESYS_TR:
        # High range: userWithAuth is SET (annex B.4), so the empty authValue gives USER role; no PolicyOR is needed.
        if not next(row for row in ENDORSEMENT if row.name == endorsement.kind).low:
            return ESYS_TR.PASSWORD
        session = self._esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
        )
        kept.callback(self._esapi.flush_context, session)
        self._esapi.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
        return session

    # ---- What the AK says ---------------------------------------------------------------------------------------

    def certify(self, ak_and_ck: Sequence[ESYS_TR], qualifying_data: bytes) -> Signed:
        no_scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        attest, signature = self._esapi.certify(*reversed(ak_and_ck), qualifying_data, no_scheme)
        return Signed(bytes(attest), bytes(signature.marshal()))

    def identify(self, ak: ESYS_TR, identity: HeldIdentity, qualifying_data: bytes) -> Signed:
        found = self._esapi.tr_from_tpmpublic(identity.handle)
        self._kept.callback(self._esapi.tr_close, found)
        try:
            return self.certify((found, ak), qualifying_data)
        except TSS2_Exception as failure:
            if not says_locked(int(failure.rc)):
                raise
            raise IdentityKeyUnusable("The identity key has a password.", seen=f"0x{int(failure.rc):08x}") from failure

    def quote(self, ak: ESYS_TR, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        chosen = TPML_PCR_SELECTION([_selected(bank, indices) for bank, indices in selection.items() if indices])
        for _ in range(_QUOTE_ATTEMPTS):
            pcrs = self.read_pcrs(selection)
            attest, signature = self._esapi.quote(ak, chosen, qualifying_data, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL))
            read, _ = TPMS_ATTEST.unmarshal(bytes(attest))
            values = b"".join(value for bank in pcrs.values() for value in bank.values())
            # A PCR may be extended between the two commands: then the values are not the quoted ones.
            if bytes(read.attested.quote.pcrDigest) == hashlib.sha256(values).digest():
                return Quoted(bytes(attest), bytes(signature.marshal()), pcrs)
        raise PcrsKeepChanging(seen=f"{_QUOTE_ATTEMPTS} attempts")

    def read_pcrs(self, selection: PcrSelection) -> dict[str, dict[int, bytes]]:
        """TPM2_PCR_Read returns at most eight digests a call (TPML_DIGEST; Part 2, section 10.9.4)."""
        found: dict[str, dict[int, bytes]] = {}
        for bank, indices in selection.items():
            wanted = sorted(indices)
            values: dict[int, bytes] = {}
            for at in range(0, len(wanted), 8):
                part = wanted[at : at + 8]
                _, _, digests = self._esapi.pcr_read(TPML_PCR_SELECTION([_selected(bank, part)]))
                if len(digests) != len(part):
                    raise PcrsUnavailable(seen=f"{len(digests)} of {len(part)} PCRs", expected=f"{bank}: {part}")
                values.update(zip(part, (bytes(digest) for digest in digests), strict=True))
            if values:
                found[bank] = values
        return found

    def banks(self) -> dict[str, tuple[int, ...]]:
        _, data = self._esapi.get_capability(TPM2_CAP.PCRS, 0, 1)
        names = {int(getattr(TPM2_ALG, bank.upper())): bank for bank in BANKS}
        found: dict[str, tuple[int, ...]] = {}
        for entry in data.data.assignedPCR:
            bits = int.from_bytes(bytes(entry.pcrSelect)[: entry.sizeofSelect], "little")
            indices = tuple(index for index in range(24) if bits >> index & 1)
            if indices and int(entry.hash) in names:
                found[names[int(entry.hash)]] = indices
        return found

    def properties(self) -> dict[str, str]:
        _, data = self._esapi.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.FIXED, 64)
        values = {int(entry.property): int(entry.value) for entry in data.data.tpmProperties}

        def letters(*wanted: int) -> str:
            octets = b"".join(values.get(int(one), 0).to_bytes(4, "big") for one in wanted)
            return "".join(chr(octet) for octet in octets if 32 <= octet < 127).strip()

        vendor = [TPM2_PT_VENDOR.STRING_1 + number for number in range(4)]
        firmware = (values.get(int(TPM2_PT_FIRMWARE.VERSION_1), 0), values.get(int(TPM2_PT_FIRMWARE.VERSION_2), 0))
        return {
            "manufacturer": letters(TPM2_PT.MANUFACTURER),
            "model": letters(*vendor),
            "firmware_version": f"{firmware[0]:08x}.{firmware[1]:08x}",
        }


def _selected(bank: str, indices: Sequence[int]) -> TPMS_PCR_SELECTION:
    return TPMS_PCR_SELECTION(hash=getattr(TPM2_ALG, bank.upper()), pcrs=list(indices))
