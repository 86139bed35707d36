"""`attestd appraise`: the service's own appraisal for one file, without an instance, a database or a network.

Exit code 0 means a good verdict and nothing else; 1 a bad one; 2 input that can't be used. The reason for the latter
two is on stderr, in plain words; `--json` puts the verdict on stdout as one object.
"""

from __future__ import annotations

import typer

from attestd.cli.appraise.bundle import bundle
from attestd.cli.appraise.ek import ek
from attestd.cli.appraise.eventlog import eventlog
from attestd.cli.appraise.ima import ima
from attestd.cli.appraise.quote import quote

app = typer.Typer(help="Appraise evidence from files: the same engine as the service's, offline.", no_args_is_help=True)
app.command()(bundle)
app.command()(ek)
app.command()(eventlog)
app.command()(ima)
app.command()(quote)
