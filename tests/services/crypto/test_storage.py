"""What the host keeps: objects that come back under their numbers are there, and were not removed.

A module restores the same backup again, from the beginning, after the enclave was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from secgear.services.crypto.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    made = Storage(f"sqlite:///{tmp_path}/module.db", tmp_path / "counter")
    yield made
    made.close()


def commit(
    storage: Storage, epoch: int, put: dict[int, bytes] | None = None, gone: tuple[int, ...] = ()
) -> bool:
    rows = [(id, 0, blob) for id, blob in (put or {}).items()]
    return storage.commit(
        epoch, b"head %d" % epoch, put=rows, gone=list(gone), records=[], members=[], expelled=[]
    )


def test_an_object_is_removed_and_comes_back_as_often_as_it_likes(storage: Storage) -> None:
    assert commit(storage, 1, {1: b"a", 2: b"b"})
    for epoch in range(2, 8, 2):
        assert commit(storage, epoch, gone=(1, 2))
        assert commit(storage, epoch + 1, {1: b"%d" % epoch})
    assert storage.since(1) == (b"head 7", [(1, 0, b"6")], [2], True)
    assert storage.since(5) == (b"head 7", [(1, 0, b"6")], [2], True)
    assert storage.since(6) == (b"head 7", [(1, 0, b"6")], [], True)
