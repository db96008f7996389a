"""``secgear crypto sdf``: administrators make keys, applications use them."""

from __future__ import annotations

import json
from ctypes import byref, c_void_p
from pathlib import Path

import pytest

from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.sdf.binding import EccPublic, RsaPublic, Sdf, Session, cipher
from tests.services.crypto.running import secgear


@pytest.fixture
def pin(tmp_path: Path) -> Path:
    path = tmp_path / "user-pin"
    path.write_bytes(PIN + b"\n")
    return path


def test_keys_are_made_and_used(sdf: Sdf, device: c_void_p, server: Answering, pin: Path) -> None:
    place = ("--token", "first", "--socket", str(server.path), "--pin-file", str(pin))
    assert secgear("crypto", "sdf", "key", "sign", "40", *place) == "sdf:sign:40  sm2\n"
    secgear("crypto", "sdf", "key", "enc", "40", "--decrypt", *place)
    secgear("crypto", "sdf", "key", "sign", "40", "--algorithm", "rsa", *place)
    secgear("crypto", "sdf", "key", "kek", "40", *place)
    session = Session(sdf, device)
    session.call("ExportSignPublicKey_ECC", 40, byref(EccPublic()))
    session.call("ExportSignPublicKey_RSA", 40, byref(RsaPublic()))
    session.right(40, PIN)
    out = cipher(4)
    session.call("InternalEncrypt_ECC", 40, 0x20800, b"text", 4, byref(out))
    assert session.output("InternalDecrypt_ECC", 40, 0x20800, byref(out)) == b"text"
    told = json.loads(secgear("crypto", "sdf", "list", *place, "--json"))["keys"]
    assert {"role": "kek", "index": 40, "algorithm": "sm4"} in told
    assert [one for one in told if one["index"] == 40] == [
        {"role": "enc", "index": 40, "algorithm": "sm2"},
        {"role": "kek", "index": 40, "algorithm": "sm4"},
        {"role": "sign", "index": 40, "algorithm": "rsa"},
        {"role": "sign", "index": 40, "algorithm": "sm2"},
    ]
    # A second key of an index would make both useless.
    said = secgear("crypto", "sdf", "key", "sign", "40", *place, fails=True)
    assert "there is a sm2 key sdf:sign:40" in said


def test_what_cannot_be_made_is_told(server: Answering, pin: Path, tmp_path: Path) -> None:
    socket = ("--token", "first", "--socket", str(server.path))
    bad = tmp_path / "bad"
    for text, told in ((b"", "a PIN belongs there"), (b"wrong-pin", "CKR_PIN_INCORRECT")):
        bad.write_bytes(text)
        said = secgear("crypto", "sdf", "list", *socket, "--pin-file", str(bad), fails=True)
        assert told in said
    place = (*socket, "--pin-file", str(pin))
    said = secgear("crypto", "sdf", "key", "sign", "1", "--decrypt", *place, fails=True)
    assert "--decrypt is for enc keys" in said
    secgear("crypto", "sdf", "key", "sign", "0", *place, fails=True)
    secgear("crypto", "sdf", "key", "other", "1", *place, fails=True)
