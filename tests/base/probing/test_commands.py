import time
from pathlib import Path

import pytest

from secgear.base.probing import commands


@pytest.fixture
def program(tmp_path):
    def make(script):
        path = tmp_path / "tool"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def wait_for(condition):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_output_comes_back_whatever_the_exit_status(program):
    assert commands.run([program("echo '1.2 é'; exit 3")]) == "1.2 é\n"


def test_arguments_are_not_read_by_a_shell(program):
    assert commands.run([program('printf %s "$1"'), "$(id); *"]) == "$(id); *"


@pytest.mark.parametrize("argv", [["/nonexistent/tool"], ["/"], ["a\0b"]])
def test_what_cannot_run_is_none(argv):
    assert commands.run(argv) is None


def test_a_file_without_interpreter_is_none(tmp_path):
    path = tmp_path / "tool"
    path.write_bytes(b"\x00\x01")
    path.chmod(0o755)
    assert commands.run([str(path)]) is None


def test_hanging_program_is_killed_with_its_children(program, tmp_path):
    note = tmp_path / "pids"
    script = f"sleep 300 & echo $! $$ > {note}.new; mv {note}.new {note}; wait"
    before = time.monotonic()
    assert commands.run([program(script)], timeout=1.0) is None
    assert time.monotonic() - before < 10
    pids = [int(word) for word in note.read_text().split()]
    assert len(pids) == 2
    assert wait_for(lambda: not any(alive(pid) for pid in pids))


def test_program_that_closes_its_output_and_lingers_is_killed(program, tmp_path):
    note = tmp_path / "pid"
    script = f"echo $$ > {note}; echo hello; exec >&- ; sleep 300"
    assert commands.run([program(script)], timeout=1.0) is None
    assert wait_for(lambda: not alive(int(note.read_text())))


def test_endless_output_is_cut_off(program):
    before = time.monotonic()
    assert commands.run([program("exec yes")], timeout=60) is None
    assert time.monotonic() - before < 30


def test_the_environment_stays_here(program, monkeypatch):
    monkeypatch.setenv("CANARY", "secret-4711")
    output = commands.run([program("env")])
    assert "secret-4711" not in output
    assert "LC_ALL=C" in output


def test_input_is_empty(program):
    assert commands.run([program("cat; echo end")]) == "end\n"


def test_no_descriptor_stays_open(program):
    path = program("echo x")
    commands.run([path])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        commands.run([path])
    commands.run(["/nonexistent/tool"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
