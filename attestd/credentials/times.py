"""The service's time, signed, for devices whose own clock can't be trusted (docs/protocol.md, section 7).

A compact JWS, header `{alg, typ, x5c}`, by a key that a pinned root delegated to bundles and times (BUNDLE_EKU).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from attestd.credentials.delegation import BUNDLE_EKU, delegated_signer
from attestd.credentials.jws import UnverifiedJws
from attestd.errors import Unauthenticated
from attestd.protocol.encoding import Members, read_object

TIME_TYP: Final = "attestd-time+jws"
MAX_TIME_ANSWER: Final = 16 * 1024
_MAX_TIME: Final = 1 << 40


class TimeNonceWrong(Unauthenticated):
    """This time answers another question"""

    remedy = "Ask again with a fresh nonce."


class TimeBehindFloor(Unauthenticated):
    """This time lies before one that is already proven"""

    remedy = "Check the service's clock."


def verify_time(jws: str, *, roots: Sequence[bytes], nonce: bytes, floor: datetime) -> datetime:
    """The service's time, in answer to `nonce`, for a device that only knows that it is not before `floor`.

    The signer is judged at the time that it states, which its own certificate must cover.
    Raises MalformedInput, InputTooLarge, Unauthenticated.
    """
    # 1. Signed by a key that a pinned root delegated to this.
    signed = UnverifiedJws.read(jws, typ=TIME_TYP, limit=MAX_TIME_ANSWER, name="time answer")
    signer, *above = delegated_signer(signed.unverified_header, roots, BUNDLE_EKU)
    members = Members(read_object(signed.verified_by(signer.key), limit=MAX_TIME_ANSWER, name="time"), "time")
    answered, seconds = members.octets("nonce", limit=256), members.number("time", most=_MAX_TIME)
    members.done()
    # 2. In answer to this very question.
    if not hmac.compare_digest(answered, nonce):
        raise TimeNonceWrong
    # 3. Within the signer's own validity, and not before what is already known.
    time = datetime.fromtimestamp(seconds, UTC)
    for certificate in (signer, *above):
        certificate.check_dates(time)
    if time < floor:
        raise TimeBehindFloor(seen=time, expected=f"{floor} or later")
    return time
