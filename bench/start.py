"""Cold start to the first reply, against a bare interpreter doing the same round trip."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import secgear
from bench.calls import ECHO
from bench.measure import Row, interleaved, rows
from secgear.base.build import build
from secgear.base.image import LaunchPolicy

_CHILD = (
    "{imports}import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(s.recv(8))"
)
# What the runtime imports, and nothing of what it does.
_RUNTIME = (
    "import sys; sys.path += {path!r}; import secgear.base.tees.process_start; "
    "import secgear.base.loader; "
)
_REQUIRING = """
from secgear import App
import {module}
app = App("start", requires=["{module}"])
@app.ecall
def echo(data: bytes) -> bytes:
    return data
"""


def main(*, quick: bool) -> list[Row]:
    """Bare, bare with the runtime's imports, and enclaves with more and more to import."""
    policy = LaunchPolicy(unsigned=True)
    images = {"enclave": build(ECHO)}
    with tempfile.TemporaryDirectory() as folder:
        for module in () if quick else ("numpy", "duckdb", "pyarrow"):
            source = Path(folder) / f"with_{module}.py"
            source.write_text(_REQUIRING.format(module=module), encoding="utf-8")
            images[f"enclave importing {module}"] = build(source)

    def start(name: str) -> Callable[[], object]:
        def launch() -> None:
            enclave = secgear.launch(images[name], policy=policy)
            enclave.echo(b"12345678")
            enclave._connection.running.stop(0)  # the way down is not measured
            enclave.close()

        return launch

    own = str(Path(secgear.__file__).parent.parent)
    path = [own, *(entry for entry in sys.path if entry.endswith("-packages"))]
    contenders: dict[str, Callable[[], object]] = {
        "bare interpreter": lambda: _bare(""),
        "bare + the runtime's imports": lambda: _bare(_RUNTIME.format(path=path)),
        **{name: start(name) for name in images},
    }
    samples = interleaved(contenders, rounds=7 if quick else 21, batch=1)
    result = rows("start to first reply", samples, "bare interpreter")
    return result + rows("start to first reply", samples, "bare + the runtime's imports")[2:3]


def _bare(imports: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-B",
                "-X",
                "utf8",
                "-c",
                _CHILD.format(imports=imports),
                str(theirs.fileno()),
            ],
            pass_fds=[theirs.fileno()],
            env={},
        )
        ours.sendall(b"12345678")
        ours.recv(8)
        child.kill()
        child.wait()
