"""Two cores in one thread, and what lies between them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from secgear.errors import ChannelError
from secgear.middleware.attestation import examine, load_policy
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Established, Event, Judge, Present
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.tls import Parameters
from tests.adversary.vendors.simulated import SimulatedVendor

POLICY = load_policy(
    f"""
name = "pairs"
[accept]
tees = ["process"]
measurements = ["{(b"m" * 48).hex()}"]
[allow]
simulated = true
test_roots = true
""".encode()
)
SERVER = Identity.fresh("server")
Wire = Callable[[str, bytes], list[bytes]]


class Pair:
    """A client and a server. cut: how what one side says reaches the other, in which pieces.

    events, errors: of each side, ``C`` and ``S``, in the order they came.
    """

    def __init__(
        self,
        *,
        client: Identity | None = None,
        authorities: tuple[bytes, ...] = (),
        demand: bool = False,
        parameters: Parameters | None = None,
        servers: Parameters | None = None,
        trusted: bool = True,
        vendor: SimulatedVendor | None = None,
        cut: Wire = lambda _, data: [data],
    ) -> None:
        parameters = parameters or Parameters()
        self.vendor = vendor or SimulatedVendor()
        self.client = Core(Role.CLIENT, parameters, client)
        self.server = Core(
            Role.SERVER, servers or parameters, SERVER, authorities=authorities, demand=demand
        )
        self.ends = {"C": self.client, "S": self.server}
        self.events: dict[str, list[Event]] = {"C": [], "S": []}
        self.errors: dict[str, ChannelError] = {}
        self.said: dict[str, bytes] = {"C": b"", "S": b""}
        self._trusted = trusted
        self._cut = cut

    def carry(self) -> None:
        """Hand bytes to and fro until nobody has anything to say."""
        moved = True
        while moved:
            moved = False
            for side, other in ("CS", "SC"):
                if data := self.ends[side].outgoing():
                    moved = True
                    self.said[side] += data
                    for piece in self._cut(side, data):
                        self.hand(other, piece)

    def hand(self, side: str, data: bytes) -> None:
        """`side` gets `data` from the network."""
        if side in self.errors:
            return
        try:
            for event in self.ends[side].receive(data):
                self.events[side].append(event)
                self._answer(side, event)
        except ChannelError as error:
            self.errors[side] = error

    def _answer(self, side: str, event: Any) -> None:
        end = self.ends[side]
        while event is not None:
            if isinstance(event, Present):
                end.present(self.vendor.evidence(report_data=event.report_data))
                return
            if not isinstance(event, Judge):
                return
            if not self._trusted:
                end.refuse("attestation.untrusted", "no")
                return
            verdict = examine(
                event.evidence,
                POLICY,
                at=datetime.datetime.now(datetime.UTC),
                report_data=event.report_data,
                anchors=self.vendor.anchors,
            )
            event = end.accept(verdict)
            if isinstance(event, Established):
                self.events[side].append(event)


def opened(**options: Any) -> Pair:
    """A pair that is open on both sides."""
    pair = Pair(**options)
    pair.carry()
    assert not pair.errors, pair.errors
    return pair
