"""``secgear demo``: two data owners' real data meet in an enclave that they have verified.

The host that carries the data sees nothing of it, and neither deception nor force changes that.
Everybody plays in a process of their own; `secgear.cli._demo.story` directs them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer

from secgear.cli._demo import parties, unprivileged
from secgear.cli._demo.cast import PartFailed
from secgear.cli._demo.report import Report, User
from secgear.cli.output import AsJson, emit

_QUESTION: Final = "What does the weather cost a flight from New York?"


def demo(as_json: AsJson = False) -> None:
    """Join two owners' real data inside an enclave that they verify, then try to see any of it.

    Started by root, it continues as nobody: root may look into every process, so a break-in by
    root would show nothing.
    """
    parties.check_installed()
    if os.geteuid() == 0:
        status = unprivileged.rerun(["demo", "--json"] if as_json else ["demo"])
        if status is not None:
            raise typer.Exit(status)
    from secgear.cli._demo.screen import Screen
    from secgear.cli._demo.story import Story

    screen = Screen(quiet=as_json)
    report = Report(host=_myself(), question=_QUESTION)
    with (
        tempfile.TemporaryDirectory(prefix="secgear-demo-") as folder,
        _home(Path(folder)),
        Story(Path(folder), screen, report) as story,
    ):
        try:
            story.tell()
        except PartFailed as error:
            raise story.root_of(error) from error
    screen.closing(report)
    if as_json:
        emit(report)
    if not report.holds:
        raise typer.Exit(1)


def _myself() -> User:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return User(os.geteuid(), fields["CapEff"].strip())


@contextlib.contextmanager
def _home(folder: Path) -> Iterator[None]:
    """The simulated platform's keys live as long as the demo, unless the user has a place."""
    if "SECGEAR_HOME" in os.environ:
        yield
        return
    os.environ["SECGEAR_HOME"] = str(folder / "host" / "platform")
    try:
        yield
    finally:
        del os.environ["SECGEAR_HOME"]
