import errno

from secgear.base.tees.cca import CcaTee


def test_capable_host_only_lacks_the_launcher(arm, verdict):
    arm.kvm()
    arm.qemu("rme-guest")
    answer = verdict(CcaTee(arm.machine()))
    assert "this machine can run Arm CCA" in answer.reason
    assert answer.facts["host.qemu.object"] == "rme-guest: yes"
    assert answer.facts["host.kvm.realms"].startswith("not asked")


def test_ordinary_qemu_is_the_reason(arm, verdict):
    arm.kvm()
    arm.qemu()
    answer = verdict(CcaTee(arm.machine()))
    assert "has no rme-guest object" in answer.reason
    assert "CCA patches" in answer.fix


def test_closed_kvm_is_the_reason(arm, verdict):
    arm.kvm(error=errno.EACCES)
    arm.qemu("rme-guest")
    assert "/dev/kvm is present, but permission denied" in verdict(CcaTee(arm.machine())).reason


def test_absent_kvm_is_the_reason(arm, verdict):
    assert verdict(CcaTee(arm.machine())).reason == "there is no /dev/kvm"


def test_realm_knows_it_is_inside(arm, verdict):
    arm.directory("/sys/devices/platform/arm-cca-dev")
    arm.directory("/sys/module/arm_cca_guest")
    answer = verdict(CcaTee(arm.machine()))
    assert "itself inside Arm CCA" in answer.reason
    assert answer.facts["guest.inside"] == "yes: /sys/devices/platform/arm-cca-dev"
    assert answer.facts["guest.driver"] == "loaded"


def test_realm_is_known_by_the_provider_of_reports(arm, verdict):
    arm.file("/sys/kernel/config/tsm/report/r/provider", "arm_cca_guest\n")
    assert "arm_cca_guest" in verdict(CcaTee(arm.machine())).facts["guest.inside"]


def test_x86_is_the_wrong_architecture(fake, verdict):
    assert "exists on aarch64 only" in verdict(CcaTee(fake.machine())).reason
