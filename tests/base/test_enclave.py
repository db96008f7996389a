"""Calls into a real enclave, in every style, as a host program makes them.

The same claims hold for calls over the stream and for those through shared memory.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import secgear
from secgear import errors
from secgear.base.enclave import Enclave
from secgear.base.image import LaunchPolicy
from secgear.base.interface import RESERVED, Interface
from tests.base.transports import TRANSPORTS, Launch, launcher

APP = """
import threading
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa

import secgear
from secgear import App

app = App("everything", version="1.0", requires=["numpy", "pyarrow"], threads=3)
state = {"started": 0}
events = []

class Person(msgspec.Struct):
    name: str
    age: int = 0

class NoSuchPerson(LookupError):
    pass

@app.on_start
def started() -> None:
    state["started"] += 1

@app.on_stop
def stopped() -> None:
    note("stopped")

@app.ecall
def add(a: int, b: int = 1) -> int:
    "Add two numbers."
    return a + b

@app.ecall
def subtract(a: int, b: int = 1, /, *, twice: bool = False) -> int:
    return a - b - (b if twice else 0)

@app.ecall
def starts() -> int:
    return state["started"]

@app.ecall
def birthday(person: Person) -> Person:
    return Person(person.name, person.age + 1)

@app.ecall(raises=[NoSuchPerson, ValueError])
def find(name: str) -> Person:
    if name == "nobody":
        raise NoSuchPerson("no nobody here")
    if name == "bad":
        raise ValueError("bad name")
    raise KeyError("a secret: " + name)

@app.ecall
def sum_array(values: np.ndarray) -> float:
    return float(values.sum())

@app.ecall
def double(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table])

@app.ecall
def reverse(data: bytes) -> bytes:
    return data[::-1]

@app.ecall
def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

@app.ecall
def patient(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        secgear.current_call().checkpoint()
        time.sleep(0.005)
    return "done"

@app.ecall
def upto(n: int) -> Iterator[int]:
    try:
        for number in range(n):
            yield number
    finally:
        events.append("closed")

@app.ecall
def closings() -> int:
    return events.count("closed")

@app.ecall
def fails_at(n: int) -> Iterator[int]:
    yield from range(n)
    raise RuntimeError("secret")

@app.ecall
def batches(count: int, rows: int) -> Iterator[pa.RecordBatch]:
    for number in range(count):
        yield pa.record_batch({"n": np.full(rows, number)})

@app.ecall
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)

@app.ecall
def scaled(numbers: Iterator[int], factor: int) -> Iterator[int]:
    for number in numbers:
        yield number * factor

@app.ecall
def first(numbers: Iterator[int]) -> int:
    return next(iter(numbers))

@app.ecall
def recurse(depth: int) -> int:
    return ask(depth) if depth else 0

@app.ecall
def recurse_forever() -> int:
    return ask(-1)

@app.ecall
def call_note(text: str) -> None:
    note(text)

@app.ecall
def odd_result(kind: str) -> dict[str, int]:
    return {"a": "text"} if kind == "wrong" else {"a": object()}

@app.ecall
def entropy(size: int) -> bytes:
    return secgear.guest().random(size)

@app.ecall
def evidence(data: bytes) -> bytes:
    return secgear.guest().evidence(data).data

@app.ecall
def say(text: str) -> None:
    import logging
    logging.getLogger("app").warning(text)
    print(text)

@app.ecall
def leave() -> None:
    raise SystemExit(3)

@app.ecall
def in_thread() -> str:
    result = []
    thread = threading.Thread(target=lambda: result.append(ask(0)))
    thread.start()
    thread.join()
    return str(result[0])

@app.ocall
def note(text: str) -> None: ...

@app.ocall(raises=[ValueError])
def ask(depth: int) -> int: ...
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "everything.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module", params=TRANSPORTS)
def launch(request: pytest.FixtureRequest) -> Launch:
    """`secgear.launch` whose handle makes its calls over one of the transports."""
    return launcher(request.param)


@pytest.fixture(scope="module")
def enclave(source: Path, notes: list[str], launch: Launch) -> Iterator[Enclave]:
    handle: list[Enclave] = []

    def ask(depth: int) -> int:
        return 1 + handle[0].recurse(depth - 1) if depth else 41

    with launch(source, ocalls={"note": notes.append, "ask": ask}) as enclave:
        handle.append(enclave)
        yield enclave


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


# --- calls ---------------------------------------------------------------------------------------


def test_a_call_returns_its_value(enclave: Enclave) -> None:
    assert enclave.add(1) == 2
    assert enclave.add(a=40, b=2) == 42
    assert enclave.call("add", 1, 2) == 3
    assert enclave.starts() == 1


def test_calls_go_the_way_that_is_tested(enclave: Enclave, request: pytest.FixtureRequest) -> None:
    before = enclave.switchless.stats
    enclave.add(1)
    after = enclave.switchless.stats
    shared = "switchless" in request.node.name
    assert (after.calls - before.calls, after.fallbacks - before.fallbacks) == (int(shared), 0)


def test_parameters_keep_their_kinds(enclave: Enclave) -> None:
    assert enclave.subtract(5) == 4
    assert enclave.subtract(5, 2, twice=True) == 1
    with pytest.raises(errors.ArgumentError, match="no parameter"):
        enclave.subtract(5, b=2)


def test_ecalls_are_documented_and_listed(enclave: Enclave) -> None:
    assert "Add two numbers." in enclave.add.__doc__
    assert "add" in dir(enclave)


def test_structs_are_built_from_the_apps_own_types(enclave: Enclave) -> None:
    person = enclave.birthday(enclave.types.Person(name="Ada", age=36))
    assert (person.name, person.age) == ("Ada", 37)


@pytest.mark.parametrize("size", [0, 1, 5_000, 200_000, 40_000_000])
def test_buffers_of_any_size_cross(enclave: Enclave, size: int) -> None:
    data = os.urandom(min(size, 5_000)) * (size // 5_000 or 1) if size else b""
    assert enclave.reverse(data) == data[::-1]


def test_arrays_and_tables_cross(enclave: Enclave) -> None:
    values = np.random.default_rng(1).random((1000, 2000))
    assert enclave.sum_array(values) == pytest.approx(values.sum())
    table = pa.table({"a": range(100_000), "b": ["x"] * 100_000})
    assert enclave.double(table).equals(pa.concat_tables([table, table]))


def test_futures_run_side_by_side(enclave: Enclave) -> None:
    futures = [enclave.submit.add(number) for number in range(500)]
    assert [future.result(10) for future in futures] == list(range(1, 501))


def test_asyncio_awaits_calls(enclave: Enclave) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(enclave.aio.add(number) for number in range(100)))

    assert asyncio.run(main()) == list(range(1, 101))


def test_threads_share_a_handle(enclave: Enclave) -> None:
    wrong = []

    def work(start: int) -> None:
        for number in range(start, start + 50):
            if enclave.add(number) != number + 1:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(100 * at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- errors --------------------------------------------------------------------------------------


def test_declared_exceptions_cross_with_their_text(enclave: Enclave) -> None:
    with pytest.raises(enclave.errors.NoSuchPerson, match="no nobody here") as caught:
        enclave.find("nobody")
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, errors.EnclaveError)
    with pytest.raises(ValueError, match="bad name"):
        enclave.find("bad")


def test_undeclared_exceptions_of_a_production_image_say_nothing(
    source: Path, launch: Launch
) -> None:
    from secgear.base.build import build

    policy = LaunchPolicy(unsigned=True)
    with launch(build(source), policy=policy) as production:
        with pytest.raises(errors.EnclaveInternalError) as caught:
            production.find("hunter2")
        assert "hunter2" not in str(caught.value)
        assert "KeyError" not in str(caught.value)
        assert len(caught.value.incident) == 16
        assert production.add(1) == 2


def test_debug_images_show_the_traceback(enclave: Enclave) -> None:
    with pytest.raises(errors.EnclaveInternalError, match=r"KeyError: 'a secret: x'"):
        enclave.find("x")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda e: e.nothing(), errors.UnknownCall, "has no ECALL 'nothing'; it has add"),
        (lambda e: e.submit.nothing(), errors.UnknownCall, "nothing"),
        (lambda e: e.add(), errors.ArgumentError, "add: a is missing"),
        (lambda e: e.add(1, 2, 3), errors.ArgumentError, "too many"),
        (lambda e: e.add(1, c=2), errors.ArgumentError, "no parameter c"),
        (lambda e: e.add("1"), errors.ArgumentError, r"add: Expected `int`, got `str` - at `\$.a`"),
        (lambda e: e.add(object()), errors.ArgumentError, "object can't cross"),
        (lambda e: e.sum_array([1]), errors.ArgumentError, "malformed array"),
        (lambda e: e.total(5), errors.ArgumentError, "numbers is a stream"),
        (lambda e: e.call("_private"), errors.UnknownCall, "_private"),
        (lambda e: e.odd_result("wrong"), errors.ArgumentError, "odd_result: result"),
        (lambda e: e.odd_result("object"), errors.EnclaveInternalError, "incident"),
        (lambda e: e.leave(), errors.EnclaveInternalError, "incident"),
    ],
)
def test_mistakes_are_named_and_leave_it_serving(
    enclave: Enclave, call: Callable[[Any], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call(enclave)
    assert enclave.add(1) == 2


def test_too_large_a_message_is_refused_before_it_is_sent(enclave: Enclave) -> None:
    with pytest.raises(errors.LimitExceeded, match="out of band"):
        enclave.birthday(enclave.types.Person(name="x" * 9_000_000))
    assert enclave.add(1) == 2


# --- OCALLs --------------------------------------------------------------------------------------


def test_ocalls_nest_deeper_than_there_are_threads(enclave: Enclave) -> None:
    assert enclave.recurse(10) == 10


def test_endless_nesting_is_a_limit(enclave: Enclave) -> None:
    with pytest.raises(errors.SecGearError):
        enclave.recurse_forever()
    assert enclave.add(1) == 2


def test_ocalls_work_from_the_apps_own_threads(enclave: Enclave) -> None:
    assert enclave.in_thread() == "41"


def test_a_missing_handler_fails_inside(source: Path, launch: Launch) -> None:
    with (
        launch(source) as enclave,
        pytest.raises(errors.EnclaveInternalError, match="no handler"),
    ):
        enclave.call_note("x")


def test_an_unknown_handler_is_refused_at_launch(source: Path) -> None:
    with pytest.raises(errors.UnknownCall, match="declares no OCALL 'nope'; it declares ask, note"):
        secgear.launch(source, ocalls={"nope": print})


def test_a_failing_handler_fails_the_call(
    source: Path, launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("the host's own trouble")

    with (
        launch(source, ocalls={"note": broken}) as enclave,
        pytest.raises(errors.EnclaveInternalError, match="the handler raised RuntimeError"),
    ):
        enclave.call_note("x")
    assert "the host's own trouble" in caplog.text
    assert "Traceback" in caplog.text


def test_a_handlers_error_that_explains_itself_is_logged_in_one_line(
    source: Path, launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_: str) -> None:
        raise errors.SealingError("the witness is away")

    with (
        launch(source, ocalls={"note": away}) as enclave,
        pytest.raises(errors.EnclaveInternalError, match="the handler raised SealingError"),
    ):
        enclave.call_note("x")
    assert "the handler of OCALL note failed: the witness is away" in caplog.text
    assert "Traceback" not in caplog.text


# --- streams -------------------------------------------------------------------------------------


def test_results_stream(enclave: Enclave) -> None:
    assert list(enclave.upto(1000)) == list(range(1000))
    assert list(enclave.upto(0)) == []


def test_a_stream_larger_than_its_window_needs_little(enclave: Enclave) -> None:
    rows = sum(batch.num_rows for batch in enclave.batches(300, 100_000))
    assert rows == 30_000_000


def test_closing_a_stream_closes_the_generator(enclave: Enclave) -> None:
    before = enclave.closings()
    stream = enclave.upto(10_000_000)
    assert next(stream) == 0
    stream.close()
    until(lambda: enclave.closings() == before + 1)
    assert list(stream) == []


def test_many_idle_streams_hold_no_thread(enclave: Enclave) -> None:
    streams = [enclave.upto(1_000_000) for _ in range(20)]
    assert [next(stream) for stream in streams] == [0] * 20
    assert enclave.add(1) == 2  # the app has two threads
    for stream in streams:
        stream.close()


def test_calls_within_a_loop_over_a_stream(enclave: Enclave) -> None:
    assert [enclave.add(number) for number in enclave.upto(100)] == list(range(1, 101))


def test_an_error_in_a_stream_comes_after_its_items(enclave: Enclave) -> None:
    stream = enclave.fails_at(5)
    assert [next(stream) for _ in range(5)] == list(range(5))
    with pytest.raises(errors.EnclaveInternalError):
        next(stream)


def test_arguments_stream(enclave: Enclave) -> None:
    assert enclave.total(range(10_000)) == sum(range(10_000))
    assert enclave.first(iter(range(10**12))) == 0
    assert list(enclave.scaled(range(1000), 3)) == [3 * number for number in range(1000)]
    assert enclave.total([]) == 0


def test_a_source_may_call_the_enclave_itself(enclave: Enclave) -> None:
    assert enclave.total(enclave.add(number) for number in range(200)) == sum(range(1, 201))


def test_a_failing_source_fails_the_call(enclave: Enclave) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        enclave.total(source())
    assert enclave.add(1) == 2


def test_asyncio_streams_both_ways(enclave: Enclave) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(100):
            await asyncio.sleep(0)
            yield number

    async def main() -> tuple[list[int], int]:
        items = [item async for item in enclave.aio.scaled(numbers(), 2)]
        return items, await enclave.aio.total(numbers())

    items, total = asyncio.run(main())
    assert items == [2 * number for number in range(100)]
    assert total == sum(range(100))


# --- deadlines and cancellation ------------------------------------------------------------------


def test_a_deadline_ends_even_a_loop_without_checkpoints(enclave: Enclave) -> None:
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="spin"):
        enclave.options(deadline=0.2).spin(60)
    assert time.monotonic() - start < 5
    # Both threads are free again: the loop was interrupted inside.
    futures = [enclave.submit.patient(0.05) for _ in range(2)]
    assert [future.result(10) for future in futures] == ["done", "done"]


def test_a_cancelled_future_frees_its_thread(enclave: Enclave) -> None:
    futures = [enclave.submit.spin(60) for _ in range(2)]
    time.sleep(0.1)
    for future in futures:
        assert future.cancel()
    with pytest.raises(CancelledError):
        futures[0].result()
    assert enclave.options(deadline=10).add(1) == 2


def test_a_deadline_on_a_future(enclave: Enclave) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        enclave.options(deadline=0.1).submit.patient(60).result(10)


def test_asyncio_cancellation_reaches_the_enclave(enclave: Enclave) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(enclave.aio.spin(60), 0.2)

    asyncio.run(main())
    assert enclave.options(deadline=10).add(1) == 2


def test_a_deadline_passes_while_the_host_serves_an_ocall(source: Path, launch: Launch) -> None:
    began, let_go = threading.Event(), threading.Event()

    def note(_: str) -> None:
        began.set()
        let_go.wait(60)

    with launch(source, ocalls={"note": note}) as enclave:
        with pytest.raises(errors.DeadlineExceeded):
            enclave.options(deadline=0.3).call_note("x")
        assert began.is_set()
        assert not let_go.is_set()
        let_go.set()
        assert enclave.options(deadline=20).add(1) == 2


def test_queued_calls_past_their_deadline_never_run(enclave: Enclave) -> None:
    busy = [enclave.submit.patient(0.5) for _ in range(3)]
    with pytest.raises(errors.DeadlineExceeded):
        enclave.options(deadline=0.1).add(1)
    assert [future.result(10) for future in busy] == ["done"] * 3


# --- life ----------------------------------------------------------------------------------------


def test_kill_9_ends_every_pending_call_at_once(source: Path, launch: Launch) -> None:
    with launch(source) as enclave:
        stream = enclave.upto(10**9)
        next(stream)
        futures = [enclave.submit.patient(60) for _ in range(20)]
        time.sleep(0.1)
        assert enclave.pid is not None
        start = time.monotonic()
        os.kill(enclave.pid, signal.SIGKILL)
        for future in futures:
            with pytest.raises(errors.EnclaveLost, match="SIGKILL"):
                future.result(5)
        with pytest.raises(errors.EnclaveLost):
            list(stream)
        assert time.monotonic() - start < 2
        assert not enclave.alive
        with pytest.raises(errors.EnclaveLost):
            enclave.add(1)


def test_closing_runs_on_stop_and_ends_calls(source: Path, launch: Launch) -> None:
    notes: list[str] = []
    with launch(source, ocalls={"note": notes.append}) as enclave:
        pid = enclave.pid
        pending = enclave.submit.patient(60)
        enclave.close()
        assert notes == ["stopped"]
        with pytest.raises((errors.CallCancelled, errors.EnclaveClosed)):
            pending.result(5)
        with pytest.raises(errors.EnclaveClosed):
            enclave.add(1)
        enclave.close()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_forgotten_handle_ends_its_enclave(source: Path) -> None:
    enclave = secgear.launch(source)
    pid = enclave.pid
    assert pid is not None
    del enclave
    gc.collect()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone)


def test_a_handle_is_of_no_use_in_a_forked_child(enclave: Enclave) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enclave.add(1)
            os.write(writer, b"worked")
        except errors.EnclaveLost:
            os.write(writer, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"refused"
    os.close(reader)
    os.close(writer)
    assert enclave.add(1) == 2


def test_logging_leaves_a_debug_image_as_data(
    enclave: Enclave, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        enclave.say("hello \x1b[31m red")
        until(lambda: "stdout: hello" in caplog.text)
    assert "app: hello" in caplog.text
    assert "\x1b" not in "".join(record.getMessage() for record in caplog.records)


def test_a_production_image_is_silent(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    from secgear.base.build import build

    with (
        caplog.at_level(logging.DEBUG),
        secgear.launch(build(source), policy=LaunchPolicy(unsigned=True)) as enclave,
    ):
        enclave.say("quiet please")
        enclave.add(1)
    assert "quiet" not in caplog.text


def test_statistics_count(enclave: Enclave) -> None:
    before = enclave.stats
    enclave.add(1)
    with pytest.raises(errors.EnclaveInternalError):
        enclave.find("x")
    after = enclave.stats
    assert (after.calls - before.calls, after.failed - before.failed) == (2, 1)
    assert after.pending == 0


def test_every_public_name_of_the_handle_is_reserved() -> None:
    public = {name for name in dir(Enclave) if not name.startswith("_")}
    assert public <= RESERVED


# --- launching -----------------------------------------------------------------------------------


def test_another_interface_is_refused_with_a_diff(source: Path, enclave: Enclave) -> None:
    plain = enclave.interface.to_json().replace(b'"name":"b"', b'"name":"c"')
    other = Interface.from_json(plain)
    with pytest.raises(errors.InterfaceMismatch) as caught:
        secgear.launch(source, interface=other)
    assert "- add(a: int, c: int = ...) -> int" in str(caught.value)
    assert "+ add(a: int, b: int = ...) -> int" in str(caught.value)


def write(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "app.py"
    path.write_text("from secgear import App\napp = App('small')\n" + textwrap.dedent(body))
    return path


def test_a_failing_on_start_is_reported(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        @app.on_start
        def broken() -> None:
            raise RuntimeError("no luck")
        """,
    )
    with pytest.raises(errors.SecGearError, match="no luck"):
        secgear.launch(path)


def test_an_on_start_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        import time
        @app.on_start
        def forever() -> None:
            time.sleep(1000)
        """,
    )
    start = time.monotonic()
    with pytest.raises(errors.LaunchFailed, match="timeout"):
        secgear.launch(path, timeout=1.5)
    assert time.monotonic() - start < 10


def test_an_app_that_changes_its_interface_at_run_time_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        import os
        if "PATH" in os.environ:
            @app.ecall
            def only_at_build() -> None: ...
        """,
    )
    with pytest.raises(errors.InterfaceMismatch, match="another interface"):
        secgear.launch(path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tee": "nonsense"}, errors.PlatformUnavailable),
        ({"tee": "sgx"}, errors.PlatformUnavailable),
        ({"require": ["nonsense"]}, errors.LayerMissing),
        ({"shared_size": 12345}, errors.ArgumentError),
        ({"ocalls": {"note": 5}}, errors.ArgumentError),
    ],
)
def test_wrong_options_are_named(
    source: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        secgear.launch(source, **options)


def test_every_layer_may_be_required(source: Path, enclave: Enclave) -> None:
    held = [layer.name for layer in enclave.layers if layer.holds]
    with secgear.launch(source, require=held) as strict:
        assert strict.add(1) == 2


def test_a_simulation_says_so_in_the_log(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    from secgear.base.build import build

    with caplog.at_level(logging.INFO):
        secgear.launch(source).close()
        secgear.launch(build(source), policy=LaunchPolicy(unsigned=True)).close()
    said = [record for record in caplog.records if "started in process" in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO", "WARNING"]
    assert all("simulation" in record.getMessage() for record in said)


def test_without_shared_memory_everything_still_crosses(source: Path) -> None:
    with secgear.launch(source, shared_size=0) as enclave:
        data = os.urandom(3_000_000)
        assert enclave.reverse(data) == data[::-1]


def test_guest_services_answer(enclave: Enclave) -> None:
    assert len(set(enclave.entropy(64))) > 10
    assert bytes(range(64)) in enclave.evidence(bytes(range(64)))
    with pytest.raises(errors.EnclaveInternalError, match="64 bytes"):
        enclave.evidence(b"short")
