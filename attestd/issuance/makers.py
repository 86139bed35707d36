"""The facts about TPM makers that come with the product: their known certificates, and advisories on their firmware."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from attestd.config import SettingInvalid
from attestd.tpm.advisories import MAX_FILE, Advisories, AdvisoriesInvalid
from attestd.tpm.ekcert import Quirk
from attestd.tpm.known_makers import Manifest

ADVISORIES = "tpm-advisories.toml"  # in an instance's folder: takes the place of the one that comes with the product


@cache
def known_makers() -> Manifest:
    """The manifest of known makers' certificates (certs/tpm-roots). It identifies certificates, and trusts none."""
    return Manifest.parse((resources.files("attestd_certs") / "tpm-roots" / "manifest.csv").read_bytes())


@cache
def known_advisories(dir: Path | None = None) -> Advisories:
    """The instance's own file of advisories, or the one that comes with the product. Raises AdvisoriesInvalid."""
    own = None if dir is None else dir / ADVISORIES
    if own is None or not own.exists():
        return Advisories.parse((resources.files("attestd_certs") / ADVISORIES).read_bytes())
    try:
        with own.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise AdvisoriesInvalid(f"{own} can't be read.", seen=error.strerror) from None
    return Advisories.parse(data)


def read_quirks(names: Iterable[str]) -> frozenset[Quirk]:
    """`endorsement.refuse_quirks`. Raises SettingInvalid: a slip in a name must not let something through."""
    wanted = [name for name in names if name]
    known = {quirk.value: quirk for quirk in Quirk}
    if unknown := sorted(set(wanted) - set(known)):
        raise SettingInvalid(
            "These are no quirks that are known.", seen=", ".join(unknown)[:200], expected=", ".join(sorted(known))
        )
    return frozenset(known[name] for name in wanted)
