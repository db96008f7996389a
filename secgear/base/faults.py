"""Exceptions across the boundary: what may be said, and what it becomes on the other side."""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Mapping
from typing import Any

from secgear import errors
from secgear.base.wire import ErrorBody, clip

DECLARED = "enclave.declared"
"""Code of an exception whose class the function declares with ``raises=``."""

_FRAMEWORK: dict[str, type[errors.CallError]] = {
    kind.code: kind
    for kind in (
        errors.ArgumentError,
        errors.CallCancelled,
        errors.EnclaveLost,
        errors.HandOverRefused,
        errors.LimitExceeded,
        errors.OcallFailed,
        errors.ProtocolError,
    )
}


class Refused(Exception):
    """Carries an error of the framework itself, whose text may leave the enclave."""

    def __init__(self, error: errors.CallError) -> None:
        super().__init__(error)
        self.error = error


def describe(
    error: BaseException, declared: tuple[type[Exception], ...], *, enclave: bool, debug: bool
) -> ErrorBody:
    """What the other side is told about `error`.

    declared: classes that may cross with their text. enclave: whether this side is the enclave,
    whose undeclared errors carry an incident id and nothing else; `debug` adds the traceback.
    """
    if isinstance(error, Refused):
        return ErrorBody(error.error.code, clip(str(error.error)))
    if isinstance(error, errors.Cancelled):
        return ErrorBody(errors.CallCancelled.code, "cancelled by the caller")
    for kind in type(error).__mro__:
        if kind in declared:
            try:
                return ErrorBody(DECLARED, clip(str(error)), kind.__name__)
            except Exception:  # noqa: BLE001  (an exception that can't be printed tells nothing)
                break
    if not enclave:
        return ErrorBody(errors.OcallFailed.code, f"the handler raised {type(error).__name__}")
    text = _traceback(error) if debug else ""
    return ErrorBody(errors.EnclaveInternalError.code, text, incident=secrets.token_hex(8))


def _traceback(error: BaseException) -> str:
    """The end of it, which tells most; in a frame there is no room for more."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as second:  # noqa: BLE001  (whatever the app's own __str__ and the like do)
        text = f"{type(error).__name__}, whose traceback can't be shown: {type(second).__name__}"
    return clip(text[-12288:], 12288)


def restore(function: str, body: ErrorBody, declared: Mapping[str, Any]) -> Exception:
    """The exception that `body` stands for, for the caller of `function`.

    declared: class name to class. An error that the interface does not allow is a ProtocolError.
    What the peer wrote may end on a terminal, so control characters are replaced.
    """
    text = _clean(body.text)
    if body.code == DECLARED:
        kind = declared.get(body.name)
        if kind is None:
            return errors.ProtocolError(f"{function}: raised {clip(body.name, 64)!r}, undeclared")
        try:
            error: Exception = kind(text)
        except Exception:  # noqa: BLE001  (an app's class may want other arguments)
            return errors.OcallFailed(f"{function}: {body.name}: {text}")
        return error
    if body.code == errors.EnclaveInternalError.code:
        incident = _clean(clip(body.incident, 32))
        message = (
            f"{function}: failed inside the enclave, incident {incident}; the "
            "exception's class is not declared with raises=, so its text stays inside"
        )
        if text:
            message = f"{message}. Debug image, traceback:\n{text}"
        return errors.EnclaveInternalError(message, incident)
    if body.code == errors.UnknownCall.code:
        # The interfaces were compared, so it has the function; it stops serving when it closes.
        return errors.EnclaveLost(f"{function}: the other side serves no calls any more")
    framework = _FRAMEWORK.get(body.code)
    if framework is None:
        return errors.ProtocolError(f"{function}: unknown error code {clip(body.code, 64)!r}")
    return framework(text if text.startswith(function) else f"{function}: {text}")


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
