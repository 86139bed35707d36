"""A device's side of the protocol for tests, over an imitated TPM: each step by itself, with a lie in any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from werkzeug.test import TestResponse

from attestd.ids import EkHash
from attestd.protocol.derivations import (
    completion_proof,
    device_certify_data,
    device_quote_data,
    enrollment_certify_data,
    enrollment_identify_data,
    enrollment_quote_data,
)
from attestd.protocol.evidence import CertifiedKey, Identification, IdentityKey, QuoteEvidence
from attestd.protocol.messages import (
    AttestationRequest,
    BeginAnswer,
    BeginRequest,
    CompleteRequest,
    CredentialAnswer,
    EnrollmentEvidence,
    RenewalRequest,
    TokenRequest,
    WaitAnswer,
)
from attestd.protocol.signed import Sign, sign_flattened
from tests.forger import ForgedKey, Forger, forge_ck

if TYPE_CHECKING:
    from tests.service import World

URL = "https://attestd.example:8443"
PCRS = {"sha256": {index: bytes([index]) * 32 for index in range(8)}}


class SoftDevice:
    """A device's side of the protocol, over an imitated TPM."""

    def __init__(self, world: World, forger: Forger, certificates: list[bytes]) -> None:
        self.world = world
        self.tpm = forger
        self.certificates = certificates
        self.iak: ForgedKey | None = None  # with `certificates` for it: the device enrolls by its IAK
        self.pcrs: Mapping[str, Mapping[int, bytes]] = PCRS
        self.logs: dict[str, Any] = {}  # what goes with a quote: eventlog, ima, eventlog_sha256, ima_from
        self.answer: CredentialAnswer | None = None  # the newest credential
        self.waits: WaitAnswer | None = None
        self.completion = b""  # the last completion's octets, for a retry

    @property
    def ek_hash(self) -> EkHash:
        return EkHash(hashlib.sha256((self.iak or self.tpm.ek).public).digest())

    @property
    def id(self) -> str:
        assert self.answer is not None, "this device has no credential yet"
        return self.answer.device_id

    # ---- Enrollment -------------------------------------------------------------------------------------------

    def begin(self, **lies: Any) -> BeginAnswer:
        """The challenge; `lies` replace members of the BeginRequest."""
        answer = self.world.post("/v1/enrollments", self.begin_request(**lies).to_bytes())
        assert answer.status_code == 200, answer.text
        return BeginAnswer.parse(answer.data)

    def begin_request(self, **lies: Any) -> BeginRequest:
        said = {
            "ek_public": self.tpm.ek.public,
            "ak_public": self.tpm.ak.public,
            "ek_certificates": tuple(self.certificates),
            **lies,
        }
        if self.iak is not None:
            said |= {"iak": IdentityKey(self.iak.public, tuple(self.certificates)), "ek_certificates": (), **lies}
        return BeginRequest(**said)

    def evidence(self, challenge: BeginAnswer, **lies: Any) -> EnrollmentEvidence:
        """`lies`: nonce, id, ek_hash, ak_name or ck_name of the qualifying data."""
        bound = {
            "nonce": challenge.nonce,
            "id": challenge.id,
            "ek_hash": self.ek_hash,
            "ak_name": self.tpm.ak.name,
            "ck_name": self.tpm.ck.name,
            **lies,
        }
        attest, signature = self.tpm.certify(enrollment_certify_data(**bound))
        iak = None
        if self.iak is not None:
            named = {name: value for name, value in bound.items() if name != "ck_name"}
            iak = Identification(*self.tpm.identify(self.iak, enrollment_identify_data(**named)))
        return EnrollmentEvidence(
            CertifiedKey(self.tpm.ck.public, attest, signature), self._quote(enrollment_quote_data(**bound)), iak
        )

    def complete(
        self, challenge: BeginAnswer, body: bytes | None = None, *, proof: bytes | None = None, **options: Any
    ) -> TestResponse:
        """Activates, proves and sends; `body` and `proof` may be something else than the truth."""
        secret = self.tpm.activate(challenge.credential_blob, challenge.secret)
        body = self.evidence(challenge).to_bytes() if body is None else body
        proof = completion_proof(secret=secret, body=body) if proof is None else proof
        self.completion = CompleteRequest(challenge.challenge, body, proof).to_bytes()
        return self.resend(**options)

    def resend(self, **options: Any) -> TestResponse:
        """The last completion once more, octet by octet."""
        return self._noted(self.world.post("/v1/enrollments/complete", self.completion, **options))

    def enroll(self) -> TestResponse:
        return self.complete(self.begin())

    # ---- Afterwards -------------------------------------------------------------------------------------------

    def signed(
        self, path: str, payload: bytes, *, content_type: str = "application/jose+json", **said: Any
    ) -> TestResponse:
        """A request signed by the credential key; `said` replaces what the signature says: kid, url, nonce, sign."""
        members: dict[str, Any] = {
            "sign": self.sign,
            "alg": "ES256",
            "kid": said["kid"] if "kid" in said else self.id,  # noqa: SIM401 - self.id may not exist yet
            "url": URL + path,
            "nonce": said.get("nonce") or self.world.nonce(),
            **said,
        }
        return self._noted(self.world.post(path, sign_flattened(payload, **members), content_type=content_type))

    def attest(self, **said: Any) -> TestResponse:
        nonce = said.pop("nonce", None) or self.world.nonce()
        return self.signed("/v1/attestations", self.attestation(nonce).to_bytes(), nonce=nonce, **said)

    def attestation(self, nonce: bytes, **lies: Any) -> AttestationRequest:
        bound = {"nonce": nonce, "device_id": self.id, "ak_name": self.tpm.ak.name, "ck_name": self.tpm.ck.name, **lies}
        return AttestationRequest(self._quote(device_quote_data(**bound)))

    def renew(self, **said: Any) -> TestResponse:
        return self.signed("/v1/renewals", RenewalRequest().to_bytes(), **said)

    def rekey(self, *, nonce: bytes | None = None, **lies: Any) -> TestResponse:
        """A new credential key, certified by the AK; this request is signed by the old one."""
        nonce = nonce or self.world.nonce()
        old, new = self.tpm.ck, forge_ck()
        self.tpm.ck = new
        bound = {"nonce": nonce, "device_id": self.id, "ak_name": self.tpm.ak.name, "ck_name": new.name, **lies}
        attest, signature = self.tpm.certify(device_certify_data(**bound))
        payload = RenewalRequest(CertifiedKey(new.public, attest, signature)).to_bytes()
        answer = self.signed("/v1/renewals", payload, nonce=nonce, sign=signer(old.private))
        if answer.status_code != 200:
            self.tpm.ck = old
        return answer

    def token(self, audience: str = "edge", binding: str = "dpop", **said: Any) -> TestResponse:
        return self.signed("/v1/tokens", TokenRequest(audience, binding).to_bytes(), **said)

    def sign(self, data: bytes) -> bytes:
        return signer(self.tpm.ck.private)(data)

    def _quote(self, qualifying_data: bytes) -> QuoteEvidence:
        attest, signature = self.tpm.quote(qualifying_data, self.pcrs)
        return QuoteEvidence(attest, signature, self.pcrs, **self.logs)

    def _noted(self, answer: TestResponse) -> TestResponse:
        if answer.status_code == 200 and b'"chain"' in answer.data:
            self.answer = CredentialAnswer.parse(answer.data)
        if answer.status_code == 202:
            self.waits = WaitAnswer.parse(answer.data)
        return answer


def signer(key: ec.EllipticCurvePrivateKey) -> Sign:
    """ES256: r ‖ s."""

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign
