"""What is sealed opens for whom it was sealed, once more and unchanged, and for nobody else."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import SealingPolicy
from secgear.errors import RolledBack, SealedForOther, SealedMalformed, SealingError
from secgear.middleware.sealing import (
    Header,
    commit,
    derive_key,
    parse,
    reseal,
    seal,
    store,
    unseal,
    version_of,
)
from secgear.middleware.sealing.counters import MAX_VALUE
from secgear.middleware.sealing.format import MAGIC
from tests.middleware.sealing.conftest import FakeGuest, MemoryCounter

SIGNER, MEASUREMENT = SealingPolicy.SIGNER, SealingPolicy.MEASUREMENT


@settings(deadline=None)
@given(
    data=st.binary(max_size=300),
    aad=st.binary(max_size=50),
    policy=st.sampled_from([*SealingPolicy]),
)
def test_what_is_sealed_opens_again(data: bytes, aad: bytes, policy: SealingPolicy) -> None:
    guest = FakeGuest()
    sealed = seal(data, policy=policy, aad=aad, guest=guest)
    assert unseal(sealed, aad=aad, guest=FakeGuest()) == data
    header, _ = parse(sealed)
    assert (header.policy, header.svn, header.counter, header.value) == (policy, 3, b"", 0)
    assert len(data) < 8 or data not in sealed[54:]


def test_two_seals_have_nothing_in_common(guest: FakeGuest) -> None:
    first, second = (seal(bytes(100), guest=guest) for _ in range(2))
    assert first[54:] != second[54:]
    assert parse(first)[0].salt != parse(second)[0].salt


@pytest.mark.parametrize(
    ("other", "policy"),
    [
        (FakeGuest(measurement="n"), MEASUREMENT),
        (FakeGuest(root="another machine"), MEASUREMENT),
        (FakeGuest(root="another machine"), SIGNER),
        (FakeGuest(signer="t"), SIGNER),
        (FakeGuest(svn=2), SIGNER),
        (FakeGuest(signer=""), SIGNER),
    ],
)
def test_others_can_not_open_it(guest: FakeGuest, other: FakeGuest, policy: SealingPolicy) -> None:
    with pytest.raises(SealedForOther):
        unseal(seal(b"x", policy=policy, guest=guest), guest=other)


def test_other_associated_data_is_refused(guest: FakeGuest) -> None:
    with pytest.raises(SealedForOther):
        unseal(seal(b"x", aad=b"a", guest=guest), aad=b"b", guest=guest)
    with pytest.raises(SealedForOther):
        unseal(seal(b"x", guest=guest), aad=b"b", guest=guest)


def test_newer_version_reads_and_reseals_and_the_older_is_locked_out() -> None:
    old, new = FakeGuest("old", svn=3), FakeGuest("new", svn=5)
    sealed = seal(b"state", policy=SIGNER, guest=old)
    assert unseal(sealed, guest=new) == b"state"
    again = reseal(sealed, guest=new)
    assert parse(again)[0].svn == 5
    assert unseal(again, guest=new) == b"state"
    with pytest.raises(SealedForOther, match="above the enclave's own"):
        unseal(again, guest=old)


def test_floor_of_versions(guest: FakeGuest) -> None:
    sealed = seal(b"x", policy=SIGNER, svn=1, guest=guest)
    assert unseal(sealed, min_svn=1, guest=guest) == b"x"
    with pytest.raises(SealedForOther, match="svn 1; 2 at least"):
        unseal(sealed, min_svn=2, guest=guest)
    with pytest.raises(SealedForOther):
        seal(b"x", policy=SIGNER, svn=4, guest=guest)


def test_what_was_sealed_under_another_policy_than_is_expected_is_refused(guest: FakeGuest) -> None:
    """A host can sign an image itself; then another program seals for it."""
    for policy, other in ((SIGNER, MEASUREMENT), (MEASUREMENT, SIGNER)):
        sealed = seal(b"x", policy=policy, guest=guest)
        assert unseal(sealed, policy=policy, guest=guest) == b"x"
        with pytest.raises(SealedForOther, match=f"sealed to the {policy.value}, not to the"):
            unseal(sealed, policy=other, guest=guest)


# --- counters ------------------------------------------------------------------------------------


def test_rollback_is_refused_by_name(guest: FakeGuest) -> None:
    counter = MemoryCounter()
    kept: list[bytes] = []
    for number, version in enumerate((b"one", b"two", b"three")):
        store(version, kept.append, counter=counter, after=number, guest=guest)
    assert unseal(kept[-1], counter=counter, guest=guest) == b"three"
    for old in kept[:-1]:
        with pytest.raises(RolledBack, match="there is newer data"):
            unseal(old, counter=counter, guest=guest)


def test_crash_between_storing_and_counting_loses_nothing(guest: FakeGuest) -> None:
    counter = MemoryCounter()
    kept: list[bytes] = []
    store(b"one", kept.append, counter=counter, after=counter.read().value, guest=guest)
    kept.append(seal(b"two", counter=counter, after=1, guest=guest))  # and then the power went
    assert unseal(kept[0], counter=counter, guest=guest) == b"one"
    assert unseal(kept[1], counter=counter, guest=guest) == b"two"
    assert counter.read().value == 2
    with pytest.raises(RolledBack):
        unseal(kept[0], counter=counter, guest=guest)


def test_version_that_was_never_acknowledged_can_not_replace_the_one_that_was(
    guest: FakeGuest,
) -> None:
    """The host stops the enclave before it counts, keeps that version, and brings it later."""
    counter = MemoryCounter()
    kept: list[bytes] = []
    store(b"one", kept.append, counter=counter, after=counter.read().value, guest=guest)
    abandoned = seal(b"two, abandoned", counter=counter, after=1, guest=guest)
    assert unseal(kept[0], counter=counter, guest=guest) == b"one"  # the next start
    store(b"two", kept.append, counter=counter, after=1, guest=guest)
    with pytest.raises(RolledBack, match="other data was acknowledged"):
        unseal(abandoned, counter=counter, guest=guest)
    assert unseal(kept[1], counter=counter, guest=guest) == b"two"


def test_data_without_counting_is_not_the_newest_until_it_is_committed(guest: FakeGuest) -> None:
    counter = MemoryCounter()
    first, second = (seal(name, counter=counter, after=0, guest=guest) for name in (b"one", b"two"))
    commit(first, counter=counter)
    commit(first, counter=counter)  # asking again is harmless
    with pytest.raises(RolledBack, match="somebody else"):
        commit(second, counter=counter)
    with pytest.raises(SealingError, match="another counter"):
        commit(first, counter=MemoryCounter(identity=b"another"))
    assert unseal(first, counter=counter, guest=guest) == b"one"


def test_counter_that_was_set_back_is_noticed(guest: FakeGuest) -> None:
    counter = MemoryCounter(7)
    kept: list[bytes] = []
    store(b"one", kept.append, counter=counter, after=counter.read().value, guest=guest)
    counter.standing = MemoryCounter(3).standing
    with pytest.raises(RolledBack, match="set back"):
        unseal(kept[0], counter=counter, guest=guest)


def test_nothing_is_sealed_at_the_end_of_a_counter(guest: FakeGuest) -> None:
    for after in (MAX_VALUE, -1):
        with pytest.raises(SealingError, match="nothing comes after"):
            seal(b"x", counter=MemoryCounter(MAX_VALUE), after=after, guest=guest)
    for half in ({"counter": MemoryCounter()}, {"after": 0}):
        with pytest.raises(SealingError, match="go together"):
            seal(b"x", guest=guest, **half)  # type: ignore[arg-type]


def test_twin_of_an_enclave_can_not_undo_what_was_stored(guest: FakeGuest) -> None:
    """The host starts the enclave twice: both have the first version."""
    counter = MemoryCounter()
    kept: list[bytes] = []
    store(b"one", kept.append, counter=counter, after=0, guest=guest)
    base = version_of(kept[0])
    store(b"two, of the first", kept.append, counter=counter, after=base, guest=guest)
    with pytest.raises(RolledBack, match="somebody else"):
        store(b"two, of its twin", kept.append, counter=counter, after=base, guest=guest)
    assert unseal(kept[1], counter=counter, guest=guest) == b"two, of the first"
    with pytest.raises(RolledBack):
        unseal(kept[2], counter=counter, guest=guest)


def test_resealed_data_is_the_next_version(guest: FakeGuest) -> None:
    counter = MemoryCounter()
    kept: list[bytes] = []
    store(b"one", kept.append, counter=counter, after=0, guest=guest)
    again = reseal(kept[0], counter=counter, guest=guest)
    assert (version_of(kept[0]), version_of(again)) == (1, 2)
    commit(again, counter=counter)
    with pytest.raises(RolledBack):
        unseal(kept[0], counter=counter, guest=guest)
    assert unseal(again, counter=counter, guest=guest) == b"one"


@pytest.mark.parametrize("given_counter", [None, MemoryCounter(identity=b"another")])
def test_counter_is_part_of_it(guest: FakeGuest, given_counter: MemoryCounter | None) -> None:
    with pytest.raises(SealedForOther, match="another counter"):
        unseal(
            seal(b"x", counter=MemoryCounter(), after=0, guest=guest),
            counter=given_counter,
            guest=guest,
        )
    with pytest.raises(SealedForOther, match="without a counter"):
        unseal(seal(b"x", guest=guest), counter=MemoryCounter(), guest=guest)


def test_counter_that_somebody_else_uses_is_noticed(guest: FakeGuest) -> None:
    counter = MemoryCounter()
    with pytest.raises(RolledBack, match="somebody else"):
        store(b"x", lambda _: counter.advance(1, bytes(32)), counter=counter, after=0, guest=guest)


# --- bytes of unknown worth ----------------------------------------------------------------------


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_as_such(data: bytes) -> None:
    for given_data in (data, MAGIC + data):
        with pytest.raises(SealingError):
            unseal(given_data, guest=FakeGuest())


def test_every_flipped_bit_and_every_cut_is_refused(guest: FakeGuest) -> None:
    counter = MemoryCounter()
    sealed = seal(b"secret", aad=b"a", counter=counter, after=0, guest=guest)
    commit(sealed, counter=counter)
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(SealingError):
            unseal(changed, aad=b"a", counter=counter, guest=guest)
    for length in range(len(sealed)):
        with pytest.raises(SealingError):
            unseal(sealed[:length], aad=b"a", counter=counter, guest=guest)
    with pytest.raises(SealingError):
        unseal(sealed + b"\0", aad=b"a", counter=counter, guest=guest)


@pytest.mark.parametrize(("identity", "value"), [(b"", 1), (b"c", 0), (b"c", 2**64 - 1)], ids=repr)
def test_header_with_half_a_counter_is_malformed(identity: bytes, value: int) -> None:
    header = Header(MEASUREMENT, 1, bytes(32), identity, value)
    with pytest.raises(SealedMalformed, match="a counter without a value"):
        parse(header.pack() + bytes(16))


def test_no_purpose_derives_a_key_of_sealed_data(guest: FakeGuest) -> None:
    sealed = seal(b"data", guest=guest)
    header, rest = parse(sealed)
    for purpose in ("seal", "sealing", "v1", "secgear sealing v1"):
        material = derive_key(purpose, salt=header.salt, size=44, guest=guest)
        with pytest.raises(InvalidTag):
            AESGCM(material[:32]).decrypt(material[32:], rest, header.pack())
    # A shorter key is no beginning of a longer one.
    long = derive_key("p", salt=b"s", size=64, guest=guest)
    assert derive_key("p", salt=b"s", size=32, guest=guest) != long[:32]


def test_format_is_what_is_written_down(guest: FakeGuest) -> None:
    """Opened with nothing but a library, after the text of `format`."""
    sealed = seal(b"data", aad=b"mine", policy=SIGNER, guest=guest)
    assert sealed[:10] == b"secseal\x01\x02\x00"
    assert sealed[10:22] == (3).to_bytes(4, "big") + bytes(8)
    secret = hashlib.sha256(b"machine/signer/s/3").digest()
    kdf = HKDF(hashes.SHA384(), 44, salt=sealed[22:54], info=b"secgear sealing v1\0")
    material = kdf.derive(secret)
    plain = AESGCM(material[:32]).decrypt(material[32:], sealed[54:], sealed[:54] + b"mine")
    assert plain == b"data"


def test_other_versions_are_named(guest: FakeGuest) -> None:
    sealed = bytearray(seal(b"x", guest=guest))
    sealed[7] = 2
    with pytest.raises(SealedMalformed, match="version 2; this release reads 1"):
        unseal(sealed, guest=guest)


def test_derived_keys_differ_in_everything() -> None:
    def key(purpose: str = "p", salt: bytes = b"s", **given_guest: Any) -> bytes:
        return derive_key(purpose, salt=salt, guest=FakeGuest(**given_guest))

    assert key() == key()
    others = [key("q"), key(salt=b"t"), key(measurement="n"), key(root="r")]
    assert len({key(), *others}) == 5
    assert len(derive_key("p", salt=b"s", size=64, guest=FakeGuest())) == 64
    with pytest.raises(ValueError, match="purpose"):
        derive_key("", salt=b"s", guest=FakeGuest())


def test_no_secret_is_shown(guest: FakeGuest) -> None:
    sealed = seal(b"CANARY", guest=guest)
    with pytest.raises(SealedForOther) as caught:
        unseal(sealed, aad=b"x", guest=guest)
    assert "CANARY" not in repr(caught.value) + repr(parse(sealed)[0])
