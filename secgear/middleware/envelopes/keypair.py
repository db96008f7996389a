"""The enclave's key pair: made inside, and used there only.

Runs inside the enclave. The private key lies in its memory; it leaves that only as `to_secret`,
which the caller has to seal.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import cbor2
import msgspec

from secgear.errors import EnvelopeMalformed, EnvelopeRefused, EvidenceMalformed
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.envelopes import document
from secgear.middleware.envelopes.document import CONTEXT_SIZE, NO_CONTEXT, EnclaveKey
from secgear.middleware.envelopes.format import KEY_SIZE, Header, check_purpose
from secgear.middleware.envelopes.suites import (
    HYBRID,
    SECRET_SIZE,
    PrivateKey,
    private_key,
    suite_named,
)

if TYPE_CHECKING:
    from secgear.base.tee import Guest

DAY = datetime.timedelta(days=1)
MAX_LIFETIME = datetime.timedelta(days=366)
_SECRET_VERSION = 1
_MARK = "secgear-enclave-key-secret"


class Content(NamedTuple):
    """What a header wraps. key: AES-256. id: the envelope's, for the ledger of replays."""

    key: bytes
    id: bytes

    def __repr__(self) -> str:
        return "Content(…)"


class EnclaveKeyPair:
    """A key pair with its public form. `repr` shows no secret, and it can't be pickled."""

    def __init__(self, secret: bytes, key: EnclaveKey) -> None:
        """`create` and `from_secret` call this; `key` has to belong to `secret`."""
        self._secret = bytearray(secret)
        made, public = private_key(suite_named(key.suite), secret)
        if public != key.public:
            raise EnvelopeMalformed("the private key does not belong to the public one")
        self._private: PrivateKey | None = made
        self.key = key

    def __repr__(self) -> str:
        return f"EnclaveKeyPair({self.key.suite!r}, id={self.key.id.hex()[:16]}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key can't be pickled; seal what to_secret() gives")

    @classmethod
    def create(
        cls,
        suite: str = HYBRID,
        *,
        purposes: Iterable[str] = (),
        lifetime: datetime.timedelta = DAY,
        context: bytes = NO_CONTEXT,
        guest: Guest | None = None,
        at: datetime.datetime | None = None,
    ) -> EnclaveKeyPair:
        """A new key with evidence about it.

        purposes: what may be sealed to it; nothing here means anything. lifetime: at most 366 days,
        counted by this machine's clock. context: as in `attest`. guest: the TEE's services, by
        default this enclave's. at: now.
        Raises EnvelopeMalformed for arguments that make no key, GuestError without evidence.
        """
        found = suite_named(suite)
        if not datetime.timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
            raise EnvelopeMalformed(f"a key lives between a second and {MAX_LIFETIME.days} days")
        allowed = tuple(sorted(set(purposes)))
        for purpose in allowed:
            check_purpose(purpose)
        secret = os.urandom(SECRET_SIZE)
        _, public = private_key(found, secret)
        not_after = int((_now(at) + lifetime).timestamp())
        key = _attested(
            suite=suite,
            public=public,
            not_after=not_after,
            context=context,
            purposes=allowed,
            guest=guest,
        )
        return cls(secret, key)

    def attest(self, context: bytes, *, guest: Guest | None = None) -> EnclaveKey:
        """The same key with new evidence, for a data owner who asks for it now.

        context: the data owner's nonce, 32 bytes.
        """
        key = self.key
        return _attested(
            suite=key.suite,
            public=key.public,
            not_after=key.not_after,
            context=context,
            purposes=key.purposes,
            guest=guest,
        )

    def unwrap(
        self,
        header: Header,
        wrapped: bytes,
        *,
        purpose: str,
        associated: bytes,
        at: datetime.datetime | None = None,
    ) -> Content:
        """The content key of an envelope.

        Raises EnvelopeRefused if the envelope is for another key, purpose or place, or the key has
        expired or was closed.
        """
        key = self.key
        if self._private is None:
            raise EnvelopeRefused("the key pair was closed")
        if header.key_id != key.id or header.suite.name != key.suite:
            raise EnvelopeRefused(
                f"the envelope is for the key {header.key_id.hex()[:16]}…, "
                f"not for {key.id.hex()[:16]}…"
            )
        if key.purposes and purpose not in key.purposes:
            raise EnvelopeRefused(f"the key is not for the purpose {purpose!r}")
        if _now(at) >= key.expires:
            raise EnvelopeRefused(f"the key has expired at {key.expires.isoformat()}")
        content = header.suite.unwrap(wrapped, self._private, header.info(purpose, associated))
        return Content(content[:KEY_SIZE], content[KEY_SIZE:])

    def close(self) -> None:
        """Let go of the private key, and wipe it where we can; nothing can be opened any more."""
        self._private = None
        self._secret[:] = bytes(len(self._secret))

    def to_secret(self) -> bytes:
        """Private and public key as bytes, for the caller to seal to this enclave.

        Whoever reads them can open every envelope.
        """
        if self._private is None:
            raise EnvelopeRefused("the key pair was closed")
        content = {
            _MARK: _SECRET_VERSION,
            "secret": bytes(self._secret),
            "document": self.key.to_cbor(),
        }
        return cbor2.dumps(content, canonical=True)

    @classmethod
    def from_secret(cls, data: bytes) -> EnclaveKeyPair:
        """What `to_secret` gave. Raises EnvelopeMalformed; no message has bytes of `data` in it."""
        try:
            content = cbor.decode(data, "key pair", max_size=document.MAX_SIZE + 1024)
            read = msgspec.convert(content, _Secret, builtin_types=(bytes,))
        except (EvidenceMalformed, *UNREADABLE):
            raise EnvelopeMalformed("the bytes are no key pair") from None
        if read.version != _SECRET_VERSION:
            raise EnvelopeMalformed(
                f"a key pair of version {read.version}; this release reads {_SECRET_VERSION}"
            )
        return cls(read.secret, EnclaveKey.from_cbor(read.document))


class _Secret(msgspec.Struct, forbid_unknown_fields=True):
    version: int = msgspec.field(name=_MARK)
    secret: bytes
    document: bytes

    def __repr__(self) -> str:
        return "_Secret(…)"


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = msgspec.json.Decoder(_Secret)


def _attested(
    *,
    suite: str,
    public: bytes,
    not_after: int,
    context: bytes,
    purposes: tuple[str, ...],
    guest: Guest | None,
) -> EnclaveKey:
    if len(context) != CONTEXT_SIZE:
        raise EnvelopeMalformed(f"a context of {len(context)} bytes, not {CONTEXT_SIZE}")
    if guest is None:
        from secgear.base import context as runtime

        guest = runtime.guest()
    expected = document.report_data(suite, public, not_after, context, purposes)
    return EnclaveKey(
        suite=suite,
        public=public,
        not_after=not_after,
        context=context,
        purposes=purposes,
        evidence=guest.evidence(expected),
    )


def _now(at: datetime.datetime | None) -> datetime.datetime:
    return at if at is not None else datetime.datetime.now(datetime.UTC)
