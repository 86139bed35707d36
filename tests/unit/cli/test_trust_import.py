"""`attestd trust import`: what is shown, what is asked, and that nothing is trusted that nobody chose."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestd.cli import importing
from attestd.issuance import makers
from attestd.registry import audit
from attestd.registry.trust import every
from attestd.tpm.known_makers import COLUMNS, Manifest, write_date
from attestd.tpm.makers import describe_certificate
from tests import ek_ca as ca
from tests.cabinet_writer import cabinet
from tests.commands import Ran, Run
from tests.service import World

pytestmark = pytest.mark.once

ALPHA, BETA = ca.maker("Alpha"), ca.maker("Beta")
OLD = ca.MakerCa("Alpha Old", ca.ec_key("alpha old")).self_signed(not_after=datetime(2021, 1, 1, tzinfo=UTC))
ATTESTATION = ca.MakerCa("Beta AIK", ca.ec_key("beta aik"))
AIK_CA = ATTESTATION.certified_by(BETA.root, ATTESTATION.form(BETA.root).with_extension(ca.purposes(ca.AIK_PURPOSE)))
IMPOSTOR = replace(ALPHA.root, key=ca.ec_key("alpha impostor")).self_signed()
NEW = ca.maker("Gamma").root
LEAF = ALPHA.intermediate.ek_certificate(ca.ec_key("import leaf").public_key())
KNOWN = {"Alpha": [ALPHA.root, ALPHA.intermediate, OLD], "Beta Ltd": [BETA.root, BETA.intermediate, AIK_CA]}


def manifest() -> Manifest:
    lines = [",".join(COLUMNS)]
    for maker, cas in KNOWN.items():
        for each in cas:
            d = describe_certificate(each.certificate, now=ca.NOW)
            dates = f"{write_date(d.not_before)},{write_date(d.not_after)}"
            lines.append(f'{maker},{d.kind},{d.purposes},{d.key},{dates},{d.sha256.hex()},"{d.subject}",test@1')
    return Manifest.parse("\n".join(lines).encode())


class Api:
    """The admin API of a service in this process, as the commands see it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, path: str) -> dict[str, Any]:
        return dict(self.world.admin.get(f"/v1/admin{path}").json)

    def upload(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        answer = self.world.admin.post(f"/v1/admin{path}", body, content_type=content_type)
        assert answer.status_code == 200, answer.text
        return dict(answer.json)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path / "instance")
    known = manifest()
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: Api(world))
    monkeypatch.setattr(makers, "known_makers", lambda: known)
    monkeypatch.setattr("attestd.operations.instance.known_makers", lambda: known)
    yield world
    world.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with everything that one may meet."""
    folder = tmp_path / "makers"
    (folder / "Alpha").mkdir(parents=True)
    for number, each in enumerate([*KNOWN["Alpha"], *KNOWN["Beta Ltd"]]):
        (folder / "Alpha" / f"{number}.cer").write_bytes(each.certificate)
    (folder / "others.pem").write_text(
        "".join(map(ssl.DER_cert_to_PEM_cert, [IMPOSTOR.certificate, NEW.certificate, LEAF, ALPHA.root.certificate]))
    )
    (folder / "broken.crt").write_bytes(b"\x30\x82\xff\xff")
    (folder / "readme.txt").write_text("hello")
    return folder


Import = Callable[..., Ran]


@pytest.fixture
def import_(run: Run, world: World, source: Path) -> Import:
    return lambda *options, answers="": run("trust", "import", source, *options, answers=answers)


def trusted(world: World) -> set[bytes]:
    with world.registry.reading() as c:
        return {maker.sha256 for maker in every(c)} - {fingerprint(world.maker.root.certificate)}


def fingerprint(der: bytes) -> bytes:
    return describe_certificate(der, now=ca.NOW).sha256


def fingerprints(*cas: ca.MakerCa) -> set[bytes]:
    return {fingerprint(each.certificate) for each in cas}


# ---- Showing ----------------------------------------------------------------------------------------------------


def test_what_is_there_is_shown_and_nothing_is_trusted(import_: Import, world: World) -> None:
    ran = import_("--dry-run", "--json")
    assert (ran.code, ran.document["added"]) == (0, 0)
    alpha, beta = ran.document["makers"]
    assert alpha == {
        "maker": "Alpha", "roots": 1, "intermediates": 1, "trusted": 0, "expired": 1, "attestation_only": 0, "added": 0,
    }  # fmt: skip
    assert (beta["roots"], beta["intermediates"], beta["attestation_only"]) == (1, 2, 1)
    changed, new = ran.document["others"]
    assert (changed["standing"], changed["maker"]) == ("changed", "Alpha")
    assert changed["sha256"] == fingerprint(IMPOSTOR.certificate).hex()
    assert (new["standing"], new["maker"], new["kind"]) == ("new", "", "root")
    assert [each["sha256"] for each in ran.document["no_cas"]] == [fingerprint(LEAF).hex()]
    assert [each["name"] for each in ran.document["unreadable"]] == ["broken.crt"]
    assert trusted(world) == set()


def test_what_a_person_is_shown(import_: Import) -> None:
    out = import_("--dry-run").out
    for words in ("Alpha", "Beta Ltd", "changed (the manifest knows another of this name, of Alpha)", "new: root",
                  fingerprint(NEW.certificate).hex(), "Unreadable: 1", "broken.crt", "No CAs"):  # fmt: skip
        assert words in out


@pytest.mark.parametrize("form", ["pem", "der", "cabinet"])
def test_sources_of_every_form(run: Run, world: World, tmp_path: Path, form: str) -> None:
    both = [ALPHA.root.certificate, ALPHA.intermediate.certificate]
    file = tmp_path / "file"
    if form == "pem":
        file.write_text("".join(map(ssl.DER_cert_to_PEM_cert, both)))
    elif form == "der":
        file.write_bytes(b"".join(both))
    else:
        file.write_bytes(cabinet({"A\\r.cer": both[0], "A\\i.CRT": both[1], "A\\x.ps1": both[0]}, after=b"signature"))
    ran = run("trust", "import", file, "--all", "--json")
    assert (ran.code, ran.document["added"]) == (0, 2)
    assert trusted(world) == fingerprints(ALPHA.root, ALPHA.intermediate)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x30\x82\xff\xff", b"MSCF", cabinet({"a.cer": LEAF}, spoil=1)])
def test_a_file_that_can_not_be_read(run: Run, world: World, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    ran = run("trust", "import", tmp_path / "file", "--all", "--json")
    assert (ran.code, ran.out, trusted(world)) == (1, "", set())


# ---- Choosing ---------------------------------------------------------------------------------------------------


def test_without_a_choice_nothing_is_trusted(import_: Import, world: World) -> None:
    """No terminal: nobody can be asked."""
    for options in ((), ("--json",), ("--expired",)):
        ran = import_(*options)
        assert (ran.code, trusted(world)) == (1, set())
    assert import_("--json").problem == "nothing-chosen"


def test_one_maker(import_: Import, world: World) -> None:
    ran = import_("--yes", "beta ltd")
    assert ran.code == 0
    assert "Trusted from now on: Beta Ltd (3)" in ran.out
    assert trusted(world) == fingerprints(BETA.root, BETA.intermediate, AIK_CA)


def test_all_makers_are_those_that_the_manifest_knows(import_: Import, world: World) -> None:
    assert import_("--all").code == 0
    assert trusted(world) == fingerprints(ALPHA.root, ALPHA.intermediate, BETA.root, BETA.intermediate, AIK_CA)


def test_roots_become_anchors_and_the_rest_helps(import_: Import, world: World) -> None:
    import_("--all")
    with world.registry.reading() as c:
        anchors = {maker.sha256 for maker in every(c) if maker.is_root}
    assert anchors - {fingerprint(world.maker.root.certificate)} == fingerprints(ALPHA.root, BETA.root)


def test_what_the_manifest_does_not_know_is_trusted_by_its_fingerprint(import_: Import, world: World) -> None:
    for der in (IMPOSTOR.certificate, NEW.certificate):
        assert import_("--certificate", f"sha256:{fingerprint(der).hex()}", "--json").document["added"] == 1
    assert trusted(world) == fingerprints(IMPOSTOR, NEW)


def test_expired_ones_only_if_asked_for(import_: Import, world: World) -> None:
    import_("--yes", "Alpha", "--expired")
    assert trusted(world) == fingerprints(ALPHA.root, ALPHA.intermediate, OLD)


def test_again_changes_nothing(import_: Import, world: World) -> None:
    import_("--all")
    before = trusted(world)
    ran = import_("--all", "--certificate", fingerprint(ALPHA.root.certificate).hex())
    assert ran.code == 0
    assert "Nothing new" in ran.out
    assert trusted(world) == before
    with world.registry.reading() as c:
        assert [row.act for row in audit.page(c)].count("trust-makers") == 3  # the world's own, Alpha's, Beta's


@pytest.mark.parametrize(
    "options",
    [
        ("--yes", "Gamma"),
        ("--yes", "Alpha", "--yes", "Nobody"),
        ("--all", "--certificate", "00" * 32),
        ("--certificate", "00"),
        ("--certificate", "zz" * 32),
        ("--certificate", fingerprint(LEAF).hex()),
    ],
)
def test_a_slip_trusts_nothing(import_: Import, world: World, options: tuple[str, ...]) -> None:
    ran = import_(*options, "--json")
    assert (ran.code, ran.problem, trusted(world)) == (1, "unknown-choice", set())


def test_a_dry_run_shows_what_would_be_trusted(import_: Import, world: World) -> None:
    ran = import_("--all", "--dry-run")
    assert ran.code == 0
    assert "Would be trusted: Alpha (2), Beta Ltd (3)" in ran.out
    assert trusted(world) == set()


def test_the_trail_names_the_operator_and_the_maker(import_: Import, world: World) -> None:
    import_("--yes", "Alpha")
    with world.registry.reading() as c:
        row = next(iter(audit.page(c)))
    assert (row.act, row.actor, row.detail["makers"]) == ("trust-makers", "operator:admin-1", ["Alpha"])
    import_("--certificate", fingerprint(NEW.certificate).hex())
    with world.registry.reading() as c:
        assert next(iter(audit.page(c))).detail["makers"] == ["unknown"]


def test_many_are_sent_in_parts(import_: Import, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_AT_ONCE", 2)
    assert import_("--yes", "Beta Ltd", "--json").document["added"] == 3
    with world.registry.reading() as c:
        assert [len(row.detail["sha256"]) for row in audit.page(c, limit=2)] == [1, 2]


# ---- At a terminal ----------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "at_a_terminal", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_a_person_is_asked_maker_by_maker(import_: Import, world: World) -> None:
    ran = import_(answers="y\nn\nn\ny\n")
    assert ran.code == 0
    for question in (
        "Trust Alpha: 1 roots, 1 intermediates?",
        "Trust Beta Ltd: 1 roots, 2 intermediates?",
        "new: root",
    ):
        assert question in ran.out
    assert trusted(world) == fingerprints(ALPHA.root, ALPHA.intermediate, NEW)


@pytest.mark.usefixtures("terminal")
def test_no_is_the_answer_of_who_says_nothing(import_: Import, world: World) -> None:
    import_(answers="\n\n\n\n")
    assert trusted(world) == set()
    ran = import_(answers="y\n")  # and then the input ends
    assert (ran.code, trusted(world)) == (1, set())


@pytest.mark.usefixtures("terminal")
def test_nobody_is_asked_what_is_chosen_or_only_shown(import_: Import, world: World) -> None:
    assert "[y/N]" not in import_("--all").out
    assert "[y/N]" not in import_("--dry-run").out
    assert import_("--json").problem == "nothing-chosen"


def test_a_list_tells_the_makers(run: Run, import_: Import) -> None:
    import_("--yes", "Beta Ltd")
    assert "Beta Ltd" in run("trust", "list").out
