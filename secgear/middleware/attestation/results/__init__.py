"""Attestation results: signed statements of a verifier that others can rely on (EAR)."""

from __future__ import annotations

from secgear.middleware.attestation.results.cwt import issue_cwt, verify_cwt
from secgear.middleware.attestation.results.ear import Appraisal, Profile, Result
from secgear.middleware.attestation.results.jwt import issue_jwt, verify_jwt
from secgear.middleware.attestation.results.keys import ResultKey, new_key, public_keys
from secgear.middleware.attestation.results.vector import Tier

__all__ = [
    "Appraisal",
    "Profile",
    "Result",
    "ResultKey",
    "Tier",
    "issue_cwt",
    "issue_jwt",
    "new_key",
    "public_keys",
    "verify_cwt",
    "verify_jwt",
]
