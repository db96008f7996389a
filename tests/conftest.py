"""What all tests share: a home for the simulated platform, and real evidence where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[1]
_PLACES = (
    _REPOSITORY / "tests" / "vectors",
    Path(os.environ.get("SECGEAR_VECTORS", _REPOSITORY.parent / "shared" / "vectors")),
)


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SECGEAR_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """Reads one vector by its name, ``snp/msft-milan_vcek.pem``; skips, and says so, without it."""

    def read(name: str) -> bytes:
        for place in _PLACES:
            if (place / name).is_file():
                return (place / name).read_bytes()
        pytest.skip(f"vector {name} is not here; SECGEAR_VECTORS names a folder that has it")

    return read
