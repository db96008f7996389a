"""Batches of plaintexts, encrypted by as few calls as can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from secgear.services.crypto.pkcs11.mechanism import Mechanism, Mechanisms
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rest.kinds import NONCE, Kind, sealing
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.ring import Ring, prefixed
from secgear.services.crypto.token.calls.batches import MAX_BYTES


class Entry(NamedTuple):
    """What to encrypt. version: of the key, 0 for the current one."""

    version: int
    plain: bytes
    aad: bytes


Refused = Refusal | CryptokiError


class Sealed(NamedTuple):
    """A ciphertext in Vault's form, and the version that made it."""

    number: int
    text: str


def seal(ring: Ring, kind: Kind, entries: Iterable[Entry | Refused]) -> list[Sealed | Refused]:
    """Encrypt all entries with an AEAD; those that were refused stay so, in their places."""
    results: list[Sealed | Refused] = []
    for group in _groups(entries):
        if isinstance(group, Refusal | CryptokiError):
            results.append(group)
            continue
        try:
            results += _together(ring, kind, group)
        except (Refusal, CryptokiError) as error:
            results += [error] * len(group)
    return results


def _groups(entries: Iterable[Entry | Refused]) -> Iterator[list[Entry] | Refused]:
    """Neighbours that go into one call: of one version, and not too many bytes."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        ends = (
            isinstance(entry, Refusal | CryptokiError)
            or (group and group[0].version != entry.version)
            or size + len(entry.plain) > MAX_BYTES
        )
        if ends and group:
            yield group
            group, size = [], 0
        if isinstance(entry, Refusal | CryptokiError):
            yield entry
        else:
            group.append(entry)
            size += len(entry.plain)
    if group:
        yield group


def _together(ring: Ring, kind: Kind, group: Sequence[Entry]) -> list[Sealed | CryptokiError]:
    random = ring.work.call("C_GenerateRandom", NONCE * len(group))
    nonces = [random[at : at + NONCE] for at in range(0, len(random), NONCE)]
    each = [sealing(kind, nonce, one.aad) for nonce, one in zip(nonces, group, strict=True)]
    mechanisms = Mechanisms(each[0].type, tuple(one.parameter for one in each))
    plains = [one.plain for one in group]

    def run(handle: int) -> list[bytes | Rv]:
        if len(plains) == 1:  # which may be longer than a batch
            mechanism = Mechanism(mechanisms.type, mechanisms.parameters[0])
            return [ring.work.run("Encrypt", mechanism, handle, plains[0])]
        made: list[bytes | Rv] = ring.work.call("S_EncryptBatch", mechanisms, handle, plains)
        return made

    number, made = ring.enclose(group[0].version, run)
    return [
        CryptokiError(data)
        if isinstance(data, Rv)
        else Sealed(number, prefixed(number, nonce + data))
        for nonce, data in zip(nonces, made, strict=True)
    ]
