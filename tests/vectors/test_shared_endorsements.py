"""Real makers' certificates: each shared EK certificate gets its manifest's verdict, and all known CAs can be read.

The files are other projects' data and stay where they are: `../shared/vectors`, or where `ATTESTD_VECTORS` points.

The manifest's "chain verifies to root …" is about names and signatures alone. Three steps are told apart here:
the chain, at a moment when all of it is valid; whether the leaf is an EK certificate at all (an attestation key's is
not, TPM 1.2 chips' lack what the profile wants); and the endorsement of an EK with this key, which refuses SHA-1.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attestd.errors import AttestdError
from attestd.tpm.chain import EK_CERTIFICATE, TrustAnchors, UntrustedMaker, VerifiedPath, verify_certificate_chain
from attestd.tpm.claims import read_leniently, read_strictly
from attestd.tpm.der import MalformedCertificate, children, whole
from attestd.tpm.ekcert import REFUSED_BY_DEFAULT, MakerCertificate, Quirk, parse_certificate
from attestd.tpm.ekprofile import EkKeyUsageWrong, NotAnEkCertificate, check_ek_certificate
from attestd.tpm.ektemplates import EkAttributesWrong
from attestd.tpm.endorsement import verify_endorsement
from attestd.tpm.makers import certificates_in, describe_certificate
from attestd.tpm.vouching import (
    IssuerKeyDiffers,
    IssuerNotForPurpose,
    MakerCertificateExpired,
    WeakCertificateSignature,
)
from attestd.tpm.weak_keys import has_roca_fingerprint
from tests.ek_ca import AIK_PURPOSE, ek_area

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[2].parent / "shared" / "vectors"))
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"the shared vectors are not at {VECTORS}")


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """The EK certificates' entries, by file name."""
    if not VECTORS.is_dir():
        return {}
    entries = json.loads((VECTORS / "manifest.json").read_text())
    return {Path(e["file"]).name: e for e in entries if e["file"].startswith("ek-certs/")}


@cache
def known_cas() -> tuple[MakerCertificate, ...]:
    """All of tpm-roots, parsed."""
    files = sorted((VECTORS / "tpm-roots").glob("*.pem"))
    return tuple(parse_certificate(der) for file in files for der in certificates_in(file.read_bytes()))


@cache
def anchors() -> TrustAnchors:
    """Every known self-signed CA as a root, every other one as an intermediate."""
    roots = [found.der for found in known_cas() if found.subject == found.issuer]
    return TrustAnchors.load(roots, [found.der for found in known_cas() if found.subject != found.issuer])


@cache
def certificate(file: str) -> MakerCertificate:
    entry, octets = manifest()[file], (VECTORS / "ek-certs" / file).read_bytes()
    assert hashlib.sha256(octets).hexdigest() == entry["sha256"]
    return parse_certificate(certificates_in(octets)[0] if octets.startswith(b"-----") else octets)


def moment(file: str) -> datetime:
    """A moment when the leaf is valid: a day after it begins to be."""
    return certificate(file).claims.not_before + timedelta(days=1)


def purpose_of(file: str) -> str:
    return AIK_PURPOSE if manifest()[file]["kind"] == "aik-cert" else EK_CERTIFICATE


def chain_of(file: str, **options: Any) -> VerifiedPath:
    options = {"purpose": purpose_of(file), "refused": frozenset(), "now": moment(file), **options}
    return verify_certificate_chain(certificate(file), anchors=anchors(), **options)


# ---- What each certificate is -----------------------------------------------------------------------------------

QUIRKS = {
    "hirs-ek_cert_7_byte_header_removed.cer": {Quirk.RSAES_OAEP_KEY},
    "ifx-08-rsaes-oaep.der": {Quirk.RSAES_OAEP_KEY, Quirk.NV_HEADER, Quirk.PADDED},
    "intel-sptH-ptt-rsa.der": {Quirk.ENCODED_DEFAULT},
    "ntc-2111-attezt.der": {Quirk.SET_ORDER},
    "ntc-2111-keylime-malformed.der": {Quirk.SET_ORDER},
    "stm-02-rsaes-oaep-ab21ccf2.pem": {Quirk.RSAES_OAEP_KEY},
    "stm-02-rsaes-oaep-nuc2.pem": {Quirk.RSAES_OAEP_KEY},
}


def utc(text: str) -> datetime:
    return datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)


@pytest.mark.parametrize("file", manifest())
def test_each_certificate_is_read_as_the_manifest_says(file: str) -> None:
    found, said = certificate(file), manifest()[file]["expected"]
    claims = found.claims
    assert found.quirks == QUIRKS.get(file, set())
    assert (claims.not_before, claims.not_after) == (utc(said["not_before"]), utc(said["not_after"]))
    names = {"tcg-kp-EKCertificate": EK_CERTIFICATE, "tcg-kp-AIKCertificate": AIK_PURPOSE}
    assert (claims.purposes or set()) == {names[name] for name in said["eku"]}
    assert (found.subject == b"0\0") == said["subject_empty"]
    assert ("2.5.29.17" in claims.extensions, "2.5.29.17" in claims.critical) == (
        said["san_present"],
        said["san_critical"],
    )
    assert (Quirk.RSAES_OAEP_KEY in found.quirks) == said["spki_rsaes_oaep"]
    manufacturers = [text for name in claims.directory_names for oid, text in name if oid == "2.23.133.2.1"]
    assert manufacturers == ([said["tpm_manufacturer"]] if said["tpm_manufacturer"] else [])
    if "load_error" not in said["extensions"] and said["extensions"]:
        assert {oid for oid, extension in said["extensions"].items() if extension["critical"]} == claims.critical


# ---- Chains -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", manifest())
def test_each_chain_gets_the_manifests_verdict(file: str) -> None:
    said = manifest()[file]["expected"]
    if said["verdict"].startswith("chain verifies to root "):
        path = chain_of(file)
        assert path.root.sha256.hex().startswith(said["verdict"].removeprefix("chain verifies to root "))
        assert path.root.sha256.hex() == said["chain_sha256"][-1]
        # Some makers have several certificates for one CA key; each of them is as good.
        told = {found.sha256.hex(): found for found in known_cas()}
        assert [told[sha256].subject for sha256 in said["chain_sha256"]] == [ca.subject for ca in path.certificates[1:]]
    else:
        assert "untrusted" in said["verdict"]
        for now in (moment(file), datetime(2026, 1, 1, tzinfo=UTC)):
            with pytest.raises(UntrustedMaker):
                chain_of(file, now=now)


SHA1 = {name for name in QUIRKS if "rsaes-oaep" in name} | {"hirs-ek_cert_7_byte_header_removed.cer"}


@pytest.mark.parametrize("file", sorted(SHA1))
def test_chains_over_sha1_are_refused_by_default(file: str) -> None:
    assert Quirk.SHA1_SIGNATURE in chain_of(file).quirks
    with pytest.raises(WeakCertificateSignature):
        chain_of(file, refused=REFUSED_BY_DEFAULT)


@pytest.mark.parametrize("file", [file for file, e in manifest().items() if e["kind"] == "aik-cert"])
def test_cas_for_attestation_keys_do_not_vouch_for_eks(file: str) -> None:
    assert chain_of(file)
    with pytest.raises(IssuerNotForPurpose):
        chain_of(file, purpose=EK_CERTIFICATE)


@pytest.mark.parametrize("file", [file for file, e in manifest().items() if e["expected"]["chain_sha256"]])
def test_an_expired_certificate_is_refused(file: str) -> None:
    with pytest.raises(MakerCertificateExpired):
        chain_of(file, now=datetime(2200, 1, 1, tzinfo=UTC))


# ---- EK certificates --------------------------------------------------------------------------------------------

NOT_FOR_EKS: dict[str, type[AttestdError]] = {
    "google-ak-in-attestation.der": EkKeyUsageWrong,
    "google-pca-ecc-sign.pem": EkKeyUsageWrong,
    "google-uca-rsa-sign.pem": EkKeyUsageWrong,
    "pywebauthn-dell_xps_13-aik.der": EkKeyUsageWrong,
    "pywebauthn-surface_pro_4-aik.der": EkKeyUsageWrong,
}
IDENTITIES = {
    "google-pca-rsa-enc.pem": ("GOOG", "", ""),
    "google-uca-ecc-enc.pem": ("GOOG", "vTPM", "id:20160511"),
    "ifx-rsa-029-SLB9665.der": ("IFX", "SLB 9665", "id:053E"),
    "ifx-rsa-035.der": ("IFX", "SLB 9670 TPM2.0", "id:073f"),
    "intel-sptH-ptt-rsa.der": ("INTC", "SPT", "id:00020000"),
    "ntc-2111-attezt.der": ("NTC", "NPCT75x", "id:00070002"),
    "ntc-2111-keylime-malformed.der": ("NTC", "NPCT75x", "id:00070002"),
    "stm-rsa-05.der": ("STM", "ST33HTPHAHB4", "id:00490004"),
}
# Chips for TPM 1.2: no key usage (and ifx-08 no purpose either), let through where a policy says so.
OLD = {
    "hirs-ek_cert_7_byte_header_removed.cer": ("STM", "ST33ZP24PVSP", "id:0D0C"),
    "ifx-08-rsaes-oaep.der": ("IFX", "SLB9635TT1.2", "id:0313"),
    "stm-02-rsaes-oaep-ab21ccf2.pem": ("STM", "ST33ZP24PVSP", "id:0D0C"),
    "stm-02-rsaes-oaep-nuc2.pem": ("STM", "ST33ZP24PVSP", "id:0D0C"),
}
CHAINED = sorted(file for file, entry in manifest().items() if entry["expected"]["chain_sha256"])


def test_every_certificate_with_a_chain_is_judged() -> None:
    assert set(CHAINED) == set(NOT_FOR_EKS) | set(IDENTITIES) | set(OLD)
    assert set(OLD) == SHA1
    assert len(manifest()) == 21


@pytest.mark.parametrize("file", [file for file in CHAINED if file in NOT_FOR_EKS])
def test_what_is_no_ek_certificate_is_refused(file: str) -> None:
    with pytest.raises(NOT_FOR_EKS[file]):
        check_ek_certificate(chain_of(file))


@pytest.mark.parametrize("file", sorted(OLD))
def test_chips_for_tpm_1_2_need_a_policy_that_lets_them_through(file: str) -> None:
    path = chain_of(file)
    with pytest.raises(EkKeyUsageWrong):
        check_ek_certificate(path)
    identity, quirks = check_ek_certificate(path, refused=frozenset())
    assert (identity.manufacturer, identity.model, identity.firmware_version) == OLD[file]
    assert quirks >= {Quirk.SHA1_SIGNATURE, Quirk.TPM12_PROFILE, Quirk.RSAES_OAEP_KEY}


@pytest.mark.parametrize("file", [file for file in CHAINED if file in IDENTITIES])
def test_real_eks_are_endorsed(file: str) -> None:
    leaf = certificate(file)
    octets = (VECTORS / "ek-certs" / file).read_bytes()
    sent = certificates_in(octets)[0] if octets.startswith(b"-----") else octets
    found = verify_endorsement(ek_area(leaf.key), [sent], anchors=anchors(), now=moment(file))
    assert (found.manufacturer, found.model, found.firmware_version) == IDENTITIES[file]
    google = {Quirk.GOOGLE_CAS} if file == "google-pca-rsa-enc.pem" else set()
    assert set(found.quirks) >= QUIRKS.get(file, set()) | google
    assert found.issuers
    assert found.issuers[-1].hex() == manifest()[file]["expected"]["chain_sha256"][-1]


def test_the_quirk_for_google_holds_for_googles_root_alone() -> None:
    """The same certificate, under a trust store that takes its intermediate for a root."""
    file = "google-pca-rsa-enc.pem"
    intermediate = chain_of(file).certificates[1].der
    with pytest.raises(NotAnEkCertificate):
        verify_endorsement(
            ek_area(certificate(file).key),
            [certificate(file).der],
            anchors=TrustAnchors.load([intermediate]),
            now=moment(file),
        )


# ---- The known CAs ----------------------------------------------------------------------------------------------


def test_all_known_cas_are_read() -> None:
    rows = list(csv.DictReader((VECTORS / "tpm-roots" / "index.csv").open()))
    assert len(rows) == len(known_cas()) == 2240
    by_hash = {found.sha256.hex(): found for found in known_cas()}
    for row in rows:
        found = by_hash[row["sha256"]]
        assert found.claims.not_after == datetime.fromisoformat(row["not_after"])
        assert (found.subject == found.issuer) == (row["self_signed"] == "True")
        assert (found.claims.is_ca, "key_cert_sign" in (found.claims.usages or ())) == (True, True)
        assert bool(found.quirks) == row["cryptography50_error"].startswith("load:")
    assert Counter(quirk for found in known_cas() for quirk in found.quirks) == {
        Quirk.SET_ORDER: 14,
        Quirk.LONG_SERIAL: 7,
        Quirk.ECDSA_NULL: 2,
    }


def test_both_readers_agree_on_all_that_is_well_formed() -> None:
    agreed = 0
    for found in (*known_cas(), *map(certificate, manifest())):
        fields = children(children(whole(found.der))[0])
        try:
            strict = read_strictly(found.der)
        except MalformedCertificate:
            assert found.quirks
            continue
        assert read_leniently(fields[4], fields[7]) == strict
        agreed += 1
    assert agreed == 2240 - 23 + 21 - 3


def test_the_known_roots_signed_themselves() -> None:
    kinds = Counter(describe_certificate(found.der, now=datetime(2026, 1, 1, tzinfo=UTC)).kind for found in known_cas())
    assert kinds == {"root": 46, "intermediate": 2194}


def test_all_known_intermediates_reach_a_known_root() -> None:
    """Each has a path, but for five whose roots are not among the known ones, and four signed over SHA-1 too late."""
    missing, late, purposes = set(), set(), (EK_CERTIFICATE, AIK_PURPOSE)
    for found in known_cas():
        if found.subject == found.issuer:
            continue
        purpose = AIK_PURPOSE if AIK_PURPOSE in (found.claims.purposes or ()) else EK_CERTIFICATE
        assert found.claims.purposes is None or purpose in purposes
        now = found.claims.not_before + timedelta(days=30)  # STM certified CAs two weeks before its root was valid
        try:
            verify_certificate_chain(found, anchors=anchors(), now=now, purpose=purpose, refused=frozenset())
        except UntrustedMaker:
            missing.add(found.sha256.hex()[:8])
        except WeakCertificateSignature:
            assert found.claims.not_before.year == 2017
            late.add(found.sha256.hex()[:8])
    assert missing == {"141805f0", "4a13dd43", "695ad0f0", "97a13b81", "a4b48959"}
    assert late == {"3124c4d4", "c86f46a8", "dae8b3c1", "db453a8f"}


def test_known_cas_outlive_their_roots() -> None:
    """What the quirk "expired-root" is for: on the day after its root's end each of them still leads to it."""
    outliving = 0
    for found in known_cas():
        for root in anchors().roots.get(found.issuer, ()):
            ends = root.claims.not_after
            signed = root.claims.not_before <= found.claims.not_before <= ends
            if found.subject == found.issuer or not signed or found.claims.not_after - ends <= timedelta(days=1):
                continue
            try:
                path = verify_certificate_chain(
                    found,
                    anchors=TrustAnchors.load([root.der]),
                    now=ends + timedelta(days=1),
                    purpose=AIK_PURPOSE if AIK_PURPOSE in (found.claims.purposes or ()) else EK_CERTIFICATE,
                )
            except IssuerKeyDiffers:
                continue
            assert path.quirks >= {Quirk.EXPIRED_ROOT}
            outliving += 1
    assert outliving == 44


def test_no_known_ca_has_a_key_that_can_be_factored() -> None:
    """And none of the real EKs, which came from chips of every maker that had the flaw."""
    keys = [found.key for found in (*known_cas(), *map(certificate, manifest()))]
    assert not any(map(has_roca_fingerprint, keys))


def test_a_template_is_still_needed() -> None:
    """A real EK certificate does not make another kind of key an EK."""
    leaf = certificate("ifx-rsa-035.der")
    area = ek_area(leaf.key)
    now = moment("ifx-rsa-035.der")
    assert verify_endorsement(area, [leaf.der], anchors=anchors(), now=now)
    with pytest.raises(EkAttributesWrong):
        verify_endorsement(area[:4] + bytes(4) + area[8:], [leaf.der], anchors=anchors(), now=now)
