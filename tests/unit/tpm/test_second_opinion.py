"""A second opinion on every TPM structure: tpm2-pytss reads what attestd reads, and a software TPM makes what attestd
verifies and opens what attestd seals. Forged objects first, then real ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.ids import EkHash
from attestd.protocol.derivations import completion_proof
from attestd.tpm.activation import AkNotRestricted, make_credential, recall_ak, verify_activation, vet_ak
from attestd.tpm.attest import (
    AttestationSignatureWrong,
    CertifiedNameMismatch,
    CkRestricted,
    NonceMismatch,
    PcrDigestMismatch,
    verify_certified_key,
    verify_quote,
)
from attestd.tpm.ektemplates import check_ek_template
from attestd.tpm.endorsement import VerifiedEndorsement, endorse_by_inventory
from attestd.tpm.makecred import protect, share_seed
from attestd.tpm.objects import Alg, TpmPublic, parse_public, parse_signature
from attestd.tpm.statements import parse_certification, parse_quote
from tests import forger as f
from tests.forger import Forger, forge_ck, forge_ek, forge_key, new_private_key
from tests.software_tpm import (
    EK_ECC_CERTIFICATE,
    EK_ECC_HANDLE,
    EK_RSA_CERTIFICATE,
    EK_RSA_HANDLE,
    LocalCa,
    SoftwareTpm,
    missing_programs,
)

pytss = pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is the second opinion, and is not installed")
types = pytest.importorskip("tpm2_pytss.types")

needs_swtpm = pytest.mark.skipif(
    bool(missing_programs(manufacture=False)), reason="swtpm is not installed: no real TPM objects here"
)

NONCE = bytes(range(32))
SECRET = bytes(range(32, 64))
BODY = b"{}"

EK_TEMPLATES = ("L-1", "L-2", "H-1", "H-2", "H-3", "H-6")
# Names for tpm2-pytss's own templates.
PYTSS_EKS = {
    "L-1": "EK-RSA2048",
    "L-2": "EK-ECC256",
    "H-1": "EK-HIGH-RSA2048",
    "H-2": "EK-HIGH-ECC256",
    "H-3": "EK-HIGH-ECC384",
    "H-6": "EK-HIGH-RSA3072",
}
AK_KINDS = {
    "ecdsa-p256": "ecc256:ecdsa-sha256:null",
    "ecdsa-p384": "ecc384:ecdsa-sha384:null",
    "rsassa": "rsa2048:rsassa-sha256:null",
    "rsapss": "rsa2048:rsapss-sha256:null",
    "rsapss-sha384": "rsa2048:rsapss-sha384:null",
}


# ---- The two readers agree --------------------------------------------------------------------------------------


def agree_on_public(area: bytes) -> TpmPublic:
    """Both read the same in every field."""
    ours = parse_public(area)
    theirs, size = types.TPMT_PUBLIC.unmarshal(area)
    assert size == len(area)
    assert theirs.marshal() == area
    assert (ours.type, ours.name_alg.alg, ours.attributes) == (
        int(theirs.type),
        int(theirs.nameAlg),
        int(theirs.objectAttributes),
    )
    assert ours.auth_policy == bytes(theirs.authPolicy)
    assert ours.name == bytes(theirs.get_name())
    detail = theirs.parameters.asymDetail
    if ours.symmetric is None:
        assert int(detail.symmetric.algorithm) == Alg.NULL
    else:
        assert ours.symmetric.alg == int(detail.symmetric.algorithm)
        assert ours.symmetric.bits == int(detail.symmetric.keyBits.sym)
        assert ours.symmetric.mode == int(detail.symmetric.mode.sym)
    assert ours.scheme == int(detail.scheme.scheme)
    if ours.scheme_hash is not None:
        assert ours.scheme_hash.alg == int(detail.scheme.details.anySig.hashAlg)
    if ours.type is Alg.RSA:
        rsa_detail = theirs.parameters.rsaDetail
        assert ours.bits == int(rsa_detail.keyBits)
        assert ours.exponent == (int(rsa_detail.exponent) or 65537)
        assert ours.unique == bytes(theirs.unique.rsa)
    else:
        assert ours.curve == int(theirs.parameters.eccDetail.curveID)
        assert ours.unique == bytes(theirs.unique.ecc.x) + bytes(theirs.unique.ecc.y)
    from tpm2_pytss.internal.crypto import public_to_key

    assert ours.key == public_to_key(theirs)
    return ours


def agree_on_signature(data: bytes) -> None:
    ours = parse_signature(data)
    theirs, size = types.TPMT_SIGNATURE.unmarshal(data)
    assert size == len(data)
    assert ours.scheme == int(theirs.sigAlg)
    assert ours.hash.alg == int(theirs.signature.any.hashAlg)
    if ours.scheme is Alg.ECDSA:
        assert ours.r == int.from_bytes(bytes(theirs.signature.ecdsa.signatureR), "big")
        assert ours.s == int.from_bytes(bytes(theirs.signature.ecdsa.signatureS), "big")
    else:
        assert ours.value == bytes(theirs.signature.rsassa.sig)


def agree_on_statement(attest: bytes, *, quote: bool) -> None:
    ours = parse_quote(attest) if quote else parse_certification(attest)
    theirs, size = types.TPMS_ATTEST.unmarshal(attest)
    assert size == len(attest)
    assert int(theirs.magic) == 0xFF544347
    assert int(theirs.type) == (0x8018 if quote else 0x8017)
    assert ours.qualified_signer == bytes(theirs.qualifiedSigner)
    assert ours.extra_data == bytes(theirs.extraData)
    info = theirs.clockInfo
    assert (ours.clock.clock, ours.clock.reset_count, ours.clock.restart_count, ours.clock.safe) == (
        int(info.clock),
        int(info.resetCount),
        int(info.restartCount),
        bool(info.safe),
    )
    assert ours.firmware_version == int(theirs.firmwareVersion)
    if quote:
        quoted = parse_quote(attest)
        assert quoted.digest == bytes(theirs.attested.quote.pcrDigest)
        selections = theirs.attested.quote.pcrSelect
        names = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
        assert quoted.selection == tuple(
            (
                names[int(selection.hash)],
                tuple(
                    8 * at + bit
                    for at in range(int(selection.sizeofSelect))
                    for bit in range(8)
                    if int(selection.pcrSelect[at]) >> bit & 1
                ),
            )
            for selection in (selections[i] for i in range(int(selections.count)))
        )
    else:
        assert parse_certification(attest).certified_name == bytes(theirs.attested.certify.name)


@pytest.mark.parametrize("template", EK_TEMPLATES)
def test_forged_endorsement_keys_read_alike(template: str) -> None:
    agree_on_public(forge_ek(template).public)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa3072"])
def test_forged_signing_keys_read_alike(kind: str) -> None:
    private = new_private_key(kind)
    schemes = (f.RSASSA, f.RSAPSS) if isinstance(private, rsa.RSAPrivateKey) else (f.ECDSA,)
    for scheme in schemes:
        for digest in (f.SHA1, f.SHA256, f.SHA384, f.SHA512):
            key = forge_key(private=private, scheme=(scheme, digest))
            agree_on_public(key.public)
            agree_on_signature(key.sign(b"message"))
    agree_on_public(forge_ck(private=private).public)
    agree_on_public(forge_ck(private=private, attributes=f.CK_ATTRIBUTES | f.NO_DA, auth_policy=b"p" * 32).public)


def test_forged_statements_read_alike() -> None:
    forger = Forger()
    banks = {"sha256": {0: bytes(32), 23: b"x" * 32}, "sha1": {9: bytes(20)}, "sha384": {16: bytes(48)}}
    odd: list[dict[str, Any]] = [{}, {"safe": 0}, {"clock": 1 << 63, "reset_count": (1 << 32) - 1}]
    for lies in odd:
        agree_on_statement(forger.quote(NONCE, banks, **lies).attest, quote=True)
        agree_on_statement(forger.certify(NONCE, **lies).attest, quote=False)


@pytest.mark.parametrize("scheme", [(f.ECDSA, f.SHA256), (f.RSASSA, f.SHA256), (f.RSAPSS, f.SHA384)])
def test_forged_signatures_verify_alike(scheme: tuple[int, int]) -> None:
    forger = Forger(ak=forge_key("p256" if scheme[0] == f.ECDSA else "rsa2048", scheme=scheme))
    attest, signature = forger.quote(NONCE, {"sha256": {0: bytes(32)}})
    public, _ = types.TPMT_PUBLIC.unmarshal(forger.ak.public)
    theirs, _ = types.TPMT_SIGNATURE.unmarshal(signature)
    theirs.verify_signature(public, attest)


@pytest.mark.parametrize("template", EK_TEMPLATES)
def test_credentials_made_by_the_other_open_here(template: str) -> None:
    """The forger opens both, so ours and theirs are made alike; the forger itself is judged by the software TPM."""
    from tpm2_pytss.utils import make_credential as their_make_credential

    forger = Forger(ek=template)
    public, _ = types.TPMT_PUBLIC.unmarshal(forger.ek.public)
    blob, secret = their_make_credential(
        types.TPM2B_PUBLIC(publicArea=public), SECRET, types.TPM2B_NAME(forger.ak.name)
    )
    assert forger.activate(blob.marshal(), secret.marshal()) == SECRET
    ek = parse_public(forger.ek.public)
    seed, ours = share_seed(ek, entropy=os.urandom)
    assert forger.activate(protect(ek, seed=seed, name=forger.ak.name, secret=SECRET), ours) == SECRET
    assert len(ours) == len(secret.marshal())


# ---- A software TPM ---------------------------------------------------------------------------------------------


@dataclass
class Commands:
    """The few TPM commands that these tests give, through tpm2-pytss."""

    esys: Any
    primary: Any
    loaded: list[Any] = field(default_factory=list)
    made: dict[tuple[str, bool], tuple[Any, Any]] = field(default_factory=dict)  # RSA keys take a software TPM long

    def endorsement_key(self, template: str) -> tuple[Any, bytes]:
        from tpm2_pytss.internal.templates import ek_template

        chosen = ek_template.lookup(PYTSS_EKS[template]).template
        handle, public, *_ = self.esys.create_primary(None, chosen, pytss.ESYS_TR.ENDORSEMENT)
        return self._kept(handle), public.publicArea.marshal()

    def key(self, algorithm: str, *, restricted: bool) -> tuple[Any, bytes]:
        """A signing key under the storage primary: an AK if restricted, a credential key if not."""
        if (algorithm, restricted) not in self.made:
            attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"
            attributes += "|restricted" if restricted else ""
            template = types.TPM2B_PUBLIC.parse(alg=algorithm, objectAttributes=attributes)
            private, public, *_ = self.esys.create(self.primary, None, template)
            self.made[algorithm, restricted] = private, public
        private, public = self.made[algorithm, restricted]
        handle = self._kept(self.esys.load(self.primary, private, public))
        return handle, public.publicArea.marshal()

    def quote(self, ak: Any, nonce: bytes, selection: str) -> tuple[bytes, bytes]:
        attest, signature = self.esys.quote(ak, selection, nonce)
        return bytes(attest), signature.marshal()

    def certify(self, key: Any, ak: Any, nonce: bytes) -> tuple[bytes, bytes]:
        scheme = types.TPMT_SIG_SCHEME(scheme=pytss.TPM2_ALG.NULL)
        attest, signature = self.esys.certify(key, ak, nonce, scheme)
        return bytes(attest), signature.marshal()

    def activate(self, ek: Any, ak: Any, blob: bytes, secret: bytes) -> bytes:
        """The EK is used by PolicySecret(endorsement) alone, or by PolicyOR with it (templates of the high range)."""
        public = self.esys.read_public(ek)[0].publicArea
        session = self.esys.start_auth_session(
            pytss.ESYS_TR.NONE,
            pytss.ESYS_TR.NONE,
            pytss.TPM2_SE.POLICY,
            types.TPMT_SYM_DEF(algorithm=pytss.TPM2_ALG.NULL),
            public.nameAlg,
        )
        try:
            self.esys.policy_secret(pytss.ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
            alg = int(public.nameAlg)
            if bytes(public.authPolicy) == f.policy_b(alg):
                self.esys.policy_or(session, types.TPML_DIGEST([f.policy_a(alg), f.policy_c(alg)]))
            id_object, _ = types.TPM2B_ID_OBJECT.unmarshal(blob)
            encrypted, _ = types.TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
            return bytes(self.esys.activate_credential(ak, ek, id_object, encrypted, session2=session))
        finally:
            self.esys.flush_context(session)

    def pcrs(self, bank: str, indices: tuple[int, ...]) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        for index in indices:
            _, _, digests = self.esys.pcr_read(f"{bank}:{index}")
            values[index] = bytes(digests[0])
        return values

    def extend(self, index: int, digest: bytes) -> None:
        values = types.TPML_DIGEST_VALUES(
            [types.TPMT_HA(hashAlg=pytss.TPM2_ALG.SHA256, digest=types.TPMU_HA(sha256=digest))]
        )
        self.esys.pcr_extend(pytss.ESYS_TR(index), values)

    def _kept(self, handle: Any) -> Any:
        self.loaded.append(handle)
        return handle

    def forget(self) -> None:
        """A TPM has room for three loaded objects; the primary is one of them."""
        while self.loaded:
            self.esys.flush_context(self.loaded.pop())


@pytest.fixture(scope="module")
def connected() -> Iterator[Commands]:
    with SoftwareTpm() as tpm, pytss.ESAPI(tpm.tcti) as esys:
        primary, *_ = esys.create_primary(None, "ecc256", pytss.ESYS_TR.OWNER)
        yield Commands(esys, primary)


@pytest.fixture
def tpm(connected: Commands) -> Iterator[Commands]:
    yield connected
    connected.forget()


def endorsed(ek: bytes) -> VerifiedEndorsement:
    return endorse_by_inventory(ek, known=EkHash.of(ek))


@needs_swtpm
@pytest.mark.parametrize("template", EK_TEMPLATES)
def test_a_real_tpm_activates_what_we_make(tpm: Commands, template: str) -> None:
    ek, ek_public = tpm.endorsement_key(template)
    ak, ak_public = tpm.key(AK_KINDS["ecdsa-p256"], restricted=True)
    agree_on_public(ek_public)
    endorsement, vetted = endorsed(ek_public), vet_ak(ak_public)
    assert check_ek_template(endorsement.ek) == template
    made = make_credential(endorsement, vetted, secret=SECRET, entropy=os.urandom)
    recovered = tpm.activate(ek, ak, made.credential_blob, made.encrypted_secret)
    assert recovered == SECRET
    proof = completion_proof(secret=recovered, body=BODY)
    assert verify_activation(endorsement, vetted, secret=SECRET, body=BODY, proof=proof).name == vetted.name


@pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}")
def test_manufactured_endorsement_keys_follow_their_templates() -> None:
    """What `swtpm_setup` makes: L-1, and a P-384 key by H-3; both with a certificate over the same key."""
    expected = {(EK_RSA_HANDLE, EK_RSA_CERTIFICATE): "L-1", (EK_ECC_HANDLE, EK_ECC_CERTIFICATE): "H-3"}
    with LocalCa() as ca, SoftwareTpm(ca) as tpm, pytss.ESAPI(tpm.tcti) as esys:
        for (handle, index), template in expected.items():
            public, *_ = esys.read_public(esys.tr_from_tpmpublic(types.TPM2_HANDLE(handle)))
            ek = agree_on_public(public.publicArea.marshal())
            assert check_ek_template(ek) == template
            certificate = esys.tr_from_tpmpublic(types.TPM2_HANDLE(index))
            size = int(esys.nv_read_public(certificate)[0].nvPublic.dataSize)
            octets = b"".join(
                bytes(esys.nv_read(certificate, min(512, size - at), at, pytss.ESYS_TR.OWNER))
                for at in range(0, size, 512)
            )
            assert ek.unique[:32] in octets
        assert len(ca.roots + ca.intermediates) == 2


@needs_swtpm
def test_a_real_tpm_opens_nothing_for_another_ak(tpm: Commands) -> None:
    ek, ek_public = tpm.endorsement_key("L-2")
    other, _ = tpm.key(AK_KINDS["ecdsa-p256"], restricted=True)
    vetted = vet_ak(forge_key().public)
    made = make_credential(endorsed(ek_public), vetted, secret=SECRET, entropy=os.urandom)
    with pytest.raises(pytss.TSS2_Exception, match="integrity"):
        tpm.activate(ek, other, made.credential_blob, made.encrypted_secret)


@needs_swtpm
@pytest.mark.parametrize("kind", AK_KINDS)
def test_real_quotes_verify(tpm: Commands, kind: str) -> None:
    ak, ak_public = tpm.key(AK_KINDS[kind], restricted=True)
    agree_on_public(ak_public)
    tpm.extend(7, b"m" * 32)
    attest, signature = tpm.quote(ak, NONCE, "sha256:0,7,10+sha384:1,16")
    agree_on_statement(attest, quote=True)
    agree_on_signature(signature)
    pcrs = {"sha256": tpm.pcrs("sha256", (0, 7, 10)), "sha384": tpm.pcrs("sha384", (1, 16))}
    told: dict[str, Any] = {
        "attest": attest,
        "signature": signature,
        "qualifying_data": NONCE,
        "pcrs": pcrs,
        "selection": {"sha256": (0, 7, 10), "sha384": (1, 16)},
    }
    verified = verify_quote(recall_ak(ak_public), **told)
    assert verified.pcrs["sha256"][7] != bytes(32)
    # The same quote is worth nothing for another challenge, another key, or after another measurement.
    with pytest.raises(NonceMismatch):
        verify_quote(recall_ak(ak_public), **{**told, "qualifying_data": bytes(32)})
    changed = {**pcrs, "sha256": {**pcrs["sha256"], 7: bytes(32)}}
    with pytest.raises(PcrDigestMismatch):
        verify_quote(recall_ak(ak_public), **{**told, "pcrs": changed})


@needs_swtpm
@pytest.mark.parametrize("kind", AK_KINDS)
@pytest.mark.parametrize("algorithm", ["ecc256:null:null", "ecc256:ecdsa-sha256:null"])
def test_real_certifications_verify(tpm: Commands, kind: str, algorithm: str) -> None:
    ak, ak_public = tpm.key(AK_KINDS[kind], restricted=True)
    ck, ck_public = tpm.key(algorithm, restricted=False)
    agree_on_public(ck_public)
    attest, signature = tpm.certify(ck, ak, NONCE)
    agree_on_statement(attest, quote=False)
    agree_on_signature(signature)
    told = {"public": ck_public, "attest": attest, "signature": signature, "qualifying_data": NONCE}
    assert verify_certified_key(recall_ak(ak_public), **told).public.area == ck_public
    with pytest.raises(CertifiedNameMismatch):
        verify_certified_key(recall_ak(ak_public), **{**told, "public": forge_ck().public})
    if kind == "ecdsa-p256":
        with pytest.raises(AttestationSignatureWrong):
            verify_certified_key(recall_ak(forge_key().public), **told)


@needs_swtpm
def test_a_real_attestation_key_is_no_credential_key_nor_the_other_way_round(tpm: Commands) -> None:
    ak, ak_public = tpm.key(AK_KINDS["ecdsa-p256"], restricted=True)
    _, ck_public = tpm.key("ecc256:ecdsa-sha256:null", restricted=False)
    with pytest.raises(AkNotRestricted):
        vet_ak(ck_public)
    attest, signature = tpm.certify(ak, ak, NONCE)
    with pytest.raises(CkRestricted):
        verify_certified_key(
            recall_ak(ak_public), public=ak_public, attest=attest, signature=signature, qualifying_data=NONCE
        )
