"""The conformance suite: our TEE passes it, and broken ones do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secgear.base import conformance
from secgear.base.conformance import CASES, Bench, Case
from secgear.base.tee import Availability, LaunchConfig, Running, Tee
from secgear.base.tees.process import ProcessTee


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_process_tee_conforms(case: Case, tmp_path: Path) -> None:
    case(Bench(ProcessTee(), tmp_path))


class Broken(Tee):
    """The process TEE with one thing wrong."""

    name, protects, strength, simulated = "broken", "nobody", 1, True

    def __init__(self, change: Any) -> None:
        self._change = change

    def probe(self) -> Availability:
        return Availability(True, "")

    def launch(self, image: Any, config: LaunchConfig) -> Running:
        running = ProcessTee().launch(image, LaunchConfig())
        real = running.platform

        def platform(request: bytes) -> bytes:
            return self._change(real, request)

        running.platform = platform  # type: ignore[method-assign]
        return running


def test_broken_tees_are_found_out(tmp_path: Path) -> None:
    replayed: list[bytes] = []

    def replay(real: Any, request: bytes) -> bytes:
        replayed.append(real(request))
        return replayed[0]

    bench = Bench(Broken(replay), tmp_path)
    for case in (
        conformance.probes_quickly_and_plainly,
        conformance.binds_evidence_to_report_data,
        conformance.seals_to_the_measurement,
        conformance.seals_to_the_signer,
        conformance.separates_debug_from_production,
        conformance.tells_its_layers,
    ):
        replayed.clear()
        with pytest.raises(AssertionError):
            case(bench)


def test_run_tells_every_outcome() -> None:
    outcomes = list(conformance.run(ProcessTee()))
    assert [outcome.case for outcome in outcomes] == [case.__name__ for case in CASES]
    assert [outcome for outcome in outcomes if outcome.error] == []
