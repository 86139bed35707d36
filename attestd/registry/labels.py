"""Labels: what operators say of a device. They travel in credentials, so they are few and short."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from attestd.credentials.facts import LABEL_NAME
from attestd.errors import Conflict, MalformedInput
from attestd.protocol.encoding import write_object

MAX_VALUE = 128  # characters
MAX_TOTAL = 512  # octets as JSON: half of what all facts of a credential may take (docs/protocol.md, section 4)


class MalformedLabels(MalformedInput):
    """The labels are not well formed"""

    remedy = "Use names of 1 to 63 letters, digits and . _ / - and values of at most 128 printable characters."


class NoLabelNamed(MalformedInput):
    """Nothing says which labels to set or to remove"""

    remedy = "Name at least one label to set or to remove."


class LabelsUnchanged(Conflict):
    """The device has these labels already"""

    remedy = "Nothing was done, and nothing is to be done."


@dataclass(frozen=True, slots=True)
class Labelling:
    """Labels to set, each to its value, and names of labels to remove; what is not named stays. Raises NoLabelNamed,
    MalformedLabels."""

    values: Mapping[str, str] = field(default_factory=dict)
    removed: Set[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.values and not self.removed:
            raise NoLabelNamed
        if twice := sorted(self.removed & self.values.keys()):
            raise MalformedLabels("A label is to be set and to be removed.", seen=twice[0][:80])
        parse_labels({**self.values, **dict.fromkeys(self.removed, "")})

    def of(self, labels: Mapping[str, str]) -> dict[str, str]:
        """What becomes of these labels. Raises MalformedLabels if they are too long together, LabelsUnchanged."""
        kept = {name: value for name, value in labels.items() if name not in self.removed}
        found = parse_labels({**kept, **self.values})
        if found == labels:
            raise LabelsUnchanged
        return found


def parse_labels(unverified_labels: Mapping[str, object]) -> dict[str, str]:
    """The labels, if each is well formed and all together fit into a credential."""
    found: dict[str, str] = {}
    for name, value in unverified_labels.items():
        if not LABEL_NAME.fullmatch(name):
            raise MalformedLabels("This is not a label's name.", seen=repr(name[:80]))
        if not isinstance(value, str) or len(value) > MAX_VALUE or not value.isprintable():
            raise MalformedLabels(
                f"The label {name} has no usable value.",
                seen=repr(value)[:80],
                expected=f"up to {MAX_VALUE} characters",
            )
        found[name] = value
    if (size := len(write_object(found))) > MAX_TOTAL:
        raise MalformedLabels("The labels are too long together.", seen=f"{size} octets", expected=f"≤ {MAX_TOTAL}")
    return found
