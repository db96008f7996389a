"""Counts words. Everything in this file runs inside the enclave."""

from __future__ import annotations

from collections import Counter

import secgear
from secgear import App

app = App("wordcount", version="1.0")


class NothingToCount(ValueError):
    """The text holds no word."""


@app.ecall(raises=[NothingToCount])
def count(text: str) -> dict[str, int]:
    """How often each word occurs in `text`."""
    words: Counter[str] = Counter()
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        secgear.current_call().checkpoint()  # stop here if the caller has given up
        words.update(line.split())
        progress(number / len(lines))
    if not words:
        raise NothingToCount("the text holds no word")
    return dict(words)


@app.ocall
def progress(done: float) -> None:
    """Tell the host how far a count is, from 0 to 1."""
