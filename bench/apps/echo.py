"""Echoes, with no library but the runtime's own."""

from secgear import App

app = App("echo", version="1")


@app.ecall
def echo(data: bytes) -> bytes:
    """The same bytes."""
    return data


@app.ecall
def add(a: int, b: int) -> int:
    """A typed call."""
    return a + b
