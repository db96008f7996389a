"""The page about algorithms says what the module can do: no more, no less."""

from __future__ import annotations

import re
from pathlib import Path

from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.constants import MechanismFlag as Flag
from secgear.services.crypto.token.mechanisms import MECHANISMS, Row

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
