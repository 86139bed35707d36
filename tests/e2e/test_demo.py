"""The story of `make demo`, told to its end."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


@pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm_setup is not installed")
@pytest.mark.timeout(300)
def test_every_step_comes_out_as_it_should() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attestd_demo"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout + done.stderr
    assert last == "demo: 44 steps, 44 as expected"
    assert done.stderr == ""
