"""The untrusted side: makes a home for a module, and keeps its enclaves running."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image, LaunchPolicy
from secgear.base.launch import launch
from secgear.base.switchless.options import Switchless
from secgear.errors import CryptoModuleError, EnclaveError, ServiceError
from secgear.middleware.sealing.counters import sync_folder
from secgear.services.crypto.storage import Storage
from secgear.services.crypto.workers import LOOK, Worker

if TYPE_CHECKING:
    from secgear.base.signing import PrivateKey

PROGRAM: Final = Path(__file__).with_name("enclave.py")
_PATIENCE: Final = 1.0  # seconds that a change waits for other enclaves to hear of it
_logger = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is settled when a module is founded. policy: to whom it is sealed."""

    policy: str
    tee: str = "auto"
    database: str = ""


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
) -> Any:
    """Found a module in a new directory, and return its status.

    key: signs the image; the module is sealed to its signer then, so that later versions by the
    same signer can take it over. Without, it is sealed to this very image. founders: who has which
    role in it, the document of `Founders`.
    Raises CryptoModuleError, BuildError, PlatformUnavailable.
    """
    home = Home(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & 0o077:
        raise CryptoModuleError(
            f"{directory}: others may look into it; chmod 700 {directory}, or name a new directory"
        )
    with home.alone():
        if (directory / "settings.json").exists():
            raise CryptoModuleError(f"{directory}: a module was founded here already")
        image = build(PROGRAM)
        if key is not None:
            from secgear.base.signing import sign

            image = sign(image, key)
        image.save(home.image)
        settings = Settings("measurement" if key is None else "signer", tee, database)
        storage = home.storage(settings)
        try:
            status = _founded(image, storage, slots, settings, founders)
            # The settings come last: they say that everything else is there to be used.
            _write(directory / "settings.json.new", msgspec.json.encode(settings))
            (directory / "settings.json.new").replace(directory / "settings.json")
            sync_folder(directory)
        finally:
            storage.close()
    return status


def _founded(
    image: Image, storage: Storage, slots: int, settings: Settings, founders: bytes
) -> Any:
    """The status of a module that was founded in this store, which is as it was when it fails."""
    if storage.head():
        raise CryptoModuleError(
            "the store holds a module already; if its founding did not come to its end, remove it"
        )
    ours = not settings.database  # nobody else founds in it
    try:
        with started(image, storage, settings.tee) as enclave, _told():
            enclave.found(slots, settings.policy, founders)
            ours = True
            return enclave.open_module(settings.policy)
    except BaseException:
        if ours:
            storage.erase()
        raise


def started(
    image: Image,
    storage: Storage,
    tee: str,
    *,
    counted: Callable[[int], None] = lambda _: None,
) -> Enclave:
    """The module's enclave, not opened yet. counted: is told where the counter is by now."""

    def advance(value: int, mark: bytes) -> tuple[int, bytes]:
        now = storage.counter_advance(value, mark)
        counted(now[0])
        return now

    return launch(
        image,
        tee=tee,
        policy=LaunchPolicy(unsigned=True),
        switchless=Switchless(workers=4, when_busy="stream"),
        ocalls={
            "store_head": storage.head,
            "store_rows": storage.rows,
            "store_since": storage.since,
            "store_members": storage.members,
            "store_trail": storage.trail_after,
            "store_commit": storage.commit,
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
            self._settings.tee,
            counted=lambda epoch: self._spread(worker, epoch),
        )
        try:
            with _told():
                enclave.open_module(self._settings.policy)
        except BaseException:
            enclave.close()
            raise
        return enclave, next(self._numbers)

    def _spread(self, source: Worker, epoch: int) -> None:
        """Before anybody hears that a change is made, the other enclaves know that there is one.

        One that does not take it in time sees by the counter, in its own time.
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
def _told() -> Iterator[None]:
    """The enclave's refusals, as errors of this side."""
    try:
        yield
    except EnclaveError as error:
        raise CryptoModuleError(str(error)) from None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_SETTINGS = msgspec.json.Decoder(Settings)
