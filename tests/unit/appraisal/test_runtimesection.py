"""The section `runtime` of a manifest: read whole, as people write it, or refused by the member's name."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.paths import Verdict
from attestd.appraisal.runtimepolicy import STRONG_HASHES, BufferVerdict, RuntimePolicy
from attestd.appraisal.runtimesection import parse_runtime
from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import Members
from tests import ima_lists as w
from tests.ek_ca import ec_key

KEY = ec_key("vendor")
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
CERTIFICATE = w.pem(w.certificate(KEY))
HEX = w.digest_of(b"x").hex()

TOML = f"""
hashes = ["sha256", "sha1"]
violations = 3
otherwise = "listed"
digests = ["sha256:{HEX}"]

[files]
"/usr/bin/ls" = ["sha256:{HEX}", "sha1:{"ab" * 20}"]
"/opt/two words" = ["verity:sha256:{HEX}"]

[[rules]]
path = "/var/**"
is = "ignore"
[[rules]]
path = "/usr/lib/modules/**"
is = "signed"
keyrings = ["vendor"]

[keyrings]
vendor = ['''{PEM}''', '''{CERTIFICATE}''']

[[buffers]]
name = ".ima"
is = "learn"
keyring = "vendor"
issuers = ['''{CERTIFICATE}''']
[[buffers]]
name = "kexec-cmdline"
is = "listed"
digests = ["sha256:{HEX}"]
[[buffers]]
name = "dm_*"
is = "ignore"
"""
SECTION = tomllib.loads(TOML)


def read(members: dict[str, Any]) -> RuntimePolicy:
    return parse_runtime(Members(members, "runtime"))


def test_what_people_write_is_read_whole() -> None:
    policy = read(SECTION)
    assert policy.hashes == {"sha256", "sha1"}
    assert (policy.violations, policy.otherwise) == (3, Verdict.LISTED)
    assert policy.files.lists(b"sha256:\0" + w.digest_of(b"x"), b"/usr/bin/ls")
    assert policy.files.lists(b"sha256:\0" + w.digest_of(b"x"), b"/anywhere")
    assert policy.files.lists(b"verity:sha256:\0" + w.digest_of(b"x"), b"/opt/two_words")
    assert not policy.files.lists(b"verity:sha256:\0" + w.digest_of(b"x"), b"/anywhere")
    assert [(rule.pattern.text, rule.verdict, rule.keyrings) for rule in policy.rules] == [
        ("/var/**", Verdict.IGNORE, None),
        ("/usr/lib/modules/**", Verdict.SIGNED, ("vendor",)),
    ]
    assert [key.public for key in policy.keyrings["vendor"].keys] == [KEY.public_key()] * 2
    assert [(rule.pattern.text, rule.verdict) for rule in policy.buffers] == [
        (".ima", BufferVerdict.LEARN), ("kexec-cmdline", BufferVerdict.LISTED), ("dm_*", BufferVerdict.IGNORE),
    ]  # fmt: skip
    assert (policy.buffers[0].keyring, len(policy.buffers[0].issuers)) == ("vendor", 1)
    assert policy.buffers[1].digests == {b"sha256:\0" + w.digest_of(b"x")}


def test_what_is_left_out() -> None:
    policy = read({"files": {"/a": [f"sha256:{HEX}"]}})
    assert (policy.hashes, policy.violations, policy.otherwise) == (STRONG_HASHES, 0, Verdict.EITHER)
    assert read({"files": {"/a": [f"sha256:{HEX}"]}, "violations": "any"}).violations is None


@pytest.mark.parametrize(
    "least",
    [{"digests": [f"sha256:{HEX}"]}, {"keyrings": {"vendor": [PEM]}}, {"buffers": [{"name": "x", "is": "ignore"}]}],
)
def test_the_least_that_a_section_says(least: dict[str, Any]) -> None:
    assert read(least)


@pytest.mark.parametrize(
    "lie",
    [
        {"hashes": ["sha257"]},
        {"hashes": ["sha256"]},  # and lists by SHA-1
        {"violations": -1},
        {"violations": "some"},
        {"violations": 1.5},
        {"otherwise": "ignore"},
        {"otherwise": "good"},
        {"digests": ["sha256:00"]},
        {"digests": [7]},
        {"files": {"/a": "sha256:" + HEX}},
        {"files": {"/a": [7]}},
        {"files": {"/a": [HEX]}},
        {"files": []},
        {"rules": [{"path": "**", "is": "ignore"}]},
        {"rules": [{"path": "/a/**", "is": "good"}]},
        {"rules": [{"path": "/a/**"}]},
        {"rules": [{"path": "/a/**", "is": "ignore", "keyrings": ["vendor"]}]},
        {"rules": [{"path": "/a/**", "is": "signed", "keyrings": ["missing"]}]},
        {"rules": [{"path": "/a/**", "is": "signed", "more": 1}]},
        {"keyrings": {"vendor": ["nonsense"]}},
        {"keyrings": {"vendor": PEM}},
        {"keyrings": {str(number): [] for number in range(33)}},
        {"keyrings": {}},  # and rules that name one
        {"buffers": [{"name": ".ima", "is": "learn"}]},
        {"buffers": [{"name": ".ima", "is": "learn", "keyring": "missing"}]},
        {"buffers": [{"name": ".ima", "is": "learn", "keyring": "vendor", "issuers": [PEM]}]},
        {"buffers": [{"name": ".ima", "is": "listed"}]},
        {"buffers": [{"name": ".ima", "is": "ignore", "digests": []}]},
        {"more": 1},
    ],
    ids=lambda lie: str(lie)[:60],
)
def test_one_lie_in_a_section(lie: dict[str, Any]) -> None:
    assert read(SECTION)
    with pytest.raises((MalformedInput, InputTooLarge)):
        read({**SECTION, **lie})


def test_a_section_that_says_nothing_is_refused() -> None:
    for nothing in ({}, {"violations": 1}, {"rules": [{"path": "/a/**", "is": "ignore"}]}, {"files": {}}):
        with pytest.raises(MalformedInput):
            read(nothing)
