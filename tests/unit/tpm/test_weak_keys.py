"""ROCA (CVE-2017-15361): which public keys have the fingerprint of Infineon's RSALib, and which have not."""

from __future__ import annotations

from math import prod

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.tpm.weak_keys import has_roca_fingerprint
from tests import ek_ca as ca

# Primes of the form k*M + (65537^a mod M). A modulus needs no real prime factors to have the fingerprint.
PRIMES = [p for p in range(2, 168) if all(p % q for q in range(2, p))]


def powers(prime: int) -> set[int]:
    return {pow(65537, exponent, prime) for exponent in range(prime)}


# The 17 primes for which not every residue is a power of 65537; the others tell nothing.
TELLING = [prime for prime in PRIMES[1:] if len(powers(prime)) < prime - 1]


def roca_modulus(bits: int = 2048, *, spoil: int | None = None) -> int:
    m = prod(PRIMES)
    factors = [(1 << bits // 2 - 1 | 12345 + n) // m * m + pow(65537, 1000 + n, m) for n in (0, 1)]
    modulus = (3 << bits - 2) // m * m + factors[0] * factors[1] % m
    while spoil is not None and modulus % spoil in powers(spoil):
        modulus += m // spoil * 2  # stays odd, and the same modulo every other prime
    return modulus


def roca_key(bits: int = 2048, *, spoil: int | None = None) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, roca_modulus(bits, spoil=spoil)).public_key()


def test_the_property_of_the_primes() -> None:
    assert (len(TELLING), TELLING[0], TELLING[-1]) == (17, 11, 157)


@pytest.mark.parametrize("bits", [1024, 2048, 3072, 4096])
def test_a_key_of_that_making_is_recognised(bits: int) -> None:
    key = roca_key(bits)
    assert key.key_size == bits
    assert has_roca_fingerprint(key)


@pytest.mark.parametrize("prime", TELLING)
def test_a_key_that_differs_modulo_one_prime_is_not(prime: int) -> None:
    assert not has_roca_fingerprint(roca_key(spoil=prime))


def test_other_keys_are_not() -> None:
    for number in range(4):
        assert not has_roca_fingerprint(ca.rsa_key(f"other {number}").public_key())
    assert not has_roca_fingerprint(ca.ec_key("other", ec.SECP384R1).public_key())
