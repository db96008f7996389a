"""The counters of switchless calls for Prometheus; needs the package prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from secgear.base.enclave import Enclave

_GAUGES = {
    "lanes": "Workers that serve.",
    "busy": "Workers with a call under way, or left behind.",
}
_COUNTERS = {
    "calls": "Switchless calls.",
    "batches": "Batches of calls.",
    "failed": "Calls that ended with an exception.",
    "fallbacks": "Calls that went over the stream instead.",
    "waits": "Times that a caller found every worker busy.",
    "abandoned": "Workers left behind by a caller who gave up.",
    "sent": "Messages to the enclave.",
    "received": "Messages from the enclave.",
    "spins": "Waits that ended while spinning.",
    "parks": "Waits that went to sleep.",
    "wakes": "Times that the enclave was woken.",
    "rejected": "Messages of the enclave that broke the rules.",
}


@final
class Collector:
    """``prometheus_client.REGISTRY.register(Collector({"words": enclave}))``.

    enclaves: by the name they are told apart by, the label ``enclave``. Add and remove as they
    come and go: what counts is what is in there when the counters are collected.
    """

    def __init__(self, enclaves: dict[str, Enclave]) -> None:
        self._enclaves = enclaves

    def collect(self) -> Iterator[Any]:
        """The counters now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = {name: one.switchless.stats for name, one in list(self._enclaves.items())}
        kinds = ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS))
        for family, metrics in kinds:
            for field, text in metrics.items():
                metric = family(f"secgear_switchless_{field}", text, labels=["enclave"])
                for name, one in stats.items():
                    metric.add_metric([name], getattr(one, field))
                yield metric
