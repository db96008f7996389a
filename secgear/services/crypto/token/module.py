"""The module as a whole: its slots, and what belongs to no slot."""

from __future__ import annotations

import threading
from typing import Final, final

from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import selftest
from secgear.services.crypto.token.attesting import Attestor
from secgear.services.crypto.token.roles import Phase
from secgear.services.crypto.token.slot import Slot
from secgear.services.crypto.token.tally import Tally
from secgear.services.crypto.token.uses import Uses
from secgear.services.crypto.token.vault import Vault

MAX_SLOTS: Final = 64
MANUFACTURER: Final = "secGear"
MODEL: Final = "enclave"


@final
class Module:
    """All slots over one vault. Made once, when everything was read and found whole.

    Raises CryptoModuleError, also where an algorithm fails its self-test.
    """

    def __init__(self, vault: Vault) -> None:
        selftest.run()
        self.vault = vault
        self.attestor = Attestor(vault.guest)
        vault.open()
        self.uses = Uses(vault)
        # Whether there was anything that ends when the module is zeroised.
        self.held_keys = vault.head.roles.phase is not Phase.ZEROISED
        self.slots = tuple(Slot(number, vault) for number in range(len(vault.tables)))
        self.clients = 0
        self.tally = Tally()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Module of {len(self.slots)} slots>"

    def joined(self, by: int = 1) -> None:
        """There is a client more, or less."""
        with self._lock:
            self.clients += by

    def slot(self, number: int) -> Slot:
        """A slot by its number. Raises CryptokiError."""
        if number >= len(self.slots):
            raise CryptokiError(Rv.SLOT_ID_INVALID)
        return self.slots[number]
