"""Keys out and in: GM/T 0018, 6.3."""

from __future__ import annotations

import threading
from ctypes import byref, c_uint, c_void_p
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, connect
from tests.services.crypto.conftest import ROOM, User, refusal, template
from tests.services.crypto.library.cryptoki import Library, Refused
from tests.services.crypto.library.cryptoki import Session as Pkcs11
from tests.services.crypto.library.sdf import binding, oracle
from tests.services.crypto.library.sdf.binding import (
    MARK,
    EccPublic,
    Room,
    RsaPublic,
    Sdf,
    Session,
    cipher,
    cipher_of,
)

BLOCK = bytes(range(16))


def sm4(key: bytes, block: bytes = BLOCK) -> bytes:
    return Cipher(algorithms.SM4(key), modes.ECB()).encryptor().update(block)


def encrypted(session: Session, key: c_void_p) -> bytes:
    """What the key makes of a block: two keys that make the same are the same."""
    return session.crypt("Encrypt", key, binding.SM4_ECB, BLOCK)


def mac(session: Session, key: c_void_p) -> bytes:
    session.call("HMACInit", key, binding.SM3)
    session.call("HMACUpdate", BLOCK, 16)
    return session.output("HMACFinal")


def exported(session: Session, role: str, index: int = 1) -> EccPublic:
    public = EccPublic()
    session.call(f"Export{role}PublicKey_ECC", index, byref(public))
    return public


def exported_rsa(session: Session, role: str) -> tuple[RsaPublic, rsa.RSAPublicKey]:
    public = RsaPublic()
    session.call(f"Export{role}PublicKey_RSA", 1, byref(public))
    n, e = (int.from_bytes(bytes(one), "big") for one in (public.m, public.e))
    return public, rsa.RSAPublicNumbers(e, n).public_key()


def rsa_of(key: rsa.RSAPrivateKey) -> RsaPublic:
    numbers = key.public_key().public_numbers()
    public = RsaPublic(key.key_size)
    public.m[:], public.e[:] = (number.to_bytes(256, "big") for number in (numbers.n, numbers.e))
    return public


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


# --- public keys -------------------------------------------------------------------------------


def test_sign_and_enc_keys_of_an_index_are_different_ones(session: Session, module: Module) -> None:
    sign, enc = exported(session, "Sign"), exported(session, "Enc")
    assert sign.bits == enc.bits == 256
    assert sign.point != enc.point
    caller = User(connect(module), login=False)
    for label, public in ((b"sdf:sign:1", sign), (b"sdf:enc:1", enc)):
        (handle,) = caller.find(LABEL=label, CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.SM2)
        assert caller.get(handle, Attr.EC_POINT)[3:] == oracle.octets(*public.point)


def test_rsa_keys_of_an_index_are_exported(session: Session) -> None:
    (public, sign), (_, enc) = (exported_rsa(session, role) for role in ("Sign", "Enc"))
    assert public.bits == sign.key_size == 2048
    assert sign.public_numbers().e == 65537
    assert sign.public_numbers() != enc.public_numbers()


@pytest.mark.parametrize("index", [0, 3, 2**32 - 1])
def test_an_index_without_a_key_has_none(user: Session, index: int) -> None:
    for name, form in (("ECC", EccPublic()), ("RSA", RsaPublic())):
        for role in ("Sign", "Enc"):
            assert user.code(f"Export{role}PublicKey_{name}", index, byref(form)) == "KEYNOTEXIST"
    handle = c_void_p()
    code = user.code("GenerateKeyWithIPK_ECC", index, 128, byref(cipher(16)), byref(handle))
    assert code == "KEYNOTEXIST"


def test_of_two_keys_of_an_index_none_is_taken(session: Session, module: Module) -> None:
    maker = User(connect(module))
    for _ in range(2):
        label = {"LABEL": b"sdf:sign:7", "TOKEN": True}
        maker.pair(Mech.SM2_KEY_PAIR_GEN, label | {"VERIFY": True}, label | {"SIGN": True})
    assert session.code("ExportSignPublicKey_ECC", 7, byref(EccPublic())) == "KEYERR"


def test_rsa_keys_longer_than_the_structure_are_refused(session: Session, module: Module) -> None:
    label = {"LABEL": b"sdf:sign:8", "TOKEN": True}
    User(connect(module)).pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN, label | {"MODULUS_BITS": 3072}, label | {"SIGN": True}
    )
    assert session.code("ExportSignPublicKey_RSA", 8, byref(RsaPublic())) == "KEYTYPEERR"


def test_keys_made_and_destroyed_beside_a_session_are_noticed(
    user: Session, module: Module
) -> None:
    maker = User(connect(module))
    label = {"LABEL": b"sdf:sign:5", "TOKEN": True}
    public = EccPublic()
    assert user.code("ExportSignPublicKey_ECC", 5, byref(public)) == "KEYNOTEXIST"
    first = maker.pair(Mech.SM2_KEY_PAIR_GEN, label | {"VERIFY": True}, label | {"SIGN": True})
    before = exported(user, "Sign", 5).point
    for handle in first:
        maker.call("C_DestroyObject", handle)
    maker.pair(Mech.SM2_KEY_PAIR_GEN, label | {"VERIFY": True}, label | {"SIGN": True})
    assert user.code("ExportSignPublicKey_ECC", 5, byref(public)) == "KEYNOTEXIST"  # once
    assert exported(user, "Sign", 5).point != before


def test_private_keys_do_not_leave(user: Session) -> None:
    private = (c_uint * 1024)()
    assert user.code("GenerateKeyPair_ECC", 0x20200, 256, byref(EccPublic()), private) == (
        "NOTSUPPORT"
    )
    assert user.code("GenerateKeyPair_RSA", 2048, byref(RsaPublic()), private) == "NOTSUPPORT"
    assert bytes(private) == bytes(4096)


# --- envelopes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_an_envelope_for_an_internal_key_opens_to_the_same_key(user: Session, bits: int) -> None:
    envelope = cipher(bits // 8)
    key = user.made("GenerateKeyWithIPK_ECC", 1, bits, byref(envelope))
    assert envelope.size == bits // 8
    assert bytes(envelope.mark) == MARK
    again = user.made("ImportKeyWithISK_ECC", 1, byref(envelope))
    assert mac(user, key) == mac(user, again)
    if bits == 128:
        assert encrypted(user, key) == encrypted(user, again)


def test_an_envelope_for_somebody_outside_opens_there(user: Session) -> None:
    scalar, point = oracle.generate()
    envelope = cipher(16)
    key = user.made(
        "GenerateKeyWithEPK_ECC", 128, binding.SM2_ENC, byref(EccPublic.of(point)), byref(envelope)
    )
    secret = oracle.decrypt(scalar, *envelope.parts)
    assert encrypted(user, key) == sm4(secret)
    assert bytes(envelope.mark) == MARK


def test_an_envelope_from_outside_opens_here(user: Session) -> None:
    secret = bytes(range(100, 116))
    envelope = cipher_of(*oracle.encrypt(exported(user, "Enc").point, secret))
    assert encrypted(user, user.made("ImportKeyWithISK_ECC", 1, byref(envelope))) == sm4(secret)


def test_changed_envelopes_are_refused(user: Session) -> None:
    envelope = cipher(16)
    user.made("GenerateKeyWithIPK_ECC", 1, 128, byref(envelope))
    handle = c_void_p()

    def refused(name: str, at: int) -> str:
        changed = type(envelope).from_buffer_copy(envelope)
        getattr(changed, name)[at] ^= 1
        return user.code("ImportKeyWithISK_ECC", 1, byref(changed), byref(handle))

    for name, at in (("x", 63), ("y", 32), ("digest", 0), ("text", 15), ("x", 0), ("y", 31)):
        assert refused(name, at) == "ENCDATAERR"
    for size in (0, 15, 17, 65, 2**32 - 1):
        changed = type(envelope).from_buffer_copy(envelope)
        changed.size = size
        code = user.code("ImportKeyWithISK_ECC", 1, byref(changed), byref(handle))
        assert code == "ENCDATAERR", size
    assert handle.value is None
    # It was for another key.
    assert user.code("ImportKeyWithISK_ECC", 2, byref(envelope), byref(handle)) == "ENCDATAERR"


@pytest.mark.parametrize("bits", [0, 1, 127, 129, 520, 2**32 - 8])
def test_keys_of_other_lengths_are_refused(user: Session, bits: int) -> None:
    handle = c_void_p()
    code = user.code("GenerateKeyWithIPK_ECC", 1, bits, byref(cipher(16)), byref(handle))
    assert code == "INARGERR"
    room = Room(256)
    code = user.code(
        "GenerateKeyWithKEK", bits, 0x401, 1, room.buffer, byref(room.length), byref(handle)
    )
    assert code in ("INARGERR", "PARDENY")


def test_public_keys_from_outside_have_to_be_points(user: Session) -> None:
    _, point = oracle.generate()
    off = EccPublic.of((point[0], point[1] ^ 1))
    long = EccPublic.of(point)
    long.x[0] = 1
    short = EccPublic.of(point)
    short.bits = 255
    handle = c_void_p()
    for public in (off, long, short, EccPublic(256)):
        code = user.code(
            "GenerateKeyWithEPK_ECC", 128, binding.SM2_ENC, byref(public), byref(cipher(16)),
            byref(handle),
        )  # fmt: skip
        assert code == "KEYERR"
    public = EccPublic.of(point)
    for algorithm in (binding.SM2_SIGN, binding.RSA, 0):
        code = user.code(
            "GenerateKeyWithEPK_ECC", 128, algorithm, byref(public), byref(cipher(16)),
            byref(handle),
        )  # fmt: skip
        assert code == "ALGNOTSUPPORT"


def test_envelopes_of_rsa(user: Session, rsa_key: rsa.RSAPrivateKey) -> None:
    out = Room(256)
    handle = c_void_p()
    user.call("GenerateKeyWithIPK_RSA", 1, 128, out.buffer, byref(out.length), byref(handle))
    again = user.made("ImportKeyWithISK_RSA", 1, out.data, 256)
    assert encrypted(user, handle) == encrypted(user, again)

    public = rsa_of(rsa_key)
    user.call(
        "GenerateKeyWithEPK_RSA", 128, byref(public), out.buffer, byref(out.length), byref(handle)
    )
    secret = rsa_key.decrypt(out.data, padding.PKCS1v15())
    assert encrypted(user, handle) == sm4(secret)

    _, internal = exported_rsa(user, "Enc")
    for size in (16, 32):
        sealed = internal.encrypt(bytes(size), padding.PKCS1v15())
        key = user.made("ImportKeyWithISK_RSA", 1, sealed, 256)
        assert mac(user, key)
    assert user.code("ImportKeyWithISK_RSA", 1, sealed, 255, byref(handle)) == "ENCDATAERR"
    assert user.code("ImportKeyWithISK_RSA", 1, sealed, 257, byref(handle)) == "INARGERR"


def test_an_envelope_of_rsa_with_a_wrong_padding_opens_to_what_nobody_knows(user: Session) -> None:
    # Whoever tries envelopes must not learn whose padding is right (Bleichenbacher).
    _, internal = exported_rsa(user, "Enc")
    n = internal.public_numbers().n
    made = 0
    for number in range(2, 12):
        sealed = pow(number, 65537, n).to_bytes(256, "big")  # a block of zeros and one byte
        handle = c_void_p()
        code = user.code("ImportKeyWithISK_RSA", 1, sealed, 256, byref(handle))
        made += code == "OK"
    assert made >= 8  # some are longer than a key can be; none is refused for its padding


def test_too_little_room_for_an_envelope_makes_no_key(user: Session, module: Module) -> None:
    handle, length = c_void_p(), c_uint(0)
    code = user.code("GenerateKeyWithIPK_RSA", 1, 128, None, byref(length), byref(handle))
    assert (code, length.value) == ("NOBUFFER", 256)
    out = Room(255)
    code = user.code("GenerateKeyWithIPK_RSA", 1, 128, out.buffer, byref(out.length), byref(handle))
    assert (code, out.length.value, handle.value) == ("NOBUFFER", 256, None)
    assert bytes(out.buffer) == bytes(255) + MARK


def test_envelopes_are_exchanged_for_who_may_decrypt(user: Session) -> None:
    scalar, point = oracle.generate()
    envelope, out = cipher(16), cipher(16)
    for index, code in ((1, "PARDENY"), (2, "OK")):
        key = user.made("GenerateKeyWithIPK_ECC", index, 128, byref(envelope))
        public = EccPublic.of(point)
        assert code == user.code(
            "ExchangeDigitEnvelopeBaseOnECC", index, binding.SM2_ENC, byref(public),
            byref(envelope), byref(out),
        )  # fmt: skip
    assert sm4(oracle.decrypt(scalar, *out.parts)) == encrypted(user, key)
    assert bytes(out.mark) == MARK


def test_envelopes_of_rsa_are_exchanged(user: Session, rsa_key: rsa.RSAPrivateKey) -> None:
    sealed, out, handle = Room(256), Room(256), c_void_p()
    user.call("GenerateKeyWithIPK_RSA", 2, 128, sealed.buffer, byref(sealed.length), byref(handle))
    arguments = (byref(rsa_of(rsa_key)), sealed.data, 256)
    user.call("ExchangeDigitEnvelopeBaseOnRSA", 2, *arguments, out.buffer, byref(out.length))
    assert sm4(rsa_key.decrypt(out.data, padding.PKCS1v15())) == encrypted(user, handle)
    code = user.code("ExchangeDigitEnvelopeBaseOnRSA", 1, *arguments, out.buffer, byref(out.length))
    assert code == "PARDENY"
    small = Room(10)
    code = user.code(
        "ExchangeDigitEnvelopeBaseOnRSA", 2, *arguments, small.buffer, byref(small.length)
    )
    assert (code, small.length.value) == ("NOBUFFER", 256)


def test_session_keys_cannot_be_read_though_pkcs11_is_in_the_same_library(
    user: Session, sdf: Sdf
) -> None:
    user.made("GenerateKeyWithIPK_ECC", 1, 128, byref(cipher(16)))
    user.key(bytes(16))
    library = Library(sdf.path)
    other = Pkcs11(library, pin=None)
    handles = other.find(CLASS=ObjectClass.SECRET_KEY)
    assert len(handles) >= 3  # with the key encryption key
    for handle in handles:
        with pytest.raises(Refused, match="ATTRIBUTE_SENSITIVE"):
            other.get(handle, Attr.VALUE)
    library.close()


# --- key encryption keys -----------------------------------------------------------------------


def test_a_key_under_a_key_encryption_key(user: Session) -> None:
    out, handle = Room(16), c_void_p()
    user.call(
        "GenerateKeyWithKEK", 128, binding.SM4_ECB, 1, out.buffer, byref(out.length), byref(handle)
    )
    again = user.made("ImportKeyWithKEK", binding.SM4_ECB, 1, out.data, 16)
    assert encrypted(user, handle) == encrypted(user, again)
    # A session key does not do what a key encryption key does, nor the other way round.
    assert out.data != encrypted(user, handle)


def test_key_encryption_keys_need_a_login(session: Session) -> None:
    out, handle = Room(16), c_void_p()
    arguments = (128, binding.SM4_ECB, 1, out.buffer, byref(out.length), byref(handle))
    assert session.code("GenerateKeyWithKEK", *arguments) == "PARDENY"
    session.right(1, PIN)
    assert session.code("GenerateKeyWithKEK", *arguments) == "OK"
    assert session.code("GenerateKeyWithKEK", 128, 0x401, 2, *arguments[3:]) == "KEYNOTEXIST"
    assert session.code("GenerateKeyWithKEK", 128, 0x402, *arguments[2:]) == "ALGMODNOTSUPPORT"
    assert session.code("GenerateKeyWithKEK", 128, 0x101, *arguments[2:]) == "ALGNOTSUPPORT"
    for size in (0, 8, 17, 80):
        code = session.code("ImportKeyWithKEK", 0x401, 1, bytes(80), size, byref(handle))
        assert code == "INARGERR"


# --- keys in clear -----------------------------------------------------------------------------


def test_keys_in_clear_come_in(session: Session) -> None:
    assert encrypted(session, session.key(bytes(16))) == sm4(bytes(16))
    assert mac(session, session.key(bytes(32)))
    handle = c_void_p()
    for size in (0, 7, 65, 2**29, 2**32 - 1):
        assert session.code("ImportKey", bytes(80), size, byref(handle)) == "INARGERR"
    assert session.code("ImportKey", None, 16, byref(handle)) == "INARGERR"
    assert session.code("ImportKey", bytes(16), 16, None) == "OUTARGERR"


def test_keys_belong_to_their_session_and_end_with_it(sdf: Sdf, device: c_void_p) -> None:
    one, other = Session(sdf, device), Session(sdf, device)
    key = one.key(bytes(16))
    room = Room(16)
    arguments = (key, binding.SM4_ECB, None, BLOCK, 16, room.buffer, byref(room.length))
    assert other.code("Encrypt", *arguments) == "KEYNOTEXIST"
    assert other.code("DestroyKey", key) == "KEYNOTEXIST"
    assert one.code("Encrypt", *arguments) == "OK"
    one.call("DestroyKey", key)
    assert one.code("Encrypt", *arguments) == "KEYNOTEXIST"
    assert one.code("DestroyKey", key) == "KEYNOTEXIST"
    assert one.code("DestroyKey", one.handle) == "KEYNOTEXIST"
    key = one.key(bytes(16))
    one.close()
    assert other.code("Encrypt", key, *arguments[1:]) == "KEYNOTEXIST"


def test_many_keys_have_handles_of_their_own(session: Session) -> None:
    keys = {number: session.key(number.to_bytes(16, "big")) for number in range(150)}
    assert len({key.value for key in keys.values()}) == 150
    for number in range(0, 150, 3):
        session.call("DestroyKey", keys.pop(number))
    for number in range(0, 150, 3):
        keys[number] = session.key(number.to_bytes(16, "big"))
    for number in (0, 1, 77, 149):
        assert encrypted(session, keys[number]) == sm4(number.to_bytes(16, "big"))


# --- agreement ---------------------------------------------------------------------------------

Sponsored = tuple[EccPublic, EccPublic, c_void_p]


def sponsored(
    session: Session, identity: bytes = b"A", bits: int = 128, index: int = 1
) -> Sponsored:
    public, ephemeral, handle = EccPublic(), EccPublic(), c_void_p()
    session.call(
        "GenerateAgreementDataWithECC", index, bits, identity, len(identity), byref(public),
        byref(ephemeral), byref(handle),
    )  # fmt: skip
    return public, ephemeral, handle


def responded(
    session: Session, public: EccPublic, ephemeral: EccPublic, bits: int = 128, index: int = 2
) -> Sponsored:
    own, own_ephemeral, key = EccPublic(), EccPublic(), c_void_p()
    session.call(
        "GenerateAgreementDataAndKeyWithECC", index, bits, b"B", 1, b"A", 1, byref(public),
        byref(ephemeral), byref(own), byref(own_ephemeral), byref(key),
    )  # fmt: skip
    return own, own_ephemeral, key


@pytest.mark.parametrize("bits", [128, 256])
def test_two_sessions_agree_on_a_key(sdf: Sdf, device: c_void_p, bits: int) -> None:
    one, other = Session(sdf, device), Session(sdf, device)
    one.right(1, PIN)
    other.right(2, PIN)
    public, ephemeral, agreement = sponsored(one, bits=bits)
    assert public.point == exported(one, "Enc").point
    peer, peer_ephemeral, key = responded(other, public, ephemeral, bits)
    own = one.made("GenerateKeyWithECC", b"B", 1, byref(peer), byref(peer_ephemeral), agreement)
    assert mac(one, own) == mac(other, key)


def test_the_responder_may_be_somebody_else(user: Session) -> None:
    static, ephemeral = oracle.generate(), oracle.generate()
    public, sponsor_ephemeral, agreement = sponsored(user, b"ALICE")
    key = user.made(
        "GenerateKeyWithECC", b"BILL", 4, byref(EccPublic.of(static[1])),
        byref(EccPublic.of(ephemeral[1])), agreement,
    )  # fmt: skip
    zs = oracle.z(public.point, b"ALICE"), oracle.z(static[1], b"BILL")
    secret = oracle.agree(static, ephemeral, public.point, sponsor_ephemeral.point, zs, 16)
    assert encrypted(user, key) == sm4(secret)


def test_the_sponsor_may_be_somebody_else(user: Session) -> None:
    static, ephemeral = oracle.generate(), oracle.generate()
    own, own_ephemeral, key = responded(user, EccPublic.of(static[1]), EccPublic.of(ephemeral[1]))
    zs = oracle.z(static[1], b"A"), oracle.z(own.point, b"B")
    secret = oracle.agree(static, ephemeral, own.point, own_ephemeral.point, zs, 16)
    assert encrypted(user, key) == sm4(secret)


def test_an_agreement_is_for_one_key(user: Session) -> None:
    public, ephemeral, agreement = sponsored(user)
    peer, peer_ephemeral, _ = responded(user, public, ephemeral)
    arguments = (b"B", 1, byref(peer), byref(peer_ephemeral), agreement)
    user.made("GenerateKeyWithECC", *arguments)
    assert user.code("GenerateKeyWithECC", *arguments, byref(c_void_p())) == "KEYNOTEXIST"


def test_an_agreement_can_be_given_up(user: Session, sdf: Sdf, device: c_void_p) -> None:
    agreement = sponsored(user)[2]
    assert Session(sdf, device).code("DestroyKey", agreement) == "KEYNOTEXIST"
    user.call("DestroyKey", agreement)
    assert user.code("DestroyKey", agreement) == "KEYNOTEXIST"


def test_agreements_with_what_is_no_point_come_to_nothing(user: Session) -> None:
    _, point = oracle.generate()
    good, off = EccPublic.of(point), EccPublic.of((point[0], point[1] ^ 1))
    for peer, ephemeral in ((off, good), (good, off)):
        agreement = sponsored(user)[2]
        handle = c_void_p()
        code = user.code(
            "GenerateKeyWithECC", b"B", 1, byref(peer), byref(ephemeral), agreement, byref(handle)
        )
        assert (code, handle.value) == ("KEYERR", None)
        code = user.code(
            "GenerateAgreementDataAndKeyWithECC", 2, 128, b"B", 1, b"A", 1, byref(peer),
            byref(ephemeral), byref(EccPublic()), byref(EccPublic()), byref(handle),
        )  # fmt: skip
        assert (code, handle.value) == ("KEYERR", None)


def test_agreements_need_the_right_to_the_key(session: Session) -> None:
    public = EccPublic()
    arguments: tuple[Any, ...] = (128, b"A", 1, byref(public), byref(public), byref(c_void_p()))
    assert session.code("GenerateAgreementDataWithECC", 1, *arguments) == "PARDENY"
    session.right(1, PIN)
    agreement = sponsored(session)[2]
    session.call("ReleasePrivateKeyAccessRight", 1)
    peer = EccPublic.of(oracle.generate()[1])
    code = session.code(
        "GenerateKeyWithECC", b"B", 1, byref(peer), byref(peer), agreement, byref(c_void_p())
    )
    assert code == "PARDENY"


@pytest.mark.parametrize("size", [8192, 2**32 - 1])
def test_identities_have_a_limit(user: Session, size: int) -> None:
    public = EccPublic()
    code = user.code(
        "GenerateAgreementDataWithECC", 1, 128, bytes(8192), size, byref(public), byref(public),
        byref(c_void_p()),
    )  # fmt: skip
    assert code == "INARGERR"
    assert user.code("HashInit", binding.SM3, byref(exported(user, "Sign")), bytes(8192), size) == (
        "INARGERR"
    )


def test_many_threads_agree_at_once(sdf: Sdf, device: c_void_p) -> None:
    failures: list[str] = []

    def work() -> None:
        one, other = Session(sdf, device), Session(sdf, device)
        one.right(1, PIN)
        other.right(2, PIN)
        for _ in range(3):
            public, ephemeral, agreement = sponsored(one)
            peer, peer_ephemeral, key = responded(other, public, ephemeral)
            own = one.made(
                "GenerateKeyWithECC", b"B", 1, byref(peer), byref(peer_ephemeral), agreement
            )
            if encrypted(one, own) != encrypted(other, key):
                failures.append("different keys")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_wrapped_keys_do_not_come_from_a_pkcs11_session_either(module: Module) -> None:
    # What administrators make: a pair whose private half neither decrypts nor leaves.
    user = User(connect(module))
    (enc,) = user.find(LABEL=b"sdf:enc:1", CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.SM2)
    assert user.get(enc, Attr.DECRYPT) is False
    assert user.get(enc, Attr.NEVER_EXTRACTABLE) is True
    (public,) = user.find(LABEL=b"sdf:enc:1", CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.SM2)
    mechanism = Mechanism(Mech.SM2_ENCRYPT)
    envelope, _ = user.call(
        "S_GenerateEnvelopedKey", Mechanism(Mech.SM4_KEY_GEN), template(), mechanism, public, ROOM
    )
    for attributes in ({"SENSITIVE": False}, {"EXTRACTABLE": True}):
        refused = refusal(
            user.call, "S_OpenEnvelopedKey", mechanism, enc, envelope, template(**attributes)
        )
        assert refused.name == "TEMPLATE_INCONSISTENT"
