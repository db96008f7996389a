"""The process TEE, host side: an enclave is a hardened process of its own.

A simulation. It protects from other users without privileges and from other processes of the same
user, and it contains a compromised enclave. It does not protect from root, the kernel, a
hypervisor or physical access.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import queue
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, final

import msgspec

import secgear
from secgear.base.handover import MARK, SLOTS, Door, make_door
from secgear.base.image import Image, with_signature
from secgear.base.sandbox import probe
from secgear.base.tee import (
    Availability,
    LaunchConfig,
    Layer,
    Running,
    SealingPolicy,
    Tee,
)
from secgear.base.tees.process_boot import (
    Answer,
    Boot,
    EvidenceRequest,
    Failed,
    Request,
    receive_report,
    send,
)
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.base.transport import arena
from secgear.base.transport.stream import SocketStream
from secgear.base.wire import clip
from secgear.errors import (
    GuestError,
    InterfaceMismatch,
    LaunchFailed,
    LayerMissing,
    PlatformUnavailable,
    RequirementError,
    SecGearError,
)

_MACHINES = ("x86_64", "aarch64")
_STDERR_LIMIT = 16384
_ENVIRONMENT = {
    # Large buffers come and go with calls. Taken from the heap and kept for the next one they cost
    # no page faults, which are most of what a bulk transfer costs otherwise (2 to 3 times here).
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


@final
class ProcessTee(Tee):
    """Launches enclaves as hardened processes of the calling user."""

    name: ClassVar[str] = "process"
    protects: ClassVar[str] = (
        "its memory from other users and from processes of the same user, and contains a "
        "compromised enclave; not from root, kernel, hypervisor or physical access, and not the "
        "simulated platform's keys from the same user: a simulation"
    )
    strength: ClassVar[int] = 10
    simulated: ClassVar[bool] = True

    def probe(self) -> Availability:
        """Any Linux on x86-64 or aarch64; the layers tell how well it isolates."""
        machine = platform.machine()
        if sys.platform != "linux" or machine not in _MACHINES:
            return Availability(
                False,
                f"needs Linux on {' or '.join(_MACHINES)}, this is {sys.platform} on {machine}",
                "run on such a machine",
            )
        layers = probe.layers()
        missing = [layer.name for layer in layers if not layer.holds]
        reason = (
            f"simulation by a hardened process; missing here: {', '.join(missing)}"
            if missing
            else "simulation by a hardened process, all layers"
        )
        facts = {"python": platform.python_version(), "home": str(home())}
        return Availability(True, reason, facts=facts, layers=layers)

    def launch(self, image: Image, config: LaunchConfig) -> Running:
        """Start `image` in a process of its own; returns once it is sealed."""
        known = {layer.name for layer in probe.layers()}
        unknown = [name for name in config.require if name not in known]
        if unknown:
            raise LayerMissing(
                f"process: no layer is called {', '.join(unknown)}; there are "
                f"{', '.join(sorted(known))}"
            )
        if sys.platform != "linux" or platform.machine() not in _MACHINES:
            raise PlatformUnavailable(f"process: {self.probe().reason}")
        authority = SimulatedPlatform(home())
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(ours.close)
            stderr = os.memfd_create("secgear-stderr", os.MFD_CLOEXEC)
            undo.callback(os.close, stderr)
            # The guest needs no signature: who signed is the platform's to know.
            image_fd = _sealed_file(with_signature(image, None).data)
            memory = _SharedMemory(config)
            undo.callback(memory.close)
            entrance = _Entrance() if config.connections else None
            if entrance is not None:
                undo.callback(entrance.close)
            try:
                inherited = [theirs.fileno(), image_fd, *memory.descriptors]
                if entrance is not None:
                    inherited += entrance.descriptors
                process = _spawn(theirs.fileno(), inherited, stderr)
            finally:
                theirs.close()
                os.close(image_fd)
            running = _ProcessRunning(process, ours, memory, image, authority)
            try:
                boot = Boot(
                    host_pid=os.getpid(),
                    read_paths=_read_paths(image),
                    search_path=_search_path(),
                    image_fd=image_fd,
                    shared_fd=memory.shared_fd,
                    switchless_fd=memory.switchless_fd,
                    door_fd=entrance.descriptors[0] if entrance is not None else -1,
                    marks_fd=entrance.descriptors[1] if entrance is not None else -1,
                )
                running.layers = _start(process, ours, boot, config.timeout, stderr)
                _insist(config.require, running.layers)
                if entrance is not None:
                    running.door = entrance.open()
            except BaseException:
                running.stop(0)
                raise
            undo.pop_all()
            os.close(stderr)
            return running


@final
class _SharedMemory:
    """What a host and its enclave share: descriptors, -1 for what was not asked for."""

    def __init__(self, config: LaunchConfig) -> None:
        self.shared_fd = self.switchless_fd = -1
        if config.shared_size:
            self.shared_fd = arena.create(config.shared_size)
        if config.switchless_size:
            try:
                self.switchless_fd = arena.shared_file("secgear-switchless", config.switchless_size)
            except OSError:
                self.close()
                raise

    @property
    def descriptors(self) -> list[int]:
        return [fd for fd in (self.shared_fd, self.switchless_fd) if fd >= 0]

    def close(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
        self.shared_fd = self.switchless_fd = -1


@final
class _Entrance:
    """The making of a door. descriptors: the enclave's, its socket and the marks."""

    def __init__(self) -> None:
        self._ours, self._theirs, self._marks = make_door()
        self.descriptors = (self._theirs.fileno(), self._marks)

    def open(self) -> Door:
        """Our side of it; the enclave has its own."""
        memory = mmap.mmap(self._marks, SLOTS * MARK)
        self._theirs.close()
        os.close(self._marks)
        return Door(self._ours, memory)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
        os.close(self._marks)


@final
class _ProcessRunning(Running):
    """An enclave process. Stopping it reaps it and closes what it held."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        memory: _SharedMemory,
        image: Image,
        authority: SimulatedPlatform,
    ) -> None:
        self.stream = SocketStream(sock)
        self.shared_fd = memory.shared_fd if memory.shared_fd >= 0 else None
        self.switchless_fd = memory.switchless_fd if memory.switchless_fd >= 0 else None
        self.layers: tuple[Layer, ...] = ()
        self.pid = process.pid
        self._process = process
        self._memory = memory
        self._image = image
        self._authority = authority
        self._lock = threading.Lock()

    def platform(self, request: bytes) -> bytes:
        """Sign evidence or derive a sealing key, about the image that was started here."""
        try:
            wanted = _REQUEST.decode(request)
            if isinstance(wanted, EvidenceRequest):
                data = self._authority.evidence(self._image, self.layers, wanted.report_data)
            else:
                data = self._authority.sealing_key(
                    self._image,
                    SealingPolicy(wanted.policy),
                    None if wanted.svn < 0 else wanted.svn,
                )
        except GuestError as error:
            return msgspec.msgpack.encode(Answer(error=str(error)))
        except (msgspec.DecodeError, ValueError):
            return msgspec.msgpack.encode(Answer(error="the request is malformed"))
        return msgspec.msgpack.encode(Answer(data))

    def diagnose(self) -> str:
        """How the process ended; empty while it runs."""
        with self._lock:
            code = self._process.poll()
        return "" if code is None else _ending(code)

    def stop(self, grace: float) -> None:
        """Wait for the process to leave, then kill it; frees descriptors. Idempotent."""
        with self._lock:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace if self._process.returncode is None else 0)
            if self._process.returncode is None:
                self._process.kill()
                self._process.wait()
            self.shared_fd = self.switchless_fd = None
            self._memory.close()
        self.stream.close()


def _ending(code: int) -> str:
    if code >= 0:
        return f"the enclave's process ended with status {code}"
    with contextlib.suppress(ValueError):
        return f"the enclave's process was killed by {signal.Signals(-code).name}"
    return f"the enclave's process was killed by signal {-code}"


def _start(
    process: subprocess.Popen[bytes],
    sock: socket.socket,
    boot: Boot,
    timeout: float,
    stderr: int,
) -> tuple[Layer, ...]:
    """Tell the guest what it is and hear that it is sealed."""
    deadline = time.monotonic() + timeout
    try:
        sock.settimeout(timeout)
        send(sock, boot)
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        report = receive_report(sock)
        sock.settimeout(None)
    except TimeoutError:
        raise LaunchFailed(
            f"the enclave was not ready within {timeout:g} seconds; give "
            "launch(timeout=...) more if the app imports much"
        ) from None
    except (LaunchFailed, OSError) as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        ending = _ending(process.returncode) if process.returncode is not None else str(error)
        said = os.pread(stderr, _STDERR_LIMIT, 0).decode(errors="replace").strip()
        raise LaunchFailed(f"{ending} while starting" + (f":\n{said}" if said else "")) from error
    if isinstance(report, Failed):
        raise _failure(report)
    return tuple(
        Layer(layer.name, layer.holds and _confirmed(process.pid, layer.name), layer.detail)
        for layer in report.layers
    )


def _failure(report: Failed) -> SecGearError:
    for kind in (RequirementError, InterfaceMismatch):
        if report.code == kind.code:
            return kind(clip(report.text, _STDERR_LIMIT))
    return LaunchFailed(clip(report.text, _STDERR_LIMIT))


def _confirmed(pid: int, layer: str) -> bool:
    """What can be seen of a layer from outside must agree with what the guest says."""
    try:
        if layer == "not_dumpable":
            # The kernel gives a process that can't be dumped to root; as root there is no telling.
            return os.geteuid() == 0 or Path(f"/proc/{pid}/mem").stat().st_uid == 0
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True  # a /proc that shows nothing to us; the guest's own check stands
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    expected = {
        "no_new_privs": ("NoNewPrivs", 1),
        "seccomp": ("Seccomp", 2),
        "capabilities": ("CapEff", 0),
    }.get(layer)
    if expected is None or expected[0] not in fields:
        return True
    value = fields[expected[0]].strip()
    return int(value, 16) == expected[1]


def _insist(require: tuple[str, ...], layers: tuple[Layer, ...]) -> None:
    held = {layer.name: layer for layer in layers}
    for name in require:
        layer = held.get(name)
        if layer is None or not layer.holds:
            why = layer.detail if layer is not None and layer.detail else "the guest did not set it"
            raise LayerMissing(f"process: the layer {name} is required and does not hold: {why}")


def _sealed_file(data: bytes) -> int:
    """A memfd with `data` that nobody can change any more."""
    fd = os.memfd_create("secgear-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(
            fd,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
        )
    except OSError:
        os.close(fd)
        raise
    return fd


def _runtime_paths() -> list[str]:
    """Directories that hold secgear and the libraries its runtime imports."""
    own = str(Path(secgear.__file__).parent.parent)
    library = str(Path(msgspec.__file__).parent.parent)
    return list(dict.fromkeys([own, library]))


def _search_path() -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry for entry in sys.path if entry and Path(entry).is_dir()))


def _read_paths(image: Image) -> tuple[str, ...]:
    """What the enclave may read once sealed: the interpreter's library, installed packages."""
    required = bool(image.manifest.requires)
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = [sysconfig.get_paths()[name] for name in names]
    paths += [str(Path(sys.base_prefix) / "lib"), str(Path(secgear.__file__).parent)]
    paths += [
        entry
        for entry in _search_path()
        if Path(entry).name.endswith("-packages")
        or (required and next(Path(entry).glob("*.dist-info"), None) is not None)
    ]
    return tuple(dict.fromkeys(path for path in paths if Path(path).exists()))


def _spawn(sock: int, inherited: list[int], stderr: int) -> subprocess.Popen[bytes]:
    guest = Path(__file__).with_name("process_guest.py")
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(guest), str(sock)]
    command += _runtime_paths()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=inherited,
            start_new_session=True,
        )

    try:
        return _spawner.run(start)
    except OSError as error:
        raise LaunchFailed(f"{sys.executable}: can't be started: {error.strerror}") from error


Start = Callable[[], "subprocess.Popen[bytes]"]


class _Spawner:
    """Starts processes on one thread that lives as long as the host.

    The kernel's parent-death signal fires when the *thread* that started the child ends, so a
    launch on a short-lived thread must not be its parent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[
            tuple[Start, queue.SimpleQueue[subprocess.Popen[bytes] | BaseException]]
        ] = queue.SimpleQueue()
        self._pid = 0

    def run(self, start: Start) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._pid != os.getpid():  # first use, or the host has forked
                self._pid = os.getpid()
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, name="secgear-spawner", daemon=True).start()
        reply: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()
        self._jobs.put((start, reply))
        result = reply.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def _work(self) -> None:
        jobs = self._jobs
        while True:
            start, reply = jobs.get()
            try:
                reply.put(start())
            except BaseException as error:  # noqa: BLE001  (raised in the thread that asked)
                reply.put(error)


_spawner = _Spawner()
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_REQUEST = msgspec.msgpack.Decoder(Request)
