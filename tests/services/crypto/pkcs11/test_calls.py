"""The table of calls is whole, and says what p11-kit says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secgear.services.crypto.pkcs11.calls import BY_NAME, CALLS, split
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv

HEADER = Path("/usr/include/p11-kit-1/p11-kit/pkcs11.h")


def test_every_signature_is_made_of_known_types() -> None:
    for call in CALLS.values():
        assert "".join(split(call.request)) == call.request
        assert "".join(split(call.response)) == call.response


def test_numbers_and_names_are_unique() -> None:
    assert len(CALLS) == len(BY_NAME)
    assert [call.id for call in CALLS.values()] == sorted(CALLS)
    assert set(range(1, 66)) <= set(CALLS)  # all of PKCS#11 2.40 that p11-kit carries


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("C_Sign", "sign"),
        ("C_GetSlotList", "get_slot_list"),
        ("C_InitPIN", "init_pin"),
        ("C_SetPIN", "set_pin"),
        ("C_DigestEncryptUpdate", "digest_encrypt_update"),
    ],
)
def test_methods_are_named_after_their_calls(name: str, method: str) -> None:
    assert BY_NAME[name].method == method


def test_numbers_are_those_of_a_header_that_others_made() -> None:
    if not HEADER.is_file():
        pytest.skip("p11-kit's header is not installed (libp11-kit-dev)")
    found: dict[str, int] = {}
    for name, text in re.findall(r"#define (CK[A-Z]_\w+)\s+(.+)", HEADER.read_text()):
        plain = text.replace("CKF_ARRAY_ATTRIBUTE", "0x40000000").replace("UL", "")
        match = re.fullmatch(r"\(?(0x[0-9a-fA-F]+|\d+)(?: \| (0x[0-9a-fA-F]+))?\)?", plain.strip())
        if match:
            found[name] = int(match[1], 0) | int(match[2] or "0", 0)
    compared = 0
    for prefix, members in (
        ("CKR", Rv),
        ("CKA", Attr),
        ("CKM", Mech),
        ("CKK", KeyType),
        ("CKO", ObjectClass),
    ):
        for member in members:
            if f"{prefix}_{member.name}" in found:
                assert found[f"{prefix}_{member.name}"] == member.value, member
                compared += 1
    assert compared > 150
