"""Master keys and encryption at rest, without a server."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import KeyFileError
from secgear.middleware.attestation.broker import masterkey
from secgear.middleware.attestation.broker.masterkey import MasterKey, MasterKeyFile
from secgear.middleware.attestation.broker.names import SecretInvalid, SecretName
from secgear.middleware.attestation.broker.vault import Sealed, Secret, Vault, VaultError

NAME = SecretName("default", "key", "disk")
KEYS = (MasterKey(b"1" * 32), MasterKey(b"2" * 32))
VAULT = Vault(lambda: KEYS)
PARTS = st.text("abcdefghijklmnopqrstuvwxyzABZ019_-", min_size=1, max_size=8)


@given(content=st.binary(max_size=300), repository=PARTS, kind=PARTS, tag=PARTS)
def test_what_is_sealed_opens(content: bytes, repository: str, kind: str, tag: str) -> None:
    name = SecretName(repository, kind, tag)
    sealed = VAULT.seal(Secret(name, content), 3, "policy")
    assert VAULT.open(sealed) == Secret(name, content)
    assert len(sealed.ciphertext) == len(content) + 16


def test_two_versions_share_no_salt_and_no_nonce() -> None:
    one, two = (VAULT.seal(Secret(NAME, b"secret"), 1, "policy") for _ in range(2))
    assert not {one.salt, one.nonce, one.ciphertext} & {two.salt, two.nonce, two.ciphertext}


@pytest.mark.parametrize(
    "change",
    [
        {"name": SecretName("default", "key", "other")},
        {"name": SecretName("default", "other", "disk")},
        {"name": SecretName("other", "key", "disk")},
        {"name": SecretName("default", "keyd", "isk")},
        {"name": SecretName("defaultk", "ey", "disk")},
        {"version": 2},
        {"policy": "lax"},
        {"salt": bytes(32)},
        {"salt": b""},
        {"nonce": bytes(12)},
        {"nonce": b""},
        {"ciphertext": b""},
        {"ciphertext": bytes(40)},
        {"master": KEYS[1].id},
        {"master": b""},
    ],
)
def test_a_changed_row_opens_as_nothing(change: dict[str, object]) -> None:
    sealed = VAULT.seal(Secret(NAME, b"the content"), 1, "policy")
    with pytest.raises(VaultError, match="secret ") as caught:
        VAULT.open(msgspec.structs.replace(sealed, **change))
    assert "the content" not in str(caught.value)


@given(st.data())
def test_no_bit_can_be_changed(data: st.DataObject) -> None:
    sealed = VAULT.seal(Secret(NAME, b"the content"), 1, "policy")
    field = data.draw(st.sampled_from(["salt", "nonce", "ciphertext", "master"]))
    value = bytearray(getattr(sealed, field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(VaultError):
        VAULT.open(msgspec.structs.replace(sealed, **{field: bytes(value)}))


def test_all_keys_open_and_the_first_one_seals() -> None:
    old = Vault(lambda: KEYS[1:]).seal(Secret(NAME, b"old"), 1, "policy")
    assert VAULT.open(old).content == b"old"
    assert VAULT.seal(Secret(NAME, b"new"), 2, "policy").master == KEYS[0].id


def test_nothing_that_is_printed_shows_a_secret() -> None:
    secret = Secret(NAME, b"the content")
    for value in (secret, VAULT.seal(secret, 1, "p"), VAULT, *KEYS, [secret], {"s": secret}):
        text = f"{value!r} {value}"
        assert "the content" not in text
        assert "1" * 32 not in text


@pytest.mark.parametrize(
    "name", ["", "a/b", "a/b/c/d", "a//c", "./b/c", "a/../c", "a/b/c d", "a/b/ü", "a/b/c\n"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(SecretInvalid):
        SecretName.parse(name)


def test_a_key_file_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "master.key"
    threads = [threading.Thread(target=masterkey.create, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_bytes()
    assert len(content) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    masterkey.create(path)
    assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["master.key"]


def test_a_key_file_that_another_instance_has_just_made_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "master.key"
    masterkey.create(path)
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: False)  # as it was a moment ago
        masterkey.create(path)
    assert path.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    masterkey.create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        _ = MasterKeyFile(path).keys


@pytest.mark.parametrize(
    "content", [b"", b"k" * 31, b"k" * 33, b"k" * 64, bytes(32), os.urandom(32 * 17)]
)
def test_a_file_that_is_no_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="different keys"):
        _ = MasterKeyFile(path).keys


def test_a_missing_key_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        _ = MasterKeyFile(tmp_path / "master.key").keys


def test_keys_are_added_and_dropped_while_others_look(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    masterkey.create(path)
    file = MasterKeyFile(path)
    (old,) = file.keys
    new = masterkey.add_key(path)
    assert [key.id for key in file.keys] == [new.id, old.id]
    assert masterkey.keep_first_key(path) == 1
    assert [key.id for key in file.keys] == [new.id]
    assert masterkey.keep_first_key(path) == 0
    for _ in range(masterkey.MAX_KEYS - 1):
        masterkey.add_key(path)
    with pytest.raises(KeyFileError, match="16 keys"):
        masterkey.add_key(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lost_key_file_makes_secrets_unreadable_and_says_so(tmp_path: Path) -> None:
    file = MasterKeyFile(tmp_path / "none")
    sealed = VAULT.seal(Secret(NAME, b"x"), 1, "policy")
    assert isinstance(sealed, Sealed)
    with pytest.raises(VaultError, match="No such file"):
        Vault(lambda: file.keys).open(sealed)
