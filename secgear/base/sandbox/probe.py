"""Which layers would hold on this machine, without restricting the process that asks."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

from secgear.base.sandbox import LAYERS, landlock, system
from secgear.base.tee import Layer

# Tried in a process that ends at once: a namespace can't be left again.
_TRIAL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
number = ctypes.c_long({unshare})
print(ctypes.get_errno() if libc.syscall(number, ctypes.c_long(0x5E000000)) else 0)
"""


@functools.cache
def layers() -> tuple[Layer, ...]:
    """Every layer of `LAYERS`, whether a launch would have it, and if not, why."""
    missing = {
        "landlock": "" if landlock.abi() else "the kernel has no Landlock",
        "seccomp": _seccomp(),
        "namespaces": _namespaces(),
        "secret_memory": _secret_memory(),
    }
    missing["w_xor_x"] = missing["seccomp"]
    return tuple(
        Layer(name, not missing.get(name), missing.get(name) or meaning)
        for name, meaning in LAYERS.items()
    )


def _seccomp() -> str:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    try:
        return "" if "errno" in actions.read_text(encoding="ascii") else "no seccomp filters"
    except OSError:
        return "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)"


def _secret_memory() -> str:
    try:
        os.close(system.call("memfd_secret", os.O_CLOEXEC))
    except OSError as error:
        return f"no memfd_secret ({error.strerror}): needs Linux 5.14 and secretmem.enable=1"
    return ""


def _namespaces() -> str:
    try:
        number = (272, 97)[system.machine()]
        trial = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", _TRIAL.format(unshare=number)],
            capture_output=True,
            check=False,
            timeout=5,
            env={},
        )
        code = int(trial.stdout or b"-1")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"could not be tried: {error}"
    if code == 0:
        return ""
    reason = os.strerror(code) if code > 0 else "the trial did not run"
    return (
        f"new namespaces are refused ({reason}): needs user.max_user_namespaces > 0 and, in a "
        "container, permission to unshare"
    )
