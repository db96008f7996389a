"""Policies in Rego, for those who have them already (``pip install secgear[rego]``).

The module sees the claims as ``input``, the reference values as ``data.reference_values`` (as in
their file) and, by name, the accepted launch measurements as ``data.reference``. Only ``true`` is
a yes: not undefined, not another value, not an error, not a late answer.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from secgear.errors import PolicyError
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.policy.model import Rego
from secgear.middleware.attestation.reference import ReferenceValues
from secgear.middleware.attestation.values import to_plain

MAX_INPUT: Final = 4 << 20  # bytes of claims and reference values together
_NAME: Final = "policy.rego"
_CHILD: Final = Path(__file__).with_name("rego_child.py")


def judge_by_rego(rego: Rego, claims: Claims, values: ReferenceValues | None) -> Check:
    """One check, ``policy.rego``: whether the query is literally true for these claims."""
    try:
        _require_engine()
        answer = _evaluate(rego, claims.to_dict(), _data(values or ReferenceValues()))
    except PolicyError as error:
        return Check(_NAME, Outcome.FAIL, str(error), expected="true")
    if answer == [[True]] and answer[0][0] is True:
        return Check(_NAME, Outcome.PASS, f"{rego.query} is true")
    found = json.dumps(answer[0][0])[:80] if answer and answer[0] else "undefined"
    return Check(
        _NAME,
        Outcome.FAIL,
        f"{rego.query} is not true",
        expected="true",
        found=found,
        fix="secgear verify without --policy shows the claims that the module sees as input",
    )


def _require_engine() -> None:
    """Raises PolicyError if no Rego engine is installed."""
    if importlib.util.find_spec("regopy") is None:
        raise PolicyError("this policy has [rego], which needs: pip install 'secgear[rego]'")


def _data(values: ReferenceValues) -> dict[str, Any]:
    named: dict[str, list[str]] = {}
    for value in values.values:
        if "launch" in value.measurements:
            named.setdefault(value.name, []).append(value.measurements["launch"].hex())
    return {"reference_values": to_plain(values.values), "reference": named}


def _evaluate(rego: Rego, claims: Mapping[str, Any], data: Mapping[str, Any]) -> list[list[Any]]:
    """Raises PolicyError for everything that ends without an answer."""
    request = json.dumps(
        {
            "path": [place for place in sys.path if place],
            "module": rego.module,
            "query": rego.query,
            "input": claims,
            "data": data,
        }
    ).encode()
    if len(request) > MAX_INPUT:
        raise PolicyError(f"{len(request)} bytes for the Rego engine; at most {MAX_INPUT}")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_CHILD)],
            input=request,
            capture_output=True,
            timeout=rego.timeout.total_seconds(),
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired:
        limit = f"{rego.timeout.total_seconds():.0f} s"
        raise PolicyError(f"the Rego engine gave no answer within {limit}") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()
        raise PolicyError(f"the Rego engine failed: {last[-1] if last else done.returncode}")
    try:
        results = json.loads(done.stdout)["results"]
    except (ValueError, KeyError, TypeError):
        raise PolicyError("the Rego engine gave no readable answer") from None
    if not isinstance(results, list):
        raise PolicyError("the Rego engine gave no list of results")
    return results
