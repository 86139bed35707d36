"""The TPM through ESAPI: a real software TPM makes it, attestd's pure verifiers judge it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.jws import verify_es256
from attestd.ids import EkHash
from attestd.protocol.derivations import completion_proof
from attestd.tpm.activation import VerifiedAk, make_credential, recall_ak, verify_activation, vet_ak
from attestd.tpm.attest import verify_certified_key, verify_quote
from attestd.tpm.chain import TrustAnchors
from attestd.tpm.endorsement import VerifiedEndorsement, endorse_by_inventory, verify_endorsement
from attestd_agent.failures import (
    HierarchyLocked,
    KeysNotOfThisTpm,
    PcrsKeepChanging,
    PcrsUnavailable,
    TpmFailed,
    TpmFull,
    TpmUnavailable,
)
from attestd_agent.keys import EndorsementKey, TpmKey
from attestd_agent.templates import ENDORSEMENT, OWNER, SRK_HANDLE, STORAGE_ROOT
from attestd_agent.turns import turn_at
from tests.software_tpm import EK_ECC_HANDLE, EK_RSA_HANDLE, SoftwareTpm
from tests.unit.attestd_agent.conftest import ready
from tests.unit.attestd_agent.fake_service import utc_now

pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed")

from attestd_agent import device as device_module
from attestd_agent.commands import Tpm
from attestd_agent.device import Device

SECRET, CERTIFY, QUOTE = b"s" * 32, b"c" * 32, b"q" * 32
SELECTION = {"sha256": tuple(range(24))}


def loaded(tpm: SoftwareTpm) -> list[int]:
    """What lies in the TPM: transient objects and sessions."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import TPM2_CAP, TPM2_HR

    with ESAPI(tpm.tcti) as esapi:
        found: list[int] = []
        for first in (TPM2_HR.TRANSIENT, TPM2_HR.HMAC_SESSION, 0x03000000):
            _, data = esapi.get_capability(TPM2_CAP.HANDLES, first, 64)
            found += [int(handle) for handle in data.data.handles]
        return found


@pytest.fixture
def device(tpm: SoftwareTpm) -> Iterator[Device]:
    """Whatever a test does to the shared TPM, nothing stays loaded."""
    yield Device(tpm.tcti)
    assert loaded(tpm) == []


@pytest.fixture
def keys(device: Device) -> tuple[TpmKey, TpmKey]:
    return device.create_keys()


def prove(device: Device, endorsement: EndorsementKey, ak: TpmKey, ck: TpmKey, **changes: Any) -> Any:
    endorsed: VerifiedEndorsement = endorse_by_inventory(endorsement.public, known=EkHash.of(endorsement.public))
    made = make_credential(endorsed, vet_ak(changes.pop("for_ak", ak).area), secret=SECRET, entropy=os.urandom)
    options = {
        "credential_blob": made.credential_blob,
        "secret": made.encrypted_secret,
        "certify_data": CERTIFY,
        "quote_data": QUOTE,
        "selection": SELECTION,
    }
    return device.prove(endorsement, ak, ck, **{**options, **changes})


# ---- The endorsement key --------------------------------------------------------------------------------------------


def test_the_maker_s_certificate_is_found_and_verifies(device: Device, anchors: TrustAnchors) -> None:
    found = device.endorsement()
    assert (found.kind, found.handle) == ("rsa-2048", EK_RSA_HANDLE)
    verified = verify_endorsement(found.public, found.certificates, anchors=anchors, now=utc_now())
    assert verified.ek_hash == found.hash


def test_the_p384_key_of_swtpm_setup_is_found_too(device: Device, anchors: TrustAnchors) -> None:
    found = device.endorsement(kind="ecc-p384-high")
    assert found.handle == EK_ECC_HANDLE
    assert verify_endorsement(found.public, found.certificates, anchors=anchors, now=utc_now()).kind == "certificate"


@pytest.mark.parametrize("kind", [row.name for row in ENDORSEMENT])
def test_every_kind_of_key_activates_a_credential(device: Device, keys: tuple[TpmKey, TpmKey], kind: str) -> None:
    endorsement = device.endorsement(kind=kind)
    proof = prove(device, endorsement, *keys)
    assert proof.secret == SECRET
    endorsed = endorse_by_inventory(endorsement.public, known=endorsement.hash)
    verify_activation(
        endorsed,
        vet_ak(keys[0].area),
        secret=SECRET,
        body=b"{}",
        proof=completion_proof(secret=proof.secret, body=b"{}"),
    )


def test_the_same_key_is_made_each_time(device: Device) -> None:
    assert device.endorsement(kind="ecc-p256").public == device.endorsement(kind="ecc-p256").public


def test_a_credential_for_another_ak_does_not_open(device: Device, keys: tuple[TpmKey, TpmKey]) -> None:
    endorsement = device.endorsement(kind="ecc-p256")
    other, _ = device.create_keys()
    assert prove(device, endorsement, *keys).secret == SECRET
    with pytest.raises(TpmFailed):
        prove(device, endorsement, *keys, for_ak=other)


@pytest.mark.parametrize("blob", [b"", b"\0", b"\0\x05hello", b"\xff\xff" + bytes(80)])
def test_a_challenge_that_is_none_is_named(device: Device, keys: tuple[TpmKey, TpmKey], blob: bytes) -> None:
    with pytest.raises(TpmFailed):
        prove(device, device.endorsement(kind="ecc-p256"), *keys, credential_blob=blob)


# ---- Keys -----------------------------------------------------------------------------------------------------------


def test_the_ak_is_one_that_the_service_accepts(keys: tuple[TpmKey, TpmKey]) -> None:
    assert vet_ak(keys[0].area).name == keys[0].name


def test_the_credential_key_is_certified_by_the_ak(device: Device, keys: tuple[TpmKey, TpmKey]) -> None:
    ak, ck = keys
    signed = device.certify(ak, ck, CERTIFY)
    verified = verify_certified_key(
        recall_ak(ak.area), public=ck.area, attest=signed.attest, signature=signed.signature, qualifying_data=CERTIFY
    )
    assert verified.key.public_numbers() == ck.key.public_numbers()


def test_signatures_are_es256(device: Device, keys: tuple[TpmKey, TpmKey]) -> None:
    ck = keys[1]
    for number in range(20):  # r or s with a leading zero octet comes once in 128
        data = b"data %d" % number
        verify_es256(ck.key, signature=device.sign(ck, data), message=data)


def test_another_credential_key_has_the_ak_s_parent(device: Device, keys: tuple[TpmKey, TpmKey]) -> None:
    ck = device.create_credential_key(beside=keys[0])
    assert ck.parent == keys[0].parent
    assert ck != keys[1]
    device.certify(keys[0], ck, CERTIFY)


def test_another_tpm_s_keys_are_refused_by_name(device: Device, blank_tpm: SoftwareTpm) -> None:
    _, foreign = Device(blank_tpm.tcti).create_keys()
    with pytest.raises(KeysNotOfThisTpm):
        device.sign(foreign, b"data")


def test_a_key_under_a_root_that_is_gone_is_refused_by_name(device: Device, keys: tuple[TpmKey, TpmKey]) -> None:
    with pytest.raises(KeysNotOfThisTpm):
        device.sign(TpmKey(keys[1].public, keys[1].private, 0x81000001), b"data")


def test_keys_survive_a_reboot(blank_tpm: SoftwareTpm) -> None:
    device = Device(blank_tpm.tcti)
    _, ck = device.create_keys()
    blank_tpm.reboot()
    ready(blank_tpm)
    verify_es256(ck.key, signature=device.sign(ck, b"data"), message=b"data")


def _persist(tpm: SoftwareTpm, template: bytes, handle: int) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPMT_PUBLIC

    with ESAPI(tpm.tcti) as esapi:
        public = TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(template)[0])
        made = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), public, primary_handle=ESYS_TR.OWNER)[0]
        esapi.evict_control(ESYS_TR.OWNER, made, handle)
        esapi.flush_context(made)


def test_the_owner_s_primary_is_the_parent_where_no_root_is_kept(keys: tuple[TpmKey, TpmKey]) -> None:
    assert {key.parent for key in keys} == {OWNER}


def test_a_kept_storage_root_is_the_parent(blank_tpm: SoftwareTpm) -> None:
    _persist(blank_tpm, STORAGE_ROOT, SRK_HANDLE)
    device = Device(blank_tpm.tcti)
    ak, ck = device.create_keys()
    assert (ak.parent, ck.parent) == (SRK_HANDLE, SRK_HANDLE)
    verify_es256(ck.key, signature=device.sign(ck, b"data"), message=b"data")
    assert loaded(blank_tpm) == []


def test_another_key_at_that_handle_is_no_parent(blank_tpm: SoftwareTpm) -> None:
    low = next(row for row in ENDORSEMENT if row.name == "rsa-2048-high")
    _persist(blank_tpm, low.area, SRK_HANDLE)
    assert {key.parent for key in Device(blank_tpm.tcti).create_keys()} == {OWNER}


def _set_password(tpm: SoftwareTpm, hierarchy: str) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR

    with ESAPI(tpm.tcti) as esapi:
        esapi.hierarchy_change_auth(getattr(ESYS_TR, hierarchy), "secret")


def test_an_owner_s_password_is_named(blank_tpm: SoftwareTpm) -> None:
    _set_password(blank_tpm, "OWNER")
    with pytest.raises(HierarchyLocked):
        Device(blank_tpm.tcti).create_keys()
    assert loaded(blank_tpm) == []


def test_a_password_set_later_is_no_sign_of_foreign_keys(blank_tpm: SoftwareTpm) -> None:
    device = Device(blank_tpm.tcti)
    _, ck = device.create_keys()
    _set_password(blank_tpm, "OWNER")
    with pytest.raises(HierarchyLocked):
        device.sign(ck, b"data")


class _Nv:
    """An ESAPI of which only NV is used; reading fails with a return code."""

    def __init__(self, rc: int) -> None:
        self.rc, self.closed = rc, 0

    def tr_from_tpmpublic(self, index: int) -> int:
        return index

    def nv_read_public(self, _: int) -> Any:
        from tpm2_pytss import TSS2_Exception

        raise TSS2_Exception(self.rc)

    def tr_close(self, _: int) -> None:
        self.closed += 1


@pytest.mark.parametrize(("rc", "absent"), [(0x14A, True), (0x149, True), (0x000A000A, False), (0x902, False)])
def test_an_index_that_can_t_be_read_is_absent_but_a_dead_tpm_is_dead(rc: int, absent: bool) -> None:
    from contextlib import ExitStack

    from tpm2_pytss import TSS2_Exception

    esapi = _Nv(rc)
    tpm = Tpm(esapi, ExitStack())
    if absent:
        assert tpm.nv(0x01C00002) == b""
    else:
        with pytest.raises(TSS2_Exception):
            tpm.nv(0x01C00002)
    assert esapi.closed == 1


def test_a_kept_storage_root_needs_no_owner_s_password(blank_tpm: SoftwareTpm) -> None:
    _persist(blank_tpm, STORAGE_ROOT, SRK_HANDLE)
    _set_password(blank_tpm, "OWNER")
    device = Device(blank_tpm.tcti)
    _, ck = device.create_keys()
    verify_es256(ck.key, signature=device.sign(ck, b"data"), message=b"data")


def test_an_endorsement_password_is_named(blank_tpm: SoftwareTpm) -> None:
    device = Device(blank_tpm.tcti)
    endorsement = device.endorsement(kind="ecc-p256")
    keys = device.create_keys()
    assert prove(device, endorsement, *keys).secret == SECRET
    _set_password(blank_tpm, "ENDORSEMENT")
    with pytest.raises(HierarchyLocked):
        prove(device, endorsement, *keys)
    with pytest.raises(HierarchyLocked):
        device.endorsement()
    assert loaded(blank_tpm) == []


# ---- PCRs -----------------------------------------------------------------------------------------------------------


def verified(ak: TpmKey, quoted: Any, selection: Any) -> Any:
    known: VerifiedAk = recall_ak(ak.area)
    return verify_quote(
        known,
        attest=quoted.attest,
        signature=quoted.signature,
        qualifying_data=QUOTE,
        pcrs=quoted.pcrs,
        selection=selection,
    )


@pytest.mark.parametrize("indices", [(0,), (7, 0, 3), tuple(range(8)), tuple(range(9)), tuple(range(24))])
def test_a_quote_verifies(device: Device, keys: tuple[TpmKey, TpmKey], indices: tuple[int, ...]) -> None:
    selection = {"sha256": tuple(sorted(indices))}
    quoted = device.quote(keys[0], QUOTE, {"sha256": indices})
    assert set(verified(keys[0], quoted, selection).pcrs["sha256"]) == set(indices)


def test_extended_pcrs_are_quoted(blank_tpm: SoftwareTpm) -> None:
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
    from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

    device = Device(blank_tpm.tcti)
    ak, _ = device.create_keys()
    selection = {"sha256": (7, 16, 23)}
    before = device.quote(ak, QUOTE, selection).pcrs["sha256"]
    with ESAPI(blank_tpm.tcti) as esapi:
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"m" * 32))
        esapi.pcr_extend(ESYS_TR.PCR7, TPML_DIGEST_VALUES([digest]))
    after = device.quote(ak, QUOTE, selection)
    verified(ak, after, selection)
    assert after.pcrs["sha256"][7] != before[7]
    assert after.pcrs["sha256"][16] == before[16]


def test_several_banks_in_the_order_that_was_asked(blank_tpm: SoftwareTpm) -> None:
    device = Device(blank_tpm.tcti)
    banks = device.banks()
    assert "sha256" in banks
    wanted = {bank: (0, 7) for bank in sorted(banks, reverse=True) if bank != "sha1"}
    ak, _ = device.create_keys()
    verified(ak, device.quote(ak, QUOTE, wanted), wanted)


def test_pcrs_that_change_meanwhile_are_read_again(
    device: Device, keys: tuple[TpmKey, TpmKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = Tpm.read_pcrs
    lies = [1]

    def late(self: Any, selection: Any) -> Any:
        values = real(self, selection)
        if lies[0]:
            lies[0] -= 1
            values["sha256"][0] = b"x" * 32
        return values

    monkeypatch.setattr(Tpm, "read_pcrs", late)
    verified(keys[0], device.quote(keys[0], QUOTE, SELECTION), SELECTION)
    lies[0] = 1000
    with pytest.raises(PcrsKeepChanging):
        device.quote(keys[0], QUOTE, SELECTION)


def test_a_bank_that_is_off_is_named(device: Device, keys: tuple[TpmKey, TpmKey]) -> None:
    assert set(device.banks()) == {"sha256"}
    with pytest.raises(PcrsUnavailable):
        device.quote(keys[0], QUOTE, {"sha384": (0,)})


def test_properties(device: Device) -> None:
    found = device.properties()
    assert found["manufacturer"] == "IBM"
    assert set(found) == {"manufacturer", "model", "firmware_version"}


# ---- Sharing the TPM ------------------------------------------------------------------------------------------------


def test_others_use_the_tpm_in_between(device: Device, tpm: SoftwareTpm, keys: tuple[TpmKey, TpmKey]) -> None:
    """A second client gets in after each operation, and finds all three object slots free."""
    endorsement = device.endorsement(kind="ecc-p256")
    operations: list[Callable[[], object]] = [
        device.endorsement,
        device.create_keys,
        lambda: device.certify(*keys, CERTIFY),
        lambda: device.quote(keys[0], QUOTE, SELECTION),
        lambda: device.sign(keys[1], b"data"),
        lambda: prove(device, endorsement, *keys),
    ]
    second = Device(tpm.tcti)
    for operation in operations:
        operation()
        assert loaded(tpm) == []
        second.create_keys()


def test_nothing_stays_after_failures(device: Device, tpm: SoftwareTpm, keys: tuple[TpmKey, TpmKey]) -> None:
    """More failures than the TPM has room for objects and sessions."""
    other, _ = device.create_keys()
    for _ in range(5):
        with pytest.raises(TpmFailed):
            prove(device, device.endorsement(kind="ecc-p256"), *keys, for_ak=other)
        with pytest.raises(PcrsUnavailable):
            device.quote(keys[0], QUOTE, {"sha384": (0,)})
        assert loaded(tpm) == []


def _leave_orphans(tpm: SoftwareTpm) -> None:
    """What a client leaves that was killed in the middle, in a TPM without a resource manager."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE
    from tpm2_pytss.types import TPMT_SYM_DEF

    esapi = ESAPI(tpm.tcti)
    for _ in range(3):
        esapi.create_primary(None, "ecc256")
        esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
        )
    esapi.close()


def test_a_killed_client_s_objects_are_cleared_away(blank_tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "PAUSES", (0.0, 0.0))
    _leave_orphans(blank_tpm)
    assert len(loaded(blank_tpm)) == 6
    device = Device(blank_tpm.tcti)
    keys = device.create_keys()
    assert prove(device, device.endorsement(kind="ecc-p256"), *keys).secret == SECRET
    assert loaded(blank_tpm) == []


def test_a_living_client_s_objects_are_waited_for(blank_tpm: SoftwareTpm) -> None:
    from tpm2_pytss import ESAPI

    with ESAPI(blank_tpm.tcti) as esapi:
        handles = [esapi.create_primary(None, "ecc256")[0] for _ in range(3)]
        done = threading.Timer(0.3, lambda: [esapi.flush_context(handle) for handle in handles[:2]])
        done.start()
        Device(blank_tpm.tcti).create_keys()
        done.join()
        assert len(loaded(blank_tpm)) == 1  # the one that it needs for longer is still there
        esapi.flush_context(handles[2])


def test_agents_take_turns(blank_tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once, each with a connection of its own: more objects than there is room for."""
    monkeypatch.setattr(device_module, "PAUSES", ())
    _, ck = Device(blank_tpm.tcti).create_keys()
    failures: list[Exception] = []

    def work() -> None:
        device = Device(blank_tpm.tcti)
        try:
            for _ in range(10):
                device.sign(ck, b"data")
        except Exception as failure:  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_turn_that_never_comes_is_named() -> None:
    with turn_at("swtpm:path=/x"), pytest.raises(TpmFull), turn_at("swtpm:path=/x", patience=0.05):
        pass
    with turn_at("swtpm:path=/x"), turn_at("swtpm:path=/y", patience=0.05):
        pass
    with turn_at("device:/dev/tpmrm0"), turn_at("device:/dev/tpmrm0", patience=0.05):
        pass


def test_every_connection_is_closed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    class Counted(device_module.TCTILdr):  # type: ignore[misc]
        def close(self) -> None:
            closed.append(1)
            super().close()

    monkeypatch.setattr(device_module, "TCTILdr", Counted)
    device.create_keys()
    with pytest.raises(PcrsUnavailable):
        device.read_pcrs({"sha384": (0,)})
    assert len(closed) == 2


def test_the_kernel_s_resource_manager_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Device, what: str, work: object) -> None:
        asked.append(what)
        raise TpmFull

    asked: list[str] = []
    monkeypatch.setattr(Device, "_connected", full)
    with pytest.raises(TpmFull):
        Device("device:/dev/tpmrm0").create_keys()
    assert asked == ["create the device's keys"]


# ---- No TPM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tcti",
    ["device:/nonexistent/tpmrm0", "swtpm:path=/nonexistent/socket", "nonsense:x", "", "swtpm:host=127.0.0.1,port=1"],
)
def test_a_tpm_that_is_not_there_is_named(tcti: str) -> None:
    with pytest.raises((TpmUnavailable, TpmFailed)):
        Device(tcti).create_keys()


def test_a_tpm_that_dies_is_named_and_comes_back(blank_tpm: SoftwareTpm) -> None:
    device = Device(blank_tpm.tcti)
    blank_tpm.stop()
    with pytest.raises(TpmUnavailable):
        device.create_keys()
    blank_tpm.start()
    ready(blank_tpm)
    device.create_keys()


# ---- tpm2-tools read what the agent writes --------------------------------------------------------------------------


def test_tpm2_tools_load_the_key(blank_tpm: SoftwareTpm, tmp_path: Path) -> None:
    tools = "/usr/bin/tpm2"
    if not Path(tools).exists():
        pytest.skip("tpm2-tools is not installed")
    _, ck = Device(blank_tpm.tcti).create_keys()
    (tmp_path / "pub").write_bytes(ck.public)
    (tmp_path / "priv").write_bytes(ck.private)
    primary = [tools, "createprimary", "-C", "o", "-G", "ecc256", "-a", "0x30472", "-c", str(tmp_path / "parent")]
    load = [tools, "load", "-C", str(tmp_path / "parent"), "-u", "pub", "-r", "priv", "-c", str(tmp_path / "key")]
    for command in (primary, load):
        done = subprocess.run(
            [*command, "-T", blank_tpm.tcti], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, done.stderr
    assert isinstance(ck.key, ec.EllipticCurvePublicKey)
