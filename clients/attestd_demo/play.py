"""The demonstration's scenes: an authority, a device, a boundary, impostors, a quarantine, three tiers, a kernel."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from attestd.errors import AttestdError
from attestd.protocol.messages import WaitAnswer
from attestd_agent.records import Enrolled
from attestd_demo.crossings import Crossings
from attestd_demo.impostors import enroll_without_tpm, replay_quote
from attestd_demo.software_tpm import Maker
from attestd_demo.story import NotAsExpected, Story, expect_refusal
from attestd_demo.world import TRUST_DOMAIN, Gadget, World

_MODEL = "demo bike"
REFERENCES_COUNT = 3.1  # seconds until every worker surely follows a change of the references


class Refused(AttestdError):
    """The edge refused the request"""

    def __init__(self, problem: dict[str, str], reasons: str) -> None:
        super().__init__(reasons or problem["title"])
        self.problem = problem["type"]


class _Reasons(logging.Handler):
    """The edge's log of decisions, where the reasons are told in full."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = "; ".join(getattr(record, "attestd", {}).get("reasons", ()))


class Play:
    """The scenes, in order."""

    def __init__(self, story: Story, world: World) -> None:
        self.story, self.world = story, world
        self.reasons = _Reasons()
        decisions = logging.getLogger("attestd_edge.decisions")
        decisions.addHandler(self.reasons)
        decisions.propagate = False
        decisions.setLevel(logging.WARNING)
        logging.getLogger("attestd_edge").setLevel(logging.ERROR)  # cutting the uplink is part of the story
        logging.getLogger("attestd_agent").setLevel(logging.CRITICAL)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self.maker = Maker(world.props / "maker")
        self.stranger = Maker(world.props / "unknown-maker")

    def run(self) -> None:
        """The whole story."""
        story, world = self.story, self.world
        story.chapter("The authority")
        story.step("an instance: certificate authority, SQLite registry, an admin", self.make_instance)
        story.step("the service answers with TLS", world.start_service)
        world.props.mkdir(mode=0o700, exist_ok=True)
        with ThreadPoolExecutor(1) as background:
            machines = background.submit(self.power_on)
            story.step("the policy also permits tokens for the audience edge", world.permit_tokens)
            story.step("an edge proxy for the site berlin, with an application behind it", world.open_edge)
            self.device(machines)
        self.boundary()
        self.impostors()
        self.quarantine()
        Crossings(story, world, self.berlin, self.request).run()
        self.kernel()

    def make_instance(self) -> str:
        if (self.world.dir / "attestd.toml").exists():
            return f"{self.world.dir} is kept as it is."
        listen = f"127.0.0.1:{_free_port()}"
        return self.world.attestd("init", "--trust-domain", TRUST_DOMAIN, "--listen", listen)

    def power_on(self) -> tuple[Gadget, Gadget, Gadget]:
        names = (("bike-berlin", self.maker), ("bike-munich", self.maker), ("stranger", self.stranger))
        first, second, third = (self.world.power_on(name, maker) for name, maker in names)
        return first, second, third

    def device(self, machines: Future[tuple[Gadget, Gadget, Gadget]]) -> None:
        """A device proves its TPM and keeps its credential fresh."""
        story = self.story
        story.chapter("A device")

        def manufacture() -> str:
            self.berlin, self.munich, self.outsider = machines.result()
            found = self.berlin.agent.device.endorsement()
            return f"{found.kind} endorsement key with a certificate of its maker; EK hash {found.hash.hex()[:16]}…"

        story.step("software TPMs with EK certificates (swtpm_setup)", manufacture)
        story.step("an operator trusts their maker, in this instance alone", self.trust_maker)
        story.step("unknown to the inventory, the device waits for approval", lambda: self.ask(self.berlin))
        story.step("approved for tier device, site berlin, it enrolls", lambda: self.join(self.berlin, "berlin"))
        story.step("openssl verifies the issued chain against the root", self.openssl)
        story.step("it renews its certificate", lambda: _credential(self.berlin.agent.renew()))
        story.step("it re-attests, with a fresh quote", lambda: _credential(self.berlin.agent.attest()))
        story.step("a second device enrolls for site munich", lambda: self.ask_and_join(self.munich, "munich"))

    def trust_maker(self) -> str:
        return self.world.attestd("trust", "add", str(self.maker.certificates))

    def ask(self, gadget: Gadget) -> str:
        if gadget.agent.state.load() is not None:
            return "It is enrolled from an earlier run."
        answer = gadget.agent.enroll()
        if not isinstance(answer, WaitAnswer):
            raise NotAsExpected("An unknown device was not made to wait.", seen=answer)
        return f"{answer.state}; nothing was issued"

    def join(self, gadget: Gadget, site: str) -> str:
        if gadget.agent.state.load() is not None:
            for device in self.world.asked("devices", "list", "--state", "quarantined"):
                if device["id"] == gadget.id:  # an earlier run was cut off in the last scene
                    self.world.attestd("devices", "release", gadget.id)
            return _credential(gadget.agent.attest())
        wanted = gadget.agent.device.endorsement().hash.hex()  # others may be waiting in an instance that is kept
        waiting = (device["id"] for device in self.world.asked("devices", "list", "--state", "pending"))
        found = next(one for one in waiting if self.world.asked("devices", "show", one)["device"]["ek_hash"] == wanted)
        self.world.attestd("devices", "approve", found, "--tier", "device", "--site", site)
        return _credential(gadget.agent.enroll())

    def ask_and_join(self, gadget: Gadget, site: str) -> str:
        self.ask(gadget)
        return self.join(gadget, site)

    def openssl(self) -> str:
        chain = str(self.berlin.session.chain_path)
        command = ["openssl", "verify", "-CAfile", str(self.world.dir / "ca" / "root.pem"), "-untrusted", chain, chain]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotAsExpected("openssl refuses the chain.", seen=done.stderr.strip())
        return "openssl verify: OK"

    def boundary(self) -> None:
        """The device's request crosses, and nobody's without a credential."""
        story = self.story
        story.chapter("The boundary")
        story.step("the edge has its signed bundle", self.wait_for_bundle)
        story.refused(
            "a request without a credential",
            lambda: expect_refusal(lambda: self.request(None), slug="no-credential"),
        )
        story.step("the device's request goes through, proven by its TPM", lambda: self.request(self.berlin))

    def wait_for_bundle(self) -> str:
        upstream = self.world.upstream
        deadline = time.monotonic() + 15
        while upstream is not None and time.monotonic() < deadline:
            status = upstream.edge.status()
            if status["ready"]:
                return f"epoch {status['epoch']}, version {status['version']}, policy {status['policy_version']}"
            time.sleep(0.05)
        raise NotAsExpected("The edge has no fresh bundle.", seen=upstream.edge.status() if upstream else "no edge")

    def request(self, gadget: Gadget | None, url: str = "") -> str:
        """GET a URL, the site's /readings by default. With a device: a token and a proof for the edge's nonce; at
        /onward another proof goes along, for the cloud."""
        url = url or f"{self.world.origin}/readings"
        answer = httpx.get(url)
        onward = ""
        if gadget is not None:
            for _ in range(3):  # without an edge's nonce a proof is sent back once (RFC 9449, section 8)
                nonce = answer.headers.get("DPoP-Nonce", "")
                headers = gadget.session.dpop_headers("GET", url, audience="edge", edge_nonce=nonce)
                if url.endswith("/onward"):
                    onward = answer.headers.get("Onward-Nonce", onward)
                    there = f"{self.world.onward}/readings"
                    proof = gadget.session.dpop_headers("GET", there, audience="edge", edge_nonce=onward)
                    headers["Onward-DPoP"] = proof["DPoP"]
                answer = httpx.get(url, headers=headers)
                if answer.status_code != 401:
                    break
        if answer.status_code != 200:
            raise Refused(answer.json(), self.reasons.last)
        said = answer.json()
        return f"200: hello {said['hello']}"

    def impostors(self) -> None:
        """Each is refused, with its reason."""
        story = self.story
        story.chapter("Impostors")
        attempts: list[tuple[str, Callable[[], object], str]] = [
            ("a TPM of an unknown maker", self.outsider.agent.enroll, "issuer-key-differs"),
            ("a software key without a TPM", lambda: enroll_without_tpm(self.berlin), "activation-proof-wrong"),
            (
                "a quote replayed from another device",
                lambda: replay_quote(self.munich, self.berlin),
                "attestation-signature-wrong",
            ),
            (
                "a credential for another boundary (munich's device in berlin)",
                self.cross_elsewhere,
                "crossing-denied",
            ),
        ]
        for title, attempt, slug in attempts:
            story.refused(title, lambda attempt=attempt, slug=slug: expect_refusal(attempt, slug=slug))  # type: ignore[misc]

    def cross_elsewhere(self) -> str:
        """Munich's device at Berlin's edge, once that edge knows of it: bundles are fetched every second."""
        deadline = time.monotonic() + 5
        while True:
            try:
                return self.request(self.munich)
            except Refused as refused:
                if not refused.problem.endswith("device-revoked") or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def quarantine(self) -> None:
        """Trust that is lost is lost at every edge within two seconds; and it can come back."""
        story, world = self.story, self.world

        def quarantined() -> str:
            world.attestd("devices", "quarantine", self.berlin.id, "--reason", "seen in a pawnshop")
            time.sleep(2)
            return expect_refusal(lambda: self.request(self.berlin), slug="device-suspended")

        def released() -> str:
            world.attestd("devices", "release", self.berlin.id, "--reason", "it was another one")
            return self.crosses_soon(self.berlin)

        story.refused("a device quarantined two seconds ago", quarantined)
        story.refused(
            "a certificate for the quarantined device's renewal",
            self.refused_renewal,
        )
        story.step("released by the operator, it crosses again", released)

    def kernel(self) -> None:
        """What a machine booted is compared with what is good; another kernel costs it its trust, until it is known."""
        story = self.story
        story.chapter("The kernel")
        story.step(
            "a draft of references asks the devices for their boot logs",
            lambda: self.ask_for_logs(self.berlin, self.munich),
        )
        story.step("what the golden devices booted is learned, and watched", self.learn)
        story.step("it would refuse nobody, so it decides from now on", self.enforce)
        story.refused("a device that booted a tampered kernel", self.tampered)
        story.refused("and its request at the edge", self.refused_at_the_edge)
        story.step("an auditor draws that result again, from a file alone", self.audit)
        story.step("the kernel was an update: it is added to the references", self.learn_update)
        story.step("released by the operator, the device attests and crosses again", self.come_back)

    def references(self, *words: str) -> dict[str, Any]:
        """An act on reference manifests, which counts in every worker a second later."""
        stored: dict[str, Any] = self.world.asked("references", *words)
        time.sleep(REFERENCES_COUNT)
        return stored

    def ask_for_logs(self, *gadgets: Gadget) -> str:
        draft = self.world.props / "learn.toml"
        draft.write_text(f'name = "{_MODEL}"\nstage = "learn"\n[match]\ntier = "device"\n', "utf-8")
        self.references("add", str(draft))
        for gadget in gadgets:
            _credential(gadget.agent.attest())
        return "Each sent its event log, which replays to its quote."

    def learn(self) -> str:
        file = self.learned(self.berlin, self.munich)
        self.watched = self.references("add", str(file), "--stage", "monitor")["number"]
        for gadget in (self.berlin, self.munich):
            _credential(gadget.agent.attest())
        return f"{_MODEL}, version {self.watched}, at stage monitor"

    def learned(self, *gadgets: Gadget) -> Path:
        file = self.world.props / "references.toml"
        file.unlink(missing_ok=True)
        ids = (gadget.id for gadget in gadgets)
        self.world.attestd("references", "learn", *ids, "--name", _MODEL, "--tier", "device", "--out", str(file))
        return file

    def enforce(self) -> str:
        told = self.world.asked("references", "refusals", str(self.watched))
        if told["total"]:
            raise NotAsExpected("The references would refuse golden devices.", seen=told)
        self.references("promote", str(self.watched), "enforce")
        _credential(self.munich.agent.attest())
        return _credential(self.berlin.agent.attest())

    def tampered(self) -> str:
        self.world.reboot(self.berlin, b"a kernel with something in it")
        self.request(self.berlin)  # nobody knows yet: it still crosses
        answer = self.berlin.agent.attest()
        if not isinstance(answer, WaitAnswer) or answer.state != "quarantined":
            raise NotAsExpected("A tampered kernel went unnoticed.", seen=answer)
        return f"{answer.state}: {answer.result['reasons'][0]}"

    def refused_at_the_edge(self) -> str:
        time.sleep(2)
        return expect_refusal(lambda: self.request(self.berlin), slug="device-suspended")

    def audit(self) -> str:
        file = self.world.props / "evidence.json"
        file.unlink(missing_ok=True)
        self.world.attestd("evidence", "export", self.berlin.id, "--out", str(file))
        found = self.world.appraised(file)
        if not found["reproduced"] or found["result"]["status"] != "contraindicated":
            raise NotAsExpected("The result is not drawn again.", seen=found)
        return f"{found['result']['status']}, octet by octet; {len(found['endorsement']['chain'])} endorsements"

    def learn_update(self) -> str:
        file = self.learned(self.berlin)
        stored = self.references("add", str(file), "--stage", "enforce", "--overlap", "7d")
        return f"{_MODEL}, version {stored['number']}; the one before counts for a week more"

    def come_back(self) -> str:
        self.world.attestd("devices", "release", self.berlin.id, "--reason", "it was the update")
        _credential(self.berlin.agent.attest())
        return self.crosses_soon(self.berlin)

    def crosses_soon(self, gadget: Gadget) -> str:
        """The edge hears of a release within a second or two."""
        deadline = time.monotonic() + 3
        while True:
            try:
                return self.request(gadget)
            except Refused:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def refused_renewal(self) -> str:
        return expect_refusal(self.berlin.agent.renew, slug="device-quarantined")


def _credential(answer: Enrolled | WaitAnswer) -> str:
    if isinstance(answer, WaitAnswer):
        raise NotAsExpected("The device was given no credential.", seen=answer.state)
    record = answer.record
    valid = record.expires_at - record.obtained_at
    return f"{record.spiffe_id}\nserial {answer.leaf.serial_number:040x}, valid for {valid} s"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
