"""Settings of the service: what an operator decides."""

from __future__ import annotations

import datetime
import math
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from secgear.errors import ServiceError
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors, read_anchors

_MAX_PORT: Final = 65_535
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class AnchorFile:
    """A root to trust besides those built in.

    family: see `anchors.FAMILIES`. path: PEM, certificates or one public key. subject: whose key.
    """

    family: str
    path: Path
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit for one client address: `burst` requests at once, `per_second` in the long run."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if not (0 < self.per_second < math.inf and self.burst >= 1):
            raise ServiceError("settings: a rate is more than 0 a second, and 1 or more at once")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a service runs.

    issuer: its name in results (``iss``), for example its URL. directory: where the database and
    the result keys are kept unless named otherwise; created if missing.
    database: URL; several instances that share it are one service. keys: PEM file of result keys,
    the first of which signs; created if missing; the same for all instances.
    extra_anchors: roots besides the vendors'.
    nonce_lifetime, result_lifetime: after which a challenge or a result is worth nothing.
    max_nonces: challenges that may be outstanding, in all instances together.
    max_body: bytes of a request. body_timeout: seconds for sending it.
    verifications: that run at once. queue: requests that may wait for a thread; more are refused.
    challenge_rate, attest_rate, failure_rate: per client address and instance; the last one is for
    failed authentication. host, port: where to listen. tls_certificate, tls_key: PEM files.
    insecure: allow to listen without TLS elsewhere than on this machine, for example behind a
    balancer that ends TLS. trusted_proxies: addresses whose ``X-Forwarded-For`` is believed.
    max_connections: at once.
    """

    issuer: str
    directory: Path
    database: str = field(default="", repr=False)  # a password may be in it
    keys: Path | None = None
    extra_anchors: tuple[AnchorFile, ...] = ()
    nonce_lifetime: datetime.timedelta = datetime.timedelta(minutes=5)
    result_lifetime: datetime.timedelta = datetime.timedelta(minutes=10)
    max_nonces: int = 65_536
    max_body: int = 8 << 20
    body_timeout: float = 20.0
    verifications: int = os.cpu_count() or 1
    queue: int = 256
    challenge_rate: Rate = Rate(20, 100)
    attest_rate: Rate = Rate(20, 100)
    failure_rate: Rate = Rate(0.2, 10)
    host: str = "127.0.0.1"
    port: int = 8443
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    trusted_proxies: tuple[str, ...] = ()
    max_connections: int = 512

    def __post_init__(self) -> None:
        if not self.issuer:
            raise ServiceError("settings: a result needs an issuer, for example this service's URL")
        limits = self.max_nonces, self.max_body, self.verifications, self.queue
        if min(*limits, self.max_connections) < 1:
            raise ServiceError("settings: limits are 1 or more")
        second = datetime.timedelta(seconds=1)
        if min(self.nonce_lifetime, self.result_lifetime) < second or not self.body_timeout > 0:
            raise ServiceError("settings: lifetimes are a second or more, timeouts more than 0")
        if not 0 <= self.port <= _MAX_PORT:
            raise ServiceError(f"settings: there is no port {self.port}")
        if (self.tls_certificate is None) is not (self.tls_key is None):
            raise ServiceError("settings: TLS needs both a certificate and its key")

    @property
    def database_url(self) -> str:
        """The URL that counts."""
        return self.database or f"sqlite:///{(self.directory / 'attestation.db').absolute()}"

    @property
    def keys_path(self) -> Path:
        """The file of result keys that counts."""
        return self.keys or self.directory / "result-keys.pem"

    def anchors(self) -> Anchors:
        """The roots to trust. Raises ServiceError or CollateralError for a file that is none."""
        found = builtin_anchors()
        for extra in self.extra_anchors:
            try:
                pem = extra.path.read_bytes()
            except OSError as error:
                raise ServiceError(f"settings: {extra.path}: {error.strerror}") from None
            more = read_anchors(extra.family, extra.path.stem, pem, extra.subject)
            found = found.adding(*more.roots, *more.keys)
        return found

    def check_listening(self) -> None:
        """Raises ServiceError where tokens and evidence would travel in the clear.

        Also for a certificate and key that can't be used: encrypted, not PEM, not for each other.
        """
        if self.tls_key is None and not self.insecure and self.host not in _LOOPBACK:
            raise ServiceError(
                f"settings: listening on {self.host} needs TLS (tls_certificate, tls_key); "
                "insecure=True is for a balancer in front that ends it"
            )
        if self.tls_certificate is None or self.tls_key is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a callback OpenSSL would ask for a passphrase on the terminal.
            context.load_cert_chain(self.tls_certificate, self.tls_key, password=lambda: b"")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ServiceError(
                f"settings: {self.tls_certificate} and {self.tls_key} are no certificate "
                f"and its key without passphrase, both PEM: {error}"
            ) from None
