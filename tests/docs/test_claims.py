"""Pages that name tests and sources name ones that exist: a claim without its test is none."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
_CELLS = re.compile(r"`(?P<file>[\w/]*\.py)?::(?P<test>test_\w+)`")
_SOURCE = re.compile(r"`((?:middleware|base|cli|services)/[\w/]+(?:\.py)?)`")


@functools.cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def named(page: Path) -> Iterator[tuple[Path, str]]:
    """Tests that a page names; one without a file is in the file named last in its line."""
    for line in page.read_text().splitlines():
        file = ""
        for match in _CELLS.finditer(line):
            file = match["file"] or file
            yield ROOT / "tests" / file, match["test"]


def test_auditors_page_names_tests() -> None:
    assert len(list(named(ROOT / "docs" / "auditors.md"))) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_and_sources_exist(page: Path) -> None:
    for file, test in named(page):
        assert file.is_file(), f"{file} does not exist"
        assert test in functions(file), f"{file.name} has no {test}"
    for source in _SOURCE.findall(page.read_text()):
        assert (ROOT / "secgear" / source).exists() or (ROOT / "tests" / source).exists(), source
