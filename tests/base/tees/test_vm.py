import errno

import pytest

from secgear.base.tees.vm import VmTee

INTEL = ("GenuineIntel", "Intel(R) Xeon(R)")


def test_machine_with_kvm_and_qemu_only_lacks_the_launcher(fake, verdict):
    fake.cpu(*INTEL, "fpu vmx")
    fake.kvm()
    fake.qemu()
    fake.program("/usr/bin/swtpm")
    fake.file("/usr/share/OVMF/OVMF_CODE_4M.fd")
    answer = verdict(VmTee(fake.machine()))
    assert "this machine can run virtual machines" in answer.reason
    assert answer.facts["host.accelerator"] == "kvm: hardware virtualization"
    assert answer.facts["host.qemu.version"] == "10.1.0"
    assert answer.facts["host.swtpm"] == "/usr/bin/swtpm"
    assert answer.facts["host.firmware"] == "/usr/share/OVMF/OVMF_CODE_4M.fd"
    assert "only a real boot proves it" in answer.facts["host.kvm.caveat"]


def test_kvm_without_hardware_behind_it_means_emulation(fake, verdict):
    fake.cpu(*INTEL, "fpu hypervisor")
    fake.kvm()
    fake.qemu()
    fake.directory("/sys/module/kvm_pvm")
    answer = verdict(VmTee(fake.machine()))
    assert "this machine can run" in answer.reason
    assert answer.facts["host.accelerator"].startswith("tcg: /dev/kvm answers, but the CPU shows")
    assert answer.facts["host.kvm.modules"] == "kvm_pvm"
    assert answer.facts["guest.inside"] == "yes: the CPU flag hypervisor"


def test_closed_kvm_means_emulation_and_tells_the_group(fake, verdict):
    fake.cpu(*INTEL, "vmx")
    fake.kvm(error=errno.EACCES)
    fake.qemu()
    answer = verdict(VmTee(fake.machine()))
    assert answer.facts["host.accelerator"].startswith("tcg: /dev/kvm is present, but permission")
    assert "mode 0660" in answer.facts["host.kvm.device"]


def test_absent_kvm_means_emulation(fake, verdict):
    fake.cpu(*INTEL, "vmx")
    fake.qemu()
    answer = verdict(VmTee(fake.machine()))
    assert answer.facts["host.accelerator"].startswith("tcg: there is no /dev/kvm")


def test_something_else_under_the_name_of_kvm_is_not_kvm(fake, verdict):
    fake.cpu(*INTEL, "vmx")
    fake.device("/dev/kvm")
    fake.qemu()
    answer = verdict(VmTee(fake.machine()))
    assert "does not answer as KVM does" in answer.facts["host.accelerator"]


@pytest.mark.parametrize("accelerators", ["xen", ""])
def test_qemu_that_can_neither_use_kvm_nor_emulate_is_the_reason(fake, verdict, accelerators):
    fake.cpu(*INTEL, "vmx")
    fake.kvm()
    fake.qemu(accelerators=accelerators or "''")
    answer = verdict(VmTee(fake.machine()))
    assert "can neither use KVM here nor emulate" in answer.reason
    assert "built without KVM" in answer.reason


def test_absent_qemu_is_the_reason(fake, verdict):
    fake.cpu(*INTEL, "vmx hypervisor")
    fake.kvm()
    answer = verdict(VmTee(fake.machine()))
    assert answer.reason == "there is no qemu-system-x86_64"
    assert answer.fix.startswith("install QEMU")
    assert answer.facts["host.qemu"] == "absent"


def test_silent_qemu_is_the_reason(fake, verdict):
    fake.program("/usr/bin/qemu-system-x86_64", "exec sleep 60")
    machine = fake.machine()
    machine._run = lambda argv: None
    assert "does not tell its version" in verdict(VmTee(machine)).reason


def test_red_hats_qemu_is_found_off_the_path(fake, verdict):
    fake.program("/usr/libexec/qemu-kvm", "echo QEMU emulator version 9.1.0; echo kvm")
    assert verdict(VmTee(fake.machine())).facts["host.qemu"] == "/usr/libexec/qemu-kvm"


def test_arm_needs_no_cpu_flag(arm, verdict):
    arm.kvm()
    arm.qemu()
    answer = verdict(VmTee(arm.machine()))
    assert answer.facts["host.accelerator"] == "kvm: hardware virtualization"


def test_firmware_comes_from_the_descriptors_that_fit(fake, verdict):
    fake.qemu()
    for name, arch in (("ovmf", "x86_64"), ("aavmf", "aarch64")):
        fake.file(f"/fw/{name}.fd")
        fake.file(
            f"/usr/share/qemu/firmware/{name}.json",
            '{"interface-types": ["uefi"], "features": ["acpi-s3"], "mapping": {"device": "flash",'
            f' "executable": {{"filename": "/fw/{name}.fd", "format": "raw"}}}},'
            f' "targets": [{{"architecture": "{arch}", "machines": ["*"]}}]}}',
        )
    fake.file("/usr/share/qemu/firmware/broken.json", '{"mapping": [')
    assert verdict(VmTee(fake.machine())).facts["host.firmware"] == "/fw/ovmf.fd"


def test_it_is_labelled_a_simulation_weaker_than_hardware():
    assert VmTee.simulated
    assert VmTee.strength == 50
    assert "not from the host's root" in VmTee.protects
