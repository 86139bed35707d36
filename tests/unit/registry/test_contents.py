"""What is kept once for all who speak of it: by its digest, compressed, and forgotten when nothing names it."""

from __future__ import annotations

import hashlib
import threading
import zlib

import pytest
from sqlalchemy import func, select, update

from attestd.registry import contents, evidence
from attestd.registry.contents import EVENT_LOG, FORGET_AFTER, REFERENCES, ContentGone, Contents, packed, unpacked
from attestd.registry.engine import Registry
from attestd.registry.states import State
from attestd.registry.tables import contents as table

from .conftest import NOW, Fleet
from .test_evidence import kept

LOG = b"a log " * 1000


def count(registry: Registry) -> int:
    with registry.reading() as c:
        return int(c.execute(select(func.count()).select_from(table)).scalar_one())


def at(registry: Registry) -> int:
    with registry.reading() as c:
        return int(c.execute(select(table.c.at)).scalar_one())


def test_content_is_found_by_its_digest(registry: Registry) -> None:
    keeper = Contents(registry)
    digest = keeper.keep(EVENT_LOG, LOG, now=NOW)
    assert digest == hashlib.sha256(LOG).digest()
    assert keeper.find(digest) == LOG == Contents(registry).find(digest)
    with registry.reading() as c:
        assert len(c.execute(select(table.c.content)).scalar_one()) < len(LOG) // 10


def test_content_that_is_not_there(registry: Registry) -> None:
    with pytest.raises(ContentGone):
        Contents(registry).find(bytes(32))


def test_it_is_kept_once_whoever_keeps_it(registry: Registry) -> None:
    for keeper in (Contents(registry), Contents(registry)):
        keeper.keep(EVENT_LOG, LOG, now=NOW)
    assert count(registry) == 1


def test_a_process_does_not_write_again_what_it_wrote_just_now(registry: Registry) -> None:
    keeper = Contents(registry)
    keeper.keep(EVENT_LOG, LOG, now=NOW)
    keeper.keep(EVENT_LOG, LOG, now=NOW + 599)
    assert at(registry) == NOW
    keeper.keep(EVENT_LOG, LOG, now=NOW + 600)  # and so what is in use is never long untouched
    assert at(registry) == NOW + 600


def test_many_at_once(registry: Registry) -> None:
    keepers = [Contents(registry) for _ in range(4)]
    threads = [threading.Thread(target=keeper.keep, args=(EVENT_LOG, LOG), kwargs={"now": NOW}) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(registry) == 1
    assert keepers[0].find(hashlib.sha256(LOG).digest()) == LOG


def test_a_log_that_nothing_names_is_forgotten_after_a_while(registry: Registry) -> None:
    Contents(registry).keep(EVENT_LOG, LOG, now=NOW)
    with registry.acting() as c:
        assert contents.purge(c, now=NOW + FORGET_AFTER, limit=9) == 0
        assert contents.purge(c, now=NOW + FORGET_AFTER + 1, limit=9) == 1


def test_a_log_that_evidence_names_stays(registry: Registry, fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    digest = Contents(registry).keep(EVENT_LOG, LOG, now=NOW)
    registry.act(*evidence.keeping(device.id, kept(boot_log=digest), ima=None, new_boot=True))
    with registry.acting() as c:
        assert contents.purge(c, now=NOW + 9 * FORGET_AFTER, limit=9) == 0


def test_other_content_stays(registry: Registry) -> None:
    Contents(registry).keep(REFERENCES, LOG, now=NOW)
    with registry.acting() as c:
        assert contents.purge(c, now=NOW + 9 * FORGET_AFTER, limit=9) == 0


def test_forgetting_takes_so_many_at_once(registry: Registry) -> None:
    keeper = Contents(registry)
    for n in range(3):
        keeper.keep(EVENT_LOG, b"log %d" % n, now=NOW)
    with registry.acting() as c:
        assert [contents.purge(c, now=NOW + 9 * FORGET_AFTER, limit=2) for _ in range(3)] == [2, 1, 0]


def test_what_was_stored_is_read_within_bounds() -> None:
    assert unpacked(packed(b"x" * 100), 100) == b"x" * 100
    with pytest.raises(ValueError, match="larger"):
        unpacked(packed(b"x" * 101), 100)
    with pytest.raises(ValueError, match="larger"):
        unpacked(packed(LOG)[:-5])
    with pytest.raises(zlib.error):
        unpacked(b"no stream")


def test_content_that_grew_in_the_database_is_not_believed(registry: Registry) -> None:
    digest = Contents(registry).keep(EVENT_LOG, LOG, now=NOW)
    with registry.acting() as c:
        c.execute(update(table).values(content=packed(bytes(contents.MAX_CONTENT + 1))))
    with pytest.raises(ValueError, match="larger"):
        Contents(registry).find(digest)
