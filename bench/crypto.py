"""The cryptographic module behind p11-kit's client, against SoftHSM in the process and OpenSSL.

SoftHSM has no boundary to cross: its keys are in the memory of whoever uses them.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.crypto_data import encryption
from bench.cryptoki import (
    CLASS,
    EC_PARAMS,
    LABEL,
    MODULUS_BITS,
    SIGN,
    TOKEN,
    USER,
    VERIFY,
    Library,
)
from bench.measure import Row, interleaved, rows, sample

SO_PIN, PIN = b"12345678", b"123456"
_RSA_GENERATE, _RSA_PKCS, _EC_GENERATE, _ECDSA, _SHA256 = 0, 1, 0x1040, 0x1041, 0x250
_P256 = bytes.fromhex("06082a8648ce3d030107")
_TRUE = b"\1"
_INFO = bytes.fromhex("3031300d060960864801650304020105000420") + bytes(32)


def main(*, quick: bool) -> list[Row]:
    """Signatures, digests, random bytes, nothing, and finding a key by its label."""
    ours, softhsm = _first("pkcs11/p11-kit-client.so"), _first("softhsm/libsofthsm2.so")
    if ours is None or softhsm is None:
        raise SystemExit("crypto: needs p11-kit-modules and softhsm2 (Debian)")
    with tempfile.TemporaryDirectory() as folder, module(Path(folder) / "module"):
        _softhsm_home(Path(folder))
        libraries = {"softhsm": Library(softhsm), "secgear": Library(ours)}
        for library in libraries.values():
            library.prepare(SO_PIN, PIN)
            library.open()
            library.login(USER, PIN)
        socket = Path(folder) / "module" / "pkcs11.sock"
        return [
            *_signatures(libraries, quick),
            *_others(libraries, quick),
            *encryption(libraries["softhsm"], socket, PIN, _openssl, quick=quick),
        ]


def _signatures(libraries: dict[str, Library], quick: bool) -> Iterator[Row]:
    rounds = 7 if quick else 21
    for name, generate, attribute, mechanism, data in (
        ("rsa2048", _RSA_GENERATE, {MODULUS_BITS: (2048).to_bytes(8, "little")}, _RSA_PKCS, _INFO),
        ("ecdsap256", _EC_GENERATE, {EC_PARAMS: _P256}, _ECDSA, bytes(32)),
    ):
        keys = {
            kind: library.pair(generate, {**attribute, VERIFY: _TRUE}, {SIGN: _TRUE})
            for kind, library in libraries.items()
        }
        contenders: dict[str, Callable[[], object]] = {
            kind: partial(library.sign, mechanism, keys[kind], data)
            for kind, library in libraries.items()
        }
        before = _openssl(name)
        samples = interleaved(contenders, rounds=rounds, batch=20)
        samples["openssl speed"] = sample([before, _openssl(name)])
        yield from rows(f"sign, {name}", samples, "softhsm")


def _others(libraries: dict[str, Library], quick: bool) -> Iterator[Row]:
    rounds = 7 if quick else 21
    for what, run in (
        ("nothing (C_GetInfo)", Library.info),
        ("SHA-256 of 1 KiB", lambda library: library.digest(_SHA256, bytes(1024))),
        ("SHA-256 of 64 KiB", lambda library: library.digest(_SHA256, bytes(65536))),
        ("32 random bytes", lambda library: library.random(32)),
    ):
        contenders = {kind: partial(run, library) for kind, library in libraries.items()}
        yield from rows(what, interleaved(contenders, rounds=rounds, batch=50), "softhsm")
    count = 100 if quick else 1000
    for library in libraries.values():
        for number in range(count):
            library.create({CLASS: bytes(8), LABEL: f"object {number}".encode(), TOKEN: b"\0"})
    wanted = f"object {count // 2}".encode()
    finders = {kind: partial(library.find, {LABEL: wanted}) for kind, library in libraries.items()}
    samples = interleaved(finders, rounds=rounds, batch=5)
    yield from rows(f"find one of {count} session objects", samples, "softhsm")


@contextlib.contextmanager
def module(directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "secgear.cli"]
    subprocess.run([*command, "crypto", "init", str(directory)], check=True, capture_output=True)
    with subprocess.Popen(
        [*command, "serve", "crypto", "--directory", str(directory)],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            while "module at" not in (line := server.stderr.readline()):
                if not line:
                    raise SystemExit("crypto: the module does not start")
            os.environ["P11_KIT_SERVER_ADDRESS"] = f"unix:path={directory}/pkcs11.sock"
            yield
        finally:
            server.terminate()


def _softhsm_home(folder: Path) -> None:
    tokens = folder / "tokens"
    tokens.mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)


def _openssl(name: str) -> float:
    """Seconds that the system's OpenSSL takes for one signature."""
    done = subprocess.run(
        ["openssl", "speed", "-seconds", "1", name], capture_output=True, text=True, check=True
    )
    rates = re.search(r"\s([0-9.]+)\s+[0-9.]+\s*$", done.stdout)  # signatures, verifications
    if rates is None:
        raise SystemExit("crypto: openssl speed says something else than expected")
    return 1 / float(rates[1])


def _first(name: str) -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/{name}"))), None)
