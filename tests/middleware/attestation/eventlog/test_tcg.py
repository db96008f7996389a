"""Logs of measured boot: replayed exactly, bounded, and never believed further than that."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import eventlog
from secgear.middleware.attestation.eventlog import tcg
from tests.adversary.vendors.tpm import SHA256, event_log, extended

Read = Callable[[str], bytes]
EVENTS = [(0, b"a"), (7, b"b"), (7, b"c")]


def legacy(events: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(
        struct.pack("<II", register, kind)
        + hashlib.sha1(data).digest()
        + struct.pack("<I", len(data))
        + data
        for register, kind, data in events
    )


def test_the_replay_is_the_chain_of_digests() -> None:
    log = eventlog.parse(event_log(EVENTS))
    assert log.algorithms == ("sha256",)
    values = extended(EVENTS)
    assert log.replay("sha256") == {0: values[0], 7: values[7]}
    assert [event.data for event in log.events[1:]] == [b"a", b"b", b"c"]


@given(
    st.lists(st.tuples(st.integers(0, 23), st.binary(max_size=20)), max_size=8),
    st.sampled_from([(SHA256,), (0x0004, SHA256), (0x0004, SHA256, 0x000C, 0x000D)]),
)
def test_any_log_is_replayed(events: list[tuple[int, bytes]], algorithms: tuple[int, ...]) -> None:
    log = eventlog.parse(event_log(events, algorithms=algorithms))
    values = extended(events)
    assert log.replay("sha256") == {register: values[register] for register, _ in events}
    assert len(log.algorithms) == len(algorithms)


@pytest.mark.parametrize("padding", [b"\0" * 100, b"\xff" * 100, b"\xff" * 5])
def test_padding_after_the_end_is_passed_over(padding: bytes) -> None:
    assert eventlog.parse(event_log(EVENTS) + padding) == eventlog.parse(event_log(EVENTS))


def test_entries_behind_padding_are_refused() -> None:
    with pytest.raises(EvidenceRefused, match="after padding"):
        eventlog.parse(event_log(EVENTS) + bytes(40) + b"\1")


def test_the_older_form_has_sha_1_alone() -> None:
    log = eventlog.parse(legacy([(0, 1, b"x"), (4, 5, b"y")]))
    assert log.algorithms == ("sha1",)
    assert log.replay("sha1")[4] == hashlib.sha1(bytes(20) + hashlib.sha1(b"y").digest()).digest()
    with pytest.raises(EvidenceUnsupported, match="no sha256"):
        log.replay("sha256")


def test_an_event_without_action_extends_nothing() -> None:
    log = event_log([]) + struct.pack("<IIIH", 3, tcg.EV_NO_ACTION, 1, SHA256) + b"\1" * 32
    assert eventlog.parse(log + struct.pack("<I", 0)).replay("sha256") == {}


def test_the_startup_locality_is_where_pcr_0_begins() -> None:
    def locality(data: bytes) -> bytes:
        head = struct.pack("<IIIH", 0, tcg.EV_NO_ACTION, 1, SHA256) + bytes(32)
        return head + struct.pack("<I", len(data)) + data

    first = event_log([])
    measured = event_log([(0, b"a")])[len(first) :]
    log = first + locality(b"StartupLocality\0\3") + measured
    digest = hashlib.sha256(bytes(31) + b"\3" + hashlib.sha256(b"a").digest()).digest()
    assert eventlog.parse(log).replay("sha256") == {0: digest}
    for bad in (first + locality(b"StartupLocality\0"), log + locality(b"StartupLocality\0\3")):
        with pytest.raises(EvidenceRefused):
            eventlog.parse(bad).replay("sha256")


def spec_id(algorithms: list[tuple[int, int]], tail: bytes = b"\0") -> bytes:
    data = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    data += b"".join(struct.pack("<HH", *one) for one in algorithms) + tail
    return struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(31),
        spec_id([]),
        spec_id([(SHA256, 20)]),
        spec_id([(SHA256, 32), (SHA256, 32)]),
        spec_id([(0x7777, 32)]),
        spec_id([(SHA256, 32)], b"\5"),
        spec_id([(SHA256, 32)], b"\0more"),
        spec_id([(SHA256, 32)]) + struct.pack("<III", 24, 1, 1),  # no such register
        spec_id([(SHA256, 32)]) + struct.pack("<III", 0, 1, 2),  # one digest too many
        spec_id([(SHA256, 32)]) + struct.pack("<III", 0, 1, 0xFFFFFFFF),
        spec_id([(SHA256, 32)]) + struct.pack("<IIIH", 0, 1, 1, 0x000C) + bytes(52),
        spec_id([(SHA256, 32)])
        + struct.pack("<IIIH", 0, 1, 1, SHA256)
        + bytes(32)
        + struct.pack("<I", 0xFFFFFFFF),
        spec_id([(0x0004, 20), (SHA256, 32)])
        + struct.pack("<IIIH", 0, 1, 2, 0x0004)
        + bytes(20)
        + struct.pack("<H", 0x0004)
        + bytes(24),
        bytes(tcg.MAX_SIZE + 1),
    ],
)
def test_malformed_logs_are_refused(data: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        eventlog.parse(data)


def test_the_number_of_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcg, "MAX_EVENTS", 3)
    with pytest.raises(EvidenceRefused, match="more than 3"):
        eventlog.parse(event_log(EVENTS))
    with pytest.raises(EvidenceRefused, match="more than 3"):
        eventlog.parse(legacy([(0, 1, b"x")] * 4))


@given(st.binary(max_size=300), st.integers(0, 400))
def test_rubbish_is_refused_or_replayed(data: bytes, cut: int) -> None:
    for log in (data, event_log(EVENTS)[:cut] + data):
        try:
            parsed = eventlog.parse(log)
            for algorithm in parsed.algorithms:
                parsed.replay(algorithm)
        except EvidenceRefused:
            continue


@pytest.mark.parametrize(
    ("name", "quote", "events"), [("gotdx-ccel_data.dat", "gotdx-cos-113-tdx-quote.dat", 43)]
)
def test_a_real_ccel_gives_the_registers_of_its_quote(
    vector: Read, name: str, quote: str, events: int
) -> None:
    log = eventlog.parse(vector(f"tdx/{name}"))
    body = vector(f"tdx/{quote}")[48:]
    replayed = log.replay("sha384")
    assert len(log.events) - 1 == events
    for index in range(4):
        register = body[328 + 48 * index : 376 + 48 * index]
        assert replayed.get(index + 1, bytes(48)) == register


@pytest.mark.parametrize(
    ("name", "events", "algorithms"),
    [
        ("gotpm-rhel8-uefi.bin", 83, 3),
        ("gotpm-ubuntu-2404-amd-sevsnp.bin", 117, 3),
        ("gotpm-debian-10.bin", 25, 1),
        ("gotpm-arch-linux-workstation.bin", 25, 2),
        ("trustee-CCEL_data_csv", 83, 1),
    ],
)
def test_real_logs_are_read(vector: Read, name: str, events: int, algorithms: int) -> None:
    log = eventlog.parse(vector(f"eventlog/{name}"))
    assert (len(log.events), len(log.algorithms)) == (events, algorithms)
