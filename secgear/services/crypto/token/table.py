"""A slot's token objects, found by handle, and by name, label or id without looking at all."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final, final

from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.values import Template, Value
from secgear.services.crypto.token.objects import Object

_INDEXED: Final = (Attr.KEY_NAME, Attr.LABEL, Attr.ID)


@final
class Table:
    """Objects by id. Readers need no lock; an object is replaced as a whole."""

    def __init__(self) -> None:
        self._objects: dict[int, Object] = {}
        self._index: dict[tuple[int, Value], dict[int, None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, id: int) -> Object | None:
        """The object with this id."""
        return self._objects.get(id)

    def all(self) -> list[Object]:
        """Every object, in the order of their ids."""
        with self._lock:
            return list(self._objects.values())

    def put(self, item: Object) -> None:
        """Add an object or replace it."""
        with self._lock:
            self._unlist(item.id)
            self._objects[item.id] = item
            for attr in _INDEXED:
                if value := item.attributes.get(attr):
                    self._index.setdefault((attr, value), {})[item.id] = None

    def delete(self, id: int) -> None:
        """Remove an object, if it is there."""
        with self._lock:
            self._unlist(id)
            self._objects.pop(id, None)

    def find(self, template: Template) -> list[Object]:
        """Those that match."""
        return [item for item in self._candidates(template) if item.matches(template)]

    def _candidates(self, template: Template) -> Iterable[Object]:
        with self._lock:
            for attr in _INDEXED:
                if value := template.get(attr):
                    ids = self._index.get((attr, value), {})
                    return [self._objects[id] for id in ids]
            return list(self._objects.values())

    def _unlist(self, id: int) -> None:
        before = self._objects.get(id)
        if before is None:
            return
        for attr in _INDEXED:
            if value := before.attributes.get(attr):
                ids = self._index[attr, value]
                del ids[id]
                if not ids:
                    del self._index[attr, value]
