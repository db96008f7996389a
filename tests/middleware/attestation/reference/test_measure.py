"""What `secgear measure --json` prints is a reference value as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secgear.errors import PolicyError
from secgear.middleware.attestation.reference import load_reference_values
from tests.adversary.claims import NOW, claims_for_tests

GOOD: dict[str, Any] = {
    "measurement": "11" * 48,
    "signer": None,
    "product": "wordcount",
    "svn": 5,
    "debug": False,
}


def output(**changes: Any) -> bytes:
    tees = {"process": GOOD | changes, "snp": {"measurement": None, "reason": "no launcher"}}
    return json.dumps({"schema": "secgear.measure/1", "tees": tees}, indent=2).encode()


def test_output_becomes_a_value_for_each_tee_that_could_be_measured() -> None:
    (value,) = load_reference_values(output()).values
    assert (value.tee, value.product, value.svn) == ("process", "wordcount", 5)
    assert value.fits(claims_for_tests(tee="process"), NOW)
    assert not value.fits(claims_for_tests(tee="process", measurements={}), NOW)


def test_real_output_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secgear.cli.app import app

    monkeypatch.setenv("SECGEAR_HOME", str(tmp_path))
    source = Path(__file__).parents[4] / "examples" / "wordcount" / "wordcount.py"
    printed = CliRunner().invoke(app, ["measure", str(source), "--json"]).stdout
    (value,) = load_reference_values(printed.encode()).values
    assert value.tee == "process"
    assert len(value.measurements["launch"]) == 48


@pytest.mark.parametrize(
    "changes",
    [
        {"measurement": None},
        {"measurement": "xy"},
        {"measurement": 1},
        {"signer": 1},
        {"product": 1},
        {"svn": "1"},
        {"svn": [1]},
    ],
)
def test_output_that_is_not_understood_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="secgear measure"):
        load_reference_values(output(**changes))


def test_output_of_another_release_is_refused() -> None:
    with pytest.raises(PolicyError, match="no output of this release"):
        load_reference_values(output().replace(b"measure/1", b"measure/2"))
