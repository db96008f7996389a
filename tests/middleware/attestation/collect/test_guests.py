"""Evidence through the doors that kernels offer: right bytes, no leftovers, errors with reasons."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from secgear.base.tee import Evidence
from secgear.errors import CollectionFailed
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.collect import System, collect, devices, sources, tsm
from secgear.middleware.attestation.formats import nitro
from secgear.middleware.attestation.verification import verify
from tests.adversary.fake_guests import Entry, FakeNsm, FakeSevGuest, FakeTsm, with_device
from tests.adversary.vendors.pki import NOW
from tests.adversary.vendors.snp import Amd

DATA = bytes(range(64))
AMD = Amd()


def report(entry: Entry) -> bytes:
    return AMD.report(report_data=entry.inblob.ljust(64, b"\0"), vmpl=entry.privlevel)


def read_data(evidence: Evidence) -> bytes:
    return evidence.data[0x50:0x90]


@pytest.fixture
def fake(tmp_path: Path) -> FakeTsm:
    return FakeTsm(tmp_path, report)


# --- configfs-tsm ----------------------------------------------------------------------------


def test_a_report_carries_the_data_and_verifies(fake: FakeTsm) -> None:
    evidence = collect(DATA, system=fake.system)
    assert evidence.format == "amd.sev-snp"
    with_key = Evidence(
        evidence.format,
        evidence.data,
        {"vcek": AMD.endorsement().der, "chain": AMD.chain},
    )
    collateral = Collateral(crls=(AMD.ark.revoke(),))
    claims = verify(with_key, at=NOW, anchors=AMD.anchors, collateral=collateral)
    assert claims.report_data == DATA


def test_no_entry_is_left_behind(fake: FakeTsm) -> None:
    collect(DATA, system=fake.system)
    fake.errors = [errno.EFBIG]
    with pytest.raises(CollectionFailed, match="larger than"):
        collect(DATA, system=fake.system)
    assert fake.made == 2
    assert not fake.entries


def test_a_write_from_elsewhere_never_ends_in_the_wrong_report(fake: FakeTsm) -> None:
    races = 3

    def race(entry: Entry) -> None:
        nonlocal races
        if races:
            races -= 1
            fake.write_from_elsewhere(entry, b"somebody else's data")

    fake.before_read = race
    assert read_data(collect(DATA, system=fake.system)) == DATA
    assert races == 0


def test_endless_races_end_in_an_error(fake: FakeTsm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsm, "_PAUSE", 0)
    fake.before_read = lambda entry: fake.write_from_elsewhere(entry, b"again")
    with pytest.raises(CollectionFailed, match="somebody else"):
        collect(DATA, system=fake.system)


def test_a_busy_kernel_is_asked_again(fake: FakeTsm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsm, "_PAUSE", 0)
    fake.errors = [errno.EBUSY, errno.EAGAIN, errno.EINTR]
    assert read_data(collect(DATA, system=fake.system)) == DATA


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.EINVAL, "refuses"), (errno.ETIMEDOUT, "host"), (errno.EIO, "made to fail")],
)
def test_errors_tell_the_reason(fake: FakeTsm, code: int, reason: str) -> None:
    fake.errors = [code]
    with pytest.raises(CollectionFailed, match=reason):
        collect(DATA, system=fake.system)


def test_a_kernel_without_a_guest_driver_says_so(tmp_path: Path) -> None:
    with pytest.raises(CollectionFailed, match="guest driver"):
        collect(DATA, system=FakeTsm(tmp_path, report, provider=None).system)


def test_the_hosts_certificates_go_along(tmp_path: Path) -> None:
    fake = FakeTsm(tmp_path, report, auxblob=b"table")
    assert collect(DATA, system=fake.system).attachments == {"certs": b"table"}


def test_a_td_brings_its_event_log(tmp_path: Path) -> None:
    fake = FakeTsm(tmp_path, lambda _: b"quote", provider="tdx_guest")
    assert collect(DATA, system=fake.system) == Evidence("intel.tdx.quote", b"quote")
    log = tmp_path / tsm.CCEL.lstrip("/")
    log.parent.mkdir(parents=True)
    log.write_bytes(b"log")
    assert collect(DATA, system=fake.system).attachments == {"ccel": b"log"}


def test_cca_comes_the_same_way(tmp_path: Path) -> None:
    fake = FakeTsm(tmp_path, lambda _: b"token", provider="arm_cca_guest")
    assert collect(DATA, system=fake.system) == Evidence("arm.cca", b"token")


@pytest.mark.parametrize("provider", ["acme_guest", "", "sev_guest2"])
def test_unknown_providers_are_refused(tmp_path: Path, provider: str) -> None:
    with pytest.raises(CollectionFailed, match="provider"):
        collect(DATA, system=FakeTsm(tmp_path, report, provider=provider).system)


def test_an_empty_report_is_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(CollectionFailed, match="empty"):
        collect(DATA, system=FakeTsm(tmp_path, lambda _: b"").system)


def test_the_privilege_level_may_be_chosen(fake: FakeTsm) -> None:
    evidence = tsm.collect_tsm(DATA, fake.system, privlevel=2)
    assert evidence.data[0x30] == 2
    fake.privlevel_floor = 3
    with pytest.raises(CollectionFailed, match="refuses"):
        tsm.collect_tsm(DATA, fake.system, privlevel=1)


def test_many_ask_at_once(fake: FakeTsm) -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        data = bytes([number]) * 64
        if read_data(collect(data, system=fake.system)) != data:
            wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not fake.entries


# --- /dev/sev-guest --------------------------------------------------------------------------


def sev(root: Path, **options: object) -> tuple[FakeSevGuest, System]:
    device = FakeSevGuest(
        lambda data, vmpl: AMD.report(report_data=data, vmpl=vmpl),
        **options,  # type: ignore[arg-type]
    )
    return device, with_device(root, devices.SEV_GUEST, device.ioctl)


@pytest.mark.parametrize("size", [0, 5000, 16 << 10, 40_000])
def test_a_device_gives_report_and_certificates(tmp_path: Path, size: int) -> None:
    device, system = sev(tmp_path, certificates=b"c" * size)
    evidence = collect(DATA, system=system)
    assert read_data(evidence) == DATA
    assert evidence.attachments.get("certs", b"").rstrip(b"\0") == b"c" * size
    assert device.calls == (2 if size > 16 << 10 else 1)


def test_a_throttled_guest_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_PAUSE", 0)
    _, system = sev(tmp_path, host_errors=[2, 2, 2])
    assert read_data(collect(DATA, system=system)) == DATA
    _, system = sev(tmp_path, host_errors=[2] * 100)
    with pytest.raises(CollectionFailed, match="busy"):
        collect(DATA, system=system)


def test_firmware_and_host_errors_are_told(tmp_path: Path) -> None:
    for options, text in (
        ({"firmware_error": 0x16}, "firmware error 0x16"),
        ({"host_errors": [7]}, "host error 0x7"),
        ({"status": 0x27}, "status 0x27"),
    ):
        _, system = sev(tmp_path, **options)
        with pytest.raises(CollectionFailed, match=text):
            collect(DATA, system=system)


def test_a_host_that_wants_too_much_memory_is_refused(tmp_path: Path) -> None:
    _, system = sev(tmp_path, certificates=bytes(2 << 20))
    with pytest.raises(CollectionFailed, match="certificates"):
        collect(DATA, system=system)


# --- the others ------------------------------------------------------------------------------


def test_the_nitro_module_signs_the_nonce(tmp_path: Path, vector: Callable[[str], bytes]) -> None:
    asked: list[object] = []

    def answer(request: object) -> object:
        asked.append(request)
        return {"Attestation": {"document": b"document"}}

    system = with_device(tmp_path, devices.NSM, FakeNsm(answer).ioctl)
    assert collect(DATA, system=system) == Evidence("aws.nitro", b"document")
    assert asked == [{"Attestation": {"user_data": None, "nonce": DATA, "public_key": None}}]
    real = vector("nitro/evervault-debug-mode-attestation-doc.bin")
    module = FakeNsm(lambda _: {"Attestation": {"document": real}})
    system = with_device(tmp_path, devices.NSM, module.ioctl)
    assert nitro.parse(collect(DATA, system=system).data).module_id


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (FakeNsm(lambda _: {"Error": "InvalidOperation"}), "InvalidOperation"),
        (FakeNsm(lambda _: {"Attestation": {}}), "another form"),
        (FakeNsm(lambda _: b"\xff"), "NSM response"),
        (FakeNsm(lambda _: {}, size=1 << 40), "a response of"),
        (FakeNsm(lambda _: {}, error=errno.EIO), "made to fail"),
    ],
)
def test_a_lying_nitro_module_is_an_error(tmp_path: Path, module: FakeNsm, text: str) -> None:
    with pytest.raises(CollectionFailed, match=text):
        collect(DATA, system=with_device(tmp_path, devices.NSM, module.ioctl))


def gramine(root: Path, kind: str = "dcap", quote: bytes = b"quote") -> Path:
    folder = root / "dev" / "attestation"
    folder.mkdir(parents=True)
    (folder / "attestation_type").write_text(kind)
    (folder / "user_report_data").write_bytes(b"")
    (folder / "quote").write_bytes(quote)
    return folder


def test_gramine_gives_a_quote(tmp_path: Path) -> None:
    folder = gramine(tmp_path)
    assert collect(DATA, system=System(tmp_path)) == Evidence("intel.sgx.quote", b"quote")
    assert (folder / "user_report_data").read_bytes() == DATA


def test_gramine_without_attestation_says_what_to_set(tmp_path: Path) -> None:
    gramine(tmp_path, kind="none")
    with pytest.raises(CollectionFailed, match=r"sgx\.remote_attestation"):
        collect(DATA, system=System(tmp_path))


def test_an_empty_quote_is_no_evidence(tmp_path: Path) -> None:
    gramine(tmp_path, quote=b"")
    with pytest.raises(CollectionFailed, match="quoting enclave"):
        collect(DATA, system=System(tmp_path))


def test_the_old_td_device_is_no_source(tmp_path: Path) -> None:
    system = with_device(tmp_path, devices.TDX_GUEST, lambda *_: 0)
    with pytest.raises(CollectionFailed, match="configfs-tsm"):
        collect(DATA, source="tdx-guest", system=system)


def test_a_machine_without_any_door_tells_all_reasons(tmp_path: Path) -> None:
    with pytest.raises(CollectionFailed) as caught:
        collect(DATA, system=System(tmp_path))
    for source in sources(System(tmp_path)):
        assert not source.available
        assert f"{source.name}: " in str(caught.value)


def test_the_tpm_is_asked_by_name_only(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "tpmrm0").touch()
    system = System(tmp_path)
    assert {source.name for source in sources(system) if source.available} == {"tpm"}
    with pytest.raises(CollectionFailed, match="tpm: ask for it by name"):
        collect(DATA, system=system)
    with pytest.raises(CollectionFailed, match="tpm"):
        collect(DATA, source="tpm", system=system)


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionFailed, match="64 bytes"):
        collect(b"short")
    with pytest.raises(CollectionFailed, match="no source"):
        collect(DATA, source="acme")


def test_a_device_that_may_not_be_opened_says_who_may(tmp_path: Path) -> None:
    _, system = sev(tmp_path)

    class Denied(System):
        def open(self, name: str) -> int:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

    with pytest.raises(CollectionFailed, match="only root"):
        collect(DATA, system=Denied(tmp_path, ioctl=system.ioctl))
