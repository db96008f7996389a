"""Logs in the TCG's encodings: crypto-agile (also Intel's CCEL), and the older SHA-1 form.

TCG PC Client Platform Firmware Profile 1.06, section 10; for CCEL the Guest-Host-Communication
Interface for TDX, where a "PCR" is a measurement register: RTMR index plus one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.reader import Reader

MAX_SIZE = 4 << 20  # bytes of a log
MAX_EVENTS = 16_384
MAX_EVENT = 1 << 20  # bytes of one event's data
MAX_REGISTER = 23  # of a TPM; CCEL has 0 to 4

EV_NO_ACTION = 3

# TCG Algorithm Registry: identifier to name and size.
_ALGORITHMS: Mapping[int, tuple[str, int]] = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3", 32),
}
_SIZES = dict(_ALGORITHMS.values())
_SPEC_ID = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_PADDING = (0x00, 0xFF)


class Event(msgspec.Struct, frozen=True):
    """One entry. register: its index as the log has it. kind: EV_… number.

    digests: what was extended, by algorithm (``sha256``, …). data: what the entry says about it,
    which nothing vouches for beyond the digest's being that of it for some kinds.
    """

    register: int
    kind: int
    digests: Mapping[str, bytes]
    data: bytes


class EventLog(msgspec.Struct, frozen=True):
    """A parsed log. algorithms: those that every entry has a digest for."""

    events: tuple[Event, ...]
    algorithms: tuple[str, ...]

    def replay(self, algorithm: str) -> Mapping[int, bytes]:
        """The registers that these events lead to, for those that the log mentions.

        EV_NO_ACTION extends nothing; the one that tells the startup locality sets where PCR 0
        begins. Raises EvidenceUnsupported if the log has no digests of `algorithm`, or Python
        can't compute it.
        """
        if algorithm not in self.algorithms:
            raise EvidenceUnsupported(
                f"format: event log: no {algorithm} digests, only {', '.join(self.algorithms)}"
            )
        size = _SIZES[algorithm]
        registers: dict[int, bytes] = {}
        for event in self.events:
            if event.kind == EV_NO_ACTION:
                if event.register == 0 and event.data.startswith(_STARTUP_LOCALITY):
                    registers[0] = _start(event.data, registers, size)
                continue
            before = registers.get(event.register, bytes(size))
            registers[event.register] = _digest(algorithm, before + event.digests[algorithm])
        return registers


def parse(data: bytes) -> EventLog:
    """Read a log. Padding after the last entry, as ACPI tables have it, is passed over.

    Raises EvidenceMalformed, EvidenceUnsupported.
    """
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: event log of {len(data)} bytes; at most {MAX_SIZE}")
    reader = Reader(data, "event log")
    first = _legacy(reader)
    if first.kind == EV_NO_ACTION and first.data.startswith(_SPEC_ID):
        sizes = _spec_id(first.data)
        names = tuple(_ALGORITHMS[identifier][0] for identifier in sizes)
        events = [_agile_event(first)]
        while not _ended(reader, data):
            events.append(_agile(reader, sizes))
            _bounded(events)
        return EventLog(tuple(events), names)
    events = [first]
    while not _ended(reader, data):
        events.append(_legacy(reader))
        _bounded(events)
    return EventLog(tuple(events), ("sha1",))


def _legacy(reader: Reader) -> Event:
    """TCG_PCClientPCREvent (section 10.2.1)."""
    register, kind = _head(reader)
    digest = reader.take(20, "digest")
    return Event(register, kind, {"sha1": digest}, _data(reader))


def _agile(reader: Reader, sizes: Mapping[int, int]) -> Event:
    """TCG_PCR_EVENT2 (section 10.2.2): one digest for each algorithm of the header, no other."""
    register, kind = _head(reader)
    count = reader.integer(4, "digest count")
    if count != len(sizes):
        raise EvidenceMalformed(
            f"format: event log: {count} digests at {reader.position}, its header has {len(sizes)}"
        )
    digests: dict[str, bytes] = {}
    for _ in range(count):
        identifier = reader.integer(2, "algorithm")
        if identifier not in sizes:
            raise EvidenceMalformed(
                f"format: event log: algorithm {identifier:#x} at {reader.position} is not in its "
                "header"
            )
        name = _ALGORITHMS[identifier][0]
        if name in digests:
            raise EvidenceMalformed(f"format: event log: {name} twice at {reader.position}")
        digests[name] = reader.take(sizes[identifier], "digest")
    return Event(register, kind, digests, _data(reader))


def _head(reader: Reader) -> tuple[int, int]:
    register = reader.integer(4, "register")
    if register > MAX_REGISTER:
        raise EvidenceMalformed(f"format: event log: register {register} at {reader.position}")
    return register, reader.integer(4, "event type")


def _data(reader: Reader) -> bytes:
    size = reader.integer(4, "event size")
    if size > MAX_EVENT:
        raise EvidenceMalformed(f"format: event log: an event of {size} bytes; at most {MAX_EVENT}")
    return reader.take(size, "event data")


def _spec_id(data: bytes) -> Mapping[int, int]:
    """TCG_EfiSpecIDEvent (section 10.4.5.1): the digests that every entry has, and their sizes."""
    reader = Reader(data, "event log: specification id")
    reader.take(len(_SPEC_ID), "signature")
    reader.take(4 + 1 + 1 + 1 + 1, "platform class, versions, uintnSize")
    count = reader.integer(4, "number of algorithms")
    if not 1 <= count <= len(_ALGORITHMS):
        raise EvidenceMalformed(f"format: event log: {count} algorithms")
    sizes: dict[int, int] = {}
    for _ in range(count):
        identifier, size = reader.integer(2, "algorithm"), reader.integer(2, "digest size")
        known = _ALGORITHMS.get(identifier)
        if known is None:
            raise EvidenceUnsupported(f"format: event log: unknown algorithm {identifier:#x}")
        if known[1] != size or identifier in sizes:
            raise EvidenceMalformed(f"format: event log: {known[0]} of {size} bytes, or twice")
        sizes[identifier] = size
    reader.take(reader.integer(1, "vendor information size"), "vendor information")
    reader.end()
    return sizes


def _agile_event(first: Event) -> Event:
    """The header as an event without digests: it extends nothing."""
    return Event(first.register, first.kind, {}, first.data)


def _ended(reader: Reader, data: bytes) -> bool:
    """At the end, or in the padding: an entry never begins with eight bytes of one such value.

    A register of all zeros with an event type of zero (EV_PREBOOT_CERT) is in no log; one of all
    ones is out of range.
    """
    rest = reader.remaining
    if rest == 0:
        return True
    head = data[reader.position : reader.position + 8]
    if any(head.strip(bytes((value,))) == b"" for value in _PADDING):
        tail = data[reader.position :]
        if any(tail.strip(bytes((value,))) == b"" for value in _PADDING):
            return True
        raise EvidenceMalformed(f"format: event log: entries after padding at {reader.position}")
    return False


def _bounded(events: list[Event]) -> None:
    if len(events) > MAX_EVENTS:
        raise EvidenceMalformed(f"format: event log: more than {MAX_EVENTS} entries")


def _start(data: bytes, registers: Mapping[int, bytes], size: int) -> bytes:
    """Where PCR 0 begins: all zeros but for the locality in the last byte (section 10.4.5.3)."""
    if len(data) != len(_STARTUP_LOCALITY) + 1 or 0 in registers:
        raise EvidenceMalformed("format: event log: a startup locality of another form, or late")
    return bytes(size - 1) + data[-1:]


def _digest(algorithm: str, data: bytes) -> bytes:
    try:
        return hashlib.new(algorithm, data, usedforsecurity=False).digest()
    except ValueError:
        raise EvidenceUnsupported(
            f"format: event log: {algorithm} can't be computed here"
        ) from None
