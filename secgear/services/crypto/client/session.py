"""A session on a token: keys are made and found here. It ends with its block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar, final

from secgear.errors import CryptoModuleError, SecGearError
from secgear.services.crypto.client import algorithms
from secgear.services.crypto.client.caller import ROOM, Caller
from secgear.services.crypto.client.keys import CLASSES, Key, PrivateKey, PublicKey, SecretKey
from secgear.services.crypto.client.publics import public_template
from secgear.services.crypto.client.talk import Talk, TokenRefused, template
from secgear.services.crypto.pkcs11.constants import Attr, ObjectClass, UserType
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.pkcs11.values import Value

Pin = bytes | Callable[[], bytes]
"""A PIN, or what asks for it when it is needed."""
_Found = TypeVar("_Found", bound=Key)


@final
class Session:
    """Made by `Token.session`; a context manager. Safe for threads, whose calls take turns.

    Methods raise TokenRefused for what the module refuses.
    """

    def __init__(self, caller: Caller, handle: int) -> None:
        self._talk = Talk(caller, handle)
        self.handle = handle
        self._closed = False

    def __repr__(self) -> str:
        return f"<Session {self.handle}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(SecGearError):  # it is over, also where nobody can be told
            self.close()

    def close(self) -> None:
        """End it; with the last one of a token its login ends. Idempotent."""
        if not self._closed:
            self._closed = True
            self._talk.call("C_CloseSession")

    def login(self, pin: Pin, *, user: str | None = None, officer: bool = False) -> None:
        """Log in, unless this connection is logged in on the token already. See `Token.session`."""
        secret = pin() if callable(pin) else pin
        try:
            if user is not None:
                self._talk.call("C_LoginUser", UserType.USER, secret, user.encode())
            else:
                self._talk.call("C_Login", UserType.SO if officer else UserType.USER, secret)
        except TokenRefused as refused:
            if refused.rv is not Rv.USER_ALREADY_LOGGED_IN:
                raise

    def call(self, name: str, *arguments: Any) -> Any:
        """A call of PKCS#11 in this session, as the table of calls has it."""
        return self._talk.call(name, *arguments)

    # --- new keys --------------------------------------------------------------------------------

    def generate_key(
        self,
        kind: str,
        bits: int | None = None,
        *,
        label: str,
        id: bytes = b"",
        uses: Iterable[str] | None = None,
        token: bool = True,
        **more: Value,
    ) -> SecretKey:
        """A secret key: ``AES``, ``CHACHA20``, ``SM4``, ``HMAC``.

        uses: names of CKA_ in lower case, by default encrypting and decrypting, of HMAC keys
        signing and verifying. token: whether it outlives the session. more: other attributes by
        name; the key is sensitive and never leaves unless they say otherwise.
        """
        known = algorithms.SECRETS.get(kind)
        if known is None:
            raise ValueError(f"secret keys are {', '.join(algorithms.SECRETS)}, not {kind!r}")
        size = bits or next(iter(known.sizes), 256)
        if size % 8 or (known.sizes and size not in known.sizes):
            raise ValueError(f"{kind} keys have {' or '.join(map(str, known.sizes))} bits")
        wanted = dict.fromkeys(known.uses if uses is None else uses, True)
        given = template(label, id, **({"token": token} | wanted | more))
        if len(known.sizes) != 1:
            given[int(Attr.VALUE_LEN)] = size // 8
        handle = self._talk.call("C_GenerateKey", Mechanism(known.mechanism), given)
        return SecretKey(self._talk, handle)

    def generate_pair(
        self,
        kind: str,
        variant: str | int | None = None,
        *,
        label: str,
        id: bytes = b"",
        uses: Iterable[str] | None = None,
        token: bool = True,
        **more: Value,
    ) -> PrivateKey:
        """A key pair: ``EC``, ``RSA``, ``ED25519``, ``X25519``, ``SM2``, ``ML-DSA``, ``ML-KEM``.

        variant: curve, bits or parameter set. uses: of the private key; the public key, which
        becomes an object with the same label, gets the counterparts. The rest as of `generate_key`.
        """
        known = algorithms.PAIRS.get(kind)
        if known is None:
            raise ValueError(f"key pairs are {', '.join(algorithms.PAIRS)}, not {kind!r}")
        name = next(iter(known.variants)) if variant is None else str(variant)
        if name not in known.variants:
            raise ValueError(
                f"{kind} has {', '.join(filter(None, known.variants)) or 'no'} variants"
            )
        wanted = tuple(known.uses if uses is None else uses)
        others = [algorithms.COUNTERPARTS[use] for use in wanted if use in algorithms.COUNTERPARTS]
        public = template(label, id, token=token, **dict.fromkeys(others, True))
        public |= {int(attr): value for attr, value in known.variants[name].items()}
        private = template(label, id, **({"token": token} | dict.fromkeys(wanted, True) | more))
        _, handle = self._talk.call(
            "C_GenerateKeyPair", Mechanism(known.mechanism), public, private
        )
        return PrivateKey(self._talk, handle)

    def create_secret(
        self, value: bytes, kind: str, *, label: str, id: bytes = b"", **more: Value
    ) -> SecretKey:
        """A secret key from its bytes; through the host's socket the host sees them pass."""
        known = algorithms.SECRETS[kind]
        uses: dict[str, Value] = dict.fromkeys(known.uses, True)
        given = template(label, id, **({"token": True} | uses | more))
        given |= {
            int(Attr.CLASS): int(ObjectClass.SECRET_KEY),
            int(Attr.KEY_TYPE): int(known.type),
            int(Attr.VALUE): value,
        }
        return SecretKey(self._talk, self._talk.call("C_CreateObject", given))

    def create_public(
        self,
        public_key_info: bytes,
        *,
        label: str = "",
        token: bool = False,
        verify: bool = True,
        **more: Value,
    ) -> PublicKey:
        """A public key of somebody's, from its SubjectPublicKeyInfo, to verify with it.

        more: what else it is for, ``encrypt=True``. Raises ValueError for a kind that the module
        has not.
        """
        given = template(label, None, token=token, verify=verify, **more)
        given |= public_template(public_key_info)
        return PublicKey(self._talk, self._talk.call("C_CreateObject", given))

    def import_document(self, nonce: bytes = b"") -> bytes:
        """What data owners need to seal keys to this token; see `client.sealing`.

        nonce: 32 bytes of a data owner who wants new evidence.
        """
        return self._talk.octets("S_GetImportKey", nonce, ROOM)

    def import_key(self, envelope: bytes) -> SecretKey | PrivateKey:
        """The key that a data owner has sealed to this token. Each envelope is taken once."""
        handle, _ = self._talk.call("S_ImportKey", envelope)
        return self._key(handle)  # type: ignore[return-value]

    # --- finding ---------------------------------------------------------------------------------

    def find(
        self, label: str | None = None, id: bytes | None = None, **more: Value
    ) -> list[SecretKey | PublicKey | PrivateKey]:
        """All keys with these attributes: ``find(label="web")``, ``find(sign=True)``."""
        wanted = template(label, id, **more)
        given = wanted.get(Attr.CLASS)
        return [
            kind(self._talk, handle)
            for number, kind in sorted(CLASSES.items())
            if given in (None, number)
            for handle in self._talk.search({**wanted, int(Attr.CLASS): int(number)})
        ]

    def private_key(self, label: str | None = None, id: bytes | None = None) -> PrivateKey:
        """The one private key with this label or id. Raises CryptoModuleError."""
        return self._one(PrivateKey, ObjectClass.PRIVATE_KEY, label, id)

    def public_key(self, label: str | None = None, id: bytes | None = None) -> PublicKey:
        """The one public key with this label or id. Raises CryptoModuleError."""
        return self._one(PublicKey, ObjectClass.PUBLIC_KEY, label, id)

    def secret_key(self, label: str | None = None, id: bytes | None = None) -> SecretKey:
        """The one secret key with this label or id. Raises CryptoModuleError."""
        return self._one(SecretKey, ObjectClass.SECRET_KEY, label, id)

    def random(self, size: int) -> bytes:
        """Random bytes of the module's, up to 1 MiB."""
        return self._talk.octets("C_GenerateRandom", size)

    def _one(self, kind: type[_Found], number: int, label: str | None, id: bytes | None) -> _Found:
        handles = self._talk.search({**template(label, id), int(Attr.CLASS): int(number)})
        if len(handles) != 1:
            name = ObjectClass(number).name.lower().replace("_", " ")
            which = [] if label is None else [f"the label {label!r}"]
            which += [] if id is None else [f"the id {id.hex()}"]
            wanted = f" with {' and '.join(which)}" if which else ""
            raise CryptoModuleError(f"{len(handles) or 'no'} {name}s{wanted}")
        return kind(self._talk, handles[0])

    def _key(self, handle: int) -> SecretKey | PublicKey | PrivateKey:
        number = self._talk.read(handle, Attr.CLASS)[Attr.CLASS]
        return CLASSES[int(number)](self._talk, handle)  # type: ignore[arg-type]
