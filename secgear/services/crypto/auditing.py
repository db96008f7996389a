"""Verification of a module's audit trail, on the host's side or from a copy of its store."""

from __future__ import annotations

from collections.abc import Callable

from secgear.errors import CryptoModuleError
from secgear.services.crypto.storage import Storage
from secgear.services.crypto.trail import End, Verifier


def verify(
    storage: Storage,
    key: bytes,
    kept: End | None = None,
    told: Callable[[bytes], object] | None = None,
) -> End:
    """Verify the whole trail, and return its end.

    key: the module's audit key, 32 bytes. kept: an earlier end, which must still be in it: the
    host can't make records, but could show a trail that ends too early. told: is given each record,
    once it was verified.
    Raises CryptoModuleError.
    """
    verifier = Verifier(key)
    seen = kept is None
    for batch in storage.trail():
        verifier.follow(batch)
        if told is not None:
            for _, body, _, _ in batch:
                told(body)
        if kept is not None:
            seen = seen or any(
                (seq, digest.hex()) == (kept.seq, kept.hash) for seq, _, digest, _ in batch
            )
    end = verifier.end()
    if not seen:
        raise CryptoModuleError("audit: the end that was kept is not in this trail: it was cut off")
    return end
