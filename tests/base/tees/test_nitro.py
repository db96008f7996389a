import errno
import re

import pytest

from secgear.base.tees.nitro import NitroTee


@pytest.fixture
def capable(fake):
    """A parent instance with CPUs set aside."""
    fake.file("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n")
    fake.device("/dev/nitro_enclaves")
    fake.file("/sys/module/nitro_enclaves/parameters/ne_cpus", "1,3\n")
    fake.program("/usr/bin/nitro-cli", "echo Nitro CLI 1.4.2")
    return fake


def test_capable_parent_only_lacks_the_launcher(capable, verdict):
    answer = verdict(NitroTee(capable.machine()))
    assert "this machine can run AWS Nitro Enclaves" in answer.reason
    assert answer.facts["host.vendor"] == "Amazon EC2"
    assert answer.facts["host.cpu_pool"] == "1,3"
    assert answer.facts["host.nitro_cli"] == "/usr/bin/nitro-cli 1.4.2"


@pytest.mark.parametrize(
    ("spoil", "reason", "fix"),
    [
        (lambda m: (m.root / "dev/nitro_enclaves").unlink(), "no /dev/nitro_encl", "EnclaveOpt"),
        (
            lambda m: m.device("/dev/nitro_enclaves", error=errno.EACCES, mode=0o600),
            "/dev/nitro_enclaves .*permission denied",
            "udev rule",
        ),
        (
            lambda m: m.file("/sys/module/nitro_enclaves/parameters/ne_cpus", "\n"),
            "no CPUs are set aside",
            "nitro-enclaves-allocator",
        ),
        (lambda m: (m.root / "usr/bin/nitro-cli").unlink(), "no nitro-cli", "nitro-enclaves-cli"),
    ],
)
def test_each_missing_piece_is_the_reason(capable, verdict, spoil, reason, fix):
    spoil(capable)
    answer = verdict(NitroTee(capable.machine()))
    assert re.search(reason, answer.reason)
    assert re.search(fix, answer.fix)


def test_enclave_knows_it_is_inside(arm, verdict):
    arm.device("/dev/nsm")
    answer = verdict(NitroTee(arm.machine()))
    assert "itself inside AWS Nitro Enclaves" in answer.reason
    assert answer.facts["guest.nsm"] == "present, opens"
    assert answer.facts["guest.inside"] == "yes: /dev/nsm"


def test_security_module_without_driver_is_told(fake, verdict):
    fake.device("/dev/nsm", error=errno.ENODEV)
    answer = verdict(NitroTee(fake.machine()))
    assert answer.facts["guest.nsm"] == "present, but no driver stands behind it"
