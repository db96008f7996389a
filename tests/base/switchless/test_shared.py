"""Buffers in shared memory: written once by the host, copied by the enclave, never freed in use."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

import secgear
from secgear import App, Shared, Switchless, errors
from secgear.base.enclave import Enclave
from secgear.base.shared.enclave import Lease, lease
from secgear.base.shared.host import Pool, SharedBuffer
from tests.base.switchless.conftest import until

APP = """
import time

import numpy as np
import pyarrow as pa

import secgear
from secgear import App, Shared

app = App("buffers", requires=["numpy", "pyarrow"], threads=3)
kept = []

@app.ecall
def total(values: Shared) -> float:
    return float(values.array("f8").sum())

@app.ecall
def part(data: Shared, start: int, size: int) -> bytes:
    return bytes(data.copy(start, size))

@app.ecall
def sizes(data: Shared, size: int) -> list[int]:
    return [len(piece) for piece in data.pieces(size)]

@app.ecall
def rows(data: Shared, size: int) -> int:
    return data.table(size).num_rows

@app.ecall
def into(data: Shared, start: int, room: int) -> bytes:
    private = bytearray(room)
    return bytes(private[: data.read_into(private, start)])

@app.ecall
def keep(data: Shared) -> int:
    kept.append(data)
    return len(data)

@app.ecall(raises=[secgear.errors.SharedBufferError])
def use_kept() -> bytes:
    return bytes(kept[-1])

@app.ecall
def patient(data: Shared, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        secgear.current_call().checkpoint()
        time.sleep(0.005)
    return len(data)
"""

OPTIONS = {
    "shared memory": {"switchless": Switchless(workers=2, shared=4 << 20)},
    "none": {"switchless": False},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("buffers") / "buffers.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module", params=OPTIONS)
def enclave(source: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with secgear.launch(source, deadline=30, **OPTIONS[request.param]) as enclave:
        yield enclave


@pytest.fixture(params=["stream", "switchless"])
def calls(enclave: Enclave, request: pytest.FixtureRequest) -> Any:
    return enclave if request.param == "stream" else enclave.switchless


# --- reading -------------------------------------------------------------------------------------


def test_an_array_written_once_is_read_inside(enclave: Enclave, calls: Any) -> None:
    with enclave.shared(8 * 10_000) as buffer:
        values = buffer.array("f8")
        values[:] = np.arange(10_000)
        assert calls.total(buffer) == values.sum()
        values[0] = 5  # the same buffer, with other content
        assert calls.total(buffer) == values.sum()
        del values


def test_parts_are_copied_and_their_bounds_checked(enclave: Enclave, calls: Any) -> None:
    with enclave.shared(100) as buffer:
        buffer.write(bytes(range(100)))
        assert calls.part(buffer, 10, 5) == bytes(range(10, 15))
        assert calls.into(buffer, 95, 50) == bytes(range(95, 100))
        assert calls.sizes(buffer, 40) == [40, 40, 20]
        for start, size in ((90, 11), (101, 0), (-1, 5), (0, -1)):
            with pytest.raises(errors.EnclaveInternalError, match="SharedBufferError"):
                calls.part(buffer, start, size)
        assert calls.part(buffer, 0, 1) == b"\0"


def test_tables_are_validated_after_the_copy(enclave: Enclave, calls: Any) -> None:
    table = pa.table({"a": range(1000), "b": ["x"] * 1000})
    with enclave.shared(1 << 20) as buffer:
        size = buffer.write_table(table)
        assert calls.rows(buffer, size) == 1000
        buffer.view[: size // 2] = bytes(size // 2)
        with pytest.raises(errors.EnclaveInternalError, match="ArgumentError"):
            calls.rows(buffer, size)
    with enclave.shared(100) as small, pytest.raises(errors.SharedBufferError, match="fit"):
        small.write_table(table)


def test_futures_and_batches_take_buffers(enclave: Enclave) -> None:
    with enclave.shared(10) as buffer:
        buffer.write(b"0123456789")
        assert enclave.submit.part(buffer, 2, 3).result(10) == b"234"
        assert enclave.switchless.submit.part(buffer, 2, 3).result(10) == b"234"
        parts = enclave.switchless.map.part([buffer] * 10, range(10), [1] * 10)
        assert b"".join(parts) == b"0123456789"


# --- lifetime ------------------------------------------------------------------------------------


def test_a_lease_ends_with_its_call(enclave: Enclave, calls: Any) -> None:
    with enclave.shared(10) as buffer:
        assert calls.keep(buffer) == 10
    with pytest.raises(enclave.errors.SharedBufferError, match="ended"):
        calls.use_kept()


def test_a_closed_buffer_is_of_no_use(enclave: Enclave, calls: Any) -> None:
    buffer = enclave.shared(10)
    buffer.close()
    buffer.close()
    for use in (lambda: buffer.view, lambda: buffer.write(b"x"), lambda: calls.keep(buffer)):
        with pytest.raises(errors.SharedBufferError, match="closed"):
            use()
    assert "closed" in repr(buffer)


def test_a_buffer_with_arrays_over_it_stays(enclave: Enclave) -> None:
    buffer = enclave.shared(80)
    values = buffer.array("f8")
    table = buffer.arrow()
    with pytest.raises(errors.SharedBufferError, match="still exist"):
        buffer.close()
    values[:] = 1  # and is good memory
    assert buffer.view[7] == 0x3F
    del values, table
    buffer.close()


def test_a_call_pins_its_buffer(enclave: Enclave) -> None:
    if enclave.switchless.stats.unavailable:
        pytest.skip("without shared memory a call has its own copy")
    for submit in (enclave.submit, enclave.switchless.submit):
        buffer = enclave.shared(10)
        future = submit.patient(buffer, 0.5)
        with pytest.raises(errors.SharedBufferError, match="a call has"):
            buffer.close()
        assert future.result(10) == 10
        buffer.close()


def test_memory_of_a_call_that_was_given_up_is_not_used_again(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=2, shared=8192)) as enclave:
        for face in (enclave.options(deadline=0.1), enclave.options(deadline=0.1).switchless):
            buffer = enclave.shared(4096)
            with pytest.raises(errors.DeadlineExceeded):
                face.patient(buffer, 60)
            buffer.close()
        with pytest.raises(errors.LimitExceeded, match="no room"):
            enclave.shared(1)


def test_memory_of_a_call_that_was_never_sent_is_used_again(source: Path) -> None:
    """It waited for a worker until its deadline: the enclave has not heard of the buffer."""
    with secgear.launch(source, switchless=Switchless(workers=1, shared=8192)) as enclave:
        busy = enclave.switchless.submit.patient(enclave.shared(4096), 600)
        until(lambda: enclave.switchless.stats.busy == 1)
        short = enclave.options(deadline=0.1).switchless
        for call in (short.total, lambda buffer: short.submit.total(buffer).result(20)):
            for _ in range(3):
                buffer = enclave.shared(4096)
                with pytest.raises(errors.DeadlineExceeded):
                    call(buffer)
                place = buffer.place
                assert place is not None
                until(lambda place=place: not place.pinned)
                buffer.close()
        busy.cancel()


@pytest.mark.parametrize("shape", [(1 << 32, 1 << 32), (-2, -3), (1 << 63,), (3, -1)])
def test_shapes_that_can_not_be_are_refused(shape: tuple[int, ...]) -> None:
    """Their product overflows to what fits, or is positive though its parts are not."""
    leased = Lease(memoryview(bytes(4096)))
    with pytest.raises(errors.SharedBufferError):
        leased.array("u1", shape)
    assert leased.array("u1", (2, 3)).shape == (2, 3)


# --- the pool ------------------------------------------------------------------------------------


def test_the_pool_gives_and_takes_without_overlap() -> None:
    import mmap

    memory = mmap.mmap(-1, 64 << 12)
    pool = Pool(memory, 0, 64 << 12)
    buffers = [pool.buffer(4096 * size) for size in (1, 2, 3, 4, 5, 6, 7, 8)]
    places = sorted((buffer.place.offset, len(buffer)) for buffer in buffers if buffer.place)
    assert all(one[0] + one[1] <= other[0] for one, other in itertools.pairwise(places))
    for buffer in buffers[::2] + buffers[1::2]:
        buffer.close()
    del buffers, buffer
    gc.collect()
    pool.buffer(64 << 12).close()  # whole again
    with pytest.raises(errors.LimitExceeded, match="no room"):
        pool.buffer((64 << 12) + 1)
    for size in (0, -1, "5"):
        with pytest.raises(errors.SharedBufferError):
            pool.buffer(size)  # type: ignore[arg-type]


def test_a_buffer_begins_empty_whatever_was_there_before() -> None:
    import mmap

    pool = Pool(mmap.mmap(-1, 4096), 0, 4096)
    buffer = pool.buffer(4096)
    buffer.view[:] = b"\xff" * 4096
    buffer.close()
    assert bytes(pool.buffer(4096).view) == bytes(4096)


def test_threads_share_a_pool() -> None:
    import mmap

    pool = Pool(mmap.mmap(-1, 1 << 20), 0, 1 << 20)

    def work(mark: int) -> None:
        for _ in range(50):
            with pool.buffer(5000) as buffer:
                buffer.view[:] = bytes([mark]) * 5000
                assert bytes(buffer.view) == bytes([mark]) * 5000

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.buffer(1 << 20)


# --- what crosses --------------------------------------------------------------------------------


def test_a_buffer_of_another_enclave_is_refused(source: Path) -> None:
    options = Switchless(workers=1, shared=8192)
    with (
        secgear.launch(source, switchless=options) as one,
        secgear.launch(source, switchless=options) as other,
        one.shared(10) as buffer,
        pytest.raises(errors.ArgumentError, match="another enclave"),
    ):
        other.switchless.keep(buffer)


@pytest.mark.parametrize(
    "reference",
    [[], [0], [1, 2], [0, 0, 1], ["x", 0, 1], [True, 0, 1], [0, -1, 5], [0, 0, 0], [1, 2, 3, 4]],
)
def test_forged_references_are_refused(reference: list[Any]) -> None:
    with pytest.raises(ValueError, match="shared buffer"):
        lease(reference, lambda _: bytearray())


@pytest.mark.parametrize(("start", "size"), [(0, 4097), (4096, 1), (-1, 2), (1 << 62, 1), (0, 0)])
def test_references_outside_the_memory_are_refused(
    start: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secgear.base.shared import enclave as inside

    monkeypatch.setattr(inside._pool, "memory", memoryview(bytearray(4096)))
    monkeypatch.setattr(inside._pool, "token", 7)
    assert len(lease([7, 0, 4096], lambda _: bytearray())) == 4096
    with pytest.raises(ValueError, match="outside"):
        lease([7, start, size], lambda _: bytearray())


def test_a_shared_buffer_is_a_whole_parameter_and_nothing_else() -> None:
    from collections.abc import Iterator as Items

    def inside(data: list[Shared]) -> None: ...
    def result() -> Shared: ...
    def stream(data: Shared) -> Items[int]: ...
    def items(data: Items[Shared]) -> None: ...

    class Holder(msgspec.Struct):
        data: Shared

    def field(holder: Holder) -> None: ...

    for function in (inside, result, stream, items, field):
        app = App("bad")
        app.ecall(function)
        with pytest.raises(errors.InterfaceError, match="shared buffer"):
            _ = app.interface
    app = App("bad")
    app.ocall(lambda_like())
    with pytest.raises(errors.InterfaceError, match="OCALL"):
        _ = app.interface


def lambda_like() -> Any:
    def leaves(data: Shared) -> None: ...

    return leaves


def test_a_buffer_can_be_told_from_its_bytes() -> None:
    assert isinstance(Pool(None).buffer(1), SharedBuffer)
    assert isinstance(Pool(None).buffer(1), Shared)
