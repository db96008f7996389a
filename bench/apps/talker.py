"""Takes messages over a session, and the same from its host."""

from secgear import App, Session

app = App("talker", version="1")


@app.session
def measure(session: Session) -> None:
    """To each message its length, without ever holding it whole."""
    while True:
        session.send(str(sum(len(part) for part in session.recv_stream())).encode())


@app.ecall
def length(data: bytes) -> int:
    """The length of `data`."""
    return len(data)
