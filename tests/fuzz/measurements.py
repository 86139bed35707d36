"""IMA lists and what judges them. A list says the same in any pieces, by the quick way and by the slow one."""

from __future__ import annotations

import json
import re
from functools import cache
from struct import pack

from attestd.appraisal.paths import PathPattern, PathRule, PathRules, Verdict
from attestd.appraisal.runtime import RuntimeState, appraise_runtime
from attestd.appraisal.runtimepolicy import FileReferences, RuntimePolicy, key_of
from attestd.appraisal.runtimesection import parse_runtime
from attestd.errors import AttestdError
from attestd.protocol.encoding import Members, read_object
from attestd.tpm.ima import ImaWalk, replay
from attestd.tpm.imamodsig import verify_appended_signature
from attestd.tpm.imasignatures import FileKey, Keyring, verify_file_signature
from attestd.tpm.imastate import ImaState
from attestd.tpm.imatemplates import TEMPLATES, FileDigest, MalformedImaEntry, data_of_text, read_event
from tests import ima_lists as w
from tests.ek_ca import der, ec_key, oid, rsa_key
from tests.fuzz.harness import Target, once
from tests.unit.appraisal.test_runtimesection import SECTION
from tests.unit.tpm.test_imamodsig import attribute, cms

ITEMS = [
    w.boot_aggregate(),
    w.ng("/bin/sh", b"sh"),
    w.ng("/bin/ls", b"ls", "sha1"),
    w.sig("/bin/a", b"a", b"\3\2\4signature"),
    w.violation("/var/log/x"),
    w.ngv2("/bin/v", kind="verity"),
    w.buf(".ima", b"a certificate"),
    w.modsig("/lib/a.ko", b"whole", b"part", b"cms"),
    w.evm_sig("/bin/evm"),
    w.old("/bin/old"),
    w.ng("/elsewhere", pcr=11),
    *(w.ng(f"/usr/lib/{number}.so") for number in range(6)),
]
DIGEST = FileDigest("sha256", w.digest_of(b"content"))
ALLOWED = frozenset({"sha256"})
TYPE = attribute("1.2.840.113549.1.9.3", oid("1.2.840.113549.1.7.1"))
MESSAGE_DIGEST = attribute("1.2.840.113549.1.9.4", der(0x04, DIGEST.value))


@once
def _binary() -> list[bytes]:
    some = [item for item in ITEMS if item.template != "evm-sig"]
    return [
        w.binary(ITEMS),
        w.binary(ITEMS[:2]),
        w.binary(some, ">"),
        w.binary(ITEMS, algorithm="sha256"),
        w.binary(ITEMS[9:]),
    ]


@once
def _text() -> list[bytes]:
    return [w.text(ITEMS), w.text(ITEMS[:2]), w.text(ITEMS[1:5], ">"), w.text(ITEMS, algorithm="sha384")]


@once
def _entries() -> list[bytes]:
    names = list(TEMPLATES)
    return [bytes((names.index(item.template.encode()),)) + item.data() for item in ITEMS if not item.violation]


@once
def _lines() -> list[bytes]:
    names = list(TEMPLATES)
    return [
        bytes((names.index(item.template.encode()),)) + item.text().rstrip("\n").split(" ", 3)[3].encode()
        for item in ITEMS
    ]


@cache
def _keys() -> Keyring:
    """RSA alone: of ECDSA signatures there are always two."""
    return Keyring([FileKey.load(w.certificate(rsa_key("fuzzed")))])


@once
def _signatures() -> list[bytes]:
    key = rsa_key("fuzzed")
    return [w.sign(key, DIGEST.value), w.sign(key, DIGEST.value, version=3, kind=3)]


@once
def _appended() -> list[bytes]:
    key, signed = rsa_key("fuzzed"), {"signed": DIGEST.value, "algorithm": "1.2.840.113549.1.1.1"}
    return [cms(key, **signed), cms(key, **signed, attributes=[TYPE, MESSAGE_DIGEST])]


@once
def _file_keys() -> list[bytes]:
    certificate = w.certificate(ec_key("fuzzed"))
    return [certificate, w.pem(certificate).encode(), w.certificate(rsa_key("fuzzed"))]


@once
def _sections() -> list[bytes]:
    return [json.dumps(SECTION).encode()]


@once
def _states() -> list[bytes]:
    policy = RuntimePolicy(FileReferences.of({"/bin/sh": [w.d_ng(w.digest_of(b"sh"))[1]]}))
    measured = [ITEMS[0], ITEMS[1], w.ng("/bin/evil"), w.violation("/x")]
    return [appraise_runtime((policy,), w.binary(measured), quote=w.quote(measured)).state.to_bytes()]


# ---- What the targets do -----------------------------------------------------------------------------------------


def _list(data: bytes) -> None:
    """One walk is like another: in pieces, over more banks (which has no quick way), and as a survey."""
    begin = ImaState.begin(["sha256"])
    try:
        whole: ImaState | None = replay(begin, data)
        error = None
    except AttestdError as refused:
        whole, error = None, refused
    for size in (7, 1000):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        try:
            assert replay(begin, pieces) == whole
        except AttestdError as refused:
            assert (type(refused), str(refused)) == (type(error), str(error))
    if error is not None:
        raise error
    assert whole is not None
    slow = replay(ImaState.begin(["sha256", "sha512"]), data)
    assert slow.chains[:2] == whole.chains
    survey = ImaWalk(begin, data, survey=True)
    for _ in survey:
        pass
    assert (survey.state, survey.wrong) == (whole, 0)
    if whole.entries > whole.elsewhere:
        value = whole.pcr10["sha256"]
        assert value is not None
        assert replay(begin, data + b"whatever follows", quoted={"sha256": value}).pcr10 == {"sha256": value}


def _entry(data: bytes) -> None:
    template = list(TEMPLATES)[data[0] % len(TEMPLATES)] if data else b"ima-ng"
    event = read_event(template, data[1:])
    assert FileDigest.parse(event.digest.text) == event.digest
    if template == b"ima-ng":
        assert key_of(event.digest.field, event.name) == data[1:]


def _line(data: bytes) -> None:
    template = list(TEMPLATES)[data[0] % len(TEMPLATES)] if data else b"ima-ng"
    written = data_of_text(template, data[1:])
    try:
        event = read_event(template, written)
    except MalformedImaEntry:
        return
    assert event.name.replace(b" ", b"") in data.replace(b" ", b"")
    assert event.digest.value.hex().encode() in data.lower()


def _signature(data: bytes) -> None:
    """Of all octets that there are, only those that the key made are its signature."""
    verify_file_signature(data, DIGEST, (_keys(),), allowed=ALLOWED)
    assert data in _signatures()


def _appended_signature(data: bytes) -> None:
    """What is not signed may differ; the signature is one that the key made."""
    verify_appended_signature(data, DIGEST, (_keys(),), allowed=ALLOWED)
    assert any(seed[-256:] in data for seed in _appended())


def _file_key(data: bytes) -> None:
    key = FileKey.load(data)
    assert Keyring([key]).named(key.identifiers[-1][-4:]) == [key]


def _pattern(data: bytes) -> None:
    """A pattern, a line's end, paths: each path matches as a regular expression says, which may be slow."""
    first, _, rest = data.partition(b"\n")
    pattern = PathPattern(first.decode("utf-8", "replace"))
    rules = PathRules([PathRule(pattern, Verdict.IGNORE)])
    for path in rest.split(b"\n")[:4]:
        if len(path) < 64 and pattern.text.count("*") < 6:
            assert pattern.matches(path) is (_regex(pattern.text).fullmatch(path) is not None), (pattern.text, path)
        rules.of(path)


def _regex(text: str) -> re.Pattern[bytes]:
    parts = text.replace(" ", "_").split("/")
    written = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            written += "(?:[^/]*/)*[^/]*" if last else "(?:[^/]*/)*"
        else:
            written += "[^/]*".join(map(re.escape, part.split("*"))) + ("" if last else "/")
    return re.compile(written.encode(), re.DOTALL)


def _section(data: bytes) -> None:
    policy = parse_runtime(Members(read_object(data, limit=1 << 16), "runtime"))
    assert len(policy.fingerprint) == 32
    assert policy.good <= policy.files.by_path


def _state(data: bytes) -> None:
    state = RuntimeState.parse(data)
    assert RuntimeState.parse(state.to_bytes()) == state


def _patterns() -> list[bytes]:
    return [
        b"/var/log/**\n/var/log/a/b\n/var/log\n/var/logs",
        b"/usr/lib/python3*/**/*.pyc\n/usr/lib/python3.11/a/b.pyc\n/usr/lib/python3/x.py",
        b"**/*.so\n/a/b.so\nb.so",
        b"/etc/passwd\n/etc/passwd\n/etc/passwd2",
        b"memfd:*\nmemfd:a\nmemfd:a/b",
        b"/a*b*c/d\n/aXbYc/d\n/abc/d",
    ]


_WORDS = (b"ima-ng", b"ima-sig", b"ima-buf", b"ima", b"sha256:\0", b"verity:", pack("<I", 10), pack("<I", 6), bytes(20))

TARGETS = (
    Target("ima-binary-list", _list, _binary, words=_WORDS),
    Target("ima-text-list", _list, _text, words=(b"10 ", b" ima-ng ", b" ima-sig ", b"sha256:", b"00" * 20, b"\n")),
    Target("ima-entry", _entry, _entries, words=_WORDS, limit=2048),
    Target("ima-text-entry", _line, _lines, words=(b"sha256:", b"ima:", b" "), limit=2048),
    Target("ima-file-signature", _signature, _signatures, limit=1024),
    Target("ima-appended-signature", _appended_signature, _appended, limit=2048),
    Target("ima-file-key", _file_key, _file_keys, limit=4096),
    Target("path-pattern", _pattern, _patterns, words=(b"**", b"*", b"/", b"\n"), limit=1024),
    Target("runtime-section", _section, _sections, words=(b'"is"', b'"ignore"', b'"signed"', b'"learn"', b"**")),
    Target("runtime-state", _state, _states, words=(b'"hashed"', b'"entries"', b"-1")),
)
