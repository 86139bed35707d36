"""What opens keys: a passphrase for encrypted files, a PIN for a token. Both come from files, never from arguments.

An encrypted key is PKCS #8 with PBES2 (RFC 8018, section 6.2): scrypt (RFC 7914) and AES-256-CBC, which OpenSSL reads
too. The sealing keys are one JSON file, sealed as a whole by AES-256-GCM under a scrypt key.
"""

from __future__ import annotations

import base64
import os
import stat
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from attestd.ca.der import oid, tlv
from attestd.errors import Misconfigured
from attestd.protocol.encoding import Members, b64encode, write_object

MIN_PASSPHRASE = 12  # octets
_MAX_SECRET = 1024  # octets
# RFC 7914, section 2: 16 MiB and some 40 ms a key. OpenSSL reads no more than 32 MiB unless it is told to.
_N, _R, _P = 1 << 14, 8, 1
_SALT, _IV, _NONCE, _KEY = 16, 16, 12, 32
_SEALING_LABEL = b"attestd/sealing-keys/1"
_BEGIN, _END = "-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----"


class PassphraseMissing(Misconfigured):
    """The keys are encrypted, and no passphrase is at hand"""

    remedy = "Name a file that holds it in attestd.toml: [keys] passphrase_file."


class PassphraseWrong(Misconfigured):
    """This passphrase does not open the keys"""

    remedy = "Put the right passphrase into the file that [keys] passphrase_file names."


class PassphraseTooShort(Misconfigured):
    """This passphrase is too short"""

    remedy = "Make one with `openssl rand -base64 32`."


class PinMissing(Misconfigured):
    """The keys are in a token, and no PIN is at hand"""

    remedy = "Name a file that holds the token's PIN in attestd.toml: [keys] pin_file."


class SecretFileUnreadable(Misconfigured):
    """The file with the passphrase or PIN can't be read"""

    remedy = "Let the service's user own the file and read it."


class SecretFileExposed(Misconfigured):
    """Others can read the file with the passphrase or PIN"""

    remedy = "Run `chmod 600` on it, and choose another passphrase or PIN if somebody may have read it."


@dataclass(frozen=True, slots=True)
class Unlocking:
    """Where passphrase and PIN come from; read when a key needs them.

    `delivered_in` is the folder of the service manager's credentials ($CREDENTIALS_DIRECTORY): only the service enters
    it, so a group's bit on a file in it (an access list's mask) exposes nothing. `ask` asks a person instead.
    """

    passphrase_file: Path | None = None
    pin_file: Path | None = None
    delivered_in: Path | None = None
    ask: Callable[[], bytes] | None = field(default=None, repr=False)

    def passphrase(self) -> bytes:
        """Raises PassphraseMissing, SecretFileUnreadable, SecretFileExposed."""
        if self.passphrase_file is None:
            if self.ask is None:
                raise PassphraseMissing
            return self.ask()
        found = self.read(self.passphrase_file)
        if not found:
            raise PassphraseMissing(f"{self.passphrase_file} is empty.")
        return found

    def pin(self) -> str:
        """Raises PinMissing, SecretFileUnreadable, SecretFileExposed."""
        if self.pin_file is None:
            raise PinMissing
        try:
            found = self.read(self.pin_file).decode("utf-8")
        except UnicodeDecodeError:
            raise SecretFileUnreadable(f"{self.pin_file} is not UTF-8.") from None
        if not found:
            raise PinMissing(f"{self.pin_file} is empty.")
        return found

    def read(self, path: Path) -> bytes:
        """The file's one line. Its mode is that of the file that was opened."""
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_SECRET + 1)
        except OSError as error:
            raise SecretFileUnreadable(f"{path} can't be read.", seen=error.strerror) from None
        delivered = self.delivered_in is not None and path.parent == self.delivered_in
        if mode & (stat.S_IRWXO if delivered else stat.S_IRWXG | stat.S_IRWXO):
            raise SecretFileExposed(
                f"Others than its owner can read {path}.", seen=f"mode {stat.S_IMODE(mode):04o}", expected="mode 0600"
            )
        if len(data) > _MAX_SECRET or not stat.S_ISREG(mode):
            raise SecretFileUnreadable(f"{path} holds no passphrase or PIN.", expected=f"at most {_MAX_SECRET} octets")
        return data.removesuffix(b"\n").removesuffix(b"\r")


NOTHING = Unlocking()


def require_strong(passphrase: bytes) -> bytes:
    """Raises PassphraseTooShort. Whoever has the files can guess as often as they like."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise PassphraseTooShort(seen=f"{len(passphrase)} octets", expected=f"at least {MIN_PASSPHRASE}")
    return passphrase


# ---- Key files --------------------------------------------------------------------------------------------------


def is_encrypted(pem: bytes) -> bool:
    """Whether this PEM holds an encrypted key."""
    return pem.lstrip().startswith(_BEGIN.encode("ascii"))


def plain_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as PKCS #8 in PEM: secret octets."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def encrypted_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """The key as EncryptedPrivateKeyInfo in PEM (RFC 5958, section 3; RFC 8018, appendix A.4; RFC 7914, section 7)."""
    salt, iv = entropy(_SALT), entropy(_IV)
    padder = padding.PKCS7(128).padder()
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    padded = padder.update(plain) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(_derived(passphrase, salt)), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    parameters = tlv(0x04, salt) + b"".join(_integer(number) for number in (_N, _R, _P))
    derivation = tlv(0x30, oid("1.3.6.1.4.1.11591.4.11") + tlv(0x30, parameters))  # id-scrypt
    encryption = tlv(0x30, oid("2.16.840.1.101.3.4.1.42") + tlv(0x04, iv))  # aes256-CBC-PAD
    algorithm = tlv(0x30, oid("1.2.840.113549.1.5.13") + tlv(0x30, derivation + encryption))  # id-PBES2
    der = tlv(0x30, algorithm + tlv(0x04, ciphertext))
    body = textwrap.wrap(base64.b64encode(der).decode("ascii"), 64)
    return "\n".join([_BEGIN, *body, _END, ""]).encode("ascii")


def _integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _derived(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=_N, r=_R, p=_P).derive(passphrase)


# ---- The sealing keys -------------------------------------------------------------------------------------------


def seal_file(plain: bytes, passphrase: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """A small secret file, encrypted under a passphrase."""
    salt, nonce = entropy(_SALT), entropy(_NONCE)
    ciphertext = AESGCM(_derived(passphrase, salt)).encrypt(nonce, plain, _SEALING_LABEL)
    return write_object({"v": 1, "salt": b64encode(salt), "nonce": b64encode(nonce), "sealed": b64encode(ciphertext)})


def open_file(members: Members, passphrase: bytes, *, limit: int) -> bytes:
    """What `seal_file` encrypted. Raises MalformedInput, InputTooLarge, PassphraseWrong."""
    salt = members.octets("salt", limit=_SALT, least=_SALT)
    nonce = members.octets("nonce", limit=_NONCE, least=_NONCE)
    ciphertext = members.octets("sealed", limit=limit, least=_KEY // 2)
    members.done()
    try:
        return AESGCM(_derived(passphrase, salt)).decrypt(nonce, ciphertext, _SEALING_LABEL)
    except InvalidTag:
        raise PassphraseWrong("keys/sealing.json does not open, or was changed.") from None
