"""The process TEE: how enclaves begin and end, what is left behind, what it insists on."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

import secgear
from secgear import errors
from secgear.base import signing
from secgear.base.build import build
from secgear.base.image import Image, LaunchPolicy
from secgear.base.sandbox import LAYERS, probe
from secgear.base.tee import LaunchConfig
from secgear.base.tees.process import ProcessTee
from secgear.base.tees.simulated import SimulatedPlatform

APP = """
import time
import secgear
from secgear import App

app = App("small", version="1", svn=2, threads=2)

@app.ecall
def echo(text: str) -> str:
    return text

@app.ecall
def spin_in_c() -> None:
    sum(range(10**15))  # one C loop that holds the interpreter's lock

@app.ecall
def prove(data: bytes) -> bytes:
    return secgear.guest().evidence(data).data
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("process") / "small.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def image(source: Path) -> Image:
    return signing.sign(build(source), signing.generate_key())


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie, which waits to be reaped by init, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


# --- beginning -----------------------------------------------------------------------------------


def test_all_layers_hold_where_the_kernel_has_them(image: Image) -> None:
    offered = {layer.name: layer.holds for layer in probe.layers()}
    assert set(offered) == set(LAYERS)
    with secgear.launch(image) as enclave:
        held = {layer.name: layer.holds for layer in enclave.layers}
    assert held == offered


def test_the_host_sees_the_layers_from_outside(image: Image) -> None:
    with secgear.launch(image) as enclave:
        status = Path(f"/proc/{enclave.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert int(fields["CapEff"], 16) == 0
        own = Path("/proc/self/ns/net").readlink()
        if os.geteuid() == 0:
            assert Path(f"/proc/{enclave.pid}/ns/net").readlink() != own
            assert Path(f"/proc/{enclave.pid}/environ").read_bytes().count(b"=") <= 3


HOST_WITHOUT = """
import ctypes, struct, sys
sys.path[:] = {path!r}
# An old kernel, as far as this process and its children can tell: these calls do not exist.
libc = ctypes.CDLL(None, use_errno=True)
code = struct.pack("<HBBI", 0x20, 0, 0, 0)
for number in {missing!r}:
    code += struct.pack("<HBBI", 0x15, 0, 1, number) + struct.pack("<HBBI", 6, 0, 0, 0x50000 | 38)
code += struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
body = ctypes.create_string_buffer(code, len(code))
header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code) // 8,
                                                 ctypes.addressof(body)))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall(ctypes.c_long({seccomp}), 1, 0, header) == 0
import secgear
try:
    with secgear.launch({source!r}, require={require!r}) as enclave:
        print(enclave.echo("up"), [l.name for l in enclave.layers if not l.holds])
except secgear.errors.LayerMissing as error:
    print("refused:", error)
"""


def without(source: Path, missing: list[int], require: list[str]) -> str:
    from secgear.base.sandbox.system import machine

    program = HOST_WITHOUT.format(
        path=sys.path,
        missing=missing,
        seccomp=(317, 277)[machine()],
        source=str(source),
        require=require,
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


def test_a_missing_layer_is_told_and_can_be_insisted_on(source: Path) -> None:
    landlock, memfd_secret = 444, 447
    told = without(source, [landlock, memfd_secret], [])
    assert told.startswith("up ['landlock', 'secret_memory']"), told
    refused = without(source, [landlock], ["seccomp", "landlock"])
    assert "refused: process: the layer landlock is required and does not hold" in refused


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("raise RuntimeError('at import')", "at import"),
        ("import os; os._exit(7)", "ended the interpreter"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("import os; os.environ.get('PATH') or os._exit(9)", "status 9"),
        ("import os; os.environ.get('PATH') or os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
def test_an_app_that_can_not_start_is_explained(tmp_path: Path, body: str, text: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(f"from secgear import App\napp = App('bad')\n{body}\n")
    with pytest.raises(errors.SecGearError, match=text):
        secgear.launch(path)


def test_a_guest_that_never_seals_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(
        "from secgear import App\nimport os, time\napp = App('slow')\n"
        "if not os.environ.get('PATH'):\n    time.sleep(100)\n"
    )
    start = time.monotonic()
    with pytest.raises(errors.LaunchFailed, match="not ready within 1 seconds"):
        secgear.launch(path, timeout=1)
    assert time.monotonic() - start < 10


def test_a_required_distribution_that_changed_is_refused(tmp_path: Path) -> None:
    """Between building and launching, one byte of a measured library changes."""
    site = tmp_path / "site"
    site.mkdir()
    package = site / "tiny.py"
    package.write_text("ANSWER = 42\n")
    info = site / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    import base64
    import hashlib

    digest = base64.urlsafe_b64encode(hashlib.sha256(package.read_bytes()).digest()).rstrip(b"=")
    (info / "RECORD").write_text(
        f"tiny.py,sha256={digest.decode()},{package.stat().st_size}\n"
        "tiny-1.0.dist-info/METADATA,,\ntiny-1.0.dist-info/RECORD,,\n"
    )
    app = tmp_path / "uses.py"
    app.write_text(
        "from secgear import App\nimport tiny\napp = App('uses', requires=['tiny'])\n"
        "@app.ecall\ndef answer() -> int:\n    return tiny.ANSWER\n"
    )
    program = textwrap.dedent(f"""
        import sys
        sys.path.append({str(site)!r})
        from pathlib import Path
        import secgear
        from secgear.base.build import build
        image = build({str(app)!r}, debug=True)
        policy = secgear.base.image.LaunchPolicy(debug=True)
        with secgear.launch(image, policy=policy) as enclave:
            print(enclave.answer())
        Path({str(package)!r}).write_text("ANSWER = 43\\n")
        try:
            secgear.launch(image, policy=policy)
        except secgear.errors.SecGearError as error:
            print(type(error).__name__)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    lines = done.stdout.split()
    assert lines[0] == "42", done.stderr
    assert lines[1] in {"RequirementError", "LaunchFailed"}


# --- ending --------------------------------------------------------------------------------------

HOST = """
import os, sys, threading, time
sys.path[:] = {path!r}
import secgear
kept = []
def start():
    enclave = secgear.launch({source!r})
    kept.append(enclave)
    {then}
    print(enclave.pid, flush=True)
{how}
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("how", "then"),
    [
        ("start()", "pass"),
        ("start()", "enclave.submit.spin_in_c(); time.sleep(0.3)"),
        ("t = threading.Thread(target=start); t.start(); t.join()", "pass"),
        ("start()", "os.fork() or time.sleep(600)"),
    ],
    ids=["plain", "spinning", "short-lived thread", "forked child holds the stream"],
)
def test_kill_9_of_the_host_leaves_no_process(source: Path, how: str, then: str) -> None:
    program = HOST.format(path=sys.path, source=str(source), how=how, then=then)
    host = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert alive(pid)
        host.kill()
        host.wait()
        until(lambda: not alive(pid), 5)
    finally:
        # The forked child is none of the enclave's; it goes with its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(host.pid, signal.SIGKILL)


def test_an_enclave_outlives_the_thread_that_launched_it(source: Path) -> None:
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(secgear.launch(source)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    with kept[0] as enclave:
        assert enclave.echo("x") == "x"


def test_a_forked_child_can_launch_its_own(source: Path) -> None:
    with secgear.launch(source) as enclave:
        assert enclave.echo("x") == "x"
        child = os.fork()
        if child == 0:
            try:
                with secgear.launch(source) as own:
                    os._exit(0 if own.echo("y") == "y" else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert enclave.echo("z") == "z"


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()) + sum(
        len(path.read_text().split())
        for path in Path("/proc/self/task").glob("*/children")
        if path.parent.name != str(os.getpid())
    )


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@pytest.mark.slow
def test_200_one_after_another_leave_nothing(image: Image) -> None:
    def one() -> None:
        with secgear.launch(image) as enclave:
            assert enclave.echo("x") == "x"

    for _ in range(5):
        one()
    home = Path(os.environ["SECGEAR_HOME"])
    gc.collect()
    before = (descriptors(), children(), threading.active_count(), sorted(home.rglob("*")))
    memory = resident()
    for _ in range(200):
        one()
    gc.collect()
    until(lambda: threading.active_count() <= before[2])
    after = (descriptors(), children(), threading.active_count(), sorted(home.rglob("*")))
    # Fewer is fine: what other tests left to the collector may go meanwhile.
    assert all(now <= then for now, then in zip(after[:3], before[:3], strict=True))
    assert after[3] == before[3]
    assert resident() - memory < 30_000  # KiB; a leak of one arena or thread each is far more


@pytest.mark.slow
def test_20_at_a_time_leave_nothing(image: Image) -> None:
    with secgear.launch(image):
        pass
    gc.collect()
    before = (descriptors(), children())
    with ThreadPoolExecutor(20) as pool:
        enclaves = list(pool.map(lambda _: secgear.launch(image), range(20)))
    assert [enclave.echo(str(at)) for at, enclave in enumerate(enclaves)] == list(
        map(str, range(20))
    )
    assert children() >= 20
    for enclave in enclaves:
        enclave.close()
    assert descriptors() <= before[0]
    assert children() <= before[1]


def test_a_failed_launch_leaves_nothing(image: Image, tmp_path: Path) -> None:
    gc.collect()
    before = (descriptors(), children())
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from secgear import App\nimport os\napp = App('bad')\n"
        "os.environ.get('PATH') or os._exit(9)\n"
    )
    for _ in range(3):
        with pytest.raises(errors.LaunchFailed):
            secgear.launch(bad)
    assert descriptors() <= before[0]
    assert children() <= before[1]


# --- evidence and keys ---------------------------------------------------------------------------


def test_evidence_verifies_and_says_what_it_is(image: Image) -> None:
    data = os.urandom(64)
    with secgear.launch(image) as enclave:
        token = enclave.prove(data)
        layers = {layer.name: layer.holds for layer in enclave.layers}
    tag = cbor2.loads(token)
    assert tag.tag == 18
    protected, unprotected, payload, signature = tag.value
    assert cbor2.loads(protected) == {1: -35}
    certificate = x509.load_der_x509_certificate(unprotected[33])
    home = Path(os.environ["SECGEAR_HOME"])
    assert certificate == SimulatedPlatform(home).root
    to_verify = cbor2.dumps(["Signature1", protected, b"", payload])
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(
        int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    )
    key.verify(der, to_verify, ec.ECDSA(hashes.SHA384()))
    claims = cbor2.loads(payload)
    assert claims[10] == data
    assert claims["simulated"] is True
    assert claims["measurement"] == image.measurement
    assert claims["signer"] == image.signer
    assert (claims["svn"], claims["product"], claims["tee"]) == (2, "small", "process")
    assert claims["layers"] == layers
    assert claims[263] == 1
    assert abs(claims[6] - time.time()) < 60


def test_a_debug_image_is_marked_in_its_evidence(source: Path) -> None:
    with secgear.launch(source) as enclave:
        claims = cbor2.loads(cbor2.loads(enclave.prove(bytes(64))).value[2])
    assert claims[263] == 0
    assert claims["signer"] is None


def test_processes_that_start_at_once_share_one_root(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import sys
        sys.path[:] = {sys.path!r}
        from pathlib import Path
        from secgear.base.tees.simulated import SimulatedPlatform
        print(SimulatedPlatform(Path({str(tmp_path / "fresh")!r})).root.serial_number)
    """)
    racers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert len({racer.communicate(timeout=60)[0] for racer in racers}) == 1
    files = list((tmp_path / "fresh").rglob("*.key"))
    assert files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_a_damaged_home_is_named(tmp_path: Path) -> None:
    SimulatedPlatform(tmp_path)
    (tmp_path / "simulated-platform" / "seal.key").write_bytes(b"short")
    with pytest.raises(errors.LaunchFailed, match="do not belong together; remove it"):
        SimulatedPlatform(tmp_path)
    (tmp_path / "simulated-platform" / "root.key").write_bytes(b"no key")
    with pytest.raises(errors.LaunchFailed, match=r"root\.key"):
        SimulatedPlatform(tmp_path)
    assert "PRIVATE" not in repr(SimulatedPlatform(tmp_path / "other"))


def test_a_forged_platform_request_is_refused(image: Image) -> None:
    import msgspec

    running = ProcessTee().launch(image, LaunchConfig())
    try:
        for request in (
            b"",
            b"\xc1",
            b"x" * 1000,
            msgspec.msgpack.encode({"type": "evidence", "report_data": b"short"}),
            msgspec.msgpack.encode({"type": "key", "policy": "nonsense", "svn": 1}),
            msgspec.msgpack.encode({"type": "key", "policy": "signer", "svn": 99}),
            msgspec.msgpack.encode({"type": "key", "policy": "signer", "svn": -2, "more": 1}),
        ):
            answer = msgspec.msgpack.decode(running.platform(request))
            assert answer["error"]
            assert not answer["data"]
    finally:
        running.stop(0)
        running.stop(0)


# --- launch policy -------------------------------------------------------------------------------


def test_policies_hold_at_launch(image: Image, source: Path) -> None:
    assert image.signer is not None
    with secgear.launch(image, policy=LaunchPolicy(signers=frozenset({image.signer}))):
        pass
    for policy in (
        LaunchPolicy(signers=frozenset({bytes(48)})),
        LaunchPolicy(minimum_svn=3),
    ):
        with pytest.raises(errors.ImageRefused):
            secgear.launch(image, policy=policy)
    with pytest.raises(errors.ImageRefused, match="not signed"):
        secgear.launch(build(source))


# --- why not bubblewrap --------------------------------------------------------------------------

SLEEPER = (
    "import ctypes, time; l = ctypes.CDLL(None); {unshare}; l.prctl(4, 0); "
    "print(1, flush=True); time.sleep(60)"
)
TRACER = (
    "import ctypes, sys; l = ctypes.CDLL(None, use_errno=True); "
    "h = (ctypes.c_uint32 * 2)(0x20080522, 0); l.capset(h, (ctypes.c_uint32 * 6)()); "
    "print(l.ptrace(16, int(sys.argv[1]), 0, 0))"
)


@pytest.mark.root
def test_executing_inside_a_user_namespace_gives_its_owner_the_process() -> None:
    """ADR 3: the reason why the process TEE unshares after exec and does not use bubblewrap."""
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        pytest.skip("needs root, to become another user, and bubblewrap")
    identity: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("needs a Python that nobody can read")

    def traced(command: list[str]) -> bool:
        sleeper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **identity)
        try:
            assert sleeper.stdout is not None
            if sleeper.stdout.readline() != "1\n":
                pytest.skip("user namespaces are not to be had here")
            pids = Path(f"/proc/{sleeper.pid}/task/{sleeper.pid}/children").read_text().split()
            target = sleeper.pid
            while pids:
                target = int(pids[-1])
                pids = Path(f"/proc/{target}/task/{target}/children").read_text().split()
            done = subprocess.run(
                [python, "-I", "-c", TRACER, str(target)],
                capture_output=True,
                text=True,
                check=True,
                **identity,
            )
            return done.stdout == "0\n"
        finally:
            sleeper.kill()
            sleeper.wait()

    after_exec = SLEEPER.format(unshare="assert l.unshare(0x10000000) == 0")
    assert not traced([python, "-I", "-c", after_exec])
    inside = SLEEPER.format(unshare="None")
    wrapped = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"]
    assert traced([*wrapped, python, "-I", "-c", inside])
