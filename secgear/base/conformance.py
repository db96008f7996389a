"""What every TEE must do, as a suite that anybody can run against theirs.

In a test file of one's own::

    import pytest
    from secgear.base.conformance import CASES, Bench

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
    def test_conformance(case, tmp_path):
        case(Bench(MyTee(), tmp_path))

or without a test runner: ``run(MyTee())`` tells each outcome. A case passes or raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from secgear.base import signing
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image, LaunchPolicy
from secgear.base.schema import HostTypes
from secgear.base.switchless.options import Switchless
from secgear.base.tee import Availability, LaunchConfig, Layer, Tee
from secgear.base.wire import Limits
from secgear.errors import (
    DeadlineExceeded,
    EnclaveInternalError,
    EnclaveLost,
    HandOverRefused,
    LayerMissing,
)

_APP = """
import hashlib
import os
import select
import threading
import time
from collections.abc import Iterator

import secgear
from secgear import App, Shared
from secgear.base.tee import Evidence, SealingPolicy

app = App({name!r}, version="1", product={product!r}, svn={svn}, threads=2)


@app.ecall
def echo(text: str) -> str:
    return text


@app.ecall
def digest(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


@app.ecall
def blow(size: int) -> bytes:
    return bytes(size)


@app.ecall
def fail(secret: str) -> None:
    raise RuntimeError(secret)


@app.ecall
def double(numbers: Iterator[int]) -> Iterator[int]:
    for number in numbers:
        yield 2 * number


@app.ecall
def descend(depth: int) -> int:
    return climb(depth) if depth else 0


@app.ecall
def linger(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        secgear.current_call().checkpoint()
        time.sleep(0.01)


leases = []


@app.ecall
def digest_shared(data: Shared) -> bytes:
    leases.append(data)
    return hashlib.sha384(data.copy()).digest()


@app.ecall
def reuse_lease() -> int:
    return len(leases.pop().copy())


@app.ecall
def prove(report_data: bytes) -> Evidence:
    return secgear.guest().evidence(report_data)


@app.ecall(raises=[secgear.errors.GuestError])
def key_digest(policy: str, svn: int | None = None) -> bytes:
    with secgear.guest().sealing_key(SealingPolicy(policy), svn) as key:
        if len(key) != 32 or repr(bytes(key.view())) in repr(key):
            raise AssertionError
        return hashlib.sha384(b"conformance" + key.view()).digest()


@app.ecall
def entropy(size: int) -> bytes:
    return secgear.guest().random(size)


@app.ocall
def climb(depth: int) -> int: ...


@app.connection(name="echo", limit=2)
def echo_connection(connection, note):
    threading.Thread(target=serve, args=(connection, note), daemon=True).start()


def serve(connection, note):
    poll = select.poll()
    poll.register(connection.reader, select.POLLIN)
    os.write(connection.writer, note)
    while poll.poll() and (data := os.read(connection.reader, 1024)):
        os.write(connection.writer, data)
    connection.close()
"""


class Bench:
    """A TEE under test, and a folder for what the cases build."""

    def __init__(self, tee: Tee, folder: Path) -> None:
        self.tee = tee
        self.folder = folder
        self._key = signing.generate_key()

    def image(
        self,
        name: str = "conformance",
        *,
        product: str = "conformance",
        svn: int = 1,
        debug: bool = False,
        signed: bool = True,
    ) -> Image:
        """An image of the suite's own app."""
        source = self.folder / "conformance_app.py"
        source.write_text(_APP.format(name=name, product=product, svn=svn), encoding="utf-8")
        image = build(source, debug=debug)
        return signing.sign(image, self._key) if signed else image

    def launch(
        self,
        image: Image | None = None,
        *,
        require: tuple[str, ...] = (),
        options: Switchless | None = None,
    ) -> Enclave:
        """Start `image`, or the suite's usual one. options: for switchless calls, None for none."""
        image = image or self.image()
        LaunchPolicy(unsigned=True, debug=True).check(image)
        handle: list[Enclave] = []

        def climb(depth: int) -> int:
            return 1 + int(handle[0].descend(depth - 1))

        size = options.geometry.size if options is not None else 0
        config = LaunchConfig(require=require, switchless_size=size)
        enclave = Enclave(
            self.tee.launch(image, config),
            image,
            self.tee.name,
            types=HostTypes(image.interface),
            ocalls={"climb": climb},
            limits=Limits(),
            deadline=60,
            timeout=60,
            switchless=options,
        )
        handle.append(enclave)
        return enclave


Case = Callable[[Bench], None]


class Outcome(NamedTuple):
    """How a case went. error: empty if it passed."""

    case: str
    error: str


def run(tee: Tee) -> Iterator[Outcome]:
    """Run every case against `tee`, which must be available here."""
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            try:
                case(Bench(tee, Path(folder)))
            except Exception as error:  # noqa: BLE001  (an outcome is what was asked for)
                yield Outcome(case.__name__, f"{type(error).__name__}: {error}")
            else:
                yield Outcome(case.__name__, "")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _refused(error: type[BaseException], work: Callable[[], Any], what: str) -> BaseException:
    try:
        work()
    except error as caught:
        return caught
    raise AssertionError(f"{what} was not refused with {error.__name__}")


def probes_quickly_and_plainly(bench: Bench) -> None:
    """`probe` takes no time, changes nothing, and its answer can be shown and sent."""
    start = time.monotonic()
    first, second = bench.tee.probe(), bench.tee.probe()
    _expect(time.monotonic() - start < 5, "probing takes seconds")
    _expect(isinstance(first, Availability) and first.available == second.available, "unsteady")
    _expect(bool(first.reason), "no reason given")
    msgspec.json.encode(first)


def carries_values_both_ways(bench: Bench) -> None:
    """Small values, and buffers larger than any shared memory."""
    with bench.launch() as enclave:
        _expect(enclave.echo("grüß") == "grüß", "text was changed")
        for size in (0, 1, 100_000, 30_000_000):
            data = b"\xa5" * size
            _expect(enclave.digest(data) == hashlib.sha384(data).digest(), "bytes were changed")
            _expect(enclave.blow(size) == bytes(size), "a result was changed")


def serves_many_calls_at_once(bench: Bench) -> None:
    """Calls in flight do not mix."""
    with bench.launch() as enclave:
        futures = [enclave.submit.echo(str(number)) for number in range(300)]
        answers = [future.result(60) for future in futures]
        _expect(answers == [str(number) for number in range(300)], "answers were mixed up")


def nests_calls_deeper_than_its_threads(bench: Bench) -> None:
    """An OCALL's handler may call in again."""
    with bench.launch() as enclave:
        _expect(enclave.descend(8) == 8, "nested calls went wrong")


def streams_both_ways(bench: Bench) -> None:
    """Iterators of any length, in and out at the same time."""
    with bench.launch() as enclave:
        doubled = list(enclave.double(iter(range(2000))))
        _expect(doubled == [2 * number for number in range(2000)], "a stream was changed")


def keeps_undeclared_errors_to_itself(bench: Bench) -> None:
    """A production image's exceptions leave no text."""
    with bench.launch() as enclave:
        error = _refused(EnclaveInternalError, lambda: enclave.fail("hunter2"), "the failure")
        _expect("hunter2" not in str(error), "an undeclared exception's text left the enclave")
        _expect(enclave.echo("x") == "x", "the enclave stopped serving")


def gives_up_at_deadlines(bench: Bench) -> None:
    """A call past its deadline ends for the caller and frees its thread."""
    with bench.launch() as enclave:
        for _ in range(3):
            _refused(
                DeadlineExceeded, lambda: enclave.options(deadline=0.2).linger(60), "the long call"
            )
        _expect(enclave.options(deadline=20).echo("x") == "x", "a thread was not freed")


def ends_when_told(bench: Bench) -> None:
    """Closing ends pending calls and everything after it; twice is as good as once."""
    enclave = bench.launch()
    pending = enclave.submit.linger(60)
    enclave.close()
    enclave.close()
    _refused(Exception, lambda: pending.result(10), "a pending call")
    _refused(EnclaveLost, lambda: enclave.echo("x"), "a call after the end")


def runs_several_side_by_side(bench: Bench) -> None:
    """Enclaves of one image do not know each other."""
    image = bench.image()
    with ThreadPoolExecutor(4) as pool:
        enclaves = list(pool.map(lambda _: bench.launch(image), range(4)))
    try:
        for number, enclave in enumerate(enclaves):
            _expect(enclave.echo(str(number)) == str(number), "one of several did not answer")
    finally:
        for enclave in enclaves:
            enclave.close()


def binds_evidence_to_report_data(bench: Bench) -> None:
    """Evidence carries the 64 bytes it was asked to, and takes no other length."""
    with bench.launch(bench.image(debug=True)) as enclave:
        one, other = bytes(range(64)), bytes(range(1, 65))
        first, second = enclave.prove(one), enclave.prove(other)
        _expect(bool(first.format) and first.format == second.format, "no steady format")
        _expect(first.data != second.data, "evidence does not depend on its report data")
        _expect(one in first.data and other in second.data, "evidence lacks its report data")
        _refused(EnclaveInternalError, lambda: enclave.prove(bytes(63)), "report data of 63 bytes")


def seals_to_the_measurement(bench: Bench) -> None:
    """The same image gets its key again; another image does not."""
    image = bench.image()
    with bench.launch(image) as enclave:
        key = enclave.key_digest("measurement")
        _expect(key != enclave.key_digest("signer"), "both policies give one key")
    with bench.launch(image) as again:
        _expect(again.key_digest("measurement") == key, "the key changed between two launches")
    with bench.launch(bench.image("other")) as other:
        _expect(other.key_digest("measurement") != key, "another image got the key")


def seals_to_the_signer(bench: Bench) -> None:
    """Successors by the same signer get older keys; never the reverse, never another product."""
    with bench.launch(bench.image(svn=3)) as old:
        key = old.key_digest("signer")
        _refused(Exception, lambda: old.key_digest("signer", 4), "the key of a higher svn")
    with bench.launch(bench.image(svn=5)) as new:
        _expect(new.key_digest("signer", 3) == key, "a successor can't read its predecessor's data")
        _expect(new.key_digest("signer") != key, "two svns share a key")
    with bench.launch(bench.image(svn=3, product="other")) as other:
        _expect(other.key_digest("signer") != key, "another product got the key")
    with bench.launch(bench.image(svn=3, signed=False)) as unsigned:
        _refused(Exception, lambda: unsigned.key_digest("signer"), "an unsigned image's signer key")


def separates_debug_from_production(bench: Bench) -> None:
    """What a production image sealed, its debug build can't open."""
    keys = []
    for debug in (False, True):
        with bench.launch(bench.image(debug=debug)) as enclave:
            keys.append((enclave.key_digest("measurement"), enclave.key_digest("signer")))
    _expect(not set(keys[0]) & set(keys[1]), "a debug image got a production key")


def gives_entropy(bench: Bench) -> None:
    """Different bytes each time, in the amount asked for."""
    with bench.launch() as enclave:
        draws = {enclave.entropy(32) for _ in range(20)}
        _expect(len(draws) == 20 and all(len(draw) == 32 for draw in draws), "not random")


def tells_its_layers(bench: Bench) -> None:
    """Layers are named and truthful, and one that is not there can't be required."""
    with bench.launch() as enclave:
        _expect(all(isinstance(layer, Layer) for layer in enclave.layers), "not layers")
        held = tuple(layer.name for layer in enclave.layers if layer.holds)
    bench.launch(require=held).close()
    _refused(LayerMissing, lambda: bench.launch(require=("no_such_layer",)), "an unknown layer")


def calls_without_a_switch(bench: Bench) -> None:
    """Switchless calls mean the same; where memory is shared and rings can be had, they are."""
    with bench.launch(options=Switchless(workers=1, shared=1 << 20)) as enclave:
        calls = enclave.switchless
        _expect(calls.echo("grüß") == "grüß", "text was changed")
        for size in (0, 1, 100_000, 3_000_000):
            data = b"\xa5" * size
            _expect(calls.digest(data) == hashlib.sha384(data).digest(), "bytes were changed")
        numbers = [str(number) for number in range(1000)]
        _expect(calls.map.echo(numbers) == numbers, "a batch was mixed up")
        futures = [calls.submit.echo(number) for number in numbers[:100]]
        _expect([future.result(60) for future in futures] == numbers[:100], "futures were mixed up")
        _expect(calls.descend(8) == 8, "nested calls went wrong")
        error = _refused(EnclaveInternalError, lambda: calls.fail("hunter2"), "the failure")
        _expect("hunter2" not in str(error), "an undeclared exception's text left the enclave")
        _refused(
            DeadlineExceeded, lambda: enclave.options(deadline=0.2).switchless.linger(60), "a call"
        )
        _expect(enclave.options(deadline=20).switchless.echo("x") == "x", "a worker was not freed")
        stats = calls.stats
        _expect(bool(stats.unavailable) != bool(stats.calls), "it is not told which way calls go")
        _expect(stats.rejected == 0, "messages were rejected")


def shares_buffers(bench: Bench) -> None:
    """What the host writes once the enclave reads; a lease ends with its call."""
    with bench.launch(options=Switchless(workers=1, shared=1 << 20)) as enclave:
        for calls in (enclave, enclave.switchless):
            with enclave.shared(100_000) as buffer:
                buffer.view[:] = b"\x5a" * 100_000
                expected = hashlib.sha384(b"\x5a" * 100_000).digest()
                _expect(calls.digest_shared(buffer) == expected, "a shared buffer was changed")
                _refused(EnclaveInternalError, calls.reuse_lease, "a lease after its call")


def takes_connections(bench: Bench) -> None:
    """Handed over or carried by the host, a connection is the enclave's; it ends with it."""
    with bench.launch() as enclave, contextlib.ExitStack() as stack:
        ends = []
        for note in (b"one", b"two"):
            client, accepted = socket.socketpair()
            stack.callback(client.close)
            stack.callback(accepted.close)
            client.settimeout(60)
            enclave.hand_over(accepted, "echo", note)
            _expect(client.recv(3) == note, "the host's note did not arrive")
            ends.append((client, accepted))
        client, accepted = ends[0]
        client.sendall(b"hello")
        _expect(client.recv(5) == b"hello", "what a client said was changed")
        _refused(HandOverRefused, lambda: enclave.hand_over(accepted, "echo"), "one too many")
        _refused(HandOverRefused, lambda: enclave.hand_over(accepted, "none"), "an unknown handler")
        enclave.close()
        for client, accepted in ends:
            accepted.close()  # it was handed over, or the host has shut it down
            _expect(client.recv(1) == b"", "a connection outlives enclave and host")


CASES: tuple[Case, ...] = (
    probes_quickly_and_plainly,
    carries_values_both_ways,
    serves_many_calls_at_once,
    nests_calls_deeper_than_its_threads,
    streams_both_ways,
    keeps_undeclared_errors_to_itself,
    gives_up_at_deadlines,
    ends_when_told,
    runs_several_side_by_side,
    binds_evidence_to_report_data,
    seals_to_the_measurement,
    seals_to_the_signer,
    separates_debug_from_production,
    gives_entropy,
    tells_its_layers,
    calls_without_a_switch,
    shares_buffers,
    takes_connections,
)
