"""Reading another process's memory, as its host can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_CHUNK = 4 << 20


def found(pid: int, secret: bytes) -> set[str]:
    """In which forms `secret` lies in the memory of the process, now: any 16 bytes of it count."""
    forms = {"as it is": secret, "in hexadecimal": secret.hex().encode(), "as repr": _repr(secret)}
    wanted = {
        (form, data[start : start + 16])
        for form, data in forms.items()
        for start in range(0, len(data) - 15, 16)
    }
    return {form for chunk in _memory(pid) for form, piece in wanted if piece in chunk}


def _repr(secret: bytes) -> bytes:
    return repr(secret)[2:-1].encode()


def _memory(pid: int) -> Iterator[bytes]:
    """All that can be read of it, in overlapping chunks."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            if not rights.startswith("r") or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            while start < end:
                try:
                    memory.seek(start)
                    chunk = memory.read(min(_CHUNK, end - start))
                except (OSError, ValueError, OverflowError):  # unmapped meanwhile
                    break
                if not chunk:
                    break
                yield chunk
                start += max(1, len(chunk) - 256) if len(chunk) == _CHUNK else len(chunk)
