"""What one side holds the other's evidence against, and who the other side turned out to be."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509

from secgear.base.tee import Evidence

if TYPE_CHECKING:
    from secgear.middleware.attestation.anchors import Anchors
    from secgear.middleware.attestation.claims import Claims
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.policy import Policy
    from secgear.middleware.attestation.reference import ReferenceValues
    from secgear.middleware.attestation.verdict import Verdict

Attester = Callable[[bytes], Evidence]
"""Given 64 bytes of report data, evidence that carries them: ``guest().evidence``."""


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """A policy and what is needed to judge by it; fields as in `attestation.examine`.

    at: the time to judge for, now if None.
    """

    policy: Policy
    anchors: Anchors | None = None
    collateral: Collateral | None = None
    reference_values: ReferenceValues | None = None
    at: datetime.datetime | None = None

    def judge(self, evidence: Evidence, report_data: bytes) -> Verdict:
        """The verdict on `evidence`, which has to carry `report_data`. Never raises for it."""
        from secgear.middleware.attestation.appraisal import examine

        return examine(
            evidence,
            self.policy,
            at=self.at or datetime.datetime.now(datetime.UTC),
            report_data=report_data,
            collateral=self.collateral,
            anchors=self.anchors,
            reference_values=self.reference_values,
        )


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """The other side of a session, as far as it is known.

    verdict: on its evidence; None for a client that was not asked for any. certificate: whose key
    it has shown to hold: a client's leads to one of the settings' authorities, an enclave's is its
    own word. key: SHA-256 of that key (SubjectPublicKeyInfo). address: where it calls from, as the
    relay says, which may lie. tls: version, suite and group.
    """

    verdict: Verdict | None = None
    certificate: x509.Certificate | None = None
    key: bytes | None = None
    address: str = ""
    tls: dict[str, str] = {}

    @property
    def claims(self) -> Claims | None:
        """What its evidence says, verified and trusted; None if there was none."""
        return None if self.verdict is None else self.verdict.require()
