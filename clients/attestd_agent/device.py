"""The device's TPM 2.0: what the agent asks of it, one operation at a time.

Each operation opens its own connection, flushes what it loaded, in any case, and closes: in between, the TPM is free
for other programs, also where no resource manager stands between (a software TPM's socket; see `turns`). This module
and `commands` alone import tpm2-pytss (and so need libtss2).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeVar

from tpm2_pytss import ESAPI, TCTILdr, TSS2_Exception

from attestd.protocol.evidence import PcrSelection, PcrValues
from attestd_agent.commands import Tpm
from attestd_agent.endorsement import find_endorsement, read_identity
from attestd_agent.failures import TpmFull, named
from attestd_agent.keys import EndorsementKey, HeldIdentity, Proof, Quoted, Signed, TpmKey
from attestd_agent.templates import ATTESTATION_KEY, CREDENTIAL_KEY
from attestd_agent.turns import PAUSES, is_unmanaged, turn_at

T = TypeVar("T")


class Device:
    """One TPM, named by its TCTI: `device:/dev/tpmrm0`, `swtpm:path=…` or `swtpm:host=…,port=…`."""

    def __init__(self, tcti: str) -> None:
        self.tcti = tcti
        self._name, _, self._conf = tcti.partition(":")
        self._lock = threading.Lock()

    # ---- One operation each: connect, work, flush, leave --------------------------------------------------------

    def endorsement(self, *, kind: str | None = None, given: Sequence[bytes] = ()) -> EndorsementKey:
        """The endorsement key to enroll with, always the same one: see `templates.ENDORSEMENT` for the order.

        `kind` narrows the choice to one template; `given` is a certificate from a file, with its issuers'.
        """
        return self._run("find the endorsement key", lambda tpm: find_endorsement(tpm, kind=kind, given=given))

    def identity(self, handle: int, given: Sequence[bytes]) -> HeldIdentity:
        """The identity key at a persistent handle; `given` is its certificate from a file, with its issuers'."""
        area = self._run("read the identity key", lambda tpm: tpm.persistent_key(handle))
        return read_identity(area, handle, given)

    def create_keys(self) -> tuple[TpmKey, TpmKey]:
        """A new attestation key and a new credential key, children of one storage root."""

        def work(tpm: Tpm) -> tuple[TpmKey, TpmKey]:
            parent = tpm.choose_parent()
            return tpm.create(ATTESTATION_KEY, parent), tpm.create(CREDENTIAL_KEY, parent)

        return self._run("create the device's keys", work)

    def create_credential_key(self, *, beside: TpmKey) -> TpmKey:
        """Another credential key, under the parent of `beside`."""
        return self._run("create a credential key", lambda tpm: tpm.create(CREDENTIAL_KEY, beside.parent))

    def prove(
        self,
        endorsement: EndorsementKey,
        ak: TpmKey,
        ck: TpmKey,
        *,
        credential_blob: bytes,
        secret: bytes,
        certify_data: bytes,
        quote_data: bytes,
        selection: PcrSelection,
        identity: tuple[HeldIdentity, bytes] | None = None,
    ) -> Proof:
        """Opens the challenge (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET), certifies the CK and quotes the PCRs.

        `identity` is an identity key with the qualifyingData over which it certifies the AK.
        """

        def work(tpm: Tpm) -> Proof:
            loaded = tpm.load(ak, ck)
            opened = tpm.activate(loaded[0], endorsement, credential_blob, secret)
            certified = tpm.certify(loaded, certify_data)
            quoted = tpm.quote(loaded[0], quote_data, selection)
            return Proof(opened, certified, quoted, tpm.identify(loaded[0], *identity) if identity else None)

        return self._run("answer the challenge", work)

    def certify(self, ak: TpmKey, ck: TpmKey, qualifying_data: bytes) -> Signed:
        """The AK's word that the CK is loaded in its TPM."""
        return self._run("certify a key", lambda tpm: tpm.certify(tpm.load(ak, ck), qualifying_data))

    def quote(self, ak: TpmKey, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """A quote and the values that it covers, read until they agree."""
        return self._run("quote the PCRs", lambda tpm: tpm.quote(tpm.load(ak)[0], qualifying_data, selection))

    def sign(self, key: TpmKey, data: bytes) -> bytes:
        """ES256 in its JWS form (r ‖ s, 64 octets)."""
        return self._run("sign", lambda tpm: tpm.sign(tpm.load(key)[0], data))

    def read_pcrs(self, selection: PcrSelection) -> PcrValues:
        return self._run("read the PCRs", lambda tpm: tpm.read_pcrs(selection))

    def banks(self) -> PcrSelection:
        """The PCR banks that are switched on, of those that the protocol knows, and their PCRs."""
        return self._run("list the PCR banks", lambda tpm: tpm.banks())

    def properties(self) -> Mapping[str, str]:
        """Who made the TPM: `manufacturer` (four letters), `model`, `firmware_version`."""
        return self._run("read the TPM's properties", lambda tpm: tpm.properties())

    def _run(self, what: str, work: Callable[[Tpm], T]) -> T:
        with self._lock, turn_at(self.tcti):
            for pause in PAUSES if is_unmanaged(self.tcti) else ():
                try:
                    return self._connected(what, work)
                except TpmFull:
                    time.sleep(pause)
            if is_unmanaged(self.tcti):  # full all the while: what a killed client had loaded stays loaded
                self._connected("clear away a dead client's objects", lambda tpm: tpm.flush_orphans())
            return self._connected(what, work)

    def _connected(self, what: str, work: Callable[[Tpm], T]) -> T:
        tcti = None
        try:
            tcti = TCTILdr(self._name, self._conf or None)
            with ESAPI(tcti) as esapi, ExitStack() as kept:
                return work(Tpm(esapi, kept))
        except TSS2_Exception as failure:
            raise named(int(failure.rc), str(failure), what=what, tcti=self.tcti) from failure
        finally:
            if tcti is not None:
                tcti.close()
