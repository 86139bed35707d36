"""Records and bundles: the documents are those that are named, the quote is the key's, the result is drawn again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from attestd.appraisal.bundle import EndorsementNotShown, EvidenceBundle, NotReproduced
from attestd.appraisal.hardware import Endorsed
from attestd.appraisal.record import AppraisalRecord, DocumentMissing, canonical, reappraise
from attestd.errors import MalformedInput
from attestd.protocol.encoding import read_object, write_object
from attestd.tpm.attest import AttestationSignatureWrong, PcrDigestMismatch
from tests.booted import Machine
from tests.forger import Forger
from tests.fuzz.appraisals import own_manifests, short_machine, true_bundle, true_record

LIMIT = 1 << 24


def drawn(record: AppraisalRecord, **others: Any) -> bytes:
    documents: dict[str, Any] = {
        "manifests": [manifest.document for manifest in own_manifests()],
        "advisories": b"",
        "eventlog": short_machine().eventlog,
        "ima": short_machine().ima(),
    }
    return canonical(reappraise(record, **(documents | others)))


def test_a_record_reads_as_it_was_written_and_leads_to_its_result() -> None:
    record = true_record()
    assert AppraisalRecord.parse(record.to_bytes()).to_bytes() == record.to_bytes()
    result = read_object(drawn(record), limit=LIMIT)
    assert (result["vector"]["executables"], result["attested_at"]) == (2, record.at)


def test_without_logs() -> None:
    record = replace(true_record(), manifests=(), eventlog=None, ima_entries=None)
    assert AppraisalRecord.parse(record.to_bytes()).eventlog is None
    result = read_object(drawn(record, manifests=[], eventlog=None, ima=None), limit=LIMIT)
    assert result["vector"]["executables"] == 0


@pytest.mark.parametrize(
    "others",
    [
        {"manifests": []},
        {"manifests": [own_manifests()[0].document] * 2},
        {"advisories": b"\n"},
        {"eventlog": Machine(kernel=b"tampered").eventlog},
        {"eventlog": None},
        {"ima": None},
    ],
    ids=["no manifests", "one twice", "advisories", "eventlog", "no eventlog", "no list"],
)
def test_other_documents_than_are_named(others: Mapping[str, Any]) -> None:
    with pytest.raises(DocumentMissing):
        drawn(true_record(), **others)


@pytest.mark.parametrize("entries", [0, 2, 4])
def test_another_number_of_entries_than_are_proven(entries: int) -> None:
    with pytest.raises(DocumentMissing, match="IMA list"):
        drawn(replace(true_record(), ima_entries=entries))


def test_another_s_quote() -> None:
    record, tpm = true_record(), Forger()
    attest, signature = tpm.quote(record.qualifying_data, record.pcrs)
    with pytest.raises(AttestationSignatureWrong):
        drawn(replace(record, attest=attest, signature=signature))
    values = {**record.pcrs["sha256"], 4: bytes(32)}
    with pytest.raises(PcrDigestMismatch):
        drawn(replace(record, pcrs={"sha256": values}))


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"v": 2},
        {"endorsement": {"more": 1}},
        {"quote": {"more": 1}},
        {"at": -1},
        {"at": 1 << 40},
        {"ima_entries": -1},
        {"ima_entries": (1 << 31) + 1},
        {"eventlog": "a" * 63},
        {"eventlog": "A" * 64},
        {"tier": "moon"},
    ],
    ids=str,
)
def test_what_is_no_record(change: Mapping[str, Any]) -> None:
    members = read_object(true_record().to_bytes(), limit=LIMIT)
    inner = {k: {**members[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(MalformedInput):
        AppraisalRecord.parse(write_object(members | inner))


# ---- Bundles ----------------------------------------------------------------------------------------------------


def test_a_bundle_reads_as_it_was_written() -> None:
    bundle = true_bundle()
    assert EvidenceBundle.parse(bundle.to_bytes()) == bundle
    assert bundle.reproduce()[0].device == "device-1"


@pytest.mark.parametrize("change", [{"kind": "another"}, {"more": 1}, {"v": 2}, {"documents": {"more": 1}}], ids=str)
def test_what_is_no_bundle(change: Mapping[str, Any]) -> None:
    members = read_object(true_bundle().to_bytes(), limit=LIMIT)
    inner = {k: {**members[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(MalformedInput):
        EvidenceBundle.parse(write_object(members | inner))


def test_another_result() -> None:
    lie = true_bundle().result.replace(b'"executables":2', b'"executables":3')
    assert lie != true_bundle().result
    with pytest.raises(NotReproduced):
        replace(true_bundle(), result=lie).reproduce()


def test_a_maker_s_word_without_its_certificate() -> None:
    record, _ = true_bundle().reproduce()
    with pytest.raises(EndorsementNotShown):
        replace(true_bundle(), certificates=()).endorse(record, roots=None)
    with pytest.raises(EndorsementNotShown):  # a certificate, and no key that it would be of
        true_bundle().endorse(true_record(), roots=None)
    by_inventory = replace(record, endorsed=Endorsed("inventory"))
    assert true_bundle().endorse(by_inventory, roots=None) == ()


def test_digests_are_of_the_documents() -> None:
    record = true_record()
    assert record.eventlog == hashlib.sha256(short_machine().eventlog).digest()
    assert record.manifests == tuple(sorted(manifest.digest for manifest in own_manifests()))
