"""SM2 with plain integers, after GB/T 32918: slow, variable in time, and independent of OpenSSL.

SM3 and SM4 are of the `cryptography` package.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.hazmat.primitives import hashes

P: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A: Final = P - 3
B: Final = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
N: Final = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
G: Final = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
Point = tuple[int, int]


def add(one: Point | None, two: Point | None) -> Point | None:
    if one is None or two is None:
        return one or two
    (x1, y1), (x2, y2) = one, two
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    if one == two:
        slope = (3 * x1 * x1 + A) * pow(2 * y1, -1, P)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, P)
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def times(number: int, point: Point) -> Point:
    total: Point | None = None
    step: Point | None = point
    while number:
        if number & 1:
            total = add(total, step)
        step, number = add(step, step), number >> 1
    assert total is not None
    return total


def sm3(*parts: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    for part in parts:
        digest.update(part)
    return digest.finalize()


def octets(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def generate() -> tuple[int, Point]:
    scalar = secrets.randbelow(N - 2) + 1
    return scalar, times(scalar, G)


def z(point: Point, identity: bytes) -> bytes:
    """GB/T 32918.2, 5.5."""
    return sm3((8 * len(identity)).to_bytes(2, "big"), identity, octets(A, B, *G, *point))


def verifies(point: Point, digest: bytes, r: int, s: int) -> bool:
    """GB/T 32918.2, 7.1."""
    t = (r + s) % N
    if not (0 < r < N and 0 < s < N) or t == 0:
        return False
    found = add(times(s, G), times(t, point))
    return found is not None and (int.from_bytes(digest, "big") + found[0]) % N == r


def sign(scalar: int, digest: bytes) -> tuple[int, int]:
    """GB/T 32918.2, 6.1."""
    k = secrets.randbelow(N - 1) + 1
    r = (int.from_bytes(digest, "big") + times(k, G)[0]) % N
    s = pow(1 + scalar, -1, N) * (k - r * scalar) % N
    return r, s


def kdf(secret: bytes, size: int) -> bytes:
    blocks = range(1, size // 32 + 2)
    return b"".join(sm3(secret, number.to_bytes(4, "big")) for number in blocks)[:size]


def encrypt(point: Point, message: bytes) -> tuple[Point, bytes, bytes]:
    """C1, C3, C2 of GB/T 32918.4, 6.1."""
    k = secrets.randbelow(N - 1) + 1
    x, y = times(k, point)
    mask = kdf(octets(x, y), len(message))
    text = bytes(a ^ b for a, b in zip(message, mask, strict=True))
    return times(k, G), sm3(octets(x), message, octets(y)), text


def decrypt(scalar: int, c1: Point, c3: bytes, c2: bytes) -> bytes:
    """GB/T 32918.4, 7.1."""
    x, y = times(scalar, c1)
    mask = kdf(octets(x, y), len(c2))
    message = bytes(a ^ b for a, b in zip(c2, mask, strict=True))
    assert sm3(octets(x), message, octets(y)) == c3
    return message


def agree(
    own: tuple[int, Point],
    ephemeral: tuple[int, Point],
    peer: Point,
    peer_ephemeral: Point,
    zs: tuple[bytes, bytes],
    size: int,
) -> bytes:
    """GB/T 32918.3, 6.1. zs: the initiator's Z and the responder's."""

    def half(point: Point) -> int:
        return (1 << 127) | (point[0] & ((1 << 127) - 1))

    t = (own[0] + half(ephemeral[1]) * ephemeral[0]) % N
    base = add(peer, times(half(peer_ephemeral), peer_ephemeral))
    assert base is not None
    return kdf(octets(*times(t, base)) + zs[0] + zs[1], size)
