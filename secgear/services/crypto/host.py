"""The untrusted side: makes a home for a module, and keeps its enclaves running."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image, LaunchPolicy
from secgear.base.launch import launch
from secgear.base.switchless.options import Switchless
from secgear.errors import CryptoModuleError, CryptoRefused, EnclaveError, ServiceError
from secgear.middleware.sealing import WitnessClient
from secgear.middleware.sealing.counters import sync_folder
from secgear.services.crypto.storage import Storage
from secgear.services.crypto.workers import LOOK, Worker

if TYPE_CHECKING:
    from secgear.base.signing import PrivateKey
    from secgear.middleware.attestation.bundle import AddedRoot

PROGRAM: Final = Path(__file__).with_name("enclave.py")
_SEALED_TO: Final = "\nSEALED_TO: Final = SealingPolicy.{}\n"  # a line of it
_PATIENCE: Final = 5.0
"""Seconds that a change waits for other enclaves to hear of it: the vault's lease, after which each
has to ask the counter before it shows anything."""
_logger = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is settled when a module is founded. policy: to whom it is sealed.

    witness: address of the one that keeps the counter; empty for the file in the directory.
    """

    policy: str
    tee: str = "auto"
    database: str = ""
    witness: str = ""


class Witness(msgspec.Struct, frozen=True):
    """Who keeps the counter: address, and public key of 32 bytes."""

    address: str
    key: bytes


@final
class Home:
    """A module's directory: image, settings, database, counter. Only its owner may read it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def image(self) -> Path:
        """The enclave's image, by whose measurement or signer the module is sealed."""
        return self.directory / "module.sgear"

    @property
    def socket(self) -> Path:
        """Where p11-kit's clients connect, unless said otherwise."""
        return self.directory / "pkcs11.sock"

    def settings(self) -> Settings:
        """Raises CryptoModuleError where no module was founded."""
        try:
            return _SETTINGS.decode((self.directory / "settings.json").read_bytes())
        except FileNotFoundError:
            raise CryptoModuleError(
                f"{self.directory}: no module was founded here; secgear crypto init does that"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise CryptoModuleError(f"{self.directory}: settings.json: {error}") from None

    def storage(self, settings: Settings | None = None) -> Storage:
        """Its store. settings: while they are not kept yet. Raises ServiceError."""
        database = (
            settings or self.settings()
        ).database or f"sqlite:///{self.directory.resolve()}/module.db"
        return Storage(database, self.directory / "counter")

    def save(self, settings: Settings) -> None:
        """Keep the settings, which say that everything else is there to be used."""
        new = self.directory / "settings.json.new"
        _write(new, msgspec.json.encode(settings))
        new.replace(self.directory / "settings.json")
        sync_folder(self.directory)

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """A directory for a module that is to be; nobody else works on it meanwhile.

        Raises CryptoModuleError where there is one, or where others may look in.
        """
        here = self.directory
        here.mkdir(mode=0o700, parents=True, exist_ok=True)
        if here.stat().st_mode & 0o077:
            raise CryptoModuleError(
                f"{here}: others may look into it; chmod 700 {here}, or name a new directory"
            )
        with self.alone():
            if (here / "settings.json").exists():
                raise CryptoModuleError(f"{here}: a module was founded here already")
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else works on this module meanwhile. Raises CryptoModuleError."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CryptoModuleError(f"{self.directory}: a server is running here") from None
            yield
        finally:
            os.close(descriptor)


def found(
    directory: Path,
    *,
    slots: int = 1,
    tee: str = "auto",
    database: str = "",
    key: PrivateKey | None = None,
    founders: bytes = b"{}",
    witness: Witness | None = None,
    roots: Sequence[AddedRoot] = (),
) -> Any:
    """Found a module in a new directory, and return its status.

    key: signs the image; the module is sealed to its signer then, so that later versions by the
    same signer can take it over. Without, it is sealed to this very image. founders: who has which
    role in it, the document of `Founders`. witness: who keeps the counter, instead of a file here.
    roots: who vouches for enclaves that become members, besides the vendors; counts only where the
    enclave itself needs it.
    Raises CryptoModuleError, BuildError, PlatformUnavailable.
    """
    home = Home(directory)
    with home.made():
        if key is None:
            image = build(PROGRAM)
        else:
            from secgear.base.signing import sign

            image = sign(_upgradable(), key)
        address = witness.address if witness is not None else ""
        settings = Settings(policy_of(image), tee, database, address)
        storage = home.storage(settings)
        try:
            if storage.head():
                raise CryptoModuleError(
                    "the store holds a module already; if its founding did not come to its end, "
                    "remove it"
                )
            image.save(home.image)
            status = _founded(
                image,
                storage,
                settings,
                slots,
                [(one.family, one.name, one.pem, one.subject) for one in roots],
                witness.key if witness is not None else b"",
                founders,
            )
            try:
                home.save(settings)
            except BaseException:
                storage.erase()
                raise
        finally:
            storage.close()
    return status


def _upgradable() -> Image:
    """The image for a module that is sealed to its signer: another one, as that is measured."""
    program = PROGRAM.read_text("utf-8")
    if program.count(_SEALED_TO.format("MEASUREMENT")) != 1:
        raise CryptoModuleError(f"{PROGRAM.name} does not say to whom it seals")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / PROGRAM.name
        changed = program.replace(_SEALED_TO.format("MEASUREMENT"), _SEALED_TO.format("SIGNER"))
        source.write_text(changed, "utf-8")
        return build(source)


def policy_of(image: Image) -> str:
    """To whom a module with this image is sealed."""
    return "measurement" if image.signer is None else "signer"


def _founded(image: Image, storage: Storage, settings: Settings, *details: Any) -> Any:
    """The status of a module that was founded in this store, which is as it was when it fails."""
    ours = not settings.database  # nobody else founds in it
    try:
        with started(image, storage, settings) as enclave, told():
            slots, *rest = details
            enclave.found(slots, settings.policy, *rest)
            ours = True
            return enclave.open_module(settings.policy)
    except BaseException:
        if ours:
            storage.erase()
        raise


def started(
    image: Image,
    storage: Storage,
    settings: Settings,
    *,
    counted: Callable[[int], None] = lambda _: None,
    news: Callable[[int, int], int] = lambda *_: -1,
) -> Enclave:
    """The module's enclave, not opened yet.

    counted: is told where the counter is by now. news: what the enclave is told of others' changes.
    """
    kept = 0

    def commit(epoch: int, *rest: Any, **named: Any) -> bool:
        nonlocal kept
        done = storage.commit(epoch, *rest, **named)
        kept = epoch if done else kept
        return done

    def advance(value: int, mark: bytes) -> tuple[int, bytes]:
        now = storage.counter_advance(value, mark)
        counted(now[0])
        return now

    client = WitnessClient(settings.witness) if settings.witness else None

    def exchange(message: bytes) -> bytes:
        if client is None:
            raise CryptoModuleError("the settings name no witness")
        answer = client.exchange(message)
        counted(kept)  # what is asked of a witness after a change is to count it
        return answer

    return launch(
        image,
        tee=settings.tee,
        policy=LaunchPolicy(unsigned=True),
        switchless=Switchless(workers=4, when_busy="stream"),
        ocalls={
            "store_head": storage.head,
            "store_rows": storage.rows,
            "store_since": storage.since,
            "store_members": storage.members,
            "store_trail": storage.trail_after,
            "store_commit": commit,
            "store_news": news,
            "witness_exchange": exchange,
            "counter_read": storage.counter_read,
            "counter_advance": advance,
        },
    )


@final
class Supervisor:
    """Keeps a module's enclaves running: equal ones over one store. A context manager.

    workers: how many. Raises, when it begins, what keeps the module from being opened.
    """

    def __init__(self, home: Home, workers: int = 1) -> None:
        self._settings = home.settings()
        self._image = Image.load(home.image)
        self._storage = home.storage()
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._workers: list[Worker] = []
        self._closed = threading.Event()
        try:
            for _ in range(workers):
                self._workers.append(Worker(self._start, self._changed))
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(target=self._watch, name="store", daemon=True)
        self._thread.start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def current(self) -> tuple[Enclave, int]:
        """The enclave for one more connection: that with the fewest; and its number.

        Every enclave that was ever started has another one. Waits for one that is being started.
        Raises CryptoModuleError.
        """
        with self._changed:
            while not self._closed.is_set():
                live = [one for one in self._workers if one.running is not None]
                if live:
                    worker = min(live, key=lambda one: one.load)
                    worker.load += 1  # until it tells how many it has
                    if (found := worker.running) is not None:
                        return found
                    continue
                failures = [one.failure for one in self._workers]
                if all(failures):
                    raise CryptoModuleError(f"the enclave can't be started: {failures[0]}")
                self._changed.notify_all()
                self._changed.wait(LOOK)
        raise CryptoModuleError("the service ends")

    def enclaves(self) -> list[Enclave]:
        """Those that live."""
        with self._changed:
            running = [worker.running for worker in self._workers]
        return [one[0] for one in running if one is not None]

    def close(self) -> None:
        """Stop the enclaves. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        for worker in self._workers:
            worker.close()
        self._storage.close()

    def _start(self, worker: Worker) -> tuple[Enclave, int]:
        enclave = started(
            self._image,
            self._storage,
            self._settings,
            counted=lambda epoch: self._spread(worker, epoch),
            news=worker.news,
        )
        try:
            with told():
                enclave.open_module(self._settings.policy)
        except BaseException:
            enclave.close()
            raise
        return enclave, next(self._numbers)

    def _spread(self, source: Worker, epoch: int) -> None:
        """Before anybody hears that a change is made, the other enclaves know that there is one.

        One that does not take it in time has to ask the counter by then.
        """
        others = [worker for worker in self._workers if worker is not source]
        if not others:
            return
        with self._changed:
            for worker in others:
                worker.tell(epoch)
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(worker.heard(epoch) for worker in others), _PATIENCE)

    def _watch(self) -> None:
        """Other hosts' enclaves change the store, too, and so do commands on this one."""
        while not self._closed.wait(LOOK):
            try:
                epoch = self._storage.epoch()
            except ServiceError as error:
                _logger.warning("%s", error)
                continue
            with self._changed:
                for worker in self._workers:
                    worker.tell(epoch)
                self._changed.notify_all()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """The enclave's refusals, as errors of this side."""
    try:
        yield
    except EnclaveError as error:
        said = str(error)
        for code in (CryptoModuleError.code, CryptoRefused.code):
            said = said.removeprefix(f"{code}: ")
        raise CryptoModuleError(said) from None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_SETTINGS = msgspec.json.Decoder(Settings)
