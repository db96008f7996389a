"""Hostile networks and hostile peers against both sides of a channel, for as long as one likes.

    python tests/fuzz/channel.py

FUZZ_SECONDS: how long, 600 by default. FUZZ_SEED: begin here, to see the same mistakes again; keys
and nonces are others each time.
Ends with status 1 and the seed at the first crash, hang, growth of memory, or message that nobody
sent. The network damages, drops, doubles, swaps and splices TLS records, of this connection and of
earlier ones; a peer does the same with its frames inside TLS, before the attestation and after it.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cryptography.hazmat.primitives.serialization import Encoding

from secgear.errors import ChannelError, SecGearError, Untrusted
from secgear.middleware.channel.arrivals import Arrivals
from secgear.middleware.channel.core import Core, Event, State
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import Kind, Open, Opened, encode, header
from secgear.middleware.channel.tls import Parameters
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.fuzz.evidence import damaged
from tests.middleware.channel.pairs import Pair
from tests.roles.part import resident

HANG = 20  # seconds; a case takes milliseconds
GROWTH = 60_000
"""KiB that this process may grow by once it has warmed up."""
WARM = 2000  # cases
KEPT = 300
"""Records and frames of earlier cases that are spliced in."""
_QUICK = Parameters(groups=("x25519",))  # which key exchange it is, makes no difference here
_CLIENT = Identity.fresh("client")
_AUTHORITY = (_CLIENT.certificate.public_bytes(Encoding.PEM),)
_RECORD = 5  # bytes of a record's header


class _Fuzzed(Pair):
    """A pair with an application on either side: messages out, messages in."""

    def __init__(self, chance: random.Random, **given: Any) -> None:
        asked = chance.random() < 0.3
        super().__init__(
            client=_CLIENT if asked else None,
            authorities=_AUTHORITY if asked else (),
            demand=chance.random() < 0.4,
            parameters=_QUICK,
            **given,
        )
        self.arrivals = {side: Arrivals(end) for side, end in self.ends.items()}
        self.sent: dict[str, list[bytes]] = {"C": [], "S": []}
        self.got: dict[str, list[bytes]] = {"C": [], "S": []}
        self.ended: dict[str, ChannelError] = {}

    def _answer(self, side: str, event: Any) -> None:
        try:
            super()._answer(side, event)
        except Untrusted as error:
            self.ends[side].refuse(error.code, "")

    def hand(self, side: str, data: bytes) -> None:
        """As the drivers do it: the handshake's events to it, all others to the arrivals."""
        if self.ends[side].state is not State.OPEN:
            seen = len(self.events[side])
            super().hand(side, data)
            later: list[Event] = [
                event
                for event in self.events[side][seen:]
                if type(event).__name__ in ("Received", "Finished")
            ]
            self.arrivals[side]._events.extend(later)
        else:
            self.arrivals[side].feed(data)
        self._read(side)

    def _read(self, side: str) -> None:
        if side in self.ended:
            return
        arrivals = self.arrivals[side]
        try:
            if side == "S" and not self.got["S"] and not hasattr(self, "opened"):
                if arrivals.control(Kind.OPEN) is None:
                    return
                self.opened = True
            while (message := arrivals.message()) is not None:
                self.got[side].append(message)
        except ChannelError as error:
            self.ended[side] = error

    def talk(self, chance: random.Random) -> None:
        """Some messages each way, and a goodbye perhaps."""
        with contextlib.suppress(ChannelError):
            self.client.send_control(Open())
            self.carry()
        for _ in range(chance.randint(1, 5)):
            side = chance.choice("CS")
            message = chance.randbytes(chance.choice((0, 1, 40, 3000, 20_000)))
            with contextlib.suppress(ChannelError):
                for _ in self.ends[side].send(message):  # in one step, being small
                    self.sent[side].append(message)
                    self.carry()
        if chance.random() < 0.5:
            self.client.close()
            self.carry()
        for side in "CS":
            self.hand(side, b"")


def network(chance: random.Random, vendor: SimulatedVendor, library: deque[bytes]) -> None:
    """Whatever it does, what arrives is what was sent, as far as it goes."""
    side = chance.choice("CS")
    strike = chance.randrange(12)
    counts = {"C": 0, "S": 0}
    held: list[bytes] = []

    def cut(speaker: str, data: bytes) -> list[bytes]:
        pieces = []
        for record in _records(data):
            number, counts[speaker] = counts[speaker], counts[speaker] + 1
            if speaker == side and number >= strike and chance.random() < 0.7:
                pieces += [*held, *_struck(chance, record, library, held)]
            else:
                pieces += [*held, record]
                held.clear()
            library.append(record)
        return pieces

    pair = _Fuzzed(chance, vendor=vendor, cut=cut)
    pair.carry()
    pair.talk(chance)
    for one, other in ("CS", "SC"):
        got, sent = pair.got[one], pair.sent[other]
        if got != sent[: len(got)]:
            raise AssertionError("a message arrived that was not sent, or not then")
        error = pair.ended.get(one)
        if error is not None and "peer has closed" in str(error) and got != sent:
            raise AssertionError(f"a clean end, and not all has arrived: {one}, {error}")


def peer(chance: random.Random, vendor: SimulatedVendor, library: deque[bytes]) -> None:
    """It has a key and evidence, and keeps to no protocol."""
    side = chance.choice("CS")
    strike = chance.randrange(5)
    pair = _Fuzzed(chance, vendor=vendor)
    liar = pair.ends[side]
    write = liar._tls.write
    held: list[bytes] = []
    count = 0

    def lie(data: bytes | memoryview) -> None:
        nonlocal count
        frame = bytes(data)
        frames = [frame]
        if count >= strike and chance.random() < 0.7:
            frames = [*held, *_struck(chance, frame, library, held)]
            if chance.random() < 0.3:
                frames.append(header(chance.choice(list(Kind)), chance.choice((0, 1, 9, 1 << 18))))
        count += 1
        library.append(frame[:100_000])
        for one in frames:
            if one:
                write(one)

    liar._tls.write = lie  # type: ignore[method-assign]
    liar._expect = lambda state: None  # type: ignore[method-assign]
    with contextlib.suppress(SecGearError):
        pair.carry()
        if chance.random() < 0.2:
            lie(encode(Opened()))
        pair.talk(chance)
    other = "S" if side == "C" else "C"
    honest: Core = pair.ends[other]
    if pair.got[other] and not any(type(e).__name__ == "Established" for e in pair.events[other]):
        raise AssertionError("a message before the attestation")
    if other in pair.errors and honest.state is not State.CLOSED:
        raise AssertionError("it failed and is not closed")


def _struck(
    chance: random.Random, piece: bytes, library: deque[bytes], held: list[bytes]
) -> list[bytes]:
    """What comes instead of `piece`. held: what is to come later."""
    held.clear()
    match chance.randrange(8):
        case 0 | 1:
            return [damaged(chance, piece, dict(enumerate(library)) or {0: piece})]
        case 2:
            return [piece, piece]
        case 3:
            return []
        case 4:
            held.append(piece)
            return []
        case 5 if library:
            return [chance.choice(library)]
        case 6 if library:
            return [chance.choice(library), piece]
        case _:
            return [piece, chance.randbytes(chance.choice((1, 5, 300)))]


def _records(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = _RECORD + int.from_bytes(data[3:_RECORD])
        found.append(data[:size])
        data = data[size:]
    return found


def main() -> int:
    """Alternate the two until the time is up; 0 when nothing was found."""
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600"))
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbits(32)))
    vendor = SimulatedVendor()
    libraries: dict[Any, deque[bytes]] = {target: deque(maxlen=KEPT) for target in (network, peer)}
    cases = warm = 0
    signal.signal(signal.SIGALRM, _late)
    while time.monotonic() < end:
        for target, library in libraries.items():
            signal.alarm(HANG)
            try:
                target(random.Random(seed), vendor, library)
            except BaseException as error:
                print(f"\n{target.__name__} failed: FUZZ_SEED={seed}", file=sys.stderr)
                if isinstance(error, KeyboardInterrupt):
                    return 130
                raise
            finally:
                signal.alarm(0)
            cases += 1
        seed += 1
        if cases == WARM:
            warm = resident(os.getpid())
        if warm and cases % 100 == 0 and resident(os.getpid()) - warm > GROWTH:
            print(f"\ngrew by {resident(os.getpid()) - warm} KiB until {seed}", file=sys.stderr)
            return 1
        if sys.stdout.isatty():
            print(f"\r{cases:,} cases, {round(end - time.monotonic())} s left ", end="", flush=True)
    print(f"\n{cases:,} cases, nothing found")
    return 0


def _late(*_: object) -> None:
    raise AssertionError("a side hangs")


if __name__ == "__main__":
    sys.exit(main())
