"""Structured logs on standard error: one line an event, `key=value` for people, JSON objects for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [f"{name}={_word(value)}" for name, value in _fields(record).items()]
        line = " ".join([_time(record), record.levelname.lower(), record.getMessage(), *words])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Objects(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        found = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found | _fields(record), default=str, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    text = str(value)
    return text if text and all(c.isprintable() and c not in ' "=' for c in text) else json.dumps(text)


def configure(*, objects: bool, debug: bool) -> None:
    """Once, from the entry point."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Objects() if objects else _Lines())
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
