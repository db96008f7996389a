"""Tries every interleaving of the model's threads under C11's memory model, for small bounds.

Memory is a history of values for each atomic location. A thread has a view: how new a value it
must see at each. A relaxed load may return any value that is new enough: this is how one thread's
load passes its own earlier store to somewhere else. A release store takes the view of its thread
along, an acquire load that sees it takes that over, and sequentially consistent fences exchange
views through one that is common to all. (The view machine of Kang et al., "A promising semantics
for relaxed-memory concurrency", POPL 2017, without promises: nothing in the protocol stores before
what it depends on.) Exchange sees the newest value, and so does the kernel in FUTEX_WAIT, which
has full barriers of its own (kernel/futex: "the waiter either sees the new value or is queued
before the waker looks").

What is not atomic must be ordered: a read that does not know the last write, or a write that does
not know the last read and write, is a data race.

What a run of steps does next depends only on where its generators stand and what their locals are:
so much is a state, and states already seen are not explored again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from .model import Exchange, Fence, Load, Location, Order, Read, Sleep, Steps, Store, Wake, Write

View = tuple[tuple[Location, int], ...]


class Found(Exception):
    """A state that must not be: what, and how it comes about."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__(what + "\n" + "\n".join(trace))
        self.what = what


class _Thread(NamedTuple):
    """history: answers from which its generator can be built again, where it stands now."""

    history: tuple[Any, ...]
    view: dict[Location, int]
    asleep: Location | None


class _State(NamedTuple):
    threads: tuple[_Thread, ...]
    # Values with their views, oldest first; the first has the number in `base`.
    atomics: dict[Location, tuple[tuple[int, View], ...]]
    base: dict[Location, int]
    plain: dict[Location, tuple[Any, int, tuple[int, ...]]]  # value, writes, reads by thread
    fences: dict[Location, int]


class Checker:
    """Explores all states that `threads` can reach. Raises Found for the first bad one."""

    def __init__(self, *threads: Callable[[], Steps]) -> None:
        self._make = threads
        self._memo: list[dict[tuple[Any, ...], tuple[Any, Any]]] = [{} for _ in threads]
        self._shortest: list[dict[Any, tuple[Any, ...]]] = [{} for _ in threads]
        self.states = 0
        self.ends: set[tuple[Any, ...]] = set()

    def explore(self) -> None:
        """Depth first; every reachable state once."""
        first = tuple(_Thread((), {}, None) for _ in self._make)
        stack = [(_State(first, {}, {}, {}, {}), None)]
        seen = {self._key(stack[0][0])}
        while stack:
            state, trace = stack.pop()
            self.states += 1
            successors = list(self._next(state, trace))
            for successor, step in successors:
                successor = self._shortened(successor)
                key = self._key(successor)
                if key not in seen:
                    seen.add(key)
                    stack.append((successor, (trace, step)))  # type: ignore[arg-type]
            if not successors:
                self._end(state, trace)

    def _end(self, state: _State, trace: Any) -> None:
        for number, thread in enumerate(state.threads):
            if thread.asleep is not None:
                raise Found(f"thread {number} sleeps for ever on {thread.asleep}", _told(trace))
        self.ends.add(
            tuple(self._at(number, thread)[1] for number, thread in enumerate(state.threads))
        )

    # --- threads -----------------------------------------------------------------------------

    def _at(self, number: int, thread: _Thread) -> tuple[Any, Any]:
        """The operation this thread stands before (None: it has ended), and its own state."""
        memo = self._memo[number]
        if thread.history not in memo:
            steps = self._make[number]()
            try:
                operation = next(steps)
                for answer in thread.history:
                    operation = steps.send(answer)
            except StopIteration as done:
                memo[thread.history] = (None, _freeze(done.value))
            else:
                memo[thread.history] = (operation, _standing(steps))
        return memo[thread.history]

    def _key(self, state: _State) -> Any:
        """Of a state, without what no thread can see any more."""
        base = {at: min(thread.view.get(at, 0) for thread in state.threads) for at in state.atomics}

        def visible(view: Any) -> frozenset[tuple[Location, int]]:
            pairs = view.items() if isinstance(view, dict) else view
            kept = []
            for at, number in pairs:
                if at in state.plain:
                    # Only "knows the last one" matters.
                    if number >= state.plain[at][1]:
                        kept.append((at, -1))
                elif at[0] == "reads of":
                    if number >= state.plain[at[1]][2][at[2]]:
                        kept.append((at, -1))
                elif number > base.get(at, 0):
                    kept.append((at, number - base[at]))
            return frozenset(kept)

        return (
            tuple(
                (self._at(number, thread)[1], visible(thread.view), thread.asleep)
                for number, thread in enumerate(state.threads)
            ),
            frozenset(
                (
                    at,
                    tuple(
                        (value, visible(view))
                        for value, view in values[base[at] - state.base[at] :]
                    ),
                )
                for at, values in state.atomics.items()
            ),
            frozenset((at, value) for at, (value, _, _) in state.plain.items()),
            visible(state.fences),
        )

    def _shortened(self, state: _State) -> _State:
        """The same with histories that were seen first: threads that stand alike are the same."""
        threads = tuple(
            thread._replace(
                history=self._shortest[number].setdefault(
                    self._at(number, thread)[1], thread.history
                )
            )
            for number, thread in enumerate(state.threads)
        )
        return state._replace(threads=threads)

    # --- memory ------------------------------------------------------------------------------

    def _next(self, state: _State, trace: Any) -> Iterator[tuple[_State, str]]:
        ready: list[tuple[int, Any]] = []
        for number, thread in enumerate(state.threads):
            operation = self._at(number, thread)[0]
            if operation is None or thread.asleep is not None:
                continue
            if isinstance(operation, Read | Write):
                # Races show in any order and nothing else depends on it: one order is enough.
                ready = [(number, operation)]
                break
            ready.append((number, operation))
        for number, operation in ready:
            for successor in self._do(state, number, operation, trace):
                yield successor, f"{number}: {operation}"

    def _do(self, state: _State, number: int, operation: Any, trace: Any) -> Iterator[_State]:
        thread = state.threads[number]
        match operation:
            case Load(at, order):
                values, base = state.atomics.get(at, ((0, ()),)), state.base.get(at, 0)
                oldest = thread.view.get(at, 0)
                for index in range(oldest - base, len(values)):
                    value, carried = values[index]
                    view = {**thread.view, at: base + index}
                    if order is Order.ACQUIRE:
                        view = _join(view, dict(carried))
                    yield _moved(state, number, value, view)
            case Store(at, value, order):
                yield _stored(state, number, at, value, None, order)
            case Exchange(at, value):
                old = state.atomics.get(at, ((0, ()),))[-1]
                yield _stored(state, number, at, value, old, Order.RELAXED)
            case Fence():
                view = _join(thread.view, state.fences)
                yield _moved(state, number, None, view)._replace(fences=view)
            case Read(at):
                yield self._read(state, number, at, trace)
            case Write(at, value):
                yield self._write(state, number, at, value, trace)
            case Sleep(at, value):
                if state.atomics.get(at, ((0, ()),))[-1][0] != value:
                    yield _moved(state, number, True, thread.view)
                else:
                    yield _replaced(state, number, thread._replace(asleep=at))
            case Wake(at):
                moved = _moved(state, number, None, thread.view)
                for other, sleeper in enumerate(moved.threads):
                    if sleeper.asleep == at:
                        moved = _replaced(
                            moved,
                            other,
                            _Thread((*sleeper.history, True), sleeper.view, None),
                        )
                yield moved

    def _read(self, state: _State, number: int, at: Location, trace: Any) -> _State:
        thread = state.threads[number]
        value, writes, reads = state.plain.get(at, (b"", 0, (0,) * len(state.threads)))
        if thread.view.get(at, 0) < writes:
            raise Found(f"data race: thread {number} reads {at}", _told(trace))
        reads = (*reads[:number], reads[number] + 1, *reads[number + 1 :])
        view = {**thread.view, ("reads of", at, number): reads[number]}
        plain = {**state.plain, at: (value, writes, reads)}
        return _moved(state, number, value, view)._replace(plain=plain)

    def _write(self, state: _State, number: int, at: Location, value: Any, trace: Any) -> _State:
        thread = state.threads[number]
        _, writes, reads = state.plain.get(at, (b"", 0, (0,) * len(state.threads)))
        if thread.view.get(at, 0) < writes or any(
            thread.view.get(("reads of", at, reader), 0) < count
            for reader, count in enumerate(reads)
        ):
            raise Found(f"data race: thread {number} writes {at}", _told(trace))
        plain = {**state.plain, at: (value, writes + 1, reads)}
        return _moved(state, number, None, {**thread.view, at: writes + 1})._replace(plain=plain)


def _stored(
    state: _State, number: int, at: Location, value: int, old: tuple[int, View] | None, order: Order
) -> _State:
    """The newest value of `at` from now on; `old` is what an exchange has seen."""
    thread = state.threads[number]
    values, base = state.atomics.get(at, ((0, ()),)), state.base.get(at, 0)
    view = {**thread.view, at: base + len(values)}
    carried = view if order is Order.RELEASE else {}
    if old is not None:
        carried = _join(carried, dict(old[1]))  # an exchange continues a release sequence
    moved = _moved(state, number, None if old is None else old[0], view)
    kept = min(thread.view.get(at, 0) for thread in moved.threads) - base
    return moved._replace(
        atomics={**state.atomics, at: (*values, (value, tuple(carried.items())))[kept:]},
        base={**state.base, at: base + kept},
    )


def _moved(state: _State, number: int, answer: Any, view: dict[Location, int]) -> _State:
    thread = state.threads[number]
    return _replaced(state, number, _Thread((*thread.history, answer), view, None))


def _replaced(state: _State, number: int, thread: _Thread) -> _State:
    threads = (*state.threads[:number], thread, *state.threads[number + 1 :])
    return state._replace(threads=threads)


def _join(one: dict[Location, int], other: dict[Location, int]) -> dict[Location, int]:
    joined = dict(one)
    for at, number in other.items():
        if number > joined.get(at, 0):
            joined[at] = number
    return joined


def _standing(steps: Any) -> Any:
    """Where a generator and those it waits for stand, with their locals."""
    levels = []
    while steps is not None:
        frame = steps.gi_frame
        levels.append((frame.f_code.co_name, frame.f_lasti, _freeze(frame.f_locals)))
        steps = steps.gi_yieldfrom
    return tuple(levels)


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _freeze(item)) for key, item in sorted(value.items()))
    if is_dataclass(value):
        return tuple(_freeze(getattr(value, one.name)) for one in fields(value))
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_freeze(item) for item in value)
    return value


def _told(trace: Any) -> list[str]:
    told = []
    while trace is not None:
        trace, step = trace
        told.append(step)
    return told[::-1]
