"""The end of a module: no objects, no tokens, another domain key than they were encrypted under.

What is left says that there was a module, and its audit trail goes on; every enclave of the domain
can still read that much. An older store is refused by the counter.
"""

from __future__ import annotations

import os

from secgear.services.crypto.token import keyring
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.state import MemberRow, TokenState


def zeroise(draft: Draft) -> int:
    """Destroy everything that is secret but the audit key. Returns how many objects there were."""
    head = draft.head
    gone = sum(draft.clear(slot) for slot in range(len(head.tokens)))
    draft.alter(
        domain_key=os.urandom(keyring.KEY_SIZE),
        generation=head.generation + 1,
        older=(),
        tokens=tuple(
            TokenState(state.serial, generation=state.generation + 1) for state in head.tokens
        ),
    )
    draft.members += [
        MemberRow(member.id, b"", keyring.grant(draft.head, member.public))
        for member in head.members
    ]
    return gone
