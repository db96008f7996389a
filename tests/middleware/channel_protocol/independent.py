"""A reader of channels that shares no code with ours: written from docs/channel-protocol.md alone.

CBOR, frames, the binding, and for recorded connections the record layer, the exporter (RFC 8446)
and what is needed of X.509 are here by hand; of `cryptography` it uses the ciphers only.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

LABEL = b"secgear channel v1\0"
EXPORTER = b"EXPORTER-secgear-attestation-v1"
KINDS = {
    1: "CHALLENGE", 2: "EVIDENCE", 3: "ACCEPT", 4: "REFUSE",
    16: "OPEN", 17: "OPENED", 18: "PART", 19: "LAST", 20: "CALLS", 21: "FAILED",
}  # fmt: skip
LIMITS = {2: 4 << 20, 17: 4 << 20, 18: 256 << 10, 19: 256 << 10, 20: 256 << 10}
OPAQUE = ("PART", "LAST", "CALLS")
MEMBERS: dict[str, dict[str, type]] = {
    "CHALLENGE": {"version": int, "nonce": bytes},
    "EVIDENCE": {"nonce": bytes, "evidence": bytes, "demand": bool, "client_key": bool},
    "ACCEPT": {},
    "REFUSE": {"code": str, "text": str},
    "OPEN": {"service": str, "calls": bool},
    "OPENED": {"interface": bytes, "offered": list},
    "FAILED": {"code": str, "text": str},
}


class Malformed(Exception):
    """Bytes that the page does not allow."""


class Frame(NamedTuple):
    kind: str
    payload: bytes

    @property
    def message(self) -> dict[str, Any]:
        return read_message(self.kind, self.payload)


# --- the binding ---------------------------------------------------------------------------------


def report_data(
    role: bytes,
    client_nonce: bytes,
    server_nonce: bytes,
    exporter: bytes,
    own_key: bytes,
    peer_key: bytes,
) -> bytes:
    assert role in (b"S", b"C")
    fields = client_nonce + server_nonce + exporter + own_key + peer_key
    assert len(fields) == 160
    return hashlib.sha512(LABEL + role + fields).digest()


def key_digest(spki: bytes | None) -> bytes:
    return bytes(32) if spki is None else hashlib.sha256(spki).digest()


# --- frames and messages -------------------------------------------------------------------------


def frame(kind: str, payload: bytes) -> bytes:
    number = next(number for number, name in KINDS.items() if name == kind)
    return struct.pack(">I", number << 24 | len(payload)) + payload


def message(kind: str, **members: Any) -> bytes:
    return frame(kind, to_cbor(members))


def take_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """The first frame and what follows it, None if it is not complete."""
    if len(data) < 4:
        return None
    number, size = data[0], int.from_bytes(data[1:4], "big")
    if number not in KINDS or size > LIMITS.get(number, 4 << 10):
        raise Malformed("a frame of another kind or length")
    if len(data) < 4 + size:
        return None
    return Frame(KINDS[number], data[4 : 4 + size]), data[4 + size :]


def frames(data: bytes) -> list[Frame]:
    found = []
    while data:
        taken = take_frame(data)
        if taken is None:
            raise Malformed("a frame is not complete")
        found.append(taken[0])
        data = taken[1]
    return found


def read_message(kind: str, payload: bytes) -> dict[str, Any]:
    content, rest = from_cbor(payload)
    members = MEMBERS[kind]
    if rest or not isinstance(content, dict) or to_cbor(content) != payload:
        raise Malformed(f"{kind}: no map in deterministic encoding")
    if content.keys() != members.keys():
        raise Malformed(f"{kind}: other members")
    if any(type(content[name]) is not wanted for name, wanted in members.items()):
        raise Malformed(f"{kind}: a member of another type")
    if content.get("version", 1) != 1 or len(content.get("nonce", bytes(32))) != 32:
        raise Malformed(f"{kind}: version or nonce")
    names = [content[name] for name in ("code", "service") if name in content]
    if any(len(name) > 64 for name in names) or len(content.get("text", "")) > 512:
        raise Malformed(f"{kind}: too long")
    offered = content.get("offered", [])
    if any(type(name) is not str for name in offered) or len(offered) > 4096:
        raise Malformed(f"{kind}: names that are none")
    if offered != sorted(set(offered)) or (content.get("calls") and content["service"]):
        raise Malformed(f"{kind}: names that are not in order, or where none is to be")
    return content


# --- CBOR (RFC 8949), as much as is needed -------------------------------------------------------


def to_cbor(item: Any) -> bytes:
    if item is None or isinstance(item, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[item]
    if isinstance(item, int):
        return _head(0, item) if item >= 0 else _head(1, -1 - item)
    if isinstance(item, bytes):
        return _head(2, len(item)) + item
    if isinstance(item, str):
        return _head(3, len(item.encode())) + item.encode()
    if isinstance(item, list | tuple):
        return _head(4, len(item)) + b"".join(map(to_cbor, item))
    pairs = sorted((to_cbor(key), to_cbor(value)) for key, value in item.items())
    return _head(5, len(pairs)) + b"".join(key + value for key, value in pairs)


def from_cbor(data: bytes) -> tuple[Any, bytes]:
    """One item and what follows it. Tags are left out."""
    if not data:
        raise Malformed("CBOR is cut off")
    major, argument, data = data[0] >> 5, data[0] & 31, data[1:]
    if major == 7:
        if argument not in (20, 21, 22):
            raise Malformed("CBOR of another kind")
        return {20: False, 21: True, 22: None}[argument], data
    if argument >= 24:
        size = {24: 1, 25: 2, 26: 4, 27: 8}.get(argument)
        if size is None or len(data) < size:
            raise Malformed("CBOR of another length")
        argument, data = int.from_bytes(data[:size], "big"), data[size:]
    if major <= 1:
        return (argument if major == 0 else -1 - argument), data
    if major in (2, 3):
        if len(data) < argument:
            raise Malformed("CBOR is cut off")
        try:
            text: Any = data[:argument] if major == 2 else data[:argument].decode()
        except UnicodeDecodeError:
            raise Malformed("text that is no UTF-8") from None
        return text, data[argument:]
    if major == 6:
        return from_cbor(data)
    found: list[Any] = []
    for _ in range(argument * (major - 3)):
        item, data = from_cbor(data)
        found.append(item)
    return (found if major == 4 else dict(zip(found[::2], found[1::2], strict=True))), data


def _head(major: int, value: int) -> bytes:
    for argument, (size, limit) in {24: (1, 8), 25: (2, 16), 26: (4, 32), 27: (8, 64)}.items():
        if value < 24:
            return bytes([major << 5 | value])
        if value < 1 << limit:
            return bytes([major << 5 | argument]) + value.to_bytes(size, "big")
    raise Malformed("a number beyond 64 bits")


# --- TLS 1.3 as it was recorded ------------------------------------------------------------------


HASHES = {"TLS_AES_256_GCM_SHA384": "sha384", "TLS_CHACHA20_POLY1305_SHA256": "sha256"}


class Direction:
    """One direction of a recorded connection. plain: of the application. closed: by close_notify.

    secrets: as in a key log: of the handshake, then of the application.
    """

    def __init__(self, suite: str, handshake: bytes, traffic: bytes) -> None:
        self._suite = suite
        self._secrets = [handshake, traffic]
        self._held = b""
        self._said = b""  # of the handshake
        self.plain = b""
        self.closed = False
        self.handshake: list[tuple[int, bytes]] = []
        self._use(0)

    def feed(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= 5 and len(self._held) >= (
            end := 5 + int.from_bytes(self._held[3:5], "big")
        ):
            record, self._held = self._held[:end], self._held[end:]
            self._record(record)

    def _record(self, record: bytes) -> None:
        kind, content = record[0], record[5:]
        if kind == 20:  # change_cipher_spec, without meaning
            return
        if kind == 23:
            nonce = bytes(a ^ b for a, b in zip(self._iv, self._number.to_bytes(12), strict=True))
            self._number += 1
            content = self._aead.decrypt(nonce, content, record[:5]).rstrip(b"\0")
            kind, content = content[-1], content[:-1]
        assert not self.closed
        match kind:
            case 21:
                assert content == b"\1\0", "an alert other than close_notify"
                self.closed = True
            case 22:
                self._said += content
                self._messages()
            case 23:
                self.plain += content
            case _:
                raise Malformed(f"a record of kind {kind}")

    def _messages(self) -> None:
        while len(self._said) >= 4 and len(self._said) >= (
            end := 4 + int.from_bytes(self._said[1:4], "big")
        ):
            self.handshake.append((self._said[0], self._said[4:end]))
            self._said = self._said[end:]
            if self.handshake[-1][0] == 20:  # Finished
                self._use(1)

    def _use(self, secret: int) -> None:
        digest = HASHES[self._suite]
        key = expand_label(digest, self._secrets[secret], b"key", b"", 32)
        self._iv = expand_label(digest, self._secrets[secret], b"iv", b"", 12)
        self._aead = (ChaCha20Poly1305 if "CHACHA" in self._suite else AESGCM)(key)
        self._number = 0

    @property
    def spki(self) -> bytes | None:
        """The key in the certificate that this side has sent."""
        for kind, content in self.handshake:
            if kind == 11:
                entries = content[1 + content[0] + 3 :]
                size = int.from_bytes(entries[:3], "big")
                return subject_public_key_info(entries[3 : 3 + size]) if size else None
        return None


def exporter(suite: str, secret: bytes, context: bytes) -> bytes:
    """RFC 8446, section 7.5; secret: exporter_master_secret."""
    digest = HASHES[suite]
    derived = expand_label(digest, secret, EXPORTER, hashlib.new(digest).digest())
    return expand_label(digest, derived, b"exporter", hashlib.new(digest, context).digest(), 32)


def expand_label(
    digest: str, secret: bytes, label: bytes, context: bytes, size: int | None = None
) -> bytes:
    """RFC 8446, section 7.1. None: as long as the hash."""
    size = size or hashlib.new(digest).digest_size
    info = struct.pack(">H", size) + bytes([6 + len(label)]) + b"tls13 " + label
    info += bytes([len(context)]) + context
    return hmac.digest(secret, info + b"\1", digest)[:size]


def subject_public_key_info(certificate: bytes) -> bytes:
    """RFC 5280, section 4.1: the seventh member of TBSCertificate, which begins with a version."""
    tbs = next(elements(next(elements(certificate))[1]))[1]
    return list(elements(tbs))[6][0]


def elements(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """DER elements one after another: all of it, and its content."""
    while data:
        size, start = data[1], 2
        if size & 0x80:
            start = 2 + (size & 0x7F)
            size = int.from_bytes(data[2:start], "big")
        yield data[: start + size], data[start : start + size]
        data = data[start + size :]


RA_TLS = {b"\xd9\xea\x60": "quote", b"\xda\x73\x67\x65\x61": "envelope"}


def ra_tls(certificate: bytes) -> tuple[str, bytes, bytes]:
    """What the evidence in a certificate is, the evidence, and the report data it must carry."""
    tbs = next(elements(next(elements(certificate))[1]))[1]
    (extensions,) = [inner for whole, inner in elements(tbs) if whole[0] == 0xA3]
    for _, extension in elements(next(elements(extensions))[1]):
        identifier, *_, value = [inner for _, inner in elements(extension)]
        if identifier != bytes.fromhex("678105050409"):
            continue
        (tag,) = [tag for tag in RA_TLS if value.startswith(tag)]
        (evidence, claims), rest = from_cbor(value)
        assert not rest
        said, _ = from_cbor(from_cbor(claims)[0]["pubkey-hash"])
        assert said == [1, hashlib.sha256(subject_public_key_info(certificate)).digest()]
        return RA_TLS[tag], evidence, hashlib.sha256(claims).digest() + bytes(32)
    raise Malformed("no evidence in the certificate")


def token_report_data(evidence: bytes) -> bytes:
    """What simulated evidence (COSE_Sign1 over CWT claims) says in claim 10, unverified."""
    envelope, _ = from_cbor(evidence)
    assert envelope["secgear-evidence"] == 1
    assert envelope["format"] == "secgear.process.cwt"
    token, _ = from_cbor(envelope["data"])
    claims, _ = from_cbor(token[2])
    return bytes(claims[10])
