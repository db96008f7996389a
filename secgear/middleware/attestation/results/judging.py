"""What both forms of a result have in common when they are verified."""

from __future__ import annotations

import datetime
import hmac
from typing import Final

from secgear.errors import ResultInvalid
from secgear.middleware.attestation.results.ear import MAX_LIFETIME, Result
from secgear.middleware.attestation.results.vector import Tier

MAX_SIZE: Final = 256 << 10  # bytes of a token
SKEW: Final = datetime.timedelta(seconds=30)  # that two clocks may differ


def accept(
    result: Result,
    *,
    audience: str,
    issuer: str,
    nonce: bytes | None,
    now: datetime.datetime,
    allow_warning: bool,
    allow_negative: bool,
) -> Result:
    """The result, if it is meant for this reader, now. Raises ResultInvalid."""
    if now.tzinfo is None:
        raise ValueError("now= needs a time zone")
    if result.issuer != issuer:
        raise ResultInvalid(f"result: issued by {result.issuer[:80]!r}, not by {issuer!r}")
    if result.audience != audience:
        raise ResultInvalid(f"result: meant for {result.audience[:80]!r}, not for {audience!r}")
    if result.issued_at - now > SKEW:
        raise ResultInvalid(f"result: issued in the future, at {result.issued_at.isoformat()}")
    if result.not_before is not None and result.not_before - now > SKEW:
        raise ResultInvalid(f"result: not valid before {result.not_before.isoformat()}")
    if now - result.expires >= SKEW:
        raise ResultInvalid(f"result: expired at {result.expires.isoformat()}")
    if not datetime.timedelta(0) < result.expires - result.issued_at <= MAX_LIFETIME:
        raise ResultInvalid("result: a lifetime out of bounds")
    if nonce is not None and (result.nonce is None or not hmac.compare_digest(result.nonce, nonce)):
        raise ResultInvalid("result: it answers another challenge: the nonce differs")
    if result.status is Tier.AFFIRMING or (result.status is Tier.WARNING and allow_warning):
        return result
    if allow_negative:
        return result
    raise ResultInvalid(
        f"result: it does not affirm: the status is {result.status.value}"
        + ("; allow_warning=True accepts it" if result.status is Tier.WARNING else "")
    )
