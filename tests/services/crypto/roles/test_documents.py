"""Documents from outside: each is what it says in its one encoding, or refused with a reason."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles import (
    archive,
    checkpoints,
    custody,
    operations,
    persons,
    requests,
    standing,
)
from secgear.services.crypto.roles.archive import Check, Manifest, Seal, SealedShare
from secgear.services.crypto.roles.custody import Share
from secgear.services.crypto.roles.operations import ResetOfficer, Zeroise
from secgear.services.crypto.roles.requests import Request
from secgear.services.crypto.token.splitting import combine, split
from tests.services.crypto.roles.people import KEYS, PEOPLE

AUDIT = Ed25519PrivateKey.generate()
BACKUP = bytes(range(16))
REQUEST = requests.encode(
    Request(
        module="00" * 16, nonce="11" * 16, opened_by="alice", expires=2**31, operation=Zeroise()
    )
)


def manifest(threshold: int = 2, shares: int = 2) -> bytes:
    return Manifest(
        id=BACKUP.hex(),
        module="00" * 16,
        made_at=1,
        audit_key=AUDIT.public_key().public_bytes_raw().hex(),
        audit_seq=1,
        audit_hash="22" * 32,
        threshold=threshold,
        shares=tuple(SealedShare(f"c{at}", "33" * 32, bytes(8)) for at in range(shares)),
    ).to_bytes()


def backup(key: bytes, *pieces: bytes) -> bytes:
    data = manifest()
    seal = Seal(key, data)
    records = [seal.record(piece, last=at == len(pieces) - 1) for at, piece in enumerate(pieces)]
    signature = AUDIT.sign(seal.to_be_signed())
    return b"".join([archive.MAGIC, archive.WORD.pack(len(data)), data, *records, signature])


def read(data: bytes, key: bytes) -> list[bytes]:
    head, records = archive.read(io.BytesIO(data))
    check = Check(head)
    pieces, cipher = [], AESGCM(key)
    *body, signature = records
    for record in body:
        piece, _ = check.opened(record, cipher)
        pieces.append(piece)
    check.finish(signature)
    return pieces


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_no_parser_does_more_than_refuse_what_is_no_document(data: bytes) -> None:
    for parse in (
        requests.parse_request,
        requests.parse_approval,
        requests.parse_approvals,
        requests.parse_proof,
        requests.parse_new_pin,
        requests.parse_wish,
        checkpoints.unpack,
        custody.parse_target,
        standing.parse,
        operations.parse_founders,
        archive.parse_manifest,
        persons.load_key,
        custody.load_public,
        lambda data: custody.load_private(data, None),
        Share.from_bytes,
        lambda data: list(archive.read(io.BytesIO(data))[1]),
        lambda data: list(archive.read(io.BytesIO(archive.MAGIC + data))[1]),
    ):
        try:
            parse(data)
        except CryptoRefused:
            pass
        else:
            # Some few bytes are an array or a map without anything in it, or may be a share.
            few = (requests.parse_approvals, operations.parse_founders, checkpoints.unpack)
            assert parse in (*few, Share.from_bytes), data


@settings(max_examples=200)
@given(st.integers(0, len(REQUEST) - 1), st.integers(0, 255))
def test_a_changed_request_is_another_one_or_none(at: int, value: int) -> None:
    changed = REQUEST[:at] + bytes((value,)) + REQUEST[at + 1 :]
    try:
        found = requests.parse_request(changed)
    except CryptoRefused:
        return
    assert requests.encode(found) == changed


def test_deep_and_long_documents_are_refused() -> None:
    for data in (b"[" * 100_000, b"9" * 70_000, b'{"a":' * 50_000):
        for parse in (requests.parse_request, requests.parse_approvals, archive.parse_manifest):
            with pytest.raises(CryptoRefused):
                parse(data)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_keys_on_these_curves_sign(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    someone = persons.person("someone", key.public_key())
    assert someone.signed(b"text", persons.sign(key, b"text"))
    assert not someone.signed(b"other", persons.sign(key, b"text"))
    assert not someone.signed(b"text", b"")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ed448.Ed448PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_keys_of_other_kinds_are_refused(key: Any) -> None:
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(CryptoRefused, match="none of Ed25519"):
        persons.load_key(pem)
    with pytest.raises(CryptoRefused, match="none of Ed25519"):
        persons.person("someone", key.public_key())


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "a" * 65, "a\n", "ä"])
def test_names_that_could_be_mistaken_are_none(name: str) -> None:
    with pytest.raises(CryptoRefused, match="is no name"):
        persons.person(name, KEYS["alice"].public_key())


def test_a_name_with_a_line_behind_it_is_not_that_name() -> None:
    """Two of them would look like one to who approves administrators."""
    twins = operations.ChangeAdministrators(1, (PEOPLE["alice"], PEOPLE["bob"]))
    data = requests.encode(
        msgspec.structs.replace(requests.parse_request(REQUEST), operation=twins)
    )
    assert requests.parse_request(data)
    with pytest.raises(CryptoRefused, match="no request"):
        requests.parse_request(data.replace(b'"bob"', b'"alice\\n"'))
    for digits in (b"00" * 16, b"11" * 16):
        with pytest.raises(CryptoRefused, match="no request"):
            requests.parse_request(REQUEST.replace(digits, digits + b"\\n"))


def test_words_say_who_and_what() -> None:
    words = requests.parse_request(REQUEST).words()
    assert "ALL KEYS OF THIS MODULE ARE DESTROYED" in words
    assert "module     " + "00" * 16 in words
    assert "slot 3" in ResetOfficer(3).words()
    assert PEOPLE["alice"].fingerprint == persons.fingerprint_of(
        KEYS["alice"].public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )  # fmt: skip


# --- shares --------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 5), st.integers(0, 3), st.randoms())
def test_any_shares_bring_the_key_back_and_fewer_do_not(
    key: bytes, threshold: int, more: int, random: Any
) -> None:
    shares = split(key, BACKUP, threshold=threshold, count=threshold + more)
    random.shuffle(shares)
    assert combine(shares, BACKUP, threshold=threshold) == key
    with pytest.raises(CryptoRefused, match=f"it takes {threshold}"):
        combine(shares[: threshold - 1], BACKUP, threshold=threshold)
    # Fewer, believed to be enough, make some other key.
    if threshold > 2:
        assert combine(shares[: threshold - 1], BACKUP, threshold=threshold - 1) != key


def test_shares_that_do_not_belong_together() -> None:
    one = split(bytes(32), BACKUP, threshold=2, count=2)
    other = split(bytes(32), bytes(16), threshold=2, count=2)
    with pytest.raises(CryptoRefused, match="another backup"):
        combine([one[0], other[1]], BACKUP, threshold=2)
    with pytest.raises(CryptoRefused, match="twice"):
        combine([one[0], one[0]], BACKUP, threshold=2)
    assert "part" not in repr(one[0])


def test_a_share_is_its_custodians_alone() -> None:
    (private, public), (other, _) = custody.generate(b"secret"), custody.generate(None)
    share = Share(BACKUP, 1, bytes(32))
    sealed = custody.seal_share(share, custody.load_public(public), "one")
    key, raw = custody.load_private(private, b"secret")
    assert raw == custody.load_public(public)
    assert custody.open_share(sealed, key, BACKUP, "one") == share
    for wrong in (
        (sealed, custody.load_private(other, None)[0], BACKUP, "one"),
        (sealed, key, bytes(16), "one"),
        (sealed, key, BACKUP, "two"),
        (sealed[:-1] + bytes((sealed[-1] ^ 1,)), key, BACKUP, "one"),
        (b"", key, BACKUP, "one"),
    ):
        with pytest.raises(CryptoRefused, match="not for this key"):
            custody.open_share(*wrong)
    for passphrase, said in ((None, "give its passphrase"), (b"other", "passphrase is wrong")):
        with pytest.raises(CryptoRefused, match=said):
            custody.load_private(private, passphrase)
    with pytest.raises(CryptoRefused, match="leave out"):
        custody.load_private(other, b"secret")


# --- backups' files ------------------------------------------------------------------------------


def test_a_backup_is_read_as_it_was_written() -> None:
    key = bytes(32)
    assert read(backup(key, b"one", b"", b"three"), key) == [b"one", b"", b"three"]


def test_a_backup_that_is_cut_off_anywhere_is_refused() -> None:
    key = bytes(32)
    whole = backup(key, b"one", b"two")
    for size in range(len(whole)):
        with pytest.raises(CryptoRefused, match=r"no backup|cut off"):
            read(whole[:size], key)
    with pytest.raises(CryptoRefused, match="something follows"):
        read(whole + b"\0", key)


@settings(max_examples=150)
@given(st.data())
def test_a_backup_that_is_changed_anywhere_is_refused(data: Any) -> None:
    key = bytes(32)
    whole = backup(key, b"one", b"two")
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes((whole[at] ^ data.draw(st.integers(1, 255)),)) + whole[at + 1 :]
    with pytest.raises(CryptoRefused):
        read(changed, key)


def test_records_of_one_backup_do_not_fit_into_another_place() -> None:
    key = bytes(32)
    head, records = archive.read(io.BytesIO(backup(key, b"one", b"two", b"three")))
    one, two, three, signature = records
    for order in ((two, one, three), (one, three), (one, one, two, three), (one, two)):
        check = Check(head)
        with pytest.raises(CryptoRefused):  # noqa: PT012
            for record in order:
                check.opened(record, AESGCM(key))
            check.finish(signature)
    check = Check(head)
    with pytest.raises(CryptoRefused, match="these shares"):
        check.opened(one, AESGCM(bytes(31) + b"\1"))


def test_a_manifest_with_fewer_shares_than_it_takes_is_none() -> None:
    with pytest.raises(CryptoRefused, match="fewer shares"):
        archive.parse_manifest(manifest(threshold=3, shares=2))
