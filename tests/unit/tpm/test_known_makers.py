"""The manifest of known makers: what it says of a certificate, and that it trusts none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources

import pytest

from attestd.errors import AttestdError
from attestd.tpm import known_makers
from attestd.tpm.known_makers import (
    COLUMNS,
    MalformedManifest,
    Manifest,
    ManifestTooLarge,
    Standing,
    write_date,
)
from attestd.tpm.makers import CertificateDescription, describe_certificate
from tests import ek_ca as ca

SHIPPED = (resources.files("attestd_certs") / "tpm-roots" / "manifest.csv").read_bytes()
ROOT = describe_certificate(ca.maker().root.certificate, now=ca.NOW)
MIDDLE = describe_certificate(ca.maker().intermediate.certificate, now=ca.NOW)
HEADER = ",".join(COLUMNS)


def line(found: CertificateDescription = ROOT, maker: str = "Test Maker", **lies: str) -> str:
    fields = {
        "maker": maker,
        "kind": found.kind,
        "purposes": found.purposes,
        "key": found.key,
        "not_before": write_date(found.not_before),
        "not_after": write_date(found.not_after),
        "sha256": found.sha256.hex(),
        "subject": f'"{found.subject}"',
        "source": "test@1",
    }
    return ",".join((fields | lies).values())


def manifest(*lines: str) -> Manifest:
    return Manifest.parse("\n".join([HEADER, *lines]).encode())


def test_a_certificate_is_known_by_its_fingerprint() -> None:
    found = manifest(line()).identify(ROOT)
    assert (found.certificate, found.standing, found.maker) == (ROOT, Standing.KNOWN, "Test Maker")


def test_another_certificate_of_a_known_name_is_changed_and_one_of_no_known_name_is_new() -> None:
    known = manifest(line())
    impostor = replace(ca.maker().root, key=ca.ec_key("impostor")).self_signed()
    found = known.identify(describe_certificate(impostor.certificate, now=ca.NOW))
    assert (found.standing, found.maker) == (Standing.CHANGED, "Test Maker")
    assert known.identify(MIDDLE).standing is Standing.NEW
    assert known.identify(MIDDLE).maker == ""


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        pytest.param("", MalformedManifest, id="nothing"),
        pytest.param("maker,kind\n", MalformedManifest, id="another header"),
        pytest.param(f"{HEADER}\n{line()},more", MalformedManifest, id="a column too many"),
        pytest.param(f"{HEADER}\n{line(maker='')}", MalformedManifest, id="no maker"),
        pytest.param(f"{HEADER}\n{line(maker='x' * 41)}", MalformedManifest, id="a maker's name too long"),
        pytest.param(f"{HEADER}\n{line(kind='leaf')}", MalformedManifest, id="another kind"),
        pytest.param(f"{HEADER}\n{line(purposes='tls')}", MalformedManifest, id="another purpose"),
        pytest.param(f"{HEADER}\n{line(sha256='00')}", MalformedManifest, id="a short fingerprint"),
        pytest.param(f"{HEADER}\n{line(sha256='Z' * 64)}", MalformedManifest, id="no fingerprint"),
        pytest.param(f"{HEADER}\n{line(subject='')}", MalformedManifest, id="no subject"),
        pytest.param(f"{HEADER}\n{line(not_after='2030-01-01')}", MalformedManifest, id="no time"),
        pytest.param(f"{HEADER}\n{line(source='x' * 513)}", MalformedManifest, id="a field too long"),
        pytest.param(f"{HEADER}\n{line(source=chr(27) + '[2J')}", MalformedManifest, id="not printable"),
        pytest.param(f"{HEADER}\n{line()}\n{line()}", MalformedManifest, id="a certificate twice"),
        pytest.param(
            f"{HEADER}\n{line()}\n{line(maker='Other', sha256='0' * 64)}", MalformedManifest, id="a name of two makers"
        ),
        pytest.param(f'{HEADER}\n"{line()}', MalformedManifest, id="a quote that does not end"),
    ],
)
def test_one_lie_in_a_manifest(text: str, refusal: type[AttestdError]) -> None:
    assert manifest(line()).makers == {"Test Maker"}
    with pytest.raises(refusal):
        Manifest.parse(text.encode())


def test_the_size_of_a_manifest_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join([HEADER, line()]).encode()
    monkeypatch.setattr(known_makers, "MAX_MANIFEST", len(text))
    assert Manifest.parse(text)
    with pytest.raises(ManifestTooLarge):
        Manifest.parse(text + b"\n")


def test_octets_that_are_no_text_are_refused() -> None:
    with pytest.raises(MalformedManifest):
        Manifest.parse(HEADER.encode() + b"\n\xff")


# ---- The one that comes with the product -------------------------------------------------------------------------


def test_the_shipped_manifest_names_the_known_makers() -> None:
    shipped = Manifest.parse(SHIPPED)
    assert len(shipped.certificates) == 2240
    assert shipped.makers == {
        "AMD", "Alibaba Cloud", "Atmel", "Google", "Infineon", "Intel", "Microsoft", "Nationz", "Nuvoton", "Qualcomm",
        "STMicroelectronics",
    }  # fmt: skip
    roots = [known for known in shipped.certificates.values() if known.kind == "root"]
    assert len(roots) == 46
    assert {known.maker for known in roots} == shipped.makers - {"Alibaba Cloud"}
    for known in shipped.certificates.values():
        assert known.not_before < known.not_after
        assert known.key.startswith(("rsa-", "ecc-"))
        assert known.not_before > datetime(2000, 1, 1, tzinfo=UTC)


def test_the_shipped_manifest_is_sorted_and_holds_no_certificate() -> None:
    lines = SHIPPED.decode().splitlines()
    assert lines[0] == HEADER
    assert max(map(len, lines)) < 600
    assert [text.split(",")[0] for text in lines[1:]] == sorted(text.split(",")[0] for text in lines[1:])
    assert b"BEGIN CERTIFICATE" not in SHIPPED


def test_nothing_is_trusted_for_being_in_the_manifest() -> None:
    """The types keep it apart: it holds no certificate that a chain could be built with."""
    known = next(iter(Manifest.parse(SHIPPED).certificates.values()))
    assert not any(isinstance(getattr(known, name), bytes) and name != "sha256" for name in known.__slots__)
