import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.probing.machine import DeviceState, Machine, clean, parse_cpuinfo

ROOT = Path(__file__).resolve().parents[3]


def failing(code):
    def open_device(path, flags):
        raise OSError(code, os.strerror(code), path)

    return open_device


def test_absent_device(tmp_path):
    assert Machine(tmp_path).device("/dev/x").state is DeviceState.ABSENT


def test_device_under_a_file_is_absent(tmp_path):
    (tmp_path / "dev").write_text("")
    assert Machine(tmp_path).device("/dev/x").state is DeviceState.ABSENT


def test_device_that_opens(tmp_path):
    (tmp_path / "x").write_text("")
    device = Machine(tmp_path).device("/x")
    assert device.usable
    assert device.present
    assert not device.fix


@pytest.mark.parametrize(
    ("code", "state", "seen", "fix"),
    [
        (errno.EPERM, DeviceState.DENIED, "forbidden", "docker run --device /x"),
        (errno.ENXIO, DeviceState.DEAD, "no driver", "kernel module"),
        (errno.ENODEV, DeviceState.DEAD, "no driver", "kernel module"),
        (errno.EBUSY, DeviceState.FAILED, "fails", "dmesg"),
        (errno.EIO, DeviceState.FAILED, "fails", "dmesg"),
    ],
)
def test_each_error_has_its_own_fix(tmp_path, code, state, seen, fix):
    (tmp_path / "x").write_text("")
    device = Machine(tmp_path, open_device=failing(code)).device("/x")
    assert device.state is state
    assert device.present
    assert not device.usable
    assert seen in device.seen
    assert fix in device.fix


def test_denied_device_of_root_only_needs_a_rule(tmp_path):
    (tmp_path / "x").write_text("")
    (tmp_path / "x").chmod(0o600)
    device = Machine(tmp_path, open_device=failing(errno.EACCES)).device("/x")
    assert "mode 0600" in device.seen
    assert "udev rule" in device.fix


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to another group")
def test_denied_device_of_a_group_names_the_group(tmp_path):
    (tmp_path / "x").write_text("")
    (tmp_path / "x").chmod(0o660)
    os.chown(tmp_path / "x", 0, 54321)
    device = Machine(tmp_path, open_device=failing(errno.EACCES)).device("/x")
    assert "group 54321" in device.seen
    assert "usermod -aG 54321" in device.fix


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an unprivileged user")
def test_a_user_without_rights_is_denied_for_real():
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        (directory / "x").write_text("")
        (directory / "x").chmod(0o600)
        (directory / "shut").mkdir(mode=0o700)
        (directory / "shut" / "y").write_text("")
        script = (
            "from secgear.base.probing.machine import Machine;"
            f"machine = Machine({str(directory)!r});"
            "print(machine.device('/x').seen, '|', machine.device('/shut/y').fix)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(directory)
    assert "permission denied" in done.stdout
    assert "a directory above /shut/y is closed to you" in done.stdout


def test_refused_question_is_none_and_closes_the_device(tmp_path):
    (tmp_path / "x").write_text("")
    machine = Machine(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    device, answers = machine.ask("/x", (0xAE00, 0), (0xAE03, 235))
    assert device.usable
    assert answers == [None, None]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_reading_never_blocks_or_fails(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"a\xff\x00b")
    machine = Machine(tmp_path)
    assert machine.read("/fifo") is None
    assert machine.read("/") is None
    assert machine.read("/absent") is None
    assert machine.read("/a\0b") is None
    assert machine.read("/bytes") == "a\ufffd\x00b"
    assert machine.read("/bytes", limit=1) == "a"
    assert machine.names("/absent") == []
    assert not machine.exists("/a\0b")


def test_programs_are_found_on_the_path_of_the_machine(tmp_path):
    for name in ("bin/plain", "bin/tool", "usr/sbin/admin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / "bin/tool").chmod(0o755)
    (tmp_path / "usr/sbin/admin").chmod(0o755)
    machine = Machine(tmp_path, search_path=["/bin", "relative"])
    assert machine.which("tool") == "/bin/tool"
    assert machine.which("absent", "tool") == "/bin/tool"
    assert machine.which("admin") == "/usr/sbin/admin"
    assert machine.which("/bin/tool") == "/bin/tool"
    assert machine.which("plain") is None


def test_a_program_is_asked_once_until_it_changes(tmp_path):
    calls = []
    (tmp_path / "tool").write_text("one")
    machine = Machine(tmp_path, run=lambda argv: calls.append(argv) or f"answer {len(calls)}")
    assert machine.output("/tool", "--version") == "answer 1"
    assert machine.output("/tool", "--version") == "answer 1"
    assert machine.output("/tool", "help") == "answer 2"
    (tmp_path / "tool").write_text("another")
    assert machine.output("/tool", "--version") == "answer 3"
    assert machine.output("/absent", "--version") is None


def test_a_silent_program_costs_its_deadline_once(tmp_path):
    calls = []
    (tmp_path / "tool").write_text("one")
    machine = Machine(tmp_path, run=lambda argv: calls.append(argv))
    assert machine.output("/tool", "--version") is None
    assert machine.output("/tool", "-object", "help") is None
    assert len(calls) == 1


@given(st.text(), st.integers(min_value=1, max_value=300))
def test_cleaned_text_is_one_short_printable_line(text, limit):
    line = clean(text, limit)
    assert len(line) <= limit
    assert line.isprintable()


def test_cleaning_takes_terminal_sequences_apart():
    assert clean("a\x1b[31m\r\nb\u202e") == "a [31m b"


@given(st.text())
def test_cpuinfo_of_any_text_is_a_cpu(text):
    cpu = parse_cpuinfo(text)
    assert cpu.model
    assert cpu.model.isprintable()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["vendor_id", "model name", "flags", "Features", "CPU implementer"]),
            st.text(),
        )
    )
)
def test_cpuinfo_of_likely_lines_is_a_cpu(lines):
    cpu = parse_cpuinfo("\n".join(f"{key}\t: {value}" for key, value in lines))
    assert all(flag and not flag.isspace() for flag in cpu.flags)


def test_cpuinfo_of_x86_takes_the_first_processor():
    cpu = parse_cpuinfo(
        "processor : 0\nvendor_id : AuthenticAMD\nmodel name : AMD EPYC: 9\nflags : svm sev_snp\n"
        "\nprocessor : 1\nvendor_id : Other\nmodel name : X\nflags : none\n"
    )
    assert (cpu.vendor, cpu.model) == ("AuthenticAMD", "AMD EPYC: 9")
    assert cpu.flags == {"svm", "sev_snp"}


def test_cpuinfo_of_arm_names_implementer_and_part():
    cpu = parse_cpuinfo("Features : fp aes\nCPU implementer : 0x48\nCPU part : 0xd01\n")
    assert cpu.model == "Arm implementer 0x48 part 0xd01"
    assert "aes" in cpu.flags
