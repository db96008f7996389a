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


class OwnerFacts(msgspec.Struct, kw_only=True):
    """A data owner, what it demands and what it was shown.

    demands: in words. policy: in full. trusted: by that policy, which allows a simulation.
    refused_for: the checks by which the same policy without that allowance says no. tls: what the
    session uses. claims: what the evidence says, once it was verified.
    """

    name: str
    demands: str
    policy: str = ""
    trusted: bool = False
    refused_for: list[str] = []
    format: str = ""
    tls: dict[str, str] = {}
    claims: dict[str, Any] = {}


class Place(msgspec.Struct, frozen=True):
    """A place that was searched for pieces of the owners' data.

    bytes: that were searched. pieces: looked for; found: how many were there, and columns: whose
    they are. decoy: whether the decoy was found that had been put there; None if none had been.
    unseen: why it could not be searched, else empty.
    """

    what: str
    bytes: int
    pieces: int
    found: int
    columns: list[str]
    decoy: bool | None = None
    unseen: str = ""


class Carried(msgspec.Struct, frozen=True):
    """What the host's relay has carried, taken apart; in bytes.

    complete: whether as much was recorded as the relay has counted. hellos: what TLS sends in the
    clear. other: what is no TLS. compressed: size of what is encrypted after compression, as a
    share; tables: the same of the owners' tables.
    """

    connections: int
    records: int
    encrypted: int
    hellos: int
    headers: int
    other: int
    complete: bool
    compressed: float
    tables: float


class Deception(msgspec.Struct, frozen=True):
    """Where the host has led the owners. refused: by whom, for which checks; empty: trusted."""

    what: str
    refused: dict[str, list[str]]


class Try(msgspec.Struct, frozen=True):
    """Something that the host has tried on its own. how: what refused it, in its words."""

    what: str
    refused: bool
    how: str


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

    seen: places of the host's; control: places of the owners', where the same search has to find
    everything. holds: nothing was seen, nobody was deceived, every attempt was refused.
    """

    host: User
    attacker: User | None = None
    image: ImageFacts | None = None
    tee: TeeFacts | None = None
    owners: list[OwnerFacts] = []
    parties: list[Contribution] = []
    question: str = ""
    answer: list[dict[str, Any]] = []
    carried: Carried | None = None
    seen: list[Place] = []
    control: list[Place] = []
    deceptions: list[Deception] = []
    tries: list[Try] = []
    escapes: list[Escape] = []
    attacks: list[Attack] = []
    limits: list[str] = []
    seconds: dict[str, float] = {}
    holds: bool = False

    def judge(self) -> None:
        """Set `holds`."""
        searched = [place for place in self.seen if not place.unseen]
        self.holds = (
            bool(self.owners and self.deceptions and self.tries and self.escapes and searched)
            and all(owner.trusted for owner in self.owners)
            and self.carried is not None
            and self.carried.complete
            and not self.carried.other
            and all(place.decoy and not place.found for place in searched)
            and all(place.found == place.pieces for place in self.control if not place.unseen)
            and all(all(deception.refused.values()) for deception in self.deceptions)
            and all(attempt.refused for attempt in self.tries)
            and all(attempt.refused for attempt in self.escapes)
            and all(attack.verdict != "broken" for attack in self.attacks)
        )
