"""The audit trail as the enclave writes it: a chain of records, signed at the end of each change.

A record is JSON, so that people and tools read it. Its hash covers the record before; the signature
of the last record of a change covers all of them. The host keeps the records and can't make one.
What an auditor does with them is in `secgear.services.crypto.trail`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.services.crypto.token.state import Record
from secgear.services.crypto.trail import chain, signed


class Event(msgspec.Struct, frozen=True):
    """What is to be recorded. actor: who, as the host tells. detail: no secrets, ever."""

    action: str
    actor: str
    slot: int | None = None
    detail: Mapping[str, str | int | bool] = {}


def write(
    events: tuple[Event, ...],
    *,
    seq: int,
    previous: bytes,
    key: Ed25519PrivateKey,
    now: datetime.datetime,
) -> tuple[Record, ...]:
    """Records that continue the chain. now: by the host's clock."""
    records = []
    for at, event in enumerate(events):
        body = _encode(
            {
                "seq": seq + 1,
                "at": now.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
                "actor": event.actor,
                "action": event.action,
                "slot": event.slot,
                "detail": event.detail,
            }
        )
        seq += 1
        previous = chain(previous, body)
        last = at == len(events) - 1
        signature = key.sign(signed(seq, previous)) if last else b""
        records.append(Record(seq, body, previous, signature))
    return tuple(records)


_encode = msgspec.json.Encoder(order="deterministic").encode
