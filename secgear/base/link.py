"""What both halves of a connection share: tables of calls, the way out, and how threads wait."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, final

import msgspec

from secgear.base import context, faults
from secgear.base.assembly import Assembly
from secgear.base.context import Call
from secgear.base.exchange import Incoming, Outgoing
from secgear.base.flow import Consumer, Producer
from secgear.base.marshal import Packed, ValueCodec
from secgear.base.outbox import Outbox
from secgear.base.tee import Stream
from secgear.base.transport.arena import Arena
from secgear.base.wire import VALUE, Flag, Kind, Limits, More, ValueHead, frame
from secgear.base.workers import Inbox, Workers
from secgear.errors import EnclaveLost, LimitExceeded

encode = msgspec.msgpack.Encoder().encode


@final
class Link:
    """State of one connection.

    host: which side this is. limits: what this side accepts; peer_limits: what the other does.
    outgoing, incoming: calls in flight by id, guarded by `lock`. lost: why it ended, if it did.
    debug: tracebacks may cross.
    """

    def __init__(
        self,
        stream: Stream,
        arena: Arena | None,
        *,
        host: bool,
        limits: Limits,
        workers: Workers,
        debug: bool,
    ) -> None:
        self.stream = stream
        self.arena = arena
        self.host = host
        self.limits = limits
        self.peer_limits = limits
        self.workers = workers
        self.debug = debug
        self.outbox = Outbox(stream, arena)
        self.assembly = Assembly(limits, arena, self._credit)
        self.lock = threading.Lock()
        self.outgoing: dict[int, Outgoing] = {}
        self.incoming: dict[int, Incoming] = {}
        self.lost: EnclaveLost | None = None

    def _credit(self, chunk: int) -> None:
        self.outbox.post(frame(Kind.CREDIT, chunk))

    # --- threads ---------------------------------------------------------------------------------

    def current(self) -> Incoming | None:
        """The call that this thread serves, inside the enclave.

        The host's threads are as many as it takes, so there nothing needs to be served meanwhile.
        """
        call = context.serving()
        if self.host or call is None or call.owner is not self:
            return None
        with self.lock:
            return self.incoming.get(call.id)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """The framework's own work on a thread that runs app code: not to be interrupted."""
        incoming = self.current()
        exposed = incoming is not None and incoming.shield()
        try:
            yield
        finally:
            if exposed and incoming is not None:
                incoming.expose(again=True)

    def block(self, inbox: Inbox, done: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait as this thread must: one that serves a call serves what is nested in it.

        deadline: on the clock of `time.monotonic`. Returns False when it passed first. Raises
        Cancelled when the call being served was given up.
        """
        incoming = self.current()
        if incoming is None:
            return inbox.serve_until(done, deadline)
        call = incoming.call
        incoming.watch(inbox)
        with self.shielded():
            try:
                finished = self.workers.wait(
                    call.id, inbox, lambda: done() or call.cancelled, deadline
                )
            finally:
                incoming.unwatch(inbox)
            call.checkpoint()
        return finished

    # --- sending ---------------------------------------------------------------------------------

    def safely(self, data: bytes) -> None:
        """Send a frame that nobody may be there to read."""
        with contextlib.suppress(EnclaveLost):
            self.outbox.send(data)

    def send_value(
        self,
        kind: Kind,
        id: int,
        packed: Packed,
        *,
        flags: Flag,
        index: int,
        give_up: Callable[[], bool],
    ) -> None:
        """Send a RESULT or ITEM with its attachments."""
        sizes = tuple(len(view) for view in packed.attachments)
        head = frame(
            kind,
            id,
            encode(ValueHead(sizes, msgspec.Raw(packed.body))),
            flags=flags,
            index=0 if index == VALUE else index,
        )
        self.outbox.message(
            head, packed.attachments, flags=flags, index=index, id=id, give_up=give_up
        )

    def check_size(self, label: str, packed: Packed) -> None:
        """Raise LimitExceeded for what the other side would refuse."""
        limits = self.peer_limits
        # Around the body there are a name, the indices of streams and each attachment's size.
        if len(packed.body) + 9 * len(packed.attachments) + 1024 > limits.message:
            raise LimitExceeded(
                f"{label}: {len(packed.body)} bytes are over the message limit of "
                f"{limits.message}; pass large data as bytes, an array or a table, which travel "
                "out of band, or as a stream of smaller pieces"
            )
        total = packed.size - len(packed.body)
        if len(packed.attachments) > limits.attachments or total > limits.attached:
            raise LimitExceeded(
                f"{label}: {len(packed.attachments)} attachments of {total} bytes are over the "
                f"limit of {limits.attachments} attachments and {limits.attached} bytes; send a "
                "stream of smaller pieces"
            )

    # --- streams ---------------------------------------------------------------------------------

    def producer(
        self,
        source: Iterator[Any],
        codec: ValueCodec,
        id: int,
        index: int,
        *,
        parent: int,
        failed: Callable[[BaseException], None],
    ) -> Producer:
        """Feeds an iterator argument of the call `id` that this side makes.

        parent: the call that the caller itself serves. failed: told when the iterator raised.
        """
        label = f"stream {index}"
        # On the host, what the iterator itself calls is nested in the call that it feeds.
        call = Call(id if self.host else parent, label, self)

        def pack(item: Any) -> Packed:
            packed = codec.encode(item)
            self.check_size(label, packed)
            return packed

        def send(packed: Packed) -> None:
            self.send_value(
                Kind.ITEM,
                id,
                packed,
                flags=Flag.OURS,
                index=index,
                give_up=lambda: self.lost is not None,
            )

        def finish(error: BaseException | None) -> None:
            if error is None:
                self.safely(frame(Kind.END, id, flags=Flag.OURS, index=index))
                return
            # First, or what the other side makes of it could come back before it is known here.
            failed(error)
            body = faults.describe(error, (), enclave=not self.host, debug=self.debug)
            self.safely(frame(Kind.ERROR, id, encode(body), flags=Flag.OURS, index=index))

        def schedule(task: Callable[[], None]) -> None:
            def serve() -> None:
                before = context.enter(call)
                try:
                    task()
                finally:
                    context.enter(before)

            self.workers.submit(serve, parent)

        window = self.peer_limits.window
        return Producer(source, window, pack=pack, send=send, finish=finish, schedule=schedule)

    def consumer(
        self, codec: ValueCodec, id: int, index: int, stopped: Callable[[], None]
    ) -> Consumer:
        """Takes the items of a stream: of a result (index 0) or of a parameter.

        stopped: told when this side wants no more.
        """
        flags = Flag.OURS if index == 0 else Flag(0)

        def more(items: int) -> None:
            with self.shielded():
                self.outbox.post(
                    frame(Kind.MORE, id, encode(More(items)), flags=flags, index=index)
                )

        def stop() -> None:
            with self.shielded():
                self.outbox.post(frame(Kind.STOP, id, flags=flags, index=index))
            stopped()

        return Consumer(
            self.limits.window,
            decode=lambda item: codec.decode(item[0], item[1].take()),
            more=more,
            stop=stop,
            wait=self.block,
        )
