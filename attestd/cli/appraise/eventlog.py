"""`attestd appraise eventlog`: what a firmware's log says, what it replays to, and what follows from that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attestd.cli.options import Json


def eventlog(
    file: Annotated[
        Path, typer.Argument(help="The log: /sys/kernel/security/tpm0/binary_bios_measurements; - is stdin.")
    ],
    pcrs: Annotated[
        Path | None, typer.Option(help="PCR values to compare it with: what tpm2_pcrread prints, or JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a TCG event log, replay it, and say what it proves of the boot.

    With --pcrs the log must replay to these values, in every bank that both have. Without it nothing is compared, and
    the output says so: "compared": false. Facts rest on digests that were recomputed; "claimed" are names that a log
    gives to digests, which nobody can prove.
    """
    from attestd.cli.appraise.bootreport import compare, in_words, report_on
    from attestd.cli.appraise.pcrs import read_pcr_file
    from attestd.cli.appraise.verdicts import judging, read_input, tell
    from attestd.tpm.eventlog import MAX_OCTETS, parse_event_log

    with judging(as_json=as_json):
        log = parse_event_log(read_input(file, limit=MAX_OCTETS))
        values = None if pcrs is None else read_pcr_file(pcrs)
        match, refusal = compare(log, values)
        document = report_on(log, match, refusal, values)
        tell(document, as_json=as_json, text=in_words(document), refusal=refusal)
