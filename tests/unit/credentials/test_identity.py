"""The last step of every credential: does it still stand?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attestd.credentials.identity import (
    CredentialRevoked,
    DeviceRevoked,
    DeviceSuspended,
    FactsMissing,
    NotADevice,
    StatusUnknown,
    VerifiedIdentity,
    admit,
)
from attestd.credentials.status import Status, StatusList
from attestd.errors import Forbidden, Unauthenticated
from attestd.ids import Serial, SpiffeId
from tests.authority import BIKE, FACTS, NOW, STATUS

MINE, ISSUERS, OTHER = Serial(1), Serial(2), Serial(3)


def admitted(**lies: Any) -> VerifiedIdentity:
    honest: dict[str, Any] = {
        "spiffe_id": SpiffeId.parse(BIKE),
        "facts": FACTS,
        "serials": (MINE, ISSUERS),
        "credential_id": str(MINE),
        "not_after": NOW,
        "kind": "x509",
        "status": STATUS,
        "revoked": frozenset((OTHER,)),
    }
    return admit(**{**honest, **lies})


def test_a_device_in_good_standing() -> None:
    identity = admitted()
    assert (str(identity.spiffe_id), identity.tier, identity.site, identity.device_id) == (
        BIKE,
        "device",
        "munich",
        "bike-1",
    )
    assert (identity.facts, identity.certificate_serial, identity.not_after) == (FACTS, MINE, NOW)
    assert (identity.credential_id, identity.kind) == (str(MINE), "x509")
    assert len({identity, admitted()}) == 1


@pytest.mark.parametrize("path", ["admin/ada", "proxy/munich/p1", "service/attestd", "device/munich", "device/a/b/c"])
def test_only_devices_are_admitted(path: str) -> None:
    with pytest.raises(NotADevice):
        admitted(spiffe_id=SpiffeId.parse(f"spiffe://example.org/{path}"))


def test_facts_are_needed() -> None:
    with pytest.raises(FactsMissing):
        admitted(facts=None)


@pytest.mark.parametrize("revoked", [MINE, ISSUERS])
@pytest.mark.parametrize("container", [frozenset, list, lambda one: {one[0]: "reason"}])
def test_a_revoked_certificate_or_issuer_is_refused(revoked: Serial, container: Callable[[Any], Any]) -> None:
    with pytest.raises(CredentialRevoked) as caught:
        admitted(revoked=container([revoked]))
    assert isinstance(caught.value, Unauthenticated)


@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        (Status.SUSPENDED, DeviceSuspended),
        (Status.INVALID, DeviceRevoked),
    ],
)
def test_the_device_s_state(state: Status, refusal: type[Forbidden]) -> None:
    admitted(status=StatusList.of({6: state, 8: state}, 16))
    with pytest.raises(refusal):
        admitted(status=StatusList.of({7: state}, 16))


def test_a_state_without_a_meaning_is_refused() -> None:
    with pytest.raises(DeviceRevoked):
        admitted(status=StatusList(b"\x00\xc0"))


@pytest.mark.parametrize("listed", [StatusList(b""), StatusList.of({}, 4)])
def test_an_index_outside_the_list_is_refused(listed: StatusList) -> None:
    admitted(status=StatusList.of({}, 8))
    with pytest.raises(StatusUnknown):
        admitted(status=listed)


def test_nothing_about_its_standing_can_be_left_out() -> None:
    for argument in ("status", "revoked"):
        with pytest.raises(TypeError):
            admit(**{name: None for name in admit.__annotations__ if name not in (argument, "return")})  # type: ignore[arg-type]
