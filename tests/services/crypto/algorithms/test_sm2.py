"""SM2 against the standard's examples, OpenSSL's vectors, plain integers, and lies."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import libcrypto, sm2

N, P = sm2.ORDER, 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF

try:
    libcrypto.load()
except PlatformUnavailable as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def key() -> sm2.PrivateKey:
    return sm2.PrivateKey.generate()


DIGEST = bytes(range(32))


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


# --- signatures ----------------------------------------------------------------------------------


def test_signature_of_the_standards_example_verifies(vector: Callable[[str], bytes]) -> None:
    example = json.loads(vector("crypto/gmt/sm2_gmt0003_5.json"))
    public = sm2.PublicKey.from_point(b"\4" + hexed(example["px"]) + hexed(example["py"]))
    sign = example["sign"]
    identity = sign["id_ascii"].encode()
    assert sm2.identity_digest(public, identity).hex().upper() == sign["za"]
    digest = sm2.message_digest(public, sign["msg_ascii"].encode(), identity)
    assert digest.hex().upper() == sign["e"]
    assert public.verify(hexed(sign["r"]) + hexed(sign["s"]), digest)
    assert sm2.PrivateKey.from_scalar(hexed(example["d"])).public == public


def test_ciphertext_of_the_standards_example_is_read(vector: Callable[[str], bytes]) -> None:
    example = json.loads(vector("crypto/gmt/sm2_gmt0003_5.json"))
    parts = example["encrypt"]
    ciphertext = b"\4" + b"".join(hexed(parts[name]) for name in ("c1x", "c1y", "c3", "c2"))
    key = sm2.PrivateKey.from_scalar(hexed(example["d"]))
    assert key.decrypt(ciphertext) == parts["msg_ascii"].encode()


def test_vectors_of_openssl_verify(vector: Callable[[str], bytes]) -> None:
    import base64

    from cryptography.hazmat import asn1

    source = json.loads(vector("crypto/gmt/sm2_openssl.json"))
    pkcs8 = base64.b64decode("".join(source["pkcs8_pem"].splitlines()[1:-1]))
    scalar = pkcs8[pkcs8.index(b"\x02\x01\x01\x04\x20") + 5 :][:32]
    key = sm2.PrivateKey.from_scalar(scalar)
    for case in source["verify_digest"]:
        r, s = decode_dss_signature(hexed(case["sig_der"]))
        assert key.public.verify(raw(r, s), hexed(case["e"]))
        assert not key.public.verify(raw(r, s), DIGEST)
    parts = asn1.decode_der(sm2._Ciphertext, hexed(source["decrypt"]["ct_der"]))
    ciphertext = b"\4" + raw(parts.x, parts.y) + parts.digest + parts.text
    assert key.decrypt(ciphertext) == source["decrypt"]["pt_ascii"].encode()


def _oracle_verifies(public: bytes, digest: bytes, r: int, s: int) -> bool:
    """GB/T 32918.2, section 7.1, with plain integers: slow, variable in time, and independent."""
    a = P - 3
    base = (int(sm2._G[:64], 16), int(sm2._G[64:], 16))

    def add(one: tuple[int, int] | None, two: tuple[int, int] | None) -> tuple[int, int] | None:
        if one is None or two is None:
            return one or two
        (x1, y1), (x2, y2) = one, two
        if x1 == x2 and (y1 + y2) % P == 0:
            return None
        slope = (
            (3 * x1 * x1 + a) * pow(2 * y1, -1, P)
            if one == two
            else (y2 - y1) * pow(x2 - x1, -1, P)
        )
        x = (slope * slope - x1 - x2) % P
        return x, (slope * (x1 - x) - y1) % P

    def times(number: int, point: tuple[int, int]) -> tuple[int, int] | None:
        total: tuple[int, int] | None = None
        step: tuple[int, int] | None = point
        while number:
            if number & 1:
                total = add(total, step)
            step, number = add(step, step), number >> 1
        return total

    point = (int.from_bytes(public[1:33], "big"), int.from_bytes(public[33:], "big"))
    t = (r + s) % N
    if not (0 < r < N and 0 < s < N) or t == 0:
        return False
    found = add(times(s, base), times(t, point))
    return found is not None and (int.from_bytes(digest, "big") + found[0]) % N == r


def test_what_we_sign_an_independent_verifier_accepts(key: sm2.PrivateKey) -> None:
    for message in (b"", b"a", bytes(100_000)):
        digest = sm2.message_digest(key.public, message, b"somebody")
        signature = key.sign(digest)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        assert _oracle_verifies(key.public.point, digest, r, s)
        assert key.public.verify(signature, digest)
        assert not _oracle_verifies(key.public.point, digest, s, r)


@pytest.mark.parametrize(
    ("r", "s"),
    [(0, 1), (1, 0), (0, 0), (N, 1), (1, N), (N + 1, 1), (1, N - 1), (2, N - 2), (2**256 - 1,) * 2],
)
def test_signatures_out_of_range_are_refused(key: sm2.PrivateKey, r: int, s: int) -> None:
    assert not key.public.verify(raw(r, s), DIGEST)


def test_any_changed_bit_of_a_signature_or_digest_is_refused(key: sm2.PrivateKey) -> None:
    signature = key.sign(DIGEST)
    for index in range(0, 512, 7):
        changed = bytearray(signature)
        changed[index // 8] ^= 1 << index % 8
        assert not key.public.verify(bytes(changed), DIGEST)
    for size in (0, 1, 63, 65, 128):
        assert not key.public.verify((signature * 2)[:size], DIGEST)
    assert not key.public.verify(signature, DIGEST[:-1] + b"\xff")
    assert not sm2.PrivateKey.generate().public.verify(signature, DIGEST)


def test_only_a_digest_is_signed(key: sm2.PrivateKey) -> None:
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="digest of 32 bytes"):
            key.sign(bytes(size))


def test_identities_are_told_apart(key: sm2.PrivateKey) -> None:
    digests = {
        sm2.message_digest(key.public, b"m", name) for name in (b"", b"a", b"b", b"x" * 8191)
    }
    assert len(digests) == 4
    with pytest.raises(ValueError, match="8191"):
        sm2.identity_digest(key.public, b"x" * 8192)


# --- encryption ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_what_is_encrypted_comes_back(message: bytes) -> None:
    ciphertext = KEY.public.encrypt(message)
    assert len(ciphertext) == len(message) + sm2.OVERHEAD
    assert KEY.decrypt(ciphertext) == message


KEY = sm2.PrivateKey.generate()


def test_short_messages_are_never_sent_in_clear(key: sm2.PrivateKey) -> None:
    """One byte has a mask of zero every 256th time."""
    for _ in range(1500):
        assert key.public.encrypt(b"\x5a")[-1:] != b"\x5a"


def test_changed_ciphertexts_are_refused(key: sm2.PrivateKey) -> None:
    ciphertext = key.public.encrypt(b"a secret of some length")
    for index in range(len(ciphertext)):
        changed = bytearray(ciphertext)
        changed[index] ^= 0x40
        with pytest.raises(sm2.DecryptionFailed):
            key.decrypt(bytes(changed))
    for size in range(0, len(ciphertext), 5):
        with pytest.raises(sm2.DecryptionFailed):
            key.decrypt(ciphertext[:size])
    with pytest.raises(sm2.DecryptionFailed):
        key.decrypt(ciphertext + b"\0")
    with pytest.raises(sm2.DecryptionFailed):
        sm2.PrivateKey.generate().decrypt(ciphertext)


def test_points_off_the_curve_are_refused(key: sm2.PrivateKey) -> None:
    point = bytearray(key.public.encrypt(b"m"))
    point[64] ^= 1
    with pytest.raises(sm2.DecryptionFailed):
        key.decrypt(bytes(point))
    beyond = b"\4" + (P + 1).to_bytes(32, "big") + bytes(point[33:])
    with pytest.raises(sm2.DecryptionFailed):
        key.decrypt(beyond)


@pytest.mark.parametrize("size", [0, sm2.MAX_MESSAGE + 1])
def test_sizes_out_of_range_are_refused(key: sm2.PrivateKey, size: int) -> None:
    with pytest.raises(ValueError, match="can be encrypted"):
        key.public.encrypt(bytes(size))
    with pytest.raises(sm2.DecryptionFailed):
        key.decrypt(b"\4" + bytes(sm2.OVERHEAD - 1 + size))


# --- key exchange --------------------------------------------------------------------------------

# GB/T 32918.5-2017, annex B.
EXCHANGE = {
    "da": "81EB26E941BB5AF16DF116495F90695272AE2CD63D6C4AE1678418BE48230029",
    "db": "785129917D45A9EA5437A59356B82338EAADDA6CEB199088F14AE10DEFA229B5",
    "ra": "D4DE15474DB74D06491C440D305E012400990F3E390C7E87153C12DB2EA60BB3",
    "rb": "7E07124814B309489125EAED101113164EBF0F3458C5BD88335C1F9D596243D6",
    "key": "6C89347354DE2484C60B4AB1FDE4C6E5",
    "sb": "D3A0FE15DEE185CEAE907A6B595CC32A266ED7B3367E9983A896DC32FA20F8EB",
    "sa": "18C7894B3816DF16CF07B05C5EC0BEF5D655D58F779CC1B400A4F3884644DB88",
}


def test_exchange_of_the_standards_example() -> None:
    own, other, first, second = (
        sm2.PrivateKey.from_scalar(hexed(EXCHANGE[name])) for name in ("da", "db", "ra", "rb")
    )
    one = own.exchange(first, other.public, second.public, initiator=True, size=16)
    two = other.exchange(second, own.public, first.public, initiator=False, size=16)
    for side in (one, two):
        assert side.key.hex().upper() == EXCHANGE["key"]
        assert side.responder_tag.hex().upper() == EXCHANGE["sb"]
        assert side.initiator_tag.hex().upper() == EXCHANGE["sa"]


def test_sides_with_other_ideas_of_each_other_share_nothing(key: sm2.PrivateKey) -> None:
    other, first, second = (sm2.PrivateKey.generate() for _ in range(3))
    right = key.exchange(first, other.public, second.public, initiator=True, size=32)
    for wrong in (
        other.exchange(second, key.public, first.public, initiator=True, size=32),
        other.exchange(second, key.public, first.public, initiator=False, size=32, id=b"x"),
        other.exchange(second, first.public, first.public, initiator=False, size=32),
        other.exchange(first, key.public, first.public, initiator=False, size=32),
    ):
        assert wrong.key != right.key
        assert wrong.initiator_tag != right.initiator_tag
    with pytest.raises(ValueError, match="1 to 65536"):
        key.exchange(first, other.public, second.public, initiator=True, size=0)


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, N - 1, N, N + 1, 2**256 - 1])
def test_numbers_that_are_no_private_key_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="1 to n - 2"):
        sm2.PrivateKey.from_scalar(number.to_bytes(32, "big"))


@pytest.mark.parametrize("number", [1, 2, N - 2])
def test_the_smallest_and_largest_private_keys_work(number: int) -> None:
    key = sm2.PrivateKey.from_scalar(number.to_bytes(32, "big"))
    assert key.public.verify(key.sign(DIGEST), DIGEST)
    assert int.from_bytes(key.scalar(), "big") == number


def test_scalars_of_other_sizes_are_refused() -> None:
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            sm2.PrivateKey.from_scalar(bytes([1]) * size)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_bytes_that_are_no_point_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="SM2"):
        sm2.PublicKey.from_point(data)
    with pytest.raises(ValueError, match="SM2"):
        sm2.PublicKey.from_spki(data)


def test_points_have_one_form(key: sm2.PrivateKey) -> None:
    point = key.public.point
    changed = bytearray(point)
    changed[40] ^= 1
    compressed = bytes([2 + (point[64] & 1)]) + point[1:33]
    for wrong in (bytes(changed), compressed, b"\6" + point[1:], b"\0", b"\4" + bytes(64)):
        with pytest.raises(ValueError, match="SM2"):
            sm2.PublicKey.from_point(wrong)


def test_public_keys_go_out_and_come_back(key: sm2.PrivateKey) -> None:
    der = key.public.spki()
    assert sm2.PublicKey.from_spki(der) == key.public
    assert len({key.public, sm2.PublicKey.from_spki(der)}) == 1
    for index in range(len(der)):
        changed = bytearray(der)
        changed[index] ^= 1
        with pytest.raises(ValueError, match="SM2"):
            sm2.PublicKey.from_spki(bytes(changed))
    with pytest.raises(ValueError, match="SM2"):
        sm2.PublicKey.from_spki(der + b"\0")


def test_keys_of_other_curves_are_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="another algorithm"):
        sm2.PublicKey.from_spki(der)


def test_private_keys_are_not_shown(key: sm2.PrivateKey) -> None:
    assert key.scalar().hex() not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_one_key_serves_many_threads(key: sm2.PrivateKey) -> None:
    faults: list[str] = []

    def work(number: int) -> None:
        for turn in range(40):
            digest = bytes([number, turn]) * 16
            if not key.public.verify(key.sign(digest), digest):
                faults.append("signature")
            message = digest[: turn % 31 + 1]
            if key.decrypt(key.public.encrypt(message)) != message:
                faults.append("ciphertext")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


# --- the library ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "major", "minor", "leaks"),
    [
        ("x86_64", 3, 6, False),
        ("aarch64", 3, 0, False),
        ("aarch64", 3, 1, False),
        ("aarch64", 3, 2, True),
        ("riscv64", 3, 5, True),
        ("aarch64", 4, 0, True),
    ],
)
def test_libraries_that_leak_are_known(machine: str, major: int, minor: int, leaks: bool) -> None:
    assert libcrypto.leaks(machine, major, minor) is leaks


def test_leaking_library_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcrypto, "leaks", lambda *_: True)
    libcrypto.load.cache_clear()
    try:
        with pytest.raises(PlatformUnavailable, match="31133"):
            libcrypto.load()
    finally:
        monkeypatch.undo()
        libcrypto.load.cache_clear()


def test_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcrypto, "_NAME", "libcrypto-that-is-not-there.so.3")
    libcrypto.load.cache_clear()
    try:
        with pytest.raises(PlatformUnavailable, match="apt-get install libssl3"):
            libcrypto.load()
    finally:
        monkeypatch.undo()
        libcrypto.load.cache_clear()


def test_library_that_fails_the_examples_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sm2, "_TEST_SIGNATURE", "11" * 64)
    sm2._self_test.cache_clear()
    try:
        with pytest.raises(PlatformUnavailable, match="fails the standard's examples"):
            sm2.PrivateKey.generate()
    finally:
        monkeypatch.undo()
        sm2._self_test.cache_clear()
