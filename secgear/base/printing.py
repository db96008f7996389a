"""Words that somebody else chose, for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line without anything that moves a terminal's cursor or turns the order of letters."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )
