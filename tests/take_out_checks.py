"""Takes the checks out of a module one by one and shows that a test notices:

    python tests/take_out_checks.py attestd/tpm/attest.py tests/unit/tpm

A check is an `if` that raises (each side of an `or` by itself), a row of a table that names a refusal, or a statement
that calls something named check…, verify…, require… or done. Each is taken out in a copy of the tree, never in the tree
itself; then the given tests run until the first failure. A check that can go without a failure is printed, and the exit
code is 1. `tests/mutants.py` does this for every module that decides something.
"""

# ruff: noqa: T201

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_COPIED = ("attestd", "clients", "certs", "tests", "pyproject.toml")
_CHECKING_CALL = re.compile(r"_?(check|verify|require|refuse|done)(_|$)")
_REFUSAL = re.compile(r"[A-Z]\w+")
VECTORS = {"ATTESTD_VECTORS": os.environ.get("ATTESTD_VECTORS", str(_ROOT.parent / "shared" / "vectors"))}
_LIMIT = 300  # seconds for one run of the tests


@dataclass(frozen=True)
class Check:
    """One check in the source: what to put between two offsets so that it is gone."""

    line: int
    what: str
    start: int
    end: int
    instead: str

    def taken_out_of(self, source: str) -> str:
        return source[: self.start] + self.instead + source[self.end :]


def find_checks(source: str) -> Iterator[Check]:
    """Every check of a module, in the order of its lines."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    octets = source.encode()

    def check(node: ast.expr | ast.stmt, instead: str) -> Check:
        begin = starts[node.lineno - 1] + node.col_offset
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        finish = starts[node.end_lineno - 1] + node.end_col_offset
        start, end = len(octets[:begin].decode()), len(octets[:finish].decode())
        return Check(node.lineno, " ".join(source[start:end].split())[:100], start, end, instead)

    for node in ast.walk(tree):
        if isinstance(node, ast.If) and any(isinstance(child, ast.Raise) for child in node.body):
            either = node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or) else []
            for test in either or [node.test]:
                # An assignment inside the condition must stay: the code after it may use the name.
                kept = any(isinstance(part, ast.NamedExpr) for part in ast.walk(test))
                condition = check(test, "")
                instead = f"({source[condition.start : condition.end]}) and False" if kept else "False"
                yield Check(condition.line, "if " + condition.what, condition.start, condition.end, instead)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if _CHECKING_CALL.match(name):
                yield check(node, "pass")
        elif isinstance(node, ast.Tuple) and node.elts and all(_is_rule(row) for row in node.elts):
            for row in node.elts:
                yield check(row, "*()")


def _is_rule(node: ast.expr) -> bool:
    """A row of a table of checks: a tuple whose last part is a class, the refusal."""
    last = node.elts[-1] if isinstance(node, ast.Tuple) and len(node.elts) > 1 else None
    return isinstance(last, ast.Name) and bool(_REFUSAL.fullmatch(last.id))


def copy_tree(tree: Path) -> None:
    """What the tests need, copied into this folder."""
    for name in _COPIED:
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (_ROOT / name).exists():
            shutil.copy(_ROOT / name, tree / name)


def _notices(tree: Path, tests: list[str]) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree}:{tree / 'clients'}", "PYTHONDONTWRITEBYTECODE": "1", **VECTORS},
        capture_output=True,
        check=False,
        timeout=_LIMIT,
    )
    if done.returncode not in (0, 1, 2):  # 2: a module that could not even be imported is noticed too
        raise SystemExit(f"pytest can't run here: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}")
    return done.returncode != 0


def main(arguments: list[str]) -> int:
    """`MODULE TESTS…` -> 0 if each check is noticed."""
    if len(arguments) < 2:
        print(__doc__)
        return 2
    module, *tests = arguments
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        source = (tree / module).read_text()
        if _notices(tree, tests):
            print("The tests fail before anything is taken out.")
            return 2
        checks = sorted(find_checks(source), key=lambda c: c.line)
        for check in checks:
            (tree / module).write_text(check.taken_out_of(source))
            noticed = _notices(tree, tests)
            missed += not noticed
            print(f"{'noticed' if noticed else 'MISSED '} {module}:{check.line}: {check.what}", flush=True)
        print(f"{module}: {len(checks)} checks, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
