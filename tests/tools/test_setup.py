"""The way in for a newcomer: make targets, set-up, continuous integration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def copy_of_the_tools(folder: Path) -> Path:
    copy = folder / "a copy"
    shutil.copytree(ROOT / "tools", copy / "tools")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    return copy


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Not the variables of the make that runs these tests.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON"}
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert targets is not None
    text = make(ROOT).stdout
    for target in targets[1].split():
        assert target == "help" or f"make {target} " in text


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^(make \w+) +#", readme, re.MULTILINE)
    assert commands == ["make demo", "make test"]
    assert "step make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("interpreter", ["/nonexistent/python3", "/bin/false"])
def test_interpreter_that_does_not_work_is_named_and_nothing_is_left(
    interpreter: str, tmp_path: Path
) -> None:
    folder = copy_of_the_tools(tmp_path)
    done = make(folder, "test", f"PYTHON={interpreter}")
    assert done.returncode != 0
    assert f"PYTHON={interpreter} is not a working Python 3.11 or later" in done.stderr
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize(
    ("groups", "says"), [(["demo"], ""), (["test"], "will take the stream"), ([], "")]
)
def test_without_a_compiler_the_set_up_goes_on(groups: list[str], says: str) -> None:
    done = subprocess.run(
        ["sh", ROOT / "tools" / "compiler.sh", sys.executable, *groups],
        env={**os.environ, "CC": "/nonexistent/cc"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (says in done.stdout) if says else not done.stdout
