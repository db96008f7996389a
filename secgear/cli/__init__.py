"""The ``secgear`` command: one file a command group, imported when it is used."""

from __future__ import annotations

from secgear.cli.app import main

__all__ = ["main"]
