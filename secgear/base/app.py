"""The app model: a trusted program declares what goes in and what goes out.

The type annotations are the interface definition. `App.interface` describes them; both sides
compare its digest before the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import msgspec

from secgear.base import context
from secgear.base.interface import Described, Interface, check_name, describe_function
from secgear.errors import InterfaceError

if TYPE_CHECKING:
    from secgear.base.handover.enclave import Connection, Connections

P = ParamSpec("P")
R = TypeVar("R")

LOG_LEVELS = ("off", "debug", "info", "warning", "error")


class Ecall(msgspec.Struct, frozen=True):
    """An ECALL as declared: the function, its description, the exceptions it may raise."""

    function: Callable[..., Any]
    described: Described
    raises: tuple[type[Exception], ...]


class Ocall(msgspec.Struct, frozen=True):
    """An OCALL as declared: its description, the exceptions that its handler may raise."""

    described: Described
    raises: tuple[type[Exception], ...]


class App:
    """A trusted program.

    name: identifies the product for signers and sealing unless `product` says otherwise.
    version: for people. svn: security version number, raised with every security fix.
    requires: distributions the program imports; the build measures them and what they need.
    threads: how many ECALLs run at once. memory: bytes of private data the enclave may have.
    log: the lowest level whose records may leave the enclave; ``off`` closes the channel.
    """

    def __init__(
        self,
        name: str,
        version: str = "0",
        *,
        product: str | None = None,
        svn: int = 1,
        requires: Iterable[str] = (),
        threads: int = 4,
        memory: int = 4 << 30,
        log: str = "off",
    ) -> None:
        if not isinstance(name, str) or not name:
            raise InterfaceError("an app needs a name: App('wordcount')")
        if not 0 <= svn < 2**32:
            raise InterfaceError(f"svn is a number from 0 to 2^32-1, not {svn!r}")
        if not 1 <= threads <= 256:
            raise InterfaceError(f"threads is a number from 1 to 256, not {threads!r}")
        if log not in LOG_LEVELS:
            raise InterfaceError(f"log is one of {', '.join(LOG_LEVELS)}, not {log!r}")
        self.name = name
        self.version = version
        self.product = product or name
        self.svn = svn
        self.requires = tuple(requires)
        self.threads = threads
        self.memory = memory
        self.log = log
        self.ecalls: dict[str, Ecall] = {}
        self.ocalls: dict[str, Ocall] = {}
        self.starters: list[Callable[[], None]] = []
        self.stoppers: list[Callable[[], None]] = []
        self._connections: Connections | None = None

    def __repr__(self) -> str:
        return f"App({self.name!r}, version={self.version!r}, ecalls={sorted(self.ecalls)})"

    @property
    def interface(self) -> Interface:
        """The interface as both sides compare it."""
        return Interface.gather(
            self.name,
            self.version,
            [ecall.described for _, ecall in sorted(self.ecalls.items())],
            [ocall.described for _, ocall in sorted(self.ocalls.items())],
        )

    @overload
    def ecall(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def ecall(
        self, /, *, raises: Iterable[type[Exception]] = ..., switchless: bool = ...
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
    def ecall(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        raises: Iterable[type[Exception]] = (),
        switchless: bool = False,
    ) -> Any:
        """Declare an ECALL: a function that the host may call.

        raises: exception classes that may cross the boundary with their text; any other exception
        arrives as EnclaveInternalError with an id and no text.
        switchless: calls go through shared memory (``enclave.switchless``) unless the host has
        none; for functions that are called often and run briefly.
        Raises InterfaceError for a reserved or repeated name or an unsupported type.
        """
        if function is None:
            return functools.partial(self._add_ecall, raises=tuple(raises), switchless=switchless)
        return self._add_ecall(function, raises=tuple(raises), switchless=switchless)

    def _add_ecall(
        self, function: Callable[P, R], *, raises: tuple[type[Exception], ...], switchless: bool
    ) -> Callable[P, R]:
        name = function.__name__
        check_name(name)
        self._refuse_repeat(name)
        described = describe_function(function, raises)
        if switchless:
            plain = described.function
            if plain.result_stream or any(param.stream for param in plain.params):
                raise InterfaceError(
                    f"{name}: an iterator can't cross by a switchless call; leave out "
                    "switchless=True, or take and give lists"
                )
            described = described._replace(function=msgspec.structs.replace(plain, switchless=True))
        self.ecalls[name] = Ecall(function, described, raises)
        return function

    @overload
    def ocall(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def ocall(
        self, /, *, raises: Iterable[type[Exception]] = ...
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
    def ocall(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        raises: Iterable[type[Exception]] = (),
    ) -> Any:
        """Declare an OCALL: a function that the host implements; the body here is never run.

        raises: exception classes that the host's handler may raise into the enclave.
        """
        if function is None:
            return functools.partial(self._add_ocall, raises=tuple(raises))
        return self._add_ocall(function, raises=tuple(raises))

    def _add_ocall(
        self, function: Callable[P, R], *, raises: tuple[type[Exception], ...]
    ) -> Callable[P, R]:
        name = function.__name__
        self._refuse_repeat(name)
        self.ocalls[name] = Ocall(describe_function(function, raises), raises)

        @functools.wraps(function)
        def leave(*args: P.args, **kwargs: P.kwargs) -> R:
            return context.ocall(name, args, kwargs)  # type: ignore[no-any-return]

        return leave

    def _refuse_repeat(self, name: str) -> None:
        if name in self.ecalls or name in self.ocalls:
            raise InterfaceError(f"{name}: declared twice; ECALLs and OCALLs share their names")

    @property
    def connections(self) -> Connections:
        """Connections that the host hands over; using it is what makes the app take any."""
        if self._connections is None:
            from secgear.base.handover.enclave import Connections, ecalls

            self._connections = Connections()
            for function in ecalls(self._connections):
                self.ecall(function)
        return self._connections

    def connection(
        self, *, name: str, limit: int = 1024
    ) -> Callable[[Callable[[Connection, bytes], None]], Callable[[Connection, bytes], None]]:
        """Declare a handler of connections that the host hands over: see `Enclave.hand_over`.

        It is given each `Connection` and the host's note on the thread of a call, so it returns
        soon and has others serve it; when it raises, the connection is closed.
        name: what the host asks for. limit: how many it has at once.
        """

        def declare(
            handler: Callable[[Connection, bytes], None],
        ) -> Callable[[Connection, bytes], None]:
            self.connections.add(name, handler, limit)
            return handler

        return declare

    def on_start(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run `function` inside the sealed enclave before the first ECALL."""
        self.starters.append(function)
        return function

    def on_stop(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run `function` inside the enclave when the host closes it in an orderly way."""
        self.stoppers.append(function)
        return function
