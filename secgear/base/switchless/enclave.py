"""The enclave's half of switchless calls: its lanes, and when each begins to be served."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import final

import msgspec

from secgear.base import typedesc as td
from secgear.base.exchange import Incoming
from secgear.base.functions import Compiled
from secgear.base.link import Link
from secgear.base.switchless.enclave_lane import Lane, Offer, Target
from secgear.base.switchless.forms import form
from secgear.base.transport import ring
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import Abandon, Frame
from secgear.errors import ProtocolError

_abandon = msgspec.msgpack.Decoder(Abandon)


@final
class Lanes:
    """Every lane of this enclave.

    memory: what the host shares for switchless calls, divided as `geometry` says. count: how many
    lanes may be served. opened: told of each that begins, because it takes a thread.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        geometry: Geometry,
        count: int,
        link: Link,
        *,
        offers: Sequence[Offer],
        targets: Mapping[str, Target],
        interrupt: Callable[[int, bool], None],
        opened: Callable[[], None],
    ) -> None:
        self.count = count
        self._memory = memory
        self._geometry = geometry
        self._link = link
        self._offers = offers
        self._targets = targets
        self._interrupt = interrupt
        self._opened = opened
        self._lanes: dict[int, Lane] = {}
        self._closed = False

    def on_lane(self, entry: Frame) -> None:
        """LANE: begin to serve one."""
        if not 0 <= entry.id < self.count or entry.id in self._lanes:
            raise ProtocolError("a lane that is not there, or is served already")
        if self._closed:
            return
        geometry = self._geometry
        geometry.populate(self._memory, entry.id)
        memory = geometry.lane(memoryview(self._memory), entry.id)
        end = ring.open_lane(memory, geometry.rings, host=False)
        lane = Lane(
            entry.id,
            end,
            geometry.piece,
            self._link,
            offers=self._offers,
            targets=self._targets,
            interrupt=self._interrupt,
        )
        self._lanes[entry.id] = lane
        self._opened()
        threading.Thread(
            target=self._run, args=(lane,), name=f"switchless-{entry.id}", daemon=True
        ).start()

    def on_abandon(self, entry: Frame) -> None:
        """ABANDON: the caller has given up."""
        body = _abandon.decode(entry.payload)
        lane = self._lanes.get(body.lane)
        if lane is None or not 0 < body.first <= body.last < 1 << 48:
            raise ProtocolError("calls were given up that were never made")
        lane.abandon(body.first, body.last)

    def find(self, id: int) -> Incoming | None:
        """A call that runs on a lane, by its id in the connection's table."""
        lane = self._lanes.get((id >> 48) & 0x7FFF) if id >> 63 else None
        return lane.find(id & ((1 << 48) - 1)) if lane is not None else None

    @property
    def running(self) -> int:
        """Calls that are served now."""
        return sum(lane.running for lane in list(self._lanes.values()))

    def cancel_all(self) -> None:
        """Interrupt every call; nothing new is served."""
        self._closed = True
        for lane in list(self._lanes.values()):
            lane.close(cancel=True)

    def close(self) -> None:
        """End every lane; whoever waits at either end is told."""
        self._closed = True
        for lane in list(self._lanes.values()):
            lane.close(cancel=False)

    def _run(self, lane: Lane) -> None:
        try:
            # The ring's own errors are ConnectionErrors: the host closed the lane or broke it.
            with contextlib.suppress(ConnectionError, ProtocolError):
                lane.run()
        finally:
            lane.close(cancel=False)  # the host's end must not wait for one that serves no more


def offers_and_targets(
    offers: Sequence[Offer],
    ocalls: Mapping[str, Compiled],
    definitions: Mapping[str, td.TypeDef],
) -> tuple[list[Offer], dict[str, Target]]:
    """Functions by number, OCALLs by name; numbers are those of the sorted names."""
    numbered = sorted(offers, key=lambda offer: offer.served.compiled.name)
    ready = [
        offer._replace(
            form=form(offer.served.compiled.description, offer.served.compiled.types, definitions)
        )
        for offer in numbered
    ]
    targets = {
        name: Target(
            number, ocalls[name], form(ocalls[name].description, ocalls[name].types, definitions)
        )
        for number, name in enumerate(sorted(ocalls))
        if not ocalls[name].streams and not ocalls[name].description.result_stream
    }
    return ready, targets
