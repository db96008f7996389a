"""What a sealed enclave can't do, tried from inside it, and what it still can."""

from __future__ import annotations

import errno
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear.base.enclave import Enclave
from secgear.base.wire import Flag, Kind, frame

APP = '''
import ctypes
import os
import socket
import threading

from secgear import App

app = App("prisoner", requires=["numpy", "pyarrow", "duckdb", "cryptography"], memory=3 << 30)

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


@app.ecall
def syscall(number: int, arguments: list[int]) -> int:
    """errno of a raw system call, 0 if it worked."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in arguments])
    return ctypes.get_errno() if result == -1 else 0


@app.ecall
def attempt(code: str) -> str:
    """Run Python code; the name of the exception it raised."""
    try:
        exec(code, {"os": os, "socket": socket, "ctypes": ctypes})
    except BaseException as error:
        return type(error).__name__
    return "worked"


@app.ecall
def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@app.ecall
def works(what: str) -> bool:
    return globals()["works_" + what]()


def works_threads():
    seen = []
    threads = [threading.Thread(target=seen.append, args=(at,)) for at in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return len(seen) == 20


def works_cryptography():
    key = AESGCM(AESGCM.generate_key(256))
    signer = ec.generate_private_key(ec.SECP384R1())
    signature = signer.sign(b"x", ec.ECDSA(hashes.SHA384()))
    signer.public_key().verify(signature, b"x", ec.ECDSA(hashes.SHA384()))
    return key.decrypt(bytes(12), key.encrypt(bytes(12), b"hello", None), None) == b"hello"


def works_numpy():
    values = np.random.default_rng(1).random((700, 700))
    return bool(np.allclose(values @ np.eye(700), values)) and np.fft.fft(values[0]).size == 700


def works_duckdb():
    connection = duckdb.connect(config={"threads": 2})
    return connection.sql("select sum(range) from range(1000000)").fetchall()[0][0] == 499999500000


def works_pyarrow():
    table = pa.table({"a": list(range(1000))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    back = pa.ipc.open_stream(sink.getvalue()).read_all()
    return pa.compute.sum(back["a"]).as_py() == 499500


def works_lazy_standard_library():
    import decimal, json, sqlite3, xml.etree.ElementTree, zoneinfo
    return sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)


def works_polling():
    import select
    reader = os.eventfd(1)
    try:
        return select.select([reader], [], [], 1)[0] == [reader]
    finally:
        os.close(reader)


@app.ecall
def hoard(size: int) -> int:
    return len(bytearray(size))


@app.ecall
def echo(text: str) -> str:
    return text
'''


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    source = tmp_path_factory.mktemp("inside") / "prisoner.py"
    source.write_text(textwrap.dedent(APP))
    with secgear.launch(source) as enclave:
        yield enclave


def number(name: str) -> int:
    from secgear.base.sandbox.syscalls import ALLOWED, CHECKED, REFUSED
    from secgear.base.sandbox.system import machine

    for table in (ALLOWED, CHECKED, REFUSED):
        if name in table:
            found = table[name][machine()]
            if found is None:
                pytest.skip(f"this machine has no system call {name}")
            return found
    raise KeyError(name)


REFUSED_CALLS: list[tuple[str, list[int]]] = [
    ("fork", []),
    ("vfork", []),
    ("clone", [0x11]),  # SIGCHLD, no CLONE_THREAD: a process
    ("clone", [0x10000000]),  # CLONE_NEWUSER
    ("execve", [0, 0, 0]),
    ("execveat", [-100, 0, 0, 0, 0]),
    ("ptrace", [0]),
    ("ptrace", [16, 1]),
    ("process_vm_readv", [1, 0, 0, 0, 0, 0]),
    ("process_vm_writev", [1, 0, 0, 0, 0, 0]),
    ("kill", [1, 0]),
    ("kill", [-1, 0]),
    ("tkill", [1, 0]),
    ("tgkill", [1, 1, 0]),
    ("rt_sigqueueinfo", [1, 0, 0]),
    ("pidfd_open", [1, 0]),
    ("pidfd_getfd", [0, 0, 0]),
    ("bpf", [0, 0, 0]),
    ("io_uring_setup", [1, 0]),
    ("perf_event_open", [0, 0, 0, 0, 0]),
    ("userfaultfd", [0]),
    ("keyctl", [0, 0]),
    ("memfd_create", [0, 0]),
    ("memfd_secret", [0]),
    ("socket", [1, 1, 0]),
    ("socket", [2, 1, 0]),
    ("socket", [16, 3, 0]),
    ("socketpair", [1, 1, 0, 0]),
    ("connect", [0, 0, 0]),
    ("accept4", [0, 0, 0, 0]),
    ("sendto", [0, 0, 0, 0, 4096, 16]),  # with an address
    ("mount", [0, 0, 0, 0, 0]),
    ("unshare", [0x10000000]),
    ("setns", [0, 0]),
    ("chroot", [0]),
    ("setuid", [0]),
    ("capset", [0, 0]),
    ("personality", [0]),
    ("shmget", [0, 4096, 0o1600]),
    ("pkey_mprotect", [0, 4096, 5, 0]),
    ("prctl", [1, 0]),  # PR_SET_PDEATHSIG
    ("prctl", [4, 1]),  # PR_SET_DUMPABLE
    ("prctl", [22, 0]),  # PR_SET_SECCOMP
    ("prlimit64", [0, 7, 4096, 0]),
    ("prlimit64", [1, 7, 0, 4096]),
    ("ioctl", [0, 0x5412, 0]),  # TIOCSTI
    ("fcntl", [0, 8, 1]),  # F_SETOWN
    ("fcntl", [0, 10, 9]),  # F_SETSIG
    ("fcntl", [0, 15, 0]),  # F_SETOWN_EX
    ("fcntl", [0, 1026, 0]),  # F_NOTIFY
    ("mmap", [0, 4096, 7, 0x22, -1, 0]),  # writable and executable
    ("mmap", [0, 4096, 5, 0x22, -1, 0]),  # anonymous and executable
    ("mprotect", [0, 0, 5]),
    ("unlinkat", [-100, 0, 0]),
    ("renameat2", [-100, 0, -100, 0, 0]),
    ("mkdirat", [-100, 0, 0]),
    ("fchmodat", [-100, 0, 0]),
    ("ftruncate", [0, 0]),
    ("open_by_handle_at", [0, 0, 0]),
    ("sched_setaffinity", [1, 8, 0]),
]


@pytest.mark.parametrize(
    ("name", "arguments"),
    REFUSED_CALLS,
    ids=[f"{name}-{'-'.join(map(str, args))}" for name, args in REFUSED_CALLS],
)
def test_this_system_call_is_refused(enclave: Enclave, name: str, arguments: list[int]) -> None:
    assert enclave.syscall(number(name), arguments) == errno.EPERM


@pytest.mark.parametrize("unknown", [435, 437, 500, 9999])
def test_unknown_system_calls_do_not_exist(enclave: Enclave, unknown: int) -> None:
    """435 is clone3 and 437 openat2, whose arguments a filter can't see."""
    assert enclave.syscall(unknown, [0, 0, 0]) == errno.ENOSYS


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd').read()",
        "os.listdir('/')",
        "os.listdir('/home')",
        "os.listdir('/proc/1')",
        "open('/proc/1/environ')",
        "open('/tmp/escape', 'w')",
        "open('/dev/null', 'w')",
        "open('/proc/self/mem', 'r+b')",
        "open('/proc/self/oom_score_adj', 'w')",
        "open(os.__file__, 'a')",
        "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
        "os.mkdir('/tmp/escape')",
        "os.symlink('/etc', '/tmp/escape')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', 1))",
        "socket.socket(socket.AF_UNIX)",
        "os.memfd_create('x')",
        "os.setuid(0)",
        "__import__('subprocess').run(['/bin/true'])",
        "__import__('multiprocessing').Process().start()",
        "__import__('mmap').mmap(-1, 4096, prot=7)",
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_CORE, (1, 1))",
    ],
)
def test_python_is_refused_too(enclave: Enclave, code: str) -> None:
    assert enclave.attempt(code) in {"PermissionError", "FileNotFoundError", "ValueError"}


@pytest.mark.parametrize("module", ["pandas", "pytest", "hypothesis", "typer", "rich"])
def test_only_required_distributions_can_be_imported(enclave: Enclave, module: str) -> None:
    assert enclave.attempt(f"import {module}") == "ModuleNotFoundError"


@pytest.mark.parametrize(
    "what",
    [
        "threads",
        "cryptography",
        "numpy",
        "duckdb",
        "pyarrow",
        "lazy_standard_library",
        "polling",
    ],
)
def test_this_works_inside(enclave: Enclave, what: str) -> None:
    assert enclave.works(what) is True


def test_nothing_of_the_host_is_inherited(tmp_path: Path) -> None:
    source = tmp_path / "fresh.py"
    source.write_text(
        "import os\nfrom secgear import App\napp = App('fresh')\n"
        "@app.ecall\ndef seen() -> tuple[list[str], list[str], str]:\n"
        "    return sorted(os.environ), os.listdir('/proc/self/fd'), os.getcwd()\n"
    )
    with secgear.launch(source) as fresh:
        names, descriptors, folder = fresh.seen()
    assert set(names) <= {"LC_CTYPE", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"}
    # 0, 1, 2, the stream, the mapping of the shared memory, and the one that lists them.
    assert len(descriptors) == 6
    assert folder == "/"


def test_descriptor_that_the_host_hands_in_is_dropped(enclave: Enclave) -> None:
    """One that was opened outside would be a way out, whatever it leads to."""
    stream: Any = enclave._connection.peer._link.stream
    before = enclave.descriptors()
    one, other = socket.socketpair()
    with one, other:
        ignored = frame(Kind.CANCEL, 1 << 40, flags=Flag.OURS)
        for _ in range(3):
            assert socket.send_fds(stream._socket, [ignored], [one.fileno()]) == len(ignored)
        one.close()
        assert enclave.descriptors() == before
        other.settimeout(20)
        assert other.recv(1) == b""  # nobody else has it


def test_every_thread_is_under_the_filter(enclave: Enclave) -> None:
    """Those of OpenBLAS too, which were there before it."""
    tasks = list(Path(f"/proc/{enclave.pid}/task").iterdir())
    assert len(tasks) > 2
    for task in tasks:
        status = dict(
            line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line
        )
        assert status["Seccomp"].strip() == "2"
        assert status["NoNewPrivs"].strip() == "1"
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_too_much_memory_is_an_error_not_the_end(enclave: Enclave) -> None:
    with pytest.raises(secgear.errors.EnclaveInternalError, match="MemoryError"):
        enclave.hoard(20 << 30)
    assert enclave.echo("still here") == "still here"
