"""The host: owns the machine, starts the enclave, carries the owners' bytes, and wants to know.

It does its work and keeps everything that it sees: what its relay carries, what it logs. And it
tries what a host would try: other programs, and asking the enclave itself.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import secgear
from secgear.base.image import Image, LaunchPolicy
from secgear.cli._demo.report import Try
from secgear.cli._demo.role import Deeds, Tell
from secgear.cli._demo.wiretap import Wiretap
from secgear.errors import SecGearError
from secgear.middleware.attestation import load_policy
from secgear.middleware.attestation.bundle import anchors_with
from secgear.middleware.attestation.own import own_simulated_root
from secgear.middleware.channel import Identity
from secgear.middleware.channel.addresses import parse

LOG: Final = "host.log"
RECORDING: Final = "recording"
NOTES: Final = "notes.txt"
GENUINE: Final = "genuine"
_logger = logging.getLogger("secgear.demo.host")


@final
class Host:
    """What the host does. folder: all of its files."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._folder = folder
        self._tell = tell
        self._open = contextlib.ExitStack()
        self._enclaves: dict[str, secgear.Enclave] = {}
        self._relays: dict[str, secgear.Relay] = {}
        self._tap: Wiretap | None = None
        self._decoy = ""
        (folder / RECORDING).mkdir()
        logging.basicConfig(
            filename=folder / LOG, level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s"
        )

    def launch(self, name: str, image: str, tee: str, signer: str | None = None) -> dict[str, Any]:
        """Start an enclave, with a relay in front; the first one gets the wiretap, too.

        signer: whose images may start, in hexadecimal; anybody's if None.
        """
        accepted = None if signer is None else frozenset([bytes.fromhex(signer)])
        ocalls = {"progress": self._tell} if name == GENUINE else None
        enclave = self._open.enter_context(
            secgear.launch(
                Image.load(image), tee=tee, ocalls=ocalls, policy=LaunchPolicy(signers=accepted)
            )
        )
        relay = self._open.enter_context(secgear.Relay(enclave))
        self._enclaves[name], self._relays[name] = enclave, relay
        if self._tap is None:
            tap = Wiretap(self._folder / RECORDING, relay.address)
            self._tap = self._open.enter_context(tap)
        return {
            "address": self._tap.address,
            "pid": enclave.pid,
            "layers": [(layer.name, layer.holds, layer.detail) for layer in enclave.layers],
        }

    # --- what it sees -----------------------------------------------------------------------------

    def plant(self, decoy: str) -> None:
        """Put `decoy` into each place that is going to be searched, for finding it there.

        Into memory, a file, the log and, without a channel around it, on the line.
        """
        self._decoy = decoy
        (self._folder / NOTES).write_text(decoy)
        _logger.info("decoy: %s", decoy)
        with parse(self._tapped.address).connect(10) as line:
            line.sendall(decoy.encode())
            line.shutdown(socket.SHUT_WR)
            line.settimeout(10)
            while line.recv(1 << 16):  # until the enclave has hung up on what is no TLS
                pass

    def seen(self) -> dict[str, int]:
        """What its relay has counted, in bytes."""
        stats = self._relays[GENUINE].stats
        return {"received": stats.received, "sent": stats.sent, "connections": stats.accepted}

    # --- what it tries ----------------------------------------------------------------------------

    def divert(self, name: str) -> None:
        """Lead whoever connects from now on to another enclave."""
        self._tapped.target = self._relays[name].address

    def ask_itself(self, policy: str) -> list[Try]:
        """Ask for the owners' answer: by a call of the host's, and as a client without their keys.

        policy: under which it trusts the enclave itself.
        """
        enclave = self._enclaves[GENUINE]
        tries = {
            "calls the enclave directly": enclave.answer,
            "connects as if it were an owner": lambda: _connect(
                self._relays[GENUINE].address, policy
            ),
        }
        return [_tried(what, deed) for what, deed in tries.items()]

    def try_to_get_out(self) -> list[Any]:
        """Have the program inside try to get out."""
        attempts: list[Any] = self._enclaves[GENUINE].try_to_get_out()
        return attempts

    def alive(self) -> bool:
        """Whether the enclave is still there."""
        return self._enclaves[GENUINE].alive

    @property
    def _tapped(self) -> Wiretap:
        if self._tap is None:
            raise SecGearError("nothing has been launched yet")
        return self._tap


def _connect(address: str, policy: str) -> None:
    secgear.connect(
        address,
        load_policy(policy.encode()),
        anchors=anchors_with([own_simulated_root()]),
        identity=Identity.fresh("airline"),  # a name is easily made up
    ).close()


def _tried(what: str, deed: Callable[[], object]) -> Try:
    try:
        deed()
    except SecGearError as error:
        return Try(what, refused=True, how=str(error))
    return Try(what, refused=False, how="nothing stopped it")


def prepare(tell: Tell, folder: str) -> Deeds:
    """What the host can be asked for."""
    host = Host(Path(folder), tell)
    return {
        "launch": host.launch,
        "plant": host.plant,
        "seen": host.seen,
        "divert": host.divert,
        "ask_itself": host.ask_itself,
        "try_to_get_out": host.try_to_get_out,
        "alive": host.alive,
    }
