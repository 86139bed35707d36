"""Signing keys in a PKCS #11 token: they are made there, sign there and never leave (OASIS PKCS #11, version 2.40).

`cryptography` builds authorities' certificates and CRLs only with a key in its own hands. So the builder signs with a
key that is thrown away, the token signs the same octets, and the two halves are put together. Leaves are written
without a builder (`tbs`), and the token signs them as they are. What reads the signed octets back (`readback`,
`revocation`) holds them to what was meant, as it does for a key in a file.

A token may go away: a card is pulled, a network module restarts. The module is then initialised anew, which ends every
session in it; so one lock covers each use, and one session serves a process. A PIN that was refused is not tried again
until its file has changed, by no process of this instance: three wrong ones lock many tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestd.ca.der import elements
from attestd.ca.manifest import TokenPlace
from attestd.ca.signer import Certified, KeyMismatch
from attestd.ca.tbs import put_together
from attestd.ca.unlocking import Unlocking
from attestd.credentials.jwk import jwk_thumbprint
from attestd.credentials.jws import verify_es256
from attestd.errors import Misconfigured, Unavailable

_SIGNATURE = 64  # octets: r ‖ s
_WORN = ("USER_PIN_LOCKED", "USER_PIN_FINAL_TRY")  # flags of a token that a wrong PIN would lock, or has
_PAUSE = 1.0  # seconds between two attempts to reach a token that is away
_SHA256 = hashes.SHA256()
_T = TypeVar("_T")
_Built = x509.CertificateBuilder | x509.CertificateRevocationListBuilder


class TokenLibraryMissing(Misconfigured):
    """The library for PKCS #11 tokens is not installed"""

    remedy = "pip install 'attestd-fleet[pkcs11]'"


class KeyTokenUnavailable(Unavailable):
    """The token with the keys can't be used now"""

    remedy = "Check that the token is there and its module's path right; the service finds it again by itself."


class KeyTokenRefused(Misconfigured):
    """The token refuses the PIN"""

    remedy = (
        "Correct the file that [keys] pin_file names. The same PIN is not tried again: the token would lock itself."
    )


class KeyTokenLocked(Misconfigured):
    """The token's PIN is locked, or one attempt away from it"""

    remedy = "Unlock the PIN with the token's own tools."


class KeyNotInToken(Misconfigured):
    """The token does not have this key"""

    remedy = "Insert the right token, or restore the token from its own backup."


class KeyTokenFull(Misconfigured):
    """The token could not make a key"""

    remedy = "Check that the token has room and makes P-256 keys (CKM_EC_KEY_PAIR_GEN, CKM_ECDSA)."


class KeyToken:
    """One token, as this process uses it. Safe for threads; they take turns."""

    _known: dict[TokenPlace, KeyToken] = {}  # noqa: RUF012 - one session a token and process
    _guard = threading.Lock()

    def __init__(self, place: TokenPlace, unlocking: Unlocking, folder: Path) -> None:
        self._place = place
        self._unlocking = unlocking
        self._refused = folder / "run" / "pin-refused"
        self._lock = threading.RLock()
        self._session: Any = None
        self._handles: dict[str, Any] = {}  # of this session
        self._opened = False  # once: from then on, the module has to forget first what it knew
        self._not_before = 0.0

    @classmethod
    def of(cls, place: TokenPlace, unlocking: Unlocking, folder: Path) -> KeyToken:
        """The one object of this process for this token."""
        with cls._guard:
            known = cls._known.setdefault(place, cls(place, unlocking, folder))
            known._unlocking, known._refused = unlocking, folder / "run" / "pin-refused"
            return known

    def make(self, label: str) -> TokenHeldKey:
        """A new P-256 key that can't be read out. Raises KeyTokenFull and what `_with_session` raises."""
        lib = _library()

        def generate(session: Any) -> None:
            curve = {lib.Attribute.EC_PARAMS: lib.util.ec.encode_named_curve_parameters("secp256r1")}
            domain = session.create_domain_parameters(lib.KeyType.EC, curve, local=True)
            private = {
                lib.Attribute.SENSITIVE: True,
                lib.Attribute.EXTRACTABLE: False,
                lib.Attribute.DERIVE: False,
                lib.Attribute.SIGN: True,
            }
            domain.generate_keypair(
                store=True,
                label=label,
                id=hashlib.sha256(label.encode()).digest()[:20],
                mechanism=lib.Mechanism.EC_KEY_PAIR_GEN,
                private_template=private,
            )

        self._with_session(generate, writing=True)
        return self.find(label)

    def find(self, label: str) -> TokenHeldKey:
        """The key of this label. Raises KeyNotInToken and what `_with_session` raises."""
        lib = _library()

        def look(session: Any) -> bytes:
            public = session.get_key(object_class=lib.ObjectClass.PUBLIC_KEY, label=label)
            session.get_key(object_class=lib.ObjectClass.PRIVATE_KEY, label=label)
            return cast("bytes", lib.util.ec.encode_ec_public_key(public))

        try:
            der = self._with_session(look)
        except (lib.NoSuchKey, lib.MultipleObjectsReturned) as error:
            raise KeyNotInToken(
                f"Token {self._place.token!r} has not exactly one key {label!r}.", seen=type(error).__name__
            ) from None
        key = load_der_public_key(der)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise KeyNotInToken(f"Key {label!r} is of another kind.", expected="P-256")
        return TokenHeldKey(self, label, key)

    def destroy(self, label: str) -> None:
        """The key of this label is gone afterwards. Raises what `_with_session` raises."""
        lib = _library()

        def remove(session: Any) -> None:
            for kind in (lib.ObjectClass.PRIVATE_KEY, lib.ObjectClass.PUBLIC_KEY):
                with contextlib.suppress(lib.NoSuchKey):
                    session.get_key(object_class=kind, label=label).destroy()

        self._with_session(remove, writing=True)
        with self._lock:
            self._handles.pop(label, None)

    def sign(self, label: str, data: bytes) -> bytes:
        """ECDSA over SHA-256, r ‖ s (CKM_ECDSA; PKCS #11, section 2.3.6). Raises KeyNotInToken, and what
        `_with_session` raises."""
        lib = _library()
        digest = hashlib.sha256(data).digest()

        def sign(session: Any) -> bytes:
            private = self._private(session, label, lib)
            return cast("bytes", private.sign(digest, mechanism=lib.Mechanism.ECDSA))

        try:
            signature = self._with_session(sign)
        except lib.NoSuchKey:
            raise KeyNotInToken(f"Token {self._place.token!r} has no key {label!r}.") from None
        if len(signature) != _SIGNATURE:
            raise KeyTokenUnavailable("The token's signature has the wrong size.", seen=f"{len(signature)} octets")
        return signature

    def _private(self, session: Any, label: str, lib: Any) -> Any:
        held = self._handles.get(label)
        if held is None:
            held = self._handles[label] = session.get_key(object_class=lib.ObjectClass.PRIVATE_KEY, label=label)
        return held

    def _with_session(self, act: Callable[[Any], _T], *, writing: bool = False) -> _T:
        """What `act` returns; a session that has broken is replaced once.

        Raises KeyTokenUnavailable, KeyTokenRefused, KeyTokenLocked, TokenLibraryMissing, and Unlocking's errors.
        """
        lib = _library()
        with self._lock:
            fresh = self._session is None
            for last in (fresh, True):
                session = self._session if self._session is not None else self._open(lib)
                try:
                    if not writing:
                        return act(session)
                    with self._writable(session, lib) as writable:
                        return act(writable)
                except (lib.NoSuchKey, lib.MultipleObjectsReturned):
                    if last:
                        raise
                    self._forget()  # a token that went away and came back shows no objects to an old session
                except (lib.MechanismInvalid, lib.DeviceMemory, lib.TokenWriteProtected) as error:
                    raise KeyTokenFull(seen=type(error).__name__) from None
                except (lib.PKCS11Error, RuntimeError) as error:
                    self._forget()
                    if last:
                        raise self._away(error) from None
            raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _writable(self, session: Any, lib: Any) -> Iterator[Any]:
        """Beside the session that signs, which may only read; the login is the token's, so it counts here too."""
        writable = lib.lib(self._place.module).get_token(token_label=self._place.token).open(rw=True)
        try:
            yield writable
        finally:
            writable.close()

    def _open(self, lib: Any) -> Any:
        if time.monotonic() < self._not_before:
            raise KeyTokenUnavailable(seen="it was away a moment ago")
        pin = self._unlocking.pin()
        self._require_untried()
        try:
            module = lib.lib(self._place.module)
            if self._opened:
                module.reinitialize()  # what the module remembers of a token that went away is void
            token = module.get_token(token_label=self._place.token)
            if any(token.flags & lib.TokenFlag[name] for name in _WORN):
                raise KeyTokenLocked(f"Token {self._place.token!r}.")
            session = token.open(user_pin=pin)
        except (lib.PinIncorrect, lib.PinInvalid, lib.PinLenRange, lib.PinExpired) as error:
            self._note_refusal()
            raise KeyTokenRefused(f"Token {self._place.token!r}.", seen=type(error).__name__) from None
        except lib.PinLocked:
            raise KeyTokenLocked(f"Token {self._place.token!r}.") from None
        except (lib.PKCS11Error, RuntimeError) as error:
            self._opened = True
            raise self._away(error) from None
        self._opened = True
        self._session, self._handles = session, {}
        return session

    def _forget(self) -> None:
        """The session is void. Its handles are let go of without a word to the module, which may not answer."""
        self._session, self._handles = None, {}

    def _away(self, error: Exception) -> KeyTokenUnavailable:
        self._not_before = time.monotonic() + _PAUSE
        return KeyTokenUnavailable(f"Token {self._place.token!r}.", seen=str(error)[:200] or type(error).__name__)

    # ---- A PIN that was refused -------------------------------------------------------------------------------------

    def _pin_mark(self) -> str:
        found = cast("Path", self._unlocking.pin_file).stat()
        return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"

    def _require_untried(self) -> None:
        with contextlib.suppress(OSError):
            if self._refused.read_text("ascii") == self._pin_mark():
                raise KeyTokenRefused("The token refused this PIN before, and it is not tried again.")

    def _note_refusal(self) -> None:
        """For every process of this instance. Says nothing of the PIN but which file held it."""
        with contextlib.suppress(OSError):
            self._refused.parent.mkdir(mode=0o700, exist_ok=True)
            self._refused.write_text(self._pin_mark(), "ascii")


@dataclass(frozen=True)
class TokenHeldKey:
    """A key in a token. Showing it shows its label."""

    token: KeyToken = field(repr=False)
    label: str
    public_key: ec.EllipticCurvePublicKey = field(repr=False)

    @cached_property
    def thumbprint(self) -> str:
        return jwk_thumbprint(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """ES256: r ‖ s, 64 octets, checked with the public key: a token that signs wrongly is found here.

        Raises SignatureWrong, KeyTokenUnavailable, KeyTokenRefused, KeyTokenLocked, KeyNotInToken.
        """
        signature = self.token.sign(self.label, data)
        verify_es256(self.public_key, signature=signature, message=data)
        return signature

    def sign_tbs(self, tbs: bytes) -> bytes:
        """Checked when the certificate is read back, and not here. Raises what `sign` does, but for SignatureWrong."""
        return _in_der(self.token.sign(self.label, tbs))

    def sign_certificate(self, builder: x509.CertificateBuilder) -> bytes:
        return self._signed(builder)

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        return self._signed(builder)

    def _signed(self, builder: _Built) -> bytes:
        """What the builder makes, with the token's signature in place of the one it came with."""
        built = builder.sign(_throw_away(), _SHA256).public_bytes(serialization.Encoding.DER)
        tbs, _, _ = elements(built)
        return put_together(tbs, _in_der(self.sign(tbs)))

    def certified(self, certificate: x509.Certificate) -> TokenSigner:
        if certificate.public_key() != self.public_key:
            raise KeyMismatch(f"Key {self.label!r} of the token is not the key in its certificate.")
        return TokenSigner(certificate, self)


@dataclass(frozen=True)
class TokenSigner(Certified):
    """A signer whose key is in a token."""

    key: TokenHeldKey

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data)

    def sign_tbs(self, tbs: bytes) -> bytes:
        return self.key.sign_tbs(tbs)

    def sign_certificate(self, builder: x509.CertificateBuilder) -> bytes:
        return self.key.sign_certificate(builder)

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        return self.key.sign_crl(builder)


def _library() -> Any:
    """python-pkcs11 and its helpers. Raises TokenLibraryMissing where the extra is not installed."""
    try:
        import pkcs11  # noqa: PLC0415 - an extra
        import pkcs11.util.ec  # noqa: PLC0415
    except ImportError as missing:
        raise TokenLibraryMissing(seen=str(missing)) from None
    return pkcs11


def _in_der(raw: bytes) -> bytes:
    """A signature r ‖ s as X.509 has it (RFC 3279, section 2.2.3)."""
    half = _SIGNATURE // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def _throw_away() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
