"""Remote attestation: one offline, fail-closed verifier for every TEE.

`verify` turns evidence into claims or raises; `examine` judges evidence under a policy and gives a
verdict that explains itself. Public names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear.base.tee import Evidence as Evidence
    from secgear.middleware.attestation.anchors import Anchor as Anchor
    from secgear.middleware.attestation.anchors import Anchors as Anchors
    from secgear.middleware.attestation.anchors import KeyAnchor as KeyAnchor
    from secgear.middleware.attestation.anchors import builtin_anchors as builtin_anchors
    from secgear.middleware.attestation.anchors import read_anchors as read_anchors
    from secgear.middleware.attestation.appraisal import appraise as appraise
    from secgear.middleware.attestation.appraisal import examine as examine
    from secgear.middleware.attestation.bundle import load_bundle as load_bundle
    from secgear.middleware.attestation.bundle import make_bundle as make_bundle
    from secgear.middleware.attestation.bundle import reverify as reverify
    from secgear.middleware.attestation.checks import Check as Check
    from secgear.middleware.attestation.checks import Outcome as Outcome
    from secgear.middleware.attestation.claims import Claims as Claims
    from secgear.middleware.attestation.claims import TcbStatus as TcbStatus
    from secgear.middleware.attestation.collateral import Collateral as Collateral
    from secgear.middleware.attestation.importing import import_collateral as import_collateral
    from secgear.middleware.attestation.policy import Policy as Policy
    from secgear.middleware.attestation.policy import load_policy as load_policy
    from secgear.middleware.attestation.recognition import recognise as recognise
    from secgear.middleware.attestation.reference import ReferenceValues as ReferenceValues
    from secgear.middleware.attestation.reference import (
        load_reference_values as load_reference_values,
    )
    from secgear.middleware.attestation.verdict import Verdict as Verdict
    from secgear.middleware.attestation.verification import formats as formats
    from secgear.middleware.attestation.verification import verify as verify

_HERE = "secgear.middleware.attestation"
_PUBLIC = {
    "Anchor": f"{_HERE}.anchors",
    "Anchors": f"{_HERE}.anchors",
    "Check": f"{_HERE}.checks",
    "Claims": f"{_HERE}.claims",
    "Collateral": f"{_HERE}.collateral",
    "Evidence": "secgear.base.tee",
    "KeyAnchor": f"{_HERE}.anchors",
    "Outcome": f"{_HERE}.checks",
    "Policy": f"{_HERE}.policy",
    "ReferenceValues": f"{_HERE}.reference",
    "TcbStatus": f"{_HERE}.claims",
    "Verdict": f"{_HERE}.verdict",
    "appraise": f"{_HERE}.appraisal",
    "builtin_anchors": f"{_HERE}.anchors",
    "examine": f"{_HERE}.appraisal",
    "import_collateral": f"{_HERE}.importing",
    "load_bundle": f"{_HERE}.bundle",
    "load_policy": f"{_HERE}.policy",
    "load_reference_values": f"{_HERE}.reference",
    "make_bundle": f"{_HERE}.bundle",
    "read_anchors": f"{_HERE}.anchors",
    "recognise": f"{_HERE}.recognition",
    "reverify": f"{_HERE}.bundle",
    "verify": f"{_HERE}.verification",
    "formats": f"{_HERE}.verification",
}

__all__ = [
    "Anchor",
    "Anchors",
    "Check",
    "Claims",
    "Collateral",
    "Evidence",
    "KeyAnchor",
    "Outcome",
    "Policy",
    "ReferenceValues",
    "TcbStatus",
    "Verdict",
    "appraise",
    "builtin_anchors",
    "examine",
    "formats",
    "import_collateral",
    "load_bundle",
    "load_policy",
    "load_reference_values",
    "make_bundle",
    "read_anchors",
    "recognise",
    "reverify",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module {_HERE!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
