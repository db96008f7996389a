"""The app of the tests that have parts: it answers, and tells what it holds."""

import fcntl
import gc
import sys
import threading

from secgear import App, Session

app = App("talker", version="1.0")
app.sessions.configure(limit=128, per_client=128, handshake=120.0)


@app.session
def echo(session: Session) -> None:
    """To each message, the same."""
    for message in session:
        session.send(message)


@app.remote
@app.ecall
def size(data: bytes) -> int:
    """The length of `data`."""
    return len(data)


@app.remote
@app.ecall
def wait() -> None:
    """For ever, until somebody cancels it."""
    while True:
        threading.Event().wait(0.05)


@app.ecall
def held() -> dict[str, int]:
    """As `part.footprint`, without the files of /proc, which an enclave does not see."""
    gc.collect()
    return {
        "blocks": sys.getallocatedblocks(),
        "descriptors": sum(_is_open(number) for number in range(1024)),
        "threads": threading.active_count(),
        "sessions": len(app.sessions),
    }


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True
