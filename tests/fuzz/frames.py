"""Hostile frames against a real enclave and a real host handle, for as long as one likes.

    python tests/fuzz/frames.py

FUZZ_SECONDS: how long, 600 by default. FUZZ_SEED: begin here, to see a failure again.
Ends with status 1 and the seed at the first crash, hang, wrong answer or growth of memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from secgear import errors
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image
from secgear.base.schema import HostTypes
from secgear.base.tee import LaunchConfig
from secgear.base.wire import Frame, Kind, Limits
from tests.adversary.frames import Hostile
from tests.adversary.lying_enclave import LyingEnclave, LyingTee
from tests.adversary.lying_host import LyingHost

APP = """
from collections.abc import Iterator
import hashlib
from secgear import App

app = App("fuzzed", threads=3, memory=1 << 30)

@app.ecall
def echo(text: str) -> str:
    return text

@app.ecall
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)

@app.ecall
def upto(n: int) -> Iterator[int]:
    yield from range(n)

@app.ecall
def digest(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()

@app.ecall(raises=[ValueError])
def asks(text: str) -> str:
    return ask(text)

@app.ocall(raises=[ValueError])
def ask(text: str) -> str: ...
"""

FRAMES = 250
"""Hostile frames between two honest calls."""
ROUNDS = 80
"""Honest calls between two enclaves."""
GROWTH = 300_000
"""KiB that an enclave may grow by."""


def main() -> int:
    """Alternate the two targets until the time is up; 0 when nothing was found."""
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600"))
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbits(32)))
    frames = 0
    with _images() as image:
        while time.monotonic() < end:
            for target in (against_enclave, against_host):
                try:
                    frames += target(image, seed)
                except BaseException as error:
                    print(f"\n{target.__name__} failed: FUZZ_SEED={seed}", file=sys.stderr)
                    if isinstance(error, KeyboardInterrupt):
                        return 130
                    raise
            left = max(0, round(end - time.monotonic()))
            print(f"\r{frames:,} hostile frames, {left} s left ", end="", flush=True)
            seed += 1
    print("\nnothing found")
    return 0


def against_enclave(image: Image, seed: int) -> int:
    """A lying host: the enclave answers every honest call in between, and stays small."""
    hostile = Hostile(seed, frozenset({int(Kind.CLOSE)}))
    host = LyingHost(image)
    try:
        before = host.resident()
        for number, batch in enumerate(hostile.batches(ROUNDS, FRAMES)):
            host.send(batch)
            answer = host.call("echo", text=f"round {number}")
            assert answer == f"round {number}", answer
        growth = host.resident() - before
        assert growth < GROWTH, f"the enclave grew by {growth} KiB"
    finally:
        host.stop()
    return ROUNDS * FRAMES


def against_host(image: Image, seed: int) -> int:
    """Lying enclaves: each call ends in time, with a typed error or a value of its type."""
    hostile = Hostile(seed)
    size = 50

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            enclave.say(hostile.batch(size))
            enclave.hang_up()

    calls: list[Any] = [
        lambda enclave: isinstance(enclave.echo("x"), str),
        lambda enclave: all(isinstance(item, int) for item in enclave.upto(5)),
        lambda enclave: isinstance(enclave.digest(bytes(100_000)), bytes),
        lambda enclave: isinstance(enclave.total(iter(range(100))), int),
    ]
    for number in range(ROUNDS):
        enclave = Enclave(
            LyingTee(script).launch(image, LaunchConfig()),
            image,
            "lying",
            types=HostTypes(image.interface),
            ocalls={"ask": lambda text: text},
            limits=Limits(),
            deadline=10,
            timeout=10,
        )
        with contextlib.suppress(errors.CallError):
            assert calls[number % len(calls)](enclave), "a value of another type than declared"
        enclave.close(0)
    return ROUNDS * size


@contextlib.contextmanager
def _images() -> Iterator[Image]:
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SECGEAR_HOME"] = directory
        source = Path(directory) / "fuzzed.py"
        source.write_text(APP)
        yield build(source, debug=True)


if __name__ == "__main__":
    sys.exit(main())
