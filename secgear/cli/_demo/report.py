"""What the demo found, as ``--json`` prints it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class User(msgspec.Struct, frozen=True):
    """Who a process runs as. capabilities: the effective ones, as /proc/PID/status shows them."""

    uid: int
    capabilities: str


class ImageFacts(msgspec.Struct, frozen=True):
    """What was built and signed. measurement, signer: SHA-384 in hex. bytes: of the file."""

    name: str
    version: str
    svn: int
    measurement: str
    signer: str
    bytes: int
    requires: list[str]


class LayerFacts(msgspec.Struct, frozen=True):
    """One isolation layer."""

    name: str
    holds: bool
    detail: str


class TeeFacts(msgspec.Struct, frozen=True):
    """Where the enclave runs. protects: from whom, and from whom not."""

    name: str
    simulated: bool
    protects: str
    layers: list[LayerFacts]


class Contribution(msgspec.Struct, frozen=True):
    """A table that a party sent in. bytes: in memory."""

    owner: str
    name: str
    rows: int
    bytes: int


class Escape(msgspec.Struct, frozen=True):
    """What code inside tried, and whether it was refused; see ``flights.py``."""

    what: str
    barrier: str
    refused: bool
    how: str


class EvidenceFacts(msgspec.Struct, frozen=True):
    """What the enclave's evidence says, once it was verified. claims: empty if it is not authentic.

    trusted: under a policy that demands this image and our nonce, and allows a simulation.
    refused_for: the checks by which the same policy without that allowance says no.
    """

    format: str
    bytes: int
    claims: dict[str, Any]
    trusted: bool
    refused_for: list[str]


class Outcome(msgspec.Struct, frozen=True):
    """How one attack on one process ended. failed: for another reason than permission."""

    means: str
    result: Literal["refused", "succeeded", "failed"]
    errno: str
    detail: str


class Attack(msgspec.Struct, frozen=True):
    """The same attack on the enclave and on an ordinary process, the control.

    verdict: ``refused`` if only the ordinary process could be attacked, ``broken`` if the enclave
    could, ``inconclusive`` if the attack works here on neither.
    """

    means: str
    what: str
    verdict: Literal["refused", "broken", "inconclusive"]
    enclave: Outcome
    ordinary: Outcome


class Report(msgspec.Struct, kw_only=True):
    """The whole demo. answer: one record a row. seconds: of each step. limits: what does not hold.

    holds: every attempt to get out and every attack from outside was refused.
    """

    host: User
    attacker: User | None = None
    image: ImageFacts | None = None
    tee: TeeFacts | None = None
    parties: list[Contribution] = []
    question: str = ""
    answer: list[dict[str, Any]] = []
    escapes: list[Escape] = []
    evidence: EvidenceFacts | None = None
    attacks: list[Attack] = []
    limits: list[str] = []
    seconds: dict[str, float] = {}
    holds: bool = False
