"""Changes that are waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, final

from secgear.services.crypto.token.draft import Draft

T = TypeVar("T")


@final
class Wish(Generic[T]):
    """A change that somebody waits for. first: it comes before all others of its draft."""

    def __init__(self, function: Callable[[Draft], T], *, first: bool) -> None:
        self.first = first
        self.settled = False
        self._function = function
        self._results: list[T] = []
        self._error: BaseException | None = None

    def tried(self, draft: Draft) -> Draft:
        """The draft with this change, or as it is if that is refused."""
        self._results, self._error = [], None
        trial = draft.copy()
        try:
            self._results.append(self._function(trial))
        except Exception as error:  # noqa: BLE001  (who waits for it gets it)
            self._error = error
            return draft
        return trial

    def settle(self, error: BaseException | None) -> None:
        """What it is part of has come about, or has failed: then nothing in it counts."""
        self._error = error or self._error
        self.settled = True

    def result(self) -> T:
        """What the function has returned. Raises what it, or the change, has raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]
