"""A user of the command line: a folder of their own, an app, a signed image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_APP = '''
from collections.abc import Iterator

import pyarrow as pa

from secgear import App

app = App("shop", version="1.2", svn=3, requires=["pyarrow"])


@app.ecall
def price(item: str, count: int = 1) -> dict[str, int]:
    """What it costs."""
    ask(item)
    return {item: 5 * count}


@app.ecall
def size(data: bytes) -> int:
    return len(data)


@app.ecall
def rows(table: pa.Table) -> pa.Table:
    return table.slice(0, 2)


@app.ecall
def upto(n: int) -> Iterator[int]:
    yield from range(n)


@app.ecall(raises=[ValueError])
def refuse() -> None:
    raise ValueError("not for sale")


@app.ecall
def slow() -> None:
    import time
    time.sleep(60)


@app.ocall
def ask(item: str) -> None: ...
'''


class Result:
    """What a command did."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(*arguments: str, **options: Any) -> Result:
        return Result(
            subprocess.run(
                [sys.executable, "-m", "secgear.cli", *arguments],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                stdin=subprocess.DEVNULL,
                **options,
            )
        )

    return run


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.write_text(_APP)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A signed image and its keys, made once by the commands themselves."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "shop.py").write_text(_APP)
    for line in (
        "build shop.py",
        "build shop.py --debug -o debug.sgear",
        "keygen -o key.pem",
        "sign shop.sgear --key key.pem",
    ):
        subprocess.run(
            [sys.executable, "-m", "secgear.cli", *line.split()],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return {name: (folder / name).read_bytes() for name in ("shop.sgear", "debug.sgear", "key.pem")}


@pytest.fixture
def image(made: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "shop.sgear"
