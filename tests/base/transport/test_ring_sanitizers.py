"""The ring without Python under sanitizers; with Python: ``make check-native``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def has_sanitizers() -> bool:
    if shutil.which("gcc") is None:
        return False
    for library in ("libtsan.so", "libasan.so", "libubsan.so"):
        found = subprocess.run(
            ["gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True
        )
        if found.stdout.strip() == library:  # as asked: not found
            return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_sanitizers(), reason="needs gcc with its sanitizers")
def test_sanitizers_find_the_seeded_faults_and_no_others() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "native" / "check.py"), "--quick"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("found, as it must be") == 2
    found = done.stdout.splitlines()
    for what in ("thread", "address"):
        assert sum(line.startswith(what) and "nothing found" in line for line in found) == 2
