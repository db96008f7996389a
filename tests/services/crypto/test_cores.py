"""A process that is killed leaves a core where its administrator wants one: no key is in it."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest

from secgear.services.crypto.pkcs11.constants import KeyType, Mech
from tests.services.crypto.conftest import User, template
from tests.services.crypto.running import PIN, founded, prepare_token, serving
from tests.services.crypto.test_channel import connected

_PATTERN = Path("/proc/sys/kernel/core_pattern")


def _cores(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if re.fullmatch(r"core(\.\d+)?", path.name)]


def _whole(directory: Path, pid: int) -> Path:
    """The core that a dead process has left, when the kernel has written all of it."""
    until = time.monotonic() + 60
    while not (found := _cores(directory)) or Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, "no core"
        time.sleep(0.05)
    (core,) = found
    return core


@pytest.mark.skipif(
    _PATTERN.read_text().strip() != "core", reason="this system's cores go elsewhere"
)
def test_keys_are_in_no_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = b"canary-secret-that-no-core-holds"
    control = b"control-label-through-the-socket"
    directory, cores = tmp_path / "module", tmp_path / "cores"
    cores.mkdir()
    founded(directory)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard != resource.RLIM_INFINITY:
        pytest.skip("cores are limited here")
    monkeypatch.chdir(cores)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with serving(directory, "--attested", "tcp://127.0.0.1:0", ready=2) as server:
            resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
            prepare_token(server.socket, tmp_path / "pins")
            address = re.search(r"attested channels at (\S+)", "\n".join(server.said))
            assert address is not None
            with connected(address[1], directory) as caller:
                user = User(caller, login=False)
                user.call("C_Login", 1, PIN.encode())
                key = user.secret(canary, KeyType.GENERIC_SECRET, TOKEN=True, SIGN=True)
                user.run("Sign", Mech.SHA256_HMAC, key, canary)
            with server.caller() as local:
                session = local.one("C_OpenSession", 0, 6)
                local.one("C_CreateObject", session, template(CLASS=0, TOKEN=True, LABEL=control))
            enclave, host = server.enclave, server.process.pid
            os.kill(enclave, signal.SIGABRT)
            until = time.monotonic() + 60
            while Path(f"/proc/{enclave}").exists():
                assert time.monotonic() < until
                time.sleep(0.05)
            assert not _cores(cores)
            os.kill(host, signal.SIGABRT)
            server.process.wait(60)
            core = _whole(cores, host).read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    # What goes through the socket passes through the host's hands: the search would have found it.
    assert control in core
    assert canary not in core
