"""A presented JWT -> a verified token -> a bound token -> an identity. Never a bearer token.

Access tokens after RFC 9068, bound after RFC 7800: `cnf` holds either `x5t#S256` (RFC 8705, section 3.1), and then the
token lives and dies with that certificate on that connection, or `jkt` (RFC 9449, section 6.1), and then every request
carries a proof. The steps are types: only `token_identity` makes an identity, it takes a BoundToken, and only the two
`bind_…` functions make one of those. JWT-SVID's rules hold as well (sections 2 and 3), but for `typ`.

Claims: iss, sub (a device's SPIFFE ID), aud (one string), iat, nbf, exp, jti, cnf, srl (the certificate's serial number
in hexadecimal), attestd (the facts). All of them, no other: a claim that is not understood might be a restriction.
PyJWT reads the clock by itself and is lenient with duplicate members, so it is the tests' second opinion only.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.dpop import EdgeNonces, ReplayCache, verify_dpop
from attestd.credentials.facts import Facts
from attestd.credentials.identity import VerifiedIdentity, admit
from attestd.credentials.jws import UnverifiedJws
from attestd.credentials.status import StatusList
from attestd.credentials.x509 import VerifiedCertificate
from attestd.errors import InputTooLarge, MalformedInput, Unauthenticated
from attestd.ids import MalformedName, Serial, SpiffeId, TrustDomain
from attestd.protocol.encoding import MalformedJson, Members, read_object

TOKEN_TYP: Final = "at+jwt"  # noqa: S105  (RFC 9068, section 2.1)
MAX_TOKEN = 8 * 1024  # characters
CLOCK_SKEW = timedelta(seconds=60)  # by which the service's clock may be ahead of ours
_MAX_TIME = 1 << 40
_JTI = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# The claims as the service writes them: canonical JSON, without escapes but in the facts, which come first. What is
# behind them is cut off where the last `,"aud":` is; the texts there hold no quotes, so it can't be one of theirs.
_BEFORE_FACTS = b'{"attestd":'
_TEXT, _SECONDS = r"([ !#-\[\]-~]{0,2048})", r"([1-9][0-9]{0,11})"
_AFTER_FACTS = re.compile(
    rf'"{_TEXT}","cnf":\{{"(x5t#S256|jkt)":"([A-Za-z0-9_-]{{42}}[AEIMQUYcgkosw048])"\}},"exp":{_SECONDS},'
    rf'"iat":{_SECONDS},"iss":"{_TEXT}","jti":"({_JTI.pattern})","nbf":{_SECONDS},"srl":"([0-9a-f]{{1,40}})",'
    rf'"status":\{{"status_list":\{{"idx":(0|[1-9][0-9]{{0,9}}),"uri":"{_TEXT}"\}}\}},"sub":"{_TEXT}"\}}',
    re.ASCII,
)


class TokenRefused(Unauthenticated):
    """The token proves nothing here"""

    remedy = "Ask the service for a token for this audience."


class TokenMalformed(TokenRefused):
    """The token can't be read"""


class TokenKeyUnknown(TokenRefused):
    """The token names a key that is not one of the service's"""


class TokenIssuerWrong(TokenRefused):
    """The token is another issuer's"""


class TokenAudienceWrong(TokenRefused):
    """The token is for another audience"""


class TokenExpired(TokenRefused):
    """The token has expired"""

    remedy = "Ask the service for a new token."


class TokenNotYetValid(TokenRefused):
    """The token is not valid yet"""

    remedy = "Check the clocks of this machine and of the service."


class TokenSubjectWrong(TokenRefused):
    """The token's subject is not a device of this trust domain"""


class TokenNotBound(TokenRefused):
    """The token is not bound to exactly one key"""


class BoundElsewhere(TokenRefused):
    """The token is bound to another key or certificate"""

    remedy = "Present the token with the certificate or the key that it was issued for."


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A genuine token within its time, for us. It proves nothing about who presents it until it is bound.

    Made by `verify_token` only. `binding` and `thumbprint` are `cnf`'s one member and its value.
    """

    text: str
    spiffe_id: SpiffeId
    facts: Facts
    jti: str
    certificate_serial: Serial
    not_after: datetime
    binding: Literal["x5t#S256", "jkt"]
    thumbprint: str

    def __repr__(self) -> str:  # a token stays out of logs
        return f"VerifiedToken({self.spiffe_id}, jti={self.jti})"


@dataclass(frozen=True, slots=True)
class BoundToken:
    """A verified token whose presenter holds the key that it is bound to. Made by the `bind_…` functions only."""

    token: VerifiedToken
    issuer_serials: tuple[Serial, ...]
    not_after: datetime


def verify_token(
    token: str,
    *,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    issuer: str,
    audience: str,
    trust_domain: TrustDomain,
    now: datetime,
) -> VerifiedToken:
    """The token's claims, proven to be the service's, for this audience and time.

    `keys`: the service's token keys by key id (`Bundle.verification_keys`). Raises Unauthenticated, nothing else.
    """
    try:
        # 1. One type, one algorithm, 8 kB; the key is one of ours, whatever the header says about others.
        signed = UnverifiedJws.read(token, typ=TOKEN_TYP, limit=MAX_TOKEN, name="token")
        kid = signed.unverified_header.text("kid", limit=128)
        if (key := keys.get(kid)) is None:
            raise TokenKeyUnknown(seen=repr(kid), expected="one of the bundle's token keys")
        # 2. Signed: from here on the claims are the service's words.
        claims = _claims(signed.verified_by(key))
        # 3. The service's, for us, now.
        if claims.issuer != issuer:
            raise TokenIssuerWrong(seen=repr(claims.issuer), expected=issuer)
        if claims.audience != audience:
            raise TokenAudienceWrong(seen=repr(claims.audience), expected=audience)
        expires = datetime.fromtimestamp(claims.expires, UTC)
        if expires <= now:
            raise TokenExpired(seen=now, expected=f"before {expires}")
        begins = datetime.fromtimestamp(max(claims.not_before, claims.issued_at), UTC)
        if begins > now + CLOCK_SKEW:
            raise TokenNotYetValid(seen=now, expected=f"from {begins} on")
        # 4. About a device of ours, bound to exactly one key.
        verified = VerifiedToken(
            text=token,
            spiffe_id=_subject(claims.subject, trust_domain),
            facts=claims.facts,
            jti=claims.jti,
            certificate_serial=Serial.parse(claims.serial),
            not_after=expires,
            binding=claims.binding,
            thumbprint=claims.thumbprint,
        )
    except (MalformedInput, InputTooLarge) as error:
        raise TokenMalformed(error.detail, seen=error.seen, expected=error.expected) from error
    return verified


class _Claims(NamedTuple):
    """A token's claims, well formed each by itself."""

    facts: Facts
    audience: str
    binding: Literal["x5t#S256", "jkt"]
    thumbprint: str
    expires: int  # unix seconds
    issued_at: int  # unix seconds
    not_before: int  # unix seconds
    issuer: str
    jti: str
    serial: str
    subject: str


def _claims(payload: bytes) -> _Claims:
    """Raises MalformedInput, InputTooLarge or TokenNotBound."""
    facts, between, rest = payload.rpartition(b',"aud":')
    match = _AFTER_FACTS.fullmatch(rest.decode("ascii", "replace"))
    if between and match is not None and facts.startswith(_BEFORE_FACTS):
        try:
            said = Facts.decode(facts[len(_BEFORE_FACTS) :])
        except (MalformedInput, InputTooLarge):
            pass  # the long way names the fault
        else:
            audience, binding, thumbprint, expires, issued_at, issuer, jti, not_before, serial, index, _, subject = (
                match.groups()
            )
            if int(index) == said.status_index:
                times = int(expires), int(issued_at), int(not_before)
                kind: Literal["x5t#S256", "jkt"] = "jkt" if binding == "jkt" else "x5t#S256"
                return _Claims(said, audience, kind, thumbprint, *times, issuer, jti, serial, subject)
    return _read_claims(payload)


def _read_claims(payload: bytes) -> _Claims:
    """The long way, for every spelling."""
    claims = Members(read_object(payload, limit=MAX_TOKEN, name="token's claims"), "token")
    issuer, audience = claims.text("iss", limit=2048), claims.text("aud", limit=2048)  # a list, of one too, is no text
    issued_at, not_before, expires = _time(claims, "iat"), _time(claims, "nbf"), _time(claims, "exp")
    subject = claims.text("sub", limit=2048)
    binding, thumbprint = _confirmation(claims.object("cnf"))
    facts = Facts.read(claims.object("attestd"), octets=len(payload))
    jti, serial = _jti(claims.text("jti", limit=64)), claims.text("srl", limit=40)
    if "status" in claims:
        _same_status(claims.object("status"), facts)
    claims.done()
    times = expires, issued_at, not_before
    return _Claims(facts, audience, binding, thumbprint, *times, issuer, jti, serial, subject)


def _same_status(status: Members, facts: Facts) -> None:
    """Where other relying parties look (draft-ietf-oauth-status-list-21, section 6.2): the entry that we look at."""
    listed = status.object("status_list")
    index = listed.integer("idx")
    listed.text("uri", limit=2048)
    if index != facts.status_index:
        raise MalformedJson("The token names two entries of the status list.", seen=index, expected=facts.status_index)
    listed.done()
    status.done()


def _time(claims: Members, name: str) -> int:
    seconds = claims.integer(name)
    if not 0 < seconds < _MAX_TIME:
        raise MalformedJson(f"{name} is not a time.", expected="unix seconds")
    return seconds


def _subject(text: str, trust_domain: TrustDomain) -> SpiffeId:
    try:
        spiffe_id = SpiffeId.parse(text)
        spiffe_id.device  # noqa: B018  (raises for operators, proxies, the service)
    except MalformedName as error:
        raise TokenSubjectWrong(error.detail, seen=error.seen, expected=error.expected) from error
    if spiffe_id.trust_domain != trust_domain:
        raise TokenSubjectWrong(
            "The token's subject is of another trust domain.", seen=spiffe_id.trust_domain, expected=trust_domain
        )
    return spiffe_id


def _confirmation(cnf: Members) -> tuple[Literal["x5t#S256", "jkt"], str]:
    names = sorted(name for name, _ in cnf.items())
    for binding in ("x5t#S256", "jkt"):
        if names == [binding]:
            cnf.octets(binding, limit=32, least=32)
            return binding, cnf.text(binding)
    raise TokenNotBound(seen=", ".join(names[:4])[:80], expected="exactly one of x5t#S256 and jkt")


def _jti(text: str) -> str:
    if not _JTI.fullmatch(text):
        raise MalformedJson("jti is not a token id.", expected="1 to 64 characters of base64url")
    return text


def bind_to_certificate(token: VerifiedToken, certificate: VerifiedCertificate) -> BoundToken:
    """RFC 8705, section 3: the presenter's connection is authenticated with the very certificate that `cnf` names.

    `certificate` was verified for this request, so the token can't outlive it. Raises BoundElsewhere.
    """
    if token.binding != "x5t#S256":
        raise BoundElsewhere("The token is not bound to a certificate.", seen=token.binding, expected="x5t#S256")
    if not hmac.compare_digest(token.thumbprint, certificate.thumbprint):
        raise BoundElsewhere("The token is bound to another certificate.", seen=certificate.thumbprint)
    # The thumbprint says it all, if the service made no mistake; these two are what revocation and policies go by.
    if token.certificate_serial != certificate.serial:
        raise BoundElsewhere("The token names another serial number than its certificate's.")
    if token.spiffe_id != certificate.spiffe_id:
        raise BoundElsewhere("The token names another device than its certificate.")
    return BoundToken(token, certificate.issuer_serials, min(token.not_after, certificate.not_after))


def bind_to_proof(
    token: VerifiedToken,
    proof: str,
    *,
    method: str,
    uri: str,
    nonces: EdgeNonces,
    replays: ReplayCache,
    now: datetime,
) -> BoundToken:
    """RFC 9449, section 7: the presenter proved, for this one request, that it holds the key that `cnf` names.

    Raises BoundElsewhere, or what `verify_dpop` raises (Unauthenticated or Limited).
    """
    if token.binding != "jkt":
        raise BoundElsewhere("The token is not bound to a key for proofs.", seen=token.binding, expected="jkt")
    verify_dpop(
        proof,
        method=method,
        uri=uri,
        token=token.text,
        jkt=token.thumbprint,
        nonces=nonces,
        replays=replays,
        now=now,
    )
    return BoundToken(token, (), token.not_after)


def token_identity(bound: BoundToken, *, status: StatusList, revoked: Container[Serial]) -> VerifiedIdentity:
    """The device behind a bound token, if neither the certificate that the token stems from nor the device fell.

    Raises CredentialRevoked, StatusUnknown, DeviceSuspended or DeviceRevoked.
    """
    return admit(
        spiffe_id=bound.token.spiffe_id,
        facts=bound.token.facts,
        serials=(bound.token.certificate_serial, *bound.issuer_serials),
        credential_id=bound.token.jti,
        not_after=bound.not_after,
        kind="jwt",
        status=status,
        revoked=revoked,
    )
