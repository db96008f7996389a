"""Envelopes: what was sealed comes out, and nothing else does."""

from __future__ import annotations

import datetime
import itertools
import os
import resource
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EnvelopeError, EnvelopeMalformed, EnvelopeRefused, Replayed
from secgear.middleware import envelopes
from secgear.middleware.envelopes import (
    CLASSIC,
    HYBRID,
    EnclaveKeyPair,
    MemoryLedger,
    Opener,
    Sealer,
    TrustedKey,
    seal,
)
from secgear.middleware.envelopes.format import (
    DEFAULT_CHUNK,
    FIXED_SIZE,
    MAX_RECORDS,
    MAX_TOTAL,
    check_room,
)

CHUNK = 4096
RECORD = 4 + CHUNK + 16
HEADER = FIXED_SIZE + 1120 + 48 + 16


@pytest.fixture(params=[HYBRID, CLASSIC])
def both(request: Any, guest: Any, trust: Any) -> tuple[EnclaveKeyPair, TrustedKey]:
    pair = EnclaveKeyPair.create(request.param, guest=guest)
    return pair, trust(pair)


Opening = Callable[..., bytes]


def in_one(pair: EnclaveKeyPair, envelope: bytes, **given: Any) -> bytes:
    return envelopes.open(pair, envelope, **({"purpose": "p"} | given))


def in_pieces(pair: EnclaveKeyPair, envelope: bytes, **given: Any) -> bytes:
    opener = Opener(pair, **({"purpose": "p"} | given))
    return b"".join(opener.stream(envelope[at : at + 999] for at in range(0, len(envelope), 999)))


def by_record(pair: EnclaveKeyPair, envelope: bytes, **given: Any) -> bytes:
    return b"".join(Opener(pair, **({"purpose": "p"} | given)).stream([envelope]))


@pytest.fixture(params=[in_one, in_pieces, by_record])
def opening(request: Any) -> Opening:
    return request.param


def pieces_of(recipient: TrustedKey, data: bytes, **given: Any) -> list[bytes]:
    """Header and records, of the smallest chunks."""
    sealer = Sealer(recipient, **({"purpose": "p", "chunk": CHUNK} | given))
    return [bytes(piece) for piece in sealer.stream([data])]


@pytest.mark.parametrize("size", [0, 1, 16, CHUNK, 262_143, 262_144, 262_145, 600_000])
def test_what_was_sealed_comes_out(
    both: tuple[EnclaveKeyPair, TrustedKey], opening: Opening, size: int
) -> None:
    pair, recipient = both
    data = os.urandom(size)
    envelope = seal(recipient, data, purpose="p", associated=b"query 7")
    assert isinstance(envelope, bytes)
    assert opening(pair, envelope, associated=b"query 7") == data


@given(cuts=st.lists(st.integers(0, 20_000), max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size_make_the_same_envelope(
    pair: EnclaveKeyPair, recipient: TrustedKey, cuts: list[int], data: Any
) -> None:
    plain = os.urandom(data.draw(st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20_000])))
    sealer = Sealer(recipient, purpose="p", chunk=CHUNK)
    envelope = b"".join(sealer.stream(cut_up(plain, cuts)))
    assert len(envelope) == HEADER + len(plain) + (len(plain) // CHUNK + 1) * 20
    opener = Opener(pair, purpose="p")
    pieces = [piece for part in cut_up(envelope, cuts) for piece in opener.feed(part)]
    assert opener.complete
    opener.finish()
    assert b"".join(pieces) == plain
    assert opener.envelope_id == sealer.envelope_id


def cut_up(data: bytes, cuts: list[int]) -> Iterator[memoryview]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return (memoryview(data)[start:end] for start, end in itertools.pairwise(places))


def test_any_buffer_can_be_sealed(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    import numpy as np

    numbers = np.arange(100_000)
    for data in (bytearray(b"abc"), memoryview(b"abc"), memoryview(numbers)):
        assert in_one(pair, seal(recipient, data, purpose="p")) == bytes(data)


def test_two_envelopes_of_the_same_data_have_nothing_in_common(recipient: TrustedKey) -> None:
    one, two = (pieces_of(recipient, bytes(CHUNK)) for _ in range(2))
    assert one[0][FIXED_SIZE:] != two[0][FIXED_SIZE:]
    assert one[1] != two[1]


# --- what an envelope is bound to ----------------------------------------------------------------


def test_other_purpose_is_refused(
    pair: EnclaveKeyPair, recipient: TrustedKey, opening: Opening
) -> None:
    envelope = seal(recipient, b"data", purpose="training")
    with pytest.raises(EnvelopeRefused):
        opening(pair, envelope, purpose="debugging")


def test_other_associated_data_is_refused(
    pair: EnclaveKeyPair, recipient: TrustedKey, opening: Opening
) -> None:
    envelope = seal(recipient, b"data", purpose="p", associated=b"query 7")
    for associated in (b"query 8", b"", b"query 7\0"):
        with pytest.raises(EnvelopeRefused):
            opening(pair, envelope, associated=associated)


def test_other_enclaves_key_is_refused(guest: Any, recipient: TrustedKey, opening: Opening) -> None:
    other = EnclaveKeyPair.create(guest=guest)
    envelope = seal(recipient, b"data", purpose="p")
    with pytest.raises(EnvelopeRefused, match="for the key"):
        opening(other, envelope)
    relabelled = envelope[: FIXED_SIZE - 32] + other.key.id + envelope[FIXED_SIZE:]
    with pytest.raises(EnvelopeRefused, match="was not sealed to this key"):
        opening(other, relabelled)


def test_purposes_of_a_key_hold_on_both_sides(guest: Any, trust: Any) -> None:
    pair = EnclaveKeyPair.create(purposes=["training"], guest=guest)
    recipient = trust(pair)
    envelope = seal(recipient, b"data", purpose="training")
    assert in_one(pair, envelope, purpose="training") == b"data"
    with pytest.raises(EnvelopeRefused, match="not for the purpose"):
        seal(recipient, b"data", purpose="debugging")
    with pytest.raises(EnvelopeRefused, match="not for the purpose"):
        in_one(pair, envelope, purpose="debugging")


def test_envelope_is_not_opened_after_the_key_has_expired(
    pair: EnclaveKeyPair, recipient: TrustedKey, opening: Opening
) -> None:
    envelope = seal(recipient, b"data", purpose="p")
    with pytest.raises(EnvelopeRefused, match="expired"):
        opening(pair, envelope, at=pair.key.expires)


# --- what an envelope's bytes are worth ----------------------------------------------------------


def test_every_flipped_byte_is_refused(both: tuple[EnclaveKeyPair, TrustedKey]) -> None:
    pair, recipient = both
    envelope = seal(recipient, b"a few bytes", purpose="p")
    for at in range(len(envelope)):
        for bit in (1, 0x80):
            changed = bytearray(envelope)
            changed[at] ^= bit
            for opening in (in_one, by_record):
                with pytest.raises((EnvelopeRefused, EnvelopeMalformed)):
                    opening(pair, bytes(changed))


def test_every_truncation_is_refused(both: tuple[EnclaveKeyPair, TrustedKey]) -> None:
    pair, recipient = both
    envelope = seal(recipient, b"a few bytes", purpose="p")
    for size in range(len(envelope)):
        for opening in (in_one, by_record):
            with pytest.raises(EnvelopeRefused, match="truncated"):
                opening(pair, envelope[:size])


@pytest.mark.parametrize(
    ("field", "at", "value"),
    [
        ("magic", 0, b"SGENVLP"),
        ("version", 7, b"\2"),
        ("suite", 8, b"\3"),
        ("suite", 8, b"\0"),
        ("chunk", 9, b"\x0b"),
        ("chunk", 9, b"\x19"),
        ("chunk", 9, b"\xff"),
    ],
)
def test_header_of_another_kind_is_malformed(
    pair: EnclaveKeyPair,
    recipient: TrustedKey,
    opening: Opening,
    field: str,
    at: int,
    value: bytes,
) -> None:
    envelope = bytearray(seal(recipient, bytes(2000), purpose="p"))
    envelope[at : at + len(value)] = value
    with pytest.raises(EnvelopeMalformed):
        opening(pair, bytes(envelope))


@pytest.mark.parametrize(
    ("field", "at"), [("suite", 8), ("chunk", 9), ("prefix", 10), ("key id", 17)]
)
def test_possible_header_that_is_not_the_one_is_refused(
    pair: EnclaveKeyPair, recipient: TrustedKey, opening: Opening, field: str, at: int
) -> None:
    envelope = bytearray(seal(recipient, bytes(2000), purpose="p"))
    envelope[at] ^= 3 if field == "suite" else 1
    with pytest.raises(EnvelopeRefused):
        opening(pair, bytes(envelope))


def _swapped(p: list[bytes], other: list[bytes]) -> list[bytes]:
    return [p[0], p[2], p[1], *p[3:]]


ATTACKS: dict[str, Callable[[list[bytes], list[bytes]], list[bytes]]] = {
    "reordered": _swapped,
    "duplicated": lambda p, other: [*p[:2], p[1], *p[2:]],
    "first missing": lambda p, other: [p[0], *p[2:]],
    "middle missing": lambda p, other: [*p[:2], *p[3:]],
    "last full one missing": lambda p, other: [*p[:-2], p[-1]],
    "only the final one": lambda p, other: [p[0], p[-1]],
    "spliced from another": lambda p, other: [*p[:2], other[2], *p[3:]],
    "end of another": lambda p, other: [*p[:-1], other[-1]],
    "header of another": lambda p, other: [other[0], *p[1:]],
    "final one in the middle": lambda p, other: [*p[:2], p[-1], *p[2:]],
    "final one twice": lambda p, other: [*p, p[-1]],
    "one more": lambda p, other: [*p, p[1]],
    "a byte more": lambda p, other: [*p, b"\0"],
    "a whole other one": lambda p, other: [*p, *other],
    "not marked as final": lambda p, other: [*p[:-1], b"\0" + p[-1][1:]],
    "marked as final": lambda p, other: [p[0], b"\x80" + p[1][1:], *p[2:]],
    "shortened": lambda p, other: [p[0], b"\x80\0\x0f\xff" + p[1][4:-1]],
    "empty record": lambda p, other: [p[0], bytes(20), *p[1:]],
    "huge record": lambda p, other: [p[0], b"\x7f\xff\xff\xff", *p[1:]],
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_records_that_are_not_in_their_place_are_refused(
    pair: EnclaveKeyPair, recipient: TrustedKey, opening: Opening, attack: Any
) -> None:
    data = os.urandom(3 * CHUNK + 5)
    pieces, other = pieces_of(recipient, data), pieces_of(recipient, data)
    assert opening(pair, b"".join(pieces)) == data
    with pytest.raises((EnvelopeRefused, EnvelopeMalformed)):
        opening(pair, b"".join(attack(pieces, other)))


@pytest.mark.parametrize("size", [3 * CHUNK, 3 * CHUNK + 5])
def test_truncation_between_records_shows_at_the_end(
    pair: EnclaveKeyPair, recipient: TrustedKey, size: int
) -> None:
    pieces = pieces_of(recipient, bytes(size))
    for count in range(len(pieces)):
        opener = Opener(pair, purpose="p")
        for piece in pieces[:count]:
            opener.feed(piece)
        assert not opener.complete
        with pytest.raises(EnvelopeRefused, match="truncated"):
            opener.finish()
        with pytest.raises(EnvelopeRefused, match="refused already"):
            opener.feed(pieces[count])


def test_data_comes_only_after_its_own_tag(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    pieces = pieces_of(recipient, b"x" * CHUNK * 2)
    opener = Opener(pair, purpose="p")
    assert opener.feed(pieces[0]) == []
    assert opener.feed(pieces[1][:-1]) == []
    assert opener.feed(pieces[1][-1:]) == [b"x" * CHUNK]
    changed = pieces[2][:-1] + bytes([pieces[2][-1] ^ 1])
    with pytest.raises(EnvelopeRefused, match="record 2"):
        opener.feed(changed)
    with pytest.raises(EnvelopeRefused, match="refused already"):
        opener.feed(pieces[2])
    with pytest.raises(EnvelopeRefused):
        opener.finish()


@given(junk=st.binary(max_size=3000), genuine=st.integers(0, 3000))
@settings(deadline=None)
def test_junk_never_opens(
    pair: EnclaveKeyPair, recipient: TrustedKey, junk: bytes, genuine: int
) -> None:
    envelope = seal(recipient, bytes(1000), purpose="p")
    data = envelope[:genuine] + junk
    if data != envelope:
        for opening in (in_one, by_record):
            with pytest.raises((EnvelopeMalformed, EnvelopeRefused)):
                opening(pair, data)


# --- replay --------------------------------------------------------------------------------------


def test_envelope_opens_once(pair: EnclaveKeyPair, recipient: TrustedKey, opening: Opening) -> None:
    ledger = MemoryLedger()
    envelope = seal(recipient, b"data", purpose="p")
    assert opening(pair, envelope, ledger=ledger) == b"data"
    with pytest.raises(Replayed):
        opening(pair, envelope, ledger=ledger)
    again = seal(recipient, b"data", purpose="p")
    assert opening(pair, again, ledger=ledger) == b"data"


def test_replay_gives_no_data_at_all(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    ledger = MemoryLedger()
    pieces = pieces_of(recipient, bytes(3 * CHUNK))
    by_record(pair, b"".join(pieces), ledger=ledger)
    opener = Opener(pair, purpose="p", ledger=ledger)
    assert opener.feed(pieces[0]) == []
    with pytest.raises(Replayed):
        opener.feed(pieces[1])


def test_damaged_copy_does_not_use_up_an_envelope(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    ledger = MemoryLedger()
    envelope = seal(recipient, bytes(600_000), purpose="p")
    for damaged in (envelope[:-1], envelope[:-1] + b"x"):
        with pytest.raises(EnvelopeRefused):
            in_one(pair, damaged, ledger=ledger)
    assert in_one(pair, envelope, ledger=ledger) == bytes(600_000)


def test_full_ledger_refuses_and_does_not_forget(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    ledger = MemoryLedger(capacity=2)
    sealed = [seal(recipient, b"data", purpose="p") for _ in range(3)]
    for envelope in sealed[:2]:
        in_one(pair, envelope, ledger=ledger)
    with pytest.raises(EnvelopeRefused, match="full"):
        in_one(pair, sealed[2], ledger=ledger)
    for envelope in sealed[:2]:
        with pytest.raises(Replayed):
            in_one(pair, envelope, ledger=ledger)


def test_ledger_forgets_expired_keys_for_good() -> None:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    hour = datetime.timedelta(hours=1)
    ledger = MemoryLedger(capacity=2)
    ledger.record(b"old", b"1", expires=start + hour, at=start)
    ledger.record(b"old", b"2", expires=start + hour, at=start)
    ledger.record(b"new", b"1", expires=start + 9 * hour, at=start + hour)  # makes room
    assert len(ledger) == 1
    with pytest.raises(EnvelopeRefused, match="expired"):
        ledger.record(b"old", b"1", expires=start + hour, at=start)  # the clock was put back
    with pytest.raises(Replayed):
        ledger.record(b"new", b"1", expires=start + 9 * hour, at=start)
    assert repr(ledger) == "MemoryLedger(1 of 2)"


# --- limits, misuse, secrets ---------------------------------------------------------------------


def test_sealer_ends_with_finish(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    sealer = Sealer(recipient, purpose="p", chunk=CHUNK)
    assert sealer.update(b"abc") == []
    envelope = sealer.header + sealer.finish()
    assert in_one(pair, envelope) == b"abc"
    for act in (sealer.finish, lambda: sealer.update(b"x"), lambda: sealer.whole(b"x")):
        with pytest.raises(EnvelopeRefused, match="finished"):
            act()


def test_begun_sealer_and_opener_do_not_start_over(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    sealer = Sealer(recipient, purpose="p")
    sealer.update(b"abc")
    with pytest.raises(EnvelopeRefused, match="another Sealer"):
        sealer.whole(b"def")
    envelope = seal(recipient, b"data", purpose="p")
    opener = Opener(pair, purpose="p")
    opener.feed(envelope[:5])
    with pytest.raises(EnvelopeRefused, match="another Opener"):
        opener.whole(envelope)


@pytest.mark.parametrize("chunk", [0, 1, 4095, 5000, 2048, 32 << 20])
def test_chunk_of_another_size_is_refused(recipient: TrustedKey, chunk: int) -> None:
    with pytest.raises(EnvelopeMalformed):
        Sealer(recipient, purpose="p", chunk=chunk)


@pytest.mark.parametrize("purpose", ["", "x" * 256, "\ud800"])
def test_purpose_that_is_none_is_refused(
    pair: EnclaveKeyPair, recipient: TrustedKey, purpose: str
) -> None:
    with pytest.raises(EnvelopeMalformed):
        seal(recipient, b"", purpose=purpose)
    with pytest.raises(EnvelopeMalformed):
        Opener(pair, purpose=purpose)


def test_envelope_ends_before_its_nonces_do(recipient: TrustedKey) -> None:
    check_room(MAX_RECORDS, MAX_TOTAL)
    with pytest.raises(EnvelopeRefused):
        check_room(MAX_RECORDS + 1, 0)
    with pytest.raises(EnvelopeRefused):
        check_room(1, MAX_TOTAL + 1)
    sealer = Sealer(recipient, purpose="p", chunk=CHUNK)
    sealer._records = MAX_RECORDS
    with pytest.raises(EnvelopeRefused, match="at most"):
        sealer.update(bytes(CHUNK))


def test_terabytes_into_an_envelope_it_goes_on_as_at_its_beginning(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    """Both sides are put behind the data that nobody waits for here."""
    sealer, opener = Sealer(recipient, purpose="p"), Opener(pair, purpose="p")
    opener.feed(sealer.header)
    for side in (sealer, opener):
        side._records = MAX_RECORDS - 3
        side._total = (MAX_RECORDS - 3) * DEFAULT_CHUNK
    assert sealer.total >> 40 == 1023
    first, second = sealer.update(bytes(2 * DEFAULT_CHUNK))
    ahead = Opener(pair, purpose="p")
    ahead.feed(sealer.header)
    with pytest.raises(EnvelopeRefused, match="out of order"):
        ahead.feed(first)
    assert [len(data) for data in opener.feed(first + second)] == [DEFAULT_CHUNK] * 2
    with pytest.raises(EnvelopeRefused, match="at most"):
        sealer.update(bytes(DEFAULT_CHUNK))
    assert opener.feed(sealer.finish()) == []
    opener.finish()


def test_content_key_and_data_show_nowhere(
    pair: EnclaveKeyPair, recipient: TrustedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = b"canary-key-material-32-bytes-lng"
    real = os.urandom
    with monkeypatch.context() as patched:
        patched.setattr(os, "urandom", lambda size: canary if size == 32 else real(size))
        sealer = Sealer(recipient, purpose="p", chunk=CHUNK)
        envelope = sealer.header + b"".join(sealer.update(b"canary-data" * 1000)) + sealer.finish()
    opener = Opener(pair, purpose="p")
    shown = [repr(sealer), repr(recipient), repr(pair)]
    opener.feed(envelope[:HEADER])
    shown.append(repr(opener))
    header = envelope[:HEADER]
    for bad in (header + b"\xff" * 20, header + bytes(RECORD), envelope[:-1] + b"x"):
        for opening in (in_one, by_record):
            try:
                opening(pair, bad)
            except EnvelopeError:
                shown.append(traceback.format_exc())
    assert len(shown) == 10
    for text in shown:
        assert "canary" not in text
        assert canary.hex() not in text
    assert canary not in envelope
    assert b"canary-data" not in envelope


def test_failed_opening_leaves_no_data_behind(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    envelope = seal(recipient, b"canary-data" * 50_000, purpose="p")
    with pytest.raises(EnvelopeRefused) as caught:
        in_one(pair, envelope[:-1] + bytes([envelope[-1] ^ 1]))
    frame = caught.value.__traceback__
    while frame is not None:
        for value in frame.tb_frame.f_locals.values():
            if isinstance(value, bytes | bytearray):
                assert b"canary-data" not in value or value is envelope
        made = frame.tb_frame.f_locals.get("made")
        if made is not None:
            assert b"canary" not in made.getvalue()
            break
        frame = frame.tb_next
    else:
        pytest.fail("the buffer was not found")


def test_stream_of_two_gibibytes_takes_no_more_memory(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    piece = memoryview(bytes(4 << 20))
    total = 2 << 30

    def flow(count: int) -> int:
        sealer = Sealer(recipient, purpose="p", chunk=1 << 20)
        opener = Opener(pair, purpose="p")
        return sum(map(len, opener.stream(sealer.stream(itertools.repeat(piece, count)))))

    flow(4)  # whatever there is to warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert flow(total // len(piece)) == total
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 16 << 10  # KiB
