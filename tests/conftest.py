"""What all tests share: a home of their own for the simulated platform."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SECGEAR_HOME"] = str(tmp_path_factory.mktemp("home"))
