"""The section `runtime` of a reference manifest, read whole or refused by the member's name.

[runtime]
hashes = ["sha256", "sha512"]            # that count; the strong ones, if it is left out
violations = 0                           # that a good list may have; "any", or 0 if it is left out
otherwise = "listed or signed"           # what files must be that no rule speaks of; or listed, signed, refuse
digests = ["sha256:<hex>"]               # good wherever they are

[runtime.files]                          # path -> its good digests
"/usr/bin/ls" = ["sha256:<hex>", "verity:sha256:<hex>"]

[[runtime.rules]]                        # the first that fits a path counts
path = "/usr/lib/modules/**"
is = "signed"                            # ignore, refuse, listed, signed, listed or signed
keyrings = ["vendor"]                    # all of them, if it is left out

[runtime.keyrings]                       # certificates or public keys, in PEM
vendor = ["-----BEGIN CERTIFICATE-----..."]

[[runtime.buffers]]                      # what else the kernel measures
name = ".ima"
is = "learn"                             # ignore, refuse, listed, learn
keyring = "vendor"                       # with learn: into which keyring
issuers = ["-----BEGIN CERTIFICATE-----..."]
digests = ["sha256:<hex>"]               # with listed
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

from cryptography import x509

from attestd.appraisal.paths import MAX_RULES, PathPattern, PathRule, PathRules, Verdict
from attestd.appraisal.runtimepolicy import (
    MAX_BUFFER_RULES,
    STRONG_HASHES,
    BufferRule,
    BufferVerdict,
    FileReferences,
    RuntimePolicy,
    RuntimePolicyInvalid,
    read_digest,
)
from attestd.protocol.encoding import MalformedJson, Members
from attestd.protocol.evidence import MAX_ENTRIES
from attestd.tpm.imasignatures import MAX_KEY, FileKey, Keyring

MAX_FILES: Final = 1_000_000
MAX_DIGESTS: Final = 1_000_000  # without a path, and of any one path or buffer
MAX_KEYRINGS: Final = 32
MAX_KEYS: Final = 256  # of a keyring
MAX_ISSUERS: Final = 16
_MAX_TEXT: Final = 512  # characters of a digest or a name

_Word = TypeVar("_Word", bound=StrEnum)


def parse_runtime(members: Members) -> RuntimePolicy:
    """Raises RuntimePolicyInvalid, UnusablePattern, UnusableFileKey and other MalformedInput, InputTooLarge."""
    hashes = frozenset(members.texts("hashes", most=64)) if "hashes" in members else STRONG_HASHES
    files = _files(members.object("files")) if "files" in members else {}
    digests = members.texts("digests", most=MAX_DIGESTS, limit=_MAX_TEXT) if "digests" in members else ()
    policy = RuntimePolicy(
        files=FileReferences.of(files, digests),
        rules=PathRules(map(_rule, members.objects("rules", most=MAX_RULES) if "rules" in members else ())),
        keyrings=_keyrings(members.object("keyrings")) if "keyrings" in members else {},
        buffers=tuple(map(_buffer, members.objects("buffers", most=MAX_BUFFER_RULES) if "buffers" in members else ())),
        hashes=hashes,
        otherwise=_word(members, "otherwise", Verdict) if "otherwise" in members else Verdict.EITHER,
        violations=_violations(members),
    )
    members.done()
    if not (files or digests or policy.keyrings or policy.buffers):
        raise RuntimePolicyInvalid("The section says nothing about what is good.", expected="files, digests, keyrings")
    return policy


def _files(members: Members) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, digests in members.items():
        if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
            raise RuntimePolicyInvalid("A file's digests are not a list of them.", seen=repr(path[:200]))
        found[path] = digests
    if len(found) > MAX_FILES:
        raise RuntimePolicyInvalid("There are too many files.", seen=len(found), expected=f"at most {MAX_FILES}")
    return found


def _rule(members: Members) -> PathRule:
    pattern, verdict = PathPattern(members.text("path")), _word(members, "is", Verdict)
    rings = members.texts("keyrings", most=MAX_KEYRINGS, limit=_MAX_TEXT) if "keyrings" in members else None
    members.done()
    if rings is not None and verdict not in (Verdict.SIGNED, Verdict.EITHER):
        raise RuntimePolicyInvalid(f"A rule that says {verdict.value!r} takes no keyrings.", seen=repr(pattern.text))
    return PathRule(pattern, verdict, rings)


def _keyrings(members: Members) -> dict[str, Keyring]:
    found: dict[str, Keyring] = {}
    for name, _ in members.items():
        keys = members.texts(name, most=MAX_KEYS, limit=MAX_KEY)
        found[name] = Keyring(FileKey.load(key.encode("utf-8", "replace")) for key in keys)
    if len(found) > MAX_KEYRINGS:
        raise RuntimePolicyInvalid("There are too many keyrings.", seen=len(found), expected=f"at most {MAX_KEYRINGS}")
    return found


def _buffer(members: Members) -> BufferRule:
    pattern, verdict = PathPattern(members.text("name")), _word(members, "is", BufferVerdict)
    digests: frozenset[bytes] = frozenset()
    keyring = ""
    issuers: tuple[x509.Certificate, ...] = ()
    if verdict is BufferVerdict.LISTED:
        digests = frozenset(read_digest(text).field for text in members.texts("digests", most=MAX_DIGESTS))
    elif verdict is BufferVerdict.LEARN:
        keyring = members.text("keyring", limit=_MAX_TEXT)
        if "issuers" in members:
            issuers = tuple(map(_issuer, members.texts("issuers", most=MAX_ISSUERS, limit=MAX_KEY)))
    members.done()
    return BufferRule(pattern, verdict, digests, keyring, issuers)


def _issuer(text: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        raise RuntimePolicyInvalid("An issuer is no certificate in PEM.", seen=f"{len(text)} characters") from None


def _violations(members: Members) -> int | None:
    if "violations" not in members:
        return 0
    try:
        count = members.integer("violations")
    except MalformedJson:
        if members.text("violations", limit=16) != "any":
            raise
        return None
    if not 0 <= count <= MAX_ENTRIES:
        raise RuntimePolicyInvalid("No list has so many violations.", expected=f'0 to {MAX_ENTRIES}, or "any"')
    return count


def _word(members: Members, name: str, words: type[_Word]) -> _Word:
    text = members.text(name, limit=64)
    try:
        return words(text)
    except ValueError:
        raise RuntimePolicyInvalid(
            f"{name} is none of its words.", seen=repr(text), expected=", ".join(words)
        ) from None
