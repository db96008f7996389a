"""A data owner: what it trusts, here and in a process of its own.

python -m tests.roles.owner ADDRESS MEASUREMENT
"""

from __future__ import annotations

import secrets
import sys
import threading
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchor, Anchors, Policy, builtin_anchors, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.channel import Session
from tests.roles.part import play


def policy_for(measurement: bytes) -> Policy:
    """Trusts the one program, as this machine's simulated platform runs it."""
    return load_policy(
        f"""
        name = "owner"
        [accept]
        tees = ["process"]
        measurements = ["{measurement.hex()}"]
        [allow]
        simulated = true
        debug = true
        test_roots = true
        """.encode()
    )


def own_anchors() -> Anchors:
    """The simulated platform's root, as it is in this process's home."""
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM)
    return builtin_anchors().adding(Anchor("mine", "simulated", load_pem(root)[0]))


class Owner:
    """Knows where the enclave is and what it has to be."""

    def __init__(self, address: str, measurement: bytes) -> None:
        self.address = address
        self.trust: dict[str, Any] = {
            "policy": policy_for(measurement),
            "anchors": own_anchors(),
        }

    def connect(self, address: Any = None, **given: Any) -> Session:
        """A session with it."""
        where = self.address if address is None else address
        return secgear.connect(where, **self.trust, timeout=given.pop("timeout", 60), **given)


class _Deeds:
    """Sends the same secret again and again, until told to stop. It is made here, nowhere else."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._secret = secrets.token_bytes(48)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._sent = 0
        self._failure = ""

    def begin(self) -> None:
        self._thread.start()

    def _talk(self) -> None:
        try:
            while not self._stop.is_set():
                with self._owner.connect(service="echo") as session:
                    for turn in range(50):
                        message = self._secret * (1 + 100 * (turn % 20))
                        session.send(message)
                        if session.recv(60) != message:
                            raise AssertionError("another message came back")
                        self._sent += 1
                with self._owner.connect() as session:
                    session.call.size(self._secret * 1000)
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"

    def secret(self) -> str:
        return self._secret.hex()

    def progress(self) -> dict[str, Any]:
        return {"sent": self._sent, "failure": self._failure, "running": self._thread.is_alive()}

    def end(self) -> dict[str, Any]:
        self._stop.set()
        self._thread.join(60)
        return self.progress()


def main() -> None:
    """Play the part."""
    deeds = _Deeds(Owner(sys.argv[1], bytes.fromhex(sys.argv[2])))
    names = ("begin", "secret", "progress", "end")
    play({name: getattr(deeds, name) for name in names})


if __name__ == "__main__":
    main()
