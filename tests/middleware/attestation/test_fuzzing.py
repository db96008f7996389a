"""A short run of the fuzz target in every test run; `make fuzz` has the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_damaged_files_meet_every_reader_without_a_crash() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz" / "evidence.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "FUZZ_SECONDS": "10"},
    )
    assert done.returncode == 0, done.stderr
    cases = int(done.stdout.split()[0].replace(",", ""))
    assert cases > 5_000
