"""Signatures that contain what they sign: RSA with PKCS#1 v1.5 (PKCS#11 2.40, 5.11 and 5.12)."""

from __future__ import annotations

from collections.abc import Callable

from secgear.services.crypto.algorithms.signing import RsaRecovery
from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.mechanism import Mechanism, Parameter
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.operations import Output, begin, whole
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.mechanisms import Row, no_parameter
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.session import Active, Kind


@serves("C_SignRecoverInit")
def sign_recover_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int
) -> tuple[()]:
    """Begin a signature."""
    return begin(app, handle, Kind.SIGN_RECOVER, mechanism, key, _recovery(sign=True))


@serves("C_SignRecover")
def sign_recover(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Sign."""
    return whole(app, handle, Kind.SIGN_RECOVER, data, room)


@serves("C_VerifyRecoverInit")
def verify_recover_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int
) -> tuple[()]:
    """Begin a verification."""
    return begin(app, handle, Kind.VERIFY_RECOVER, mechanism, key, _recovery(sign=False))


@serves("C_VerifyRecover")
def verify_recover(app: Application, handle: int, signature: bytes | None, room: int) -> Output:
    """Verify, and tell what was signed."""
    return whole(app, handle, Kind.VERIFY_RECOVER, signature, room)


def _recovery(*, sign: bool) -> Callable[[Row, Object, Parameter], Active]:
    def make(_: Row, key: Object, parameter: Parameter) -> Active:
        no_parameter(parameter)
        login = key.flag(Attr.ALWAYS_AUTHENTICATE)
        return Active(RsaRecovery(key.material, sign=sign), login=login)

    return make
