"""`[console.oidc.NAME]`: OpenID providers, one table each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from attestd.config.sections import OidcSettings
from attestd.config.values import SettingInvalid, read_text, read_texts

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_NEEDED: Final = frozenset({"issuer", "client_id"})
_KNOWN: Final = _NEEDED | {"client_secret_file", "label", "scopes", "roles", "ca"}
_ROLES: Final = ("viewer", "operator", "admin")


def read_providers(tables: object) -> tuple[OidcSettings, ...]:
    """The tables below `[console.oidc]`. Raises SettingInvalid, naming the setting."""
    if not isinstance(tables, dict):
        raise SettingInvalid("[console.oidc] is not a table.", expected="[console.oidc.NAME]")
    return tuple(_provider(name, entry) for name, entry in sorted(tables.items()))


def _provider(name: str, entry: object) -> OidcSettings:
    where = f"console.oidc.{name}"
    if not _NAME.fullmatch(name):
        raise SettingInvalid("A provider has no proper name.", seen=repr(name)[:80], expected="a-z 0-9 -")
    if not isinstance(entry, dict) or set(entry) - _KNOWN or not set(entry) >= _NEEDED:
        raise SettingInvalid(
            f"[{where}] is not a provider.",
            seen=", ".join(sorted(entry)) if isinstance(entry, dict) else repr(entry)[:80],
            expected="issuer, client_id, and maybe client_secret_file, label, scopes, roles, ca",
        )
    texts = {
        key: read_text(entry[key], f"{where}.{key}")
        for key in ("issuer", "client_id", "client_secret_file", "label", "ca")
        if key in entry
    }
    if not texts["client_id"]:
        raise SettingInvalid(f"{where}.client_id is empty.")
    scopes = read_texts(entry["scopes"], f"{where}.scopes") if "scopes" in entry else OidcSettings("", "", "").scopes
    if "openid" not in scopes:
        raise SettingInvalid(f"{where}.scopes lacks openid.", seen=", ".join(scopes)[:80], expected='["openid", …]')
    claim, roles = _roles(entry.get("roles", {}), where)
    _require_issuer(texts["issuer"], where)
    return OidcSettings(
        name=name,
        issuer=texts["issuer"],
        client_id=texts["client_id"],
        client_secret_file=texts.get("client_secret_file", ""),
        label=texts.get("label", "") or name,
        scopes=scopes,
        roles_claim=claim,
        roles=roles,
        ca=texts.get("ca", ""),
    )


def _require_issuer(issuer: str, where: str) -> None:
    """HTTPS, but for a provider on this very machine (OpenID Connect Discovery 1.0, section 3)."""
    parts = urlsplit(issuer)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not (parts.hostname and (parts.scheme == "https" or local)) or parts.query or parts.fragment or parts.username:
        raise SettingInvalid(f"{where}.issuer is not an issuer.", seen=repr(issuer)[:120], expected="https://…")


def _roles(entry: Any, where: str) -> tuple[str, Mapping[str, tuple[str, ...]]]:
    """`{ claim = "groups", admin = ["…"], … }`."""
    if not isinstance(entry, dict) or set(entry) - {"claim", *_ROLES} or (entry and "claim" not in entry):
        raise SettingInvalid(
            f"{where}.roles gives no roles.",
            seen=repr(entry)[:120],
            expected='{ claim = "groups", admin = ["fleet-admins"], operator = [], viewer = [] }',
        )
    if not entry:
        return "", {}
    claim = read_text(entry["claim"], f"{where}.roles.claim")
    found = {role: read_texts(entry[role], f"{where}.roles.{role}") for role in _ROLES if role in entry}
    if not claim or any(not value for values in found.values() for value in values):
        raise SettingInvalid(f"{where}.roles holds an empty name.", seen=repr(entry)[:120])
    return claim, found
