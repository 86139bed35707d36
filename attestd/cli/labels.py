"""Labels for a terminal: a device's, what became of them, and what goes by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def labels_of(device: Mapping[str, Any]) -> str:
    """name=value, by names; "-" for none."""
    return ", ".join(f"{name}={value}" for name, value in sorted(device["labels"].items())) or "-"


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What an act did to labels: those that are different now."""
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return ", ".join(f"{name}={new[name]}" if name in new else f"{name} removed" for name in names)


def asked_for(found: Mapping[str, Any]) -> str:
    """What in force goes by labels, so that who changed some knows what to look at."""
    asks = found["policy"]
    named = ", ".join(asks["names"]) or "none by name"
    others = ", and may look at others" if asks["whole"] else ""
    lines = [f"The policy in force asks for labels: {named}{others}."]
    lines += [f"{one['name']} ({one['stage']}) is for devices with {labels_of(one)}." for one in found["references"]]
    return "\n".join(lines)
