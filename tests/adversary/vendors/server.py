"""A vendor's service on this machine: it serves what it was given, and counts who asks."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Answer(NamedTuple):
    body: bytes
    headers: Mapping[str, str] = {}
    status: int = 200


class VendorServer:
    """HTTP on a port of its own. answers: by path and query; a list is given out one by one."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.delay = 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer()

            def _answer(self) -> None:
                outer.asked.append(self.path)
                time.sleep(outer.delay)
                found = outer.answers.get(self.path, Answer(b"nothing here", status=404))
                if isinstance(found, list):
                    found = found.pop(0) if len(found) > 1 else found[0]
                self.send_response(found.status)
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(found.body)))
                self.end_headers()
                self.wfile.write(found.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
