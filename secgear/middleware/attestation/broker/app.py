"""The key broker, put together from its parts, on top of what the verification service has.

Policies, reference values and collateral are the same documents, with the same routes; a broker and
a verification service may share a database.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from litestar import Litestar

from secgear.middleware.attestation.broker import masterkey, secrets
from secgear.middleware.attestation.broker.administration import secret_routes
from secgear.middleware.attestation.broker.decision import Judge
from secgear.middleware.attestation.broker.kbs_routes import kbs_routes
from secgear.middleware.attestation.broker.layout import BROKER
from secgear.middleware.attestation.broker.masterkey import MasterKeyFile
from secgear.middleware.attestation.broker.native import release_routes
from secgear.middleware.attestation.broker.vault import Vault
from secgear.middleware.attestation.service.administration import document_routes
from secgear.middleware.attestation.service.app import compose, open_service
from secgear.middleware.attestation.service.appraiser import Clock, utc_now
from secgear.middleware.attestation.service.documents import Kind
from secgear.middleware.attestation.service.schema import ATTESTATION
from secgear.middleware.attestation.service.serving import run
from secgear.middleware.attestation.service.settings import Settings
from secgear.middleware.attestation.service.store import Store

_DESCRIPTION: Final = (
    "Keeps secrets and releases them to enclaves that satisfy each secret's policy, encrypted to a "
    "key that the evidence vouches for. An enclave gets a nonce from /v1/challenge, makes a key "
    "pair and evidence for both, and posts them to /v1/release. Clients of Confidential Containers "
    "find protocol 0.4.0 under /kbs/v0. Errors are application/problem+json with a stable `code`."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerSettings(Settings):
    """`Settings`, and where the master key is: in the directory unless named otherwise.

    master_key: the same file for all instances; created if missing and there are no secrets yet.
    Of the verification service's settings, those of results have no meaning here.
    """

    master_key: Path | None = None

    @property
    def master_key_path(self) -> Path:
        """The file of master keys that counts."""
        return self.master_key or self.directory / "master.key"


def create_broker(settings: BrokerSettings, *, clock: Clock = utc_now) -> Litestar:
    """The broker. Raises ServiceError, KeyFileError, CollateralError at start."""
    service = open_service(settings, ATTESTATION, BROKER)
    vault = open_vault(settings, service.store)
    judge = Judge(
        store=service.store,
        vault=vault,
        settings=settings,
        metrics=service.metrics,
        clock=clock,
    )
    routes = [*release_routes(judge), *kbs_routes(judge), *secret_routes(vault, clock)]
    for kind in Kind:
        routes += document_routes(kind, clock)
    return compose(service, routes, "secGear key broker", _DESCRIPTION)


def open_vault(settings: BrokerSettings, store: Store) -> Vault:
    """The vault for the secrets in `store`. A missing key is made only if there are none.

    Raises KeyFileError, and ServiceError if the key of a secret is not in the file.
    """
    path = settings.master_key_path
    if not secrets.any_stored(store):
        masterkey.create(path)
    file = MasterKeyFile(path)
    vault = Vault(lambda: file.keys)
    secrets.check_keys(store, vault)
    return vault


def serve_broker(settings: BrokerSettings, listening: Callable[[str], None] | None = None) -> None:
    """Run the broker until it is told to end (SIGINT, SIGTERM).

    listening: is told the broker's URL as soon as it can be used.
    Raises ServiceError before listening: settings, database; KeyFileError: master key.
    """
    settings.check_listening()
    run(create_broker(settings), settings, listening)
