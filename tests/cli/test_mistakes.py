"""What goes wrong: one clear line, the right exit code, nothing lost and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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
    (["sign", "shop.sgear"], 2, "one of --key, --pkcs11, --digest, --attach"),
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
    (["new", "json"], 2, "module of this name"),
    (["new", "host"], 2, "module of this name"),
    (["new", "fine", "-d", "shop.py/x"], 2, "can't be written"),
    (["build", "slash.py"], 2, "give one with -o"),
    (["build", "shop.py", "-o", "shop.py"], 2, "something else"),
    (["build", "shop.py", "-o", "pipe"], 2, "not a regular file"),
    (["sign", "shop.sgear", "--key", "key.pem", "-o", "key.pem"], 2, "something else"),
    (["sign", "shop.sgear", "--digest", "-o", "shop.sgear"], 2, "something else"),
    (["sign", "shop.sgear", "--key", "key.pem", "--passphrase-file", "empty.py"], 2, "is empty"),
    (["keygen", "-o", "new.pem", "--passphrase-file", "empty.py"], 2, "is empty"),
    (["keygen", "-o", "new.pem", "--passphrase", "--passphrase-file", "shop.py"], 2, "one of"),
    (["keygen", "-o", "nowhere/new.pem"], 3, "can't be written"),
    (["inspect", "folder"], 3, "can't be read"),
    (["inspect", "pipe"], 3, "not a regular file"),
    (["inspect", "unsigned.sgear", "--verify"], 3, "not signed"),
    (["inspect", "debug.sgear", "--verify"], 3, "debug image"),
    (["measure", "shop.sgear", "--debug"], 2, "--debug is for source"),
    (["run", "debug.sgear", "price", "tea"], 3, "debug image"),
    (["run", "folder", "price"], 3, "app.py"),
    (["run", "shop.sgear", "price", "item=tea", "item=milk"], 5, "given twice"),
    (["run", "shop.sgear", "price", "tea", "1", "2"], 5, "too many"),
    (["run", "shop.sgear", "size", "@/dev/zero"], 2, "neither a file nor a pipe"),
    (["run", "shop.sgear", "upto", "-5"], 2, "put -- before"),
    (["codegen", "missing.sgear"], 3, "missing.sgear"),
    (["doctor", "--verbos"], 2, "secgear doctor --help"),
    (["inspect", "shop.sgear", "--min-svn", "many"], 2, "--min-svn"),
    (["build"], 2, "source"),
    (["nonsense"], 2, "nonsense"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "text"), FAILURES, ids=[" ".join(entry[0])[:60] for entry in FAILURES]
)
def test_mistakes_get_one_clear_line_and_leave_nothing(
    run: Any, app: Path, image: Path, tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    _litter(tmp_path, image)
    before = _contents(tmp_path)
    failed = run(*arguments, "--json")
    assert failed.code == code, failed.err
    document = failed.json
    if "error" in document:
        assert list(document) == ["error"]
        assert text in document["error"]["message"]
        assert document["error"]["code"]
    else:
        assert text in document["refused"]
    assert text in failed.err
    if arguments[0] != "build":  # which shows where the app's own code failed
        assert "Traceback" not in failed.err
    assert _contents(tmp_path) == before


def _litter(folder: Path, image: Path) -> None:
    from secgear.base.image import Image, with_signature

    (folder / "broken.py").write_text("def (:\n")
    (folder / "broken.csv").write_bytes(b'"')
    (folder / "empty.py").write_text("")
    (folder / "slash.py").write_text('from secgear import App\napp = App("a/../b", version="1")\n')
    (folder / "folder").mkdir()
    (folder / "folder" / "x").write_text("")
    os.mkfifo(folder / "pipe")
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "tampered.sgear").write_bytes(data)
    with_signature(Image.load(image), None).save(folder / "unsigned.sgear")


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["inspect", "secret.sgear"], 3, "secret.sgear: can't be read: Permission denied"),
        (["sign", "shop.sgear", "--key", "secret.pem"], 3, "secret.pem: can't be read"),
        (["sign", "shop.sgear", "--digest"], 2, "shop.tbs: can't be written: Permission denied"),
        (["keygen", "-o", "new.pem"], 3, "new.pem: can't be written: Permission denied"),
        (["build", "secret.py", "-o", "x.sgear"], 3, "secret.py: can't be read"),
        (["codegen", "shop.sgear", "-o", "client.py"], 2, "client.py: can't be written"),
        (["new", "mine"], 2, "mine: can't be written: Permission denied"),
        (["run", "shop.sgear", "size", "@secret.pem"], 2, "secret.pem: can't be read"),
        (["inspect", "closed/x.sgear"], 3, "closed/x.sgear: can't be read: Permission denied"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_may_not_be_read_or_written_is_named(
    run: Any, image: Path, tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    for name in ("secret.sgear", "secret.pem", "secret.py"):
        (tmp_path / name).write_bytes(image.read_bytes())
        (tmp_path / name).chmod(0o600)
    (tmp_path / "closed").mkdir(mode=0o700)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith(str(tmp_path.parents[1])):
            folder.chmod(folder.stat().st_mode | 0o055)
    failed = run(*arguments, "--json", user=65534, group=65534, extra_groups=[])
    assert failed.code == code, failed.err
    assert text in failed.json["error"]["message"]


def test_without_json_there_is_nothing_on_stdout(run: Any, image: Path) -> None:
    for arguments in (["inspect", "missing"], ["run", str(image), "nothing"], ["build"]):
        failed = run(*arguments)
        assert failed.out == ""
        assert failed.err.startswith("error: ")
        assert failed.err.count("\n") == 1


def test_the_traceback_is_there_for_who_asks(run: Any) -> None:
    failed = run("inspect", "missing", env={**os.environ, "SECGEAR_DEBUG": "1"})
    assert "Traceback" in failed.err
    assert failed.err.splitlines()[-1].startswith("error: missing: ")


def test_a_defect_of_ours_is_one_line_without_its_text() -> None:
    code = """
import secgear.cli.app as command
def app(**_): raise KeyError("canary")
command.app = app
command.main()
"""
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "SECGEAR_DEBUG": debug},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "error: secgear has a defect (KeyError)" in done.stderr
        assert ("canary" in done.stderr) is bool(debug)


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["doctor", "--json"], ["run", "shop.sgear"], ["--help"]], ids=" ".join
)
def test_output_that_nobody_takes_is_no_defect(
    tmp_path: Path, image: Path, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "secgear.cli", *arguments]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


SLOW = """
from pathlib import Path
from secgear import App
Path("{started}").touch()
import time
time.sleep(60)
app = App("slow", version="1")
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("command", [["build", "slow.py"], ["run", "shop.sgear", "slow"]])
def test_an_interrupt_ends_quietly_and_leaves_nothing(
    tmp_path: Path, image: Path, command: list[str], number: int, code: int
) -> None:
    started = tmp_path / "started"
    (tmp_path / "slow.py").write_text(SLOW.format(started=started))
    before = {*_contents(tmp_path)}
    child = subprocess.Popen(
        [sys.executable, "-m", "secgear.cli", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not (started.exists() or _children(child.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    children = _children(child.pid)
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert {*_contents(tmp_path)} - {"started"} == before
    assert children
    deadline = time.monotonic() + 5
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in children if _runs(pid)]


def _runs(pid: int) -> bool:
    """Whether the process is there and no zombie, which only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, tasks.read_text().split())
    return found


def _type(command: list[str], folder: Path, lines: list[str]) -> tuple[int, str, str]:
    """Run a command on a terminal and type `lines` when asked; exit code, screen and stdout."""
    pid, terminal = pty.fork()
    out = folder / "stdout"
    if pid == 0:
        os.chdir(folder)
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        os.execv(sys.executable, [sys.executable, "-m", "secgear.cli", *command])
    screen = b""
    asked = 0
    try:
        while True:
            screen += os.read(terminal, 4096)
            while asked < len(lines) and screen.count(b": ") > asked:
                os.write(terminal, lines[asked].encode() + b"\n")
                asked += 1
    except OSError:  # the terminal is gone once nobody holds its other end
        pass
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), screen.decode(), out.read_text()


def test_a_passphrase_is_asked_for_and_not_shown(run: Any, image: Path, tmp_path: Path) -> None:
    secret = "correct horse"
    code, screen, out = _type(
        ["keygen", "-o", "p.pem", "--passphrase", "--json"], tmp_path, [secret, secret]
    )
    assert code == 0, screen
    assert secret not in screen + out
    assert '"signer"' in out
    assert b"ENCRYPTED" in (tmp_path / "p.pem").read_bytes()
    code, screen, _ = _type(["sign", "shop.sgear", "--key", "p.pem"], tmp_path, [secret])
    assert code == 0, screen
    assert secret not in screen
    code, screen, _ = _type(["sign", "shop.sgear", "--key", "p.pem"], tmp_path, ["wrong"])
    assert code == 3
    assert "passphrase" in screen
