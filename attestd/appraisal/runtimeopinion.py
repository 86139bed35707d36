"""What one policy thinks of one IMA entry, with the keys that this boot taught it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Final, NamedTuple

from attestd.appraisal.paths import Verdict
from attestd.appraisal.runtimepolicy import BufferRule, BufferVerdict, RuntimePolicy
from attestd.errors import AttestdError
from attestd.tpm.imamodsig import verify_appended_signature
from attestd.tpm.imasignatures import HASHLIB_NAMES, FileKey, FileSignerUnknown, Keyring, verify_file_signature
from attestd.tpm.imatemplates import FileDigest, ImaEvent

# Opinions: these two, or a sentence that says why the entry is not good.
GOOD: Final = "good"
IGNORED: Final = "ignored"
_UNLISTED: Final = "No reference lists this digest for it, and no trusted key signed it."
_U32 = Struct("<I")


class LearnedKey(NamedTuple):
    """A key that the kernel measured and a rule took up: into which keyring of which policy."""

    policy: bytes  # its fingerprint
    keyring: str
    certificate: bytes


class PolicyView:
    """A policy, and what was learned for it. Its keyrings grow; the policy itself never changes."""

    def __init__(self, policy: RuntimePolicy) -> None:
        self.policy = policy
        self._keyrings: dict[str, Keyring] = dict(policy.keyrings)

    def add(self, keyring: str, key: FileKey) -> None:
        """From here on this key's signatures count in this keyring."""
        self._keyrings[keyring] = self._keyrings[keyring].with_key(key)

    def not_plainly_good(self, entries: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Of numbered template data of `ima-ng`, that which no lookup alone finds good."""
        good, anywhere = self.policy.good, self.policy.good_anywhere
        if good:
            entries = [entry for entry in entries if entry[1] not in good]
        if anywhere:
            entries = [entry for entry in entries if _digest_of(entry[1]) not in anywhere]
        return entries

    def opinion(self, event: ImaEvent) -> str:
        """Of a file."""
        policy, digest = self.policy, event.digest
        verdict, keyrings = policy.rule_for(event.name)
        if verdict is Verdict.REFUSE:
            return "The rule for this path refuses every file."
        listed = policy.files.lists(digest.field, event.name)
        if listed and verdict is not Verdict.SIGNED:
            return GOOD
        if verdict is Verdict.IGNORE:
            return IGNORED
        if verdict is Verdict.LISTED:
            return "No reference lists this digest for it."
        try:
            self._check_signature(event, keyrings)
        except AttestdError as error:
            return str(error) if verdict is Verdict.SIGNED or event.signature or event.modsig else _UNLISTED
        return GOOD

    def _check_signature(self, event: ImaEvent, names: Iterable[str]) -> None:
        """Raises the error that names why no signature of this file counts."""
        keyrings, allowed = [self._keyrings[name] for name in names], self.policy.hashes
        if event.signature:
            try:
                verify_file_signature(event.signature, event.digest, keyrings, allowed=allowed)
            except AttestdError:
                if not event.modsig:
                    raise
            else:
                return
        if event.modsig_digest is None:
            raise FileSignerUnknown("The file has no signature.")
        verify_appended_signature(event.modsig, event.modsig_digest, keyrings, allowed=allowed)

    def opinion_of_buffer(self, event: ImaEvent, *, room: int) -> tuple[str, list[LearnedKey]]:
        """Of a measured buffer, and the keys that it teaches, for which there is `room`."""
        rule = next((rule for rule in self.policy.buffers if rule.pattern.matches(event.name)), None)
        if rule is None or rule.verdict is BufferVerdict.REFUSE:
            return "No rule takes this measured buffer.", []
        if rule.verdict is BufferVerdict.IGNORE:
            return IGNORED, []
        if event.digest.algorithm not in self.policy.hashes or not _is_of(event.digest, event.buffer or b""):
            return "The buffer is not the one that its digest is of, by a hash that counts.", []
        if rule.verdict is BufferVerdict.LISTED:
            return (GOOD if event.digest.field in rule.digests else "No rule lists this buffer's digest."), []
        return self._learn(rule, event.buffer or b"", room)

    def _learn(self, rule: BufferRule, buffer: bytes, room: int) -> tuple[str, list[LearnedKey]]:
        try:
            key = rule.learn(buffer)
        except AttestdError as error:
            return str(error), []
        if key in self._keyrings[rule.keyring].keys:  # known, or measured once more
            return GOOD, []
        if room < 1:
            return "Too many keys were measured in this boot.", []
        self.add(rule.keyring, key)
        return GOOD, [LearnedKey(self.policy.fingerprint, rule.keyring, buffer)]


def _digest_of(data: bytes) -> bytes:
    """The digest's field of template data that is a digest and a name, to the last octet; nothing of any other."""
    try:
        (size,) = _U32.unpack_from(data)
        (name_size,) = _U32.unpack_from(data, 4 + size)
    except StructError:
        return b""
    whole = name_size and len(data) == 8 + size + name_size and data.find(b"\0", 8 + size) == len(data) - 1
    return data[4 : 4 + size] if whole else b""


def _is_of(digest: FileDigest, data: bytes) -> bool:
    name = HASHLIB_NAMES.get(digest.algorithm, digest.algorithm)
    return name in hashlib.algorithms_available and hashlib.new(name, data).digest() == digest.value
