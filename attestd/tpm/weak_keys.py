"""Keys that a known flaw of their maker's library made weak: ROCA, CVE-2017-15361.

Infineon's RSALib drew primes of the form k*M + (65537^a mod M), M being the product of the first primes: "The Return of
Coppersmith's Attack", ACM CCS 2017, section 2, and section 2.3 for the test. Modulo every prime in M both factors, and
so their product, are powers of 65537. M holds at least the primes up to 167 for keys of 512 bits and more; a modulus of
other making has all these residues by chance once in about 2^28.

The property can't be hidden: it is read off the public key alone, and no firmware version says more than it does.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.tpm.objects import PublicKey


def _powers_of_65537(prime: int) -> frozenset[int]:
    return frozenset(pow(65537, exponent, prime) for exponent in range(prime - 1))


_PRIMES: Final = tuple(p for p in range(3, 168, 2) if all(p % q for q in range(3, int(p**0.5) + 1, 2)))
# Where every residue is a power of 65537 the prime tells nothing.
_RESIDUES: Final = tuple((prime, powers) for prime in _PRIMES if len(powers := _powers_of_65537(prime)) < prime - 1)


def has_roca_fingerprint(key: PublicKey) -> bool:
    """Whether this is an RSA key whose modulus RSALib's flaw marks: it can be factored."""
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    modulus = key.public_numbers().n
    return all(modulus % prime in powers for prime, powers in _RESIDUES)
