"""This user's own simulated platform as a root: for trying things out, named by who wants it."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization

from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation.bundle import AddedRoot


def own_simulated_root() -> AddedRoot:
    """The root under which this user's process TEE signs; made if there is none yet.

    It proves nothing to anybody else: its key is in a file that the user can read.
    """
    root = SimulatedPlatform(home()).root
    pem = root.public_bytes(serialization.Encoding.PEM).decode()
    return AddedRoot("simulated", "own-simulated-platform", pem)
