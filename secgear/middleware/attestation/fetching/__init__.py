"""Fetching collateral: only when asked, and only from endpoints that the caller names.

No verifier imports this package. What comes from the network is as untrusted as what comes from
anywhere else: it is collateral, and verifiers check its signatures.
"""

from __future__ import annotations

from secgear.middleware.attestation.fetching.cache import Cache, DirectoryCache, MemoryCache
from secgear.middleware.attestation.fetching.fetcher import Endpoints, fetch
from secgear.middleware.attestation.fetching.transport import (
    HttpxTransport,
    Request,
    Response,
    Transport,
)

__all__ = [
    "Cache",
    "DirectoryCache",
    "Endpoints",
    "HttpxTransport",
    "MemoryCache",
    "Request",
    "Response",
    "Transport",
    "fetch",
]
