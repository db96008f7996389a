"""From a request's bytes to its answer's: whatever the bytes are, there is an answer."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.messages import build_answer, build_error, parse_request
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import table

_logger = logging.getLogger(__name__)
_SERVED: Final = table()
_INITIALIZE: Final = BY_NAME["C_Initialize"].id


def answer(app: Application, body: bytes, version: int) -> bytes:
    """The answer to one request of an application.

    version: of the protocol. Raises CryptoModuleError when the module has to start again.
    """
    started, call, rv = perf_counter(), 0, Rv.OK
    try:
        request = parse_request(body, version)
        call = request.call.id
        function = _SERVED.get(request.call.id)
        if function is None:
            raise CryptokiError(Rv.FUNCTION_NOT_SUPPORTED)
        if not app.initialised and request.call.id != _INITIALIZE:
            raise CryptokiError(Rv.CRYPTOKI_NOT_INITIALIZED)
        return build_answer(request.call, function(app, *request.arguments), version)
    except CryptokiError as error:
        rv = error.rv
    except MalformedMessage:
        rv = Rv.DEVICE_ERROR
    except CryptoModuleError:
        raise
    except MemoryError:
        rv = Rv.DEVICE_MEMORY
    except Exception as error:  # noqa: BLE001  (a defect here must not end everybody's service)
        # Its kind only: the text may hold what a client has sent.
        _logger.error("a call failed: %s", type(error).__name__)
        rv = Rv.GENERAL_ERROR
    finally:
        app.module.tally.add(call, rv, perf_counter() - started)
    return build_error(rv)
