"""The ``secgear`` command: one file a command group, imported when it is used."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``secgear`` command. Ends the process with its exit code."""
    from secgear.cli.app import main as command_line

    command_line()


__all__ = ["main"]
