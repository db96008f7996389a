"""A fake machine that is as close to a real one as a directory can be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from secgear.base.probing.machine import Machine
from secgear.base.tee import Availability, LaunchConfig, Tee
from secgear.errors import PlatformUnavailable

VM_TYPES = (0xAE03, 235)
API_VERSION = (0xAE00, 0)


class FakeMachine:
    """Files under a directory; devices are files whose ioctls and errors are told here."""

    def __init__(self, root: Path, arch: str = "x86_64") -> None:
        self.root = root
        self.arch = arch
        self.answers: dict[str, dict[tuple[int, int | bytes], int | bytes]] = {}
        self.errors: dict[str, int] = {}
        self.opened: list[str] = []
        self._names: dict[int, str] = {}

    def file(self, name: str, text: str = "") -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def directory(self, name: str) -> None:
        (self.root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def program(self, name: str, script: str = "exit 0") -> None:
        self.file(name, f"#!/bin/sh\n{script}\n").chmod(0o755)

    def device(
        self,
        name: str,
        answers: dict[tuple[int, int | bytes], int | bytes] | None = None,
        error: int = 0,
        mode: int = 0o660,
    ) -> None:
        self.file(name).chmod(mode)
        self.answers[name] = answers or {}
        if error:
            self.errors[name] = error

    def cpu(self, vendor: str, model: str, flags: str) -> None:
        self.file(
            "/proc/cpuinfo",
            f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: {model}\nflags\t\t: {flags}\n\n"
            f"processor\t: 1\nvendor_id\t: {vendor}\nmodel name\t: {model}\nflags\t\t: {flags}\n\n",
        )

    def kvm(self, types: int = 1, **device: int) -> None:
        self.device("/dev/kvm", {API_VERSION: 12, VM_TYPES: types}, **device)

    def qemu(self, *objects: str, version: str = "10.1.0", accelerators: str = "tcg kvm") -> None:
        listing = "\\n".join(f"  {name}" for name in ("memory-backend-ram", *objects))
        self.program(
            f"/usr/bin/qemu-system-{self.arch}",
            'case "$1" in\n'
            f"--version) printf 'QEMU emulator version {version} (Debian 1:{version})\\n'"
            "'Copyright (c) 2003-2025 Fabrice Bellard and the QEMU Project developers\\n' ;;\n"
            f"-object) printf 'List of user creatable objects:\\n{listing}\\n' ;;\n"
            "-accel) printf 'Accelerators supported in QEMU binary:\\n';"
            f" printf '%s\\n' {accelerators} ;;\n"
            "esac",
        )

    def machine(self) -> Machine:
        return Machine(
            self.root,
            arch=self.arch,
            search_path=["/usr/local/bin", "/usr/bin"],
            open_device=self._open,
            ioctl=self._ioctl,
        )

    def _open(self, path: str, flags: int) -> int:
        name = "/" + os.path.relpath(path, self.root)
        self.opened.append(name)
        if name in self.errors:
            raise OSError(self.errors[name], os.strerror(self.errors[name]), path)
        descriptor = os.open(path, flags)
        self._names[descriptor] = name
        return descriptor

    def _ioctl(self, descriptor: int, number: int, argument: int | bytes) -> int | bytes:
        answers = self.answers.get(self._names[descriptor], {})
        if (number, argument) not in answers:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return answers[number, argument]


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    """An empty x86-64 machine."""
    return FakeMachine(tmp_path)


@pytest.fixture
def arm(tmp_path: Path) -> FakeMachine:
    """An empty aarch64 machine."""
    machine = FakeMachine(tmp_path, "aarch64")
    machine.file(
        "/proc/cpuinfo",
        "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd aes sha2\n"
        "CPU implementer\t: 0x48\nCPU part\t: 0xd01\n",
    )
    return machine


class Verdict:
    """What every probe without launcher must hold, checked on each answer."""

    def __call__(self, tee: Tee) -> Availability:
        answer = tee.probe()
        assert not answer.available
        assert answer.reason
        assert "later release" in answer.fix
        assert "tee='process'" in answer.fix
        assert all(name.startswith(("host.", "guest.")) for name in answer.facts)
        assert "guest.inside" in answer.facts
        with pytest.raises(PlatformUnavailable, match="no launcher for it yet"):
            tee.launch(None, LaunchConfig())  # type: ignore[arg-type]
        return answer


@pytest.fixture
def verdict() -> Verdict:
    return Verdict()
