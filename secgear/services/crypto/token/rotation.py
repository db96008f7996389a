"""Another domain key: every object is encrypted under it, step by step, whatever ends in between.

From the first step on everything is written under the new key, and members get it. The head keeps
the key before as long as objects are under it. Every step is a change like any other, so that other
enclaves go on meanwhile, and who finds a rotation unfinished goes on with it.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from secgear.services.crypto.token import keyring
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.state import MemberRow
from secgear.services.crypto.token.vault import Vault

_STEP: Final = 200  # objects of one change
_SIZE: Final = 1 << 20  # bytes of them, after which there are no more in it


def rotate(vault: Vault) -> int:
    """Bring in a new domain key, or end what was begun. Returns its generation."""
    vault.transact(_begin)
    while True:
        if some := vault.outdated(_STEP):
            vault.transact(partial(_renew, some))
        elif vault.transact(partial(_end, vault)):
            return vault.known.generation


def _begin(draft: Draft) -> None:
    head = draft.head
    if head.older:
        return  # not at its end yet: goes on
    draft.alter(
        domain_key=os.urandom(keyring.KEY_SIZE),
        generation=head.generation + 1,
        older=((head.generation, head.domain_key),),
    )
    for member in draft.head.members:
        grant = keyring.grant(draft.head, member.public)
        draft.members.append(MemberRow(member.id, b"", grant))
    draft.record(
        Event("domain key rotation begun", "host", None, {"generation": draft.head.generation})
    )


def _renew(some: list[tuple[int, int]], draft: Draft) -> None:
    for slot, id in some:
        item = draft.get(slot, id)
        if item is not None:
            draft.put(slot, item)
        if draft.size > _SIZE:
            return  # the others come next


def _end(vault: Vault, draft: Draft) -> bool:
    """Whether nothing is under an older key any more, which is forgotten then."""
    if not draft.head.older:
        return True
    if vault.outdated(1) or vault.known.generation != draft.head.generation:
        return False  # the other one was begun in this very change, and has all before it
    draft.alter(older=())
    draft.record(Event("domain key rotated", "host", None, {"generation": draft.head.generation}))
    return True
