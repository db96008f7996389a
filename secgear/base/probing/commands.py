"""Ask an installed program a question (``--version``, ``-object help``) within a deadline.

A tool may hang, print without end or leave children behind. A probe must survive all three, so
the program runs in a session of its own that is killed as a whole when it misbehaves.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time

TIMEOUT = 2.0
OUTPUT_LIMIT = 256 << 10


def run(argv: list[str], timeout: float = TIMEOUT) -> str | None:
    """What `argv` prints on its standard output, or None if it can't be run or does not end.

    timeout: seconds for the whole run. Output beyond 256 KiB counts as misbehaving, too. The exit
    status is not looked at: old versions of QEMU end ``-object help`` with 1.
    The program gets no input and no environment but PATH and the C locale.
    """
    deadline = time.monotonic() + timeout
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,
        )
    except (OSError, ValueError):
        return None
    finished = False
    try:
        text = _drain(child, deadline)
        if text is not None:
            child.wait(max(0.0, deadline - time.monotonic()))
            finished = True
        return text if finished else None
    except subprocess.TimeoutExpired:
        return None
    finally:
        if not finished:
            # Not reaped yet, so the number of its process group can't have been given away.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _drain(child: subprocess.Popen[bytes], deadline: float) -> str | None:
    """Everything the child prints until it closes its output; None past deadline or limit."""
    if child.stdout is None:
        return None
    descriptor = child.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    collected = bytearray()
    while (left := deadline - time.monotonic()) > 0 and len(collected) <= OUTPUT_LIMIT:
        if poll.poll(left * 1000):
            piece = os.read(descriptor, 65536)
            if not piece:
                return collected.decode("utf-8", "replace")
            collected += piece
    return None
