"""Calls of the module as a client makes them, over anything that carries a message there and back.

The data owner's side of the boundary. What a message is, is in `secgear.services.crypto.rpc`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import OWN, MalformedMessage
from secgear.services.crypto.rpc.messages import HANDSHAKE, build_request, parse_answer

Exchange = Callable[[bytes], bytes]
ROOM: Final = 4 << 20
"""Bytes of output that a call takes; a client in Python needs no room of its own."""


@final
class Caller:
    """Makes calls. exchange: carries one message to the module and brings its answer.

    Every method raises CryptokiError with the call's return value, CKR_DEVICE_ERROR where the
    answer is none.
    """

    def __init__(self, exchange: Exchange, version: int = OWN) -> None:
        self._exchange = exchange
        self._version = version

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """The call `name`, with the arguments and results of the table."""
        call = BY_NAME[name]
        request = build_request(call, arguments, self._version)
        try:
            return parse_answer(call, self._exchange(request), self._version)
        except MalformedMessage:
            raise CryptokiError(Rv.DEVICE_ERROR) from None

    def initialise(self) -> None:
        """C_Initialize."""
        self.call("C_Initialize", HANDSHAKE, 0, b"\0")

    def one(self, name: str, *arguments: Any) -> Any:
        """A call that has one result."""
        (result,) = self.call(name, *arguments)
        return result
