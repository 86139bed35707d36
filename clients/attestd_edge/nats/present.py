"""The device's side: how a program logs in to a nats-server with a bound token, without a certificate in its TLS layer.

    await nats.connect(address, **login_options(token, sign=…, jwk=…, origin="https://nats.munich.example.org", …))

Each attempt to connect makes a proof over that connection's challenge; programs with a certificate need none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attestd.credentials.dpop import make_dpop
from attestd.protocol.signed import Sign
from attestd_edge.nats.login import CONNECT, PROOF_PATH


def login_options(
    token: Callable[[], str],
    *,
    sign: Sign,
    jwk: Mapping[str, str],
    origin: str,
    now: Callable[[], datetime],
    entropy: Callable[[int], bytes],
) -> dict[str, Any]:
    """Options for nats-py's `connect`. `token` gives the current token, `sign` is the key's that it is bound to.

    The token goes as `auth_token`: nats-py asks for a JWT only where a seed is configured, too.
    """
    last = ""

    def prove(challenge: str) -> bytes:
        nonlocal last
        last = token()  # once for each attempt: the proof and the token that goes with it are of one moment
        return make_dpop(
            sign=sign,
            jwk=jwk,
            method=CONNECT,
            uri=origin + PROOF_PATH,
            token=last,
            nonce=challenge,
            now=now(),
            entropy=entropy,
        ).encode()

    def proven() -> str:  # asked for after the proof
        return last

    return {"signature_cb": prove, "token": proven}
