"""Becoming nobody, with an own view of the file system that leads into root's private folders.

A checkout below ``/root`` can't be read by other users. In a mount namespace of its own
(mount_namespaces(7)) a process may cover such a folder with an empty one and bind into it just
what is needed; for everybody else nothing changes. Needs CAP_SYS_ADMIN, as root on a plain machine
has and root in most containers has not.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # unshare(2)
# Flags of mount(2).
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def enter(user: int, paths: Sequence[str], command: Sequence[str]) -> None:
    """Replace this process by `command`, run by `user`, who finds `paths` where they are.

    user: user and group id. Called by root, in a process of its own. Raises OSError.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise _error("unshare")
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    os.umask(0o022)
    for folder, needed in private(paths).items():
        # Opened before the folder is covered; what a descriptor refers to stays reachable.
        descriptors = {path: os.open(path, os.O_PATH) for path in needed}
        _mount("tmpfs", folder, _MS_NOSUID | _MS_NODEV, kind="tmpfs", options="mode=755")
        for path, descriptor in descriptors.items():
            Path(path).mkdir(parents=True)
            _mount(f"/proc/self/fd/{descriptor}", path, _MS_BIND | _MS_REC)
            os.close(descriptor)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    os.execv(command[0], list(command))  # noqa: S606  (no shell: that is meant)


def private(paths: Sequence[str]) -> dict[str, list[str]]:
    """Of `paths`, those below a folder that others may not search, by the outermost such folder."""
    found: dict[str, list[str]] = {}
    for path in sorted({str(Path(path).absolute()) for path in paths}):
        closed = [
            str(folder)
            for folder in reversed(Path(path).parents)
            if not folder.stat().st_mode & stat.S_IXOTH
        ]
        if closed:
            needed = found.setdefault(closed[0], [])
            if not any(Path(path).is_relative_to(other) for other in needed):
                needed.append(path)
    return found


def _mount(source: str, target: str, flags: int, *, kind: str = "", options: str = "") -> None:
    texts = [os.fsencode(text) or None for text in (source, target, kind)]
    if _libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options) or None) != 0:
        raise _error(f"mount {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
