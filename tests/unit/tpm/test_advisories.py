"""Advisories: the file's form, which chips one concerns, and the file that comes with the product."""

from __future__ import annotations

from importlib import resources

import pytest

from attestd.tpm import advisories as a
from attestd.tpm.firmware import Firmware, read_certified

ENTRY = {
    "id": '"CVE-1"',
    "maker": '"IFX"',
    "models": '["SLB"]',
    "firmware": '["7.0 - 7.61", "9.5"]',
    "claim": '"warning"',
    "means": '"keys can be factored"',
    "source": '"https://example.org"',
}


def document(*, without: str = "", **lies: str) -> bytes:
    members = {name: text for name, text in (ENTRY | lies).items() if name != without}
    return ("[[advisory]]\n" + "\n".join(f"{name} = {text}" for name, text in members.items()) + "\n").encode()


def test_an_advisory_concerns_its_maker_s_chips_with_its_firmware() -> None:
    (found,) = a.Advisories.parse(document()).listed
    assert (found.id, found.claim, found.models) == ("CVE-1", "warning", ("SLB",))
    assert found.concerns("IFX", "SLB 9670", Firmware((7, 61)))
    assert found.concerns("IFX", "SLB 9670", Firmware((9, 5)))
    assert not found.concerns("IFX", "SLB 9670", Firmware((7, 62)))
    assert not found.concerns("IFX", "OPTIGA", Firmware((7, 61)))
    assert not found.concerns("STM", "SLB 9670", Firmware((7, 61)))
    assert not found.concerns("IFX", "SLB 9670", None)


def test_without_models_every_model_is_meant() -> None:
    (found,) = a.Advisories.parse(document(without="models")).listed
    assert found.concerns("IFX", "", Firmware((7, 0)))


def test_no_advisories_are_a_valid_answer() -> None:
    assert a.Advisories.parse(b"# none\n").listed == ()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"[[advisory]", id="no TOML"),
        pytest.param(b"advisory = 1", id="no tables"),
        pytest.param(b"advisory = [1]", id="not a table"),
        pytest.param(b"more = 1\n" + document(), id="another member"),
        pytest.param(document(extra="1"), id="an unknown member"),
        *(pytest.param(document(without=name), id=f"without {name}") for name in ENTRY if name != "models"),
        pytest.param(document(id='"a b"'), id="an id with a space"),
        pytest.param(document(id="1"), id="an id that is a number"),
        pytest.param(document(id='""'), id="an empty id"),
        pytest.param(document(claim='"affirming"'), id="a claim that is none"),
        pytest.param(document(firmware="[]"), id="no firmware"),
        pytest.param(document(firmware='"7.0"'), id="firmware that is no list"),
        pytest.param(document(firmware='["7"]'), id="no version"),
        pytest.param(document(firmware='["7.9 - 7.0"]'), id="a range that runs backwards"),
        pytest.param(document(firmware='["7.0 - "]'), id="a range without end"),
        pytest.param(document(firmware='["7.0-7.1"]'), id="a range without spaces"),
        pytest.param(document(models="[1]"), id="a model that is a number"),
        pytest.param(document(means=f'"{"x" * 401}"'), id="too long a text"),
        pytest.param(document(means='"a\\u001bb"'), id="not printable"),
        pytest.param(document() * 2, id="one twice"),
        pytest.param(b"#" * (a.MAX_FILE + 1), id="too large"),
    ],
)
def test_one_lie_in_the_file(data: bytes) -> None:
    assert a.Advisories.parse(document())
    with pytest.raises(a.AdvisoriesInvalid):
        a.Advisories.parse(data)


def test_the_number_of_advisories_is_bounded() -> None:
    many = b"".join(document(id=f'"A{number}"') for number in range(501))
    with pytest.raises(a.AdvisoriesInvalid):
        a.Advisories.parse(many)


# ---- The one that comes with the product -------------------------------------------------------------------------

SHIPPED = a.Advisories.parse((resources.files("attestd_certs") / "tpm-advisories.toml").read_bytes())


@pytest.mark.parametrize(
    ("maker", "model", "version", "ids"),
    [
        ("IFX", "SLB 9665", "id:053D", ["CVE-2017-15361"]),
        ("IFX", "SLB 9665", "id:053E", []),
        ("IFX", "SLB 9670 TPM2.0", "id:073d", ["CVE-2017-15361"]),
        ("IFX", "SLB 9670 TPM2.0", "id:073e", []),
        ("IFX", "SLB9635TT1.2", "id:0313", []),
        ("IFX", "SLB 9672", "id:0F15", []),
        ("STM", "ST33HTPHAHB4", "id:00490004", ["CVE-2019-16863"]),
        ("STM", "ST33HTPHAHB4", "id:00490014", []),
        ("NTC", "NPCT75x", "id:00070002", ["CVE-2020-25082"]),
        ("NTC", "NPCT65x", "id:00070002", []),
        ("INTC", "SPT", "id:00020000", []),
    ],
)
def test_what_is_said_of_real_chips(maker: str, model: str, version: str, ids: list[str]) -> None:
    assert [found.id for found in SHIPPED.concerning(maker, model, read_certified(version))] == ids


def test_a_mended_chip_whose_quote_proves_it_is_not_concerned() -> None:
    assert SHIPPED.concerning("NTC", "NPCT75x", Firmware((7, 2, 1, 0)))
    assert not SHIPPED.concerning("NTC", "NPCT75x", Firmware((7, 2, 2, 0)))
