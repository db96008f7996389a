import errno
import re

import pytest

from secgear.base.tees.sgx import SgxTee


@pytest.fixture
def capable(fake):
    """An Intel server with driver, Gramine and quoting service."""
    fake.cpu("GenuineIntel", "Xeon 8380", "vmx sgx sgx_lc")
    fake.device("/dev/sgx_enclave")
    fake.device("/dev/sgx_provision")
    fake.program("/usr/bin/gramine-sgx")
    fake.file("/var/run/aesmd/aesm.socket")
    return fake


def test_capable_host_only_lacks_the_launcher(capable, verdict):
    answer = verdict(SgxTee(capable.machine()))
    assert "this machine can run Intel SGX" in answer.reason
    assert answer.facts["host.gramine"] == "/usr/bin/gramine-sgx"


@pytest.mark.parametrize(
    ("spoil", "reason", "fix"),
    [
        (lambda m: m.cpu("GenuineIntel", "Core 12", "vmx"), "Core 12.*no flag sgx", "firmware"),
        (lambda m: m.cpu("GenuineIntel", "Xeon E3", "sgx"), "no flag sgx_lc", "launch control"),
        (lambda m: (m.root / "dev/sgx_enclave").unlink(), "no /dev/sgx_enclave", "Linux 5.11"),
        (
            lambda m: ((m.root / "dev/sgx_enclave").unlink(), m.file("/dev/isgx")),
            "no /dev/sgx_enclave",
            "/dev/isgx belongs to an older driver",
        ),
        (
            lambda m: m.device("/dev/sgx_enclave", error=errno.EACCES, mode=0o600),
            "/dev/sgx_enclave .*permission denied",
            "udev rule",
        ),
        (
            lambda m: m.device("/dev/sgx_provision", error=errno.EACCES, mode=0o600),
            "/dev/sgx_provision .for evidence. .*permission denied",
            "udev rule",
        ),
        (lambda m: (m.root / "usr/bin/gramine-sgx").unlink(), "no gramine-sgx", "Gramine"),
        (
            lambda m: (m.root / "var/run/aesmd/aesm.socket").unlink(),
            "quoting service",
            "sgx-aesm-service",
        ),
    ],
)
def test_each_missing_piece_is_the_reason(capable, verdict, spoil, reason, fix):
    spoil(capable)
    answer = verdict(SgxTee(capable.machine()))
    assert re.search(reason, answer.reason)
    assert re.search(fix, answer.fix)


def test_gramine_guest_knows_it_is_inside(fake, verdict):
    fake.file("/dev/attestation/attestation_type", "dcap")
    answer = verdict(SgxTee(fake.machine()))
    assert "itself inside Intel SGX" in answer.reason
    assert answer.facts["guest.attestation"] == "dcap"
    assert answer.facts["guest.inside"].endswith("says dcap")


def test_arm_is_the_wrong_architecture(arm, verdict):
    assert "exists on x86_64 only" in verdict(SgxTee(arm.machine())).reason
