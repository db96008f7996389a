"""A part of a test that needs a process of its own: orders go in, answers come out.

Both are lines of JSON on the process's pipes. It ends when its orders do, so with the test.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parents[2]
Deeds = Mapping[str, Callable[..., Any]]


class Failed(Exception):
    """What was ordered ended with an error. code: its stable code, or the name of its type."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Part:
    """The process of ``python -m module``; a context manager.

    stderr: the file for what it says besides its answers.
    """

    def __init__(self, module: str, *arguments: str, stderr: Path) -> None:
        with stderr.open("ab") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
            )
        self.pid = self._process.pid

    def ask(self, do: str, **given: Any) -> Any:
        """Have it done. Raises Failed; EOFError when the process is there no more."""
        self.order(do, **given)
        return self.answer()

    def order(self, do: str, **given: Any) -> None:
        """Have it done, and don't wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "given": given}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """To the oldest order that has not been answered. As `ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError("the process has ended")
        answer = json.loads(line)
        if "code" in answer:
            raise Failed(answer["code"], answer["text"])
        return answer["result"]

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        """No more orders. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def play(deeds: Deeds) -> None:
    """The other end: carry out orders, one after the other, until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not talk into the answers
    for line in sys.stdin.buffer:
        order = json.loads(line)
        try:
            answer = {"result": deeds[order["do"]](**order["given"])}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = {"code": getattr(error, "code", type(error).__name__), "text": str(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def footprint() -> dict[str, int]:
    """What this process holds: pieces of memory that Python has given out, descriptors, threads."""
    gc.collect()
    return {
        "blocks": sys.getallocatedblocks(),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
    }


def resident(pid: int) -> int:
    """KiB of memory of its own that a process has; also of one that hides its maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
