"""The command line, as a user types it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import secgear


def test_version_and_help(run: Any) -> None:
    assert run("--version").out == f"secgear {secgear.__version__}\n"
    shown = run("--help").out
    for command in ("doctor", "new", "build", "keygen", "sign", "measure", "run", "codegen"):
        assert command in shown


def test_completion_is_offered(run: Any) -> None:
    assert "secgear" in run("--show-completion", "bash", env={**os.environ, "SHELL": "bash"}).out


def test_doctor_tells_of_every_tee(run: Any) -> None:
    report = run("doctor", "--json").json
    names = {row["name"] for row in report["tees"]}
    assert {"process", "vm", "snp", "tdx", "cca", "sgx", "nitro", "trustzone"} <= names
    for row in report["tees"]:
        assert row["available"] or (row["reason"] and row["fix"])
    assert report["auto"] == "process"
    text = run("doctor")
    assert text.code == 0
    assert 'tee="auto" takes process here: a simulation' in text.out
    assert "Switchless calls " in text.out
    layer = report["tees"][-1]["layers"][0]["name"]
    assert layer not in text.out
    assert layer in run("doctor", "--verbose").out


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("cryptography", "signing"),
        ("numpy", "arguments"),
        ("secgear.base.enclave", "run"),
        ("secgear.cli._demo", "demo"),
    ],
)
def test_what_a_command_needs_is_imported_when_it_runs(module: str, reason: str) -> None:
    code = f"import sys, secgear.cli.app; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, reason


def test_a_new_app_can_take_the_empty_folder_one_stands_in(run: Any, tmp_path: Path) -> None:
    made = run("new", "greeter", "-d", ".", "--json").json
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*made["files"]}
    assert run("new", "greeter", "-d", "a/b/c").code == 0
    assert (tmp_path / "a/b/c/greeter/app.py").is_file()


def test_a_new_app_works_at_once(run: Any, tmp_path: Path) -> None:
    assert run("new", "greeter", "--json").json["directory"] == "greeter"
    for command in (["host.py"], ["-m", "pytest", "-q", "-p", "no:cacheprovider"]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path / "greeter",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_life_of_an_image(run: Any, app: Path, tmp_path: Path) -> None:
    built = run("build", str(app), "-o", "a.sgear", "--json").json
    for options, expected in ([], True), (["--debug"], False):
        measured = run("measure", str(app), *options, "--json").json["tees"]["process"]
        assert (measured["measurement"] == built["measurement"]) is expected
    assert built["signer"] is None
    key = run("keygen", "-o", "k.pem", "--json").json
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    signed = run("sign", "a.sgear", "--key", "k.pem", "--json").json
    assert signed["measurement"] == built["measurement"]
    assert signed["signer"] == key["signer"]
    measured = run("measure", "a.sgear", "--json").json["tees"]
    assert measured["process"]["measurement"] == built["measurement"]
    assert measured["sgx"]["measurement"] is None
    assert measured["sgx"]["reason"]
    shown = run("inspect", "a.sgear", "--json").json
    assert shown["svn"] == 3
    assert "price(item: str, count: int = ...) -> dict[str, int]" in shown["ecalls"]
    assert list(shown["requires"]) == ["pyarrow"]
    assert list(shown["files"]) == ["shop.py"]
    assert shown["log"] == "off"
    assert not shown["refused"]
    assert run("inspect", "a.sgear", "--signer", key["signer"], "--min-svn", "3").code == 0


@pytest.mark.parametrize(
    ("algorithm", "command"),
    [
        ("ed25519", "openssl pkeyutl -sign -rawin -inkey k.pem -in a.tbs -out a.sig"),
        ("ecdsa-p384", "openssl dgst -sha384 -sign k.pem -out a.sig a.tbs"),
    ],
)
def test_signing_in_two_steps(
    run: Any, app: Path, tmp_path: Path, algorithm: str, command: str
) -> None:
    run("build", str(app), "-o", "a.sgear")
    signer = run("keygen", "-o", "k.pem", "--algorithm", algorithm, "--json").json["signer"]
    assert run("sign", "a.sgear", "--digest", "--json").json["to_be_signed"] == "a.tbs"
    for line in (command, "openssl pkey -in k.pem -pubout -out pub.pem"):
        subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)
    done = run("sign", "a.sgear", "--attach", "a.sig", "--public-key", "pub.pem", "--json")
    assert done.json["signer"] == signer
    (tmp_path / "a.sig").write_bytes(b"x" * 64)
    assert run("sign", "a.sgear", "--attach", "a.sig", "--public-key", "pub.pem").code == 3


def test_a_key_file_may_have_a_passphrase(run: Any, image: Path, tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    run("keygen", "-o", "p.pem", "--passphrase-file", "pass")
    assert b"ENCRYPTED" in (tmp_path / "p.pem").read_bytes()
    assert run("sign", str(image), "--key", "p.pem", "--passphrase-file", "pass").code == 0
    for options in ([], ["--passphrase-file", "wrong"]):
        failed = run("sign", str(image), "--key", "p.pem", *options)
        assert failed.code == 3
        assert "passphrase" in failed.err
        assert "battery" not in failed.err


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (["price", "tea", "2"], {"tea": 10}),
        (["price", "count=3", "item=milk"], {"milk": 15}),
        (["size", "hello"], 5),
        (["size", "@shop.sgear"], None),
        (["rows", "@t.csv"], [{"a": 1}, {"a": 2}]),
        (["rows", "@t.parquet"], [{"a": 1}, {"a": 2}]),
        (["upto", "3"], [0, 1, 2]),
    ],
)
def test_run_makes_one_ecall(
    run: Any, image: Path, tmp_path: Path, arguments: list[str], result: Any
) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    (tmp_path / "t.csv").write_text("a\n1\n2\n3\n")
    pa.parquet.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "t.parquet")
    if result is None:
        result = image.stat().st_size
    done = run("run", str(image), *arguments, "--json")
    assert done.json == {"result": result}, done.err
    if "price" in arguments:
        assert "ocall ask(" in done.err


def test_a_debug_image_runs_for_who_accepts_it(run: Any, image: Path) -> None:
    debug = str(image.with_name("debug.sgear"))
    assert run("run", debug, "upto", "1").code == 3
    assert run("run", debug, "upto", "1", "--debug").out == "0\n"
    assert run("run", str(image.with_name("shop.py")), "upto", "1").code == 3


def test_run_lists_and_streams_for_people(run: Any, image: Path) -> None:
    assert "upto(n: int) -> Iterator[int]" in run("run", str(image)).out
    assert run("run", str(image), "upto", "3").out == "0\n1\n2\n"


def test_run_calls_through_shared_memory_and_tells_when_it_can_not(run: Any, image: Path) -> None:
    done = run("run", str(image), "size", "hello", "--switchless", "--json")
    assert done.json == {"result": 5}, done.err
    assert "over the stream" not in done.err
    done = run("run", str(image), "upto", "3", "--switchless")
    assert done.out == "0\n1\n2\n"
    assert "over the stream: it takes or returns an iterator" in done.err


def test_codegen_writes_a_client_that_works(run: Any, image: Path, tmp_path: Path) -> None:
    assert run("codegen", str(image), "-o", "client.py").code == 0
    program = (
        "import client\n"
        "with client.launch('shop.sgear', ocalls={'ask': lambda item: None}) as shop:\n"
        "    print(shop.price('tea', 4))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "{'tea': 20}\n", done.stderr
    assert "def price(self, item: str" in run("codegen", str(image), "--stub").out
