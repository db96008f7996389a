"""What the documentation shows can be done as shown.

Blocks marked ``<!-- file: NAME -->`` are written to a folder; ``<!-- run: NAME -->`` are run, too.
``<!-- run -->`` marks a terminal session: what stands behind ``$`` is run, and what is shown of
its output must come, in that order; ``…`` stands for anything. A page is read from top to bottom
in one folder, as a reader would.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>file|run)(?:: (?P<name>[\w./-]+))? -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    mark: str | None
    name: str | None
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text()):
        yield Block(match["mark"], match["name"], match["language"], match["text"])


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def environment(folder: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": scripts + os.pathsep + os.environ["PATH"],
        "SECGEAR_HOME": str(folder / ".secgear-home"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


def run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


class Shell:
    """Commands one after another, each where the one before has left off."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._note = folder / ".where"

    def run(self, command: str) -> str:
        script = f'{command}\nstatus=$?; pwd > "$1"; exit $status'
        try:
            return run(["bash", "-c", script, command, self._note], self._folder)
        finally:
            self._folder = Path(self._note.read_text().rstrip("\n"))


def session(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands with the pieces of output that are shown for each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        pieces = [" ".join(piece.split()) for piece in shown.split("…")]
        yield command, [piece for piece in pieces if piece]


PERFORMED = [page for page in PAGES if any(block.mark for block in blocks(page))]


def test_readme_and_quick_start_are_among_the_pages_that_are_performed() -> None:
    assert {"README.md", "docs/quickstart.md"} <= {title(page) for page in PERFORMED}


@pytest.mark.parametrize("page", PERFORMED, ids=title)
def test_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for block in blocks(page):
        if block.name:
            (tmp_path / block.name).write_text(block.text)
            if block.mark == "run":
                run([sys.executable, tmp_path / block.name], tmp_path)
        elif block.mark == "run":
            for command, shown in session(block.text):
                if "openssl" in command and shutil.which("openssl") is None:
                    pytest.skip("the rest of the page needs openssl: apt-get install openssl")
                output = " ".join(shell.run(command).split())
                at = 0
                for piece in shown:
                    found = output.find(piece, at)
                    assert found >= 0, f"$ {command}\nshows {piece!r}, but printed:\n{output}"
                    at = found + len(piece)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_python_on_the_page_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{target} does not exist"
