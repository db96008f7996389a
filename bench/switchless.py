"""Switchless calls against the floor of the machine, calls over the stream, sockets and gRPC.

``python -m bench switchless``; ``python -m bench.switchless --plot FILE`` writes latency against
payload for all transports as JSON lines and the plot of docs/assets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import secgear
from bench import peers
from bench.floor import Floor, regime
from bench.measure import Row, Sample, rows, sample
from bench.plot import Series, draw
from secgear import Switchless
from secgear.base.transport.sealed import Sealer

APP = Path(__file__).parent / "apps" / "lanes.py"
FRAME = 256 << 10
Call = Callable[[], object]


def main(*, quick: bool) -> list[Row]:
    """Every table."""
    options = Switchless(workers=1, shared=4 << 20)
    result: list[Row] = []
    with secgear.launch(
        APP, switchless=options, ocalls={"answer": lambda number: number + 1}
    ) as enclave:
        enclave.switchless.add(1, 2)
        enclave.add(1, 2)
        pin(enclave, {0}, {1})
        result += latency(enclave, quick=quick)
        result += rates(enclave, quick=quick)
        result += bulk(enclave, quick=quick)
        result += sealed(enclave, quick=quick)
        result += sparse(enclave, quick=quick)
        result += idle(enclave)
        pin(enclave, {0}, {0})
        result += one_core(enclave, quick=quick)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return result


def pin(enclave: Any, ours: set[int], theirs: set[int]) -> None:
    """Put host and enclave on processors of their own (or on one), as far as that is allowed."""
    os.sched_setaffinity(0, ours)
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{enclave.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), theirs)


@contextlib.contextmanager
def on(*processors: int) -> Iterator[None]:
    """What is started here runs on these processors; this process does so only meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tagged(
    what: str, contenders: dict[str, tuple[Call, int]], *, rounds: int, floor: Floor
) -> list[Row]:
    """Contenders in turn, the floor before and after each; a table for each regime.

    contenders: what to call and how many times in a row.
    """
    times: dict[str, dict[str, list[float]]] = {}
    floors: dict[str, list[float]] = {}
    for call, _ in contenders.values():
        call()
    for _ in range(rounds):
        for name, (call, batch) in contenders.items():
            before = floor.measure()
            spent = _steady(call, batch)
            after = floor.measure()
            kind = regime(before, after)
            times.setdefault(kind, {}).setdefault(name, []).append(spent)
            floors.setdefault(kind, []).extend((before, after))
    table: list[Row] = []
    for kind, found in sorted(times.items()):
        samples = {"cache line, there and back": sample(floors[kind])}
        samples |= {name: sample(found[name]) for name in contenders if name in found}
        table += rows(f"{what}, {kind}", samples, "cache line, there and back")
    return table


def _steady(call: Call, count: int) -> float:
    """Seconds of a call among `count`, once both sides are awake.

    The median of tenths: other programs that take a processor meanwhile spoil some of them only.
    """
    part = max(1, count // 10)
    for _ in range(part):
        call()
    tenths = []
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(part):
            call()
        tenths.append((time.perf_counter() - start) / part)
    return statistics.median(tenths)


def latency(enclave: Any, *, quick: bool) -> list[Row]:
    """A round trip of 8 bytes, and typed calls."""
    calls, data = enclave.switchless, bytes(8)
    rounds = 15 if quick else 60
    with contextlib.ExitStack() as stack:
        floor = stack.enter_context(Floor())
        with on(1):
            spinning = stack.enter_context(spinning_socket())
            blocking = stack.enter_context(peers.unix_socket())
            grpc, _ = stack.enter_context(peers.grpc_unix())
        contenders: dict[str, tuple[Call, int]] = {
            "switchless echo(bytes)": (partial(calls.echo, data), 2000),
            "switchless add(int, int)": (partial(calls.add, 1, 2), 2000),
            "switchless call with an OCALL": (partial(calls.ask, 1), 500),
            "unix socket, spinning": (partial(spinning, data), 500),
            "unix socket": (partial(blocking, data), 50),
            "ecall over the stream": (partial(enclave.add, 1, 2), 50),
            "grpc": (partial(grpc, data), 20),
        }
        return tagged("round trip 8 B", contenders, rounds=rounds, floor=floor)


def rates(enclave: Any, *, quick: bool) -> list[Row]:
    """Calls that are under way together: seconds each."""
    calls = enclave.switchless
    count = 20_000 if quick else 100_000
    numbers = range(count)

    async def awaited() -> None:
        for number in range(count // 10):
            await calls.aio.add(number, 1)

    def futures() -> None:
        for future in [calls.submit.add(number, 1) for number in range(count // 10)]:
            future.result()

    contenders: dict[str, tuple[Call, int]] = {
        "switchless map, typed": (lambda: calls.map.add(numbers, numbers), count),
        "switchless, one by one": (lambda: [calls.add(n, n) for n in numbers], count),
        "switchless submit": (futures, count // 10),
        "switchless aio": (lambda: asyncio.run(awaited()), count // 10),
        "stream submit": (
            lambda: [
                future.result() for future in [enclave.submit.add(n, n) for n in range(count // 50)]
            ],
            count // 50,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(3 if quick else 9):
        for name, (run, made) in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / made)
    samples = {name: sample(values) for name, values in times.items()}
    return rows("many calls, each", samples, "stream submit")


def bulk(enclave: Any, *, quick: bool) -> list[Row]:
    """1 MiB in: seconds for each, against one copy in memory."""
    calls, size = enclave.switchless, 1 << 20
    data, target = os.urandom(size), bytearray(size)
    buffer = enclave.shared(size)
    view = buffer.view

    def copy() -> None:
        target[:] = data

    def through_buffer() -> None:
        view[:] = data
        calls.read(buffer)

    contenders: dict[str, Call] = {
        "memcpy": copy,
        "shared buffer, written and read": through_buffer,
        "shared buffer, read": lambda: calls.read(buffer),
        "switchless take(memoryview)": lambda: calls.take(data),
        "ecall over the stream": lambda: enclave.take(data),
    }
    times = in_turn(contenders, rounds=20 if quick else 100)
    return rows("1 MiB into the enclave", times, "memcpy")


def sealed(enclave: Any, *, quick: bool) -> list[Row]:
    """16 MiB sealed, moved and opened: seconds for each MiB, against one thread that encrypts."""
    size = (4 if quick else 16) << 20
    data, key = os.urandom(size), secrets.token_bytes(32)
    calls = enclave.switchless
    cipher, room = AESGCM(key), bytearray(FRAME)

    def encrypt() -> None:
        for start in range(0, size, FRAME - 17):
            piece = memoryview(data)[start : start + FRAME - 17]
            cipher.encrypt_into(bytes(12), piece, None, memoryview(room)[: len(piece) + 16])

    def through_lane() -> None:
        sealer = Sealer(key, frame=FRAME)
        calls.begin(key, sealer.prefix, FRAME)
        calls.map.put(sealer.frames(data))

    with contextlib.ExitStack() as stack:
        with on(1):
            through_socket = stack.enter_context(sealed_socket(key))
        contenders: dict[str, Call] = {
            "AES-256-GCM, one thread": encrypt,
            "sealed frames on a lane": through_lane,
            "sealed frames on a unix socket": lambda: through_socket(data),
        }
        times = in_turn(contenders, rounds=5 if quick else 20)
    scale = size / (1 << 20)
    samples = {name: Sample(*(value / scale for value in one)) for name, one in times.items()}
    return rows("sealed, each MiB", samples, "AES-256-GCM, one thread")


def sparse(enclave: Any, *, quick: bool) -> list[Row]:
    """Calls with pauses in between, for which both sides have gone to sleep."""
    table: list[Row] = []
    with contextlib.ExitStack() as stack:
        with on(1):
            echo = stack.enter_context(peers.unix_socket())
        for gap in (1e-3, 20e-3):
            contenders: dict[str, Call] = {
                "unix socket": lambda: echo(bytes(8)),
                "switchless echo(bytes)": lambda: enclave.switchless.echo(bytes(8)),
            }
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(40 if quick else 200):
                for name, call in contenders.items():
                    time.sleep(gap)
                    start = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - start)
            samples = {name: sample(values) for name, values in times.items()}
            table += rows(f"8 B after {gap * 1e3:g} ms", samples, "unix socket")
    return table


def idle(enclave: Any) -> list[Row]:
    """Processor time that an idle enclave and host take of each second."""
    enclave.switchless.add(1, 2)
    time.sleep(0.2)
    tick = os.sysconf("SC_CLK_TCK")

    def spent() -> float:
        fields = Path(f"/proc/{enclave.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / tick + time.process_time()

    before, start = spent(), time.perf_counter()
    time.sleep(2)
    share = (spent() - before) / (time.perf_counter() - start)
    return [Row("both sides", "idle, seconds of each second", Sample(share, share, share), 0, "")]


def one_core(enclave: Any, *, quick: bool) -> list[Row]:
    """Both sides on one processor."""
    with peers.unix_socket() as echo:  # the child inherits the processor
        contenders: dict[str, Call] = {
            "unix socket": partial(echo, bytes(8)),
            "switchless echo(bytes)": partial(enclave.switchless.echo, bytes(8)),
            "ecall over the stream": partial(enclave.add, 1, 2),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(20 if quick else 60):
            for name, call in contenders.items():
                start = time.perf_counter()
                for _ in range(100):
                    call()
                times[name].append((time.perf_counter() - start) / 100)
    samples = {name: sample(values) for name, values in times.items()}
    return rows("8 B, both on one processor", samples, "unix socket")


def in_turn(contenders: dict[str, Call], *, rounds: int) -> dict[str, Sample]:
    """Each contender once in every round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: sample(values) for name, values in times.items()}


# --- peers ---------------------------------------------------------------------------------------

# After some milliseconds of nothing it sleeps, so as not to take the processor from the others.
_SPINNING_CHILD = """
import os, select, socket, sys
s = socket.socket(fileno=int(sys.argv[1])); s.setblocking(False)
idle = 0
while True:
    try: d = s.recv(65536)
    except BlockingIOError:
        idle += 1
        if idle == 2000: select.select([s], [], [])
        continue
    idle = 0
    if not d: break
    s.send(d)
"""

_SEALED_CHILD = """
import os, socket, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
s = socket.socket(fileno=int(sys.argv[1]))
cipher, frame = AESGCM(bytes.fromhex(sys.stdin.readline())), int(sys.argv[2])
data, room = bytearray(frame), bytearray(frame)
def exactly(view):
    while view:
        n = s.recv_into(view)
        if not n: sys.exit()
        view = view[n:]
while True:
    head = bytearray(4); exactly(memoryview(head))
    size = int.from_bytes(head, "little")
    if not size:
        s.sendall(b"."); continue
    exactly(memoryview(data)[:size])
    cipher.decrypt_into(bytes(12), memoryview(data)[:size], None, memoryview(room)[:size - 16])
"""


@contextlib.contextmanager
def _child(code: str, *arguments: str, line: str = "") -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours:
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno()), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        if child.stdin is not None:
            child.stdin.write(line)
            child.stdin.close()
        try:
            yield ours
        finally:
            child.kill()
            child.wait()


@contextlib.contextmanager
def spinning_socket() -> Iterator[Callable[[bytes], bytes]]:
    """A socket on which both sides ask again and again instead of sleeping."""
    with _child(_SPINNING_CHILD) as ours:
        ours.setblocking(False)
        receive, send = ours.recv, ours.send

        def echo(data: bytes) -> bytes:
            send(data)
            while True:
                try:
                    return receive(65536)
                except BlockingIOError:
                    continue

        yield echo


@contextlib.contextmanager
def sealed_socket(key: bytes) -> Iterator[Callable[[bytes], None]]:
    """Frames of AES-256-GCM over a socket, one side sealing while the other opens."""
    cipher, room = AESGCM(key), bytearray(FRAME)
    with _child(_SEALED_CHILD, str(FRAME), line=key.hex() + "\n") as ours:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            ours.setsockopt(socket.SOL_SOCKET, option, 1 << 20)

        def send(data: bytes) -> None:
            view = memoryview(data)
            for start in range(0, len(view), FRAME - 16):
                piece = view[start : start + FRAME - 16]
                sealed_piece = memoryview(room)[: len(piece) + 16]
                cipher.encrypt_into(bytes(12), piece, None, sealed_piece)
                ours.sendall(len(sealed_piece).to_bytes(4, "little"))
                ours.sendall(sealed_piece)
            ours.sendall(bytes(4))
            ours.recv(1)

        yield send


# --- the plot ------------------------------------------------------------------------------------

SIZES = tuple(8 << (2 * step) for step in range(9))
"""From 8 bytes to 512 KiB."""


def against_payload(rounds: int) -> list[Series]:
    """Median time of an echo for each transport and payload."""
    with contextlib.ExitStack() as stack:
        options = Switchless(workers=1)
        enclave = stack.enter_context(
            secgear.launch(APP, switchless=options, ocalls={"answer": abs})
        )
        with on(1):
            blocking = stack.enter_context(peers.unix_socket())
            pipe = stack.enter_context(peers.pipe())
            grpc, _ = stack.enter_context(peers.grpc_unix())
        enclave.switchless.add(1, 2)
        enclave.add(1, 2)
        pin(enclave, {0}, {1})
        contenders: dict[str, Callable[[bytes], object]] = {
            "gRPC over a Unix socket": grpc,
            "ECALL over the stream": enclave.echo,
            "multiprocessing.Pipe": pipe,
            "Unix socket": blocking,
            "switchless ECALL": enclave.switchless.echo,
        }
        series = {name: Series(name, []) for name in contenders}
        for size in SIZES:
            data = hashlib.shake_128(b"payload").digest(size)
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(rounds):
                for name, call in contenders.items():
                    call(data)
                    batch = 20 if size <= 1 << 15 else 5
                    start = time.perf_counter()
                    for _ in range(batch):
                        call(data)
                    times[name].append((time.perf_counter() - start) / batch)
            for name, values in times.items():
                series[name].points.append((size, statistics.median(values)))
    return list(series.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.switchless", description=__doc__)
    parser.add_argument("--plot", metavar="FILE", required=True, help="where the SVG goes")
    parser.add_argument("--rounds", type=int, default=60)
    chosen = parser.parse_args()
    drawn = against_payload(chosen.rounds)
    for one in drawn:
        print(one.name, " ".join(f"{size}:{value * 1e6:.2f}us" for size, value in one.points))
    Path(chosen.plot).write_text(
        draw(drawn, "Round trip of an echo", "payload, bytes", "median time"), encoding="utf-8"
    )
