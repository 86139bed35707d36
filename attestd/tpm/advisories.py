"""Advisories: TPM firmware that is known to be weak, by maker, model and version. Facts, read from a file.

    [[advisory]]
    id = "CVE-2019-16863"                # or the maker's own name for it
    maker = "STM"                        # TCG vendor id, as endorsements show it
    models = ["ST33TPHF2ESPI"]           # how the certificate's model begins; left out: every model
    firmware = ["73.0 - 73.4", "73.8"]   # versions and ranges, both ends included
    claim = "warning"                    # or "contraindicated": what a device of this kind is told to be worth
    means = "…"                          # one sentence for people
    source = "https://…"

An instance's own file takes the place of the one that comes with attestd, whole: see docs/endorsements.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, cast

from attestd.errors import Misconfigured
from attestd.tpm.firmware import Firmware, read_dotted

MAX_FILE: Final = 256 * 1024
_MAX_ADVISORIES: Final = 500
_MAX_LISTED: Final = 64  # models or ranges of one advisory
_MAX_TEXT: Final = 400
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)
_MEMBERS: Final = frozenset({"id", "maker", "models", "firmware", "claim", "means", "source"})


class AdvisoriesInvalid(Misconfigured):
    """The file of TPM advisories can't be used"""

    remedy = "Correct the named advisory; certs/tpm-advisories.toml is an example."


@dataclass(frozen=True, slots=True)
class Advisory:
    """One known weakness. `firmware` are ranges of versions, both ends included."""

    id: str
    maker: str
    models: tuple[str, ...]
    firmware: tuple[tuple[Firmware, Firmware], ...]
    claim: Literal["warning", "contraindicated"]
    means: str
    source: str

    def concerns(self, manufacturer: str, model: str, firmware: Firmware | None) -> bool:
        """Whether a chip of this kind may have the weakness. Nothing is said of one whose version can't be read."""
        return (
            firmware is not None
            and manufacturer == self.maker
            and (not self.models or model.startswith(self.models))
            and any(firmware.may_be_within(first, last) for first, last in self.firmware)
        )


@dataclass(frozen=True, slots=True)
class Advisories:
    """All that are known; none is a valid answer. `document` is the file that they were read from."""

    listed: tuple[Advisory, ...] = ()
    document: bytes = field(default=b"", repr=False)

    def concerning(self, manufacturer: str, model: str, firmware: Firmware | None) -> tuple[Advisory, ...]:
        """Those that a chip of this kind may have."""
        return tuple(found for found in self.listed if found.concerns(manufacturer, model, firmware))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Reads a file. Raises AdvisoriesInvalid naming the advisory and its member."""
        if len(data) > MAX_FILE:
            raise AdvisoriesInvalid("The file is too large.", seen=f"{len(data)} octets", expected=MAX_FILE)
        try:
            document = tomllib.loads(data.decode("utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise AdvisoriesInvalid("The file is not TOML.", seen=str(error)[:120]) from None
        entries = document.get("advisory", [])
        if set(document) - {"advisory"} or not isinstance(entries, list) or len(entries) > _MAX_ADVISORIES:
            raise AdvisoriesInvalid(
                seen=", ".join(sorted(document))[:120], expected=f"at most {_MAX_ADVISORIES} [[advisory]] tables"
            )
        listed = tuple(_read(entry, number) for number, entry in enumerate(entries, 1))
        if len({found.id for found in listed}) != len(listed):
            raise AdvisoriesInvalid("An advisory is listed twice.")
        return cls(listed, data)


def _read(entry: object, number: int) -> Advisory:
    where = f"Advisory {number}"
    if not isinstance(entry, dict) or set(entry) - _MEMBERS or not _MEMBERS - {"models"} <= set(entry):
        seen = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise AdvisoriesInvalid(f"{where} has not the right members.", seen=seen, expected=sorted(_MEMBERS))
    name = _text(entry, "id", where)
    if not _ID.fullmatch(name):
        raise AdvisoriesInvalid(f"{where}: id is no name.", seen=ascii(name[:60]), expected="letters, digits and . _ -")
    claim = _text(entry, "claim", where)
    if claim not in ("warning", "contraindicated"):
        raise AdvisoriesInvalid(f"{where}: claim is unknown.", seen=ascii(claim), expected="warning or contraindicated")
    firmware = tuple(_range(text, where) for text in _texts(entry, "firmware", where))
    if not firmware:
        raise AdvisoriesInvalid(f"{where}: firmware names no version.", expected='like ["7.0 - 7.61"]')
    return Advisory(
        id=name,
        maker=_text(entry, "maker", where),
        models=_texts(entry, "models", where) if "models" in entry else (),
        firmware=firmware,
        claim=cast("Literal['warning', 'contraindicated']", claim),
        means=_text(entry, "means", where),
        source=_text(entry, "source", where),
    )


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    text = entry[name]
    if not isinstance(text, str) or not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise AdvisoriesInvalid(f"{where}: {name} is not one line of text.", seen=ascii(text)[:80])
    return text


def _texts(entry: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    texts = entry[name]
    if not isinstance(texts, list) or len(texts) > _MAX_LISTED:
        raise AdvisoriesInvalid(f"{where}: {name} is not a list.", expected=f"at most {_MAX_LISTED} texts")
    return tuple(_text({name: text}, name, where) for text in texts)


def _range(text: str, where: str) -> tuple[Firmware, Firmware]:
    """ "7.0 - 7.61", or one version."""
    begin, dash, end = text.partition(" - ")
    first, last = read_dotted(begin), read_dotted(end if dash else begin)
    if first is None or last is None or first.parts > last.parts:
        raise AdvisoriesInvalid(
            f"{where}: firmware is no range.", seen=ascii(text[:60]), expected='like "7.0 - 7.61" or "73.8"'
        )
    return first, last
