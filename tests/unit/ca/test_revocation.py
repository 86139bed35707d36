"""The CRL: right by another library's reading, and noticed when what was signed differs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtensionOID

from attestd.ca.hierarchy import Hierarchy
from attestd.ca.readback import SignedBytesDiffer
from attestd.ca.revocation import RevocationListInvalid, build_crl
from attestd.ca.signer import FileSigner
from attestd.ids import Serial

from .conftest import NOW, OTHER_KEY

AT = int(NOW.timestamp()) - 100
REVOKED = [
    (Serial(1), AT, "keyCompromise"),
    (Serial((1 << 159) - 1), AT + 1, "stolen from the van"),
    (Serial(77), AT + 2, "superseded"),
]


def build(hierarchy: Hierarchy, **changes: Any) -> bytes:
    good: dict[str, Any] = {
        "revoked": REVOKED,
        "issuer": hierarchy.issuer,
        "number": 300,
        "now": NOW + timedelta(milliseconds=5),
        "next_update": NOW + timedelta(hours=1, milliseconds=7),
    }
    return build_crl(**good | changes)


def test_every_field_of_a_list(hierarchy: Hierarchy) -> None:
    crl = x509.load_der_x509_crl(build(hierarchy))
    assert crl.is_signature_valid(hierarchy.issuer.public_key)
    assert crl.issuer == hierarchy.issuer.certificate.subject
    assert (crl.last_update_utc, crl.next_update_utc) == (NOW, NOW + timedelta(hours=1))
    assert {one.oid: (one.critical, one.value) for one in crl.extensions} == {
        ExtensionOID.CRL_NUMBER: (False, x509.CRLNumber(300)),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            x509.AuthorityKeyIdentifier(hierarchy.issuer.key_identifier, None, None),
        ),
    }
    found = [
        (one.serial_number, one.revocation_date_utc, [extension.value for extension in one.extensions]) for one in crl
    ]
    assert found == [
        (1, datetime.fromtimestamp(AT, UTC), [x509.CRLReason(x509.ReasonFlags.key_compromise)]),
        ((1 << 159) - 1, datetime.fromtimestamp(AT + 1, UTC), []),
        (77, datetime.fromtimestamp(AT + 2, UTC), [x509.CRLReason(x509.ReasonFlags.superseded)]),
    ]


@pytest.mark.parametrize("words", ["unspecified", "removeFromCRL", "certificateHold", "", "key compromise"])
def test_some_reasons_stay_out_of_it(hierarchy: Hierarchy, words: str) -> None:
    (entry,) = x509.load_der_x509_crl(build(hierarchy, revoked=[(Serial(5), AT, words)]))
    assert list(entry.extensions) == []


@pytest.mark.parametrize("number", [0, 1, (1 << 159) - 1])
def test_an_empty_list_of_any_number(hierarchy: Hierarchy, number: int) -> None:
    crl = x509.load_der_x509_crl(build(hierarchy, revoked=[], number=number))
    assert list(crl) == []
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number


@pytest.mark.parametrize(
    "change",
    [{"next_update": NOW}, {"next_update": NOW - timedelta(hours=1)}, {"number": -1}, {"number": 1 << 159}],
    ids=["stale at once", "stale before", "negative number", "long number"],
)
def test_a_list_that_nobody_would_accept_is_not_made(hierarchy: Hierarchy, change: dict[str, Any]) -> None:
    with pytest.raises(RevocationListInvalid):
        build(hierarchy, **change)


# ---- A signer that lies -----------------------------------------------------------------------------------------


class Liar(FileSigner):
    """Signs another list than it was given."""

    def __init__(self, honest: FileSigner, lie: Callable[[dict[str, Any]], object], key: Any = None) -> None:
        super().__init__(honest.certificate, honest._key)
        object.__setattr__(self, "told", (lie, key or honest._key))

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        lie, key = self.told  # type: ignore[attr-defined]
        crl = x509.load_der_x509_crl(super().sign_crl(builder))
        fields: dict[str, Any] = {
            "issuer": crl.issuer,
            "this": crl.last_update_utc,
            "next": crl.next_update_utc,
            "entries": list(crl),
            "extensions": {type(one.value): (one.value, False) for one in crl.extensions},
            "hash": hashes.SHA256(),
        }
        lie(fields)
        again = (
            x509.CertificateRevocationListBuilder(revoked_certificates=fields["entries"])
            .issuer_name(fields["issuer"])
            .last_update(fields["this"])
            .next_update(fields["next"])
        )
        for value, critical in fields["extensions"].values():
            again = again.add_extension(value, critical)
        return again.sign(key, fields["hash"]).public_bytes(serialization.Encoding.DER)


def entry(serial: int, at: int, reason: x509.ReasonFlags | None = None) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(datetime.fromtimestamp(at, UTC))
    return (builder if reason is None else builder.add_extension(x509.CRLReason(reason), critical=False)).build()


SOMEBODY = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
LIES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "another issuer": ("issuer", lambda f: f.update(issuer=SOMEBODY)),
    "earlier": ("this update", lambda f: f.update(this=f["this"] - timedelta(seconds=1))),
    "fresh for longer": ("next update", lambda f: f.update(next=f["next"] + timedelta(seconds=1))),
    "another algorithm": ("algorithm", lambda f: f.update(hash=hashes.SHA384())),
    "another number": ("extensions", lambda f: f["extensions"].update({x509.CRLNumber: (x509.CRLNumber(299), False)})),
    "a critical number": (
        "extensions",
        lambda f: f["extensions"].update({x509.CRLNumber: (x509.CRLNumber(300), True)}),
    ),
    "no authority": ("extensions", lambda f: f["extensions"].pop(x509.AuthorityKeyIdentifier)),
    "one less": ("entries", lambda f: f["entries"].pop()),
    "one more": ("entries", lambda f: f["entries"].append(entry(5, AT))),
    "another serial number": ("entries", lambda f: f["entries"].__setitem__(1, entry(5, AT + 1))),
    "another time": ("entries", lambda f: f["entries"].__setitem__(1, entry((1 << 159) - 1, AT))),
    "another reason": (
        "entries",
        lambda f: f["entries"].__setitem__(2, entry(77, AT + 2, x509.ReasonFlags.key_compromise)),
    ),
}


def test_an_honest_signer_is_believed(hierarchy: Hierarchy) -> None:
    build(hierarchy, issuer=Liar(hierarchy.issuer, lambda fields: None))


@pytest.mark.parametrize("lie", LIES)
def test_each_field_that_differs_is_noticed(hierarchy: Hierarchy, lie: str) -> None:
    field, change = LIES[lie]
    with pytest.raises(SignedBytesDiffer, match=field):
        build(hierarchy, issuer=Liar(hierarchy.issuer, change))


def test_another_keys_signature_is_noticed(hierarchy: Hierarchy) -> None:
    with pytest.raises(SignedBytesDiffer, match="signature"):
        build(hierarchy, issuer=Liar(hierarchy.issuer, lambda fields: None, OTHER_KEY))


def test_what_is_no_list_is_noticed(hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> None:
    for octets in (b"", b"not a list", hierarchy.root.public_bytes(serialization.Encoding.DER)):
        monkeypatch.setattr(FileSigner, "sign_crl", lambda self, builder, octets=octets: octets)
        with pytest.raises(SignedBytesDiffer, match="not a revocation list"):
            build(hierarchy)
