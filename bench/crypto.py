"""The cryptographic module, against SoftHSM in the process and behind a server, and OpenSSL.

SoftHSM in the process has no boundary to cross: its keys are in the memory of whoever uses them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from bench.crypto_data import encryption
from bench.cryptoki import (
    CLASS,
    EC_PARAMS,
    LABEL,
    MODULUS_BITS,
    SIGN,
    TOKEN,
    VERIFY,
    Library,
)
from bench.measure import Row, Sample, interleaved, rows, sample
from bench.modules import OWN_LIBRARY, PIN, SO_PIN, SOFTHSM, client, modules, serving

_TRUE = b"\1"
_INFO = bytes.fromhex("3031300d060960864801650304020105000420") + bytes(32)
_SHA256 = 0x250


class Signature(NamedTuple):
    """How keys are made and used; its name is that of ``openssl speed``."""

    generate: int
    attribute: dict[int, bytes]
    mechanism: int
    data: bytes


SIGNATURES: Final = {
    "rsa2048": Signature(0, {MODULUS_BITS: (2048).to_bytes(8, "little")}, 1, _INFO),
    "ecdsap256": Signature(
        0x1040, {EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, 0x1041, bytes(32)
    ),
}


def main(*, quick: bool) -> list[Row]:
    """Calls of one client; then clients in processes of their own; then a token's table."""
    with modules() as (libraries, socket):
        table = [
            *_signatures(libraries, quick),
            *_others(libraries, quick),
            *_carried(libraries, quick),
            *encryption(libraries[SOFTHSM], socket, PIN, _openssl, quick=quick),
        ]
    return [*table, *_clients(quick), *_lookup(quick)]


def make(library: Library, name: str) -> int:
    """A private key of a session."""
    signature = SIGNATURES[name]
    return library.pair(signature.generate, {**signature.attribute, VERIFY: _TRUE}, {SIGN: _TRUE})


def _signatures(libraries: dict[str, Library], quick: bool) -> Iterator[Row]:
    rounds = 7 if quick else 21
    for name, signature in SIGNATURES.items():
        contenders: dict[str, Callable[[], object]] = {
            kind: partial(library.sign, signature.mechanism, make(library, name), signature.data)
            for kind, library in libraries.items()
        }
        before = _openssl(name)
        samples = interleaved(contenders, rounds=rounds, batch=20)
        samples["openssl speed"] = sample([before, _openssl(name)])
        yield from rows(f"sign, {name}", samples, SOFTHSM)


def _others(libraries: dict[str, Library], quick: bool) -> Iterator[Row]:
    rounds = 7 if quick else 21
    for what, run in (
        ("nothing (C_GetInfo)", Library.info),
        ("SHA-256 of 1 KiB", lambda library: library.digest(_SHA256, bytes(1024))),
        ("SHA-256 of 64 KiB", lambda library: library.digest(_SHA256, bytes(65536))),
        ("32 random bytes", lambda library: library.random(32)),
    ):
        contenders = {kind: partial(run, library) for kind, library in libraries.items()}
        yield from rows(what, interleaved(contenders, rounds=rounds, batch=50), SOFTHSM)
    count = 100 if quick else 1000
    for library in libraries.values():
        for number in range(count):
            library.create({CLASS: bytes(8), LABEL: f"object {number}".encode(), TOKEN: b"\0"})
    wanted = f"object {count // 2}".encode()
    finders = {kind: partial(library.find, {LABEL: wanted}) for kind, library in libraries.items()}
    samples = interleaved(finders, rounds=rounds, batch=5)
    yield from rows(f"find one of {count} session objects", samples, SOFTHSM)


def _carried(libraries: dict[str, Library], quick: bool) -> Iterator[Row]:
    """AES-GCM, which p11-kit's client of Debian 12 does not carry and our library does."""
    if OWN_LIBRARY not in libraries:
        return
    data = bytes(65536)
    contenders = {
        kind: libraries[kind].gcm(libraries[kind].aes_key(), data)
        for kind in (SOFTHSM, OWN_LIBRARY)
    }
    samples = interleaved(contenders, rounds=7 if quick else 21, batch=50)
    yield from rows("AES-256-GCM of 64 KiB, in C", samples, SOFTHSM)


def _clients(quick: bool) -> Iterator[Row]:
    """Signatures of many clients at once: seconds divided by how many there were in all."""
    seconds = 0.5 if quick else 2.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workers in (1, 2):
            with serving(folder / "module", workers) as socket:
                if workers == 1:
                    client(folder / "client.so", socket).prepare(SO_PIN, PIN)
                for kind in SIGNATURES:
                    yield from _crowd(socket, kind, workers, seconds, quick=quick)


def _crowd(socket: Path, name: str, workers: int, seconds: float, *, quick: bool) -> Iterator[Row]:
    what = f"clients of {workers} enclave{'s' if workers > 1 else ''}, {name}"
    samples: dict[str, Sample] = {}
    for count in (1, 8) if quick else (1, 8, 64):
        command = [sys.executable, "-m", "bench.crypto_client", str(socket), name, str(seconds)]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("crypto: a client does not start")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        made = sum(int(process.communicate()[0]) for process in processes)
        samples[f"{count} at once, each"] = sample([seconds / made])
    yield from rows(what, samples, "1 at once, each")


def _lookup(quick: bool) -> Iterator[Row]:
    """Finding a label among a token's objects, inside the enclave's program."""
    from secgear.services.crypto.token.objects import Object
    from secgear.services.crypto.token.table import Table

    samples: dict[str, Sample] = {}
    for count in (1_000, 10_000) if quick else (1_000, 100_000):
        table = Table()
        for number in range(count):
            table.put(Object(number, {LABEL: f"object {number}".encode(), TOKEN: True}))
        wanted = {LABEL: f"object {count // 2}".encode()}
        found = interleaved({"": partial(table.find, wanted)}, rounds=21, batch=200)
        samples[f"among {count}"] = found[""]
    yield from rows("find a label, inside", samples, "among 1000")


def _openssl(name: str) -> float:
    """Seconds that the system's OpenSSL takes for one signature."""
    done = subprocess.run(
        ["openssl", "speed", "-seconds", "1", name], capture_output=True, text=True, check=True
    )
    rates = re.search(r"\s([0-9.]+)\s+[0-9.]+\s*$", done.stdout)  # signatures, verifications
    if rates is None:
        raise SystemExit("crypto: openssl speed says something else than expected")
    return 1 / float(rates[1])
