"""The roots that an edge believes: those in its configuration, and those that they introduced since.

What the configuration names is where the edge begins. Once it has followed a root to the next one, the state folder
says what counts: an edge that was told of a root's retirement does not believe it again after a restart. Only another
configuration, an operator's own act, begins anew (docs/protocol.md, section 5).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from attestd.credentials.certificates import MAX_CERTIFICATE
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured
from attestd.protocol.encoding import Members, b64encode, read_object, write_object
from attestd_edge.files import FileUnreadable, read_file, replace_file

ROOTS_FILE = "roots.json"
_MAX_FILE = 256 * 1024  # octets
_MAX_ROOTS = 16

logger = logging.getLogger("attestd_edge.roots")


class RootsUnreadable(Misconfigured):
    """The record of the roots that this edge follows is damaged"""

    remedy = (
        "Put the service's current root where the configuration says, then remove roots.json from the state folder: "
        "the edge begins anew with that root."
    )


class PinnedRoots:
    """One state folder's roots (DER)."""

    def __init__(self, folder: Path, configured: Sequence[bytes]) -> None:
        """`configured`: the roots that the configuration pins. Raises RootsUnreadable."""
        self._path = folder / ROOTS_FILE
        self._configured = tuple(configured)
        self.current = self._read()

    def look(self) -> None:
        """Another process may have followed meanwhile. Raises RootsUnreadable."""
        self.current = self._read()

    def keep(self, roots: Sequence[bytes]) -> None:
        """Puts them on the disk, synced, then in use. Raises FileUnwritable; then nothing has changed."""
        if tuple(roots) == self.current:
            return
        members = {"v": 1, "from": self._fingerprints(), "roots": [b64encode(root) for root in roots]}
        replace_file(self._path, write_object(members), mode=0o640)
        shown = ", ".join(hashlib.sha256(root).hexdigest() for root in roots)
        logger.warning("the service's root was replaced: believed from now on, by sha256: %s", shown)
        self.current = tuple(roots)

    def _read(self) -> tuple[bytes, ...]:
        if not self._path.exists():
            return self._configured
        try:
            members = Members(
                read_object(read_file(self._path, limit=_MAX_FILE), limit=_MAX_FILE, name="roots"), "roots"
            )
            members.version()
            begun = members.texts("from", most=_MAX_ROOTS, limit=64)
            roots = members.many_octets("roots", limit=MAX_CERTIFICATE, most=_MAX_ROOTS)
            members.done()
        except (MalformedInput, InputTooLarge, FileUnreadable) as error:
            raise RootsUnreadable(f"{self._path} can't be read: {error}") from error
        if list(begun) != self._fingerprints():
            return self._configured
        if not roots:
            raise RootsUnreadable(f"{self._path} names no root.")
        return roots

    def _fingerprints(self) -> list[str]:
        return sorted(hashlib.sha256(root).hexdigest() for root in self._configured)
