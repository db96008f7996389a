"""A fake Huawei: iTrustee reports and virtCCA tokens of machines that it certifies."""

from __future__ import annotations

import base64
import functools
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import Certificate
from tests.adversary.vendors.pki import Authority

APPLICATION = uuid.UUID("f68fd704-6eb1-4d14-b218-722850eb3ef0")
IMAGE, MEMORY = b"\x11" * 32, b"\x22" * 32
NONCE = b"challenge".ljust(64, b"\0")
RSA_4096, SHA_256 = 0x20001, 0x20002
PS256 = -37

# A parameter: its tag, and an integer or the bytes that the table points at.
Parameter = tuple[int, int | bytes]


@functools.cache
def rsa_key(name: str, bits: int = 4096) -> rsa.RSAPrivateKey:
    """One key for each name: making them takes long."""
    del name
    return rsa.generate_private_key(65537, bits)


def pss(
    key: rsa.RSAPrivateKey,
    message: bytes,
    *,
    salt: int = 32,
    digest: hashes.HashAlgorithm | None = None,
    pkcs1: bool = False,
) -> bytes:
    digest = digest or hashes.SHA256()
    scheme = padding.PKCS1v15() if pkcs1 else padding.PSS(padding.MGF1(digest), salt)
    return key.sign(message, scheme, digest)


def table(header: bytes, parameters: Sequence[Parameter], *, count: int | None = None) -> bytes:
    """`header`, the table and what it points at, one after the other."""
    offset = len(header) + 4 + 12 * len(parameters)
    entries, blobs = b"", b""
    for tag, value in parameters:
        if isinstance(value, int):
            entries += struct.pack("<III", tag, value, 0)
        else:
            entries += struct.pack("<III", tag, len(value), offset + len(blobs))
            blobs += value
    shown = len(parameters) if count is None else count
    return header + struct.pack("<I", shown) + entries + blobs


def signed_table(
    header: bytes,
    before: Sequence[Parameter],
    tag: int,
    after: Sequence[Parameter],
    key: rsa.RSAPrivateKey,
    how: Mapping[str, Any] | None = None,
) -> bytes:
    """A table whose parameter `tag` is the signature over everything in front of it."""
    size = key.key_size // 8
    draft = table(header, [*before, (tag, bytes(size)), *after])
    end = len(draft) - size - sum(len(value) for _, value in after if isinstance(value, bytes))
    return draft[:end] + pss(key, draft[:end], **(how or {})) + draft[end + size :]


@dataclass
class Kunpeng:
    """A machine: device root key (drk) certified by the authority, attestation key (ak) by it."""

    authority: Authority = field(default_factory=lambda: Authority("fake Huawei IT Product CA"))
    drk: rsa.RSAPrivateKey = field(default_factory=lambda: rsa_key("drk"))
    ak: rsa.RSAPrivateKey = field(default_factory=lambda: rsa_key("ak"))

    def __post_init__(self) -> None:
        self.certificate = self.authority.issue("026FAKE", self.drk.public_key())

    @property
    def anchors(self) -> Anchors:
        return Anchors((self.authority.anchor("fake-huawei", "huawei"),))

    def ak_certificate(
        self,
        *,
        key: rsa.RSAPrivateKey | None = None,
        drk: Certificate | None = None,
        encoded: bytes | None = None,
        version: int = 1,
        purpose: bytes = b"provision no as",
        algorithms: tuple[int, int] = (RSA_4096, SHA_256),
        modulus: bytes | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The attestation key's certificate. key: who signs it; drk: whose certificate is in it."""
        modulus = modulus or self.ak.public_key().public_numbers().n.to_bytes(512, "big")
        if encoded is None:
            encoded = base64.b64encode((drk or self.certificate).der)
        return signed_table(
            struct.pack("<IQ32s", version, (11570 << 32) + 5, purpose),
            [
                (0x10000000, algorithms[0]),
                (0x10000001, algorithms[1]),
                (0x20000000, b"\x33" * 32),
                (0x20000002, b"\x44" * 32),
                (0x20000004, b"\xff" * 32),
                (0x20000005, modulus),
            ],
            0x20000006,
            [(0x20000008, encoded)],
            key or self.drk,
            how,
        )

    def report(
        self,
        *,
        key: rsa.RSAPrivateKey | None = None,
        ak_certificate: bytes | None = None,
        version: int = 1,
        timestamp: int = (11603 << 32) + 147_878_510,
        nonce: bytes = NONCE,
        scenario: int = 0,
        algorithms: tuple[int, int] = (RSA_4096, SHA_256),
        image: bytes = IMAGE,
        memory: bytes = MEMORY,
        before: Sequence[Parameter] | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A report. key: who signs it; before: what the table has before the signature."""
        if before is None:
            before = [
                (0x10000000, algorithms[0]),
                (0x10000001, algorithms[1]),
                (0x20000001, image),
                (0x20000003, memory),
                (0x20000004, b"\xff" * 32),
            ]
        certificate = self.ak_certificate() if ak_certificate is None else ak_certificate
        return signed_table(
            struct.pack("<IQ64s16sI", version, timestamp, nonce, APPLICATION.bytes_le, scenario),
            before,
            0x20000007,
            [(0x20000009, certificate)],
            key or self.ak,
            how,
        )

    def virtcca(
        self,
        changes: Mapping[Any, Any] | None = None,
        *,
        key: rsa.RSAPrivateKey | None = None,
        algorithm: object = PS256,
        unprotected: Mapping[Any, Any] | None = None,
        aad: bytes = b"",
        how: Mapping[str, Any] | None = None,
        payload: bytes | None = None,
        others: Mapping[Any, Any] | None = None,
    ) -> bytes:
        """A virtCCA token under the device root key. others: more tokens in the collection."""
        claims: dict[Any, Any] = {
            10: NONCE,
            44235: bytes(64),
            44236: "sha-256",
            44237: spki(self.drk),
            44238: IMAGE,
            44239: [bytes([fill]) * 32 for fill in range(4)],
            44240: "sha-256",
        }
        claims = {k: v for k, v in {**claims, **(changes or {})}.items() if v is not ...}
        body = cbor2.dumps(cbor2.dumps(claims)) if payload is None else payload
        header = b"" if algorithm is ... else cbor2.dumps({1: algorithm})
        signature = pss(
            key or self.drk, cbor2.dumps(["Signature1", header, aad, body]), **(how or {})
        )
        message = cbor2.CBORTag(18, [header, dict(unprotected or {}), body, signature])
        return cbor2.dumps(cbor2.CBORTag(399, {44241: cbor2.dumps(message), **(others or {})}))


def spki(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
