"""What every `attestd appraise` command shares: how a file is read, and how a verdict becomes an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from attestd.cli.output import emit, report
from attestd.errors import AttestdError, EvidenceRefused, InputTooLarge, MalformedInput

BAD, UNUSABLE = 1, 2


class FileUnreadable(MalformedInput):
    """The file can't be read"""

    remedy = "Name a file that exists and that you may read."


def read_input(path: Path, *, limit: int) -> bytes:
    """A file's octets, at most `limit` of them; `-` is standard input. Raises FileUnreadable, InputTooLarge."""
    try:
        with open(0, "rb", closefd=False) if str(path) == "-" else path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FileUnreadable(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from None
    if len(data) > limit:
        raise InputTooLarge(f"{path} is too large.", seen=f"more than {limit} octets", expected=f"at most {limit}")
    return data


@contextmanager
def judging(*, as_json: bool) -> Iterator[None]:
    """Evidence that is refused is a bad verdict (1); input that can't be read as what it should be is unusable (2)."""
    try:
        yield
    except EvidenceRefused as error:
        report(error, as_json=as_json)
        raise typer.Exit(BAD) from None
    except AttestdError as error:
        report(error, as_json=as_json)
        raise typer.Exit(UNUSABLE) from None


def tell(document: Mapping[str, Any], *, as_json: bool, text: str, refusal: AttestdError | None = None) -> None:
    """The verdict's document on stdout; with a `refusal` also the reason on stderr, and exit code 1."""
    emit(document, as_json=as_json, text=text)
    if refusal is not None:
        report(refusal, as_json=as_json)
        raise typer.Exit(BAD)
