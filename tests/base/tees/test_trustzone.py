import errno
import re
import struct

import pytest

from secgear.base.tees.trustzone import TEE_IOC_VERSION, TrustZoneTee

ASK = (TEE_IOC_VERSION, bytes(12))


def version(implementation, general=1):
    return {ASK: struct.pack("=III", implementation, 0, general)}


@pytest.fixture
def optee(arm):
    """A board with OP-TEE and its client."""
    arm.device("/dev/tee0", version(1))
    arm.device("/dev/teepriv0")
    arm.directory("/sys/class/tee/tee0")
    arm.file("/usr/lib/aarch64-linux-gnu/libteec.so.2.0.0")
    arm.program("/usr/sbin/tee-supplicant")
    return arm


@pytest.fixture
def itrustee(arm):
    """A Kunpeng server with iTrustee and its client."""
    arm.file("/dev/tc_ns_client")
    arm.file("/usr/lib64/libteec_adaptor.so")
    arm.program("/usr/bin/teecd")
    return arm


def test_op_tee_board_only_lacks_the_launcher(optee, verdict):
    answer = verdict(TrustZoneTee(optee.machine()))
    assert "this machine can run Arm TrustZone" in answer.reason
    assert answer.facts["host.tee"] == "/dev/tee0: OP-TEE"
    assert answer.facts["host.libteec"] == "/usr/lib/aarch64-linux-gnu/libteec.so.2.0.0"
    assert answer.facts["host.agent"] == "/usr/sbin/tee-supplicant"


def test_itrustee_server_only_lacks_the_launcher(itrustee, verdict):
    answer = verdict(TrustZoneTee(itrustee.machine()))
    assert "this machine can run Arm TrustZone" in answer.reason
    assert answer.facts["host.itrustee"] == "present, not opened"
    assert answer.facts["host.agent"] == "/usr/bin/teecd"


def test_the_supplicants_device_is_never_opened(optee, itrustee, verdict):
    verdict(TrustZoneTee(optee.machine()))
    assert set(optee.opened) == {"/dev/tee0"}


@pytest.mark.parametrize(
    ("spoil", "reason", "fix"),
    [
        (lambda m: (m.root / "dev/tee0").unlink(), "neither OP-TEE", "CONFIG_OPTEE"),
        (lambda m: m.device("/dev/tee0", version(2)), "neither OP-TEE", "CONFIG_OPTEE"),
        (lambda m: m.device("/dev/tee0", version(1, general=0)), "neither OP-TEE", "OP-TEE"),
        (lambda m: m.device("/dev/tee0"), "neither OP-TEE", "OP-TEE"),
        (lambda m: m.device("/dev/tee0", {ASK: b"short"}), "neither OP-TEE", "OP-TEE"),
        (
            lambda m: m.device("/dev/tee0", error=errno.EACCES, mode=0o600),
            "/dev/tee0 is present, but permission denied",
            "udev rule",
        ),
        (
            lambda m: (m.root / "usr/lib/aarch64-linux-gnu/libteec.so.2.0.0").unlink(),
            "no libteec",
            "optee-client",
        ),
        (
            lambda m: (m.root / "usr/sbin/tee-supplicant").unlink(),
            "no tee-supplicant",
            "tee-supplicant",
        ),
    ],
)
def test_each_missing_piece_is_the_reason(optee, verdict, spoil, reason, fix):
    spoil(optee)
    answer = verdict(TrustZoneTee(optee.machine()))
    assert re.search(reason, answer.reason)
    assert re.search(fix, answer.fix)


def test_second_client_device_counts(optee, verdict):
    optee.device("/dev/tee0", version(3))
    optee.device("/dev/tee1", version(1))
    answer = verdict(TrustZoneTee(optee.machine()))
    assert "this machine can run" in answer.reason
    assert answer.facts["host.tee"] == "/dev/tee0: TS-TEE, /dev/tee1: OP-TEE"


def test_amds_tee_on_x86_is_not_trustzone(fake, verdict):
    fake.device("/dev/tee0", version(2))
    answer = verdict(TrustZoneTee(fake.machine()))
    assert "exists on aarch64 or armv7l or armv8l only" in answer.reason
    assert answer.facts["host.tee"] == "/dev/tee0: AMD-TEE"


def test_request_number_follows_from_the_header():
    read, size, magic, number = 2, 12, 0xA4, 0
    assert read << 30 | size << 16 | magic << 8 | number == TEE_IOC_VERSION
