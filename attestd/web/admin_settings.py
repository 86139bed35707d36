"""Whom and what an instance trusts: TPM makers, edge proxies, operators, the policy. Viewers look, admins change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response

from attestd.errors import MalformedInput
from attestd.ids import Site
from attestd.policy.source import MAX_POLICY
from attestd.protocol.encoding import Members
from attestd.registry import policies, trust
from attestd.registry.operators import Role
from attestd.registry.policies import MAX_VERSION, StoredPolicy, UnknownPolicy
from attestd.registry.trust import TrustedMaker
from attestd.web.admin_views import NUMBER, Query, answer
from attestd.web.bodies import only_reason, read_message, read_reason
from attestd.web.context import Service, exchange

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAX_KEY: Final = 4096  # characters of a public key in PEM


class NotAFingerprint(MalformedInput):
    """This is not a certificate's SHA-256"""

    remedy = "`attestd trust list` shows them."


@dataclass(frozen=True, slots=True)
class _Settings:
    service: Service

    # ---- TPM makers -------------------------------------------------------------------------------------------

    def list_makers(self) -> Response:
        """GET /v1/admin/trust"""
        Query()
        with self.service.registry.reading() as c:
            found = trust.every(c)
        return answer({"makers": [_maker_members(maker) for maker in found]})

    def add_makers(self) -> Response:
        """POST /v1/admin/trust: a PEM or DER file; all of its certificates, or none"""
        current = exchange()
        added = self.service.operations.add_makers(current.body, current.act())
        return answer({"makers": [_maker_members(maker) for maker in added]})

    def remove_maker(self, sha256: str) -> Response:
        """DELETE /v1/admin/trust/<sha256>"""
        if not _SHA256.fullmatch(sha256):
            raise NotAFingerprint(seen=repr(sha256[:80]), expected="64 hexadecimal digits")
        self.service.operations.remove_maker(bytes.fromhex(sha256), exchange().act())
        return answer({"sha256": sha256.lower()})

    # ---- Policy -----------------------------------------------------------------------------------------------

    def show_policy(self) -> Response:
        """GET /v1/admin/policy"""
        Query()
        with self.service.registry.reading() as c:
            policy = policies.latest(c)
        return answer(_version_members(policy) | {"text": policy.text})

    def set_policy(self) -> Response:
        """PUT /v1/admin/policy"""
        current = exchange()
        message = read_message(current.body)
        text = message.text("text", limit=MAX_POLICY)
        expected, reason = _expected(message), read_reason(message)
        message.done()
        version = self.service.operations.set_policy(text, current.act(reason), expected_version=expected)
        return answer({"version": version})

    def list_policies(self) -> Response:
        """GET /v1/admin/policy/versions: the newest first, without their texts"""
        query = Query("before", "limit")
        limit = query.limit()
        with self.service.registry.reading() as c:
            found = policies.page(c, before=query.number("before"), limit=limit)
        before = found[-1].version if len(found) == limit else None
        return answer({"versions": [_version_members(policy) for policy in found], "before": before})

    def show_version(self, number: str) -> Response:
        """GET /v1/admin/policy/versions/<number>"""
        Query()
        with self.service.registry.reading() as c:
            policy = policies.by_version(c, _version(number))
        return answer(_version_members(policy) | {"text": policy.text})

    def rollback_policy(self) -> Response:
        """POST /v1/admin/policy/rollback: `to` a version; without, to the text before this one"""
        current = exchange()
        message = read_message(current.body)
        to = message.integer("to") if "to" in message else None
        expected, reason = _expected(message), read_reason(message)
        message.done()
        if to is not None and not 0 < to < MAX_VERSION:
            raise UnknownPolicy(seen=to)
        version, of = self.service.operations.rollback_policy(to, current.act(reason), expected_version=expected)
        return answer({"version": version, "of": of})

    # ---- Edge proxies -----------------------------------------------------------------------------------------

    def add_proxy(self) -> Response:
        """POST /v1/admin/proxies"""
        current = exchange()
        message = read_message(current.body)
        name = message.text("name", limit=64)
        site = Site(message.text("site", limit=64))
        public_key = message.text("public_key", limit=_MAX_KEY)
        message.done()
        chain = self.service.certifying.add_proxy(name, site, public_key, current.act())
        return answer({"name": name, "site": site, "chain": chain}, status=201)

    def disable_proxy(self, name: str) -> Response:
        """POST /v1/admin/proxies/<name>/disable"""
        current = exchange()
        read_message(current.body).done()
        self.service.certifying.disable_proxy(name, current.act())
        return answer({"name": name})

    # ---- Operators --------------------------------------------------------------------------------------------

    def add_operator(self) -> Response:
        """POST /v1/admin/operators: the root comes with the chain, for the operator's machine to pin"""
        current = exchange()
        message = read_message(current.body)
        name = message.text("name", limit=64)
        role = Role.parse(message.text("role", limit=16))
        public_key = message.text("public_key", limit=_MAX_KEY)
        message.done()
        chain = self.service.certifying.add_operator(name, role, public_key, current.act())
        root = self.service.publication.root_pem
        return answer({"name": name, "role": role.value, "chain": chain, "root": root}, status=201)

    def disable_operator(self, name: str) -> Response:
        """POST /v1/admin/operators/<name>/disable"""
        current = exchange()
        reason = only_reason(current.body)
        self.service.certifying.disable_operator(name, current.act(reason))
        return answer({"name": name})


def _version(number: str) -> int:
    if not NUMBER.fullmatch(number) or int(number) >= MAX_VERSION:
        raise UnknownPolicy(seen=repr(number[:40]))
    return int(number)


def _expected(message: Members) -> int | None:
    """The version that the author of a change had before them."""
    return message.number("expected_version", most=MAX_VERSION) if "expected_version" in message else None


def _version_members(policy: StoredPolicy) -> dict[str, Any]:
    return {"version": policy.version, "created_at": policy.created_at, "created_by": policy.created_by}


def _maker_members(maker: TrustedMaker) -> dict[str, Any]:
    return {
        "sha256": maker.sha256.hex(),
        "subject": maker.subject,
        "not_after": maker.not_after,
        "is_root": maker.is_root,
        "added_at": maker.added_at,
        "added_by": maker.added_by,
    }


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    settings = _Settings(service)
    routes = Blueprint("admin_settings", __name__, url_prefix="/v1/admin")
    routes.get("/trust")(settings.list_makers)
    routes.post("/trust")(settings.add_makers)
    routes.delete("/trust/<sha256>")(settings.remove_maker)
    routes.get("/policy")(settings.show_policy)
    routes.put("/policy")(settings.set_policy)
    routes.get("/policy/versions")(settings.list_policies)
    routes.get("/policy/versions/<number>")(settings.show_version)
    routes.post("/policy/rollback")(settings.rollback_policy)
    routes.post("/proxies")(settings.add_proxy)
    routes.post("/proxies/<name>/disable")(settings.disable_proxy)
    routes.post("/operators")(settings.add_operator)
    routes.post("/operators/<name>/disable")(settings.disable_operator)
    return routes
