"""Run by the build in a process of its own: imports an app and tells what it declares.

Reads one request (MessagePack) from standard input and writes one answer to the descriptor named
on the command line. The app is imported from exactly the bytes that go into the image, so what is
described is what will run.
"""

from __future__ import annotations

import importlib
import linecache
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from secgear.errors import BuildError

if TYPE_CHECKING:
    from secgear.base.app import App


class Request(msgspec.Struct):
    """What to describe: the app's files by path, and the module that holds its `App`."""

    entry: str
    files: dict[str, bytes]

    @property
    def paths(self) -> Sequence[str]:
        """As `secgear.base.loader.Files` wants it."""
        return tuple(self.files)

    def read(self, path: str) -> bytes:
        """As `secgear.base.loader.Files` wants it."""
        return self.files[path]


class Description(msgspec.Struct):
    """What the app declares, or why that can't be told.

    error: one line for people. trace: the end of the app's own traceback, if it raised.
    missing: the module that an import did not find.
    """

    name: str = ""
    version: str = ""
    product: str = ""
    svn: int = 0
    threads: int = 0
    memory: int = 0
    log: str = ""
    requires: tuple[str, ...] = ()
    ocalls: tuple[str, ...] = ()
    interface: bytes = b""
    error: str = ""
    trace: str = ""
    missing: str = ""


def describe(request: Request) -> Description:
    """Import the entry module and describe the one `App` it holds."""
    from secgear.base.loader import ImageFinder

    # In front of everything but the stdlib, as inside the enclave.
    sys.meta_path.insert(2, ImageFinder(request))
    try:
        module = importlib.import_module(request.entry)
        return _describe_app(_find_app(vars(module), request.entry))
    except BuildError as error:
        return Description(error=str(error))
    except BaseException as error:  # noqa: BLE001  (SystemExit at import time is an error as well)
        linecache.checkcache()
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        kind = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        return Description(
            error=f"importing {request.entry} failed: {kind}",
            trace=_app_trace(error),
            missing=missing or "",
        )


def _find_app(names: dict[str, object], entry: str) -> App:
    from secgear.base.app import App

    apps: dict[int, tuple[str, App]] = {}
    for name, value in names.items():
        if isinstance(value, App):
            apps.setdefault(id(value), (name, value))
    if not apps:
        raise BuildError(f"{entry} declares no App; add app = App('name') and its @app.ecall")
    if len(apps) > 1:
        found = ", ".join(name for name, _ in apps.values())
        raise BuildError(f"{entry} declares {len(apps)} Apps ({found}); an image holds one")
    return next(iter(apps.values()))[1]


def _describe_app(app: App) -> Description:
    return Description(
        name=app.name,
        version=app.version,
        product=app.product,
        svn=app.svn,
        threads=app.threads,
        memory=app.memory,
        log=app.log,
        requires=app.requires,
        ocalls=tuple(sorted(app.ocalls)),
        interface=app.interface.to_json(),
    )


def _app_trace(error: BaseException) -> str:
    """The traceback from the app's first frame on; what is above is this importer."""
    from secgear.base.loader import IMAGE

    at = error.__traceback__
    while at is not None and not at.tb_frame.f_code.co_filename.startswith(IMAGE):
        at = at.tb_next
    return "".join(traceback.format_exception(type(error), error, at))


def main(descriptor: int) -> None:
    """Answer the one request, then leave without running the app's exit handlers."""
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    answer = describe(request)
    try:
        encoded = msgspec.msgpack.encode(answer)
        msgspec.msgpack.decode(encoded, type=Description)
    except (TypeError, ValueError) as error:
        encoded = msgspec.msgpack.encode(Description(error=f"an argument of App(...): {error}"))
    with os.fdopen(descriptor, "wb") as out:
        out.write(encoded)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
