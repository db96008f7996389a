"""The page about algorithms says what the module can do: no more, no less."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.constants import MechanismFlag as Flag
from secgear.services.crypto.token.mechanisms import MECHANISMS, Row
from tests.services.crypto.conftest import User

PAGE = Path(__file__).parents[4] / "docs/services/crypto/algorithms.md"
WORDS = {
    "encrypt": Flag.ENCRYPT, "decrypt": Flag.DECRYPT, "digest": Flag.DIGEST, "sign": Flag.SIGN,
    "recover": Flag.SIGN_RECOVER, "verify": Flag.VERIFY, "generate": Flag.GENERATE,
    "generate pair": Flag.GENERATE_KEY_PAIR, "wrap": Flag.WRAP, "unwrap": Flag.UNWRAP,
    "derive": Flag.DERIVE, "encapsulate": Flag.ENCAPSULATE, "decapsulate": Flag.DECAPSULATE,
    "messages": Flag.MESSAGE_ENCRYPT,
}  # fmt: skip
SYSTEMS = [mech for mech in Mech if mech.name.startswith("SM2") or mech is Mech.SM4_CCM]


def described(row: Row) -> tuple[str, str]:
    low, high = row.sizes
    size = "" if not high else str(low) if low == high else f"{low} to {high}"
    return ", ".join(word for word, flag in WORDS.items() if flag in row.flags), size


def test_the_table_of_mechanisms_is_the_modules() -> None:
    rows = re.findall(
        r"^\| `CKM_(\w+)` \| (0x\w+) \| ([\w, ]+) \| ([\w ]*) \| [^|]+ \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    page = {int(number, 16): (name, what, size) for name, number, what, size in rows}
    assert len(page) == len(rows)
    expected = {number: (Mech(number).name, *described(row)) for number, row in MECHANISMS.items()}
    missing = [] if Mech.SM2 in MECHANISMS else SYSTEMS
    assert {number: row for number, row in page.items() if number not in missing} == expected


def test_flags_say_what_rows_do() -> None:
    for row in MECHANISMS.values():
        assert (Flag.ENCRYPT in row.flags) == (row.cipher is not None)
        assert (Flag.SIGN in row.flags) == (row.signer is not None)
        assert (Flag.DIGEST in row.flags) == (row.digest is not None)
        assert (Flag.MESSAGE_ENCRYPT in row.flags) == (row.message is not None)
        assert bool(row.key_types) != bool(
            row.flags & (Flag.GENERATE | Flag.GENERATE_KEY_PAIR | Flag.DIGEST)
        )


def example(word: str) -> str:
    """The page's block of Python that has this word in it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


def test_the_pages_batch_is_one(user: User) -> None:
    names: dict[str, Any] = {
        "module": user.caller, "session": user.session, "key": user.aes(),
        "fresh": [os.urandom(12) for _ in range(3)], "messages": [b"one", b"two", b"three"],
    }  # fmt: skip
    exec(example("S_EncryptBatch"), names)
    assert [len(result) for result in names["results"]] == [19, 19, 21]


@pytest.mark.skipif(Mech.SM2 not in MECHANISMS, reason="the system's OpenSSL has no SM2")
def test_the_pages_key_exchange_is_one(user: User) -> None:
    pairs = [user.pair(Mech.SM2_KEY_PAIR_GEN, {}, {"DERIVE": True}) for _ in range(4)]
    names: dict[str, Any] = {
        "module": user.caller, "session": user.session, "own": pairs[0][1],
        "own_ephemeral": pairs[1][1], "peer_point": user.get(pairs[2][0], Attr.EC_POINT),
        "peer_ephemeral_point": user.get(pairs[3][0], Attr.EC_POINT),
    }  # fmt: skip
    exec(example("SM2_EXCHANGE"), names)
    assert len(user.get(names["key"], Attr.SM2_CONFIRMATION)) == 32
