"""Installing the native ring: one module for all Pythons; no compiler, no harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEADERS = Path(sysconfig.get_path("include"), "Python.h")
SOURCES = ("_ring.c", "_ring_core.h", "_ring_wait.h", "_ring_memory.h")


def build(folder: Path, compiler: str) -> Path:
    """Build in a copy, as pip does; where the module is, if it is."""
    transport = folder / "secgear" / "base" / "transport"
    transport.mkdir(parents=True)
    shutil.copy(ROOT / "setup.py", folder)
    for name in SOURCES:
        shutil.copy(ROOT / "secgear" / "base" / "transport" / name, transport)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "CC": compiler},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return transport / "_ring.abi3.so"


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/cc"])
def test_without_a_compiler_the_build_succeeds_and_has_no_module(
    tmp_path: Path, compiler: str
) -> None:
    assert not build(tmp_path, compiler).exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(not HEADERS.exists(), reason="needs Python's headers")
def test_the_module_is_made_for_every_python_from_3_11(tmp_path: Path) -> None:
    module = build(tmp_path, "cc -Wall -Wextra -Wconversion -Wshadow -Werror")
    code = "import _ring; print(_ring.lane_size(8, 4096))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=module.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "16384\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "was not built when secgear was installed"), (b"no library", "can't be loaded")],
)
def test_without_the_module_the_reason_is_told(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    package = tmp_path / "secgear"
    shutil.copytree(ROOT / "secgear", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if content is not None:
        (package / "base" / "transport" / "_ring.abi3.so").write_bytes(content)
    code = """
from secgear.base.transport import ring
from secgear.base.doctor import examine
assert not ring.available()
found = examine().switchless
print(found.available, found.reason, found.fix)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("False ")
    assert reason in done.stdout
    assert "gcc python3-dev" in done.stdout
