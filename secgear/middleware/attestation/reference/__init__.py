"""Reference values: what is known to be good, from stores, `secgear measure` and CoRIM."""

from __future__ import annotations

from secgear.middleware.attestation.reference.model import ReferenceValue, ReferenceValues
from secgear.middleware.attestation.reference.values import load_reference_values

__all__ = ["ReferenceValue", "ReferenceValues", "load_reference_values"]
