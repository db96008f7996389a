"""Starting, using and killing instances of the service from tests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from secgear.base.tee import Evidence
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import pack, unpack
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.service.binding import report_data
from secgear.middleware.attestation.service.schema import COMMON
from secgear.middleware.attestation.service.store import open_store
from secgear.middleware.attestation.service.tokens import Role, create_token
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.attestation.service.conftest import POLICY

ROOT = Path(__file__).parents[4]


class Group:
    """Instances that share a database, with an administrator."""

    def __init__(self, folder: Path, database: str, vendor: SimulatedVendor) -> None:
        self._folder = folder
        self._database = database
        self._vendor = vendor
        self._root = folder / "shared-root.pem"
        self._root.write_bytes(to_pem(vendor.certificate))
        store = open_store(database, COMMON)
        self.headers = {"Authorization": f"Bearer {create_token(store, Role.ADMIN, 'alice')}"}
        store.close()

    def start(self) -> Instance:
        """One more."""
        return Instance([str(self._folder / "shared"), self._database, str(self._root)])

    def request(self, nonce: str, policy: str = "laboratory") -> bytes:
        """A request that is right in everything."""
        bound = report_data(unpack(nonce)).ljust(64, b"\0")
        evidence: Evidence = self._vendor.evidence(report_data=bound)
        asked: dict[str, Any] = {
            "evidence": json.loads(envelope.to_json(evidence)),
            "nonce": pack(unpack(nonce)),
            "policy": policy,
            "audience": "me",
        }
        return json.dumps(asked).encode()


class Instance:
    """A process."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.middleware.attestation.service.instance", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the instance did not start"

    def kill(self) -> None:
        """As a power failure would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> None:
        """As an operator would."""
        self.process.terminate()
        self.process.communicate(timeout=30)


__all__ = ["POLICY", "Group", "Instance"]
