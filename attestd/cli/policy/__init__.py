"""`attestd policy`: what edges and token requests are judged by (docs/policies.md).

`validate`, `test`, `explain` and `diff` judge files without an instance, where they are given all that they need. Their
exit code is 0 for a good verdict and nothing else, 1 for a bad one, 2 for input that can't be used.
"""

from __future__ import annotations

import typer

from attestd.cli.policy.diff import diff
from attestd.cli.policy.expecting import test
from attestd.cli.policy.explain import explain
from attestd.cli.policy.keeping import default, history, rollback, schema, set_, show
from attestd.cli.policy.trying import dry_run
from attestd.cli.policy.validate import validate

app = typer.Typer(help="The Cedar policy that edges and token requests are judged by.", no_args_is_help=True)
app.command()(show)
app.command("set")(set_)
app.command()(history)
app.command()(rollback)
app.command()(default)
app.command()(schema)
app.command()(validate)
app.command()(test)
app.command()(explain)
app.command()(diff)
app.command()(dry_run)
