"""AES-GCM and SM2: our own client, one call at a time and in batches, against SoftHSM and OpenSSL.

SoftHSM's calls are C's, ours Python's through the socket to the enclave. A batch is 64 messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.cryptoki import Library
from bench.measure import Row, Sample, interleaved, rows, sample
from secgear.services.crypto.client import Caller, SocketExchange
from secgear.services.crypto.pkcs11.constants import Attr, Generator, Mech
from secgear.services.crypto.pkcs11.mechanism import (
    GcmParams,
    Mechanism,
    Mechanisms,
    MessageParams,
)

_BATCH, _ROOM = 64, 1 << 20
_USER = 1


def encryption(
    softhsm: Library, socket: Path, pin: bytes, openssl: Callable[[str], float], *, quick: bool
) -> Iterator[Row]:
    """Seconds for one message, and for one SM2 signature."""
    rounds = 7 if quick else 21
    with SocketExchange(socket) as exchange:
        caller = Caller(exchange)
        caller.initialise()
        session = caller.one("C_OpenSession", 0, 6)
        caller.call("C_Login", session, _USER, pin)
        ours = partial(caller.call)
        key, theirs = _aes_key(caller, session), softhsm.aes_key()
        nonces = tuple(GcmParams(os.urandom(12), b"", 128) for _ in range(_BATCH))
        batch, one = Mechanisms(Mech.AES_GCM, nonces), Mechanism(Mech.AES_GCM, nonces[0])
        small, large = os.urandom(1024), os.urandom(65536)
        samples = interleaved(
            {
                "softhsm": softhsm.gcm(theirs, small),
                "secgear": partial(ours, "S_EncryptBatch", session, batch, key, [small] * _BATCH),
            },
            rounds=rounds,
            batch=40,
        )
        samples["secgear"] = Sample(*(time / _BATCH for time in samples["secgear"]))
        yield from rows("AES-256-GCM, 1 KiB, ours in batches of 64", samples, "softhsm")

        def init_and_encrypt() -> None:
            ours("C_EncryptInit", session, one, key)
            ours("C_Encrypt", session, large, _ROOM)

        caller.call("C_MessageEncryptInit", session, Mechanism(Mech.AES_GCM), key)
        params = MessageParams(bytes(12), generator=Generator.GENERATE)
        samples = interleaved(
            {
                "softhsm": softhsm.gcm(theirs, large),
                "secgear": init_and_encrypt,
                "secgear, messages": partial(
                    ours, "C_EncryptMessage", session, params, b"", large, _ROOM
                ),
            },
            rounds=rounds,
            batch=40,
        )
        yield from rows("AES-256-GCM, 64 KiB", samples, "softhsm")
        yield from _sm2(caller, session, openssl, rounds)


def _sm2(
    caller: Caller, session: int, openssl: Callable[[str], float], rounds: int
) -> Iterator[Row]:
    private: dict[int, Any] = {int(Attr.SIGN): True}
    generator = Mechanism(Mech.SM2_KEY_PAIR_GEN)
    _, key = caller.call("C_GenerateKeyPair", session, generator, {}, private)
    digest = bytes(32)

    def one_by_one() -> None:
        caller.call("C_SignInit", session, Mechanism(Mech.SM2), key)
        caller.call("C_Sign", session, digest, _ROOM)

    many = Mechanisms(Mech.SM2), key, [digest] * _BATCH
    before = openssl("sm2")
    samples = interleaved(
        {
            "secgear": one_by_one,
            "secgear, batches of 64": partial(caller.call, "S_SignBatch", session, *many),
        },
        rounds=rounds,
        batch=10,
    )
    batches = samples["secgear, batches of 64"]
    samples["secgear, batches of 64"] = Sample(*(time / _BATCH for time in batches))
    samples["openssl speed"] = sample([before, openssl("sm2")])
    yield from rows("sign, SM2", samples, "openssl speed")


def _aes_key(caller: Caller, session: int) -> int:
    template: dict[int, Any] = {int(Attr.VALUE_LEN): 32, int(Attr.ENCRYPT): True}
    return int(caller.one("C_GenerateKey", session, Mechanism(Mech.AES_KEY_GEN), template))
