"""Receipts from an edge to the service and to an auditor: through outages, restores and whoever tampers in between."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import update
from typer.testing import CliRunner

from attestd.cli import receipts as receipts_cli
from attestd.cli.api import AdminApi
from attestd.cli.audit import app
from attestd.credentials.receipts import Beginning, read_unverified
from attestd.credentials.requests import SoftwareKey
from attestd.ids import Site
from attestd.registry import audit, receipts
from attestd.registry.tables import receipts as table
from attestd_edge.receipts import delivery as delivery_module
from attestd_edge.receipts import spool as spool_module
from tests.edge_site import EdgeSite
from tests.receipt_site import ReceiptSite
from tests.service import TRUST_DOMAIN, URL, World


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "service")
    yield world
    world.close()


@pytest.fixture
def site(world, tmp_path):
    (tmp_path / "edge").mkdir()
    site = ReceiptSite(world, tmp_path / "edge")
    site.device = world.enrolled()
    site.refresher.tick()
    yield site
    site.edge.stop()


def stored(world) -> list[str]:
    with world.registry.reading() as c:
        return [one.jws for one in receipts.page(c, limit=1000)]


def whys(world) -> list[str]:
    with world.registry.reading() as c:
        return sorted(one.why for one in receipts.chains(c))


@pytest.fixture
def auditor(world, monkeypatch, tmp_path):
    """`auditor("verify", …)`: the exit code and what is said, as JSON, by the commands against this service."""

    def api(_dir) -> AdminApi:
        transport = httpx.WSGITransport(world.app)
        return AdminApi(httpx.Client(base_url=URL, transport=transport), URL, world.viewer.key)

    root = tmp_path / "root.pem"
    root.write_text(world.service.publication.root_pem)
    monkeypatch.setattr(receipts_cli, "service", api)

    def run(*arguments: str):
        done = CliRunner().invoke(app, ["receipts", *arguments])
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = done.output
        return done.exit_code, said

    run.root = str(root)
    return run


def test_what_crossed_is_delivered_and_proven(world, site, auditor, tmp_path):
    site.cross(5)
    assert site.ask() == "no-credential"
    site.deliver()
    assert site.waiting == 0
    assert len(stored(world)) == 7
    code, said = auditor("verify", "--root", auditor.root, "--json")
    assert (code, said["findings"]) == (0, []), said
    (chain,) = said["chains"]
    assert (chain["count"], chain["refusals"], chain["anchored"]) == (7, 1, True)
    assert chain["edge"].endswith("/proxy/shop-1/edge-1")
    file = str(tmp_path / "receipts.jsonl")
    assert auditor("export", file)[0] == 0
    code, said = auditor("verify", file, "--root", auditor.root, "--json")
    assert (code, said["chains"]) == (0, [chain])
    _, rows = auditor("list", "--json", "--device", str(site.device.id))
    assert [row["decision"] for row in rows] == ["allow"] * 5
    assert {row["who"] for row in rows} == {
        world.viewer.get(f"/v1/admin/devices/{site.device.id}").get_json()["device"]["spiffe_id"]
    }


def test_an_outage_delays_and_loses_nothing(world, site):
    site.cross(2)
    site.down = True
    site.deliver()
    assert (site.waiting, stored(world)) == (3, [])
    site.edge.stop()
    site.open()
    site.cross(2)
    site.down = False
    site.deliver()
    assert (site.waiting, len(stored(world)), whys(world)) == (0, 5, ["start"])


def test_large_spools_go_in_parts_and_leave_the_disk(world, site, monkeypatch):
    monkeypatch.setattr(spool_module, "STRETCH", 5000)
    monkeypatch.setattr(delivery_module, "MAX_DELIVERY", 3000)
    site.cross(30)
    (chain,) = site.chains()
    assert len(chain.stretches()) > 3
    site.deliver()
    assert len(stored(world)) == 31
    assert len(chain.stretches()) == 1
    with world.registry.reading() as c:
        acts = [row for row in audit.page(c, subject=chain.chain, limit=1000) if row.act == "receive-receipts"]
    assert len(acts) > 5


def test_an_answer_that_got_lost_is_asked_for_again(world, site):
    site.cross(3)
    real, lose = site.handle_request, [True]

    def losing(request):
        answer = real(request)
        if request.url.path == "/v1/receipts" and lose:
            lose.pop()
            raise httpx.ReadError("the answer is lost")
        return answer

    site.handle_request = losing
    site.deliver()
    assert (site.waiting, len(stored(world))) == (4, 4)
    site.deliver()
    assert (site.waiting, len(stored(world))) == (0, 4)


def test_another_processes_chain_is_delivered_too(world, site):
    other = ReceiptSite.__new__(ReceiptSite)
    other.__dict__.update(site.__dict__)
    other.open()
    site.cross()
    other.cross(2)
    assert len(site.chains()) == 2
    site.deliver()
    assert len(stored(world)) == 5
    other.deliver()  # it does not hold the lock, so it leaves that to the first
    other.edge.stop()


def test_a_service_restored_from_a_backup_says_what_is_lost(world, site, auditor, monkeypatch):
    monkeypatch.setattr(spool_module, "STRETCH", 2000)
    site.cross(2)
    site.deliver()
    with world.registry.reading() as c:
        (before,) = receipts.chains(c)
        kept = receipts.page(c, limit=1000)
    site.cross(10)
    site.deliver()
    with world.registry.acting() as c:  # the database as it was in the backup
        c.exec_driver_sql("DELETE FROM receipts")
        c.exec_driver_sql("DELETE FROM receipt_chains")
        receipts.begin(c, before)
        receipts.add_all(c, kept)
    site.cross(2)
    site.deliver()
    assert site.waiting == 0
    with world.registry.reading() as c:
        (chain,) = receipts.chains(c)
    (stretch,) = chain.lost
    assert stretch[0] == 3
    code, said = auditor("verify", "--root", auditor.root, "--json")
    assert code == 1
    assert [(one["kind"], one["seq"]) for one in said["findings"]] == [("lost", 3)]


def test_an_edge_restored_from_a_backup_begins_another_chain(world, site, tmp_path):
    site.cross(2)
    site.edge.stop()
    shutil.copytree(site.folder / "receipts", tmp_path / "backup")
    site.open()
    site.cross(2)
    site.deliver()
    site.edge.stop()
    shutil.rmtree(site.folder / "receipts")
    shutil.copytree(tmp_path / "backup", site.folder / "receipts")
    site.open()
    site.cross(1)
    site.deliver()  # a fork: refused for good
    assert site.chains()[0].ended() == "refused"
    site.cross(1)
    site.deliver()
    assert whys(world) == ["restored", "start"]
    with world.registry.reading() as c:
        acts = [row.detail.get("problem") for row in audit.page(c, limit=1000) if row.act == "refuse-receipts"]
    assert acts == ["chain-forked"]
    assert len(stored(world)) == 7


def test_a_new_key_of_the_edge(world, site):
    site.cross(1)
    site.edge.stop()
    fresh = ReceiptSite.__new__(ReceiptSite)
    fresh.__dict__.update(site.__dict__)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    fresh.certificate.write_text(world.service.certifying.add_proxy("edge-2", Site("shop-1"), public, world.act))
    fresh.key = SoftwareKey(key)
    fresh.open()
    fresh.cross(1)
    fresh.deliver()
    # The old chain is another edge's: it stays on the disk, and says so.
    old = next(chain for chain in fresh.chains() if chain.ended() is not None)
    assert old.ended() == "refused"
    (first, _) = stored(world)
    said = read_unverified(first).said
    assert isinstance(said, Beginning)
    assert (said.why, said.after is not None) == ("new-key", True)
    fresh.edge.stop()


def test_tampering_with_the_service_is_found(world, site, auditor, tmp_path):
    site.cross(6)
    site.deliver()
    assert auditor("verify", "--root", auditor.root)[0] == 0

    def findings() -> list[tuple[str, int]]:
        code, said = auditor("verify", "--root", auditor.root, "--json")
        assert code == 1
        return [(one["kind"], one["seq"]) for one in said["findings"]]

    with world.registry.acting() as c:
        c.exec_driver_sql("DELETE FROM receipts WHERE seq = 3")
    assert findings() == [("missing", 3)]
    with world.registry.acting() as c:  # and the chain's row made to fit
        c.exec_driver_sql("DELETE FROM receipts WHERE seq > 2")
    assert findings() == [("cut", 3)]
    lines = stored(world)
    with world.registry.acting() as c:
        for place in (1, 2):
            c.execute(update(table).where(table.c.seq == place).values(jws=lines[3 - place]))
    assert ("repeated", None) in findings()


def test_a_file_with_its_tail_cut_off_is_found(world, site, auditor, tmp_path):
    site.cross(4)
    site.deliver()
    file = tmp_path / "receipts.jsonl"
    assert auditor("export", str(file))[0] == 0
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2]))
    code, said = auditor("verify", str(file), "--root", auditor.root, "--json")
    assert (code, [(one["kind"], one["seq"]) for one in said["findings"]]) == (1, [("cut", 3)])


def test_an_edges_disk_is_examined_before_it_delivers(world, site, auditor):
    site.cross(3)
    trust = ("--root", auditor.root, "--trust-domain", str(TRUST_DOMAIN))
    arguments = ("verify", "--spool", str(site.folder), *trust, "--json")
    code, said = auditor(*arguments)
    assert (code, said["chains"][0]["count"]) == (0, 4), said
    (stretch,) = site.chains()[0].stretches()
    data = stretch.path.read_bytes().split(b"\n")
    del data[2]
    stretch.path.write_bytes(b"\n".join(data))
    code, said = auditor(*arguments)
    assert (code, [(one["kind"], one["seq"]) for one in said["findings"]]) == (1, [("missing", 2)])


def test_commands_say_what_they_need(auditor, tmp_path):
    assert auditor("verify", "--spool", str(tmp_path))[0] != 0
    assert auditor("verify", str(tmp_path / "x"))[0] != 0
    assert auditor("verify", str(tmp_path / "x"), "--root", auditor.root)[0] == 1
    assert auditor("verify", "--root", auditor.root)[0] == 1  # there are none
    assert auditor("export", str(tmp_path / "none"))[0] == 1
    assert not (tmp_path / "none").exists()
    assert auditor("list", "--since", "yesterday")[0] == 1
    code, said = auditor("list", "--since", "2026-03-01")
    assert (code, "no such receipts" in said) == (0, True)


def test_a_real_edge_that_is_killed_goes_on_with_its_chain(tmp_path):
    """`attestd-edge serve` cut off from its service, killed in the middle of crossings, and started anew."""
    site = EdgeSite(tmp_path)
    site.configure(more='receipts = "all"\n')
    device = site.device()

    def verify() -> tuple[int, dict]:
        trust = ("--root", str(tmp_path / "root.pem"), "--trust-domain", "example.org", "--json")
        done = CliRunner().invoke(app, ["receipts", "verify", "--spool", str(tmp_path / "state"), *trust])
        return done.exit_code, json.loads(done.stdout)

    for round_ in range(1, 4):
        with site.serving() as process:
            for _ in range(5):
                assert site.ask(device)[0] == 200
            assert site.ask(None)[0] == 401
            process.kill()
            process.wait(20)
        (stretch,) = (tmp_path / "state").glob("receipts/*/0*.jws")
        with stretch.open("ab") as file:
            file.write(b"eyJhbGciOi")  # as if the power had gone in the middle of the next
        code, said = verify()
        assert (code, said["findings"]) == (0, []), said
        (chain,) = said["chains"]
        assert chain["count"] - chain["refusals"] == 1 + 5 * round_
    assert "are cut off" in site.log()
