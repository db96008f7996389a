"""A module whose evidence a fake vendor signs, and policies that trust it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from secgear.base.tee import Evidence, SealingPolicy
from secgear.middleware.attestation import Policy, load_policy
from secgear.services.crypto.attestation import KeyAttestation, ModuleAttestation, verify
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.vault import Vault
from tests.adversary.crypto_host import MemoryGuest, MemoryStore
from tests.adversary.vendors.simulated import SimulatedVendor

MEASUREMENT = b"m" * 48
VENDOR = SimulatedVendor()
ROOM = 1 << 20


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def policy(measurement: bytes = MEASUREMENT, report_data: str = "optional") -> Policy:
    return load_policy(
        f"""
        name = "keys"
        [accept]
        tees = ["process"]
        measurements = ["{measurement.hex()}"]
        [allow]
        simulated = true
        test_roots = true
        [freshness]
        report_data = "{report_data}"
        """.encode()
    )


LAX, STRICT = policy(), policy(report_data="required")


class VendorGuest(MemoryGuest):
    """Seals for whoever has the same name; the vendor signs its evidence. asked: how often."""

    def __init__(self, name: str = "module", **claims: object) -> None:
        super().__init__(name)
        self._claims = claims
        self.asked = 0

    def evidence(self, report_data: bytes) -> Evidence:
        self.asked += 1
        claims = VENDOR.claims(**self._claims)
        return VENDOR.evidence(claims, report_data=report_data)


def attested_module(
    store: MemoryStore, clock: Callable[[], datetime.datetime] = now, **claims: Any
) -> Module:
    return Module(
        Vault(
            store,
            lambda _: store,
            guest=VendorGuest(**claims),
            policy=SealingPolicy.MEASUREMENT,
            now=clock,
        )
    )


def verified(data: bytes, by: Policy = LAX, **more: Any) -> KeyAttestation | ModuleAttestation:
    return verify(data, by, at=now(), anchors=VENDOR.anchors, **more)
