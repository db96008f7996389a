"""What holds for every probe: on this machine, and on machines that lie."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.base.probing import commands
from secgear.base.probing.machine import Machine, this_machine
from secgear.base.tee import Availability
from secgear.base.tees.cca import CcaTee
from secgear.base.tees.nitro import NitroTee
from secgear.base.tees.sgx import SgxTee
from secgear.base.tees.snp import SnpTee
from secgear.base.tees.tdx import TdxTee
from secgear.base.tees.trustzone import TrustZoneTee
from secgear.base.tees.vm import VmTee

ROOT = Path(__file__).resolve().parents[3]
PROBED = [VmTee, SnpTee, TdxTee, CcaTee, SgxTee, NitroTee, TrustZoneTee]
FILES = [
    "/proc/mounts",
    "/sys/module/kvm_amd/parameters/sev_snp",
    "/sys/module/kvm_intel/parameters/tdx",
    "/sys/module/nitro_enclaves/parameters/ne_cpus",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/devices/system/cpu/sev/vmpl",
    "/sys/kernel/config/tsm/report/x/provider",
    "/usr/share/qemu/firmware/x.json",
    "/dev/attestation/attestation_type",
]
DEVICES = ["kvm", "sev", "sev-guest", "tdx_guest", "sgx_enclave", "sgx_provision", "nsm", "tee0"]
PROGRAMS = ["qemu-system-x86_64", "qemu-system-aarch64", "swtpm", "gramine-sgx", "nitro-cli"]


@pytest.fixture(scope="module")
def liar(tmp_path_factory):
    root = tmp_path_factory.mktemp("liar")
    for name in [*FILES, "/proc/cpuinfo", *(f"/dev/{name}" for name in DEVICES)]:
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for name in PROGRAMS:
        path = root / "usr/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    return root


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cpuinfo=st.binary()
    | st.lists(st.sampled_from(["sgx", "sgx_lc", "sev_snp", "tdx_guest", "vmx"])).map(
        lambda flags: ("vendor_id : GenuineIntel\nflags : " + " ".join(flags)).encode()
    ),
    content=st.binary(max_size=200),
    output=st.none() | st.text(),
    answer=st.integers(-(2**31), 2**31 - 1) | st.binary(max_size=16),
    error=st.none() | st.integers(1, 133),
    arch=st.sampled_from(["x86_64", "aarch64", "riscv64", "", "../../etc"]),
)
def test_a_lying_machine_gets_a_refusal_and_never_an_exception(
    liar, cpuinfo, content, output, answer, error, arch
):
    (liar / "proc/cpuinfo").write_bytes(cpuinfo)
    for name in FILES:
        (liar / name.lstrip("/")).write_bytes(content)

    def open_device(path, flags):
        if error is not None:
            raise OSError(error, os.strerror(error), path)
        return os.open(path, flags)

    for kind in PROBED:
        machine = Machine(
            liar,
            arch=arch,
            search_path=["/usr/bin"],
            open_device=open_device,
            ioctl=lambda *_: answer,
            run=lambda _: output,
        )
        found = kind(machine).probe()
        assert not found.available
        assert "the probe itself failed" not in found.reason
        for line in (found.reason, found.fix, *found.facts.values()):
            assert line
            assert line.isprintable()
        assert msgspec.json.decode(msgspec.json.encode(found), type=Availability) == found


@pytest.mark.parametrize("kind", PROBED)
def test_a_probe_whose_look_fails_says_so(kind, monkeypatch):
    def broken(self):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(kind, "look_at_host", broken)
    found = kind().probe()
    assert not found.available
    assert found.reason == "the probe itself failed: ZeroDivisionError: a bug"


def test_probing_here_is_quick_repeatable_and_leaves_nothing():
    tees = [kind() for kind in PROBED]

    def children() -> set[str]:
        listing = Path(f"/proc/self/task/{os.getpid()}/children")
        return set(listing.read_text().split()) if listing.exists() else set()

    others = children()
    before = len(list(Path("/proc/self/fd").iterdir()))
    # Where QEMU is installed, a loaded machine may need all the time it is given.
    installed = this_machine().which(f"qemu-system-{os.uname().machine}", "nitro-cli")
    slack = 3 * commands.TIMEOUT if installed else 0
    began = time.monotonic()
    first = []
    for tee in tees:
        start = time.monotonic()
        first.append(tee.probe())
        assert time.monotonic() - start < 1 + slack
    assert time.monotonic() - began < 2 + slack
    assert not any(found.available for found in first)
    assert [tee.probe() for tee in tees] == first
    again = [msgspec.json.encode(tee.probe(), order="sorted") for tee in random.sample(tees, 7)]
    assert sorted(again) == sorted(msgspec.json.encode(found, order="sorted") for found in first)
    # Fewer is fine: what other tests left to the collector may go meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert children() <= others


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an unprivileged user")
def test_probing_works_without_privileges():
    names = ", ".join(kind.__name__ for kind in PROBED)
    imports = ";".join(f"from {kind.__module__} import {kind.__name__}" for kind in PROBED)
    script = f"{imports}\nfor kind in ({names}): print(kind.name, kind().probe().reason)"
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
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [kind.name for kind in PROBED]
    assert "probe itself failed" not in done.stdout


@pytest.mark.parametrize("kind", PROBED)
def test_every_tee_says_from_whom_it_protects_and_from_whom_not(kind):
    assert kind.protects.startswith("from ")
    assert "not from " in kind.protects
    assert kind.strength >= 100 or kind is VmTee
    assert kind.simulated is (kind is VmTee)
