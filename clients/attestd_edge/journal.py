"""Structured logs: one JSON object a line, for machines that read them. Times in UTC."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """`at`, `level`, `logger`, `message`, and what a record carries in its `attestd` attribute."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds: JSON escapes line breaks."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "attestd", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(*, verbose: bool) -> None:
    """JSON lines on stderr: warnings and changes of state; `verbose` adds every crossing that was allowed."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("attestd_edge").setLevel(logging.INFO)
    logging.getLogger("attestd_edge.decisions").setLevel(logging.INFO if verbose else logging.WARNING)
