"""Modules in memory that people administrate, with evidence that a fake vendor signs."""

from __future__ import annotations

import datetime
from typing import Any

from secgear.base.tee import Evidence
from secgear.middleware.attestation import Policy, load_policy
from secgear.services.crypto import custodian
from secgear.services.crypto.administration import Administration
from secgear.services.crypto.roles import archive, custody
from secgear.services.crypto.roles.operations import Custodian, Operation
from secgear.services.crypto.roles.requests import approve, new_pin
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.vault import Vault
from tests.adversary.crypto_host import PIN, SO_PIN, MemoryGuest, MemoryStore, connect, vault_of
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.services.crypto.roles.people import KEYS, roles

VENDOR = SimulatedVendor()
CUSTODIANS = {name: custody.generate(None) for name in ("one", "two", "three")}


class AttestingGuest(MemoryGuest):
    """A guest whose evidence says what a verifier believes."""

    def evidence(self, report_data: bytes) -> Evidence:
        return VENDOR.evidence(VENDOR.claims(), report_data=report_data)


def policy(measurement: bytes = b"m" * 48) -> Policy:
    return load_policy(
        f"""
        name = "custodian"
        [accept]
        tees = ["process"]
        measurements = ["{measurement.hex()}"]
        [allow]
        simulated = true
        test_roots = true
        """.encode()
    )


def vault(store: MemoryStore) -> Vault:
    return vault_of(store, AttestingGuest())


def opened(store: MemoryStore) -> Module:
    return Module(vault(store))


def founded(slots: int = 1, *, module: bytes = bytes(range(16)), **changes: Any) -> MemoryStore:
    """A module with the people of `people.roles`, and nothing in it."""
    store = MemoryStore()
    vault(store).found(slots, roles=roles(module=module, **changes))
    return store


def with_token(store: MemoryStore) -> MemoryStore:
    """The same with a token in slot 0 that has both PINs."""
    caller = connect(opened(store))
    caller.call("C_InitToken", 0, SO_PIN, b"first".ljust(32))
    session = caller.one("C_OpenSession", 0, 6)
    caller.call("C_Login", session, 0, SO_PIN)
    caller.call("C_InitPIN", session, PIN)
    return store


def administered(
    module: Module, role: str = "administrator", name: str = "alice"
) -> Administration:
    """A connection on which somebody has logged in."""
    one = Administration(connect(module))
    one.login(role, name, KEYS[name])
    return one


def approved(request: bytes, *names: str) -> list[bytes]:
    return [approve(request, name, KEYS[name]) for name in names]


def decided(module: Module, operation: Operation, secret: bytes = b"") -> None:
    """Alice asks, Alice and Bob approve, Alice has it carried out."""
    alice = administered(module)
    request = alice.request(operation, seconds=60)
    given = new_pin(request, secret, KEYS["alice"]) if secret else b""
    alice.execute(request, approved(request, "alice", "bob"), given)


def custodians(*names: str) -> tuple[Custodian, ...]:
    import base64

    return tuple(
        Custodian(name, base64.b64encode(custody.load_public(CUSTODIANS[name][1])).decode())
        for name in names or CUSTODIANS
    )


def released(backup: bytes, target: bytes, name: str, trusted: Policy | None = None) -> bytes:
    """A custodian's share, for the enclave that restores."""
    import io

    manifest, _ = archive.read(io.BytesIO(backup))
    now = datetime.datetime.now(datetime.UTC)
    key = custody.load_private(CUSTODIANS[name][0], None)
    return custodian.release(
        manifest, target, key, trusted or policy(), at=now, anchors=VENDOR.anchors
    ).envelope
