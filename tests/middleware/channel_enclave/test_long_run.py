"""The long run of ``make soak``, a short one: nothing grows with sessions and messages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.roles.host import Host
from tests.soak.channel import BLOCKS, FEW, Sample, grown, run


@pytest.mark.slow
def test_sessions_and_messages_leave_nothing_in_any_process(tmp_path: Path) -> None:
    with Host(tmp_path) as host:
        found = run(host, sessions=300, messages=6000, rounds=10)
    assert found.sessions == 300
    assert found.messages == 6000
    assert found.disturbed == 30
    assert found.grown == []


@pytest.mark.parametrize("process", ["host", "enclave", "client"])
@pytest.mark.parametrize(
    ("what", "each"), [("blocks", 4), ("descriptors", 1), ("threads", 1), ("resident", 100)]
)
def test_what_grows_is_named(process: str, what: str, each: int) -> None:
    """A session that leaves a descriptor, a thread, some objects or a buffer does not pass."""
    held = {"blocks": 100_000, "descriptors": 12, "threads": 9, "resident": 30_000}
    quiet: Sample = {name: dict(held) for name in ("host", "enclave", "client")}
    samples = [copy.deepcopy(quiet) for _ in range(10)]
    assert list(grown(samples, 300)) == []
    for turn, sample in enumerate(samples):
        sample[process][what] += each * turn * 30
    assert [line.split(":")[0] for line in grown(samples, 300)] == [f"{what} of the {process}"]
    assert BLOCKS < 4 < FEW
