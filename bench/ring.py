"""The ring alone, without calls on top: against the floor, sockets, gRPC and iceoryx2.

Both sides are Python, one process each, on processors of their own unless a table says otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import peers
from bench.floor import Floor
from bench.measure import Row, Sample, interleaved, rows, sample
from bench.switchless import Call, in_turn, on, spinning_socket, tagged
from secgear.base.transport import ring

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring

GEOMETRY = ring.Geometry(slots=64, arena=1 << 20, limit=1 << 20)
_CHILD = """
import sys
from bench import ring
ring.{}(*sys.argv[1:])
"""
_ECHO, _SWALLOW = 1, 2
"""Tags: answer with the payload, or with nothing."""


def main(*, quick: bool) -> list[Row]:
    """Every table; none where there is no native ring, or no processor for each side."""
    missing = ring.reason() or ("" if {0, 1} <= os.sched_getaffinity(0) else "needs two processors")
    if missing:
        print(f"ring: {missing}", file=sys.stderr)
        return []
    return [*latency(quick=quick), *many(quick=quick), *bulk(quick=quick), *together(quick=quick)]


# --- tables --------------------------------------------------------------------------------------


def latency(*, quick: bool) -> list[Row]:
    """Round trips by payload, told by the regime of the machine."""
    table: list[Row] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(on(0))
        floor = stack.enter_context(Floor())
        same = stack.enter_context(peers.unix_socket())  # its child has this processor
        with on(1):
            blocking = stack.enter_context(peers.unix_socket())
            spinning = stack.enter_context(spinning_socket())
            grpc, _ = stack.enter_context(peers.grpc_unix())
            echo = stack.enter_context(ring_echo())
        for size, label, batch in ((8, "8 B", 2000), (4096, "4 KiB", 500), (1 << 20, "1 MiB", 20)):
            data = bytes(size)
            contenders: dict[str, tuple[Call, int]] = {
                "ring": (partial(echo.call, 1, _ECHO, data), batch),
                "unix socket": (partial(blocking, data), 20),
                "unix socket, same processor": (partial(same, data), 100 if size < 1 << 20 else 10),
                "grpc": (partial(grpc, data), 10),
            }
            if size < 1 << 20:
                contenders["unix socket, spinning"] = partial(spinning, data), 1000
                with contextlib.suppress(ImportError), on(1):
                    other = stack.enter_context(iceoryx2_echo(size))
                    contenders["iceoryx2"] = other, 1000
            rounds = 10 if quick else 50
            table += tagged(f"round trip {label}", contenders, rounds=rounds, floor=floor)
    return table


def many(*, quick: bool) -> list[Row]:
    """Messages under way together: seconds each, and the floor beside them."""
    count = 20_000 if quick else 200_000
    payloads = [bytes(8)] * count
    with contextlib.ExitStack() as stack:
        stack.enter_context(on(0))
        floor = stack.enter_context(Floor())
        with on(1):
            echo = stack.enter_context(ring_echo())
        contenders: dict[str, Callable[[], object]] = {
            f"ring, window {window}": partial(echo.call_many, _ECHO, payloads, 1, window)
            for window in (1, 8, 64)
        }
        times: dict[str, list[float]] = {"cache line, there and back": []}
        for _ in range(5 if quick else 15):
            for name, run in contenders.items():
                times["cache line, there and back"].append(floor.measure())
                start = time.perf_counter()
                run()
                times.setdefault(name, []).append((time.perf_counter() - start) / count)
        samples = {name: sample(values) for name, values in times.items()}
    return rows("8 B, many, each", samples, "cache line, there and back")


def bulk(*, quick: bool) -> list[Row]:
    """1 MiB in and an empty answer, against one copy in memory."""
    data, target = os.urandom(1 << 20), bytearray(1 << 20)

    def copy() -> None:
        target[:] = data

    with on(0), contextlib.ExitStack() as stack:
        with on(1):
            echo = stack.enter_context(ring_echo())
        contenders: dict[str, Call] = {
            "memcpy": copy,
            "ring": partial(echo.call, 1, _SWALLOW, data),
        }
        samples = in_turn(contenders, rounds=50 if quick else 500)
    return rows("1 MiB, acknowledged", samples, "memcpy")


def together(*, quick: bool) -> list[Row]:
    """One processor for both; pauses between calls; no calls at all."""
    table: list[Row] = []
    with on(0), peers.unix_socket() as same, ring_echo() as echo:
        contenders: dict[str, Call] = {
            "unix socket": partial(same, bytes(8)),
            "ring": partial(echo.call, 1, _ECHO, bytes(8)),
        }
        for call in contenders.values():
            for _ in range(1000):  # the ring learns that spinning does not pay
                call()
        samples = interleaved(contenders, rounds=20 if quick else 60, batch=200)
        table += rows("8 B, both on one processor", samples, "unix socket")
    with contextlib.ExitStack() as stack:
        stack.enter_context(on(0))
        with on(1):
            socket = stack.enter_context(peers.unix_socket())
            echo = stack.enter_context(ring_echo())
        contenders = {
            "unix socket": partial(socket, bytes(8)),
            "ring": partial(echo.call, 1, _ECHO, bytes(8)),
        }
        for gap in (1e-3, 20e-3):
            samples = _sparse(contenders, gap, 40 if quick else 200)
            table += rows(f"8 B after {gap * 1e3:g} ms", samples, "unix socket")
        before = time.process_time()
        time.sleep(1 if quick else 5)
        share = (time.process_time() - before) / (1 if quick else 5)
    return [*table, Row("this side", "idle, of each second", Sample(share, share, share), 0, "")]


def _sparse(contenders: dict[str, Call], gap: float, rounds: int) -> dict[str, Sample]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            time.sleep(gap)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: sample(values) for name, values in times.items()}


# --- the other side ------------------------------------------------------------------------------


@contextlib.contextmanager
def _child(function: str, *arguments: str, fd: int | None = None) -> Iterator[None]:
    """A function of this module in a process of its own; it says when it is ready."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(function), *arguments],
        pass_fds=[] if fd is None else [fd],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        if child.stdout is None or child.stdout.read(5) != b"ready":
            raise RuntimeError(f"{function} did not start")
        yield
    finally:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def ring_echo() -> Iterator[Ring]:
    """The host's end of a lane whose other end answers."""
    fd = os.memfd_create("bench")
    os.ftruncate(fd, GEOMETRY.size)
    with _child("serve_ring", str(fd), fd=fd):
        end = ring.open_lane(_mapped(fd), GEOMETRY, host=True)
        os.close(fd)
        try:
            yield end
        finally:
            end.close()


def serve_ring(fd: str) -> None:
    """Run in the child."""
    end = ring.open_lane(_mapped(int(fd)), GEOMETRY, host=False)
    os.write(1, b"ready")
    end.serve(lambda id, tag, payload: payload if tag == _ECHO else b"")


def _mapped(fd: int) -> mmap.mmap:
    return mmap.mmap(fd, GEOMETRY.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)


_IDLE = 0.001
"""Seconds after which the polling server of iceoryx2 sleeps, to leave the processor to others."""


@contextlib.contextmanager
def iceoryx2_echo(size: int) -> Iterator[Call]:
    """Request and response of `size` bytes, both sides polling."""
    name = f"secgear/bench/{os.getpid()}/{size}"
    service, payload = _iceoryx2(name, size)
    bell = os.eventfd(0)
    with _child("serve_iceoryx2", name, str(size), str(bell), fd=bell):
        client = service.client_builder().create()
        request = payload()
        last = 0.0

        def echo() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > _IDLE / 2:
                os.eventfd_write(bell, 1)
            last = now
            pending = client.send_copy(request)
            polls = 0
            while pending.receive() is None:
                polls += 1
                if polls % 1000 == 0:  # it may have gone to sleep meanwhile
                    os.eventfd_write(bell, 1)

        yield echo
    os.close(bell)


def serve_iceoryx2(name: str, size: str, bell: str) -> None:
    """Run in the child."""
    service, _ = _iceoryx2(name, int(size))
    server = service.server_builder().create()
    os.write(1, b"ready")
    last = time.monotonic()
    while True:
        active = server.receive()
        if active is not None:
            active.send_copy(active.payload().contents)
            last = time.monotonic()
        elif time.monotonic() - last > _IDLE:
            os.eventfd_read(int(bell))
            last = time.monotonic()


def _iceoryx2(name: str, size: int) -> tuple[Any, type[ctypes.Structure]]:
    import iceoryx2

    payload = type("Payload", (ctypes.Structure,), {"_fields_": [("data", ctypes.c_uint8 * size)]})
    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    builder = node.service_builder(iceoryx2.ServiceName.new(name))
    return builder.request_response(payload, payload).open_or_create(), payload
