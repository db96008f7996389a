"""Vault's transit paths that encrypt and decrypt, and those that need no key."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar, Union

import msgspec
from msgspec import UNSET, UnsetType

from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.rest import batches, bulk
from secgear.services.crypto.rest.bodies import Body
from secgear.services.crypto.rest.hashes import digest_of
from secgear.services.crypto.rest.kinds import NONCE, Kind, sealing
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.ring import Ring, octets, prefixed, unprefixed
from secgear.services.crypto.rest.routes import Request, Route
from secgear.services.crypto.rest.work import ROOM

MAX_RANDOM: Final = 128 << 10  # bytes, as with Vault
_BITS: Final = (128, 256, 512)
_FORMATS: Final = {"hex": bytes.hex, "base64": lambda data: base64.b64encode(data).decode()}
_NOT_FOUND: Final = "encryption key not found"
Item = TypeVar("Item", "Plain", "Cipher")
Outcome = Union["Encrypted", Refusal, CryptokiError]
Each = Callable[[Sequence[Item]], Iterator[Outcome]]


class Plain(Body, frozen=True):
    """An item to encrypt. plaintext: base64. reference: comes back as it is."""

    plaintext: str
    associated_data: str = ""
    key_version: int = 0
    context: str = ""
    nonce: str = ""
    reference: str = ""


class Encrypt(Body, frozen=True):
    """What to encrypt: plaintext, or batch_input.

    type, convergent_encryption: for keys that are made on the way, which none is here.
    """

    plaintext: str | None = None
    associated_data: str = ""
    key_version: int = 0
    context: str = ""
    nonce: str = ""
    batch_input: list[Plain] | None = None
    partial_failure_response_code: int | None = None
    type: str = ""
    convergent_encryption: bool = False


class Cipher(Body, frozen=True):
    """An item to decrypt, or to encrypt anew. ciphertext: as this module has made it."""

    ciphertext: str
    associated_data: str = ""
    key_version: int = 0
    context: str = ""
    nonce: str = ""
    reference: str = ""


class Decrypt(Body, frozen=True):
    """What to decrypt, or to encrypt anew: ciphertext, or batch_input."""

    ciphertext: str | None = None
    associated_data: str = ""
    key_version: int = 0
    context: str = ""
    nonce: str = ""
    batch_input: list[Cipher] | None = None
    partial_failure_response_code: int | None = None


class DataKey(Body, frozen=True):
    """bits: of the new key."""

    bits: int = 256
    context: str = ""
    nonce: str = ""
    associated_data: str = ""


class Random(Body, frozen=True):
    """bytes: how many. format: base64 or hex."""

    bytes: int = 32
    format: str = "base64"
    source: str = "platform"


class Hash(Body, frozen=True):
    """input: base64. format: hex or base64."""

    input: str
    algorithm: str = "sha2-256"
    format: str = "hex"


class Encrypted(msgspec.Struct, frozen=True):
    """An item's result."""

    ciphertext: str | UnsetType = UNSET
    key_version: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    reference: str | UnsetType = UNSET


class EncryptAnswer(msgspec.Struct, frozen=True):
    """ciphertext and the version that made it, or the results of a batch."""

    ciphertext: str | UnsetType = UNSET
    key_version: int | UnsetType = UNSET
    batch_results: list[Encrypted] | UnsetType = UNSET


class Decrypted(msgspec.Struct, frozen=True):
    """An item's result."""

    plaintext: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    reference: str | UnsetType = UNSET


class DecryptAnswer(msgspec.Struct, frozen=True):
    """plaintext, or the results of a batch."""

    plaintext: str | UnsetType = UNSET
    batch_results: list[Decrypted] | UnsetType = UNSET


class DataKeyAnswer(msgspec.Struct, frozen=True):
    """A new key, encrypted; also in plain where that was asked for."""

    ciphertext: str
    key_version: int
    plaintext: str | UnsetType = UNSET


class RandomAnswer(msgspec.Struct, frozen=True):
    """Random bytes."""

    random_bytes: str


class Sum(msgspec.Struct, frozen=True):
    """A digest."""

    sum: str


# --- encrypting ----------------------------------------------------------------------------------


def _encrypt(request: Request) -> object:
    body: Encrypt = request.body
    if body.convergent_encryption:
        raise Refusal(400, "derived and convergent keys are not offered")
    ring, kind = _ring(request)

    def one(item: Plain) -> Encrypted:
        entry = _entry(item, kind)
        number, text = encrypt(ring, kind, entry.plain, entry.aad, entry.version)
        return Encrypted(text, number, reference=item.reference)

    def together(items: Sequence[Plain]) -> Iterator[Outcome]:
        def read(item: Plain) -> bulk.Entry:
            return _entry(item, kind)

        entries = list(batches.singly(read)(items))
        for item, made in zip(items, bulk.seal(ring, kind, entries), strict=True):
            if isinstance(made, bulk.Sealed):
                yield Encrypted(made.text, made.number, reference=item.reference)
            else:
                yield made

    if body.batch_input is not None:
        each = batches.singly(one) if kind.aead is None else together
        return _many(body.batch_input, each, body.partial_failure_response_code)
    if body.plaintext is None:
        raise Refusal(400, "missing plaintext to encrypt")
    done = one(
        Plain(body.plaintext, body.associated_data, body.key_version, body.context, body.nonce)
    )
    return EncryptAnswer(done.ciphertext, done.key_version)


def _entry(item: Plain, kind: Kind) -> bulk.Entry:
    """An item, read. Raises Refusal."""
    _no_context(item)
    if item.key_version < 0:
        raise Refusal(400, "key_version: a version, or 0 for the current one")
    return bulk.Entry(item.key_version, octets(item.plaintext, "plaintext"), _aad(item, kind))


def _rewrap(request: Request) -> object:
    body: Decrypt = request.body
    ring, kind = _ring(request)

    def one(item: Cipher) -> Encrypted:
        _no_context(item)
        aad = _aad(item, kind)
        plain = decrypt(ring, kind, item.ciphertext, aad)
        number, text = encrypt(ring, kind, plain, aad, item.key_version)
        return Encrypted(text, number, reference=item.reference)

    if body.batch_input is not None:
        return _many(body.batch_input, batches.singly(one), body.partial_failure_response_code)
    done = one(_single(body))
    return EncryptAnswer(done.ciphertext, done.key_version)


def _decrypt(request: Request) -> object:
    body: Decrypt = request.body
    ring, kind = _ring(request)

    def one(item: Cipher) -> Decrypted:
        _no_context(item)
        plain = decrypt(ring, kind, item.ciphertext, _aad(item, kind))
        return Decrypted(base64.b64encode(plain).decode(), reference=item.reference)

    if body.batch_input is not None:
        return batches.run(
            body.batch_input,
            batches.singly(one),
            lambda item, text: Decrypted(error=text, reference=item.reference),
            lambda results: DecryptAnswer(batch_results=results),
            body.partial_failure_response_code,
        )
    return DecryptAnswer(one(_single(body)).plaintext)


def _many(items: Sequence[Item], each: Each[Item], status: int | None) -> object:
    return batches.run(
        items,
        each,
        lambda item, text: Encrypted(error=text, reference=item.reference),
        lambda results: EncryptAnswer(batch_results=results),
        status,
    )


def _datakey(request: Request) -> DataKeyAnswer:
    body: DataKey = request.body
    form = request.path["form"]
    if form not in ("plaintext", "wrapped"):
        raise Refusal(400, "the key comes as plaintext or wrapped")
    if body.bits not in _BITS:
        raise Refusal(400, "bits: 128, 256 or 512")
    _no_context(body)
    ring, kind = _ring(request)
    key = request.work.call("C_GenerateRandom", body.bits // 8)
    number, text = encrypt(ring, kind, key, _aad(body, kind), 0)
    if form == "wrapped":
        return DataKeyAnswer(text, number)
    return DataKeyAnswer(text, number, base64.b64encode(key).decode())


def encrypt(ring: Ring, kind: Kind, plain: bytes, aad: bytes, version: int) -> tuple[int, str]:
    """The version that was used, and its ciphertext in Vault's form."""
    work = ring.work

    def run(handle: int) -> bytes:
        if kind.aead is None:
            return work.run("Encrypt", sealing(kind, b"", b""), handle, plain)
        nonce = work.call("C_GenerateRandom", NONCE)
        return bytes(nonce) + work.run("Encrypt", sealing(kind, nonce, aad), handle, plain)

    if version < 0:
        raise Refusal(400, "key_version: a version, or 0 for the current one")
    number, data = ring.enclose(version, run)
    return number, prefixed(number, data)


def decrypt(ring: Ring, kind: Kind, ciphertext: str, aad: bytes) -> bytes:
    """The plaintext of what this module has made."""
    version, text = unprefixed(ciphertext, "ciphertext")
    data = octets(text, "ciphertext")
    nonce = b""
    if kind.aead is not None:
        nonce, data = data[:NONCE], data[NONCE:]
        if len(nonce) != NONCE:
            raise Refusal(400, "the ciphertext has an impossible length")
    return ring.work.run("Decrypt", sealing(kind, nonce, aad), ring.opening(version), data)


def _ring(request: Request) -> tuple[Ring, Kind]:
    ring = Ring(request.work, request.path["name"], 400, _NOT_FOUND)
    return ring, ring.needs(lambda kind: kind.encrypts, "encryption")


def _single(body: Decrypt) -> Cipher:
    if body.ciphertext is None:
        raise Refusal(400, "missing ciphertext to decrypt")
    return Cipher(body.ciphertext, body.associated_data, body.key_version, body.context, body.nonce)


def _no_context(item: Plain | Cipher | DataKey) -> None:
    if item.context:
        raise Refusal(400, "context: derived keys are not offered")
    if item.nonce:
        raise Refusal(400, "nonce: the module chooses nonces; convergent keys are not offered")


def _aad(item: Plain | Cipher | DataKey, kind: Kind) -> bytes:
    if not item.associated_data:
        return b""
    if kind.aead is None:
        raise Refusal(400, f"associated_data provided for non-AEAD key type {kind.name}")
    return octets(item.associated_data, "associated_data")


# --- without a key -------------------------------------------------------------------------------


def _random(request: Request) -> RandomAnswer:
    body: Random = request.body
    text = request.path.get("bytes", str(body.bytes))
    source = request.path.get("source", body.source)
    if source not in ("platform", "all"):
        raise Refusal(400, "source: platform, which is the enclave's generator")
    if body.format not in _FORMATS:
        raise Refusal(400, "format: base64 or hex")
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_RANDOM:
        raise Refusal(400, f"bytes: from 1 to {MAX_RANDOM}")
    data = request.work.call("C_GenerateRandom", int(text))
    return RandomAnswer(_FORMATS[body.format](data))


def _hash(request: Request) -> Sum:
    body: Hash = request.body
    name = request.path.get("algorithm", body.algorithm)
    if body.format not in _FORMATS:
        raise Refusal(400, "format: hex or base64")
    data = octets(body.input, "input")
    request.work.call("C_DigestInit", Mechanism(digest_of(name)))
    return Sum(_FORMATS[body.format](request.work.call("C_Digest", data, ROOM)))


_T: Final = "/v1/transit"
ROUTES: Final = (
    Route("POST", f"{_T}/encrypt/{{name}}", "Encrypt.", _encrypt, body=Encrypt,
          answer=EncryptAnswer, partial=True),
    Route("POST", f"{_T}/decrypt/{{name}}", "Decrypt.", _decrypt, body=Decrypt,
          answer=DecryptAnswer, partial=True),
    Route("POST", f"{_T}/rewrap/{{name}}", "Encrypt anew, under the current version, unseen.",
          _rewrap, body=Decrypt, answer=EncryptAnswer, partial=True),
    Route("POST", f"{_T}/datakey/{{form}}/{{name}}",
          "A new key, encrypted; form: plaintext for in plain as well, or wrapped.", _datakey,
          body=DataKey, answer=DataKeyAnswer),
    Route("POST", f"{_T}/random", "Random bytes.", _random, body=Random, answer=RandomAnswer),
    Route("POST", f"{_T}/random/{{bytes}}", "Random bytes.", _random, body=Random,
          answer=RandomAnswer),
    Route("POST", f"{_T}/random/{{source}}/{{bytes}}", "Random bytes.", _random, body=Random,
          answer=RandomAnswer),
    Route("POST", f"{_T}/hash", "A digest.", _hash, body=Hash, answer=Sum),
    Route("POST", f"{_T}/hash/{{algorithm}}", "A digest.", _hash, body=Hash, answer=Sum),
)  # fmt: skip
