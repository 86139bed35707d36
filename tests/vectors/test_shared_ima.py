"""IMA lists of real machines and of other verifiers' tests: every one gets its stated values.

The files are other projects' data and stay where they are: `../shared/vectors`, or where `ATTESTD_VECTORS` points.
Where the folder is absent these tests are skipped, each by its name. The values are the manifest's, with one exception
(`ERRATUM`). Keylime's files are synthetic: lines and small lists of its own tests, some of them wrong on purpose.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attestd.appraisal.runtimeopinion import GOOD, PolicyView
from attestd.appraisal.runtimepolicy import FileReferences, RuntimePolicy
from attestd.cli.main import app
from attestd.tpm.ima import ImaListMismatch, ImaWalk, TemplateDigestMismatch, replay
from attestd.tpm.imalist import MalformedImaList
from attestd.tpm.imasignatures import FileKey, FileSignerUnknown, Keyring, UnusableFileKey, verify_file_signature
from attestd.tpm.imastate import HASHED, ImaState
from attestd.tpm.imatemplates import ImaEvent, MalformedImaEntry, read_event

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[2].parent / "shared" / "vectors"))

pytestmark = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(), reason=f"no test vectors of real machines in {VECTORS}"
)

LISTS = {
    "before": "immune-h12ssl.before.measurements",
    "binary": "immune-h12ssl.binary_measurements",
    "h12ssl-values": "immune-h12ssl.values.binary_runtime_measurements",
    "ascii": "immune-h12ssl.ascii_measurements",
    "hahuri": "immune-hahuri-invalid-eventlog.values.binary_runtime_measurements",
    **{f"ast-{number}": f"keylime-ast-{number}.txt" for number in ("01-ima-sig", "03-ima-sig", "05-ima", "06-ima-ng")},
    "ast-08-ima-ng": "keylime-ast-08-ima-ng.txt",
    **{
        f"crp-{name}": f"keylime-crp-{name}.txt"
        for name in ("02-ima", "03-ima", "05-ima-ng", "07-ima-ng", "08-ima-buf")
    },
    **{
        f"dm-{number}": f"keylime-dm-{number}-ima-buf.txt"
        for number in ("02", "04", "05", "07", "09", "10", "12", "14")
    },
    **{f"log-{name}": f"keylime-ima-log-{name}" for name in ("sha1", "sha256", "sha384")},
    **{name: f"keylime-{name}.txt" for name in ("keyrings", "measurements", "signatures")},
    "rust": "rustkeylime-ima_log.txt",
}
INVALID = "rustkeylime-invalid_ima_log.txt"
POLICIES = {
    "keylime-runtime-policy-test-signed.json",
    "keylime-runtime-policy-test.json",
    "keylime-runtime_policy_test.json",
}
BANKS = ("sha1", "sha256", "sha384")

# The last of hahuri's 37 entries is for PCR 11. The manifest replays it into PCR 10 all the same, and so finds that
# list and PCR differ; without it they agree, in both banks.
ERRATUM = "hahuri"
OF_OTHER_PCRS = {ERRATUM: 1}


def octets(name: str) -> bytes:
    return (VECTORS / "ima" / LISTS[name]).read_bytes()


def expected(file: str) -> dict[str, Any]:
    manifest = json.loads((VECTORS / "manifest.json").read_text())
    found: dict[str, Any] = next(entry["expected"] for entry in manifest if entry["file"] == f"ima/{file}")
    return found


def stated_pcr10(told: dict[str, Any]) -> dict[str, str | None]:
    if "replay_pcr10" in told:
        found: dict[str, str | None] = told["replay_pcr10"]
        return found
    return {bank: told.get(f"replay_pcr10_{bank}") for bank in ("sha1", "sha256")}


def surveyed(name: str, pcr: int = 10) -> ImaWalk:
    walk = ImaWalk(ImaState.begin(BANKS), octets(name), survey=True, pcr=pcr)
    for _ in walk:
        pass
    return walk


def events(name: str) -> list[ImaEvent]:
    walk = ImaWalk(ImaState.begin(["sha256"]), octets(name))
    return [read_event(run.template, data, run.order) for run in walk for data in run.items]


def test_every_file_of_the_manifest_is_tested_here() -> None:
    manifest = json.loads((VECTORS / "manifest.json").read_text())
    listed = {Path(entry["file"]).name for entry in manifest if entry["file"].startswith("ima/")}
    assert listed == {*LISTS.values(), INVALID, *POLICIES}


@pytest.mark.parametrize("name", LISTS)
def test_every_list_gets_its_stated_values(name: str) -> None:
    told, walk = expected(LISTS[name]), surveyed(name)
    state = walk.state
    assert (state.entries, state.violations, walk.templates) == (told["entries"], told["violations"], told["templates"])
    # What the manifest's replayer could not recompute, this one refuses, except for the oldest template, which it can.
    unreadable = 1 if name == "ast-08-ima-ng" else 0
    assert walk.wrong == told["template_digest_mismatches"] + unreadable
    assert state.elsewhere == OF_OTHER_PCRS.get(name, 0)
    if name == ERRATUM:
        return
    for bank, value in stated_pcr10(told).items():
        found = state.pcr10[bank]
        if value is not None:
            assert found is not None
            assert found.hex() == value
        else:
            assert (found is None) is bool(unreadable)


def test_an_entry_for_another_pcr_is_no_part_of_pcr_10() -> None:
    """Our reading is the machine's own PCR 10. The manifest's value comes from extending it with PCR 11's entry."""
    told, data = expected(LISTS[ERRATUM]), octets(ERRATUM)
    for bank, value in told["known_pcr10"].items():
        state = replay(ImaState.begin([bank]), data, quoted={bank: bytes.fromhex(value)})
        assert (state.entries, state.elsewhere) == (36, 0)
    whole = surveyed(ERRATUM).state
    assert {bank: (whole.pcr10[bank] or b"").hex() for bank in told["known_pcr10"]} == told["known_pcr10"]
    (last,) = [data for run in ImaWalk(ImaState.begin(["sha256"]), data, pcr=11) for data in run.items]
    assert read_event(b"ima-ng", last).name.startswith(b"/home/")
    as_stated = hashlib.sha256(bytes.fromhex(told["known_pcr10"]["sha256"]) + hashlib.sha256(last).digest())
    assert as_stated.hexdigest() == told["replay_pcr10"]["sha256"]


def test_a_real_list_reaches_the_pcr_of_its_report() -> None:
    told, data = expected(LISTS["h12ssl-values"]), octets("h12ssl-values")
    for bank, value in told["known_pcr10"].items():
        state = replay(ImaState.begin([bank]), data, quoted={bank: bytes.fromhex(value)})
        assert (state.entries, state.violations) == (told["entries"], told["violations"])
        assert state.chains[0].form == HASHED
        # An entry less never gets there, and entries more change nothing.
        with pytest.raises(ImaListMismatch):
            replay(ImaState.begin([bank]), data[: data.rindex(b"\x0a\0\0\0")], quoted={bank: bytes.fromhex(value)})
        assert replay(ImaState.begin([bank]), data + data[:500], quoted={bank: bytes.fromhex(value)}) == state


def test_a_real_list_goes_on_from_where_it_was() -> None:
    """Two reports of one boot: the shorter list is the longer one's beginning."""
    whole = octets("h12ssl-values")
    walk = ImaWalk(ImaState.begin(["sha256"]), whole)
    for run in walk:
        if run.first + len(run.items) > 3000:
            break
    known = walk.state
    at = _offset_of(whole, known.entries)
    assert replay(known, whole[at:]).chains == replay(ImaState.begin(["sha256"]), whole).chains


def _offset_of(data: bytes, entries: int) -> int:
    at = 0
    for _ in range(entries):
        name = int.from_bytes(data[at + 24 : at + 28], "little")
        at += 28 + name + 4 + int.from_bytes(data[at + 28 + name : at + 32 + name], "little")
    return at


@pytest.mark.parametrize("name", ["crp-05-ima-ng", "crp-07-ima-ng"])
def test_digests_that_are_wrong_on_purpose(name: str) -> None:
    with pytest.raises(TemplateDigestMismatch):
        replay(ImaState.begin(["sha256"]), octets(name))


def test_what_is_no_list_at_all() -> None:
    with pytest.raises(MalformedImaList):
        replay(ImaState.begin(["sha256"]), (VECTORS / "ima" / INVALID).read_bytes())
    with pytest.raises(MalformedImaEntry):
        replay(ImaState.begin(["sha256"]), octets("ast-08-ima-ng"))


@pytest.mark.parametrize("name", LISTS)
def test_the_command_tells_the_same(name: str) -> None:
    told = expected(LISTS[name])
    result = CliRunner().invoke(app, ["appraise", "ima", "--json", str(VECTORS / "ima" / LISTS[name])])
    bad = name in ("ast-08-ima-ng", "crp-05-ima-ng", "crp-07-ima-ng")
    assert result.exit_code == (1 if bad else 0)
    document = json.loads(result.stdout)
    assert (document["entries"], document["violations"]) == (told["entries"], told["violations"])
    if name != ERRATUM:
        for bank, value in stated_pcr10(told).items():
            assert value is None or document["pcr10"].get(bank, value) == value


def test_the_command_on_what_is_no_list() -> None:
    assert CliRunner().invoke(app, ["appraise", "ima", str(VECTORS / "ima" / INVALID)]).exit_code == 2


# ---- Signatures, keyrings and policies of keylime's tests ----------------------------------------------------------

ALLOWED = frozenset({"sha256"})


def test_keylime_s_signatures() -> None:
    """The first one is by the RSA key of the manifest; the second one's key is on a curve that no kernel knows."""
    rsa = FileKey.load(expected(LISTS["signatures"])["rsa_public_key_pem"].encode())
    first, second = events("signatures")
    assert verify_file_signature(first.signature, first.digest, (Keyring([rsa]),), allowed=ALLOWED) == rsa
    for ring in (Keyring(), Keyring([rsa])):
        with pytest.raises(FileSignerUnknown):
            verify_file_signature(second.signature, second.digest, (ring,), allowed=ALLOWED)
    with pytest.raises(FileSignerUnknown):
        verify_file_signature(first.signature, first.digest, (Keyring(),), allowed=ALLOWED)
    view = PolicyView(RuntimePolicy(keyrings={"tenant": Keyring([rsa])}))
    assert view.opinion(first) == GOOD
    assert "in no keyring" in view.opinion(second)


def test_keylime_s_measured_keyring() -> None:
    (event,) = events("keyrings")
    assert event.name == b".ima"
    assert event.buffer is not None
    assert hashlib.sha256(event.buffer).digest() == event.digest.value
    key = FileKey.load(event.buffer)
    assert key.name == "CN=ecdsa-ca-signed-ec-key"
    with pytest.raises(UnusableFileKey):
        FileKey.load(event.buffer[:-1])


def references(policy: dict[str, Any]) -> FileReferences:
    """Keylime's digests name no hash: by their length they are SHA-256 or SHA-1."""
    sizes = {64: "sha256", 40: "sha1"}
    return FileReferences.of(
        {path: [f"{sizes[len(digest)]}:{digest}" for digest in digests] for path, digests in policy["digests"].items()}
    )


def test_keylime_s_policy_and_an_empty_one() -> None:
    told = json.loads((VECTORS / "ima" / "keylime-runtime_policy_test.json").read_text())
    counting = RuntimePolicy(references(told), hashes=frozenset({"sha1", "sha256"}))
    assert [PolicyView(counting).opinion(event) for event in events("measurements")] == [GOOD] * 3
    assert all(PolicyView(RuntimePolicy()).opinion(event) != GOOD for event in events("measurements"))


@pytest.mark.parametrize("name", ["sha1", "sha256", "sha384"])
def test_keylime_s_allow_lists(name: str) -> None:
    """Lists and allow-lists of files that go together."""
    listed = expected(LISTS[f"log-{name}"])["allowlist"].split()[0]
    counting = RuntimePolicy(
        FileReferences.of({"/data": [f"{name}:{listed}"]}), hashes=frozenset({"sha1", "sha256", "sha384"})
    )
    view = PolicyView(counting)
    (event,) = [event for event in events(f"log-{name}") if event.name == b"/data"]
    assert view.opinion(event) == GOOD
