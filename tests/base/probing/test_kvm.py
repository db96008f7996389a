import re
from pathlib import Path

import pytest

from secgear.base.probing import kvm
from secgear.base.probing.machine import Machine

HEADER = Path("/usr/include/linux/kvm.h")


def machine(tmp_path, answers):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").write_text("")

    def ioctl(descriptor, number, argument):
        answer = answers.get((number, argument))
        if answer is None:
            raise OSError(25, "no")
        return answer

    return Machine(tmp_path, ioctl=ioctl)


def test_kinds_of_machines_are_read_bit_by_bit(tmp_path):
    found = kvm.look(machine(tmp_path, {(0xAE00, 0): 12, (0xAE03, 235): 0b110001}))
    assert found.api == 12
    assert [kind.name for kind in kvm.VmType if found.offers(kind)] == ["DEFAULT", "SNP", "TDX"]
    assert not any(item.problem for item in kvm.findings(found))


@pytest.mark.parametrize("types", [None, 0, -1])
def test_kernel_that_does_not_know_the_question_offers_nothing_special(tmp_path, types):
    found = kvm.look(machine(tmp_path, {(0xAE00, 0): 12, (0xAE03, 235): types}))
    assert found.kinds == "not told"
    assert not found.offers(kvm.VmType.SNP)
    assert kvm.offers_finding(found, kvm.VmType.SNP, "SNP", "newer").problem


@pytest.mark.parametrize("api", [None, 11, 0])
def test_other_api_versions_are_refused(tmp_path, api):
    found = kvm.look(machine(tmp_path, {(0xAE00, 0): api}))
    assert "does not answer as KVM does" in kvm.findings(found)[0].problem


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers installed")
def test_numbers_are_those_of_the_kernel_header():
    text = HEADER.read_text()

    def io(name):
        magic = int(re.search(r"#define KVMIO\s+(0x\w+)", text)[1], 16)
        return magic << 8 | int(
            re.search(rf"#define {name}\s+_IO\(KVMIO,\s+(0x\w+)\)", text)[1], 16
        )

    assert io("KVM_GET_API_VERSION") == kvm.KVM_GET_API_VERSION
    assert io("KVM_CHECK_EXTENSION") == kvm.KVM_CHECK_EXTENSION
    known = re.search(r"#define KVM_CAP_VM_TYPES\s+(\d+)", text)
    assert known is None or int(known[1]) == kvm.KVM_CAP_VM_TYPES
