"""A long run of the channel: many sessions and messages, after which nothing may have grown.

    python tests/soak/channel.py --sessions 10000 --messages 1000000

The host with its relay, the enclave and the clients are three processes. Some clients behave, some
leave without a word, some send what is no handshake. After each round, when no session is left,
every process says what it holds. Ends with status 1 when one of them has grown since the warm-up,
an answer was wrong, or a session failed. --minutes: end earlier, after the round in which they are
over. --json: one document instead of a table.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from secgear import errors
from secgear.middleware.channel import Session
from secgear.middleware.channel.addresses import parse
from tests.roles.host import Host
from tests.roles.owner import Owner
from tests.roles.part import footprint, resident

ROUNDS = 20
"""Times that the processes are asked; a fifth of them are the warm-up."""
AT_ONCE = 6
"""Clients at one time."""
IN_FLIGHT = 10
"""Messages that a client sends before it reads the answers."""
SIZES = (64, 1, 300, 64, 4000, 64, 20_000, 64, 0, 1000)
"""Bytes of a client's messages, in turn."""
QUIET = 60
"""Seconds that the last session of a round may take to be gone."""

BLOCKS = 0.2
"""A session that leaves something behind leaves several at least. What is kept for all of them,
such as a pool of threads, is allowed for by `FEW`."""
FEW = 400
RESIDENT = 1.0
"""KiB that a process may grow by for a session, besides `SLACK`: malloc keeps what it once had."""
SLACK = 12 << 10
THREADS = 4

Sample = dict[str, dict[str, int]]


class Run(NamedTuple):
    """What came out. samples: of each round. grown: what is wrong, empty if nothing."""

    sessions: int
    messages: int
    disturbed: int
    seconds: float
    samples: list[Sample]
    grown: list[str]


def run(
    host: Host,
    *,
    sessions: int,
    messages: int,
    rounds: int = ROUNDS,
    minutes: float = float("inf"),
    tell: Callable[[int, Sample], None] = lambda done, sample: None,
) -> Run:
    """Go through it. sessions, messages: in all; minutes: after which no round begins."""
    owner = Owner(host.address, host.measurement)
    begun = time.monotonic()
    each = max(1, messages // sessions)
    samples: list[Sample] = []
    done = sent = disturbed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for turn in range(rounds):
            numbers = range(sessions * turn // rounds, sessions * (turn + 1) // rounds)
            for talked, more in pool.map(lambda number: _client(owner, number, each), numbers):
                done, sent, disturbed = done + 1, sent + talked, disturbed + more
            samples.append(_quiet(host))
            tell(done, samples[-1])
            if time.monotonic() - begun > minutes * 60:
                break
    seconds = time.monotonic() - begun
    return Run(done, sent, disturbed, seconds, samples, list(grown(samples, done)))


def _client(owner: Owner, number: int, messages: int) -> tuple[int, int]:
    """One session; how many messages went there and back, and disturbances besides."""
    disturbed = 0
    if number % 10 == 3:
        _disturb(owner, number)
        disturbed = 1
    if number % 25 == 9:
        with owner.connect() as session:
            for at in range(messages):
                data = bytes(SIZES[at % len(SIZES)])
                if session.call.size(data) != len(data):
                    raise AssertionError("a call gave another size")
        return messages, disturbed
    session = owner.connect(service="echo")
    _talk(session, messages)
    if number % 20 == 7:
        session.send(b"nobody reads the answer")
        session.abort()
    else:
        session.close()
    return messages, disturbed


def _talk(session: Session, messages: int) -> None:
    for first in range(0, messages, IN_FLIGHT):
        sent = [
            bytes([at % 251]) * SIZES[at % len(SIZES)]
            for at in range(first, min(first + IN_FLIGHT, messages))
        ]
        for message in sent:
            session.send(message)
        for message in sent:
            if session.recv(60) != message:
                raise AssertionError("another message came back")


def _disturb(owner: Owner, number: int) -> None:
    """A connection that becomes no session."""
    match number // 10 % 3:
        case 0:  # nonsense
            _hang_up(owner.address, bytes(range(256)) * 4)
        case 1:  # half a handshake
            _hang_up(owner.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        case 2:  # a handshake that the client ends, since it trusts another program
            try:
                Owner(owner.address, bytes(48)).connect()
            except errors.Untrusted:
                return
            raise AssertionError("an enclave was trusted that must not be")


def _hang_up(address: str, data: bytes) -> None:
    with parse(address).connect(30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(1 << 16):
                pass
        except ConnectionResetError:
            return


def _quiet(host: Host) -> Sample:
    """What each process holds once no session is left."""
    end = time.monotonic() + QUIET
    while True:
        state = host.state()
        if not state["relay"]["active"] and not state["enclave"]["sessions"]:
            break
        if time.monotonic() > end:
            raise AssertionError(f"sessions are left: {state}")
        time.sleep(0.05)
    return {**state, "client": {**footprint(), "resident": resident(os.getpid())}}


def grown(samples: list[Sample], sessions: int) -> Iterator[str]:
    """What has become more between the warm-up and the end."""
    warm = max(1, len(samples) // 5)
    before, after = samples[warm - 1 : 2 * warm], samples[-warm:]
    since = sessions * (len(samples) - warm) / len(samples)
    allowed = {
        "blocks": FEW + BLOCKS * since,
        "descriptors": 0,
        "threads": THREADS,
        "resident": SLACK + RESIDENT * since,
    }
    for process in ("host", "enclave", "client"):
        for what, most in allowed.items():
            was = max(sample[process][what] for sample in before)
            now = statistics.median_low(sample[process][what] for sample in after)
            if now > was + most:
                yield f"{what} of the {process}: {was} after the warm-up, {now} at the end"


def main() -> int:
    """Run it with a host of its own."""
    parser = argparse.ArgumentParser(description="A long run of the channel.")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()

    def tell(done: int, sample: Sample) -> None:
        if not options.json:
            print(f"{done:>8} " + " ".join(map(_columns, map(sample.get, _SHOWN))), flush=True)

    if not options.json:
        print("sessions " + " ".join(f"{name:>30}" for name in _SHOWN))
        print("         " + " ".join(["   MiB  blocks threads   files"] * len(_SHOWN)))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SECGEAR_HOME"] = directory
        with Host(Path(directory)) as host:
            found = run(
                host,
                sessions=options.sessions,
                messages=options.messages,
                minutes=options.minutes,
                tell=tell,
            )
    if options.json:
        json.dump(found._asdict(), sys.stdout, indent=2)
        print()
    else:
        print(
            f"{found.sessions} sessions, {found.messages} messages there and back, "
            f"{found.disturbed} disturbances in {found.seconds:.0f} s: "
            + ("; ".join(found.grown) or "nothing has grown")
        )
    return 1 if found.grown else 0


_SHOWN = ("host", "enclave", "client")


def _columns(held: Any) -> str:
    return (
        f"{held['resident'] / 1024:6.1f} {held['blocks']:7} {held['threads']:7} "
        f"{held['descriptors']:7}"
    )


if __name__ == "__main__":
    sys.exit(main())
