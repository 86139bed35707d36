"""A policy set: parsed once, checked against the schema, used for every decision.

Steps of `PolicySet.parse`, each of which refuses:
1. size and nesting within bounds (source.py says why that comes first);
2. Cedar's grammar;
3. no templates: nothing here links them, so they would look like policies and never apply;
4. each @id at most once: reasons name policies by it;
5. Cedar's validator in strict mode against schema.cedarschema: unknown attributes, actions, tiers or trust levels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, Self

import cedarpy
from cedarpy import pst

from attestd.policy.apart import set_apart, stands_apart
from attestd.policy.reads import Asked, Reads
from attestd.policy.scopes import applicable, of_class, resources_named
from attestd.policy.source import Flaw, PolicyInvalid, Source

_Part = tuple[str, str | None, str | None]  # the kind of resource, the one that is named, the class
_REQUEST: Final = frozenset({"method", "path"})


def default_policy() -> str:
    """The text that a new instance starts with: crossing at home, no tokens."""
    return _resource("default.cedar")


def edge_tokens_policy() -> str:
    """An addition to the default policy that permits devices tokens for the audience "edge"."""
    return _resource("edge-tokens.cedar")


def published_schema() -> str:
    """The schema that policies are checked against, as text."""
    return _resource("schema.cedarschema")


def _resource(name: str) -> str:
    return files("attestd.policy").joinpath(name).read_text(encoding="utf-8")


@cache
def schema() -> cedarpy.Schema:
    """The schema's handle, parsed once a process."""
    return cedarpy.Schema.from_str(published_schema())


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Valid policies. `reads` are the members of `context` that any of them looks at, `sees` what they look at of a
    device, `asked` the facts that they ask for by name (reads.py); `ids` maps the engine's ids to the @id annotations
    (or to the engine's id where a policy has none). `handle` is what the engine decides by: the same policies, which
    ask for a device's own apart (apart.py).

    A request is decided by a part, of those policies that can apply to it (scopes.py): so a boundary does not pay for
    what policies about others look at, either.
    """

    version: int
    text: str
    reads: frozenset[str]
    sees: frozenset[str]
    asked: frozenset[Asked]
    ids: Mapping[str, str]
    handle: cedarpy.PolicySet = field(repr=False)
    _tree: pst.PolicySet | None = field(default=None, repr=False)  # None for a part, which has no parts
    _named: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)
    _parts: dict[_Part, Self] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, version: int) -> Self:
        """Raises PolicyInvalid with line and column, or InputTooLarge."""
        source = Source.read(text)  # 1.
        try:
            handle = cedarpy.PolicySet.from_str(text)  # 2.
        except ValueError as error:
            place = source.place_of_syntax_error(str(error), cedarpy.PolicySet.from_str)
            flaw = Flaw(place, str(error)[:300])
            raise PolicyInvalid(f"The policy is not Cedar at {place}.", flaws=[flaw], seen=flaw.message) from None
        try:
            tree = handle.to_pst()
        except ValueError as error:
            raise PolicyInvalid("The policy can't be examined.", seen=str(error)[:300]) from None
        if tree.templates:  # 3.
            name = next(iter(tree.templates))
            place = source.place_of_policy(_index(name), name)
            raise PolicyInvalid(
                f"The policy at {place} is a template.",
                flaws=[Flaw(place, "a template, which nothing here links")],
                expected="policies without ?principal or ?resource",
            )
        ids: dict[str, str] = {}
        taken: set[str] = set()
        for name, policy in tree.static_policies.items():
            shown = policy.annotations.get("id") or name
            if shown in taken:  # 4.
                place = source.place_of_policy(_index(name), f"`{shown}`")
                raise PolicyInvalid(
                    f"Two policies have one @id at {place}.",
                    flaws=[Flaw(place, f"the @id {shown!r} is another policy's, too")],
                    seen=repr(shown),
                    expected="unique @ids",
                )
            ids[name] = shown
            taken.add(shown)
        result = cedarpy.validate_policies(text, schema())  # 5.
        if not result.validation_passed:
            found = sorted(
                Flaw(source.place_of_policy(_index(error.policy_id), error.error), error.error[:300])
                for error in result.errors
            ) or [Flaw(source.place(0), "the validator gave no reason")]
            place, told = found[0]
            raise PolicyInvalid(f"The policy does not fit the schema at {place}.", flaws=found, seen=told)
        try:
            whole = cls._of(tree, version, text, MappingProxyType(ids))
        except ValueError as error:
            raise PolicyInvalid("The policy can't be examined.", seen=str(error)[:300]) from None
        return replace(whole, _tree=tree, _named=resources_named(tree))

    @classmethod
    def _of(cls, tree: pst.PolicySet, version: int, text: str, ids: Mapping[str, str]) -> Self:
        reads = Reads.of(tree)
        handle = cedarpy.PolicySet.from_pst(set_apart(tree) if stands_apart(reads.device) else tree)
        return cls(version, text, reads.context, reads.device, reads.asked, ids, handle)

    def for_crossing(self, boundary: str, *, stale: str | None = None) -> Self:
        """Those that can apply to crossings of the boundary of this name.

        `stale`: an edge that has not heard from its service for too long lets only this class cross. Of the permits
        only those count that say so by the annotation `@when_stale`; every forbid does, as always.
        """
        return self._part("cross", "Boundary", boundary, stale)

    def for_token(self, audience: str) -> Self:
        """Those that can apply to tokens for this audience."""
        return self._part("token", "Audience", audience)

    @property
    def tree(self) -> pst.PolicySet:
        """The policies as the engine's nodes, as they were written."""
        if self._tree is None:
            raise ValueError("a part of a policy set is not to be examined")
        return self._tree

    def only(self, policy: pst.Template) -> Self:
        """That policy alone, in place of these."""
        alone = pst.PolicySet(templates={}, static_policies={policy.id: policy}, template_links=())
        return self._of(alone, self.version, self.text, self.ids)

    def _part(self, action: str, kind: str, name: str, stale: str | None = None) -> Self:
        if self._tree is None:
            return self
        # One for each resource that a policy names, and one for all others, by class: callers can't make up more.
        key = kind, name if (kind, name) in self._named else None, stale
        part = self._parts.get(key)
        if part is None:
            resource = pst.EntityUid(pst.EntityType(kind), name)
            tree = self._tree if stale is None else of_class(self._tree, stale)
            part = self._of(applicable(tree, action, resource), self.version, self.text, self.ids)
            self._parts[key] = part
        return part

    @property
    def reads_time(self) -> bool:
        """Whether a verdict depends on the moment, and so must not be kept (protocol.md, section 4)."""
        return "now" in self.reads

    @property
    def reads_request(self) -> bool:
        """Whether a verdict depends on method or path, and so is kept for each of them apart."""
        return not _REQUEST.isdisjoint(self.reads)

    @property
    def reads_claims(self) -> bool:
        """Whether a verdict depends on what the sender claims."""
        return "claims" in self.reads


def _index(policy_id: str) -> int:
    """The engine numbers a text's policies from zero: policy0, policy1, …; -1 for anything else."""
    match = re.fullmatch(r"policy(\d+)", policy_id)
    return int(match[1]) if match else -1
