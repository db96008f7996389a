"""The module's counters for Prometheus: what its enclaves count, as they tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, final

from secgear.errors import CryptoModuleError, SecGearError

if TYPE_CHECKING:
    from secgear.services.crypto.host import Supervisor

_GAUGES: Final = {
    "connections": "Clients with a connection.",
    "sessions": "Sessions of clients.",
    "objects": "Objects on all tokens.",
}
_PREFIX: Final = "secgear_crypto"


@final
class Collector:
    """``prometheus_client.REGISTRY.register(Collector(supervisor))``.

    The label ``enclave`` is the process of one: its counters begin anew with the next.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Any]:
        """The counters now; of an enclave that is about to end, none."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        told: list[tuple[str, Any]] = []
        for enclave in self._supervisor.enclaves():
            with contextlib.suppress(SecGearError):
                told.append((str(enclave.pid), enclave.metrics()))
        up = GaugeMetricFamily(f"{_PREFIX}_enclaves", "Enclaves that serve.", value=len(told))
        yield up
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=["enclave"])
            for pid, one in told:
                gauge.add_metric([pid], getattr(one, name))
            yield gauge
        calls = CounterMetricFamily(f"{_PREFIX}_calls", "Calls.", labels=["enclave", "call"])
        errors = CounterMetricFamily(
            f"{_PREFIX}_errors", "Calls that were refused or failed.", labels=["enclave", "rv"]
        )
        seconds = HistogramMetricFamily(
            f"{_PREFIX}_call_seconds", "Time inside, of all calls.", labels=["enclave"]
        )
        for pid, one in told:
            for name, number in sorted(one.counts.calls.items()):
                calls.add_metric([pid, name], number)
            for name, number in sorted(one.counts.errors.items()):
                errors.add_metric([pid, name], number)
            ends = [*map(str, one.bounds), "+Inf"]
            buckets = list(zip(ends, accumulate(one.counts.buckets), strict=True))
            seconds.add_metric([pid], buckets, one.counts.seconds)
        yield from (calls, errors, seconds)


@contextlib.contextmanager
def exported(supervisor: Supervisor, address: str) -> Iterator[str]:
    """Serve the counters over HTTP until the block ends; gives where.

    address: ``host:port``; port 0 takes a free one. Who can connect can read them.
    Raises CryptoModuleError when the address can't be had.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 0xFFFF:
        raise CryptoModuleError(f"{address!r} is no address; metrics go to host:port")
    registry = CollectorRegistry()
    registry.register(Collector(supervisor))
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise CryptoModuleError(f"{address}: {error.strerror or error}") from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
