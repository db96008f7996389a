"""Starting inside the process TEE: seal in two steps around the imports, report, serve."""

from __future__ import annotations

import gc
import mmap
import os
import secrets
import socket
from collections.abc import Callable
from typing import ClassVar

import msgspec

from secgear.base import runtime
from secgear.base.handover import SLOTS, Door
from secgear.base.handover import enclave as handover
from secgear.base.image import Image
from secgear.base.loader import install
from secgear.base.sandbox import seal
from secgear.base.sandbox.secret import SecretMemory, SecretPool
from secgear.base.tee import Evidence, Guest, SealingPolicy
from secgear.base.tees.process_boot import (
    Answer,
    Boot,
    EvidenceRequest,
    Failed,
    KeyRequest,
    Sealed,
    receive,
    send,
)
from secgear.base.transport.arena import Arena
from secgear.base.transport.stream import SocketStream
from secgear.errors import GuestError, LaunchFailed, SecGearError

EVIDENCE_FORMAT = "secgear.process.cwt"
_FILES = 256
"""Descriptors that an enclave can have beside its connections."""


def start(sock: socket.socket) -> None:
    """Runs in the main thread of a fresh interpreter; ends with the process."""
    try:
        boot = receive(sock, Boot)
    except LaunchFailed:
        os._exit(3)
    debug = False
    try:
        data = _read_all(boot.image_fd)
        os.close(boot.image_fd)
        null = os.open("/dev/null", os.O_RDWR)  # nothing can be opened for writing later
        shared = (boot.shared_fd, boot.switchless_fd, boot.door_fd, boot.marks_fd)
        memory = [fd for fd in shared if fd >= 0]
        # The manifest is read before anything is restricted, because it holds the memory limit;
        # the image's own code runs only further down.
        image = Image.parse(data)
        debug = image.manifest.debug
        layers = seal.begin(
            seal.SealConfig(
                host_pid=boot.host_pid,
                read_paths=boot.read_paths,
                memory_limit=image.manifest.memory,
                keep_fds=(sock.fileno(), null, *memory),
                open_files=_FILES + (SLOTS if boot.door_fd >= 0 else 0),
            )
        )
        arena = None
        if boot.shared_fd >= 0:
            arena = Arena(boot.shared_fd, host=False)
            os.close(boot.shared_fd)
        switchless = None
        if boot.switchless_fd >= 0:
            switchless = mmap.mmap(boot.switchless_fd, os.fstat(boot.switchless_fd).st_size)
            os.close(boot.switchless_fd)
        if boot.door_fd >= 0:
            marks = mmap.mmap(boot.marks_fd, os.fstat(boot.marks_fd).st_size)
            os.close(boot.marks_fd)
            handover.install(Door(socket.socket(fileno=boot.door_fd), marks))
        install(image, boot.search_path)
        app = runtime.load(image)
        _mute(null)
        layers += seal.finish(boot.door_fd)
        gc.freeze()  # what is here now stays for good: no collection looks at it again
    except BaseException as error:  # noqa: BLE001  (the host is told, in the terms it may hear)
        send(sock, _failure(error, debug))
        os._exit(3)
    send(sock, Sealed(tuple(layers)))
    pool = seal.pool()
    runtime.serve(
        app,
        image,
        SocketStream(sock),
        arena,
        lambda ask: ProcessGuest(ask, pool, image.manifest.svn),
        switchless=switchless,
    )
    os._exit(0)


def _read_all(fd: int) -> bytes:
    """A private copy of the image: nothing that happens to the descriptor later matters."""
    parts = []
    offset = 0
    while part := os.pread(fd, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _mute(null: int) -> None:
    """From here on nothing that C code prints leaves."""
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _failure(error: BaseException, debug: bool) -> Failed:
    if isinstance(error, SecGearError):
        return Failed(error.code, str(error)[:16384])
    if not debug:
        return Failed(
            LaunchFailed.code,
            f"the app could not be imported ({type(error).__name__}); build it with --debug to "
            "see the traceback",
        )
    import traceback

    return Failed(LaunchFailed.code, "".join(traceback.format_exception(error))[-16384:])


class ProcessGuest(Guest):
    """Evidence and keys from the simulated platform; entropy from the kernel."""

    tee: ClassVar[str] = "process"

    def __init__(self, ask: Callable[[bytes], bytes], pool: SecretPool, svn: int) -> None:
        self.svn = svn
        self._ask = ask
        self._pool = pool

    def evidence(self, report_data: bytes) -> Evidence:
        """A CWT in COSE_Sign1, signed by the local simulated root and marked as simulated."""
        if len(report_data) != 64:
            raise ValueError(f"report_data is 64 bytes, not {len(report_data)}")
        return Evidence(EVIDENCE_FORMAT, self._request(EvidenceRequest(bytes(report_data))))

    def sealing_key(self, policy: SealingPolicy, svn: int | None = None) -> SecretMemory:
        """A key in secret memory. On its way from the platform it passes through the heap."""
        data = self._request(KeyRequest(policy.value, -1 if svn is None else svn))
        key = self._pool.allocate(len(data))
        key.write(data)
        return key

    def random(self, size: int) -> bytes:
        """The kernel's generator; a host that is root could steer it."""
        return secrets.token_bytes(size)

    def _request(self, request: EvidenceRequest | KeyRequest) -> bytes:
        reply = self._ask(msgspec.msgpack.encode(request))
        try:
            answer = _ANSWER.decode(reply)
        except (msgspec.DecodeError, ValueError) as error:
            raise GuestError("the platform's answer is malformed") from error
        if answer.error:
            raise GuestError(answer.error)
        return answer.data


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_ANSWER = msgspec.msgpack.Decoder(Answer)
