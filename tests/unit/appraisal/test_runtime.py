"""Runtime appraisal: files by digest, signature and rule; buffers and learned keys; what one boot can't undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from attestd.appraisal.paths import PathPattern, PathRule, PathRules, Verdict
from attestd.appraisal.runtime import (
    MAX_LEARNED,
    MAX_REFUSED,
    AnotherBoot,
    AnotherPolicy,
    EntriesMissing,
    Pcr10NotQuoted,
    RuntimeAppraisal,
    RuntimeState,
    appraise_runtime,
    fingerprint_of,
)
from attestd.appraisal.runtimepolicy import (
    BufferRule,
    BufferVerdict,
    FileReferences,
    RuntimePolicy,
    RuntimePolicyInvalid,
    key_of,
)
from attestd.errors import AttestdError
from attestd.tpm.ima import ImaListMismatch, TemplateDigestMismatch
from attestd.tpm.imasignatures import FileKey, Keyring
from attestd.tpm.imastate import BootAggregateMismatch, BootAggregateMissing
from tests import ima_lists as w
from tests.ek_ca import ec_key, rsa_key
from tests.unit.tpm.test_imamodsig import cms

AGGREGATE = w.boot_aggregate()
SH, LS = w.ng("/bin/sh", b"sh"), w.ng("/bin/ls", b"ls")
VENDOR, OTHER = rsa_key("vendor"), ec_key("other vendor")


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{w.digest_of(content, algorithm).hex()}"


FILES = {"/bin/sh": [digest(b"sh")], "/bin/ls": [digest(b"ls")]}


def ring(*keys: w.PrivateKey) -> Keyring:
    return Keyring(FileKey.load(w.certificate(key)) for key in keys)


def policy(
    *rules: tuple[str, Verdict] | PathRule,
    files: dict[str, list[str]] | None = None,
    digests: Sequence[str] = (),
    **more: Any,
) -> RuntimePolicy:
    made = [rule if isinstance(rule, PathRule) else PathRule(PathPattern(rule[0]), rule[1]) for rule in rules]
    references = FileReferences.of(FILES if files is None else files, digests)
    return RuntimePolicy(files=references, rules=PathRules(made), **more)


def appraise(
    items: list[w.Item], *policies: RuntimePolicy, write: Callable[[list[w.Item]], bytes] = w.binary, **more: Any
) -> RuntimeAppraisal:
    """The whole list, its boot's aggregate first."""
    measured = [AGGREGATE, *items]
    return appraise_runtime(policies or (policy(),), write(measured), quote=w.quote(measured), **more)


def why(result: RuntimeAppraisal) -> str:
    (refusal,) = result.state.refusals
    assert result.state.refused == 1
    assert not result.acceptable
    return refusal.why


both_forms = pytest.mark.parametrize("write", [w.binary, w.text], ids=["binary", "text"])

# ---- Digests ------------------------------------------------------------------------------------------------------


@both_forms
def test_listed_files_are_good(write: Callable[..., bytes]) -> None:
    result = appraise([SH, LS], write=write)
    assert result.acceptable
    assert result.reasons == ()
    assert (result.state.files, result.state.refused, result.new_entries) == (3, 0, 3)
    assert result.boot_aggregate == tuple(range(10))


@pytest.mark.parametrize(
    "evil",
    [w.ng("/bin/sh", b"evil"), w.ng("/bin/evil", b"sh"), w.ng("/bin/sh", b"sh", "sha1"), w.ng("/bin/evil")],
    ids=["another digest", "another path", "another hash", "another file"],
)
@both_forms
def test_one_lie_in_a_file(evil: w.Item, write: Callable[..., bytes]) -> None:
    assert appraise([LS, SH], write=write).acceptable
    result = appraise([LS, evil, SH], write=write)
    assert "No reference lists" in why(result)
    assert result.state.refusals[0].entry == 3
    assert result.state.refusals[0].path == evil.fields[1][1]
    assert result.reasons[0].startswith("IMA entry 3, /bin/")
    assert result.state.files == 4


@pytest.mark.parametrize(
    "item",
    [w.sig("/bin/sh", b"sh"), w.ngv2("/bin/sh", b"sh"), w.modsig("/bin/sh", b"sh", None, b"")],
    ids=lambda item: item.template,
)
def test_every_template_s_files_are_looked_up(item: w.Item) -> None:
    assert appraise([item]).acceptable
    other = replace(item, fields=(item.fields[0], w.n_ng("/bin/evil"), *item.fields[2:]))
    assert "No reference lists" in why(appraise([other]))


def test_the_oldest_template_s_files() -> None:
    counting = policy(files={"/bin/sh": [digest(b"sh", "sha1")]}, hashes=frozenset({"sha1", "sha256"}))
    assert appraise([w.old("/bin/sh", b"sh")], counting).acceptable
    assert not appraise([w.old("/bin/sh", b"evil")], counting).acceptable


def test_a_verity_digest_is_no_digest_of_data() -> None:
    verity = {"/bin/sh": [f"verity:{digest(b'sh')}"]}
    assert appraise([w.ngv2("/bin/sh", b"sh", "verity")], policy(files=verity)).acceptable
    assert not appraise([w.ngv2("/bin/sh", b"sh")], policy(files=verity)).acceptable
    assert not appraise([w.ngv2("/bin/sh", b"sh", "verity")]).acceptable


def test_digests_without_a_path() -> None:
    anywhere = policy(files={}, digests=[digest(b"sh")])
    for item in (w.ng("/anywhere", b"sh"), w.sig("/anywhere", b"sh"), w.ngv2("/anywhere", b"sh")):
        assert appraise([item], anywhere).acceptable
    assert not appraise([w.ng("/anywhere", b"evil")], anywhere).acceptable


def test_paths_with_spaces_are_written_as_people_write_them() -> None:
    spaced = policy(files={"/opt/two words": [digest(b"x")]})
    item = w.ng("/opt/two words", b"x")
    assert item.fields[1][1] == "/opt/two_words"
    assert appraise([item], spaced).acceptable


def test_a_list_of_a_big_endian_machine() -> None:
    measured = [AGGREGATE, SH, w.ng("/bin/evil")]
    pcrs = {"sha256": {**dict(enumerate(w.PCRS_0_TO_9)), 10: w.pcr10(measured, order=">")}}
    result = appraise_runtime((policy(),), w.binary(measured, ">"), quote=w.quote(measured, pcrs=pcrs))
    assert (result.state.files, result.state.refused) == (3, 1)


def test_updates_overlap() -> None:
    """A device in the middle of one has files of both images, and either manifest is enough for each of them."""
    old, new = (
        policy(files={"/bin/sh": [digest(b"sh")]}),
        policy(files={"/bin/sh": [digest(b"sh 2")], "/bin/new": [digest(b"new")]}),
    )
    items = [SH, w.ng("/bin/sh", b"sh 2"), w.ng("/bin/new", b"new")]
    assert appraise(items, old, new).acceptable
    assert appraise(items, new, old).acceptable
    assert not appraise(items, old).acceptable
    assert not appraise(items, new).acceptable
    assert not appraise([*items, w.ng("/bin/evil")], old, new).acceptable


def test_nothing_is_good_without_a_policy_or_by_an_empty_one() -> None:
    measured = [AGGREGATE, SH]
    for policies in ((), (policy(files={}),)):
        result = appraise_runtime(policies, w.binary(measured), quote=w.quote(measured))
        assert result.state.refused >= 1
        assert not result.acceptable


# ---- Rules by path ------------------------------------------------------------------------------------------------


def test_ignored_files_are_counted_as_such() -> None:
    rules = policy(("/var/**", Verdict.IGNORE))
    result = appraise([SH, w.ng("/var/lib/x"), w.sig("/var/lib/y")], rules)
    assert result.acceptable
    assert (result.state.files, result.state.ignored) == (2, 2)
    assert not appraise([w.ng("/usr/var/x")], rules).acceptable


@pytest.mark.parametrize("verdict", [Verdict.REFUSE, Verdict.SIGNED])
@pytest.mark.parametrize("make", [w.ng, w.sig], ids=["ima-ng", "ima-sig"])
def test_being_listed_does_not_help_against_a_stricter_rule(verdict: Verdict, make: Callable[..., w.Item]) -> None:
    """Neither by path, nor anywhere, nor by the quick look-up that plain entries get."""
    for listing in ({"files": FILES}, {"files": {}, "digests": [digest(b"sh")]}):
        assert appraise([make("/bin/sh", b"sh")], policy(**listing)).acceptable
        assert not appraise([make("/bin/sh", b"sh")], policy(("/bin/**", verdict), **listing)).acceptable
        assert not appraise([make("/bin/sh", b"sh")], policy(otherwise=verdict, **listing)).acceptable


def test_a_listed_rule_takes_no_signature() -> None:
    rules = policy(("/opt/**", Verdict.LISTED), keyrings={"vendor": ring(VENDOR)})
    item = w.sig("/opt/x", b"x", w.sign(VENDOR, w.digest_of(b"x")))
    assert why(appraise([item], rules)) == "No reference lists this digest for it."
    assert appraise([item], policy(keyrings={"vendor": ring(VENDOR)})).acceptable


def test_one_manifest_s_exclude_is_not_another_s_refusal() -> None:
    """Each policy judges by itself: good by one is good, and an exclude excuses what no other finds good."""
    strict, lax = policy(("/opt/**", Verdict.REFUSE)), policy(("/opt/**", Verdict.IGNORE))
    result = appraise([w.ng("/opt/x")], strict, lax)
    assert (result.state.ignored, result.state.refused) == (1, 0)


# ---- Signatures ---------------------------------------------------------------------------------------------------

SIGNED = policy(files={}, keyrings={"vendor": ring(VENDOR), "other": ring(OTHER)})


@pytest.mark.parametrize("key", [VENDOR, OTHER], ids=["rsa", "ecdsa"])
def test_signed_files_are_good(key: w.PrivateKey) -> None:
    value = w.digest_of(b"x")
    assert appraise([w.sig("/opt/x", b"x", w.sign(key, value))], SIGNED).acceptable
    assert appraise([w.sigv2("/opt/x", b"x", w.sign(key, value, version=3))], SIGNED).acceptable
    assert appraise([w.sigv2("/opt/x", b"x", w.sign(key, value), kind="ima")], SIGNED).acceptable


def test_one_lie_in_a_signature() -> None:
    good, evil = w.digest_of(b"x"), w.digest_of(b"evil")
    for signature, said in (
        (w.sign(VENDOR, evil), "is not the key's"),
        (w.sign(ec_key("stranger"), good), "in no keyring"),
        (w.sign(VENDOR, good)[:-1], "can't be read"),
        (b"\5" + w.sign(VENDOR, good)[1:], "EVM portable"),
        (b"", "No reference lists"),
    ):
        assert said in why(appraise([w.sig("/opt/x", b"x", signature)], SIGNED))


def test_keyrings_count_where_a_rule_says_so() -> None:
    rule = PathRule(PathPattern("/opt/**"), Verdict.SIGNED, ("other",))
    only = policy(rule, files={}, keyrings={"vendor": ring(VENDOR), "other": ring(OTHER)})
    by_vendor, by_other = (w.sign(key, w.digest_of(b"x")) for key in (VENDOR, OTHER))
    assert appraise([w.sig("/opt/x", b"x", by_other), w.sig("/usr/x", b"x", by_vendor)], only).acceptable
    assert "in no keyring" in why(appraise([w.sig("/opt/x", b"x", by_vendor)], only))
    assert why(appraise([w.ng("/opt/x", b"x")], only)).startswith("The file has no signature.")


def test_appended_signatures() -> None:
    by_vendor = policy(files={}, keyrings={"modules": ring(OTHER)})
    made = {"signed": w.digest_of(b"part")}
    good = w.modsig("/lib/a.ko", b"whole", b"part", cms(OTHER, **made))
    assert appraise([good], by_vendor).acceptable
    for evil in (
        w.modsig("/lib/a.ko", b"whole", b"evil", cms(OTHER, **made)),
        w.modsig("/lib/a.ko", b"whole", b"part", cms(ec_key("stranger"), **made)),
        w.modsig("/lib/a.ko", b"whole", None, cms(OTHER, **made)),
        w.modsig("/lib/a.ko", b"whole", b"part", b"nonsense"),
    ):
        assert not appraise([evil], by_vendor).acceptable
    # Of two signatures, one that counts is enough.
    stranger = w.sign(ec_key("stranger"), w.digest_of(b"whole"))
    assert appraise(
        [replace(good, fields=(*good.fields[:2], w.hexed(stranger), *good.fields[3:]))], by_vendor
    ).acceptable


def test_weak_hashes_count_where_a_policy_names_them() -> None:
    item = w.sig("/opt/x", b"x", w.sign(VENDOR, w.digest_of(b"x", "sha1"), "sha1"), algorithm="sha1")
    assert "by this hash do not count" in why(appraise([item], SIGNED))
    assert appraise([item], replace(SIGNED, hashes=frozenset({"sha1"}))).acceptable
    with pytest.raises(RuntimePolicyInvalid, match="sha1"):
        policy(files={"/bin/sh": [digest(b"sh", "sha1")]})


# ---- Measured buffers ---------------------------------------------------------------------------------------------


def buffers(*rules: BufferRule, **more: Any) -> RuntimePolicy:
    return policy(files={}, buffers=rules, **more)


def rule(name: str, verdict: BufferVerdict, **more: Any) -> BufferRule:
    return BufferRule(PathPattern(name), verdict, **more)


def field(content: bytes) -> bytes:
    return b"sha256:\0" + w.digest_of(content)


def test_buffers_have_rules_of_their_own() -> None:
    line = w.buf("kexec-cmdline", b"quiet")
    listed = rule("kexec-cmdline", BufferVerdict.LISTED, digests=frozenset({field(b"quiet")}))
    result = appraise([line], buffers(listed))
    assert result.acceptable
    assert (result.state.buffers, result.state.files) == (1, 1)
    assert not appraise([w.buf("kexec-cmdline", b"init=/evil")], buffers(listed)).acceptable
    assert appraise([line], buffers(rule("kexec-*", BufferVerdict.IGNORE))).state.ignored == 1
    assert not appraise([line], buffers(rule("kexec-*", BufferVerdict.REFUSE), listed)).acceptable
    # Neither a path's rule nor a file's digest speaks of a buffer.
    assert "No rule takes" in why(appraise([line], policy(("kexec-*", Verdict.IGNORE), digests=[digest(b"quiet")])))


def test_a_buffer_is_the_one_that_its_digest_is_of() -> None:
    listed = buffers(rule("kexec-cmdline", BufferVerdict.LISTED, digests=frozenset({field(b"quiet")})))
    item = w.buf("kexec-cmdline", b"quiet")
    lying = replace(item, fields=(item.fields[0], item.fields[1], w.hexed(b"init=/evil")))
    assert "not the one that its digest is of" in why(appraise([lying], listed))
    weak = w.buf("kexec-cmdline", b"quiet", "sha1")
    assert "by a hash that counts" in why(appraise([weak], listed))


LEARNING = rule(".ima", BufferVerdict.LEARN, keyring="vendor")
BY_LEARNED = w.sig("/opt/x", b"x", w.sign(OTHER, w.digest_of(b"x")))


def learning(*rules: BufferRule) -> RuntimePolicy:
    return buffers(*(rules or (LEARNING,)), keyrings={"vendor": Keyring()})


def test_a_measured_key_counts_from_then_on_where_a_rule_says_so() -> None:
    measured_key = w.buf(".ima", w.certificate(OTHER))
    assert appraise([measured_key, BY_LEARNED], learning()).acceptable
    for items, some in (
        ([BY_LEARNED, measured_key], learning()),
        ([measured_key, BY_LEARNED], learning(rule(".ima", BufferVerdict.IGNORE))),
        ([w.buf(".evm", w.certificate(OTHER)), BY_LEARNED], learning(LEARNING, rule(".evm", BufferVerdict.IGNORE))),
        ([w.buf(".ima", w.certificate(VENDOR)), BY_LEARNED], learning()),
    ):
        assert appraise(items, some).state.refused == 1
    result = appraise([measured_key, measured_key, BY_LEARNED], learning())
    assert result.acceptable
    assert len(result.state.learned) == 1


def test_a_measured_key_must_be_of_a_named_issuer_and_a_key() -> None:
    ca = ec_key("kernel's builder")
    issuer = x509.load_der_x509_certificate(w.certificate(ca, "builder"))
    some = learning(replace(LEARNING, issuers=(issuer,)))
    issued = w.certificate(OTHER, issuer=("builder", ca))
    assert appraise([w.buf(".ima", issued), BY_LEARNED], some).acceptable
    forged = w.certificate(OTHER, issuer=("builder", ec_key("stranger")))
    for certificate in (w.certificate(OTHER), forged, b"nonsense", FileKeyOf(OTHER)):
        assert appraise([w.buf(".ima", certificate), BY_LEARNED], some).state.refused == 2


def FileKeyOf(key: w.PrivateKey) -> bytes:
    """A bare public key, which nobody issued."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_keys_learned_in_one_boot_are_bounded() -> None:
    many = [w.buf(".ima", w.certificate(ec_key(f"key {number}"))) for number in range(MAX_LEARNED + 1)]
    result = appraise(many, learning())
    assert len(result.state.learned) == MAX_LEARNED
    assert "Too many keys" in why(result)


# ---- Violations, and what can't be read ---------------------------------------------------------------------------


def test_violations_are_counted_and_no_path_excuses_them() -> None:
    log = w.violation("/var/log/journal")
    excusing = policy(("/var/log/**", Verdict.IGNORE))
    result = appraise([SH, log], excusing)
    assert (result.state.replay.violations, result.acceptable) == (1, False)
    assert "written while IMA measured" in result.reasons[0]
    assert appraise([SH, log], replace(excusing, violations=1)).acceptable
    assert not appraise([SH, log, log], replace(excusing, violations=1)).acceptable
    assert appraise([SH, log, log], replace(excusing, violations=None)).acceptable
    assert appraise([SH, log], excusing, replace(excusing, violations=2)).acceptable


@pytest.mark.parametrize(
    "item",
    [
        w.Item("ima-next", SH.fields),
        w.Item("ima-ng", (*SH.fields, w.hexed(b""))),
        w.Item("ima-ng", SH.fields[:1]),
        w.Item("ima-ng", (SH.fields[0], (b"/bin/sh", ""))),
        w.Item("ima-ng", (SH.fields[0], (b"/bin\0/sh\0", ""))),
        w.Item("ima-ng", (SH.fields[0], (b"", ""))),
        w.Item("ima-ng", (w.d_ng(w.digest_of(b"sh"), "sha257"), SH.fields[1])),
        w.Item("ima-ng", ((b"", ""), SH.fields[1])),
        w.Item("ima-ng", ()),
    ],
    ids=[
        "an unknown template",
        "a field too many",
        "no name",
        "a name without NUL",
        "a name with two",
        "an empty name",
        "an unknown hash",
        "no digest",
        "no fields",
    ],
)
def test_what_can_not_be_read_is_refused(item: w.Item) -> None:
    for some in (policy(), policy(digests=[digest(b"sh")]), policy(("/**/x", Verdict.IGNORE))):
        result = appraise([item], some)
        assert result.state.refused == 1
        assert result.state.refusals[0].path == ""


def test_refusals_told_are_bounded_and_printable() -> None:
    items = [w.ng(b"/evil/\xff\n\x1b[31m" + b"x" * 5000 + str(number).encode()) for number in range(MAX_REFUSED + 5)]
    result = appraise(items)
    assert (result.state.refused, len(result.state.refusals)) == (MAX_REFUSED + 5, MAX_REFUSED)
    assert "5 more IMA entries" in result.reasons[-1]
    assert all(reason.isprintable() and len(reason) < 1000 for reason in result.reasons)


# ---- The quote ----------------------------------------------------------------------------------------------------


@both_forms
def test_what_follows_the_quoted_entry_is_not_judged(write: Callable[..., bytes]) -> None:
    measured = [AGGREGATE, SH]
    tail = write([w.ng("/bin/evil")])
    result = appraise_runtime((policy(),), write(measured) + tail, quote=w.quote(measured))
    assert result.acceptable
    assert result.state.replay.entries == 2


def test_a_list_that_the_quote_does_not_prove_is_not_judged() -> None:
    measured = [AGGREGATE, SH, LS]
    for listed in ([AGGREGATE, SH], [AGGREGATE, LS, SH], []):
        with pytest.raises(ImaListMismatch):
            appraise_runtime((policy(),), w.binary(listed), quote=w.quote(measured))
    lying = [AGGREGATE, replace(SH, lies={"digest": b"\1" * 20}), LS]
    with pytest.raises(TemplateDigestMismatch):
        appraise_runtime((policy(),), w.binary(lying), quote=w.quote(measured))


def test_pcr_10_must_be_quoted() -> None:
    measured = [AGGREGATE, SH]
    for pcrs in ({}, {"sha256": dict(enumerate(w.PCRS_0_TO_9))}):
        with pytest.raises(Pcr10NotQuoted):
            appraise_runtime((policy(),), w.binary(measured), quote=w.quote(measured, pcrs=pcrs))


def test_the_list_is_of_the_boot_that_was_quoted() -> None:
    """The good list of a good boot, replayed into the PCR of another one."""
    evil = w.boot_aggregate([b"\xee" * 32] * 10)
    for measured, error in (
        ([evil, SH], BootAggregateMismatch),
        ([SH, AGGREGATE], BootAggregateMissing),
        ([w.violation("boot_aggregate"), SH], BootAggregateMissing),
    ):
        with pytest.raises(error):
            appraise_runtime((policy(),), w.binary(measured), quote=w.quote(measured))


def test_another_boot_aggregate_later_on() -> None:
    """kexec carries a list over and begins anew in it; the PCRs are still those of the boot."""
    assert appraise([SH, AGGREGATE, LS]).acceptable
    assert "No reference lists" in why(appraise([SH, w.boot_aggregate([b"\xee" * 32] * 10)]))


# ---- Going on -----------------------------------------------------------------------------------------------------


def go_on(
    known: RuntimeState, items: list[w.Item], new: int, *policies: RuntimePolicy, **more: Any
) -> RuntimeAppraisal:
    """Attests again: `items` are all of the boot's, of which only the last `new` travel."""
    measured = [AGGREGATE, *items]
    options = {"begins_at": len(measured) - new, "quote": w.quote(measured)} | more
    return appraise_runtime(policies or (policy(),), w.binary(measured[len(measured) - new :]), known=known, **options)


def test_only_new_entries_travel() -> None:
    first = appraise([SH])
    second = go_on(first.state, [SH, LS], 1)
    assert second.new_entries == 1
    assert second.state == appraise([SH, LS]).state
    third = go_on(second.state, [SH, LS], 0)
    assert (third.new_entries, third.state) == (0, second.state)
    assert third.boot_aggregate == tuple(range(10))


def test_what_was_refused_stays_refused() -> None:
    evil = w.ng("/bin/evil")
    first = appraise([evil])
    assert not first.acceptable
    second = go_on(first.state, [evil, SH], 1)
    assert not second.acceptable
    assert "/bin/evil" in second.reasons[0]
    log = w.violation("/x")
    assert not go_on(appraise([log]).state, [log, SH], 1).acceptable


def test_learned_keys_are_remembered() -> None:
    measured_key = w.buf(".ima", w.certificate(OTHER))
    some = learning()
    first = appraise([measured_key], some)
    assert go_on(RuntimeState.parse(first.state.to_bytes()), [measured_key, BY_LEARNED], 1, some).acceptable
    # For the policy that learned them, and for no other.
    both = (some, buffers(keyrings={"vendor": Keyring()}))
    shared = appraise([measured_key], *both)
    assert [key.policy for key in shared.state.learned] == [some.fingerprint]


def test_resuming_on_another_boot_by_another_policy_or_elsewhere() -> None:
    first = appraise([SH]).state
    measured = [AGGREGATE, SH, LS]
    for boot in ((8, 0), (7, 1), (6, 0)):
        with pytest.raises(AnotherBoot):
            go_on(first, [SH, LS], 1, quote=w.quote(measured, boot=boot))
    with pytest.raises(AnotherPolicy):
        go_on(first, [SH, LS], 1, policy(("/x/**", Verdict.IGNORE)))
    with pytest.raises(AnotherPolicy):
        go_on(first, [SH, LS], 1, policy(), policy())
    for begins_at in (0, 1, 3):
        with pytest.raises(EntriesMissing):
            go_on(first, [SH, LS], 1, begins_at=begins_at)
    with pytest.raises(EntriesMissing):
        appraise([SH], begins_at=1)


def test_a_whole_list_where_a_continuation_was_announced() -> None:
    """rust-keylime#1077: it does not replay from where the known one ends."""
    first = appraise([SH]).state
    measured = [AGGREGATE, SH, LS]
    with pytest.raises(ImaListMismatch):
        appraise_runtime((policy(),), w.binary(measured), quote=w.quote(measured), known=first, begins_at=2)


def test_entries_left_out_between_two_attestations() -> None:
    first = appraise([SH]).state
    measured = [AGGREGATE, SH, w.ng("/bin/evil"), LS]
    with pytest.raises(ImaListMismatch):
        appraise_runtime((policy(),), w.binary([LS]), quote=w.quote(measured), known=first, begins_at=2)


def test_a_state_is_kept_as_octets() -> None:
    items = [w.ng("/bin/evil"), w.ng("/a", pcr=11), w.violation("/x"), w.buf(".ima", w.certificate(OTHER))]
    state = appraise(items, learning()).state
    assert RuntimeState.parse(state.to_bytes()) == state
    assert state.replay.elsewhere == 1
    for spoiled in (
        b"",
        b"{}",
        state.to_bytes()[:-1],
        state.to_bytes().replace(b'"v":1', b'"v":2'),
        state.to_bytes().replace(b'"hashed"', b'"washed"'),
        state.to_bytes().replace(b'"refused":1', b'"refused":-1'),
        state.to_bytes().replace(b'"entries":5', b'"entries":-5'),
        state.to_bytes().replace(b'"v":1', b'"v":1,"more":1'),
        state.to_bytes().replace(b'"entry":2', b'"entry":2,"more":1'),
        state.to_bytes().replace(b'"keyring":', b'"more":1,"keyring":'),
    ):
        assert spoiled != state.to_bytes()
        with pytest.raises(AttestdError):
            RuntimeState.parse(spoiled)


# ---- Policies -----------------------------------------------------------------------------------------------------


def test_policies_that_contradict_themselves() -> None:
    for more in (
        {"hashes": frozenset({"sha257"})},
        {"otherwise": Verdict.IGNORE},
        {"buffers": (LEARNING,)},
        {"rules": PathRules([PathRule(PathPattern("/a"), Verdict.SIGNED, ("missing",))])},
        {"buffers": (rule(".ima", BufferVerdict.IGNORE),) * 101},
    ):
        with pytest.raises(RuntimePolicyInvalid):
            RuntimePolicy(**more)
    for text in ("sha256:00", "nonsense", ""):
        with pytest.raises(RuntimePolicyInvalid):
            FileReferences.of({"/a": [text]})


def test_a_fingerprint_changes_with_everything_that_decides() -> None:
    base = policy()
    ignored = ("/var/**", Verdict.IGNORE)
    others = [
        policy(files={}),
        policy(digests=[digest(b"x")]),
        policy(ignored),
        policy((ignored[0], Verdict.REFUSE)),
        policy(PathRule(PathPattern("/var/**"), Verdict.SIGNED, ())),
        policy(PathRule(PathPattern("/var/**"), Verdict.SIGNED)),
        policy(keyrings={"vendor": Keyring()}),
        policy(keyrings={"vendor": ring(VENDOR)}),
        policy(keyrings={"other": ring(VENDOR)}),
        learning(),
        learning(rule(".ima", BufferVerdict.IGNORE)),
        policy(hashes=frozenset({"sha256"})),
        policy(otherwise=Verdict.LISTED),
        policy(violations=1),
        policy(violations=None),
    ]
    prints = {one.fingerprint for one in (base, *others)}
    assert len(prints) == len(others) + 1
    assert policy().fingerprint == base.fingerprint
    assert fingerprint_of([base, others[0]]) == fingerprint_of([others[0], base]) != fingerprint_of([base])


def test_a_key_is_the_template_data_of_ima_ng() -> None:
    assert key_of(field(b"sh"), b"/bin/sh") == SH.data()
