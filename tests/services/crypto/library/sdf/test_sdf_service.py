"""SDF with the service as it is run: an enclave of its own, which may end."""

from __future__ import annotations

import os
import signal
from ctypes import byref
from pathlib import Path

import pytest

from tests.services.crypto.library.cryptoki import copy_of
from tests.services.crypto.library.sdf.binding import (
    EccPublic,
    EccSignature,
    Refused,
    Room,
    Sdf,
    Session,
    opened,
)
from tests.services.crypto.library.sdf.oracle import verifies
from tests.services.crypto.running import PIN, founded, prepare_token, secgear, serving

DIGEST = bytes(range(32))


def signed(session: Session) -> EccSignature:
    signature = EccSignature()
    session.call("InternalSign_ECC", 1, DIGEST, 32, byref(signature))
    return signature


def test_an_application_outlives_the_enclave(
    built: Path, tmp_path: Path, short: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, pin = short / "module", tmp_path / "pin"
    founded(directory)
    pin.write_text(f"{PIN}\n")
    with serving(directory) as server:
        prepare_token(server.socket, tmp_path / "pins")
        place = ("--token", "demo", "--socket", str(server.socket), "--pin-file", str(pin))
        secgear("crypto", "sdf", "key", "sign", "1", *place)
        monkeypatch.setenv("SECGEAR_PKCS11", f"unix:{server.socket}")
        sdf = Sdf(copy_of(built, tmp_path))
        public = EccPublic()
        with opened(sdf) as device:
            session = Session(sdf, device)
            session.right(1, PIN.encode())
            session.call("ExportSignPublicKey_ECC", 1, byref(public))
            assert verifies(public.point, DIGEST, *signed(session).numbers)
            os.kill(server.enclave, signal.SIGKILL)
            while session.code("GenerateRandom", 8, Room(8).buffer) == "OK":
                pass
            with pytest.raises(Refused, match="COMMFAIL"):
                signed(session)
        for _ in range(100):  # until the next enclave is there
            if sdf.code("OpenDevice", byref(device)) == "OK":
                break
        session = Session(sdf, device)
        with pytest.raises(Refused, match="PARDENY"):
            signed(session)
        session.right(1, PIN.encode())
        assert verifies(public.point, DIGEST, *signed(session).numbers)
        sdf.call("CloseDevice", device)
        sdf.close()
