"""Labels in forms, one a line, and what goes by them in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attestd.errors import MalformedInput
from attestd_console.visible import visible

LONGEST: Final = 8192  # characters of a form's text
_NAMED: Final = 12  # reference manifests that are named


class LabelsUnreadable(MalformedInput):
    """The labels can't be read"""

    remedy = "Nothing was done. Go back and write one label a line, as name=value, each name once."


def written(labels: Mapping[str, str]) -> str:
    """One a line, by names."""
    return "\n".join(f"{name}={value}" for name, value in sorted(labels.items()))


def read(text: str) -> dict[str, str]:
    """Names and values; which are well formed, the service says. Raises LabelsUnreadable."""
    found: dict[str, str] = {}
    for line in text[:LONGEST].splitlines():
        name, equals, value = line.strip().partition("=")
        if not (name or equals):
            continue
        if not equals:
            raise LabelsUnreadable("A line has no value.", seen=repr(line[:80]), expected="name=value")
        if name.strip() in found:
            raise LabelsUnreadable("A name comes twice.", seen=repr(name[:80]))
        found[name.strip()] = value.strip()
    return found


def names(text: str) -> list[str]:
    """Labels' names, with spaces or commas between."""
    return sorted(set(text[:LONGEST].replace(",", " ").split()))


def change(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Any]:
    """What the service is told, to come from these labels to those."""
    return {
        "labels": {name: value for name, value in sorted(new.items()) if old.get(name) != value},
        "remove": sorted(old.keys() - new.keys()),
    }


def asked_for(found: Mapping[str, Any], device: Mapping[str, Any] | None = None) -> list[str]:
    """What goes by labels now, a sentence each. `device`: what is for it already is said to be."""
    policy, manifests = found["policy"], found["references"]
    said = [_of_policy(policy["names"], whole=policy["whole"])]
    for one in manifests[:_NAMED]:
        wanted = ", ".join(f"{visible(name, 64)}={visible(value)}" for name, value in sorted(one["labels"].items()))
        now = "" if device is None else f" {'This one has' if _has(device, one) else 'This one has not'}."
        said.append(f"Reference values {visible(one['name'], 64)} ({one['stage']}) are for devices with {wanted}.{now}")
    if (more := len(manifests) - _NAMED) > 0:
        said.append(f"{more:,} more reference values go by labels.")
    return said if manifests else [*said, "No reference values go by labels."]


def _of_policy(asked: Sequence[str], *, whole: bool) -> str:
    if whole:
        return "The policy in force looks at devices as a whole: what may cross can depend on any label."
    if not asked:
        return "The policy in force asks for no label."
    listed = ", ".join(visible(name, 64) for name in asked)
    return f"The policy in force asks for {listed}: what may cross can depend on {'it' if len(asked) == 1 else 'them'}."


def _has(device: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    return all(device["labels"].get(name) == value for name, value in manifest["labels"].items())
