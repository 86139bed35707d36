"""Encrypting the key files of an instance that has plain ones: one file after the other, each replaced whole.

A key that is encrypted opens with the passphrase, one that is not yet opens without it. So an instance that was
interrupted in the middle works all the same, and the same command goes on where it stopped. The sealing keys come last:
what is encrypted tells where new keys are written so, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attestd.ca.keyfiles import read_secret, replace_secret
from attestd.ca.keystore import encrypts
from attestd.ca.manifest import KEYS
from attestd.ca.sealing import MAX_SEALING_FILE, SEALING, read_sealing_file
from attestd.ca.signer import MAX_PEM, load_key
from attestd.ca.unlocking import Unlocking, encrypted_pem, is_encrypted, require_strong, seal_file


def encrypt_keys(folder: Path, unlocking: Unlocking, entropy: Callable[[int], bytes]) -> tuple[str, ...]:
    """Encrypts every plain key file under `unlocking`'s passphrase. Returns the names of those that were plain.

    1. The passphrase opens what is encrypted already, or nothing is changed.
    2. Each key file, then the sealing keys.
    The octets that were replaced may still be on the disk: a key that somebody may have read must be rotated.
    Raises PassphraseTooShort, PassphraseWrong, the errors of `load_key` and `read_sealing_file`, KeyFileUnwritable.
    """
    passphrase = require_strong(unlocking.passphrase())
    keys, plain = folder / KEYS, []
    for path in sorted(keys.glob("*.pem")):  # 1
        load_key(path, unlocking)
        if not is_encrypted(read_secret(path, limit=MAX_PEM)):
            plain.append(path)
    read_sealing_file(keys / SEALING, unlocking)
    for path in plain:  # 2
        replace_secret(path, encrypted_pem(load_key(path), passphrase, entropy), entropy=entropy)
    if not encrypts(folder):
        data = read_secret(keys / SEALING, limit=MAX_SEALING_FILE)
        replace_secret(keys / SEALING, seal_file(data, passphrase, entropy), entropy=entropy)
        plain.append(keys / SEALING)
    return tuple(path.name for path in plain)
