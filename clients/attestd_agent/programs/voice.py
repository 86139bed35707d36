"""A program's side of the agent's door: asks over a Unix socket for what one request takes (docs/programs.md)."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from attestd.errors import AttestdError, Forbidden, InputTooLarge, MalformedInput, Unavailable
from attestd.protocol.encoding import Members, read_object, write_object

PATH = "/v1/presentations"
MAX_ANSWER = 64 * 1024  # octets
_PATIENCE = 60.0  # seconds: a new token takes the service, and a slow TPM takes its time


class DoorUnreachable(Unavailable):
    """The agent's door does not answer"""

    remedy = (
        "Check that `attestd-agent serve` runs, that the path is its socket, and that this program's user is in the "
        "socket's group."
    )


class PresentationRefused(Forbidden):
    """The agent does not present the device like this"""


class PresentationFailed(Unavailable):
    """The agent can't present the device now"""


class Voice:
    """Asks the door at this path. Safe for threads: each question is a connection of its own."""

    def __init__(self, path: Path, *, patience: float = _PATIENCE) -> None:
        self._path = path
        self._patience = patience

    def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
        """`Authorization` and `DPoP` for one request. Raises DoorUnreachable, PresentationRefused or
        PresentationFailed, which say what the agent said."""
        asked = {"v": 1, "method": method, "url": url, "audience": audience, "nonce": edge_nonce}
        status, body = self._exchange(write_object(asked))
        try:
            told = Members(read_object(body, limit=MAX_ANSWER, name="agent's answer"), "answer")
            if status == 200:
                told.version()
                headers = {name: told.text(name.lower(), limit=16 * 1024) for name in ("Authorization", "DPoP")}
                told.done()
                return headers
            why, remedy = told.text("detail", limit=4096), told.text("remedy", limit=4096)
        except (MalformedInput, InputTooLarge) as error:
            raise DoorUnreachable(f"Somebody else answers at the agent's door: {error}") from error
        raise _refused(status, why, remedy)

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=self._patience)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(self._patience)
            connection.sock.connect(str(self._path))
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException) as failure:
            raise DoorUnreachable(f"{self._path}: {failure or type(failure).__name__}") from failure
        finally:
            connection.close()


def _refused(status: int, why: str, remedy: str) -> AttestdError:
    refused = PresentationFailed(why) if status >= 500 else PresentationRefused(why)
    refused.what_to_do = remedy
    return refused
