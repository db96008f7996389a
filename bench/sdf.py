"""GM/T 0018 through the shared library, against what OpenSSL does in its own process.

`openssl speed` has no boundary to cross, no key to look after and no bytes to move; it is run
before and after our calls, by the clock on the wall as they are.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from ctypes import byref, c_ubyte, c_uint, c_void_p
from pathlib import Path

from bench.measure import Row, Sample, interleaved, rows, sample
from bench.modules import PIN, SO_PIN, serving

_CHUNK = 65536
_ALGORITHMS = {"sm4-ctr": 0x420, "sm4-cbc": 0x402}
_COMMAND = [sys.executable, "-m", "secgear.cli", "crypto"]


def main(*, quick: bool) -> list[Row]:
    """Signatures with SM2, encryption of 64 KiB with SM4, a digest."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "module", 1) as socket:
        folder = Path(name)
        _prepare(folder, socket)
        session = _Session(folder / "library.so")
        rounds = 7 if quick else 21
        return [*_signatures(session, rounds), *_ciphers(session, rounds)]


def _signatures(session: _Session, rounds: int) -> Iterator[Row]:
    contenders: dict[str, Callable[[], object]] = {"secgear sdf": session.sign}
    before = _speed("sm2")
    samples = interleaved(contenders, rounds=rounds, batch=20)
    samples["openssl speed"] = sample([before, _speed("sm2")])
    yield from rows("sign, sm2", samples, "openssl speed")


def _ciphers(session: _Session, rounds: int) -> Iterator[Row]:
    for name, algorithm in _ALGORITHMS.items():
        before = _speed(name)
        samples: dict[str, Sample] = interleaved(
            {"secgear sdf": session.encryptor(algorithm)}, rounds=rounds, batch=10
        )
        samples["openssl speed"] = sample([before, _speed(name)])
        yield from rows(f"{name} of 64 KiB", samples, "openssl speed")


class _Session:
    """An SDF session with a right to key 1 and a session key."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        device, self._handle, self._key = c_void_p(), c_void_p(), c_void_p()
        self._call("OpenDevice", byref(device))
        self._call("OpenSession", device, byref(self._handle))
        self._call("GetPrivateKeyAccessRight", self._handle, 1, PIN, len(PIN))
        self._call("ImportKey", self._handle, bytes(16), 16, byref(self._key))
        self._signature = (c_ubyte * 128)()
        self._data, self._iv = (c_ubyte * _CHUNK)(), (c_ubyte * 16)()

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, f"SDF_{name}")(
            *(c_uint(one) if isinstance(one, int) else one for one in arguments)
        )
        if code:
            raise SystemExit(f"sdf: SDF_{name} answers {code:#x}")

    def sign(self) -> None:
        """A digest."""
        self._call("InternalSign_ECC", self._handle, 1, bytes(32), 32, self._signature)

    def encryptor(self, algorithm: int) -> Callable[[], None]:
        """Encrypts 64 KiB in place."""

        def encrypt() -> None:
            length = c_uint(_CHUNK)
            data = self._data
            self._call(
                "Encrypt", self._handle, self._key, algorithm, self._iv, data, _CHUNK, data,
                byref(length),
            )  # fmt: skip

        return encrypt


def _prepare(folder: Path, socket: Path) -> None:
    pins, pin = folder / "pins", folder / "pin"
    pins.write_bytes(SO_PIN + b"\n" + PIN + b"\n")
    pin.write_bytes(PIN + b"\n")
    settings = folder / "sdf.conf"
    settings.write_text("slot = 0\n")
    os.environ["SECGEAR_PKCS11"] = f"unix:{socket}"
    os.environ["SECGEAR_SDF"] = str(settings)
    place = ["--socket", str(socket), "--pin-file"]
    for command in (
        ["token", "bench", *place, str(pins)],
        ["sdf", "key", "sign", "1", "--token", "bench", *place, str(pin)],
        ["library", "--output", str(folder / "library.so")],
    ):
        subprocess.run([*_COMMAND, *command], check=True, capture_output=True)


def _speed(name: str) -> float:
    """Seconds that the system's OpenSSL takes for a signature, or for 64 KiB."""
    cipher = name in _ALGORITHMS
    what = ["-evp", name, "-bytes", str(_CHUNK)] if cipher else [name]
    done = subprocess.run(
        ["openssl", "speed", "-elapsed", "-seconds", "1", *what],
        capture_output=True,
        text=True,
        check=True,
    )
    if cipher:
        found = re.search(r"([0-9.]+)k\s*$", done.stdout)
        return _CHUNK / (float(found[1]) * 1000) if found else _unreadable()
    found = re.search(r"\s([0-9.]+)\s+[0-9.]+\s*$", done.stdout)  # signatures, verifications
    return 1 / float(found[1]) if found else _unreadable()


def _unreadable() -> float:
    raise SystemExit("sdf: openssl speed says something else than expected")
