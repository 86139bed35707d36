"""MakeCredential without a TPM: a secret that one EK opens, and only for the object with one Name.

TPM 2.0 Library, Part 1: Architecture, revision 1.59: section 24 (credential protection), sections 11.4.10.2 (KDFa) and
11.4.10.3 (KDFe), annexes B.4 (RSAES_OAEP), B.10.4 (RSA secret sharing for credentials), C.6.4 (ECC secret sharing for
credentials) and C.8 (ECC point padding). Part 2: sections 12.4.3 (TPM2B_ID_OBJECT) and 11.4.3 (TPM2B_ENCRYPTED_SECRET).

RSA encryption and OAEP's encoding are written out because the library draws its own randomness there: with entropy as
an argument the output compares with other implementations' octet for octet. Only the public key is used; what an
observer of the timing could learn is nothing about the EK, and the padding hides the seed behind fresh random octets.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.tpm.ektemplates import EkProtectionWrong
from attestd.tpm.objects import Alg, Hash, TpmPublic, coordinate_size
from attestd.tpm.wire import sized, u32

Entropy = Callable[[int], bytes]

_IDENTITY = b"IDENTITY\0"  # the label's terminating zero counts (annex B.4; section 11.4.10.3)
_BLOCK = 16  # octets of an AES block
_ECDH = ec.ECDH()


def share_seed(ek: TpmPublic, *, entropy: Entropy) -> tuple[bytes, bytes]:
    """A fresh seed, and the TPM2B_ENCRYPTED_SECRET (size field included) from which this EK alone recovers it."""
    if isinstance(ek.key, rsa.RSAPublicKey):
        # Annex B.10.4: random octets of the size of the EK's nameAlg, by OAEP.
        seed = _draw(entropy, ek.name_alg.size)
        return seed, sized(encrypt_oaep(ek.key, ek.name_alg, seed, entropy=entropy))
    # Annex C.6.4: one-pass Diffie-Hellman with an ephemeral key; the seed is derived from what both sides know.
    curve = ek.key.curve
    size = coordinate_size(curve)
    # 64 bits more than the order, so that the remainder is not biased (FIPS 186-5, annex A.2.1).
    scalar = int.from_bytes(_draw(entropy, size + 8), "big") % (curve.group_order - 1) + 1
    ephemeral = ec.derive_private_key(scalar, curve)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)  # 04 ‖ x ‖ y, padded
    x, y = point[1 : 1 + size], point[1 + size :]
    z = ephemeral.exchange(_ECDH, ek.key)
    seed = _kdf_e(ek.name_alg, z, _IDENTITY + x + ek.unique[:size])  # PartyUInfo and PartyVInfo: both keys' x
    return seed, sized(sized(x) + sized(y))


def protect(ek: TpmPublic, *, seed: bytes, name: bytes, secret: bytes) -> bytes:
    """The TPM2B_ID_OBJECT (size field included) that yields `secret` to this EK for the object `name` (section 24.4).

    Raises EkProtectionWrong if the EK has no AES key to protect anything with, ValueError if the secret is empty or
    larger than a digest of the EK's nameAlg (Part 3, section 12.6.1).
    """
    if not 0 < len(secret) <= ek.name_alg.size:
        raise ValueError("a credential has 1 to as many octets as the EK's nameAlg")
    if ek.symmetric is None or ek.symmetric.alg is not Alg.AES or ek.symmetric.mode != Alg.CFB:
        raise EkProtectionWrong("This EK has no AES-CFB to protect a secret with.", seen=ek.symmetric)
    # 1. Encrypt the credential under a key that only this seed and this Name give (section 24.4, symmetric encryption).
    key = _kdf_a(ek.name_alg, seed, b"STORAGE", name, ek.symmetric.bits)
    encrypted = _encrypt_cfb(key, sized(secret))
    # 2. Bind ciphertext and Name together: another Name, or another octet, and the TPM refuses (section 24.5, HMAC).
    hmac_key = _kdf_a(ek.name_alg, seed, b"INTEGRITY", b"", ek.name_alg.size * 8)
    integrity = hmac.digest(hmac_key, encrypted + name, ek.name_alg.name)
    return sized(sized(integrity) + encrypted)


def encrypt_oaep(key: rsa.RSAPublicKey, hash: Hash, message: bytes, *, entropy: Entropy) -> bytes:
    """RSAES-OAEP with the label IDENTITY (Part 1, annex B.4; RFC 8017, section 7.1.1, whose steps are numbered)."""
    size = (key.key_size + 7) // 8
    # 1. The message must fit.
    padding = size - len(message) - 2 * hash.size - 2
    if padding < 0:
        raise ValueError("the message is too long for this key")
    # 2. EME-OAEP encoding: DB = lHash ‖ PS ‖ 01 ‖ M, masked by the seed; the seed, masked by that.
    block = hash.digest(_IDENTITY) + bytes(padding) + b"\x01" + message
    seed = _draw(entropy, hash.size)
    masked_block = _xor(block, _mgf1(hash, seed, len(block)))
    masked_seed = _xor(seed, _mgf1(hash, masked_block, hash.size))
    # 3. RSA encryption.
    numbers = key.public_numbers()
    encoded = int.from_bytes(masked_seed + masked_block, "big")
    return pow(encoded, numbers.e, numbers.n).to_bytes(size, "big")


def _mgf1(hash: Hash, seed: bytes, length: int) -> bytes:
    """RFC 8017, annex B.2.1."""
    blocks = range(-(-length // hash.size))
    return b"".join(hash.digest(seed + counter.to_bytes(4, "big")) for counter in blocks)[:length]


def _kdf_e(hash: Hash, z: bytes, info: bytes) -> bytes:
    """KDFe (section 11.4.10.3) of as many octets as one digest has: H(counter ‖ Z ‖ label ‖ parties), once."""
    return hash.digest(u32(1) + z + info)


def _kdf_a(hash: Hash, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa (section 11.4.10.2): NIST SP 800-108 in counter mode; the label's terminating zero is its separator."""
    fixed = label + b"\0" + context + u32(bits)
    blocks = range(1, -(-bits // (8 * hash.size)) + 1)
    return b"".join(hmac.digest(key, u32(counter) + fixed, hash.name) for counter in blocks)[: bits // 8]


def _encrypt_cfb(key: bytes, plaintext: bytes) -> bytes:
    """AES-CFB with a zero IV, as section 24.4 has it; each key encrypts once.

    Made of single blocks: the library is retiring its CFB mode, and the TPM is not.
    """
    block_cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  (one block at a time)
    feedback = bytes(_BLOCK)
    ciphertext = b""
    for at in range(0, len(plaintext), _BLOCK):
        feedback = _xor(plaintext[at : at + _BLOCK], block_cipher.update(feedback))
        ciphertext += feedback
    return ciphertext


def _xor(left: bytes, right: bytes) -> bytes:
    """As long as `left`, which `right` covers."""
    size = len(left)
    mixed = int.from_bytes(left, "big") ^ int.from_bytes(right[:size], "big")
    return mixed.to_bytes(size, "big")


def _draw(entropy: Entropy, count: int) -> bytes:
    drawn = entropy(count)
    if len(drawn) != count:
        raise ValueError("the source of entropy gave another number of octets than asked")
    return drawn
