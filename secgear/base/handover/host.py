"""The host's half: connections that an enclave has, and what becomes of them when it ends."""

from __future__ import annotations

import array
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, final

from secgear.base.faces import Faces
from secgear.base.handover import HAND_OVER_ECALL, MARK, PUMP_ECALL, SLOT, SLOTS, Door
from secgear.errors import (
    CallCancelled,
    CallError,
    DeadlineExceeded,
    EnclaveLost,
    HandOverRefused,
    ProtocolError,
    SecGearError,
)

if TYPE_CHECKING:
    from secgear.base.connection import Connection

_PIECE: Final = 64 << 10
_ANSWER: Final = 30.0  # seconds that an enclave has to take a connection
_LEAVING: Final = 5.0  # seconds between an enclave leaving its door and its end
_NO_ANSWER: Final = (CallCancelled, DeadlineExceeded, EnclaveLost)
_logger = logging.getLogger("secgear")


@final
class HandedOver:
    """A connection that an enclave has.

    The host keeps its own descriptor of it, which it must not read while the enclave has it: so
    that the connection outlives the enclave, and can be handed to the next one.
    socket: that descriptor. lost: whether the enclave has died with it; else it closed it.
    """

    def __init__(self, socket: socket.socket, when_over: Callable[[HandedOver], None]) -> None:
        self.socket = socket
        self.lost = False
        self.mark = b""
        self._when_over = when_over
        self._settled = threading.Lock()

    def __repr__(self) -> str:
        return f"<HandedOver {self.socket.fileno()}>"

    def settle(self) -> bool:
        """Whether this is the first to say what has become of it."""
        return self._settled.acquire(blocking=False)

    def over(self, *, lost: bool, mark: bytes = b"") -> None:
        """The enclave has it no more. mark: what it has noted, where it could."""
        if not self.settle():
            return
        self.lost, self.mark = lost, mark
        try:
            self._when_over(self)
        except Exception:
            _logger.exception("after the end of a connection")


@final
class HandOvers:
    """All connections that one enclave has."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._faces = Faces(connection, _ANSWER)
        self._unhurried = Faces(connection, None)
        self._door: Door | None = connection.running.door
        self._lock = threading.Lock()
        self._held: dict[int, HandedOver] = {}
        self._free = list(range(SLOTS - 1, -1, -1))
        if self._door is not None:
            threading.Thread(
                target=self._watch, args=(self._door,), name="secgear-door", daemon=True
            ).start()

    def hand_over(
        self, sock: socket.socket, name: str, note: bytes, when_over: Callable[[HandedOver], None]
    ) -> HandedOver:
        """See `Enclave.hand_over`."""
        handed = HandedOver(sock, when_over)
        if self._door is None:
            self._pump(handed, name, note)
            return handed
        with self._lock:
            if self._connection.peer.lost is not None:
                raise EnclaveLost(str(self._connection.peer.lost))
            if not self._free:
                raise HandOverRefused(f"the enclave has {SLOTS} connections already")
            slot = self._free.pop()
            self._door.mark(slot)[:] = bytes(MARK)
            self._held[slot] = handed
        sent = False
        try:
            self._send(self._door, slot, sock)
            sent = True
            getattr(self._faces, HAND_OVER_ECALL)(slot, name, note)
        except BaseException as error:
            if not handed.settle():
                return handed  # the enclave had taken it, and has ended since
            with self._lock:
                # Where no answer came, the enclave may have it yet: this slot waits for word of it.
                answered = isinstance(error, CallError) and not isinstance(error, _NO_ANSWER)
                if answered or not sent:
                    self._held.pop(slot, None)
                    self._free.append(slot)
            raise
        return handed

    def _send(self, door: Door, slot: int, sock: socket.socket) -> None:
        descriptors = array.array("i", [sock.fileno()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        try:
            door.socket.sendmsg([SLOT.pack(slot)], ancillary, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise HandOverRefused("the enclave takes no connections at the moment") from None
        except OSError as error:
            raise HandOverRefused(f"this can't be handed over: {error.strerror}") from error

    def _watch(self, door: Door) -> None:
        """Hear what the enclave is done with, until it ends."""
        while data := _hear(door):
            handed = self._done(data)
            if handed is None:
                self._connection.peer.break_off(ProtocolError("nonsense at its door"))
                break
            handed.over(lost=False)
        # The next enclave must not have a connection while this one lives.
        if not self._connection.ended(_LEAVING):
            self._connection.peer.break_off(ProtocolError("it has left its door"))
            self._connection.ended(_LEAVING)
        self._connection.running.stop(0)
        with self._lock:
            held, self._held = self._held, {}
        for slot, handed in held.items():
            handed.over(lost=True, mark=bytes(door.mark(slot)))
        door.socket.close()

    def _done(self, data: bytes) -> HandedOver | None:
        """The connection that the enclave is done with; None if it says nothing of the kind."""
        if len(data) != SLOT.size:
            return None
        (slot,) = SLOT.unpack(data)
        with self._lock:
            handed = self._held.pop(slot, None)
            if handed is not None:
                self._free.append(slot)
        return handed

    def _pump(self, handed: HandedOver, name: str, note: bytes) -> None:
        """Carry the bytes. Where a thread can be had for each direction, that is all it takes."""
        pieces = getattr(self._unhurried, PUMP_ECALL)(name, note, _heard(handed.socket))
        next(pieces)  # it is taken, or the refusal is raised here

        def carry() -> None:
            lost = False
            try:
                for piece in pieces:
                    handed.socket.sendall(piece)
            except OSError:
                pieces.close()  # the client has left
            except SecGearError:
                lost = self._connection.peer.lost is not None
            with contextlib.suppress(OSError):
                handed.socket.shutdown(socket.SHUT_RDWR)  # whoever listens to it stops
            handed.over(lost=lost)

        threading.Thread(target=carry, name="secgear-pump", daemon=True).start()


def _hear(door: Door) -> bytes:
    """The enclave's next message at the door; empty when there will be none."""
    try:
        return door.socket.recv(SLOT.size + 1)
    except OSError:
        return b""


def _heard(sock: socket.socket) -> Iterator[bytes]:
    """What the client says."""
    with contextlib.suppress(OSError):
        while data := sock.recv(_PIECE):
            yield data
