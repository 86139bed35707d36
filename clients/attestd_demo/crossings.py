"""The scenes of three tiers: a device's message on its way up, receipts, a cut uplink, and a quarantine that holds
everywhere."""

from __future__ import annotations

from collections.abc import Callable

from nats.errors import Error as NatsError

from attestd.errors import AttestdError
from attestd_demo.processes import pause, resume
from attestd_demo.story import NotAsExpected, Story, expect_refusal
from attestd_demo.tiers import CARRIED, Tiers, until
from attestd_demo.world import Gadget, World

_DELIVERED = 45.0  # seconds
_BOUNDARIES = {"field-to-berlin", "berlin-to-the-cloud", CARRIED}


class LoginRefused(AttestdError):
    """nats-server refused the login"""


class Crossings:
    """One device's way through the tiers. `request` asks the site's application, or the cloud's, as the device."""

    def __init__(self, story: Story, world: World, gadget: Gadget, request: Callable[[Gadget, str], str]) -> None:
        self.story, self.world, self.gadget, self._request = story, world, gadget, request
        self.withheld_before = 0

    @property
    def tiers(self) -> Tiers:
        if self.world.tiers is None:
            raise NotAsExpected("There is no edge.")
        return self.world.tiers

    def run(self) -> None:
        """The scenes, in order."""
        story = self.story
        story.chapter("Three tiers")
        story.step("a nats-server at the site and one in the cloud, between them the edge", self.open)
        story.step("by NATS the device's message is judged at the crossing, and arrives in the cloud", self.by_nats)
        story.step("by HTTP the site passes it on, and the cloud's edge judges the device itself", self.by_http)
        story.step("each crossing has its receipt, chained and anchored: an auditor finds them whole", self.receipts)
        story.chapter("A cut uplink")
        story.step("service and cloud do not answer any more", self.cut)
        story.step("at the site the device crosses as before; what is for the cloud waits", self.go_on)
        story.step("the edge restarts while it is cut off, and goes on", self.restart)
        story.step("the uplink is back: what waited arrives, receipts are delivered", self.catch_up)
        story.chapter("A quarantine in every tier")
        story.step("a message waits at the site when its device is quarantined", self.quarantine)
        story.refused("its request at the site", lambda: self.refused_by_http(self.world.origin))
        story.refused("its request at the cloud", lambda: self.refused_by_http(self.world.onward))
        story.refused("its next login", self.refused_by_nats)
        story.step("the message that waited is withheld at the crossing", self.withheld)
        story.step("released, it logs in and its messages arrive again", self.release)

    # ---- Three tiers ------------------------------------------------------------------------------------------

    def open(self) -> str:
        self.tiers.start()
        return f"nats://127.0.0.1:{self.tiers.port} asks attestd-edge about each login."

    def by_nats(self) -> str:
        self.tiers.log_in(self.gadget.session)
        return self.arrives(b"21.5")

    def by_http(self) -> str:
        return self._request(self.gadget, f"{self.world.origin}/onward")

    def arrives(self, data: bytes) -> str:
        before = len(self.tiers.arrived())
        self.send(data)
        until("the message to arrive in the cloud", lambda: len(self.tiers.arrived()) > before)
        subject, content = self.tiers.arrived()[-1]
        if content != data:
            raise NotAsExpected("Another message arrived.", seen=content, expected=data)
        return f"{subject}: {content.decode()}"

    def send(self, data: bytes) -> None:
        self.tiers.send(f"field.berlin.{self.gadget.id}.temperature", data)

    def receipts(self) -> str:
        """The service's own receipts, proven; they must be of every boundary. A finding fails the command."""

        def boundaries() -> set[str]:
            found = self.world.asked("audit", "receipts", "list", "--limit", "1000")
            return {receipt["boundary"] for receipt in found}

        until("every boundary's receipts", lambda: boundaries() >= _BOUNDARIES, within=_DELIVERED)
        chains = self.world.asked("audit", "receipts", "verify")["chains"]
        if not all(chain["anchored"] for chain in chains):
            raise NotAsExpected("A chain's end is not in the audit trail.", seen=chains)
        whole, refusals = (sum(chain[name] for chain in chains) for name in ("count", "refusals"))
        return f"{whole} receipts in {len(chains)} chains, {refusals} of them of refusals; none is missing"

    # ---- A cut uplink -----------------------------------------------------------------------------------------

    def cut(self) -> str:
        if self.world.service is None:
            raise NotAsExpected("There is no service.")
        pause(self.world.service)
        self.tiers.stop("cloud")
        return "Both are stopped where they are."

    def go_on(self) -> str:
        said = self._request(self.gadget, f"{self.world.origin}/readings")
        self.send(b"22.0")
        return said

    def restart(self) -> str:
        self.tiers.stop("edge-nats")
        self.tiers.start_edge()
        self.tiers.log_in(self.gadget.session)
        self.send(b"22.5")
        return "The device logged in again, by the bundle on the edge's disk."

    def catch_up(self) -> str:
        if self.world.service is not None:
            resume(self.world.service)
        self.tiers.start_server("cloud")
        until("what waited", lambda: {b"22.0", b"22.5"} <= set(self.contents()), within=_DELIVERED)
        edge = self.world.upstream.edge if self.world.upstream is not None else None
        until("the receipts", lambda: edge is None or edge.status()["receipts_waiting"] == 0, within=_DELIVERED)
        return f"{b', '.join(self.contents()).decode()}\n{self.receipts()}"

    def contents(self) -> list[bytes]:
        return [content for _, content in self.tiers.arrived()]

    # ---- A quarantine -----------------------------------------------------------------------------------------

    def quarantine(self) -> str:
        self.tiers.stop("cloud")
        self.withheld_before = self.contents_withheld()
        self.send(b"99.9")
        self.world.attestd("devices", "quarantine", self.gadget.id, "--reason", "its readings are odd")
        until("its connection's end", self.tiers.ended.is_set)
        return "Its connection to the site was ended."

    def refused_by_http(self, origin: str) -> str:
        return expect_refusal(lambda: self._request(self.gadget, f"{origin}/readings"), slug="device-suspended")

    def refused_by_nats(self) -> str:
        def attempt() -> None:
            try:
                self.tiers.log_in(self.gadget.session)
            except NatsError as error:
                raise LoginRefused(str(error)) from None

        return expect_refusal(attempt, slug="login-refused")

    def withheld(self) -> str:
        self.tiers.start_server("cloud")
        before = self.withheld_before
        until("its receipt, a refusal", lambda: self.contents_withheld() > before, within=_DELIVERED)
        if b"99.9" in self.contents():
            raise NotAsExpected("It crossed.")
        return "It stays at the site, for an operator to look at."

    def contents_withheld(self) -> int:
        """How many receipts of refused crossings the edge's NATS side wrote for messages."""
        found = self.world.asked("audit", "receipts", "list", "--boundary", CARRIED, "--limit", "1000")
        return sum(receipt["decision"].startswith("deny") for receipt in found)

    def release(self) -> str:
        self.world.attestd("devices", "release", self.gadget.id, "--reason", "it stood in the sun")

        def logs_in() -> bool:
            try:
                self.tiers.log_in(self.gadget.session)
            except NatsError:
                return False
            return True

        until("its login", logs_in)
        return self.arrives(b"21.0")
