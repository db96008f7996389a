"""What auditors are given: records as the host keeps them, and the trail's end as it is known here.

The records are worth nothing by themselves, as the host has them; the chain and the signed end are
what an auditor verifies them with.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles import checkpoints
from secgear.services.crypto.roles.checkpoints import Checkpoint
from secgear.services.crypto.token.module import Module


def records(module: Module, after: int) -> bytes:
    """Some records behind the one with the number `after`, none at the end."""
    found = module.vault.records(after)
    return checkpoints.pack([(one.seq, one.body, one.hash, one.signature) for one in found])


def checkpoint(module: Module, nonce: bytes) -> bytes:
    """The trail's end, with the uses of keys that were waiting. Raises CryptoRefused."""
    if len(nonce) != checkpoints.NONCE_SIZE:
        raise CryptoRefused(f"a nonce has {checkpoints.NONCE_SIZE} bytes")
    module.uses.flush()
    head = module.vault.head
    said = Checkpoint(head.roles.module.hex(), nonce.hex(), head.audit_seq, head.audit_hash.hex())
    return checkpoints.sign(said, Ed25519PrivateKey.from_private_bytes(head.audit_key))
