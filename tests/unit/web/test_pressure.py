"""What the front tells: counts for the scraper, few lines for the log."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from attestd.web.admission import Work
from attestd.web.pressure import Pressure


def test_everything_is_counted_by_class() -> None:
    registry = CollectorRegistry()
    pressure = Pressure(registry)
    told = pressure.told
    told.refused(Work.READ, "rate")
    told.refused(Work.READ, "rate")
    told.refused(Work.UNKNOWN, "size")
    told.waiting(Work.DEVICE, 7)
    told.waited(Work.DEVICE, 0.3)
    pressure.closed(12)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("attestd_refused_total", work="read", reason="rate") == 2
    assert value("attestd_refused_total", work="unknown", reason="size") == 1
    assert value("attestd_queue_length", work="device") == 7
    assert value("attestd_queue_wait_seconds_count", work="device") == 1
    assert value("attestd_connections_closed_total") == 12


def test_a_flood_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    time = [0.0]
    pressure = Pressure(CollectorRegistry(), clock=lambda: time[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(10_000):
            time[0] += 0.0025
            pressure.refused(Work.READ, "rate")
    told = [record.members["refused"]["read/rate"] for record in caplog.records]  # type: ignore[attr-defined]
    assert len(told) == 2
    assert sum(told) == pytest.approx(8000, abs=2)
