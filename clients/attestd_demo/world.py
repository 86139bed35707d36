"""The stage: an instance, its running service, software TPMs with their agents, an edge with something behind it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import Unavailable
from attestd.policy import default_policy, edge_tokens_policy
from attestd_agent.agent import Agent
from attestd_agent.assemble import Options, assemble
from attestd_agent.session import DeviceSession
from attestd_demo.firmware import boot, measure, write_log
from attestd_demo.processes import command, end, program
from attestd_demo.software_tpm import Maker, SoftwareTpm
from attestd_demo.tiers import Tiers
from attestd_demo.upstream import BOUNDARY, ONWARD, Upstream, passing_on, readings
from attestd_edge.edge import Edge

TRUST_DOMAIN = "demo.example"
KERNEL = b"the kernel that the operator built"
_START_LIMIT = 30.0  # seconds


class ServiceDidNotStart(Unavailable):
    """The service did not start"""

    remedy = "Its log is in the instance's folder: demo/service.log."


@dataclass
class Gadget:
    """One machine with a software TPM and an agent."""

    name: str
    tpm: SoftwareTpm
    agent: Agent
    state: Path
    session: DeviceSession  # the device's voice, as programs on it have it

    @property
    def id(self) -> str:
        return self.session.enrolled.record.device_id


@dataclass
class World:
    """Everything that the story needs; `close` ends all that it started."""

    dir: Path
    service: subprocess.Popen[str] | None = None
    url: str = ""
    gadgets: list[Gadget] = field(default_factory=list)
    upstream: Upstream | None = None  # at the site
    cloud: Upstream | None = None
    tiers: Tiers | None = None
    daemon: subprocess.Popen[bytes] | None = None
    origin: str = ""
    onward: str = ""  # the cloud's origin

    @property
    def props(self) -> Path:
        """Where the story keeps its software TPMs, agents and edge."""
        return self.dir / "demo"

    # ---- The authority ----------------------------------------------------------------------------------------

    def attestd(self, *words: str) -> str:
        """One `attestd` command, as an operator would type it. Raises CommandFailed."""
        return command("attestd", *words, "--dir", str(self.dir))

    def appraised(self, file: Path) -> Any:
        """What an auditor finds, who has this file and nothing else."""
        command = [program("attestd"), "appraise", "bundle", str(file), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return json.loads(done.stdout) | {"exit": done.returncode}

    def asked(self, *words: str) -> Any:
        """The same, for its JSON."""
        return json.loads(self.attestd(*words, "--json"))

    def first_link(self) -> str:
        """Where a browser makes its passkey, and signs in to the console as an admin."""
        return str(self.asked("operators", "invite", "admin", "--role", "admin")["link"])

    def start_service(self) -> str:
        """Starts `attestd serve` on a free port (or the instance's) and waits until it answers."""
        self.props.mkdir(mode=0o700, exist_ok=True)
        with (self.props / "service.log").open("ab") as log:
            self.service = subprocess.Popen(
                [program("attestd"), "serve", "--dir", str(self.dir), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        lines: list[str] = []
        if self.service.stdout is not None:
            for line in self.service.stdout:
                lines.append(line)
                if line.rstrip() == "}":
                    break
        try:
            self.url = json.loads("".join(lines))["url"]
        except (ValueError, KeyError):
            raise ServiceDidNotStart("The service ended before it answered.", seen="".join(lines)[-300:]) from None
        return self.url

    def permit_tokens(self) -> str:
        """The default policy, and tokens for the audience "edge"."""
        text = default_policy() + "\n" + edge_tokens_policy()
        if self.asked("policy", "show")["text"] == text:
            return "The policy is in force already."
        file = self.props / "policy.cedar"
        file.write_text(text, "utf-8")
        return self.attestd("policy", "set", str(file))

    # ---- Machines ---------------------------------------------------------------------------------------------

    def power_on(self, name: str, maker: Maker) -> Gadget:
        """A machine whose TPM `maker` made (now, or in an earlier run), which boots, with its agent."""
        tpm_state = self.props / name / "tpm"
        if not tpm_state.exists():
            maker.make(tpm_state)
        gadget = self._boot(name, KERNEL)
        self.gadgets.append(gadget)
        return gadget

    def reboot(self, gadget: Gadget, kernel: bytes) -> None:
        """Power off and on: the TPM's PCRs begin anew, and the firmware measures another kernel."""
        gadget.tpm.close()
        anew = self._boot(gadget.name, kernel)
        gadget.tpm, gadget.agent, gadget.session = anew.tpm, anew.agent, anew.session

    def _boot(self, name: str, kernel: bytes) -> Gadget:
        state = self.props / name
        tpm = SoftwareTpm(state / "tpm")
        try:
            events = boot(kernel, self._vendor())
            measure(tpm.path, events)
            log = state / "eventlog"
            log.write_bytes(write_log(events))
            root = str(self.dir / "ca" / "root.pem")
            agent = assemble(Options(state / "agent", tpm.tcti, self.url, root, eventlog=log))
            return Gadget(name, tpm, agent, state / "agent", DeviceSession(agent))
        except BaseException:
            tpm.close()
            raise

    def _vendor(self) -> bytes:
        """Who signs kernels for these machines: a certificate in their firmware."""
        file = self.props / "vendor.der"
        if not file.exists():
            key, day = ec.generate_private_key(ec.SECP256R1()), datetime(2026, 1, 1, tzinfo=UTC)
            name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A vendor of demos")])
            built = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + timedelta(days=3650))
            file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
        return file.read_bytes()

    def start_daemon(self, gadget: Gadget, **environ: str) -> None:
        """Leaves a machine to `attestd-agent run`, as on a real one."""
        with (self.props / "agent.log").open("ab") as log:
            words = ("--tcti", gadget.tpm.tcti, "--state-dir", str(gadget.state))
            self.daemon = subprocess.Popen(
                [program("attestd-agent"), "run", *words, "--eventlog", str(gadget.state.parent / "eventlog")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | environ,
            )

    # ---- Edges ------------------------------------------------------------------------------------------------

    def open_edge(self) -> str:
        """Registers a proxy for the site berlin and one for the cloud, each with a small application behind its
        middleware; what is for the cloud, berlin's passes on."""
        cloud, listener = self._front("cloud-front", "cloud"), socket.create_server(("127.0.0.1", 0))
        onward = f"http://127.0.0.1:{listener.getsockname()[1]}"
        boundary = _BOUNDARY.format(name=ONWARD, tier="cloud", site="cloud")
        self.cloud = Upstream(self._edge(cloud, onward, boundary), listener, readings, ONWARD)
        berlin, listener = self._front("berlin-front", "berlin"), socket.create_server(("127.0.0.1", 0))
        self.origin, self.onward = f"http://127.0.0.1:{listener.getsockname()[1]}", onward
        self.tiers = Tiers(self.props / "nats", berlin / "edge.toml")
        boundaries = _BOUNDARY.format(name=BOUNDARY, tier="edge", site="berlin") + self.tiers.settings()
        edge = self._edge(berlin, self.origin, boundaries)
        self.upstream = Upstream(edge, listener, passing_on(onward), BOUNDARY)
        for front in (self.upstream, self.cloud):
            front.start()
        return f"{self.origin} is guarded: tier device, site berlin -> tier edge, site berlin."

    def _front(self, name: str, site: str) -> Path:
        """A proxy's folder, with its key and certificate."""
        folder = self.props / ("edge" if site == "berlin" else name)
        (folder / "state").mkdir(mode=0o700, parents=True, exist_ok=True)
        key_file, public_file = folder / "proxy.key.pem", folder / "proxy.pub.pem"
        if not key_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = serialization.Encoding.PEM
            secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            _write_secret(key_file, secret)
            public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
            public_file.write_bytes(public)
        self.attestd(
            "proxies", "add", name, "--site", site, "--key", str(public_file), "--out", str(folder / "proxy.pem")
        )
        return folder

    def _edge(self, folder: Path, origin: str, boundaries: str) -> Edge:
        settings = folder / "edge.toml"
        settings.write_text(_EDGE.format(world=self, folder=folder, origin=origin) + boundaries, "utf-8")
        return Edge.from_file(settings)

    # ---- The end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends what was started, in the order in which it depends on each other."""
        end(self.daemon)
        if self.tiers is not None:
            self.tiers.close()
        for front in (self.upstream, self.cloud):
            if front is not None:
                front.close()
        for gadget in self.gadgets:
            gadget.tpm.close()
        end(self.service)


_EDGE = """\
[edge]
server = "{world.url}"
root = "{world.dir}/ca/root.pem"
trust_domain = "demo.example"
state_dir = "{folder}/state"
key = "{folder}/proxy.key.pem"
certificate = "{folder}/proxy.pem"

[tokens]
audience = "edge"
origins = ["{origin}"]
"""
_BOUNDARY = """
[[boundary]]
name = "{name}"
from = {{ tier = "device", site = "berlin" }}
to = {{ tier = "{tier}", site = "{site}" }}
receipts = "all"
"""


def _write_secret(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
