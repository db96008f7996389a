import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.probing import qemu

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
DESCRIPTOR = st.fixed_dictionaries(
    {},
    optional={
        "interface-types": st.lists(st.sampled_from(["uefi", "bios"])) | JSON,
        "mapping": st.fixed_dictionaries({"executable": st.fixed_dictionaries({"filename": JSON})})
        | JSON,
        "targets": st.lists(st.fixed_dictionaries({"architecture": st.text()})) | JSON,
        "features": st.lists(st.text()) | JSON,
    },
)


def descriptor(**changes):
    fields = {
        "description": "OVMF",
        "interface-types": ["uefi"],
        "mapping": {"device": "memory", "filename": "/usr/share/OVMF.amdsev.fd"},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["amd-sev", "amd-sev-snp"],
        "tags": [],
    }
    return json.dumps(fields | changes)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u16)\n", "7.2.22"),
        ("QEMU emulator version 10.0.2\nCopyright", "10.0.2"),
        ("QEMU emulator version 9.1.50 (v9.1.0-2-g3)\n", "9.1.50"),
        ("qemu: command not found", ""),
        ("", ""),
    ],
)
def test_version_is_read(text, version):
    assert qemu.parse_version(text) == version


@given(st.text())
def test_version_of_any_text_is_digits_or_nothing(text):
    assert qemu.parse_version("version " + text).replace(".", "").isdigit() or not (
        qemu.parse_version(text)
    )


def test_list_leaves_headings_out():
    text = (
        "List of user creatable objects:\n  authz-list\n  sev-snp-guest\n\n  x-remote\nSome words\n"
    )
    assert qemu.parse_list(text) == ("authz-list", "sev-snp-guest", "x-remote")


@given(st.text())
def test_list_of_any_text_has_names_only(text):
    for name in qemu.parse_list(text):
        assert name.isascii()
        assert " " not in name
        assert name.isprintable()


def test_descriptor_names_file_and_features():
    found = qemu.parse_descriptor(descriptor(), "x86_64")
    assert found.file == "/usr/share/OVMF.amdsev.fd"
    assert "amd-sev-snp" in found.features


@pytest.mark.parametrize(
    "text",
    [
        descriptor(**{"interface-types": ["bios"]}),
        descriptor(targets=[{"architecture": "aarch64"}]),
        descriptor(mapping={"filename": "relative"}),
        descriptor(mapping=None),
        descriptor()[:-1],
        "[" * 100_000,
    ],
)
def test_descriptor_of_something_else_is_nothing(text):
    assert qemu.parse_descriptor(text, "x86_64") is None


@given(st.text() | JSON.map(json.dumps) | DESCRIPTOR.map(json.dumps))
def test_any_descriptor_is_firmware_or_nothing(text):
    found = qemu.parse_descriptor(text, "x86_64")
    assert found is None or found.file.startswith("/")
