"""Sealed envelopes against AES-256-GCM alone on the same chunks, and small ones against bare HPKE.

"stream" gives records away as they are made, "whole" makes one piece of memory; each is held
against AES-GCM doing the same. AES-GCM that writes into one buffer over and over ("into") is the
limit; nobody can keep what it made.
"""

from __future__ import annotations

import datetime
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.measure import Row, interleaved, rows
from bench.trusting import trusted
from secgear.base.tee import Evidence
from secgear.middleware.envelopes import CLASSIC, HYBRID, EnclaveKeyPair, Opener, Sealer, seal
from secgear.middleware.envelopes import open as open_envelope
from secgear.middleware.envelopes.document import NO_CONTEXT, EnclaveKey, report_data
from secgear.middleware.envelopes.format import DEFAULT_CHUNK, TAG_SIZE
from secgear.middleware.envelopes.suites import private_key, suite_named
from secgear.middleware.envelopes.trust import TrustedKey

_PURPOSE = "benchmark"


def main(*, quick: bool) -> list[Row]:
    """Tables for bulk data and for small envelopes."""
    return [*_bulk(quick=quick), *_small(quick=quick)]


def _bulk(*, quick: bool) -> list[Row]:
    size = (16 if quick else 64) << 20
    rounds = 5 if quick else 15
    data = memoryview(os.urandom(size))
    pair, recipient = _keys(HYBRID)
    bare = _Bare(data)
    records = list(Sealer(recipient, purpose=_PURPOSE).stream([data]))
    envelope = seal(recipient, data, purpose=_PURPOSE)
    name = f"{size >> 20} MiB"

    def seal_stream() -> None:
        _drop(Sealer(recipient, purpose=_PURPOSE).stream([data]))

    def open_stream() -> None:
        _drop(Opener(pair, purpose=_PURPOSE).stream(records))

    def open_whole() -> bytes:
        return open_envelope(pair, envelope, purpose=_PURPOSE)

    tables: list[tuple[str, str, dict[str, Callable[[], object]]]] = [
        (
            "seal",
            "AES-GCM into",
            {"AES-GCM into": bare.seal_into, "AES-GCM": bare.seal_each, "stream": seal_stream},
        ),
        (
            "open",
            "AES-GCM into",
            {"AES-GCM into": bare.open_into, "AES-GCM": bare.open_each, "stream": open_stream},
        ),
        (
            "seal, one piece",
            "AES-GCM",
            {
                "AES-GCM": bare.seal_all,
                "whole": functools.partial(seal, recipient, data, purpose=_PURPOSE),
            },
        ),
        ("open, one piece", "AES-GCM", {"AES-GCM": bare.open_all, "whole": open_whole}),
    ]
    found: list[Row] = []
    for what, against, contenders in tables:
        samples = interleaved(contenders, rounds=rounds, batch=1)
        found += rows(f"{what} {name}", samples, against)
    return found


def _small(*, quick: bool) -> list[Row]:
    rounds, batch = (5, 50) if quick else (25, 100)
    data = os.urandom(1024)
    found: list[Row] = []
    for suite, kem in ((HYBRID, hpke.KEM.MLKEM768_X25519), (CLASSIC, hpke.KEM.X25519)):
        pair, recipient = _keys(suite)
        plain = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        key, _ = private_key(suite_named(suite), bytes(32))
        public = key.public_key()
        sealed = plain.encrypt(data, public)
        envelope = seal(recipient, data, purpose=_PURPOSE)
        name = "hybrid" if suite == HYBRID else "classic"
        for what, contenders in (
            (
                "seal",
                {
                    "HPKE": functools.partial(plain.encrypt, data, public),
                    "envelope": functools.partial(seal, recipient, data, purpose=_PURPOSE),
                },
            ),
            (
                "open",
                {
                    "HPKE": functools.partial(plain.decrypt, sealed, key),
                    "envelope": functools.partial(open_envelope, pair, envelope, purpose=_PURPOSE),
                },
            ),
        ):
            samples = interleaved(contenders, rounds=rounds, batch=batch)
            found += rows(f"{what} 1 KiB, {name}", samples, "HPKE")
    return found


class _Bare:
    """AES-256-GCM on the same chunks, and nothing else."""

    def __init__(self, data: memoryview) -> None:
        self._cipher = AESGCM(os.urandom(32))
        self._data = data
        self._starts = range(0, len(data), DEFAULT_CHUNK)
        self._sealed = [
            self._cipher.encrypt(_nonce(at), self._chunk(at), None) for at in self._starts
        ]
        self._all = self._cipher.encrypt(bytes(12), data, None)
        self._out = bytearray(DEFAULT_CHUNK + TAG_SIZE)

    def _chunk(self, start: int) -> memoryview:
        return self._data[start : start + DEFAULT_CHUNK]

    def seal_into(self) -> None:
        for start in self._starts:
            self._cipher.encrypt_into(_nonce(start), self._chunk(start), None, self._out)

    def open_into(self) -> None:
        out = memoryview(self._out)[:DEFAULT_CHUNK]
        for start, sealed in zip(self._starts, self._sealed, strict=True):
            self._cipher.decrypt_into(_nonce(start), sealed, None, out)

    def seal_each(self) -> None:
        for start in self._starts:
            self._cipher.encrypt(_nonce(start), self._chunk(start), None)

    def open_each(self) -> None:
        for start, sealed in zip(self._starts, self._sealed, strict=True):
            self._cipher.decrypt(_nonce(start), sealed, None)

    def seal_all(self) -> bytes:
        return self._cipher.encrypt(bytes(12), self._data, None)

    def open_all(self) -> bytes:
        return self._cipher.decrypt(bytes(12), self._all, None)


def _nonce(start: int) -> bytes:
    return start.to_bytes(12, "big")


def _drop(pieces: Iterable[object]) -> None:
    deque(pieces, maxlen=0)


def _keys(suite: str) -> tuple[EnclaveKeyPair, TrustedKey]:
    """A key pair, and trust in it that no evidence stands behind: sealing does not look at it."""
    _, public = private_key(suite_named(suite), bytes(32))
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    not_after = int(end.timestamp())
    evidence = Evidence("benchmark", b"")
    key = EnclaveKey(suite=suite, public=public, not_after=not_after, evidence=evidence)
    bound = report_data(suite, public, not_after, NO_CONTEXT, ())
    verdict = trusted(evidence, bound, at=end)
    return EnclaveKeyPair(bytes(32), key), TrustedKey(key=key, verdict=verdict, expires=key.expires)
