"""The counters of switchless calls, for Prometheus."""

from __future__ import annotations

from typing import Any

import pytest

from secgear.base.switchless.metrics import Collector
from secgear.base.switchless.stats import SwitchlessStats


def test_counters_are_there_for_each_enclave(enclave: Any) -> None:
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    enclaves = {"one": enclave}
    registry.register(Collector(enclaves))
    before = registry.get_sample_value("secgear_switchless_calls_total", {"enclave": "one"})
    for number in range(10):
        enclave.switchless.add(number)
    after = registry.get_sample_value("secgear_switchless_calls_total", {"enclave": "one"})
    assert after - before == 10
    text = client.generate_latest(registry).decode()
    for field in SwitchlessStats.__struct_fields__:
        assert field == "unavailable" or f"secgear_switchless_{field}" in text
    del enclaves["one"]
    assert 'enclave="one"' not in client.generate_latest(registry).decode()
