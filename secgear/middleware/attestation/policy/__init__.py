"""Appraisal policies: what a relying party accepts. Default deny."""

from __future__ import annotations

from secgear.middleware.attestation.policy.model import Policy, Rules
from secgear.middleware.attestation.policy.reading import load_policy

__all__ = ["Policy", "Rules", "load_policy"]
