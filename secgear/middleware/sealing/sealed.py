"""Data that only this enclave, or its kin, can read again, wherever the host keeps it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.base import context
from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import SealedForOther, SealingError
from secgear.middleware.sealing.counters import (
    Counter,
    acknowledge,
    check_newest,
    following,
    identity_of,
)
from secgear.middleware.sealing.format import (
    MAX_SIZE,
    SALT_SIZE,
    TAG_SIZE,
    Header,
    mark_of,
    parse,
)
from secgear.middleware.sealing.keys import derive_into

Buffer = bytes | bytearray | memoryview
_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_LABEL: Final = b"secgear sealing v1\0"


def seal(
    data: Buffer,
    *,
    policy: SealingPolicy = SealingPolicy.MEASUREMENT,
    aad: bytes = b"",
    counter: Counter | None = None,
    after: int | None = None,
    svn: int | None = None,
    guest: Guest | None = None,
) -> bytes:
    """`data`, encrypted for this enclave (MEASUREMENT) or its signer's (SIGNER).

    aad: what it belongs to; has to be given again. counter: makes it the version that follows
    `after`; store the result, then call `commit`, or let `store` do both. after: the version that
    this one was made from, `version_of` what was unsealed; the counter's value if there was none.
    So an enclave that the host has started twice can't undo what its twin has stored. svn: the
    oldest version that may read it, by default this enclave's own. guest: by default this
    enclave's.
    Raises SealingError, SealedForOther when the TEE gives no key for that policy and svn.
    """
    if (counter is None) != (after is None):
        raise SealingError("counter and after go together")
    view = memoryview(data).cast("B")
    if len(view) > MAX_SIZE:
        raise SealingError(f"{len(view)} bytes in one piece; {MAX_SIZE} are allowed")
    guest = guest if guest is not None else context.guest()
    header = Header(
        policy=policy,
        svn=guest.svn if svn is None else svn,
        salt=os.urandom(SALT_SIZE),
        counter=identity_of(counter),
        value=0 if after is None else following(after),
    )
    return _Cipher(header, guest).seal(view, aad)


def unseal(
    sealed: Buffer,
    *,
    aad: bytes = b"",
    counter: Counter | None = None,
    min_svn: int = 0,
    policy: SealingPolicy | None = None,
    guest: Guest | None = None,
) -> bytes:
    """What was given to `seal`.

    counter: the one it was sealed with. Data of its next value is taken, too: that is data whose
    storing was the last thing before a crash. It is committed now, so that everything else, older
    or sealed at the same time, is refused from here on. min_svn: refuse what was sealed for an
    older version than that. policy: refuse what was sealed under another one; a host can sign an
    image itself, and have another program with its signature seal what it likes under SIGNER.
    Raises SealedMalformed, SealedForOther (another enclave, signer, product or machine, a newer
    version, other associated data, or changed: one can't tell these apart), RolledBack.
    """
    guest = guest if guest is not None else context.guest()
    header, rest = parse(sealed)
    if header.svn < min_svn:
        raise SealedForOther(f"sealed for svn {header.svn}; {min_svn} at least is accepted")
    if policy is not None and header.policy is not policy:
        raise SealedForOther(f"sealed to the {header.policy.value}, not to the {policy.value}")
    if header.counter != identity_of(counter):
        raise SealedForOther(
            "sealed with another counter" if header.counter else "sealed without a counter"
        )
    data = _Cipher(header, guest).decrypt(rest, aad)
    if counter is not None:
        check_newest(counter, header.value, mark_of(sealed))
    return data


def reseal(
    sealed: Buffer,
    *,
    aad: bytes = b"",
    counter: Counter | None = None,
    min_svn: int = 0,
    guest: Guest | None = None,
) -> bytes:
    """The same data sealed anew for this enclave's own svn, so that older versions can't read it.

    For the first start after an update. With a counter the result has to be committed as that of
    `seal`. Arguments and errors as of `seal` and `unseal`.
    """
    header, _ = parse(sealed)
    data = unseal(sealed, aad=aad, counter=counter, min_svn=min_svn, guest=guest)
    after = None if counter is None else header.value
    return seal(data, policy=header.policy, aad=aad, counter=counter, after=after, guest=guest)


def commit(sealed: Buffer, *, counter: Counter) -> None:
    """Say that what `seal` gave is stored: from here on it is the newest, older data is refused.

    Raises RolledBack when other data was committed in the meantime, SealingError when the counter
    does not answer: call it again then, with the same data.
    """
    header, _ = parse(sealed)
    if header.counter != identity_of(counter):
        raise SealingError("sealed with another counter, or without one")
    acknowledge(counter, header.value, mark_of(sealed))


def store(
    data: Buffer,
    write: Callable[[bytes], object],
    *,
    counter: Counter,
    after: int,
    policy: SealingPolicy = SealingPolicy.MEASUREMENT,
    aad: bytes = b"",
    guest: Guest | None = None,
) -> None:
    """`seal`, then `write`, then `commit`: in the order that a crash at any point survives.

    write: puts the sealed data where it is kept, and returns once it is durable there. When this
    returns the data is the newest; when it raises, either it or the data before is, and RolledBack
    says that it is not: somebody else has stored something after `after`. Others as of `seal`.
    """
    sealed = seal(data, policy=policy, aad=aad, counter=counter, after=after, guest=guest)
    write(sealed)
    commit(sealed, counter=counter)


@final
class _Cipher:
    """AES-256-GCM under the key of one header, which is used for one message."""

    def __init__(self, header: Header, guest: Guest) -> None:
        material = bytearray(_KEY_SIZE + _NONCE_SIZE)
        try:
            derive_into(
                material,
                _LABEL,
                salt=header.salt,
                policy=header.policy,
                svn=header.svn,
                guest=guest,
            )
            self._aead = AESGCM(memoryview(material)[:_KEY_SIZE])
            self._nonce = bytes(material[_KEY_SIZE:])
        finally:
            material[:] = bytes(len(material))
        self._header = header.pack()

    def seal(self, data: memoryview, aad: bytes) -> bytes:
        start = len(self._header)
        made = io.BytesIO(self._header)
        made.seek(start + len(data) + TAG_SIZE - 1)
        made.write(b"\0")
        with made.getbuffer() as out:
            self._aead.encrypt_into(self._nonce, data, self._header + aad, out[start:])
        return made.getvalue()  # the memory itself, no copy of it

    def decrypt(self, data: memoryview, aad: bytes) -> bytes:
        try:
            return self._aead.decrypt(self._nonce, data, self._header + aad)
        except InvalidTag:
            raise SealedForOther(
                "not sealed for this enclave with this associated data, or changed"
            ) from None
