"""The contract of a TEE, and the registry of those that are installed.

Two sides. `Tee` lives on the host: it tells whether its technology is here and starts an image in
it. `Guest` lives inside the enclave: it gives the program what only a TEE can give, which is
evidence, sealing keys and entropy. A third party adds a TEE by registering a `Tee` subclass under
the entry point group ``secgear.tees`` and proves it with `secgear.base.conformance`.
"""

from __future__ import annotations

import enum
import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from secgear.errors import PlatformUnavailable

if TYPE_CHECKING:
    from secgear.base.handover import Door
    from secgear.base.image import Image
    from secgear.base.sandbox.secret import SecretMemory

ENTRY_POINT_GROUP = "secgear.tees"


class Layer(msgspec.Struct, frozen=True):
    """One layer of isolation and whether it holds.

    name: stable identifier, for example ``landlock``; `launch(require=[...])` takes these.
    detail: one line for people: what exactly holds, or why it does not.
    """

    name: str
    holds: bool
    detail: str = ""


class Availability(msgspec.Struct, frozen=True):
    """Whether a TEE can run an enclave on this machine, and if not, why and what would fix it.

    facts: what the probe saw, by name, for `secgear doctor`; values are for people.
    layers: the isolation layers a launch would have here, where the TEE knows them beforehand.
    """

    available: bool
    reason: str
    fix: str = ""
    facts: Mapping[str, str] = {}
    layers: tuple[Layer, ...] = ()


class Evidence(msgspec.Struct, frozen=True):
    """What a TEE says about the enclave that asked (RFC 9334, section 8.1).

    format: identifier of the encoding, for example ``secgear.process.cwt``.
    data: the bytes as the TEE made them.
    attachments: bytes that go with them, by name: event logs, certificates. Nothing vouches for
    these until a verifier has bound them to `data`.
    parts: evidence of devices that belong to the same machine (a GPU, a TPM), by name.
    """

    format: str
    data: bytes
    attachments: Mapping[str, bytes] = {}
    parts: Mapping[str, Evidence] = {}


class SealingPolicy(enum.Enum):
    """Who may derive a sealing key again.

    MEASUREMENT: only the very same image. SIGNER: images of the same product by the same signer
    whose svn is at least the one that the key was derived for.
    """

    MEASUREMENT = "measurement"
    SIGNER = "signer"


class Guest(ABC):
    """What the TEE offers to the program inside it.

    svn: security version number of the image it was started from.
    """

    tee: ClassVar[str]
    svn: int

    @abstractmethod
    def evidence(self, report_data: bytes) -> Evidence:
        """Evidence about this enclave that carries `report_data`.

        report_data: exactly 64 bytes; bind what the evidence vouches for through a labelled hash,
        computed inside: whoever chooses it chooses what the enclave stands for.
        Raises GuestError when the TEE can't produce it, ValueError on a wrong length.
        """

    @abstractmethod
    def sealing_key(self, policy: SealingPolicy, svn: int | None = None) -> SecretMemory:
        """A 32-byte key that only this image (or its successors by the same signer) can derive.

        svn: the version the key belongs to; None for the enclave's own. A key of an older svn is
        given to a newer enclave, never the other way round.
        Raises GuestError when the policy can't be met, for example SIGNER for an unsigned image.
        """

    @abstractmethod
    def random(self, size: int) -> bytes:
        """`size` bytes of entropy, from a source that the host can't steer where there is one."""


class Stream(Protocol):
    """A duplex byte stream to the other side. Nothing else crosses it but frames of `wire`."""

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; empty when the peer has closed. Blocks."""
        ...

    def send(self, buffers: list[bytes | bytearray | memoryview], *, block: bool = True) -> int:
        """Write the front of `buffers`; returns how many bytes went, 0 if it would block."""
        ...

    def close(self) -> None:
        """Wake both directions; further calls end as if the peer had closed."""
        ...


class LaunchConfig(msgspec.Struct, frozen=True):
    """What the launcher asks of the TEE, beyond what the image's manifest says.

    timeout: seconds until the enclave must have reported that it is ready.
    require: names of isolation layers that must hold; launching fails otherwise.
    shared_size: bytes of shared memory for each direction; 0 for none.
    switchless_size: bytes of shared memory for switchless calls and buffers; 0 for none. A TEE
    that can't share more memory leaves it out; then such calls go over the stream.
    connections: whether the app takes connections, so that a `Door` is of use. A TEE that can't
    pass descriptors leaves it out; then the host carries the bytes of connections.
    """

    timeout: float = 60.0
    require: tuple[str, ...] = ()
    shared_size: int = 8 << 20
    switchless_size: int = 0
    connections: bool = False


class Running(ABC):
    """One enclave as its TEE sees it, from the host's side. The handle `Enclave` stands on it.

    shared_fd, switchless_fd: what can be mapped to share memory with the enclave; None for none.
    door: over which it takes connections; None where the TEE can't pass descriptors.
    """

    stream: Stream
    shared_fd: int | None
    switchless_fd: int | None = None
    door: Door | None = None
    layers: tuple[Layer, ...]
    pid: int | None

    @abstractmethod
    def platform(self, request: bytes) -> bytes:
        """Answer a request of the guest to its platform; the TEE's two halves know the format."""

    @abstractmethod
    def diagnose(self) -> str:
        """What the TEE knows of the enclave's end (exit status, signal); empty while it runs."""

    @abstractmethod
    def stop(self, grace: float) -> None:
        """End the enclave: wait `grace` seconds for it to leave, then kill. Idempotent."""


class Tee(ABC):
    """One isolation technology, on the host's side.

    name: what `launch(tee=...)` takes.
    protects: one line: from whom it protects, and from whom not.
    strength: order for ``tee="auto"``; higher is preferred. Hardware is 100 and more, virtual
    machines 50, processes 10.
    simulated: whether its evidence has no hardware root of trust.
    """

    name: ClassVar[str]
    protects: ClassVar[str]
    strength: ClassVar[int]
    simulated: ClassVar[bool]

    @abstractmethod
    def probe(self) -> Availability:
        """Look at this machine. Never raises, never changes anything, takes well under a second."""

    @abstractmethod
    def launch(self, image: Image, config: LaunchConfig) -> Running:
        """Start `image`; returns once the enclave is isolated and listens on its stream.

        Raises PlatformUnavailable, LayerMissing or LaunchFailed; nothing is left behind then.
        """


class BrokenPlugin(msgspec.Struct, frozen=True):
    """A registered TEE that can't be used.

    name: of its entry point. origin: what it names, ``package.module:Class``. distribution: who
    registered it, empty if that is not known. reason: one line.
    """

    name: str
    origin: str
    distribution: str
    reason: str


class Discovery(msgspec.Struct, frozen=True):
    """Every registered TEE: those that work, strongest first, and those that don't."""

    tees: Mapping[str, Tee]
    broken: tuple[BrokenPlugin, ...]


def discover() -> Discovery:
    """Load every TEE registered under `ENTRY_POINT_GROUP`; a broken one harms nobody else.

    A name belongs to whom it was given first, and secgear's own come first: installing a package
    can't quietly replace one of them.
    """
    from importlib.metadata import entry_points  # inside an enclave nobody needs it

    found: dict[str, Tee] = {}
    broken: list[BrokenPlugin] = []
    entries = [
        (entry.dist.name if entry.dist else "", entry)
        for entry in entry_points(group=ENTRY_POINT_GROUP)
    ]
    entries.sort(key=lambda item: (item[0] != "secgear", item[0], item[1].name, item[1].value))
    for distribution, entry in entries:
        try:
            tee = entry.load()()
            problem = _defect(tee, found)
        except Exception as error:  # noqa: BLE001  (somebody else's code: anything can happen)
            problem = f"can't be loaded: {type(error).__name__}: {error}"
        if problem:
            broken.append(BrokenPlugin(entry.name, entry.value, distribution, problem))
        else:
            found[tee.name] = tee
    tees = dict(sorted(found.items(), key=lambda item: (-item[1].strength, item[0])))
    return Discovery(tees, tuple(broken))


def installed() -> dict[str, Tee]:
    """Every registered TEE by name, strongest first.

    A broken plug-in is left out; `discover` and `secgear doctor` name it.
    """
    return dict(discover().tees)


def choose(name: str) -> tuple[Tee, Availability]:
    """The TEE called `name`, or for ``auto`` the strongest available one.

    Raises PlatformUnavailable with the reason and what would fix it.
    """
    # Reading the metadata of all that is installed costs more than all probes: once is enough.
    discovery = _discovered(tuple(sys.path))
    tees = discovery.tees
    if name != "auto":
        tee = tees.get(name)
        if tee is None:
            for plugin in discovery.broken:
                if plugin.name == name:
                    raise PlatformUnavailable(f"{name}: {plugin.origin} {plugin.reason}")
            known = ", ".join(tees) or "none: is secgear installed with its entry points?"
            raise PlatformUnavailable(f"no TEE is called {name!r}; installed: {known}")
        availability = ask(tee)
        if not availability.available:
            fix = f"; {availability.fix}" if availability.fix else ""
            raise PlatformUnavailable(f"{name}: {availability.reason}{fix}")
        return tee, availability
    reasons = []
    for tee in tees.values():
        availability = ask(tee)
        if availability.available:
            return tee, availability
        reasons.append(f"{tee.name}: {availability.reason}")
    reasons += [f"{plugin.name}: {plugin.reason}" for plugin in discovery.broken]
    raise PlatformUnavailable("no TEE is available here; " + "; ".join(reasons))


@functools.lru_cache(maxsize=1)
def _discovered(path: tuple[str, ...]) -> Discovery:
    """`discover`, for one search path."""
    del path
    return discover()


def ask(tee: Tee) -> Availability:
    """What `tee` says about this machine; a probe that raises, against its contract, means no."""
    try:
        return tee.probe()
    except Exception as error:  # noqa: BLE001  (somebody else's code: anything can happen)
        return Availability(
            available=False,
            reason=f"its probe failed: {type(error).__name__}: {error}",
            fix=f"report this to the authors of {type(tee).__module__}",
        )


def _defect(tee: object, found: Mapping[str, Tee]) -> str:
    """Why what an entry point made can't serve as a TEE; empty if it can."""
    if not isinstance(tee, Tee):
        return f"makes a {type(tee).__name__}, which is no secgear.base.tee.Tee"
    for attribute, kind in (("name", str), ("protects", str), ("strength", int)):
        if not isinstance(getattr(tee, attribute, None), kind):
            return f"has no attribute {attribute} of type {kind.__name__}"
    if not isinstance(getattr(tee, "simulated", None), bool):
        return "does not say whether it is simulated"
    if tee.name in found or tee.name == "auto":
        return f"wants the name {tee.name!r}, which is taken"
    return ""
