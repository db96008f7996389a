"""A change in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import msgspec

from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.state import Head, MemberRow, TokenState
from secgear.services.crypto.token.table import Table


@final
class Draft:
    """What a change reads and writes: the module's state, with what was written to it so far.

    It is made in full or not at all, and may be made anew upon a later state: so whoever writes it
    looks at this state alone. head: as it will be.
    """

    def __init__(self, head: Head, tables: Sequence[Table]) -> None:
        self.head = head
        self.events: list[Event] = []
        self.written: dict[int, tuple[int, Object]] = {}
        self.deleted: dict[int, int] = {}
        self.members: list[MemberRow] = []
        self.expelled: list[bytes] = []
        self._before = head
        self._tables = tables

    def __repr__(self) -> str:
        return f"<Draft after {self._before.epoch}>"

    @property
    def changed(self) -> bool:
        """Whether there is anything to make durable."""
        return bool(self.events or self.written or self.deleted or self.head is not self._before)

    @property
    def size(self) -> int:
        """Bytes of the attributes that are written, roughly."""
        return sum(item.size for _, item in self.written.values())

    def copy(self) -> Draft:
        """One that goes on from here, and leaves this one as it is."""
        other = Draft(self._before, self._tables)
        other.head = self.head
        other.events = list(self.events)
        other.written, other.deleted = dict(self.written), dict(self.deleted)
        other.members, other.expelled = list(self.members), list(self.expelled)
        return other

    def alter(self, **fields: Any) -> None:
        """Set fields of the head."""
        self.head = msgspec.structs.replace(self.head, **fields)

    def token(self, slot: int) -> TokenState:
        """A slot's token."""
        return self.head.tokens[slot]

    def set_token(self, slot: int, state: TokenState) -> None:
        """Put another state in its place."""
        tokens = list(self.head.tokens)
        tokens[slot] = state
        self.alter(tokens=tuple(tokens))

    def get(self, slot: int, id: int) -> Object | None:
        """The object with this id."""
        if id in self.deleted:
            return None
        if id in self.written:
            owner, item = self.written[id]
            return item if owner == slot else None
        return self._tables[slot].get(id)

    def count(self, slot: int) -> int:
        """How many objects the slot has."""
        table = self._tables[slot]
        new = sum(o == slot and table.get(id) is None for id, (o, _) in self.written.items())
        return len(table) + new - sum(owner == slot for owner in self.deleted.values())

    def put(self, slot: int, item: Object) -> None:
        """Replace an object."""
        self.written[item.id] = (slot, item)

    def add(self, slot: int, item: Object) -> Object:
        """Add a new object. Returns it with its id."""
        new = item.numbered(self.head.next_id)
        self.alter(next_id=new.id + 1)
        self.put(slot, new)
        return new

    def delete(self, slot: int, id: int) -> None:
        """Remove an object that is there."""
        self.written.pop(id, None)
        if self._tables[slot].get(id) is not None:
            self.deleted[id] = slot

    def clear(self, slot: int) -> int:
        """Remove all of a slot's objects. Returns how many there were."""
        ids = {item.id for item in self._tables[slot].all()} - self.deleted.keys()
        ids |= {id for id, (owner, _) in self.written.items() if owner == slot}
        for id in ids:
            self.delete(slot, id)
        return len(ids)

    def record(self, event: Event) -> None:
        """Write something down in the audit trail."""
        self.events.append(event)
