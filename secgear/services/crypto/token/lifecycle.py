"""What a version of a key may be used for, by the state of its life. Pure.

NIST SP 800-57 part 1 rev. 5, section 7: an active key protects and processes, a deactivated one
only processes what was protected before. The same holds for every interface, because every use of a
key is checked here. Keys without versions have no state; nothing here is about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secgear.services.crypto.pkcs11.constants import Attr, KeyState
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.objects import Object

_PROCESSING: Final = frozenset({Attr.DECRYPT, Attr.VERIFY, Attr.UNWRAP, Attr.DECAPSULATE})
"""Uses on what was protected before. All others protect, or make new secrets."""
_RESCUE: Final = _PROCESSING - {Attr.VERIFY}
"""Of a compromised key: its ciphertexts have to be read to be encrypted anew. A signature under it
says nothing any more, because others can make one."""
_USES: Final[Mapping[int, frozenset[Attr]]] = {
    KeyState.PRE_ACTIVE: frozenset(),
    KeyState.DEACTIVATED: _PROCESSING,
    KeyState.COMPROMISED: _RESCUE,
}
_NEXT: Final[Mapping[KeyState, frozenset[KeyState]]] = {
    KeyState.PRE_ACTIVE: frozenset({KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    KeyState.ACTIVE: frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED}),
    KeyState.DEACTIVATED: frozenset({KeyState.COMPROMISED}),
    KeyState.COMPROMISED: frozenset(),
}
"""Nothing comes back to life."""


def check_state(key: Object, usage: Attr) -> None:
    """Whether a key's state and version allow this use. Raises CryptokiError."""
    state = key.attributes.get(Attr.KEY_STATE)
    if state is None:
        return
    if state != KeyState.ACTIVE and usage not in _USES[int(state)]:  # type: ignore[arg-type]
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)
    version, least = key.attributes[Attr.KEY_VERSION], key.attributes[Attr.KEY_MIN_DECRYPTION]
    if version < least:  # type: ignore[operator]
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)


def check_step(before: KeyState, after: int) -> KeyState:
    """The state `after`, if a key may go there. Raises CryptokiError."""
    if after not in _NEXT[before]:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    return KeyState(after)
