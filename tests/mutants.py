"""Takes the checks out of every module that decides something, one by one, and shows that a test notices:

    python tests/mutants.py                       # all of them; `make mutants`
    python tests/mutants.py attestd/tpm           # the modules whose path starts so

What a check is, `take_out_checks` says. `COVERED_BY` names for each module the smallest set of tests that should
notice, the nearest first, so that most runs end early. Two processes work in copies of the tree; each run of the tests
is a fork of a process that has imported what never changes. The last lines are the result: how many checks, how many
noticed, and which can go without a failure. One that may go is in `EXCUSED`, with the reason; an excuse that excuses
nothing fails too.
"""

# ruff: noqa: T201

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.take_out_checks import VECTORS, Check, copy_tree, find_checks

_PROCESSES: Final = 2
_LIMIT: Final = 600  # seconds for one run of the tests
_UNIT: Final = "tests/unit"
_ISSUING: Final = (
    f"{_UNIT}/web/test_enrollment.py",
    f"{_UNIT}/issuance",
    f"{_UNIT}/web/test_devices.py",
    "tests/attacks/test_enrollment.py",
    "tests/attacks/test_identity.py",
)

_EVIDENCE: Final = "tests/attacks/test_evidence.py"
_KEPT: Final = (
    f"{_UNIT}/appraisal/test_record.py",
    f"{_UNIT}/cli/test_appraise_bundle.py",
    f"{_UNIT}/issuance/test_appraising.py",
    _EVIDENCE,
)
_ATTESTING: Final = (
    f"{_UNIT}/web/test_devices.py",
    f"{_UNIT}/issuance/test_lifecycle.py",
    f"{_UNIT}/issuance/test_appraising.py",
    f"{_UNIT}/issuance/test_quarantining.py",
    "tests/attacks/test_quarantines.py",
    "tests/attacks/test_signed_requests.py",
    _EVIDENCE,
)

COVERED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    # Who vouches for a TPM.
    "attestd/tpm/der.py": (f"{_UNIT}/tpm/test_der.py", f"{_UNIT}/tpm/test_ekcert.py"),
    "attestd/tpm/claims.py": (f"{_UNIT}/tpm/test_claims.py", f"{_UNIT}/tpm/test_ekcert.py"),
    "attestd/tpm/ekcert.py": (f"{_UNIT}/tpm/test_ekcert.py", "tests/vectors/test_shared_endorsements.py"),
    "attestd/tpm/chain.py": (
        f"{_UNIT}/tpm/test_chain.py",
        f"{_UNIT}/tpm/test_vouching.py",
        "tests/attacks/test_endorsement.py",
    ),
    "attestd/tpm/vouching.py": (f"{_UNIT}/tpm/test_vouching.py", f"{_UNIT}/tpm/test_chain.py"),
    "attestd/tpm/endorsement.py": (f"{_UNIT}/tpm/test_endorsement.py", "tests/vectors/test_shared_endorsements.py"),
    "attestd/tpm/ektemplates.py": (f"{_UNIT}/tpm/test_ektemplates.py", f"{_UNIT}/tpm/test_endorsement.py"),
    "attestd/tpm/makers.py": (f"{_UNIT}/tpm/test_makers.py",),
    "attestd/tpm/ekprofile.py": (f"{_UNIT}/tpm/test_endorsement.py", "tests/vectors/test_shared_endorsements.py"),
    "attestd/tpm/identity.py": (f"{_UNIT}/tpm/test_identity.py",),
    "attestd/tpm/weak_keys.py": (f"{_UNIT}/tpm/test_weak_keys.py",),
    "attestd/tpm/known_makers.py": (f"{_UNIT}/tpm/test_known_makers.py",),
    "attestd/tpm/cabinets.py": (f"{_UNIT}/tpm/test_cabinets.py",),
    "attestd/tpm/authority_info.py": (f"{_UNIT}/tpm/test_authority_info.py",),
    "attestd/tpm/firmware.py": (f"{_UNIT}/tpm/test_firmware.py",),
    "attestd/tpm/advisories.py": (f"{_UNIT}/tpm/test_advisories.py",),
    "attestd/appraisal/hardware.py": (f"{_UNIT}/appraisal/test_hardware.py",),
    "attestd/issuance/makers.py": (f"{_UNIT}/issuance/test_chips.py", f"{_UNIT}/issuance/test_trust.py"),
    "attestd/issuance/issuers.py": (f"{_UNIT}/issuance/test_issuers.py",),
    "attestd/cli/certificates.py": (f"{_UNIT}/cli/test_trust_import.py",),
    "attestd/cli/importing.py": (f"{_UNIT}/cli/test_trust_import.py",),
    "attestd/cli/appraise/ek.py": (f"{_UNIT}/cli/test_appraise_ek.py",),
    "attestd/cli/appraise/quote.py": (f"{_UNIT}/cli/test_appraise_quote.py",),
    # What a TPM says.
    "attestd/tpm/wire.py": (f"{_UNIT}/tpm/test_wire.py",),
    "attestd/tpm/objects.py": (f"{_UNIT}/tpm/test_objects.py",),
    "attestd/tpm/activation.py": (f"{_UNIT}/tpm/test_activation.py",),
    "attestd/tpm/makecred.py": (f"{_UNIT}/tpm/test_makecred.py",),
    "attestd/tpm/statements.py": (f"{_UNIT}/tpm/test_statements.py", f"{_UNIT}/tpm/test_attest.py"),
    "attestd/tpm/attest.py": (f"{_UNIT}/tpm/test_attest.py", "tests/vectors/test_shared_quotes.py"),
    # What a machine booted.
    "attestd/tpm/eventlog.py": (f"{_UNIT}/tpm/test_eventlog.py",),
    "attestd/tpm/replay.py": (f"{_UNIT}/tpm/test_replay.py",),
    "attestd/tpm/uefi.py": (f"{_UNIT}/tpm/test_uefi.py", f"{_UNIT}/tpm/test_secureboot.py"),
    "attestd/tpm/sipa.py": (f"{_UNIT}/tpm/test_sipa.py",),
    "attestd/cli/appraise/pcrs.py": (f"{_UNIT}/cli/test_appraise_pcrs.py",),
    # What it ran.
    "attestd/tpm/imatemplates.py": (f"{_UNIT}/tpm/test_imatemplates.py", f"{_UNIT}/tpm/test_ima.py"),
    "attestd/tpm/imalist.py": (f"{_UNIT}/tpm/test_ima.py",),
    "attestd/tpm/ima.py": (f"{_UNIT}/tpm/test_ima.py", f"{_UNIT}/appraisal/test_runtime.py"),
    "attestd/tpm/imastate.py": (f"{_UNIT}/tpm/test_imastate.py", f"{_UNIT}/tpm/test_ima.py"),
    "attestd/tpm/imasignatures.py": (f"{_UNIT}/tpm/test_imasignatures.py",),
    "attestd/tpm/imamodsig.py": (f"{_UNIT}/tpm/test_imamodsig.py",),
    "attestd/appraisal/paths.py": (f"{_UNIT}/appraisal/test_paths.py",),
    "attestd/appraisal/runtime.py": (f"{_UNIT}/appraisal/test_runtime.py",),
    "attestd/appraisal/runtimeopinion.py": (f"{_UNIT}/appraisal/test_runtime.py",),
    "attestd/appraisal/runtimepolicy.py": (
        f"{_UNIT}/appraisal/test_runtime.py",
        f"{_UNIT}/appraisal/test_runtimesection.py",
    ),
    "attestd/appraisal/runtimesection.py": (f"{_UNIT}/appraisal/test_runtimesection.py",),
    "attestd/appraisal/learning.py": (f"{_UNIT}/appraisal/test_learning.py",),
    "attestd/appraisal/writing.py": (f"{_UNIT}/appraisal/test_writing.py",),
    "attestd/appraisal/results.py": (f"{_UNIT}/appraisal",),
    "attestd/appraisal/manifests.py": (f"{_UNIT}/appraisal/test_manifests.py", _EVIDENCE),
    "attestd/appraisal/comparison.py": (f"{_UNIT}/appraisal/test_comparison.py",),
    "attestd/appraisal/record.py": _KEPT,
    "attestd/appraisal/bundle.py": _KEPT,
    "attestd/appraisal/runtimes.py": (f"{_UNIT}/appraisal/test_runtimes.py", f"{_UNIT}/issuance/test_appraising.py"),
    "attestd/appraisal/runtimelearning.py": (f"{_UNIT}/appraisal/test_runtimelearning.py",),
    "attestd/tpm/clock.py": (f"{_UNIT}/tpm/test_clock.py",),
    "attestd/tpm/bootclaims.py": (f"{_UNIT}/tpm/test_bootfacts.py",),
    "attestd/protocol/demanded.py": (f"{_UNIT}/protocol/test_demanded.py",),
    # What travels.
    "attestd/protocol/encoding.py": (f"{_UNIT}/protocol/test_encoding.py",),
    "attestd/protocol/evidence.py": (f"{_UNIT}/protocol/test_messages.py",),
    "attestd/protocol/messages.py": (f"{_UNIT}/protocol/test_messages.py",),
    "attestd/protocol/signed.py": (f"{_UNIT}/protocol/test_signed.py",),
    # Credentials.
    "attestd/credentials/bundle.py": (f"{_UNIT}/credentials/test_bundle.py",),
    "attestd/credentials/certificates.py": (
        f"{_UNIT}/credentials/test_x509.py",
        f"{_UNIT}/credentials/test_presented_issuers.py",
        f"{_UNIT}/credentials/test_bundle.py",
    ),
    "attestd/credentials/fields.py": (f"{_UNIT}/credentials/test_fields.py",),
    "attestd/credentials/dpop.py": (f"{_UNIT}/credentials/test_dpop.py",),
    "attestd/credentials/facts.py": (f"{_UNIT}/credentials/test_facts.py",),
    "attestd/credentials/identity.py": (f"{_UNIT}/credentials/test_identity.py",),
    "attestd/credentials/hashtree.py": (f"{_UNIT}/credentials/test_hashtree.py",),
    "attestd/credentials/transparency.py": (f"{_UNIT}/credentials/test_transparency.py",),
    "attestd/credentials/jwk.py": (f"{_UNIT}/credentials/test_jwk.py",),
    "attestd/credentials/jws.py": (f"{_UNIT}/credentials/test_jws.py", f"{_UNIT}/credentials/test_tokens.py"),
    "attestd/credentials/requests.py": (f"{_UNIT}/credentials/test_requests.py",),
    "attestd/credentials/status.py": (f"{_UNIT}/credentials/test_status.py",),
    "attestd/credentials/tokens.py": (f"{_UNIT}/credentials/test_tokens.py",),
    "attestd/credentials/x509.py": (
        f"{_UNIT}/credentials/test_x509.py",
        f"{_UNIT}/credentials/test_presented_issuers.py",
    ),
    # What is issued.
    "attestd/ca/readback.py": (f"{_UNIT}/ca/test_readback.py",),
    # The service.
    "attestd/issuance/appraising.py": (f"{_UNIT}/issuance/test_appraising.py", _EVIDENCE),
    "attestd/issuance/attesting.py": _ATTESTING,
    "attestd/issuance/answering.py": _ATTESTING,
    "attestd/issuance/references.py": (
        f"{_UNIT}/issuance/test_references_in_force.py",
        f"{_UNIT}/issuance/test_appraising.py",
    ),
    "attestd/issuance/quarantining.py": (f"{_UNIT}/issuance/test_quarantining.py", "tests/attacks/test_quarantines.py"),
    "attestd/issuance/challenges.py": _ISSUING,
    "attestd/issuance/enrollment.py": _ISSUING,
    "attestd/issuance/proving.py": _ISSUING,
    "attestd/issuance/known.py": (f"{_UNIT}/issuance/test_lifecycle.py", f"{_UNIT}/web/test_devices.py"),
    "attestd/issuance/lifecycle.py": (
        f"{_UNIT}/issuance/test_lifecycle.py",
        f"{_UNIT}/web/test_devices.py",
        "tests/attacks/test_signed_requests.py",
    ),
    "attestd/issuance/records.py": _ISSUING,
    "attestd/issuance/requests.py": (
        f"{_UNIT}/issuance/test_lifecycle.py",
        f"{_UNIT}/web/test_devices.py",
        "tests/attacks/test_signed_requests.py",
    ),
    "attestd/issuance/trust.py": _ISSUING,
    "attestd/callers.py": (f"{_UNIT}/test_callers.py", "tests/attacks/test_operations.py"),
    "attestd/operations/instance.py": (
        f"{_UNIT}/web/test_admin_settings.py",
        f"{_UNIT}/web/test_admin.py",
        "tests/attacks/test_operations.py",
    ),
    "attestd/operations/certifying.py": (
        f"{_UNIT}/web/test_admin_settings.py",
        "tests/attacks/test_operations.py",
    ),
    "attestd/operations/references.py": (f"{_UNIT}/operations/test_references.py",),
    "attestd/operations/learning.py": (f"{_UNIT}/operations/test_learning.py",),
    "attestd/operations/fleet.py": (f"{_UNIT}/web/test_admin_fleet.py",),
    "attestd/operations/exporting.py": ("tests/unit/cli/test_appraise_bundle.py", _EVIDENCE),
    "attestd/upkeep/watching.py": (f"{_UNIT}/upkeep/test_watching.py",),
    "attestd/registry/references.py": (
        f"{_UNIT}/registry/test_references.py",
        f"{_UNIT}/operations/test_references.py",
    ),
    "attestd/registry/brake.py": (f"{_UNIT}/registry/test_brake.py",),
    "attestd/registry/causes.py": (f"{_UNIT}/registry/test_causes.py",),
    "attestd/registry/demands.py": (f"{_UNIT}/registry/test_demands.py",),
    "attestd/registry/cohorts.py": (f"{_UNIT}/registry/test_cohorts.py",),
    "attestd/registry/contents.py": (f"{_UNIT}/registry/test_contents.py",),
    "attestd/registry/evidence.py": (f"{_UNIT}/registry/test_evidence.py", _EVIDENCE),
    "attestd/web/admin_references.py": (f"{_UNIT}/web/test_admin_references.py",),
    "attestd/web/admin_fleet.py": (f"{_UNIT}/web/test_admin_fleet.py",),
    "attestd/web/admin_evidence.py": ("tests/unit/cli/test_appraise_bundle.py",),
    "attestd/web/demands.py": (f"{_UNIT}/web/test_demands.py",),
    "attestd/web/access.py": (f"{_UNIT}/web/test_access.py", "tests/attacks/test_default_allow.py"),
    "attestd/web/bodies.py": (f"{_UNIT}/web/test_bodies.py",),
    "attestd/web/devices.py": (f"{_UNIT}/web/test_devices.py",),
    # The edge.
    "clients/attestd_edge/decide.py": (
        f"{_UNIT}/attestd_edge/test_edge_decide.py",
        f"{_UNIT}/attestd_edge/test_edge_memory.py",
        "tests/attacks/test_edge.py",
    ),
    "clients/attestd_edge/views.py": (
        f"{_UNIT}/attestd_edge/test_edge_decide.py",
        f"{_UNIT}/attestd_edge/test_edge_staleness.py",
        f"{_UNIT}/attestd_edge/test_edge_memory.py",
    ),
    "clients/attestd_edge/paths.py": (
        f"{_UNIT}/attestd_edge/test_edge_decide.py",
        f"{_UNIT}/attestd_edge/test_edge_memory.py",
    ),
    "clients/attestd_edge/history.py": (f"{_UNIT}/attestd_edge/test_edge_history.py",),
    "clients/attestd_edge/hop.py": (f"{_UNIT}/attestd_edge/test_edge_hop.py",),
    "clients/attestd_edge/store.py": (f"{_UNIT}/attestd_edge/test_edge_store.py",),
    "clients/attestd_edge/identity.py": (
        f"{_UNIT}/attestd_edge/test_edge_hop.py",
        f"{_UNIT}/attestd_edge/test_edge_decide.py",
        f"{_UNIT}/attestd_edge/test_edge_doors.py",
    ),
}

_ENROLL: Final = "attestd/issuance/enrollment.py"
_ANSWERING: Final = "attestd/issuance/answering.py"
_LIFE: Final = "attestd/issuance/lifecycle.py"
_ASKED: Final = "attestd/issuance/requests.py"
_KNOWN: Final = "attestd/issuance/known.py"
_RECORDS: Final = "attestd/issuance/records.py"
_TOGETHER: Final = "the columns are empty together, so each of these alone is enough; the types want all of them"

# (module, the check as it is printed) -> why it may go without a failure.
EXCUSED: Final[Mapping[tuple[str, str], str]] = {
    ("attestd/credentials/bundle.py", "if not roots"): (
        "Authorities.load refuses an empty list as well; this one says why it is empty"
    ),
    ("attestd/callers.py", "if not isinstance(key, ec.EllipticCurvePublicKey)"): (
        "the registry takes P-256 keys only; the type checker wants it said"
    ),
    (_ENROLL, "if spent.answer is None"): _TOGETHER,
    (_ENROLL, "if spent.device_id is None"): _TOGETHER,
    (_ENROLL, "if spent.serial is None"): _TOGETHER,
    (_ASKED, "if spent.answer is None"): _TOGETHER,
    (_ASKED, "if spent.serial is None"): _TOGETHER,
    (_ASKED, "if spent.device_id != device.id"): "the digest is over the header that names the device, and is compared",
    (_KNOWN, "if row.ck_public is None"): _TOGETHER,
    (_KNOWN, "if row.ck_name is None"): _TOGETHER,
    (_KNOWN, "if row.ak_public is None"): _TOGETHER,
    (_ANSWERING, "if device.attestation_good_until is None"): _TOGETHER,
    (_ANSWERING, "if device.result is None"): _TOGETHER,
    (
        _KNOWN,
        "if not isinstance(key, ec.EllipticCurvePublicKey)",
    ): "only P-256 keys are certified; the types want it said",
    (_LIFE, "if not newest"): "a device in good standing has a certificate; without the check it would be a 500",
    (_LIFE, "if newest[0].not_after <= now.timestamp()"): "mint_token refuses a lifetime that is over as well",
    (_RECORDS, "if device.tier is None"): _TOGETHER,
    (_RECORDS, "if device.site is None"): _TOGETHER,
    (_RECORDS, "if device.status_index is None"): _TOGETHER,
    ("attestd/protocol/evidence.py", "if len(values) > 24"): (
        "indices are below 24, in one spelling, and never twice; this one ends the work earlier"
    ),
    ("attestd/protocol/evidence.py", "if len(text) > 100"): (
        "the digest's exact size refuses the same texts; this one ends the work earlier"
    ),
}

_PRELOADED: Final = (
    "pytest",
    "_pytest.assertion.rewrite",
    "pytest_timeout",
    "hypothesis",
    "asn1crypto.x509",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.x509.verification",
    "jwt",
    "flask",
    "sqlmodel",
    "alembic.command",
    "cedarpy",
    "httpx",
    "prometheus_client",
)
_tree = Path()


def _settle(folder: str) -> None:
    """A worker's beginning: a copy of the tree of its own, and the imports that no check is in."""
    global _tree  # noqa: PLW0603 - one for a process
    _tree = Path(tempfile.mkdtemp(dir=folder))
    copy_tree(_tree)
    for name in _PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)


def _fails(tests: Sequence[str]) -> bool:
    """Whether these tests fail in this worker's tree."""
    child = os.fork()
    if child == 0:
        _run(tests)  # does not return
    ends = time.monotonic() + _LIMIT
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return True


def _run(tests: Sequence[str]) -> None:
    """The forked child: pytest over the copy, silent."""
    code = 3
    try:
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        os.chdir(_tree)
        os.environ.update(VECTORS)
        sys.dont_write_bytecode = True
        # Everything of this project comes from the copy.
        sys.path[:] = [str(_tree), str(_tree / "clients"), *sys.path]
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "attestd")]:
            del sys.modules[name]
        import pytest

        present = [name for name in tests if (_tree / name).exists()]
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *present]))
    finally:
        os._exit(code)


def _judge(module: str, check: Check | None) -> tuple[str, Check | None, bool]:
    """Whether the tests notice that the check is gone; without one, whether they fail by themselves."""
    path = _tree / module
    source = path.read_text()
    if check is None:
        return module, None, _fails(COVERED_BY[module])
    try:
        path.write_text(check.taken_out_of(source))
        return module, check, _fails(COVERED_BY[module])
    finally:
        path.write_text(source)


def main(arguments: Sequence[str]) -> int:
    """0 if each check is noticed or excused."""
    root = Path(__file__).resolve().parent.parent
    modules = [name for name in COVERED_BY if not arguments or name.startswith(tuple(arguments))]
    checks = [(name, check) for name in modules for check in find_checks((root / name).read_text())]
    survivors: list[str] = []
    excused = 0
    spare = {key for key in EXCUSED if key[0] in modules}  # excuses that nothing has needed yet
    with (
        tempfile.TemporaryDirectory(prefix="attestd-mutants-") as folder,
        ProcessPoolExecutor(
            _PROCESSES, mp_context=multiprocessing.get_context("fork"), initializer=_settle, initargs=(folder,)
        ) as workers,
    ):
        broken: set[str] = set()
        for begun in as_completed([workers.submit(_judge, name, None) for name in modules]):
            name, _, failed = begun.result()
            if failed:
                print(f"{name}: the tests fail before anything is taken out.", flush=True)
                broken.add(name)
        checks = [(name, check) for name, check in checks if name not in broken]
        for number, begun in enumerate(as_completed([workers.submit(_judge, *item) for item in checks]), 1):
            name, check, noticed = begun.result()
            assert check is not None
            excuse = (name, check.what)
            if not noticed and excuse in EXCUSED:
                spare.discard(excuse)
                excused += 1
            elif not noticed:
                survivors.append(f"{name}:{check.line}: {check.what}")
            word = "noticed" if noticed else "excused" if excuse in EXCUSED else "MISSED "
            print(f"{number:4}/{len(checks)} {word} {name}:{check.line}: {check.what}", flush=True)
    print(f"\n{len(modules)} modules, {len(checks)} checks: {len(checks) - excused - len(survivors)} noticed, ", end="")
    print(f"{excused} excused, {len(survivors)} can go without a failure")
    for line in sorted(survivors):
        print(f"  {line}")
    for name, what in sorted(spare):
        print(f"  {name}: the excuse for `{what}` excuses nothing")
    for name in sorted(broken):
        print(f"  {name}: not judged, its tests fail by themselves")
    return 1 if survivors or spare or broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
