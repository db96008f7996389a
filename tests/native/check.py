"""The native ring under sanitizers: ``make check-native``.

    python tests/native/check.py [--quick]

First the controls: a seeded race and a seeded overflow, which must be found, or nothing below means
anything. Then the ring without Python under ThreadSanitizer and under AddressSanitizer with
UndefinedBehaviorSanitizer; then the extension itself in Python, under its own tests and under
a scribbling peer; then the PKCS#11 library, which has a control of its own, under its tests and
under a module that damages its answers. Where its tools are there, the ring is also built for
aarch64 and emulated: that shows that it works there, not how a real one orders memory. quick:
without Python, fewer messages.
NATIVE_SCRIBBLES: how many scribbles, 100,000 by default. NATIVE_ROUNDS: of damaged answers, 500.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from secgear.services.crypto.library import build as library  # noqa: E402

TRANSPORT = ROOT / "secgear" / "base" / "transport"
HARNESS = Path(__file__).with_name("harness.c")
COMMON = ("-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", f"-I{TRANSPORT}")
THREAD = ("-fsanitize=thread", "-Wno-tsan")  # fences mean nothing to it; here they order no data
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
SECONDS = 1200


def main() -> int:
    """0 when the controls were found, and nothing else."""
    quick = "--quick" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _controls(folder)
        for flags, what in ((THREAD, "thread"), (ADDRESS, "address")):
            program = _harness(folder, what, flags)
            for spin in ("0", "200000"):
                _expect_clean([str(program), "300" if quick else "5000", spin], what)
        _other_machine(folder)
        if not quick:
            _extension(folder, "address", ADDRESS, ("libasan.so", "libubsan.so"))
            _extension(folder, "thread", THREAD, ("libtsan.so",))
            _library(folder)
    return 0


def _controls(folder: Path) -> None:
    for seed, flags, message in (
        ("SEED_RACE", THREAD, "ThreadSanitizer: data race"),
        ("SEED_OVERFLOW", ADDRESS, "AddressSanitizer: heap-buffer-overflow"),
    ):
        program = _harness(folder, seed, (*flags, f"-D{seed}"))
        done = _run([str(program), "300", "0"])
        if done.returncode == 0 or message not in done.stderr:
            raise SystemExit(f"control {seed} was not found: this sanitizer sees nothing")
        print(f"control {seed}: found, as it must be", flush=True)


def _harness(folder: Path, name: str, flags: tuple[str, ...]) -> Path:
    program = folder / f"harness-{name}"
    _build([*COMMON, *flags, str(HARNESS), "-pthread", "-o", str(program)])
    return program


def _other_machine(folder: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        print("aarch64: not run; Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user")
        return
    program = folder / "harness-aarch64"
    _build([*COMMON, "-static", str(HARNESS), "-pthread", "-o", str(program)], compiler)
    _expect_clean([emulator, str(program), "300", "0"], "aarch64")


def _extension(folder: Path, what: str, flags: tuple[str, ...], libraries: tuple[str, ...]) -> None:
    """The module built with a sanitizer, in a copy of the package."""
    copy = folder / f"copy-{what}"
    for name in ("secgear", "tests"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "vectors", "middleware")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    module = copy / "secgear" / "base" / "transport" / "_ring.abi3.so"
    include = sysconfig.get_path("include")
    source = str(TRANSPORT / "_ring.c")
    _build([*COMMON, *flags, f"-I{include}", "-shared", "-fPIC", source, "-o", str(module)])
    environment = {
        **os.environ,
        # Python was built without the sanitizer, so its library comes first by force; its own
        # allocations at exit are none of ours.
        "LD_PRELOAD": " ".join(_ask("-print-file-name=" + library) for library in libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(copy),
        "FUZZ_SCRIBBLES": os.environ.get("NATIVE_SCRIBBLES", "100000"),
    }
    code = "from secgear.base.transport import _ring; print(_ring.__file__)"
    loaded = _run([sys.executable, "-c", code], environment, copy).stdout.strip()
    if loaded != str(module):
        raise SystemExit(f"the wrong module would be tested: {loaded or 'none could be loaded'}")
    tests = [f"tests/base/transport/test_ring{part}.py" for part in ("", "_life")]
    if what == "address":  # a hostile peer races by intention
        tests.append("tests/base/transport/test_ring_hostile.py")
    # Not what a preloaded library changes: programs that fork, the ends of interpreters.
    chosen = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", "not fork and not interpreter"]
    _expect_clean([sys.executable, "-m", "pytest", *chosen, *tests], what, environment, copy)
    if what == "address":
        _expect_clean([sys.executable, "tests/fuzz/ring.py"], what, environment, copy)


def _library(folder: Path) -> None:
    """The PKCS#11 library under sanitizers; first with a check left out, which they must notice."""
    libraries = ("libasan.so", "libubsan.so")
    seeded = _library_with(folder, "seeded", ADDRESS, left_out="size > reader->size - reader->at")
    fuzzer = [sys.executable, "tests/fuzz/crypto_library.py"]
    rounds = {"FUZZ_ROUNDS": os.environ.get("NATIVE_ROUNDS", "500"), "FUZZ_SECONDS": "600"}
    done = _run([*fuzzer, str(seeded)], _preloaded(libraries) | rounds)
    if "AddressSanitizer: heap-buffer-overflow" not in done.stderr:
        raise SystemExit("control of the library was not found: this sanitizer sees nothing")
    print("control of the library: found, as it must be", flush=True)
    built = _library_with(folder, "address", ADDRESS)
    _expect_clean([*fuzzer, str(built)], "address", _preloaded(libraries) | rounds)
    tests = "tests/services/crypto/library/{}.py"
    sdf = [
        f"sdf/test_sdf_{one}" for one in ("devices", "hostile", "keys", "symmetric", "asymmetric")
    ]
    # Not what a preloaded library changes: programs that fork, and what is loaded and unloaded.
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    pytest += ["-k", "not fork"]
    for what, flags, preloaded, names in (
        (
            "address",
            ADDRESS,
            libraries,
            (
                *("test_hostile", "test_output", "test_mechanisms", "test_messages"),
                *("test_threads", "test_errors", *sdf),
            ),
        ),
        ("thread", THREAD, ("libtsan.so",), ("test_threads", sdf[0])),
    ):
        environment = _preloaded(preloaded) | {
            "SECGEAR_TEST_LIBRARY": str(_library_with(folder, what, flags))
        }
        _expect_clean([*pytest, *map(tests.format, names)], what, environment)


def _library_with(folder: Path, name: str, flags: tuple[str, ...], left_out: str = "") -> Path:
    """The library with a sanitizer. left_out: a condition in its sources that is never true."""
    sources = folder / f"library-{name}"
    shutil.copytree(library.PLACE, sources, dirs_exist_ok=True)
    if left_out:
        text = (sources / "buffer.c").read_text()
        if left_out not in text:
            raise SystemExit("the control of the library has nothing to leave out")
        (sources / "buffer.c").write_text(text.replace(left_out, "false"))
    built = folder / f"library-{name}.so"
    library.build(built, flags=[*flags, "-g", "-O1", "-U_FORTIFY_SOURCE"], place=sources)
    return built


def _preloaded(libraries: tuple[str, ...]) -> dict[str, str]:
    """The environment of a Python that was built without the sanitizer, as in `_extension`."""
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(_ask("-print-file-name=" + one) for one in libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",  # or it hands out pieces of its own, which nobody guards
    }


def _expect_clean(
    command: list[str], what: str, environment: dict[str, str] | None = None, folder: Path = ROOT
) -> None:
    done = _run(command, environment, folder)
    shown = " ".join(Path(part).name if "/" in part else part for part in command)
    if done.returncode != 0 or "Sanitizer" in done.stdout + done.stderr:
        print(done.stdout[-8000:], done.stderr[-8000:], sep="\n")
        raise SystemExit(f"{what}: {shown} ended with {done.returncode}")
    print(f"{what}: {shown}: nothing found", flush=True)


def _run(
    command: list[str], environment: dict[str, str] | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def _build(arguments: list[str], compiler: str = "") -> None:
    done = _run([compiler or _compiler(), *arguments])
    if done.returncode != 0:
        raise SystemExit(f"does not build:\n{done.stderr}")


def _ask(question: str) -> str:
    return _run([_compiler(), question]).stdout.strip()


def _compiler() -> str:
    return os.environ.get("CC", "gcc")


if __name__ == "__main__":
    sys.exit(main())
