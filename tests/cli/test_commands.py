"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import secgear

APP = '''
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
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A signed image and its keys, made once by the commands themselves."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "shop.py").write_text(APP)
    for line in ("build shop.py", "keygen -o key.pem", "sign shop.sgear --key key.pem"):
        subprocess.run(
            [sys.executable, "-m", "secgear.cli", *line.split()],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return {name: (folder / name).read_bytes() for name in ("shop.sgear", "key.pem")}


@pytest.fixture
def image(made: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "shop.sgear"


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
    text = run("doctor", "--verbose")
    assert text.code == 0
    assert "simulation" in text.out


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
    assert run("inspect", "a.sgear", "--signer", key["signer"], "--min-svn", "3").code == 0


@pytest.mark.parametrize(
    ("algorithm", "command"),
    [
        ("ed25519", "openssl pkeyutl -sign -rawin -inkey k.pem -in a.tbs -out a.sig"),
        ("ecdsa-p384-sha384", "openssl dgst -sha384 -sign k.pem -out a.sig a.tbs"),
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


def test_run_lists_and_streams_for_people(run: Any, image: Path) -> None:
    assert "upto(n: int) -> Iterator[int]" in run("run", str(image)).out
    assert run("run", str(image), "upto", "3").out == "0\n1\n2\n"


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


FAILURES: list[tuple[list[str], int, str]] = [
    (["build", "missing.py"], 3, "missing.py"),
    (["build", "broken.py"], 3, "SyntaxError"),
    (["build", "empty.py"], 3, "App"),
    (["build", "shop.py", "-o", "nowhere/x.sgear"], 3, "nowhere"),
    (["build", "shop.py", "-o", "folder"], 2, "is a folder"),
    (["inspect", "missing.sgear"], 3, "can't be read"),
    (["inspect", "broken.py"], 3, "not an image"),
    (["inspect", "tampered.sgear"], 3, "tampered"),
    (["inspect", "shop.sgear", "--min-svn", "9"], 3, "svn 3 is below"),
    (["inspect", "shop.sgear", "--signer", "00" * 48], 3, "does not name"),
    (["inspect", "shop.sgear", "--signer", "zz"], 2, "96 hex digits"),
    (["sign", "shop.sgear"], 2, "one of --key, --digest, --attach"),
    (["sign", "shop.sgear", "--key", "key.pem", "--digest"], 2, "one of"),
    (["sign", "shop.sgear", "--attach", "key.pem"], 2, "--public-key"),
    (["sign", "shop.sgear", "--key", "broken.py"], 3, "private key"),
    (["sign", "shop.sgear", "--key", "missing.pem"], 3, "missing.pem"),
    (["keygen", "-o", "key.pem"], 3, "exists already"),
    (["keygen", "-o", "new.pem", "--algorithm", "rsa"], 3, "ed25519"),
    (["measure", "missing.sgear"], 3, "missing.sgear"),
    (["run", "missing.sgear", "f"], 3, "missing.sgear"),
    (["run", "shop.sgear", "nothing"], 5, "it has price"),
    (["run", "shop.sgear", "price"], 5, "item is missing"),
    (["run", "shop.sgear", "price", "tea", "many"], 5, "Expected `int`"),
    (["run", "shop.sgear", "rows", "@broken.py"], 2, ".parquet"),
    (["run", "shop.sgear", "rows", "@broken.csv"], 2, "as a table"),
    (["run", "shop.sgear", "size", "@missing"], 2, "missing"),
    (["run", "shop.sgear", "refuse"], 5, "not for sale"),
    (["run", "shop.sgear", "slow", "--deadline", "0.3"], 5, "deadline"),
    (["run", "shop.sgear", "price", "tea", "--tee", "sgx"], 4, "sgx"),
    (["run", "shop.sgear", "price", "tea", "--tee", "nonsense"], 4, "no TEE is called"),
    (["run", "shop.sgear", "price", "tea", "--require", "magic"], 4, "magic"),
    (["run", "unsigned.sgear", "price", "tea"], 3, "not signed"),
    (["codegen", "shop.sgear", "-o", "broken.py"], 2, "exists already"),
    (["new", "class"], 2, "identifier"),
    (["new", "folder"], 2, "exists already"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "text"), FAILURES, ids=[" ".join(entry[0])[:60] for entry in FAILURES]
)
def test_mistakes_get_one_clear_line_and_leave_nothing(
    run: Any, app: Path, image: Path, tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    from secgear.base.image import Image, with_signature

    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "broken.csv").write_bytes(b'"')
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("")
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "tampered.sgear").write_bytes(data)
    with_signature(Image.load(image), None).save(tmp_path / "unsigned.sgear")
    before = sorted(path.name for path in tmp_path.iterdir())
    failed = run(*arguments, "--json")
    assert failed.code == code, failed.err
    assert "Traceback" not in failed.err.replace("Traceback (most recent call last):\n  ", "")
    if failed.out and "error" in failed.json:
        assert text in failed.json["error"]["message"]
        assert failed.json["error"]["code"]
    assert text in failed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_wrong_options_exit_with_2(run: Any) -> None:
    assert run("nonsense").code == 2
    assert run("build").code == 2
    assert run("run", "x", "--deadline", "soon").code == 2


def test_an_interrupt_ends_quietly(tmp_path: Path, image: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "secgear.cli", "run", str(image), "slow"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.0)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in err
