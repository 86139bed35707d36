"""For programs on the device: its credential, its tokens, and proofs of possession made by the TPM.

    session = DeviceSession.open(Path("/var/lib/attestd-agent"))
    headers = session.dpop_headers("GET", "https://shop-17.example/readings", audience="readings")

A program that runs as another user asks `attestd-agent serve` instead (attestd_agent.programs).
With mutual TLS no session is needed: OpenSSL's tpm2 provider uses `credentials/key.pem` and `chain.pem` as they are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from attestd.credentials.dpop import make_dpop
from attestd.credentials.jwk import public_jwk
from attestd_agent.agent import Agent, NotEnrolled
from attestd_agent.assemble import DEFAULT_TCTI, Options, assemble
from attestd_agent.records import Enrolled

_MARGIN = 30.0  # seconds before its end from which on a token is not used any more


class DeviceSession:
    """An enrolled device's voice. Safe for threads; they take turns at the TPM."""

    def __init__(self, agent: Agent, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._agent = agent
        self._entropy = entropy
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str, int], tuple[str, float]] = {}

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        tcti: str = DEFAULT_TCTI,
        server: str | None = None,
        ca: str | None = None,
        eventlog: Path | None = None,
        ima: Path | None = None,
    ) -> Self:
        """What is not given comes from the state folder; the logs from the kernel, if the TPM is the kernel's."""
        return cls(assemble(Options(state_dir, tcti=tcti, server=server, ca=ca, eventlog=eventlog, ima=ima)))

    @property
    def enrolled(self) -> Enrolled:
        """The current credential, read anew each time: the daemon renews it. Raises NotEnrolled."""
        known = self._agent.state.load()
        if known is None:
            raise NotEnrolled(seen=str(self._agent.state.path))
        return known

    @property
    def chain_path(self) -> Path:
        return self._agent.state.chain_path

    @property
    def key_path(self) -> Path:
        return self._agent.state.key_path

    @property
    def ear(self) -> str:
        """The newest attestation's result, a JWT that relying parties verify; empty where the service sent none."""
        return self.enrolled.ear

    def sign(self, data: bytes) -> bytes:
        """ES256 by the credential key (r ‖ s), in the TPM."""
        return self._agent.device.sign(self.enrolled.ck, data)

    def token(self, audience: str, *, binding: str = "dpop") -> str:
        """A token for `audience`; the last one again while it is good for a while yet and the certificate the same."""
        with self._lock:
            slot = (audience, binding, self.enrolled.leaf.serial_number)
            now = self._agent.clock.now().timestamp()
            kept = self._tokens.get(slot)
            if kept is not None and now < kept[1]:
                return kept[0]
            answer = self._agent.token(audience, binding=binding)
            self._tokens = {place: entry for place, entry in self._tokens.items() if now < entry[1]}
            self._tokens[slot] = (answer.token, now + answer.expires_in - _MARGIN)
            return answer.token

    def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
        """`Authorization` and `DPoP` for one request (RFC 9449, sections 4 and 7.1).

        `edge_nonce` is the DPoP-Nonce header of the edge's last answer; the first request may go without, and is then
        answered by 401 with one.
        """
        token = self.token(audience)
        with self._lock:
            known = self.enrolled
            proof = make_dpop(
                sign=lambda data: self._agent.device.sign(known.ck, data),
                jwk=public_jwk(known.ck.key),
                method=method,
                uri=url,
                token=token,
                nonce=edge_nonce,
                now=self._agent.clock.now(),
                entropy=self._entropy,
            )
        return {"Authorization": f"DPoP {token}", "DPoP": proof}


class LastingSession:
    """The session of a process that stays for months: opened with the first question, so that it may start before the
    device is enrolled, and anew when the daemon has followed the service to another root."""

    def __init__(self, open: Callable[[], DeviceSession], *, roots: Callable[[], bytes | None]) -> None:
        self._open = open
        self._roots = roots
        self._lock = threading.Lock()
        self._opened: tuple[bytes | None, DeviceSession] | None = None

    def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
        """As a DeviceSession's."""
        return self._session().dpop_headers(method, url, audience=audience, edge_nonce=edge_nonce)

    def _session(self) -> DeviceSession:
        roots = self._roots()
        with self._lock:
            if self._opened is None or self._opened[0] != roots:
                self._opened = (roots, self._open())
            return self._opened[1]
