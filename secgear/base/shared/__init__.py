"""Buffers in shared memory: the host writes once, the enclave copies what it looks at.

As a parameter's type, `Shared` means: a buffer that `Enclave.shared` made. The app is given a
`secgear.base.shared.enclave.Lease` of it, for as long as the call runs.
"""

from __future__ import annotations

from typing import Any


class Shared:
    """The type of such a parameter: ``def total(values: Shared) -> float``."""

    __slots__ = ("__weakref__",)

    def __len__(self) -> int:
        """Bytes of the buffer."""
        raise NotImplementedError

    def reference(self) -> tuple[int, int, int] | memoryview:
        """How a message refers to it: pool, offset, size; or its bytes, to be attached."""
        raise TypeError("a lease belongs to the call it was given to; it can't be passed on")


def resolve(value: Any, attachment: Any) -> Shared:
    """The lease of what a message refers to. attachment: takes one by its number.

    Raises ValueError for what is no reference to this enclave's shared memory.
    """
    from secgear.base.shared.enclave import lease

    return lease(value, attachment)
