"""A database that keeps everybody waiting: requests get an answer in their time, and work goes on afterwards."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.load.conftest import Site
from tests.load.running import Client

SETTINGS = {"limits_max_wait": "3s"}


def test_a_database_that_is_held_is_a_clear_refusal(site: Site) -> None:
    """Somebody else writes for eight seconds. Twice as many devices' requests as there are threads wait for it."""
    held = sqlite3.connect(site.service.folder / "registry.db", isolation_level=None, timeout=20)
    held.execute("BEGIN IMMEDIATE")
    release = threading.Timer(8.0, lambda: None)
    try:
        release.start()
        with ThreadPoolExecutor(40) as pool:
            started = time.monotonic()
            answers = [pool.submit(_once, site, n) for n in range(40)]
            assert Client(site.service).get("/healthz").status_code == 200
            found = [answer.result() for answer in answers]
        assert time.monotonic() - started < 20
    finally:
        held.execute("ROLLBACK")
        held.close()
        release.cancel()
    assert {status for status, _ in found} == {503}
    assert all(1 <= int(retry) <= 60 for _, retry in found)
    with site.renewing() as outcome:
        time.sleep(2)
    site.must_hold(outcome, grown=100)


def _once(site: Site, n: int) -> tuple[int, str]:
    from attestd.protocol.messages import RenewalRequest
    from attestd.protocol.signed import sign_flattened
    from tests.soft_device import URL

    device = site.devices[n % len(site.devices)]
    client = Client(site.service, f"127.0.4.{n + 1}")
    body = sign_flattened(
        RenewalRequest().to_bytes(),
        sign=device.sign,
        alg="ES256",
        kid=device.id,
        url=f"{URL}/v1/renewals",
        nonce=client.nonce(),
    )
    answer = client.post("/v1/renewals", body)
    client.close()
    return answer.status_code, answer.headers.get("Retry-After", "0")
