"""What ours is measured against: echo servers in a process of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path

Echo = Callable[[bytes], bytes]

_SOCKET_CHILD = """
import socket, struct, sys
s = socket.socket(fileno=int(sys.argv[1]))
def exactly(n):
    d = bytearray(n); v = memoryview(d)
    while v:
        k = s.recv_into(v)
        if not k: sys.exit()
        v = v[k:]
    return d
while True:
    d = exactly(struct.unpack("<I", exactly(4))[0])
    s.sendall(struct.pack("<I", len(d)) + d)
"""


@contextlib.contextmanager
def unix_socket() -> Iterator[Echo]:
    """Length-prefixed bytes over a socket pair: as little as a call can be."""
    ours, theirs = socket.socketpair()
    with ours:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SOCKET_CHILD, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

        def exactly(size: int) -> bytearray:
            data = bytearray(size)
            view = memoryview(data)
            while view:
                view = view[ours.recv_into(view) :]
            return data

        def echo(data: bytes) -> bytes:
            ours.sendall(len(data).to_bytes(4, "little") + data)
            return bytes(exactly(int.from_bytes(exactly(4), "little")))

        try:
            yield echo
        finally:
            child.kill()
            child.wait()


def _pipe_child(connection: Connection) -> None:
    while True:
        connection.send_bytes(connection.recv_bytes())


@contextlib.contextmanager
def pipe() -> Iterator[Echo]:
    """`multiprocessing.Pipe`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_pipe_child, args=(theirs,), daemon=True)
    child.start()

    def echo(data: bytes) -> bytes:
        ours.send_bytes(data)
        return ours.recv_bytes()

    try:
        yield echo
    finally:
        child.kill()
        child.join()


def serve_grpc(address: str) -> None:
    """Run in a child: an echo method over a Unix socket."""
    import grpc

    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench", {"echo": handler}),)
    )
    server.add_insecure_port(address)
    server.start()
    os.write(1, b"ready")
    server.wait_for_termination()


@contextlib.contextmanager
def grpc_unix() -> Iterator[tuple[Echo, Callable[[bytes], futures.Future[bytes]]]]:
    """A Unix socket under gRPC: a waiting call, and one that returns a future."""
    import grpc

    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{Path(folder) / 'socket'}"
        code = f"from bench.peers import serve_grpc; serve_grpc({address!r})"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            if child.stdout is None or child.stdout.read(5) != b"ready":
                raise RuntimeError("the gRPC server did not start")
            options = [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ]
            with grpc.insecure_channel(address, options=options) as channel:
                method = channel.unary_unary("/bench/echo")
                yield method, method.future
        finally:
            child.kill()
            child.wait()
