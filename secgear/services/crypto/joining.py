"""The host's part when a module spreads to another machine, which shares its database and witness.

Three steps, whose messages people carry: the new machine's enclave applies, an enclave that is a
member admits it, and the new one accepts. The enclaves verify each other; what is carried is no
secret and can't be changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from secgear.base.enclave import Enclave
from secgear.base.image import Image
from secgear.errors import CryptoModuleError
from secgear.services.crypto.host import Home, Settings, policy_of, started, told

MAX_SIZE = 16 << 20  # bytes of an application or a welcome

if TYPE_CHECKING:
    from secgear.middleware.attestation.bundle import AddedRoot


def apply(
    directory: Path,
    image: Image,
    *,
    database: str,
    witness: str,
    tee: str = "auto",
    roots: Sequence[AddedRoot] = (),
) -> bytes:
    """Begin in a new directory. Returns the application, which an enclave of the module has to see.

    image: the module's. database, witness: which the module's machines share. roots: as for
    `found`. Raises CryptoModuleError.
    """
    home = Home(directory)
    settings = Settings(policy_of(image), tee, database, witness)
    with home.made():
        image.save(home.image)
        storage = home.storage(settings)
        try:
            with started(image, storage, settings) as enclave, told():
                named = [(one.family, one.name, one.pem, one.subject) for one in roots]
                application, pending = enclave.apply(settings.policy, named)
        finally:
            storage.close()
        (directory / "pending").write_bytes(pending)
        (directory / "pending.json").write_bytes(msgspec.json.encode(settings))
    return bytes(application)


def admit(
    directory: Path,
    application: bytes,
    collateral: bytes = b"",
    request: bytes = b"",
    approvals: Sequence[bytes] = (),
) -> bytes:
    """Have the module that lives here admit an applicant. Returns its welcome.

    collateral: what the evidence of both is verified with, JSON. request, approvals: the decision
    of the administrators, where the module has some. Raises CryptoModuleError.
    """
    with member(directory) as enclave, told():
        given = b"[" + b",".join(approvals) + b"]"
        return bytes(enclave.admit(application, collateral, request, given))


def accept(directory: Path, welcome: bytes, collateral: bytes = b"") -> Any:
    """End what `apply` began, and return the module's status. Raises CryptoModuleError."""
    home = Home(directory)
    with home.made():
        try:
            settings = _SETTINGS.decode((directory / "pending.json").read_bytes())
            pending = (directory / "pending").read_bytes()
        except FileNotFoundError:
            raise CryptoModuleError(f"{directory}: no application was made here") from None
        except (OSError, msgspec.DecodeError) as error:
            raise CryptoModuleError(f"{directory}: {error}") from None
        storage = home.storage(settings)
        try:
            with started(Image.load(home.image), storage, settings) as enclave, told():
                id, credential = enclave.accept(settings.policy, pending, welcome, collateral)
                storage.keep_credential(id, credential)
                status = enclave.open_module(settings.policy)
        finally:
            storage.close()
        home.save(settings)
        for name in ("pending", "pending.json"):
            (directory / name).unlink()
    return status


@contextlib.contextmanager
def member(directory: Path) -> Iterator[Enclave]:
    """One more enclave of the module that lives here, beside those of a server.

    Raises CryptoModuleError.
    """
    home = Home(directory)
    settings = home.settings()
    storage = home.storage()
    try:
        with started(Image.load(home.image), storage, settings) as enclave:
            with told():
                enclave.open_module(settings.policy)
            yield enclave
    finally:
        storage.close()


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_SETTINGS = msgspec.json.Decoder(Settings)
