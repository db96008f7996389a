"""What the broker's operator does on its machine, with the database and the key file at hand."""

from __future__ import annotations

from secgear.middleware.attestation.broker import masterkey, secrets
from secgear.middleware.attestation.broker.app import BrokerSettings, open_vault
from secgear.middleware.attestation.broker.layout import BROKER
from secgear.middleware.attestation.broker.masterkey import MasterKey, MasterKeyFile
from secgear.middleware.attestation.broker.vault import Vault
from secgear.middleware.attestation.service.app import open_service
from secgear.middleware.attestation.service.appraiser import utc_now
from secgear.middleware.attestation.service.schema import ATTESTATION
from secgear.middleware.attestation.service.store import Store


def open_broker(settings: BrokerSettings) -> tuple[Store, Vault]:
    """Database and vault, for the functions of `secrets`. Close the store when done.

    The broker may run meanwhile, and need not have run before. Raises ServiceError, KeyFileError.
    """
    store = open_service(settings, ATTESTATION, BROKER).store
    return store, open_vault(settings, store)


def rotate_master_key(settings: BrokerSettings, *, author: str) -> tuple[MasterKey, int]:
    """Make a new master key and put all secrets under it; the key, and how many there were.

    The old keys stay in the file: for instances that have not seen the new file, and for backups of
    the database. author: for the audit trail. Raises ServiceError, KeyFileError.
    """
    store, vault = open_broker(settings)
    try:
        with masterkey.changing(settings.master_key_path):
            new = masterkey.add_key(settings.master_key_path)
            return new, secrets.reencrypt(store, vault, author=author, at=utc_now())
    finally:
        store.close()


def drop_old_master_keys(settings: BrokerSettings) -> int:
    """Remove all master keys but the first from the file; how many. Backups under them are lost.

    Raises ServiceError if a secret is under one of them still; then nothing has happened.
    """
    store, _ = open_broker(settings)
    try:
        file = MasterKeyFile(settings.master_key_path)
        with masterkey.changing(settings.master_key_path):
            secrets.check_keys(store, Vault(lambda: file.keys[:1]))
            return masterkey.keep_first_key(settings.master_key_path)
    finally:
        store.close()
