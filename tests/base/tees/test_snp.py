import errno
import re

import pytest

from secgear.base.tees.snp import SnpTee

SNP_BIT = 1 << 4


@pytest.fixture
def capable(fake):
    """An AMD server with everything an SNP guest needs."""
    fake.cpu("AuthenticAMD", "AMD EPYC 9354", "svm sev sev_es sev_snp")
    fake.file("/sys/module/kvm_amd/parameters/sev_snp", "Y\n")
    fake.kvm(types=0b1 | 0b100 | 0b1000 | SNP_BIT)
    fake.device("/dev/sev")
    fake.qemu("sev-guest", "sev-snp-guest")
    return fake


def test_capable_host_only_lacks_the_launcher(capable, verdict):
    capable.file("/usr/share/edk2/ovmf/OVMF.amdsev.fd")
    answer = verdict(SnpTee(capable.machine()))
    assert "this machine can run AMD SEV-SNP" in answer.reason
    assert answer.facts["host.kvm.vm_types"] == "default, sev, sev-es, snp"
    assert answer.facts["host.firmware"] == "/usr/share/edk2/ovmf/OVMF.amdsev.fd"
    assert answer.facts["guest.inside"] == "no sign of it"


@pytest.mark.parametrize(
    ("spoil", "reason", "fix"),
    [
        (
            lambda m: m.cpu("AuthenticAMD", "AMD EPYC 7742", "svm sev"),
            "AMD EPYC 7742.*no flag sev_snp",
            "EPYC 7003",
        ),
        (
            lambda m: m.file("/sys/module/kvm_amd/parameters/sev_snp", "N\n"),
            "sev_snp is N",
            "Linux 6.11",
        ),
        (
            lambda m: (m.root / "sys/module/kvm_amd/parameters/sev_snp").unlink(),
            "sev_snp is not there",
            "Linux 6.11",
        ),
        (lambda m: m.kvm(types=0b1111), "offers no SEV-SNP", "Linux 6.11"),
        (lambda m: m.kvm(error=errno.EACCES), "/dev/kvm is present, but permission", "."),
        (lambda m: (m.root / "dev/kvm").unlink(), "no /dev/kvm", "virtualization"),
        (lambda m: (m.root / "dev/sev").unlink(), "no /dev/sev", "ccp"),
        (
            lambda m: m.device("/dev/sev", error=errno.EACCES, mode=0o600),
            "/dev/sev .* permission denied",
            "udev rule",
        ),
        (lambda m: m.qemu("sev-guest", version="8.2.2"), "8.2.2 has no sev-snp-guest", "QEMU 9.1"),
        (
            lambda m: (m.root / "usr/bin/qemu-system-x86_64").unlink(),
            "no qemu-system-x86_64",
            "install QEMU",
        ),
    ],
)
def test_each_missing_piece_is_the_reason(capable, verdict, spoil, reason, fix):
    spoil(capable)
    answer = verdict(SnpTee(capable.machine()))
    assert re.search(reason, answer.reason)
    assert re.search(fix, answer.fix)


def test_tdx_bit_is_not_taken_for_snp(capable, verdict):
    capable.kvm(types=1 | 1 << 5)
    assert "it offers: default, tdx" in verdict(SnpTee(capable.machine())).reason


def test_guest_knows_it_is_inside_and_why_it_starts_no_other(fake, verdict):
    fake.cpu("AuthenticAMD", "AMD EPYC 9354", "hypervisor")
    fake.device("/dev/sev-guest")
    fake.file("/sys/devices/system/cpu/sev/vmpl", "0\n")
    fake.directory("/sys/module/sev_guest")
    fake.file("/sys/kernel/config/tsm/report/other/provider", "sev_guest\n")
    answer = verdict(SnpTee(fake.machine()))
    assert "itself inside AMD SEV-SNP" in answer.reason
    assert answer.facts["guest.inside"] == "yes: /dev/sev-guest"
    assert answer.facts["guest.sev_guest"] == "present, opens"
    assert answer.facts["guest.vmpl"] == "0"
    assert answer.facts["guest.driver"] == "loaded"
    assert answer.facts["guest.tsm"] == "ready, provider sev_guest"


def test_guest_device_closed_to_us_still_shows_that_we_are_inside(fake, verdict):
    fake.device("/dev/sev-guest", error=errno.EACCES, mode=0o600)
    answer = verdict(SnpTee(fake.machine()))
    assert answer.facts["guest.inside"] == "yes: /dev/sev-guest"
    assert "permission denied" in answer.facts["guest.sev_guest"]


@pytest.mark.parametrize(
    ("name", "text", "sign"),
    [
        ("/sys/devices/system/cpu/sev/vmpl", "2", "/sys/devices/system/cpu/sev"),
        ("/sys/kernel/config/tsm/report/a/provider", "sev_guest", "provider sev_guest"),
    ],
)
def test_guest_without_the_device_is_known_by_other_signs(fake, verdict, name, text, sign):
    fake.file(name, text)
    assert sign in verdict(SnpTee(fake.machine())).facts["guest.inside"]


def test_arm_is_the_wrong_architecture(arm, verdict):
    assert "exists on x86_64 only" in verdict(SnpTee(arm.machine())).reason
