"""A database that goes away for ten seconds, or is damaged: clients are told in time, and all goes on by itself."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestd.credentials.requests import SoftwareKey
from attestd_edge.decide import Presented, Request
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.identity import read_certificates
from tests.chaos.conftest import Database, long_form, show
from tests.chaos.load import Load
from tests.chaos.served import Served, kill, until
from tests.chaos.test_kills import settle
from tests.service import SITE

pytestmark = pytest.mark.timeout(240)
_AWAY = 10.0  # seconds


@contextmanager
def away(served: Served, database: Database, how: str) -> Iterator[Callable[[], bool]]:
    """For ten seconds no act can be done; tells whether it is still so."""
    if how == "locked":
        path = f"file:{served.folder}/registry.db?mode=rw"
        held = sqlite3.connect(path, uri=True, isolation_level=None, check_same_thread=False)
        leave, come_back = (lambda: held.execute("BEGIN EXCLUSIVE").close()), held.close
    else:
        assert database.postgres is not None
        leave, come_back = {
            "stopped": (database.postgres.kill, database.postgres.run),
            "paused": (database.postgres.pause, database.postgres.resume),
        }[how]
    leave()
    returning = threading.Timer(_AWAY, come_back)
    returning.start()
    try:
        yield returning.is_alive
    finally:
        returning.join()


@pytest.mark.parametrize(
    ("database", "how"),
    [
        pytest.param("sqlite", "locked", id="sqlite-locked"),
        pytest.param("postgresql", "stopped", id="postgresql-stopped", marks=long_form),
        pytest.param("postgresql", "paused", id="postgresql-paused", marks=long_form),
    ],
    indirect=["database"],
)
def test_ten_seconds_without_a_database(tmp_path: Path, database: Database, how: str, seed: int) -> None:
    served = Served.make(tmp_path / "instance", database=database.url)
    served.start()
    load = served.load(seed, threads=2)
    try:
        load.start()
        until(lambda: load.ledger.counted["/v1/renewals 200"] > 5, "devices renew")
        with guarding(served, load, tmp_path) as crosses:
            hasty = load.hasty_machine()
            with away(served, database, how) as still_away:
                while still_away():
                    answer = hasty.renew()  # in time, or its patience ends with an error
                    told = answer.status_code == 503 and answer.headers["Retry-After"].isdigit()
                    assert told or not still_away(), answer.text
                    assert crosses(), "the edge decides by what it knows"
                    assert served.get("/healthz").status_code == 200
                    time.sleep(0.2)
            before = load.ledger.counted["/v1/renewals 200"]
            until(lambda: load.ledger.counted["/v1/renewals 200"] > before + 5, "devices renew again")
            until(lambda: served.answers("/readyz"), "the service is ready again")
            assert crosses()
        load.stop()
        load.recover()
        settle(served, load)
    finally:
        show(load.ledger.summary() + served.failures)
        load.close()
        served.close()


@contextmanager
def guarding(served: Served, load: Load, folder: Path) -> Iterator[Callable[[], bool]]:
    """A running edge of the service's, and whether it lets one device cross that it knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "state").mkdir(mode=0o700)
    (folder / "proxy.key.pem").write_bytes(pem)
    (folder / "proxy.key.pem").chmod(0o600)
    (folder / "proxy.pem").write_text(load.operator.add_proxy("guard", SoftwareKey(key)))
    (folder / "edge.toml").write_text(
        f'[edge]\nserver = "{served.url}"\nroot = "{served.folder}/ca/root.pem"\ntrust_domain = "fleet.example"\n'
        'state_dir = "state"\nkey = "proxy.key.pem"\ncertificate = "proxy.pem"\n\n[[boundary]]\nname = "field"\n'
        f'from = {{ tier = "device", site = "{SITE}" }}\nto = {{ tier = "edge", site = "{SITE}" }}\n'
    )
    edge = Edge.from_file(folder / "edge.toml")
    machine = load.hasty_machine()
    chain = read_certificates(machine.device.answer.chain.encode(), where="the device's chain")  # type: ignore[union-attr]

    def crosses() -> bool:
        asked = Asked(Presented(chain=chain), Request("GET", "https://api.shop.example", "/orders"))
        return isinstance(edge.admit(edge.boundary("field"), lambda: asked), Admitted)

    edge.start()
    try:
        until(crosses, "the edge has a bundle that knows the device", lambda: str(edge.status()))
        yield crosses
    finally:
        edge.stop()


def test_a_damaged_database_is_named_and_the_service_neither_guesses_nor_spins(tmp_path: Path, seed: int) -> None:
    served = Served.make(tmp_path / "instance")
    served.start()
    load = served.load(seed)
    try:
        machine = load.hasty_machine()
        assert served.stop() == 0
        damage(served.folder / "registry.db", "devices", "sqlite_autoindex_devices_1", "ix_devices_state")
        served.start()
        assert served.get("/healthz").status_code == 200
        answer = machine.renew()
        assert (answer.status_code, answer.problem) == (503, "database-damaged"), answer.text
        assert "estore" in answer.get_json()["remedy"], "what to do"
        supervisor = served.supervisor
        kill(served.workers[0])
        until(lambda: len(served.workers) == 2, "its place is filled")
        time.sleep(3)
        assert served.supervisor == supervisor
        assert served.answers("/healthz")
        assert served.log.count("Unexpected exit") == 1
    finally:
        show(load.ledger.summary())
        load.abandon()
        served.close()


def damage(path: Path, *trees: str) -> None:
    """Overwrites the pages in which these tables and indices begin."""
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    roots = [row[0] for tree in trees for row in connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = ?", (tree,)
    )]  # fmt: skip
    connection.close()
    assert roots
    with path.open("rb+") as file:
        for page in roots:
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)
