"""Clients of the host's socket, whose connections the host has handed over.

One thread waits for all of them, reads, answers and waits again: a call costs one read, one write
and no change of threads. More such threads would wait for each other, because signing holds the
interpreter's lock; and each piece of a message that a client writes would wake another one of them.
What takes its time goes to other threads, and its answer comes when it is there, since p11-kit's
clients send the calls of all their threads over one connection.

No client can hold up another: nothing here blocks on one, what it does not read is kept up to a
limit and then nothing more of it is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, final

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.frames import HEADER, Frames, negotiate
from secgear.services.crypto.rpc.marks import (
    CODE,
    CODES,
    COUNT,
    READING,
    WRITING,
    note_codes,
    note_version,
)

if TYPE_CHECKING:
    from secgear.base.handover.enclave import Connection

Answer = Callable[[bytes, int], bytes]
"""Makes the answer to a message, in the protocol's version that is spoken."""

_LONG_THREADS: Final = 4
_SWITCH: Final = 0.001
"""Seconds that a thread computes in Python while others want to, in place of Python's 5 ms.

Each call comes back from the kernel three times, and waits as long each time if one computes.
"""
_UNDER_WAY: Final = 32  # calls of one connection
_LARGE: Final = 256 << 10  # bytes of a message that takes its time, whatever it asks for
_LONG_AT_ONCE: Final = 2  # of them on threads for what takes its time
_TURN: Final = 64  # calls of one connection before others have their turn
_UNKNOWN: Final = -1  # the version of a client that has not named one
_ROOM: Final = 80 << 10  # bytes of one read, unless a larger frame has begun; 64 KiB of data fit
_MAX_READ: Final = 1 << 20
_LOOKS: Final = 6  # for the rest of a frame that is being written
_UNSENT: Final = 16 << 20  # bytes of answers that a client has not read
_MEMORY: Final = 256 << 20  # bytes of larger frames and answers, of all connections
_IN: Final = select.EPOLLIN | select.EPOLLONESHOT
_OUT: Final = select.EPOLLOUT | select.EPOLLONESHOT

_BRIEF: Final = """
    C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo
    C_OpenSession C_CloseSession C_GetSessionInfo C_SessionCancel C_Logout
    C_GetAttributeValue C_GetObjectSize C_FindObjectsInit C_FindObjects C_FindObjectsFinal
    C_EncryptInit C_DecryptInit C_DigestInit C_SignInit C_VerifyInit C_GenerateRandom
    C_MessageEncryptInit C_MessageDecryptInit C_MessageSignInit C_MessageVerifyInit
    C_Encrypt C_EncryptUpdate C_EncryptFinal C_Decrypt C_DecryptUpdate C_DecryptFinal
    C_Digest C_DigestUpdate C_DigestFinal C_Sign C_SignUpdate C_SignFinal
    C_Verify C_VerifyUpdate C_VerifyFinal
    C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext
    C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
    C_SignMessage C_SignMessageBegin C_SignMessageNext
    C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext
"""
"""Calls that are answered at once. All others may take their time or wait for the host."""


def _ids(names: str) -> frozenset[bytes]:
    return frozenset(BY_NAME[name].id.to_bytes(4, "big") for name in names.split())


_IS_BRIEF: Final = _ids(_BRIEF)
_logger = logging.getLogger("secgear.crypto")


@final
class Clients:
    """All clients with a connection, and the threads that serve them."""

    def __init__(self) -> None:
        self.budget = Budget(_MEMORY)
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._lock = threading.Lock()
        self._long: ThreadPoolExecutor | None = None

    def take(
        self,
        connection: Connection,
        version: int | None,
        answer: Answer,
        left: Callable[[], None],
    ) -> None:
        """Serve one more. version: None for one that has yet to name it. left: told at its end."""
        with self._lock:
            if self._long is None:
                sys.setswitchinterval(_SWITCH)
                self._long = ThreadPoolExecutor(_LONG_THREADS, "long")
                threading.Thread(target=self._run, name="clients", daemon=True).start()
        Client(self, connection, version, answer, left).start()

    def watch(self, number: int, client: Client) -> None:
        """Know a descriptor of a client, and wait for nothing yet."""
        self._clients[number] = client
        self._epoll.register(number, select.EPOLLONESHOT)

    def wait(self, number: int, events: int) -> None:
        """Give the client its turn once, when one of these happens."""
        self._epoll.modify(number, events)

    def forget(self, number: int) -> None:
        """Before a descriptor is closed; that alone ends no waiting: the host has it open, too."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(number)
        self._clients.pop(number, None)

    def long(self, task: Callable[[], None]) -> None:
        """Run what takes its time."""
        assert self._long is not None  # noqa: S101  (there are clients)
        self._long.submit(task)

    def _run(self) -> None:
        poll = self._epoll.poll
        find = self._clients.get
        while True:
            for number, _ in poll():
                client = find(number)
                if client is not None:
                    client.turn()


@final
class Client:
    """One connection. One thread at a time reads it, whose turn it is; any may answer."""

    def __init__(
        self,
        clients: Clients,
        connection: Connection,
        version: int | None,
        answer: Answer,
        left: Callable[[], None],
    ) -> None:
        self._clients = clients
        self._connection = connection
        self._reader = connection.reader
        self._writer = connection.writer
        self._mark = connection.mark
        self._version = _UNKNOWN if version is None else version
        self._answer = answer
        self._left = left
        self._frames = Frames()
        self._reserved = 0
        self._lock = threading.Lock()  # of all below, and of writing
        self._turning = True
        self._closed = False
        self._paused = False
        self._codes: list[int] = []
        self._long: deque[tuple[int, bytes]] = deque()
        self._running = 0
        self._unsent = bytearray()
        self._kept = 0

    def start(self) -> None:
        """Wait for it."""
        if self._version != _UNKNOWN:
            note_version(self._mark, self._version)
        try:
            for number in {self._reader, self._writer}:
                self._clients.watch(number, self)
            self._wait(_IN)
        except BaseException:
            for number in {self._reader, self._writer}:
                self._clients.forget(number)
            raise

    def turn(self) -> None:
        """Something has come, or can go."""
        with self._lock:
            if self._turning or self._closed:
                return  # who has the turn looks again before it waits
            self._turning = True
        try:
            self._serve()
            return
        except (OSError, EOFError, MalformedMessage):
            pass  # the client has left, or speaks something else
        except Exception as error:  # noqa: BLE001  (a defect here must not end everybody's service)
            _logger.error("a connection failed: %s", type(error).__name__)
        self._close()

    def _serve(self) -> None:
        """Answer what is there, then wait again. Raises OSError, EOFError, MalformedMessage."""
        if self._unsent and not self._flush():
            self._wait(_OUT)
            return
        frames, heard = self._frames, False
        for _ in range(_TURN):
            frame = frames.next()
            if frame is None:
                if (heard and frames.empty) or not (self._hear() or self._more_soon()):
                    self._wait(_IN)
                    return
                heard = True
                continue
            code, body = frame
            last = frames.empty
            self._begin(code, last=last)
            what = body[:4]
            if what in _IS_BRIEF and len(body) < _LARGE:
                self._say(code, self._answer(body, self._version))
            else:
                self._run_long(code, body)
            if self._unsent:
                break
            if len(self._codes) >= _UNDER_WAY and self._pause():
                return
        self._wait(_OUT)  # when something can go, which is soon, but after the others' turns

    def _wait(self, events: int) -> None:
        """The end of a turn. Raises OSError."""
        with self._lock:
            self._turning = False
            self._arm(_OUT if self._unsent else events)

    def _arm(self, events: int) -> None:
        self._clients.wait(self._reader if events == _IN else self._writer, events)

    def _pause(self) -> bool:
        """Have no turn until one of the calls under way is answered; False if one was."""
        with self._lock:
            self._paused = len(self._codes) >= _UNDER_WAY
            self._turning = not self._paused
            return self._paused

    # --- reading ---------------------------------------------------------------------------------

    def _hear(self) -> bool:
        """Read; False if there was nothing. Raises EOFError, OSError."""
        frames = self._frames
        room = _ROOM
        if frames.missing > _ROOM:
            room = min(frames.missing, _MAX_READ)
            if not self._reserved:
                self._clients.budget.take(frames.missing)
                self._reserved = frames.missing
        self._mark[READING] = 1
        try:
            data = os.read(self._reader, room)
        except BlockingIOError:
            if frames.empty:
                self._mark[READING] = 0
            return False
        if not data:
            raise EOFError
        if self._version == _UNKNOWN:
            self._version = negotiate(data[0])
            self._write(bytes((self._version,)))
            note_version(self._mark, self._version)
            data = data[1:]
            if not data:
                self._mark[READING] = 0
                return False
        frames.feed(data)
        if self._reserved and frames.missing <= 0:
            self._clients.budget.give(self._reserved)
            self._reserved = 0
        return True

    def _more_soon(self) -> bool:
        """Whether the rest of a frame is there by now: p11-kit writes each in three pieces.

        To sleep and be woken costs more than the few microseconds that it mostly takes.
        """
        if self._frames.empty:
            return False
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return any(poll.poll(0) for _ in range(_LOOKS))

    def _begin(self, code: int, *, last: bool) -> None:
        """A call is under way. last: nothing more has been read."""
        mark, codes = self._mark, self._codes
        with self._lock:
            codes.append(code)
            if len(codes) == 1:
                CODE.pack_into(mark, CODES, code)
                mark[COUNT] = 1
            else:
                note_codes(mark, codes)
        if last:
            mark[READING] = 0

    # --- answering -------------------------------------------------------------------------------

    def _run_long(self, code: int, body: bytes) -> None:
        """Answer on a thread for what takes its time; a few at once, as others want them, too."""
        with self._lock:
            self._long.append((code, body))
            if self._running >= _LONG_AT_ONCE:
                return
            self._running += 1
        self._clients.long(self._next_long)

    def _next_long(self) -> None:
        with self._lock:
            code, body = self._long.popleft()
        self._reply(code, body)
        with self._lock:
            if not self._long or self._closed:
                self._running -= 1
                return
        self._clients.long(self._next_long)  # at the end of the queue

    def _reply(self, code: int, body: bytes) -> None:
        """Answer on a thread whose turn it is not."""
        try:
            self._say(code, self._answer(body, self._version))
            return
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001  (a defect here must not end everybody's service)
            _logger.error("a connection failed: %s", type(error).__name__)
        with self._lock:
            if not self._closed:
                self._connection.end()  # whose turn it is closes it

    def _say(self, code: int, answer: bytes) -> None:
        """Send an answer, or keep what does not go. Raises OSError."""
        mark, codes = self._mark, self._codes
        with self._lock:
            if self._closed:
                return
            mark[WRITING] = 1
            self._write(HEADER.pack(code, 0, len(answer)) + answer)
            codes.remove(code)
            if codes:
                note_codes(mark, codes)
            else:
                mark[COUNT] = 0
            if self._unsent:
                if not self._turning and not self._paused:
                    self._arm(_OUT)
            else:
                mark[WRITING] = 0
            if self._paused:
                self._paused = False
                self._arm(_OUT)

    def _write(self, data: bytes) -> None:
        sent = 0
        if not self._unsent:
            with contextlib.suppress(BlockingIOError):
                sent = os.write(self._writer, data)
            if sent == len(data):
                return
        rest = len(data) - sent
        if len(self._unsent) + rest > _UNSENT:
            raise OSError("a client does not read its answers")
        self._clients.budget.take(rest)
        self._kept += rest
        self._unsent += data[sent:]

    def _flush(self) -> bool:
        """Send what was kept; whether all of it went. Raises OSError."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                while self._unsent:
                    del self._unsent[: os.write(self._writer, self._unsent[:_ROOM])]
            if self._unsent:
                return False
            self._clients.budget.give(self._kept)
            self._kept = 0
            self._mark[WRITING] = 0
            return True

    def _close(self) -> None:
        """The end, by the thread whose turn it is."""
        with self._lock:
            self._closed = True
            self._long.clear()
            for number in {self._reader, self._writer}:
                self._clients.forget(number)
            self._connection.close()
        self._clients.budget.give(self._reserved + self._kept)
        self._left()


@final
class Budget:
    """Memory that clients have in common."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Raises OSError when there is not as much."""
        with self._lock:
            if size > self._left:
                raise OSError("clients keep too much")
            self._left -= size

    def give(self, size: int) -> None:
        """It is free again."""
        with self._lock:
            self._left += size
