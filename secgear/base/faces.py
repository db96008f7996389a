"""ECALLs as methods: calls that wait, futures, and calls that are awaited."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, final

from secgear.base import styles
from secgear.base.connection import Connection
from secgear.base.functions import Compiled
from secgear.base.switchless.faces import SwitchlessFace


class _Face:
    """Makes a method of each ECALL, once.

    An ECALL that its app declares switchless goes through shared memory where there is some.
    """

    def __init__(self, connection: Connection, deadline: float | None, shared: Any) -> None:
        self._connection = connection
        self._deadline = deadline
        self._shared = shared

    def __getattr__(self, name: str) -> Any:
        connection = self._connection
        compiled = connection.function(name)
        if compiled.description.switchless and connection.lanes is not None:
            ecall = getattr(self._shared, name)
        else:
            ecall = self._make(compiled)
            styles.describe(ecall, compiled)
        self.__dict__[name] = ecall
        return ecall

    def _make(self, compiled: Compiled) -> Callable[..., Any]:
        raise NotImplementedError


@final
class Faces(_Face):
    """ECALLs as methods, in every style, with one deadline."""

    def __init__(self, connection: Connection, deadline: float | None) -> None:
        self.switchless = SwitchlessFace(connection, deadline)
        super().__init__(connection, deadline, self.switchless)
        self.submit = Submit(connection, deadline, self.switchless.submit)
        self.aio = Aio(connection, deadline, self.switchless.aio)

    def _make(self, compiled: Compiled) -> Callable[..., Any]:
        return styles.caller(self._connection, compiled, self._deadline)


@final
class Submit(_Face):
    """ECALLs that return a `concurrent.futures.Future`; cancelling it cancels the call."""

    def _make(self, compiled: Compiled) -> Callable[..., Future[Any]]:
        return styles.submitter(self._connection, compiled, self._deadline)


@final
class Aio(_Face):
    """ECALLs to be awaited; one that returns an iterator is an async iterator at once."""

    def _make(self, compiled: Compiled) -> Callable[..., Any]:
        return styles.awaiter(self._connection, compiled, self._deadline)
