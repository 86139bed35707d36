"""Certificate profiles: what each kind of certificate may be, and the proof that their lifetimes nest.

A profile is one TOML file (certs/profiles/*.toml; an instance may bring a folder of its own). Every value in it narrows
what `certificates.issue` signs. The rules come from the SPIFFE X.509-SVID specification, sections 3.1, 4.1 and 4.3: a
leaf's key signs, and is never a CA's. In one point profiles say less than its section 4.4, which wants clientAuth and
serverAuth in every leaf that names purposes: a device's certificate can't stand for a server, on purpose.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestd.config import parse_duration
from attestd.errors import Misconfigured
from attestd.ids import SpiffeId, Tier

# The profiles that the service issues by. A folder that lacks one is refused at start, not at the first request.
PROFILE_NAMES = ("device", "edge", "cloud", "server", "admin", "proxy")

_PURPOSES = {"clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH, "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH}
_USAGES = ("digitalSignature", "keyAgreement")
_PATH = re.compile(r"(/([a-z0-9][a-z0-9._-]{0,63}|\*)){1,8}", re.ASCII)
_MEMBERS = frozenset(("path", "lifetime", "backdate", "key_usage", "extended_key_usage", "facts", "names"))
_MAX_FILE = 16 * 1024
_MAX_BACKDATE = timedelta(hours=1)


class ProfileMissing(Misconfigured):
    """A certificate profile is missing"""

    remedy = "Put all profiles into the folder: a folder of one's own replaces the whole set."


class ProfileInvalid(Misconfigured):
    """A certificate profile can't be used"""

    remedy = "Correct the named line of the profile; certs/profiles/*.toml are examples."


class LifetimesContradict(Misconfigured):
    """The lifetimes do not nest"""

    remedy = "Shorten the lifetime on the left of each VIOLATED comparison, or lengthen the one on its right."


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of certificate. `path` is the SPIFFE ID's, where "*" stands for any one segment."""

    name: str
    path: tuple[str, ...]
    lifetime: timedelta
    backdate: timedelta  # for verifiers whose clock is behind
    extended_key_usage: tuple[x509.ObjectIdentifier, ...]
    key_usage: frozenset[str]  # by their names in RFC 5280, section 4.2.1.3
    facts: bool  # must the certificate carry facts about a device; if not, it must not
    names: bool  # may it carry DNS names and IP addresses

    @property
    def tier(self) -> Tier | None:
        """The tier whose machines get this profile, if it is for machines."""
        return Tier(self.path[0]) if self.path[0] in set(Tier) else None

    def covers(self, spiffe_id: SpiffeId) -> bool:
        """Whether this profile may be issued to this identity."""
        if len(self.path) != len(spiffe_id.path):
            return False
        for mine, theirs in zip(self.path, spiffe_id.path, strict=True):  # noqa: SIM110 - a third of any()'s time
            if mine not in ("*", theirs):
                return False
        return True

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """From the TOML text of `<name>.toml`. Raises ProfileInvalid, SettingInvalid."""
        where = f"profile {name}"
        try:
            members = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ProfileInvalid(f"{where} is not TOML.", seen=error) from None
        if set(members) != _MEMBERS:
            wrong = sorted(set(members) ^ _MEMBERS)
            raise ProfileInvalid(f"{where} lacks or adds settings: {', '.join(wrong)}.", expected=sorted(_MEMBERS))
        path = members["path"]
        if not isinstance(path, str) or not _PATH.fullmatch(path) or path.startswith("/*"):
            raise ProfileInvalid(f"{where}: path is not a SPIFFE ID's.", seen=path, expected='like "/device/*/*"')
        profile = cls(
            name=name,
            path=tuple(path[1:].split("/")),
            lifetime=parse_duration(members["lifetime"], f"{where}: lifetime"),
            backdate=parse_duration(members["backdate"], f"{where}: backdate"),
            extended_key_usage=tuple(
                _PURPOSES[purpose] for purpose in _chosen(members, "extended_key_usage", tuple(_PURPOSES), where)
            ),
            key_usage=frozenset(_chosen(members, "key_usage", _USAGES, where)),
            facts=_flag(members, "facts", where),
            names=_flag(members, "names", where),
        )
        if profile.backdate > _MAX_BACKDATE:
            raise ProfileInvalid(f"{where}: backdate is too long.", seen=profile.backdate, expected="at most 1h")
        if "digitalSignature" not in profile.key_usage:
            raise ProfileInvalid(f"{where}: key_usage lacks digitalSignature.", seen=sorted(profile.key_usage))
        if profile.facts != (profile.tier is not None):
            raise ProfileInvalid(
                f"{where}: facts go with machines, and only with them.", seen=f"facts = {profile.facts}"
            )
        return profile


def key_usage(usages: frozenset[str]) -> x509.KeyUsage:
    """The extension for these usages, by their names in RFC 5280, section 4.2.1.3."""
    return x509.KeyUsage(
        digital_signature="digitalSignature" in usages,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement="keyAgreement" in usages,
        key_cert_sign="keyCertSign" in usages,
        crl_sign="cRLSign" in usages,
        encipher_only=False,
        decipher_only=False,
    )


def load_profiles(folder: Traversable | None = None) -> Mapping[str, Profile]:
    """All profiles by name, from `folder` (a Path will do) or the ones that come with the product.

    Raises ProfileMissing, ProfileInvalid, SettingInvalid.
    """
    source = resources.files("attestd_certs") / "profiles" if folder is None else folder
    found: dict[str, Profile] = {}
    for name in PROFILE_NAMES:
        file = source / f"{name}.toml"
        try:
            with file.open("rb") as stream:
                data = stream.read(_MAX_FILE + 1)
            text = data.decode("utf-8")
        except FileNotFoundError:
            raise ProfileMissing(f"{file} does not exist.", expected=", ".join(PROFILE_NAMES)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileInvalid(f"{file} can't be read.", seen=error) from None
        if len(data) > _MAX_FILE:
            raise ProfileInvalid(f"{file} is too large.", expected=f"at most {_MAX_FILE} octets")
        found[name] = Profile.parse(name, text)
    return found


def check_lifetimes(
    profiles: Mapping[str, Profile],
    *,
    root: timedelta,
    issuer: timedelta,
    attestation_validity: timedelta,
    token_lifetime: timedelta,
) -> str:
    """Token ≤ certificate ≤ attestation validity ≤ issuer ≤ root (docs/protocol.md, section 4).

    For every profile of a tier, and certificate ≤ issuer for the others. Returns the arithmetic, or raises
    LifetimesContradict with it.
    """
    comparisons: list[tuple[str, timedelta, str, timedelta]] = []
    for name, profile in profiles.items():
        certificate = f"{name} certificate"
        if profile.tier is not None:
            comparisons.append(("token", token_lifetime, certificate, profile.lifetime))
            comparisons.append((certificate, profile.lifetime, "attestation validity", attestation_validity))
        else:
            comparisons.append((certificate, profile.lifetime, "issuer", issuer))
    comparisons.append(("attestation validity", attestation_validity, "issuer", issuer))
    comparisons.append(("issuer", issuer, "root", root))
    return compare_lifetimes(comparisons)


def compare_lifetimes(comparisons: list[tuple[str, timedelta, str, timedelta]]) -> str:
    """Each "this name, this long ≤ that name, that long" with its verdict. Raises LifetimesContradict if one fails."""
    said = []
    for shorter, short, longer, long in comparisons:
        unit = _common_unit(short, long)
        verdict = "holds" if short <= long else "VIOLATED"
        said.append(f"{shorter} {_in(short, unit)} ≤ {longer} {_in(long, unit)}: {verdict}")
    account = "; ".join(said)
    if any(short > long for _, short, _, long in comparisons):
        raise LifetimesContradict(account)
    return account


_UNITS = (
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("min", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
)


def _common_unit(*durations: timedelta) -> tuple[str, timedelta]:
    """The largest unit in which all are whole numbers, so that people can compare them."""
    for name, unit in _UNITS:
        if not any(duration % unit for duration in durations):
            return name, unit
    return _UNITS[-1]


def _in(duration: timedelta, unit: tuple[str, timedelta]) -> str:
    return f"{duration // unit[1]} {unit[0]}"


def _chosen(members: Mapping[str, Any], name: str, allowed: tuple[str, ...], where: str) -> list[str]:
    """A list of one or more of the allowed words, none twice: an empty list would mean "anything" to verifiers."""
    value = members[name]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(word, str) and word in allowed for word in value)
        or len(set(value)) != len(value)
    ):
        raise ProfileInvalid(
            f"{where}: {name} is not a choice.", seen=repr(value)[:80], expected=f"some of {', '.join(allowed)}"
        )
    return list(value)


def _flag(members: Mapping[str, Any], name: str, where: str) -> bool:
    if not isinstance(members[name], bool):
        raise ProfileInvalid(f"{where}: {name} is neither true nor false.", seen=repr(members[name])[:80])
    return bool(members[name])
