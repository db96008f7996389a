"""The enclave's side of all sessions: settings, limits, and the thread that each one has."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, final

import msgspec

from secgear.base import context
from secgear.base.functions import Served, compile_function
from secgear.base.signature import spread
from secgear.errors import ChannelClosed, ChannelError, InterfaceError, SecGearError
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core
from secgear.middleware.channel.handshake import Answers, shake
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import Opened
from secgear.middleware.channel.relayed import Outflow, RelayedBytes
from secgear.middleware.channel.session import Session
from secgear.middleware.channel.tls import Parameters
from secgear.middleware.channel.trust import Remote, Trust

if TYPE_CHECKING:
    from secgear.base.app import App
    from secgear.base.flow import Consumer

_logger = logging.getLogger(__name__)
Handler = Callable[[Session], None]
Invoke = Callable[[dict[str, object]], object]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How an app takes sessions; measured with the app's source.

    clients: the policy under which a client's own evidence must be trusted; None to ask for none.
    authorities: certificates (PEM) that clients' certificates must lead to, or be; empty to ask
    for none. OpenSSL checks them, by the host's clock.
    parameters: of TLS. limit: sessions at once. per_client: at once from one client, by its key
    or, where it has none, its address, which the host tells. handshake, idle: seconds that a
    handshake may take, and that a session may be without a byte going either way.
    lifetime: seconds after which a session ends, whatever it does.
    ra_tls: the certificate carries evidence about its key, for clients that know nothing better
    (`secgear.middleware.channel.ratls`). Ours look at the connection's own evidence all the same.
    """

    clients: Trust | None = None
    authorities: tuple[bytes, ...] = ()
    parameters: Parameters = Parameters()
    limit: int = 256
    per_client: int = 64
    handshake: float = 30.0
    idle: float = 600.0
    lifetime: float = 86_400.0
    ra_tls: bool = False


@final
class Sessions:
    """All sessions of an app. `configure` before the first one comes, at import."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._settings = Settings()
        self._handlers: dict[str, Handler] = {}
        self._offered: set[str] = set()
        self._lock = threading.Lock()
        self._running: set[_Running] = set()
        self._clients: Counter[object] = Counter()
        self._watching = False
        self._identity: Identity | None = None
        self._served: dict[str, Served] | None = None
        self._callers: weakref.WeakKeyDictionary[object, Remote] = weakref.WeakKeyDictionary()

    # --- declaring -------------------------------------------------------------------------------

    def configure(self, settings: Settings | None = None, **changes: object) -> None:
        """Set what differs from the defaults: ``configure(limit=10, idle=60)``."""
        self._settings = msgspec.structs.replace(settings or self._settings, **changes)
        if self._settings.ra_tls:
            import secgear.middleware.channel.ratls.writing  # noqa: F401  (not when sealed)

    def add(self, name: str, handler: Handler) -> None:
        """Declare a handler. Raises InterfaceError when there is one of that name."""
        if name in self._handlers:
            raise InterfaceError(f"two handlers of sessions are called {name!r}")
        self._handlers[name] = handler

    def offer(self, name: str) -> None:
        """Let clients call the ECALL `name`."""
        self._offered.add(name)

    def __len__(self) -> int:
        """Sessions at this moment, those in their handshake among them."""
        return len(self._running)

    # --- serving ---------------------------------------------------------------------------------

    @property
    def peer(self) -> Remote | None:
        """Who makes the call that this thread serves; None for the host.

        Raises GuestError outside of a call.
        """
        return self._callers.get(context.current_call().owner)

    def take(self, address: str, inbound: Consumer) -> Outflow:
        """A relayed connection begins. Returns what goes out, at once; a thread does the rest."""
        stream = RelayedBytes(inbound)
        running = _Running(stream, address, time.monotonic() + self._settings.handshake)
        with self._lock:
            full = len(self._running) >= self._settings.limit
            if not full:
                self._running.add(running)
        if full:
            stream.close()
            return stream.outflow
        try:
            self._begin(running)
        except RuntimeError:  # the system gives us no more threads
            _logger.warning("no thread is to be had for a session")
            with self._lock:
                self._running.discard(running)
            stream.close()
        return stream.outflow

    def _begin(self, running: _Running) -> None:
        with self._lock:
            if not self._watching:
                threading.Thread(target=self._watch, name="sessions", daemon=True).start()
                self._watching = True
        threading.Thread(target=self._serve, args=(running,), name="session", daemon=True).start()

    def _serve(self, running: _Running) -> None:
        client: object = None
        try:
            session = self._shake(running)
            client = self._admit(session, running)
            if client is not None:
                self._dispatch(session)
        except SecGearError as error:
            _logger.info("a session ended: %s %s", error.code, error)
        except Exception:
            _logger.exception("a session failed")
        finally:
            running.stream.close()
            with self._lock:
                self._running.discard(running)
                if client is not None:
                    self._clients[client] -= 1
                    if not self._clients[client]:
                        del self._clients[client]

    def _shake(self, running: _Running) -> Session:
        settings = self._settings
        core = Core(
            Role.SERVER,
            settings.parameters,
            self._own(),
            authorities=settings.authorities,
            demand=settings.clients is not None,
        )
        answers = Answers(core, settings.clients, context.guest().evidence)
        events = shake(core, running.stream, answers, timeout=settings.handshake)
        running.deadline = time.monotonic() + settings.lifetime
        running.idle = settings.idle
        return Session(
            core,
            running.stream,
            answers.remote(running.address),
            events=events,
            lifetime=settings.lifetime,
        )

    def _own(self) -> Identity:
        """This enclave's key for TLS: made at the first session, gone with the enclave."""
        with self._lock:
            if self._identity is None:
                name = f"secgear enclave {self._app.name}"[:64]
                identity = Identity.fresh(name)
                if self._settings.ra_tls:
                    from secgear.middleware.channel.ratls.writing import certify

                    identity = certify(identity, context.guest().evidence, name=name)
                self._identity = identity
            return self._identity

    def _admit(self, session: Session, running: _Running) -> object:
        """Who the client counts as, None if it is not let in."""
        settings = self._settings
        peer = session.peer
        client: object = peer.key if peer.key is not None else running.address
        with self._lock:
            if self._clients[client] >= settings.per_client:
                room = False
            else:
                room = True
                self._clients[client] += 1
        if not room:
            session.failed("session.too-many", "too many sessions of this client")
            return None
        return client

    def _dispatch(self, session: Session) -> None:
        wish = session.await_open()
        if wish.calls:
            if not self._offered:
                session.failed("session.no-calls", "this enclave offers no calls")
                return
            from secgear.middleware.channel.answering import answer

            interface = self._app.interface
            session.opened(Opened(interface.to_json(), tuple(sorted(self._offered))))
            answer(session, self._functions_for(session), interface.digest())
            return
        handler = self._handlers.get(wish.service)
        if handler is None and not wish.service and len(self._handlers) == 1:
            handler = next(iter(self._handlers.values()))
        if handler is None:
            session.failed("session.no-handler", "there is no such handler")
            return
        session.opened(Opened())
        self._handle(session, handler)

    def _handle(self, session: Session, handler: Handler) -> None:
        try:
            handler(session)
        except BaseException as error:
            if not (session.closed and isinstance(error, ChannelError)):
                # Its text may hold the data of somebody else: it stays inside. Another session's
                # end is a failure, too: this one's client must not take it for a good one.
                session.failed("session.failed", "the enclave's handler failed")
                raise
            if not isinstance(error, ChannelClosed):
                session.abort()
                raise
            session.close()
        else:
            session.close()

    def _functions(self) -> dict[str, Served]:
        with self._lock:
            if self._served is None:
                self._served = {name: self._function(name) for name in self._offered}
            return self._served

    def _functions_for(self, session: Session) -> dict[str, Served]:
        """What is offered, knowing who calls: see `peer`."""

        def of_the_client(invoke: Invoke) -> Invoke:
            def run(values: dict[str, object]) -> object:
                self._callers[context.current_call().owner] = session.peer
                return invoke(values)

            return run

        return {
            name: served._replace(invoke=of_the_client(served.invoke))
            for name, served in self._functions().items()
        }

    def _function(self, name: str) -> Served:
        ecall = self._app.ecalls[name]
        described = ecall.described

        def invoke(values: dict[str, object]) -> object:
            args, kwargs = spread(described.function, values)
            return ecall.function(*args, **kwargs)

        compiled = compile_function(described.function, described.types, {})
        return Served(compiled, invoke, ecall.raises)

    def _watch(self) -> None:
        """End sessions that are late or idle; a thread that waits for bytes can't do it itself."""
        pause = threading.Event()
        while True:
            pause.wait(1.0)
            now = time.monotonic()
            with self._lock:
                late = [running for running in self._running if running.late(now)]
                if not self._running:
                    self._watching = False
                    return
            for running in late:
                with contextlib.suppress(SecGearError):
                    running.stream.close()


@final
class _Running:
    """A session that is there, as its watcher sees it. Compared by identity."""

    def __init__(self, stream: RelayedBytes, address: str, deadline: float) -> None:
        self.stream = stream
        self.address = address
        self.deadline = deadline
        self.idle: float | None = None

    def late(self, now: float) -> bool:
        """Whether its time is over."""
        return now >= self.deadline or (
            self.idle is not None and now - self.stream.used >= self.idle
        )
