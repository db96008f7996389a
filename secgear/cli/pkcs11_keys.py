"""Signing keys that are in a PKCS#11 module, named by a URI (RFC 7512): ``secgear sign --pkcs11``.

``module-path`` is a PKCS#11 library, which `python-pkcs11` loads into this process, or the socket
of a cryptographic module of ours, which needs no library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from secgear.base.signing import PublicKey
from secgear.cli.crypto_place import pin_of
from secgear.cli.output import CommandError, UsageError

EXAMPLE: Final = "'pkcs11:token=demo;object=release?module-path=/usr/lib/…/library.so'"
_PATH: Final = ("token", "serial", "object", "id", "type")
_QUERY: Final = ("module-path", "pin-source")
_P384_PARAMS: Final = bytes.fromhex("06052b81040022")
_ED25519_PARAMS: Final = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
_WRONG_KIND: Final = "images are signed with Ed25519 or ECDSA on P-384; this key is of another kind"
_REASONS: Final = {
    "GeneralError": "the library can't begin; does it know where its token is?",
    "NoSuchKey": "there is no such pair of keys on the token",
    "NoSuchToken": "there is no such token",
    "PinIncorrect": "the PIN is wrong",
    "PinLocked": "the PIN is locked",
}
_Names = Mapping[str, bytes]


class KeyUri(NamedTuple):
    """A key's URI. token, serial, label: empty where it does not name them."""

    token: str
    serial: str
    label: str
    id: bytes
    module: Path
    pin_file: Path | None


def parse_uri(text: str) -> KeyUri:
    """Read a URI. Raises UsageError, also for what it could mean and we don't know."""
    try:
        parts = urlsplit(text)
    except ValueError:  # what it takes for an address of version 6
        parts = urlsplit("")
    if parts.scheme != "pkcs11" or parts.fragment or parts.netloc:
        raise UsageError(f"--pkcs11 takes a URI of RFC 7512, for example {EXAMPLE}")
    path = _attributes(parts.path, ";", _PATH)
    query = _attributes(parts.query, "&", _QUERY)
    if "module-path" not in query:
        raise UsageError(f"--pkcs11: module-path says where the key is, for example {EXAMPLE}")
    if "object" not in path and "id" not in path:
        raise UsageError("--pkcs11: object or id says which key")
    if path.get("type", b"private") != b"private":
        raise UsageError("--pkcs11: what signs is a private key")
    pin = _text(query, "pin-source").removeprefix("file:")
    return KeyUri(
        token=_text(path, "token"),
        serial=_text(path, "serial"),
        label=_text(path, "object"),
        id=path.get("id", b""),
        module=Path(_text(query, "module-path")),
        pin_file=Path(pin) if pin else None,
    )


def sign_with(uri: KeyUri, data: bytes) -> tuple[bytes, PublicKey]:
    """A signature of `data` as images have it, and the key that verifies it.

    Ed25519, or ECDSA on P-384 with SHA-384. Asks for the PIN where no file has it.
    Raises UsageError, CommandError, CryptoModuleError.
    """
    if uri.module.is_socket():
        return _by_socket(uri, data)
    return _by_library(uri, data)


def _by_socket(uri: KeyUri, data: bytes) -> tuple[bytes, PublicKey]:
    from secgear.services.crypto.client import connect

    with connect(uri.module) as module:
        found = [
            token
            for token in module.tokens()
            if uri.token in ("", token.label) and uri.serial in ("", token.serial)
        ]
        if len(found) != 1:
            raise UsageError(f"{len(found) or 'no'} tokens of this name in {uri.module}")
        with found[0].session(lambda: pin_of(uri.pin_file), write=False) as session:
            key = session.private_key(uri.label or None, uri.id or None)
            public = key.public_key
            _check_kind(public)
            return key.sign(data), public


def _by_library(uri: KeyUri, data: bytes) -> tuple[bytes, PublicKey]:
    try:
        import pkcs11
    except ImportError:
        raise UsageError("a PKCS#11 library needs pip install 'secgear[pkcs11]'") from None
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    try:
        with _opened(pkcs11, uri) as session:
            wanted: dict[str, Any] = {"label": uri.label or None, "id": uri.id or None}
            other = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, **wanted)
            public = _public(pkcs11, other)
            key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, **wanted)
            if isinstance(public, ed25519.Ed25519PublicKey):
                return key.sign(data, mechanism=pkcs11.Mechanism.EDDSA), public
            digest = hashlib.sha384(data).digest()
            raw = key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
            half = len(raw) // 2
            r, s = (int.from_bytes(part, "big") for part in (raw[:half], raw[half:]))
            return encode_dss_signature(r, s), public
    except (pkcs11.PKCS11Error, OSError) as error:
        # The library's errors have names and little text; PINs are never in it.
        name = type(error).__name__
        said = _REASONS.get(name) or str(error) or name
        raise CommandError(f"{uri.module}: {said}") from None


@contextmanager
def _opened(pkcs11: Any, uri: KeyUri) -> Iterator[Any]:
    library = pkcs11.lib(str(uri.module))
    token = library.get_token(
        token_label=uri.token or None, token_serial=uri.serial.encode() or None
    )
    with token.open(user_pin=pin_of(uri.pin_file).decode("utf-8", "surrogateescape")) as session:
        yield session


def _public(pkcs11: Any, key: Any) -> PublicKey:
    """The public key, from what libraries give: a point as it is, or in an OCTET STRING."""
    from cryptography.hazmat import asn1
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    params: bytes = key[pkcs11.Attribute.EC_PARAMS]
    point: bytes = key[pkcs11.Attribute.EC_POINT]
    edwards = params in _ED25519_PARAMS
    if not edwards and params != _P384_PARAMS:
        raise UsageError(_WRONG_KIND)
    if len(point) not in (32, 97):
        try:
            point = asn1.decode_der(bytes, point)
        except ValueError:
            raise CommandError("the key's public half can't be read") from None
    try:
        if edwards:
            return ed25519.Ed25519PublicKey.from_public_bytes(point)
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError:
        raise CommandError("the key's public half can't be read") from None


def _check_kind(public: object) -> None:
    """Raises UsageError for a key that signs no images."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    p384 = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP384R1)
    if not p384 and not isinstance(public, ed25519.Ed25519PublicKey):
        raise UsageError(_WRONG_KIND)


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise UsageError("--pkcs11: others see a PIN in a command line; pin-source=file:NAME")
        if name not in known or not equals or name in found:
            raise UsageError(f"--pkcs11: {name!r} is not one of {', '.join(known)}, once")
        found[name] = unquote_to_bytes(value)
    return found


def _text(found: _Names, name: str) -> str:
    return found.get(name, b"").decode("utf-8", "surrogateescape")
