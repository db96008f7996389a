"""A named key for one request: its kind and versions, and work that outlives rotations."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Final, TypeVar, final

from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rest.kinds import Kind, kind_of
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.work import Work
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.versions import Named, Version

T = TypeVar("T")
_PREFIXED = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/=_-]*)", re.ASCII)
_ATTEMPTS: Final = 8  # at a current version that is rotated away each time


@final
class Ring:
    """A key by its name. Raises Refusal when there is none: missing is the status then."""

    def __init__(self, work: Work, name: str, missing: int = 400, text: str = "") -> None:
        self.work = work
        self.name = name
        self._missing = (missing, text) if text else (missing,)
        self.named = self._found()

    @property
    def kind(self) -> Kind | None:
        """What kind of key it is, None for one that has no name here."""
        latest = self.named.latest
        return kind_of(latest.public or latest.any)

    def needs(self, can: Callable[[Kind], bool], what: str) -> Kind:
        """Its kind, if that can do what is asked. Raises Refusal."""
        kind = self.kind
        if kind is None or not can(kind):
            name = kind.name if kind is not None else "unnamed"
            raise Refusal(400, f"key type {name} does not support {what}")
        return kind

    def protect(self, number: int | None, run: Callable[[int], T]) -> tuple[int, T]:
        """Run with the handle of a version's secret half. Returns the version's number as well.

        number: 0 or nothing for the current one; if that is rotated away meanwhile, its successor.
        """
        return self._current(number, run, public=False)

    def enclose(self, number: int | None, run: Callable[[int], T]) -> tuple[int, T]:
        """The same with the half that encrypts: the public one of a pair."""
        return self._current(number, run, public=True)

    def opening(self, number: int) -> int:
        """The handle of the half that decrypts what version `number` has encrypted."""
        return _handle(self._version(number).secret)

    def checking(self, number: int) -> int:
        """The handle of the half that verifies what version `number` has signed."""
        version = self._version(number)
        return _handle(version.public or version.secret)

    def _current(
        self, number: int | None, run: Callable[[int], T], *, public: bool
    ) -> tuple[int, T]:
        attempts = _ATTEMPTS
        while True:
            version = self._version(number or 0)
            half = version.secret if version.public is None or not public else version.public
            try:
                return version.number, run(_handle(half))
            except CryptokiError as error:
                attempts -= 1
                if number or error.rv is not Rv.KEY_FUNCTION_NOT_PERMITTED or not attempts:
                    raise
                self.named = self._found()
                if self.named.current is None or self.named.current.number == version.number:
                    raise

    def _version(self, number: int) -> Version:
        if number > self.named.latest.number:
            self.named = self._found()  # made meanwhile
        try:
            return self.named.version(number)
        except CryptokiError:
            if not number:
                raise Refusal(400, "no version of the key is active") from None
            raise Refusal(400, "there is no such version of the key") from None

    def _found(self) -> Named:
        try:
            named = self.work.named(self.name)
        except CryptokiError:
            raise Refusal(400, "this is no name that a key can have") from None
        if named is None:
            raise Refusal(*self._missing)
        return named


def prefixed(version: int, data: bytes) -> str:
    """Vault's form of what a version has made."""
    return f"vault:v{version}:{base64.b64encode(data).decode()}"


def unprefixed(text: str, what: str) -> tuple[int, str]:
    """Version and base64 of it. Raises Refusal."""
    match = _PREFIXED.fullmatch(text)
    if match is None:
        raise Refusal(400, f"invalid {what}: it begins with vault:v and a version")
    return int(match[1]), match[2]


def octets(text: str, what: str) -> bytes:
    """The bytes of base64. Raises Refusal."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{what} is no base64") from None


def _handle(item: Object | None) -> int:
    if item is None:
        raise Refusal(403, "permission denied")
    return item.id << 1
