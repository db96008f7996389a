"""Connections that the host hands over to an enclave, which then talks to the client by itself.

A call that the host carries in for a client crosses two processes each way. A connection that was
handed over crosses one: the enclave reads and writes it, and the host is not asked. It is a matter
of speed alone. The host can hear, change and end such a connection as before (it made it); what
clients say to be heard by nobody but the enclave goes over an attested channel.

Where the TEE can pass descriptors there is a `Door`. Where it can't, the host carries the bytes
(`secgear.base.handover.pump`), and the app notices nothing.
"""

from __future__ import annotations

import mmap
import socket
import struct
from typing import Final, NamedTuple

HAND_OVER_ECALL: Final = "secgear_connection"
"""The ECALL that says what a descriptor is for, which came through the door."""
PUMP_ECALL: Final = "secgear_pumped"
"""The ECALL that carries a connection's bytes where there is no door."""
SLOTS: Final = 4096
"""Connections that an enclave can have at once; a descriptor each."""
MARK: Final = 64
"""Bytes that an enclave can note about a connection where the host reads them, see `Door.mark`."""
SLOT: Final = struct.Struct("<I")
"""All that crosses the door beside descriptors: which connection this is about."""


class Door(NamedTuple):
    """What a TEE gives both sides to hand connections over.

    socket: sequenced packets. From the host: a slot, with exactly one descriptor. From the
    enclave: a slot that it is done with. memory: shared, a mark for each slot.
    """

    socket: socket.socket
    memory: mmap.mmap

    def mark(self, slot: int) -> memoryview:
        """What the enclave notes about the connection; outlives the enclave. Writable."""
        return memoryview(self.memory)[slot * MARK : (slot + 1) * MARK]


def make_door() -> tuple[socket.socket, socket.socket, int]:
    """The two ends of a door's socket, the host's first, and a memfd for the marks."""
    from secgear.base.transport.arena import shared_file

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        return ours, theirs, shared_file("secgear-connections", SLOTS * MARK)
    except OSError:
        ours.close()
        theirs.close()
        raise
