"""What the benchmark of switchless calls calls."""

from secgear import App, Shared
from secgear.base.transport.sealed import Opener

app = App("lanes", version="1", requires=["cryptography"], threads=3)
openers: list[Opener] = []
private = bytearray(1 << 20)


@app.ecall
def echo(data: bytes) -> bytes:
    """The same bytes."""
    return data


@app.ecall
def add(a: int, b: int) -> int:
    """A typed call."""
    return a + b


@app.ecall
def ask(a: int) -> int:
    """A call that asks the host."""
    return answer(a)


@app.ocall
def answer(a: int) -> int:
    """The host's answer."""
    raise NotImplementedError


@app.ecall
def take(data: memoryview) -> int:
    """Bulk in, next to nothing out."""
    return len(data)


@app.ecall
def read(data: Shared) -> int:
    """Bulk from a shared buffer, copied once into memory that is there already."""
    return data.read_into(private)


@app.ecall
def begin(key: bytes, prefix: bytes, frame: int) -> None:
    """A sealed stream begins."""
    openers[:] = [Opener(key, prefix, frame=frame)]


@app.ecall
def put(frame: bytes) -> None:
    """One frame of it."""
    openers[0].open(frame)
