"""The untrusted side: makes a module's home, starts its enclave, starts it again when it dies."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image, LaunchPolicy
from secgear.base.launch import launch
from secgear.base.switchless.options import Switchless
from secgear.errors import CryptoModuleError, EnclaveError, SecGearError
from secgear.services.crypto.storage import Storage

if TYPE_CHECKING:
    from secgear.base.signing import PrivateKey

PROGRAM: Final = Path(__file__).with_name("enclave.py")
_RESTARTS: Final = 5  # within a minute; more means that restarting does not help
_MINUTE: Final = 60.0
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

    def storage(self) -> Storage:
        """Its store. Raises ServiceError."""
        database = self.settings().database or f"sqlite:///{self.directory.resolve()}/module.db"
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
) -> Any:
    """Found a module in a new directory, and return its status.

    key: signs the image; the module is sealed to its signer then, so that later versions by the
    same signer can take it over. Without, it is sealed to this very image.
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
        text = msgspec.json.encode(settings)
        # The settings come last but one: they say that image and store are there to be used.
        _write(directory / "settings.json.new", text)
        (directory / "settings.json.new").replace(directory / "settings.json")
        try:
            storage = home.storage()
            try:
                with started(image, storage, tee) as enclave, _told():
                    enclave.found(slots, settings.policy)
                    return enclave.open_module(settings.policy)
            finally:
                storage.close()
        except BaseException:
            (directory / "settings.json").unlink()
            raise


def started(image: Image, storage: Storage, tee: str) -> Enclave:
    """The module's enclave, not opened yet."""
    return launch(
        image,
        tee=tee,
        policy=LaunchPolicy(unsigned=True),
        switchless=Switchless(workers=4, when_busy="stream"),
        ocalls={
            "store_head": storage.head,
            "store_rows": storage.rows,
            "store_commit": storage.commit,
            "counter_read": storage.counter_read,
            "counter_advance": storage.counter_advance,
        },
    )


@final
class Supervisor:
    """Keeps one enclave running. A context manager.

    Raises, when it begins, what keeps the module from being opened.
    """

    def __init__(self, home: Home) -> None:
        self._settings = home.settings()
        self._image = Image.load(home.image)
        self._storage = home.storage()
        self._lock = threading.Lock()
        self._starts: deque[float] = deque(maxlen=_RESTARTS)
        self._closed = False
        self._generation = 0
        try:
            self._enclave = self._start()
        except BaseException:
            self._storage.close()
            raise

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def current(self) -> tuple[Enclave, int]:
        """The running enclave, and how often one was started. Raises CryptoModuleError."""
        with self._lock:
            if not self._enclave.alive and not self._closed:
                self._restart()
            return self._enclave, self._generation

    def close(self) -> None:
        """Stop the enclave. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._enclave.close()
        self._storage.close()

    def _restart(self) -> None:
        now = time.monotonic()
        if len(self._starts) == _RESTARTS and now - self._starts[0] < _MINUTE:
            raise CryptoModuleError("the enclave ends again and again; see the log")
        self._starts.append(now)
        _logger.warning("the enclave has ended; starting it again")
        try:
            self._enclave = self._start()
        except SecGearError as error:
            _logger.error("the enclave can't be started: %s", error)
            raise CryptoModuleError(f"the enclave can't be started: {error}") from error

    def _start(self) -> Enclave:
        enclave = started(self._image, self._storage, self._settings.tee)
        try:
            with _told():
                enclave.open_module(self._settings.policy)
        except BaseException:
            enclave.close()
            raise
        self._generation += 1
        return enclave


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
