"""What is good of what IMA measured: the section `runtime` of a reference manifest (docs/ima.md, docs/adr/0025).

Reference digests of files, rules by path, keyrings of those who may sign files, rules for measured buffers. A policy
that names nothing accepts nothing. Digests are of hashes that it counts: SHA-1 and MD5 only where it names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from struct import Struct
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.appraisal.paths import PathPattern, PathRules, Verdict, as_measured
from attestd.errors import EvidenceRefused, MalformedInput
from attestd.tpm.imasignatures import FileKey, Keyring
from attestd.tpm.imatemplates import HASH_SIZES, FileDigest, MalformedImaEntry

STRONG_HASHES: Final = frozenset({"sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"})
MAX_BUFFER_RULES: Final = 100
_U32 = Struct("<I")


class RuntimePolicyInvalid(MalformedInput):
    """A manifest's section on runtime can't be used"""

    remedy = "Correct the named member; docs/ima.md describes the section."


class KeyNotLearned(EvidenceRefused):
    """A measured key is not one that the policy takes up"""

    remedy = "Let the key be issued by one of the rule's issuers, or add it to the policy's keyring."


def key_of(digest: bytes, path: bytes) -> bytes:
    """A file's digest (as `FileDigest.field`) and its path in one value: the very template data of `ima-ng`.

    So an `ima-ng` entry is looked up as it stands, and every other template's after its fields were read.
    """
    return b"".join((_U32.pack(len(digest)), digest, _U32.pack(len(path) + 1), path, b"\0"))


def _path_of(key: bytes) -> bytes:
    """The path in a `key_of`."""
    (size,) = _U32.unpack_from(key)
    return key[8 + size : -1]


@dataclass(frozen=True, slots=True)
class FileReferences:
    """Good digests: of files at their paths (`by_path`, see `key_of`), and of files wherever they are (`anywhere`)."""

    by_path: frozenset[bytes] = frozenset()
    anywhere: frozenset[bytes] = frozenset()
    hashes: frozenset[str] = frozenset()  # by which these digests are

    @classmethod
    def of(cls, files: Mapping[str, Iterable[str]], digests: Iterable[str] = ()) -> FileReferences:
        """From paths with their digests, and digests without a path, as `sha256:<hex>` or `verity:sha256:<hex>`.

        Raises RuntimePolicyInvalid.
        """
        hashes: set[str] = set()

        def read(text: str) -> bytes:
            digest = read_digest(text)
            hashes.add(digest.algorithm)
            return digest.field

        by_path = frozenset(key_of(read(text), as_measured(path)) for path, texts in files.items() for text in texts)
        anywhere = frozenset(read(text) for text in digests)
        return cls(by_path, anywhere, frozenset(hashes))

    def lists(self, digest: bytes, path: bytes) -> bool:
        """Whether a digest (as `FileDigest.field`) is good at this path."""
        return digest in self.anywhere or key_of(digest, path) in self.by_path


def read_digest(text: str) -> FileDigest:
    """Raises RuntimePolicyInvalid."""
    try:
        return FileDigest.parse(text)
    except MalformedImaEntry as error:
        raise RuntimePolicyInvalid(
            "This is not a file's digest.", seen=f"{text[:100]!r}: {error}"[:300], expected="sha256:<hex>"
        ) from None


class BufferVerdict(StrEnum):
    """What makes a measured buffer good."""

    IGNORE = "ignore"
    REFUSE = "refuse"
    LISTED = "listed"
    LEARN = "learn"  # it is a key, which from then on counts in one of the policy's keyrings


@dataclass(frozen=True, slots=True)
class BufferRule:
    """What buffers under a pattern must be: `kexec-cmdline`, `dm_table_load`, or a kernel keyring such as `.ima`.

    `digests` are those of LISTED (as `FileDigest.field`). LEARN takes a certificate into `keyring`, of the policy's,
    if one of the `issuers` signed it; without issuers it takes whatever the kernel let into its own keyring.
    """

    pattern: PathPattern
    verdict: BufferVerdict
    digests: frozenset[bytes] = frozenset()
    keyring: str = ""
    issuers: tuple[x509.Certificate, ...] = ()

    def learn(self, buffer: bytes) -> FileKey:
        """The key in a measured buffer. Raises UnusableFileKey, KeyNotLearned."""
        key = FileKey.load(buffer)
        if self.issuers and not any(_issued(buffer, issuer) for issuer in self.issuers):
            raise KeyNotLearned(seen=key.name, expected="a certificate by " + _subjects(self.issuers))
        return key


def _issued(certificate: bytes, issuer: x509.Certificate) -> bool:
    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _subjects(certificates: Iterable[x509.Certificate]) -> str:
    return ", ".join(certificate.subject.rfc4514_string() for certificate in certificates)[:240]


@dataclass(frozen=True)
class RuntimePolicy:
    """What is good, by one manifest. Raises RuntimePolicyInvalid where it contradicts itself.

    `otherwise` judges files that no rule speaks of. `violations`: how many an acceptable list may have; None: any
    number. What a violation says of its file is proven by nothing, so no rule by path can excuse one.
    """

    files: FileReferences = field(default_factory=FileReferences)
    rules: PathRules = field(default_factory=PathRules)
    keyrings: Mapping[str, Keyring] = field(default_factory=dict)
    buffers: tuple[BufferRule, ...] = ()
    hashes: frozenset[str] = STRONG_HASHES
    otherwise: Verdict = Verdict.EITHER
    violations: int | None = 0

    def __post_init__(self) -> None:
        if unknown := sorted(self.hashes - HASH_SIZES.keys()):
            raise RuntimePolicyInvalid("A hash is not one of the kernel's.", seen=", ".join(unknown)[:200])
        if uncounted := sorted(self.files.hashes - self.hashes):
            raise RuntimePolicyInvalid(
                "There are digests by a hash that the policy does not count.",
                seen=", ".join(uncounted),
                expected=", ".join(sorted(self.hashes)),
            )
        if self.otherwise is Verdict.IGNORE:
            raise RuntimePolicyInvalid("A policy that ignores whatever it has no rule for would judge nothing.")
        if len(self.buffers) > MAX_BUFFER_RULES:
            raise RuntimePolicyInvalid("There are too many rules for buffers.", seen=len(self.buffers))
        named = {name for rule in self.rules for name in rule.keyrings or ()}
        named |= {rule.keyring for rule in self.buffers if rule.verdict is BufferVerdict.LEARN}
        if missing := sorted(named - self.keyrings.keys()):
            raise RuntimePolicyInvalid("A rule names a keyring that there is not.", seen=", ".join(missing)[:200])

    def rule_for(self, path: bytes) -> tuple[Verdict, Iterable[str]]:
        """What a file at this path must be, and the keyrings whose signatures count for it."""
        rule = self.rules.of(path)
        if rule is None:
            return self.otherwise, self.keyrings
        return rule.verdict, self.keyrings if rule.keyrings is None else rule.keyrings

    @cached_property
    def good(self) -> frozenset[bytes]:
        """The keys of all files that are good because they are listed, rules by path included: a lookup is a verdict.

        Made once, when first needed; the references' own set where no rule is stricter.
        """
        if not self._is_strict_somewhere:
            return self.files.by_path
        return frozenset(key for key in self.files.by_path if self.rule_for(_path_of(key))[0] not in _STRICT)

    @cached_property
    def good_anywhere(self) -> frozenset[bytes]:
        """Digests that are good at any path, whatever the path: none where some rule is stricter."""
        return frozenset() if self._is_strict_somewhere else self.files.anywhere

    @cached_property
    def _is_strict_somewhere(self) -> bool:
        return self.otherwise in _STRICT or any(rule.verdict in _STRICT for rule in self.rules)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over everything that a judgement depends on: what one policy judged, another did not."""
        digest = hashlib.sha256(b"attestd/runtime-policy/1")

        def take(label: str, *values: bytes) -> None:
            for value in (label.encode(), len(values).to_bytes(8, "big"), *values):
                digest.update(len(value).to_bytes(8, "big") + value)

        take("by path", *sorted(self.files.by_path))
        take("anywhere", *sorted(self.files.anywhere))
        for rule in self.rules:
            rings = ("any",) if rule.keyrings is None else ("these", *rule.keyrings)
            take("rule", rule.pattern.text.encode(), rule.verdict.encode(), *(ring.encode() for ring in rings))
        for name, keyring in sorted(self.keyrings.items()):
            take("keyring", name.encode(), *(_spki(key) for key in keyring.keys))
        for buffer in self.buffers:
            take("buffer", buffer.pattern.text.encode(), buffer.verdict.encode(), buffer.keyring.encode())
            take("digests", *sorted(buffer.digests))
            take("issuers", *(issuer.public_bytes(Encoding.DER) for issuer in buffer.issuers))
        take("hashes", *(name.encode() for name in sorted(self.hashes)))
        take("rest", self.otherwise.encode(), str(self.violations).encode())
        return digest.digest()


_STRICT = (Verdict.REFUSE, Verdict.SIGNED)  # what being listed does not help against


def _spki(key: FileKey) -> bytes:
    return key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
