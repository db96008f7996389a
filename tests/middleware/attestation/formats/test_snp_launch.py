"""The launch digest is what sev-snp-measure computes, odd firmware is refused."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import PolicyError
from secgear.middleware.attestation.formats.snp.firmware import Kind, read_firmware
from secgear.middleware.attestation.formats.snp.launch import (
    PROCESSORS,
    DirectBoot,
    launch_digest,
)
from secgear.middleware.attestation.formats.snp.vmsa import Hypervisor, processor_signature
from tests.adversary.vendors import ovmf

Read = Callable[[str], bytes]

KERNEL = bytes(range(256)) * 40
SHUFFLED = ovmf.metadata(
    (
        (0x800000, 0x9000, ovmf.MEMORY),
        (0x80A000, 0x3000, ovmf.CALLING_AREA),
        (0x80E000, 0x1000, ovmf.CPUID),
        (0x80D000, 0x1000, ovmf.SECRETS),
        (0x810000, 0x1000, ovmf.KERNEL_HASHES),
    )
)

# sev-snp-measure 0.0.13 (IBM, Apache-2.0), calc_launch_digest over the same generated images.
GENERATED: list[tuple[bytes, dict[str, Any], str]] = [
    (
        ovmf.image(),
        {
            "vcpus": 1,
            "processor": PROCESSORS["EPYC-Milan"],
            "boot": DirectBoot.of(KERNEL, b"initrd", "console=ttyS0"),
        },
        "326e883f9966e713620799fb4b60fb7c04af7f6db284cebb"
        "92ae3b9fc2b78a751d5abdd4dbd0448703de660092fbaa48",
    ),
    (
        ovmf.image(),
        {
            "vcpus": 4,
            "processor": PROCESSORS["EPYC-Genoa"],
            "boot": DirectBoot.of(KERNEL),
            "features": 0x21,
        },
        "a7a45369ff609898319494b3683293c3d5fdbea991f97311"
        "cc7450373024794c130cebb6904624d2139454db2395aaa8",
    ),
    (
        ovmf.image(),
        {"vcpus": 2, "processor": PROCESSORS["EPYC-Turin"]},
        "2297e4f1b7eff84b8cc9ca676f0db649c0598163c96d625c"
        "43dc877ea1267841b737f6b0d004b780659537fcfd093f8a",
    ),
    (
        ovmf.image(SHUFFLED, pages=3),
        {"vcpus": 3, "processor": PROCESSORS["EPYC-Rome"], "hypervisor": Hypervisor.EC2},
        "9923daf4c08b8744778a698ecf4cc5f2be0c7f6661cce55b"
        "3fbd77027ae20d6e1db254b0451d39abdcb231619cdf0177",
    ),
    (
        ovmf.image(SHUFFLED, pages=3),
        {
            "vcpus": 3,
            "boot": DirectBoot.of(KERNEL, b"initrd", "quiet"),
            "hypervisor": Hypervisor.GCE,
        },
        "6df398d082878452b160e5bd934c279548d769c10e8c42f2"
        "fa57296ea7c157e7ffcc5fef0264eeccc7920a9578a276e7",
    ),
]

# The digests that sev-snp-measure's own tests expect of the last page of two real builds of OVMF.
REAL: list[tuple[str, dict[str, Any], str]] = [
    (
        "AmdSev",
        {"vcpus": 1, "boot": DirectBoot.of(b"", b"", "console=ttyS0 loglevel=7"), "features": 0x21},
        "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb2"
        "8c653360fe4b3aba7e534442e7e1e17895dfe778d0228977",
    ),
    (
        "AmdSev",
        {"vcpus": 1, "boot": DirectBoot.of(b"", b"", "console=ttyS0 loglevel=7")},
        "6d287813eb5222d770f75005c664e34c204f385ce832cc2c"
        "e7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
    ),
    (
        "AmdSev",
        {"vcpus": 4, "boot": DirectBoot.of(b"")},
        "5061fffb019493a903613d56d54b94912a1a2f9e4502385f"
        "5c194616753720a92441310ba6c4933de877c36e23046ad5",
    ),
    (
        "AmdSev",
        {"vcpus": 1, "features": 0x21},
        "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af"
        "9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b",
    ),
    (
        "AmdSev",
        {
            "vcpus": 1,
            "boot": DirectBoot.of(b""),
            "features": 0x21,
            "hypervisor": Hypervisor.EC2,
        },
        "0ce9ccc06bab55eebe8abc234f3df6514883977a68a591b7"
        "1052498ab52b2f1aa415db338033946ef93aa8278c0d67fb",
    ),
    (
        "AmdSev",
        {"vcpus": 4, "boot": DirectBoot.of(b""), "hypervisor": Hypervisor.GCE},
        "5c5debf100fc339f90276e761ee1f1658d08922c3b20e2a2"
        "e6c7a6c3370b2452a15a00eae11886a93d6fd1e7ab81e29d",
    ),
    (
        "OvmfX64",
        {"vcpus": 1},
        "da0296de8193586a5512078dcd719eccecbd87e2b825ad41"
        "48c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005",
    ),
]


@pytest.mark.parametrize(("image", "options", "expected"), GENERATED)
def test_the_digest_is_what_another_implementation_computes(
    image: bytes, options: dict[str, Any], expected: str
) -> None:
    assert launch_digest(image, **options).hex() == expected


@pytest.mark.parametrize(("build", "options", "expected"), REAL)
def test_the_digest_of_real_firmware_is_the_published_one(
    vector: Read, build: str, options: dict[str, Any], expected: str
) -> None:
    image = vector(f"snp/virtee-measurement-ovmf_{build}_suffix.bin")
    assert launch_digest(image, **options).hex() == expected


def test_every_input_counts() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"vcpus": 2},
        {"vcpus": 3},
        {"processor": PROCESSORS["EPYC-Genoa"]},
        {"features": 0x21},
        {"hypervisor": Hypervisor.EC2},
        {"hypervisor": Hypervisor.GCE},
        {"boot": DirectBoot.of(KERNEL)},
        {"boot": DirectBoot.of(KERNEL[1:])},
        {"boot": DirectBoot.of(KERNEL, b"initrd")},
        {"boot": DirectBoot.of(KERNEL, b"", "debug")},
    ]
    digests = {launch_digest(ovmf.image(), **({"vcpus": 1} | change)) for change in changes}
    digests.add(launch_digest(ovmf.image(pages=3), vcpus=1))
    digests.add(launch_digest(ovmf.image(starts_at=0x80C000), vcpus=2))
    assert len(digests) == len(changes) + 2


def test_a_clouds_processor_has_no_signature_of_its_own() -> None:
    for hypervisor in (Hypervisor.EC2, Hypervisor.GCE):
        options: dict[str, Any] = {"vcpus": 1, "hypervisor": hypervisor}
        assert launch_digest(ovmf.image(), processor=1, **options) == launch_digest(
            ovmf.image(), processor=2, **options
        )


def test_signatures_of_processors_are_what_cpuid_says() -> None:
    # CPUID Specification (25481), Fn0000_0001_EAX; the values are those of QEMU's models.
    assert processor_signature(0x17, 1, 2) == 0x800F12
    assert processor_signature(0x19, 1, 1) == 0xA00F11
    assert processor_signature(0x19, 17, 0) == 0xA10F10
    assert processor_signature(0x1A, 0, 0) == 0xB00F00
    assert processor_signature(0xE, 1, 2) == 0x0E12


def test_a_kernel_needs_firmware_that_checks_it(vector: Read) -> None:
    boot = DirectBoot.of(KERNEL)
    without = ovmf.metadata(((0x800000, 0x1000, ovmf.MEMORY),))
    for image in (
        ovmf.image(without),  # no page for the hashes
        ovmf.image(hashes_at=None),  # nobody looks for them
        ovmf.image(hashes_at=0x811000),  # somebody looks elsewhere
        ovmf.image(hashes_at=0x810FF0),  # the table would not fit
        ovmf.image(hashes_at=0),
        ovmf.image(ovmf.metadata(((0, 0x1000, ovmf.KERNEL_HASHES),)), hashes_at=None),
    ):
        launch_digest(image, vcpus=1)
        with pytest.raises(PolicyError, match="hashes"):
            launch_digest(image, vcpus=1, boot=boot)
    with pytest.raises(PolicyError, match="hashes"):
        launch_digest(vector("snp/virtee-measurement-ovmf_OvmfX64_suffix.bin"), vcpus=1, boot=boot)


def test_further_processors_need_a_place_to_start() -> None:
    launch_digest(ovmf.image(starts_at=None), vcpus=1)
    with pytest.raises(PolicyError, match="start"):
        launch_digest(ovmf.image(starts_at=None), vcpus=2)


@pytest.mark.parametrize(
    "options",
    [
        {"vcpus": 0},
        {"vcpus": -1},
        {"vcpus": 4097},
        {"vcpus": 1, "processor": 1 << 32},
        {"vcpus": 1, "processor": -1},
        {"vcpus": 1, "features": 1 << 64},
    ],
)
def test_impossible_machines_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        launch_digest(ovmf.image(), **options)


def test_metadata_is_read_in_its_order() -> None:
    firmware = read_firmware(ovmf.image())
    assert [section.kind for section in firmware.sections] == [
        Kind.MEMORY,
        Kind.SECRETS,
        Kind.CPUID,
        Kind.KERNEL_HASHES,
        Kind.MEMORY,
    ]
    assert firmware.address == (1 << 32) - len(firmware.image)
    assert firmware.hash_table == ovmf.HASHES_AT
    assert firmware.reset_address == ovmf.STARTS_AT


SECTION = (0x800000, 0x1000, ovmf.MEMORY)


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(4096),
        bytes(4095),
        ovmf.image()[:-1],
        ovmf.image(footer="96b582de-1fb2-45f7-baea-a366c55a082e"),
        ovmf.image(total=17),
        ovmf.image(total=0xFFFF),
        ovmf.image(total=40),  # cuts the first entry
        ovmf.image(entries=(struct.pack("<H16s", 0, b"x" * 16),)),
        ovmf.image(entries=(struct.pack("<H16s", 19, b"x" * 16),)),
        ovmf.image(entries=(ovmf.entry(ovmf.METADATA, bytes(4)),)),  # twice
        ovmf.image(metadata_back=0),  # none
        ovmf.image(metadata_back=8),  # beyond the end
        ovmf.image(metadata_back=1 << 30),  # before the beginning
        ovmf.image(ovmf.metadata(signature=b"ASEW")),
        ovmf.image(ovmf.metadata(version=2)),
        ovmf.image(ovmf.metadata(count=65)),
        ovmf.image(ovmf.metadata((SECTION,) * 65)),
        ovmf.image(ovmf.metadata(((0x800001, 0x1000, ovmf.MEMORY),))),
        ovmf.image(ovmf.metadata(((0x800000, 0x1001, ovmf.MEMORY),))),
        ovmf.image(ovmf.metadata(((0x800000, 0, ovmf.MEMORY),))),
        ovmf.image(ovmf.metadata(((0x800000, 0xFFFFF000, ovmf.MEMORY),))),
        ovmf.image(ovmf.metadata(((0x800000, 0x2000, ovmf.SECRETS),))),
        ovmf.image(ovmf.metadata(((0x800000, 0x2000, ovmf.CPUID),))),
        ovmf.image(ovmf.metadata(((0x800000, 0x1000, 5),))),
    ],
)
def test_firmware_of_another_form_is_refused(image: bytes) -> None:
    with pytest.raises(PolicyError, match=r"^firmware: "):
        launch_digest(image, vcpus=1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.integers(1, 255), st.sampled_from([32, 0x800]))
def test_changed_tables_are_read_or_refused(position: int, change: int, back: int) -> None:
    image = bytearray(ovmf.image())
    image[(len(image) - back - position) % len(image)] ^= change
    try:
        launch_digest(bytes(image), vcpus=1)
    except PolicyError:
        return


def test_any_changed_byte_changes_the_digest() -> None:
    image = ovmf.image()
    genuine = launch_digest(image, vcpus=1)
    for position in random.Random(1).sample(range(4096), 50):
        changed = bytearray(image)
        changed[position] ^= 1
        assert launch_digest(bytes(changed), vcpus=1) != genuine
