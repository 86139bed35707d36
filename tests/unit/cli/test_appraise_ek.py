"""`attestd appraise ek`: verdicts, exit codes and reasons, for certificates of a test maker."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from attestd.tpm.ekcert import parse_certificate
from attestd.tpm.vouching import SHA1_ENDED
from tests import ek_ca as ca
from tests.cabinet_writer import cabinet
from tests.commands import Run

MAKER = ca.maker()
ROOT, MIDDLE = MAKER.root, MAKER.intermediate
KEY, RSA_KEY = ca.ec_key("appraised").public_key(), ca.rsa_key("appraised").public_key()
FORM = MIDDLE.ek_form(KEY)
AT = ("--at", "2026-06-01T12:00:00Z")


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    folder = tmp_path / "roots"
    folder.mkdir()
    (folder / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(ROOT.certificate))
    (folder / "middle.der").write_bytes(MIDDLE.certificate)
    (folder / "index.csv").write_text("not a certificate")
    return folder


def written(folder: Path, der: bytes, name: str = "ek.der") -> Path:
    (folder / name).write_bytes(der)
    return folder / name


def test_a_good_certificate(run: Run, tmp_path: Path, roots: Path) -> None:
    der = FORM.sign(MIDDLE.key)
    ran = run("appraise", "ek", written(tmp_path, der), "--roots", roots, *AT, "--json")
    assert (ran.code, ran.err) == (0, "")
    said = ran.document
    assert (said["verdict"], said["maker"], said["model"], said["firmware"]) == ("good", "IFX", "SLB 9670", "7.85")
    assert [step["sha256"] for step in said["chain"]] == [
        parse_certificate(each).sha256.hex() for each in (der, MIDDLE.certificate, ROOT.certificate)
    ]
    assert (said["quirks"], said["advisories"], said["at"]) == ([], [], "2026-06-01T12:00:00Z")


def test_what_a_person_is_told(run: Run, tmp_path: Path, roots: Path) -> None:
    file = written(tmp_path, FORM.but(serial=ca.integer(0)).sign(MIDDLE.key) + b"\xff" * 9)
    ran = run("appraise", "ek", file, "--roots", roots, *AT)
    assert ran.code == 0
    for words in ("good", "IFX SLB 9670", "7.85", "Maker Root", "odd-serial, padded"):
        assert words in ran.out


@pytest.mark.parametrize("how", ["a file", "a cabinet", "two files", "in the certificate's own file"])
def test_issuers_come_from_anywhere_and_roots_from_roots_alone(run: Run, tmp_path: Path, how: str) -> None:
    der = FORM.sign(MIDDLE.key)
    file, more, roots = written(tmp_path, der), [], written(tmp_path, ROOT.certificate, "root.der")
    if how == "a file":
        more = ["--intermediate", written(tmp_path, MIDDLE.certificate, "middle.cer")]
    elif how == "a cabinet":
        packed = cabinet({"A\\root.crt": ROOT.certificate, "A\\middle.crt": MIDDLE.certificate, "readme.txt": b"x"})
        roots = written(tmp_path, packed, "roots.cab")
    elif how == "two files":
        stranger = written(tmp_path, ca.maker("Stranger").intermediate.certificate, "stranger.cer")
        middle = written(tmp_path, MIDDLE.certificate, "middle.cer")
        more = ["--intermediate", stranger, "--intermediate", middle]
    else:
        file = written(tmp_path, der + MIDDLE.certificate)
    assert run("appraise", "ek", file, "--roots", roots, *more, *AT).code == 0
    # The root as an intermediate is trusted for nothing.
    ran = run("appraise", "ek", file, *more, "--intermediate", roots, *AT, "--json")
    if how != "a cabinet":
        assert (ran.code, ran.problem) == (1, "no-trust-anchors")


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        pytest.param(FORM.with_extension(ca.purposes(ca.AIK_PURPOSE)), "not-an-ek-certificate", id="an AIK's purpose"),
        pytest.param(FORM.with_extension(ca.key_usage("digital_signature")), "ek-key-usage-wrong", id="a signing key"),
        pytest.param(FORM.without("2.5.29.17"), "tpm-identity-missing", id="no TPM's identity"),
        pytest.param(FORM.with_extension(ca.basic_constraints(True)), "ek-certificate-is-ca", id="a CA"),
        pytest.param(FORM.but(not_after=ca.NOW - timedelta(days=1)), "maker-certificate-expired", id="expired"),
        pytest.param(FORM.but(issuer=ca.name("Nobody")), "untrusted-maker", id="an unknown issuer"),
        pytest.param(
            MIDDLE.ek_form(ca.rsa_key("short ek", 1024).public_key()), "ek-key-unsuitable", id="a key too short"
        ),
    ],
)
def test_a_bad_certificate(run: Run, tmp_path: Path, roots: Path, form: ca.Form, problem: str) -> None:
    ran = run("appraise", "ek", written(tmp_path, form.sign(MIDDLE.key)), "--roots", roots, *AT, "--json")
    assert (ran.code, ran.problem) == (1, problem)
    said = ran.document
    assert (said["verdict"], said["chain"], said["maker"], said["model"]) == ("bad", [], None, None)
    assert said["unverified"]["subject"] == "an empty name"
    ran = run("appraise", "ek", written(tmp_path, form.sign(MIDDLE.key)), "--roots", roots, *AT)
    assert ran.out.startswith("bad: ")
    assert ran.err.startswith("error: ")


def test_a_forged_signature(run: Run, tmp_path: Path, roots: Path) -> None:
    ran = run("appraise", "ek", written(tmp_path, FORM.sign(MIDDLE.key, spoil=True)), "--roots", roots, *AT, "--json")
    assert (ran.code, ran.problem) == (1, "bad-certificate-signature")


def test_without_roots_nothing_is_good(run: Run, tmp_path: Path) -> None:
    ran = run("appraise", "ek", written(tmp_path, FORM.sign(MIDDLE.key)), "--json")
    assert (ran.code, ran.problem) == (1, "no-trust-anchors")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "malformed-certificate", id="empty"),
        pytest.param(b"hello", "malformed-certificate", id="text"),
        pytest.param(FORM.sign(MIDDLE.key)[:-1], "malformed-certificate", id="cut"),
        pytest.param(b"\x30\x03\x02\x01\x01", "malformed-certificate", id="another structure"),
        pytest.param(b"x" * (256 * 1024 + 1), "input-too-large", id="too large"),
    ],
)
def test_input_that_can_not_be_used(run: Run, tmp_path: Path, roots: Path, data: bytes, problem: str) -> None:
    ran = run("appraise", "ek", written(tmp_path, data), "--roots", roots, *AT, "--json")
    assert (ran.code, ran.problem, ran.out) == (2, problem, "")


def test_files_that_are_not_there(run: Run, tmp_path: Path, roots: Path) -> None:
    ran = run("appraise", "ek", tmp_path / "none.der", "--json")
    assert (ran.code, ran.problem) == (2, "file-unreadable")
    ran = run("appraise", "ek", written(tmp_path, FORM.sign(MIDDLE.key)), "--roots", tmp_path / "none", "--json")
    assert (ran.code, ran.problem) == (2, "source-unreadable")


@pytest.mark.parametrize(
    ("at", "code"),
    [
        ("2026-06-01", 0),
        ("2026-06-01T12:00:00+02:00", 0),
        ("2019-12-31T23:59:59Z", 1),
        ("2040-01-01T00:00:00", 0),
        ("2040-01-01T00:00:00-00:01", 1),
        ("yesterday", 2),
        ("", 2),
        ("2026-13-01", 2),
    ],
)
def test_the_moment_to_judge_as_of(run: Run, tmp_path: Path, roots: Path, at: str, code: int) -> None:
    assert run("appraise", "ek", written(tmp_path, FORM.sign(MIDDLE.key)), "--roots", roots, "--at", at).code == code


# ---- Quirks and advisories --------------------------------------------------------------------------------------


def test_quirks_are_let_through_and_named_and_can_be_refused(run: Run, tmp_path: Path) -> None:
    """A chip for TPM 1.2: signed over SHA-1 in its time, a key marked for OAEP, neither usage nor purpose."""
    old = {"digest": "sha1", "not_before": SHA1_ENDED - timedelta(days=900)}
    root = ROOT.form(ROOT).but(not_before=SHA1_ENDED - timedelta(days=999)).sign(ROOT.key)
    middle = MIDDLE.form(ROOT).but(not_before=SHA1_ENDED - timedelta(days=950)).sign(ROOT.key)
    form = MIDDLE.ek_form(RSA_KEY).but(spki=ca.oaep_spki(RSA_KEY), **old).without("2.5.29.15").without("2.5.29.37")
    file = written(tmp_path, form.sign(MIDDLE.key) + middle)
    command = ("appraise", "ek", file, "--roots", written(tmp_path, root, "root.der"), *AT, "--json")
    ran = run(*command)
    assert ran.code == 0
    assert ran.document["quirks"] == ["rsaes-oaep-key", "sha1-signature", "tpm12-profile"]
    assert ran.document["refused_by_default"] == ["sha1-signature", "tpm12-profile"]
    for quirk, problem in (
        ("sha1-signature", "weak-certificate-signature"),
        ("tpm12-profile", "ek-key-usage-wrong"),
        ("rsaes-oaep-key", "quirk-refused"),
    ):
        ran = run(*command, "--refuse-quirk", quirk)
        assert (ran.code, ran.problem) == (1, problem)
    ran = run(*command, "--refuse-quirk", "sha-1")
    assert ran.code == 2


def test_an_nv_dump_is_read_with_its_header_and_padding(run: Run, tmp_path: Path, roots: Path) -> None:
    der = FORM.sign(MIDDLE.key)
    dump = b"\x10\x01\x00" + len(der).to_bytes(2, "big") + b"\x10\x02" + der + b"\xff" * 300
    ran = run("appraise", "ek", written(tmp_path, dump), "--roots", roots, *AT, "--json")
    assert (ran.code, ran.document["quirks"]) == (0, ["nv-header", "padded"])


def test_a_root_that_is_over(run: Run, tmp_path: Path) -> None:
    root = ROOT.form(ROOT).but(not_after=ca.START + timedelta(days=1)).sign(ROOT.key)
    file = written(tmp_path, FORM.sign(MIDDLE.key) + MIDDLE.certificate)
    ran = run("appraise", "ek", file, "--roots", written(tmp_path, root, "root.der"), *AT, "--json")
    assert (ran.code, ran.document["quirks"]) == (0, ["expired-root"])


def test_advisories_are_told(run: Run, tmp_path: Path, roots: Path) -> None:
    weak = FORM.with_extension(ca.alternative_name(ca.tpm_attributes(version="id:0007003D")))
    ran = run("appraise", "ek", written(tmp_path, weak.sign(MIDDLE.key)), "--roots", roots, *AT, "--json")
    assert ran.code == 0
    ((advisory),) = ran.document["advisories"]
    assert (advisory["id"], advisory["claim"]) == ("CVE-2017-15361", "warning")


def test_an_advisory_that_contraindicates(
    run: Run, tmp_path: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attestd.issuance import makers
    from attestd.tpm.advisories import Advisories

    known = Advisories.parse(
        b'[[advisory]]\nid = "A-1"\nmaker = "IFX"\nfirmware = ["7.85"]\nclaim = "contraindicated"\n'
        b'means = "it is broken"\nsource = "https://example.org"\n'
    )
    monkeypatch.setattr(makers, "known_advisories", lambda: known)
    ran = run("appraise", "ek", written(tmp_path, FORM.sign(MIDDLE.key)), "--roots", roots, *AT, "--json")
    assert (ran.code, ran.problem, ran.document["verdict"]) == (1, "chip-contraindicated", "bad")


def test_roots_that_can_not_be_read_are_named_and_trusted_for_nothing(run: Run, tmp_path: Path, roots: Path) -> None:
    (roots / "broken.cer").write_bytes(b"\x30\x82\xff\xff")
    ran = run("appraise", "ek", written(tmp_path, FORM.sign(MIDDLE.key)), "--roots", roots, *AT, "--json")
    assert ran.code == 0
    ((unreadable),) = ran.document["unreadable"]
    assert unreadable["name"] == "broken.cer"
