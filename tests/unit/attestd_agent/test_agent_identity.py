"""Enrolling by an identity key: a software TPM's IAK certifies a fresh AK, and the service's verifiers judge it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attestd.ids import EkHash
from attestd.protocol.messages import BeginRequest
from attestd.tpm.attest import IdentityNameMismatch
from attestd.tpm.chain import TrustAnchors
from attestd.tpm.objects import parse_public
from attestd_agent.assemble import IdentityKeyHalfNamed, Options, assemble
from attestd_agent.failures import IdentityKeyUnusable
from attestd_agent.records import Enrolled
from attestd_agent.server import ServerRefused
from attestd_agent.templates import OWNER
from tests import ek_ca
from tests.forger import IAK_ATTRIBUTES, forge_iak
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import MakeAgent
from tests.unit.attestd_agent.fake_service import FakeService

pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed")

AT = 0x81020001
ENDORSEMENT = 0x4000000B
MAKER = ek_ca.maker()


def put_iak(tpm: SoftwareTpm, *, hierarchy: int = ENDORSEMENT, password: bytes = b"", **lies: Any) -> tuple[bytes, ...]:
    """Makes the primary key that a machine's maker makes, keeps it at AT, and has it certified."""
    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import (
        TPM2B_DATA,
        TPM2B_PUBLIC,
        TPM2B_SENSITIVE_CREATE,
        TPML_PCR_SELECTION,
        TPMS_SENSITIVE_CREATE,
        TPMT_PUBLIC,
    )

    template = TPMT_PUBLIC.unmarshal(forge_iak(**lies).public)[0]
    template.unique.ecc.x, template.unique.ecc.y = b"IAK", b""
    with ESAPI(tpm.tcti) as esapi:
        made, public, *_ = esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=password)),
            TPM2B_PUBLIC(publicArea=template),
            primary_handle=ESYS_TR.ENDORSEMENT if hierarchy == ENDORSEMENT else ESYS_TR.OWNER,
            outside_info=TPM2B_DATA(),
            creation_pcr=TPML_PCR_SELECTION(),
        )
        esapi.evict_control(ESYS_TR.OWNER, made, AT)
        esapi.flush_context(made)
        area = bytes(public.publicArea.marshal())
    return tuple(MAKER.chain(MAKER.intermediate.iak_form(parse_public(area).key).sign(MAKER.intermediate.key)))


@pytest.fixture
def trusting(service: FakeService) -> FakeService:
    service.anchors = TrustAnchors.load([MAKER.root.certificate])
    return service


def test_enrolls_attests_and_renews(make_agent: MakeAgent, blank_tpm: SoftwareTpm, trusting: FakeService) -> None:
    agent = make_agent(blank_tpm, iak=(AT, put_iak(blank_tpm)))
    found = agent.enroll()
    assert isinstance(found, Enrolled)
    assert found.leaf == trusting.issued[0]
    sent = BeginRequest.parse(next(body for _, path, body in trusting.requests if path == "/v1/enrollments"))
    assert sent.iak is not None
    assert sent.ek_certificates == ()
    assert agent.device.identity(AT, sent.iak.certificates).hash == EkHash.of(sent.iak.public)
    agent.iak = None  # from here on it is a device like any other
    assert isinstance(agent.attest(), Enrolled)
    assert isinstance(agent.renew(new_key=True), Enrolled)


def test_a_key_of_the_owner_s_is_not_taken(
    make_agent: MakeAgent, blank_tpm: SoftwareTpm, trusting: FakeService
) -> None:
    agent = make_agent(blank_tpm, iak=(AT, put_iak(blank_tpm, hierarchy=OWNER)))
    with pytest.raises(ServerRefused) as refused:
        agent.enroll()
    assert refused.value.problem == IdentityNameMismatch.slug()


def test_a_password_is_named(make_agent: MakeAgent, blank_tpm: SoftwareTpm, trusting: FakeService) -> None:
    agent = make_agent(blank_tpm, iak=(AT, put_iak(blank_tpm, password=b"secret")))
    with pytest.raises(IdentityKeyUnusable, match="password"):
        agent.enroll()


def test_an_unrestricted_key_is_not_even_sent(
    make_agent: MakeAgent, blank_tpm: SoftwareTpm, trusting: FakeService
) -> None:
    idevid = put_iak(blank_tpm, attributes=IAK_ATTRIBUTES & ~0x10000, scheme=(0x0010,))
    with pytest.raises(IdentityKeyUnusable, match="restricted"):
        make_agent(blank_tpm, iak=(AT, idevid)).enroll()
    assert trusting.asked("/v1/enrollments") == 0


def test_no_key_at_the_handle(make_agent: MakeAgent, blank_tpm: SoftwareTpm, trusting: FakeService) -> None:
    with pytest.raises(IdentityKeyUnusable, match="no such key"):
        make_agent(blank_tpm, iak=(AT + 1, put_iak(blank_tpm))).enroll()


@pytest.mark.parametrize(
    ("iak", "certificate"),
    [("0x81020001", None), (None, "iak.pem"), ("0x01c90000", "iak.pem"), ("81020001", "iak.pem")],
)
def test_a_handle_and_a_certificate(tmp_path: Path, iak: str | None, certificate: str | None) -> None:
    given = None if certificate is None else tmp_path / certificate
    options = Options(tmp_path, server="https://a.test", iak=iak, iak_certificate=given)
    with pytest.raises(IdentityKeyHalfNamed):
        assemble(options)
