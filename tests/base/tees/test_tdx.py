import errno
import re

import pytest

from secgear.base.tees.tdx import TdxTee

TDX_BIT = 1 << 5


@pytest.fixture
def capable(fake):
    """An Intel server with everything a trust domain needs."""
    fake.cpu("GenuineIntel", "INTEL(R) XEON(R) PLATINUM 8580", "vmx tdx_host_platform")
    fake.file("/sys/module/kvm_intel/parameters/tdx", "Y\n")
    fake.kvm(types=1 | TDX_BIT)
    fake.qemu("tdx-guest")
    return fake


def test_capable_host_only_lacks_the_launcher(capable, verdict):
    capable.file("/var/run/tdx-qgs/qgs.socket")
    answer = verdict(TdxTee(capable.machine()))
    assert "this machine can run Intel TDX" in answer.reason
    assert answer.facts["host.kvm.vm_types"] == "default, tdx"
    assert answer.facts["host.quote_service"] == "/var/run/tdx-qgs/qgs.socket"


@pytest.mark.parametrize(
    ("spoil", "reason", "fix"),
    [
        (lambda m: m.cpu("AuthenticAMD", "AMD EPYC", "svm"), "AMD EPYC.*not Intel", "Xeon"),
        (
            lambda m: (
                m.cpu("GenuineIntel", "Xeon 4", "vmx"),
                m.file("/sys/module/kvm_intel/parameters/tdx", "N"),
            ),
            "Xeon 4.*no flag tdx_host_platform",
            "firmware",
        ),
        (
            lambda m: m.file("/sys/module/kvm_intel/parameters/tdx", "N\n"),
            "parameter tdx is N",
            r"kvm_intel\.tdx=1",
        ),
        (
            lambda m: (m.root / "sys/module/kvm_intel/parameters/tdx").unlink(),
            "parameter tdx is not there",
            "Linux 6.16",
        ),
        (lambda m: m.kvm(types=1 | 1 << 4), "offers no TDX.*default, snp", "Linux 6.16"),
        (lambda m: m.kvm(error=errno.EPERM), "/dev/kvm .*forbidden", "docker run --device"),
        (lambda m: m.kvm(error=errno.ENXIO), "/dev/kvm .*no driver", "kernel module"),
        (lambda m: m.qemu(version="10.0.2"), "10.0.2 has no tdx-guest", "QEMU 10.1"),
    ],
)
def test_each_missing_piece_is_the_reason(capable, verdict, spoil, reason, fix):
    spoil(capable)
    answer = verdict(TdxTee(capable.machine()))
    assert re.search(reason, answer.reason)
    assert re.search(fix, answer.fix)


def test_guest_knows_it_is_inside(fake, verdict):
    fake.cpu("GenuineIntel", "Xeon", "hypervisor tdx_guest")
    fake.device("/dev/tdx_guest")
    fake.directory("/sys/kernel/config/tsm/report")
    answer = verdict(TdxTee(fake.machine()))
    assert answer.reason.startswith("this machine is itself inside Intel TDX")
    assert answer.facts["guest.inside"] == "yes: the CPU flag tdx_guest"
    assert answer.facts["guest.tdx_guest"] == "present, opens"
    assert answer.facts["guest.tsm"] == "ready, provider unknown until somebody makes a report"


def test_guest_with_configfs_only_is_known_by_the_provider(fake, verdict):
    fake.file("/sys/kernel/config/tsm/report/x/provider", "tdx_guest\n")
    assert "provider tdx_guest" in verdict(TdxTee(fake.machine())).facts["guest.inside"]


def test_another_tees_provider_is_no_sign(fake, verdict):
    fake.file("/sys/kernel/config/tsm/report/x/provider", "sev_guest\n")
    assert verdict(TdxTee(fake.machine())).facts["guest.inside"] == "no sign of it"


def test_arm_is_the_wrong_architecture(arm, verdict):
    assert "exists on x86_64 only" in verdict(TdxTee(arm.machine())).reason
