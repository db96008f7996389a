"""Keys that come in sealed: what they become, and the envelopes that are refused."""

from __future__ import annotations

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import EnvelopeMalformed, GuestError, Untrusted
from secgear.middleware.envelopes import EnclaveKey, seal, verify_key
from secgear.services.crypto.attestation import KeyAttestation
from secgear.services.crypto.parcel import MAX_ENVELOPE, Destination, Parcel
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import importing
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, SO_PIN, MemoryStore, connect
from tests.services.crypto.attested import (
    LAX,
    ROOM,
    STRICT,
    VENDOR,
    VendorGuest,
    attested_module,
    now,
    verified,
)
from tests.services.crypto.conftest import User, refusal, template

KEY = ec.generate_private_key(ec.SECP256R1())
NONCE = b"n" * 32


def pkcs8(key: Any = KEY) -> bytes:
    der: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return der


@pytest.fixture
def module(store: MemoryStore) -> Module:
    return attested_module(store)


@pytest.fixture
def user(module: Module) -> User:
    return User(connect(module))


def document(user: User, nonce: bytes = b"") -> bytes:
    data: bytes = user.call("S_GetImportKey", nonce, ROOM)
    return data


def sealed(user: User, parcel: Parcel | bytes, key: bytes | None = None, **more: Any) -> bytes:
    """What a data owner sends, who trusts the token's import key."""
    trusted = verify_key(key or document(user), LAX, at=now(), anchors=VENDOR.anchors)
    data = parcel if isinstance(parcel, bytes) else parcel.to_cbor()
    purpose = more.pop("purpose", trusted.key.purposes[0])
    return seal(trusted, data, purpose=purpose, **more)


def private(public: dict[str, Any] | None = None, **attributes: Any) -> Parcel:
    return Parcel(
        pkcs8=pkcs8(),
        template=template(**attributes),
        public=None if public is None else template(**public),
    )


def secret(**attributes: Any) -> Parcel:
    given = {"CLASS": ObjectClass.SECRET_KEY, "KEY_TYPE": KeyType.AES, "VALUE": b"v" * 32}
    return Parcel(template=template(**given | attributes))


# --- what it becomes -----------------------------------------------------------------------------


def test_an_imported_pair_signs_and_says_where_it_came_from(user: User) -> None:
    envelope = sealed(user, private({"VERIFY": True, "LABEL": b"web"}, SIGN=True, LABEL=b"web"))
    key, public = user.call("S_ImportKey", envelope)
    signature = user.run("Sign", Mech.ECDSA_SHA256, key, b"message")
    user.verify(Mech.ECDSA_SHA256, public, b"message", signature)
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert user.get(public, Attr.PUBLIC_KEY_INFO) == spki
    assert user.get(key, Attr.LOCAL) is False
    assert user.get(key, Attr.ALWAYS_SENSITIVE) is False
    assert user.get(key, Attr.TOKEN) is True
    found = verified(user.call("S_AttestKey", key, b"", ROOM))
    assert isinstance(found, KeyAttestation)
    assert found.public_key_info == spki
    assert found.statement.envelope == user.get(key, Attr.ENVELOPE)
    assert found.statement.origin == "envelope"
    assert refusal(user.get, key, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE


def test_an_imported_secret_key_works_and_outlives_the_enclave(
    store: MemoryStore, user: User
) -> None:
    key, public = user.call("S_ImportKey", sealed(user, secret(ENCRYPT=True, LABEL=b"kek")))
    assert public == 0
    block = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    again = User(connect(attested_module(store)))
    (found,) = again.find(LABEL=b"kek")
    assert again.run("Encrypt", Mech.AES_ECB, found, bytes(16)) == block
    assert again.get(found, Attr.ENVELOPE) == user.get(key, Attr.ENVELOPE)


def test_the_trail_says_which_envelope_was_taken(store: MemoryStore, user: User) -> None:
    key, _ = user.call("S_ImportKey", sealed(user, private(LABEL=b"recorded")))
    last = store.records[-1].body
    assert b'"key imported"' in last
    assert user.get(key, Attr.ENVELOPE).hex().encode() in last
    assert b"recorded" in last


@pytest.mark.parametrize(
    "parcel",
    [
        private(EXTRACTABLE=True),
        private(SENSITIVE=False),
        private(TOKEN=False),
        private({"TOKEN": False}),
        private(CLASS=ObjectClass.SECRET_KEY),
        private(KEY_TYPE=KeyType.RSA),
        private({"CLASS": ObjectClass.PRIVATE_KEY}),
        secret(EXTRACTABLE=True),
        secret(SENSITIVE=False),
        Parcel(template=secret().template, public=template(VERIFY=True)),
        Parcel(template=template(CLASS=ObjectClass.DATA, VALUE=b"data")),
    ],
)
def test_a_parcel_that_asks_for_too_much_is_refused(user: User, parcel: Parcel) -> None:
    assert refusal(user.call, "S_ImportKey", sealed(user, parcel)) is Rv.TEMPLATE_INCONSISTENT


@pytest.mark.parametrize(
    ("parcel", "rv"),
    [
        (private(TRUSTED=True), Rv.ATTRIBUTE_TYPE_INVALID),
        (secret(TRUSTED=True), Rv.ATTRIBUTE_READ_ONLY),
        (private(LOCAL=True), Rv.ATTRIBUTE_READ_ONLY),
        (private(ENVELOPE=b"another"), Rv.ATTRIBUTE_READ_ONLY),
        (secret(ENVELOPES_TAKEN=b""), Rv.ATTRIBUTE_READ_ONLY),
        (private(LABEL=5), Rv.ATTRIBUTE_VALUE_INVALID),
        (private({"LABEL": 5}), Rv.ATTRIBUTE_VALUE_INVALID),
        (secret(VALUE=b"short"), Rv.ATTRIBUTE_VALUE_INVALID),
        (Parcel(template={}), Rv.TEMPLATE_INCOMPLETE),
        (Parcel(pkcs8=b"no key", template={}), Rv.WRAPPED_KEY_INVALID),
    ],
)
def test_a_parcel_that_is_no_key_is_refused(user: User, parcel: Parcel, rv: Rv) -> None:
    envelope = sealed(user, parcel)
    assert refusal(user.call, "S_ImportKey", envelope) is rv
    # Nothing was made of it, so it was not taken either.
    assert refusal(user.call, "S_ImportKey", envelope) is rv


def test_a_key_may_be_extractable_under_trusted_keys_alone(user: User) -> None:
    parcel = secret(EXTRACTABLE=True, WRAP_WITH_TRUSTED=True)
    key, _ = user.call("S_ImportKey", sealed(user, parcel))
    wrapper = user.aes(WRAP=True)
    refused = refusal(user.call, "C_WrapKey", Mechanism(Mech.AES_KEY_WRAP_KWP), wrapper, key, ROOM)
    assert refused is Rv.KEY_NOT_WRAPPABLE


# --- import keys ---------------------------------------------------------------------------------


def test_an_import_key_names_module_and_token_and_takes_nonces(module: Module, user: User) -> None:
    key = EnclaveKey.from_cbor(document(user, NONCE))
    assert key.context == NONCE
    (purpose,) = key.purposes
    state = module.slots[0].state
    assert Destination.of_purpose(purpose) == Destination(
        module.vault.audit_key, state.serial, state.generation
    )
    assert EnclaveKey.from_cbor(document(user)).id == key.id, "it is the same key"
    assert verify_key(key, STRICT, at=now(), context=NONCE, anchors=VENDOR.anchors)
    assert refusal(user.call, "S_GetImportKey", b"short", ROOM) is Rv.ARGUMENTS_BAD
    for purpose in ("", "secgear crypto import 00 1 1", "something else"):
        with pytest.raises(EnvelopeMalformed):
            Destination.of_purpose(purpose)


def test_an_import_key_is_of_no_other_use(user: User) -> None:
    document(user)
    (key,) = user.find(LABEL=b"secgear import key")
    for attr in (Attr.SENSITIVE, Attr.EXTRACTABLE):
        assert user.get(key, attr) is (attr == Attr.SENSITIVE)
    assert refusal(user.get, key, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE
    assert refusal(user.call, "C_DestroyObject", key) is Rv.ACTION_PROHIBITED
    assert refusal(user.call, "C_CopyObject", key, {}) is Rv.ACTION_PROHIBITED
    assert refusal(user.set, key, LABEL=b"mine", SIGN=True) is Rv.ACTION_PROHIBITED
    assert (
        refusal(user.run, "Sign", Mech.SHA256_HMAC, key, b"data") is Rv.KEY_FUNCTION_NOT_PERMITTED
    )


def test_who_is_not_logged_in_neither_makes_keys_nor_imports(module: Module, user: User) -> None:
    stranger = User(connect(module), login=False)
    assert refusal(stranger.call, "S_GetImportKey", b"", ROOM) is Rv.USER_NOT_LOGGED_IN
    envelope = sealed(user, private())
    assert document(stranger), "what there is, everybody may seal to"
    assert refusal(stranger.call, "S_ImportKey", envelope) is Rv.USER_NOT_LOGGED_IN
    reader = User(connect(module), flags=4)
    assert refusal(reader.call, "S_ImportKey", envelope) is Rv.SESSION_READ_ONLY
    assert user.call("S_ImportKey", envelope)


def test_an_import_key_is_replaced_in_time_and_forgotten_when_it_has_expired(
    store: MemoryStore,
) -> None:
    clock = [now()]
    user = User(connect(attested_module(store, lambda: clock[0])))
    first = document(user)
    late, expired = sealed(user, private(), first), sealed(user, private(), first)
    clock[0] += importing.LIFETIME - importing.LEAST + datetime.timedelta(minutes=1)
    second = document(user)
    assert EnclaveKey.from_cbor(second).id != EnclaveKey.from_cbor(first).id
    assert len(user.find(LABEL=b"secgear import key")) == 2
    assert user.call("S_ImportKey", late), "it still opens what was sealed to it"
    clock[0] += importing.LEAST
    assert refusal(user.call, "S_ImportKey", expired) is Rv.WRAPPED_KEY_INVALID
    clock[0] += importing.LIFETIME
    document(user)
    assert len(user.find(LABEL=b"secgear import key")) == 1
    assert refusal(user.call, "S_ImportKey", expired) is Rv.KEY_HANDLE_INVALID


def test_a_tee_without_evidence_makes_no_import_key(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, __: bytes) -> None:
        raise GuestError("the device is gone")

    monkeypatch.setattr(VendorGuest, "evidence", refuse)
    assert refusal(user.call, "S_GetImportKey", b"", ROOM) is Rv.DEVICE_ERROR
    assert user.find(LABEL=b"secgear import key") == []


# --- hostile envelopes ---------------------------------------------------------------------------


def test_an_envelope_is_taken_once(store: MemoryStore, user: User) -> None:
    envelope = sealed(user, private(LABEL=b"once"))
    key, _ = user.call("S_ImportKey", envelope)
    assert refusal(user.call, "S_ImportKey", envelope) is Rv.FUNCTION_REJECTED
    user.call("C_DestroyObject", key)
    assert refusal(user.call, "S_ImportKey", envelope) is Rv.FUNCTION_REJECTED
    again = User(connect(attested_module(store)))
    assert refusal(again.call, "S_ImportKey", envelope) is Rv.FUNCTION_REJECTED
    assert again.find(LABEL=b"once") == []


def test_an_envelope_ends_with_the_token_it_is_for(store: MemoryStore, module: Module) -> None:
    user = User(connect(module))
    envelope = sealed(user, private())
    user.caller.call("C_Finalize")
    user.caller.initialise()
    user.caller.call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    officer = User(user.caller, login=False)
    officer.call("C_Login", 0, SO_PIN)
    officer.call("C_InitPIN", PIN)
    officer.call("C_Logout")
    officer.call("C_Login", 1, PIN)
    assert refusal(officer.call, "S_ImportKey", envelope) is Rv.KEY_HANDLE_INVALID


def test_an_import_key_out_of_a_backup_opens_nothing(store: MemoryStore, module: Module) -> None:
    """Its ledger may not know what was taken since; a restored token is of a new generation."""
    user = User(connect(module))
    envelope = sealed(user, private(LABEL=b"taken since"))
    old = EnclaveKey.from_cbor(document(user)).id

    def restore(draft: Draft) -> None:
        state = draft.token(0)
        later = msgspec.structs.replace(state, generation=state.generation + 1)
        draft.set_token(0, later)

    module.vault.transact(restore)
    again = User(connect(module))
    assert refusal(again.call, "S_ImportKey", envelope) is Rv.WRAPPED_KEY_INVALID
    assert EnclaveKey.from_cbor(document(again)).id != old
    assert len(again.find(LABEL=b"secgear import key")) == 1, "the old one is of no use"
    assert again.call("S_ImportKey", sealed(again, private()))


def test_of_many_who_import_an_envelope_at_once_one_does(module: Module, user: User) -> None:
    envelope = sealed(user, private(LABEL=b"raced"))
    others = [User(connect(module)) for _ in range(6)]
    start = threading.Barrier(6)

    def work(other: User) -> Any:
        start.wait(30)
        try:
            return other.call("S_ImportKey", envelope)
        except CryptokiError as error:
            return error.rv

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, others))
    assert results.count(Rv.FUNCTION_REJECTED) == 5
    assert len(user.find(LABEL=b"raced")) == 1


def test_what_the_host_does_not_keep_was_not_taken(store: MemoryStore, user: User) -> None:
    envelope = sealed(user, private(LABEL=b"kept"))
    store.refuse = True
    assert refusal(user.call, "S_ImportKey", envelope) is Rv.DEVICE_ERROR
    store.refuse = False
    assert user.find(LABEL=b"kept") == []
    assert user.call("S_ImportKey", envelope)
    assert len(user.find(LABEL=b"kept")) == 1


def test_a_full_import_key_takes_nothing_and_makes_room_for_another(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "CAPACITY", 1)
    first = document(user)
    assert user.call("S_ImportKey", sealed(user, private(), first))
    assert refusal(user.call, "S_ImportKey", sealed(user, private(), first)) is Rv.KEY_EXHAUSTED
    assert user.call("S_ImportKey", sealed(user, private()))


def test_envelopes_for_others_and_changed_ones_are_refused(store: MemoryStore, user: User) -> None:
    envelope = sealed(user, private())
    call = (user.call, "S_ImportKey")
    for at in range(0, len(envelope), 97):
        changed = bytearray(envelope)
        changed[at] ^= 1
        assert refusal(*call, bytes(changed)) in (Rv.WRAPPED_KEY_INVALID, Rv.KEY_HANDLE_INVALID)
    for size in (0, 10, len(envelope) - 1):
        wrong = refusal(*call, envelope[:size])
        assert wrong in (Rv.WRAPPED_KEY_INVALID, Rv.WRAPPED_KEY_LEN_RANGE)
    assert refusal(*call, bytes(MAX_ENVELOPE + 1)) is Rv.WRAPPED_KEY_LEN_RANGE
    associated = sealed(user, private(), associated=b"for something else")
    assert refusal(*call, associated) is Rv.WRAPPED_KEY_INVALID
    assert refusal(*call, sealed(user, b"no parcel")) is Rv.WRAPPED_KEY_INVALID
    other = User(connect(attested_module(MemoryStore.copy(store))))
    document(other)
    assert user.call("S_ImportKey", envelope), "and the right one is still taken"


@given(st.binary(max_size=200))
def test_whatever_is_inside_it_is_a_parcel_or_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeMalformed):
        Parcel.from_cbor(data)


VALUES = st.one_of(
    st.booleans(), st.integers(0, 2**64 - 1), st.binary(max_size=20),
    st.lists(st.integers(0, 2**32), max_size=4).map(tuple),
)  # fmt: skip
TEMPLATES = st.dictionaries(
    st.integers(0, 2**32), VALUES | st.dictionaries(st.integers(0, 9), VALUES), max_size=5
)


@given(st.binary(max_size=50), TEMPLATES, st.none() | TEMPLATES)
def test_a_parcel_comes_out_as_it_went_in(key: bytes, one: Any, public: Any) -> None:
    parcel = Parcel(pkcs8=key, template=one, public=public)
    assert Parcel.from_cbor(parcel.to_cbor()) == parcel
    assert repr(parcel) == "Parcel(…)"


def test_a_parcel_has_limits() -> None:
    with pytest.raises(EnvelopeMalformed, match="version"):
        Parcel(version=2, template={})
    with pytest.raises(EnvelopeMalformed, match="too many"):
        Parcel(template=dict.fromkeys(range(129), b""))
    with pytest.raises(EnvelopeMalformed):
        Parcel.from_cbor(Parcel(template={1: bytes(70 << 10)}).to_cbor())
    deep: dict[int, Any] = {1: {2: {3: {4: b""}}}}
    with pytest.raises(EnvelopeMalformed):
        Parcel.from_cbor(Parcel(template=deep).to_cbor())


def test_large_rsa_keys_fit(user: User) -> None:
    key = rsa.generate_private_key(65537, 3072)
    parcel = Parcel(pkcs8=pkcs8(key), template=template(SIGN=True), public=template(VERIFY=True))
    made, public = user.call("S_ImportKey", sealed(user, parcel))
    signature = user.run("Sign", Mech.SHA256_RSA_PKCS, made, b"data")
    user.verify(Mech.SHA256_RSA_PKCS, public, b"data", signature)


def test_nothing_of_this_is_a_word_about_a_host_that_seals_for_itself(user: User) -> None:
    """Who owns the data decides by a policy; a document of another enclave is not trusted."""
    other = VendorGuest(measurement=b"o" * 48)
    key = importing.new_key(Destination(bytes(32), "1", 1), other, at=now())
    text = importing.pair_of(key).key.to_cbor()
    with pytest.raises(Untrusted):
        sealed(user, private(), text)
