"""Names of secrets: ``repository/type/tag``, as Confidential Containers name resources."""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

from secgear.errors import AttestationError

DEFAULT_REPOSITORY: Final = "default"  # where a name has two parts only
_PART: Final = re.compile(r"[a-zA-Z0-9._-]{1,64}", re.ASCII)


class SecretInvalid(AttestationError):
    """A secret can't be stored or named like that: its name, its size, its policy."""

    code = "attestation.secret"


class SecretName(msgspec.Struct, frozen=True, order=True):
    """Which secret. Each part is 1 to 64 of ``a-z A-Z 0-9 . _ -``, and neither ``.`` nor ``..``."""

    repository: str
    type: str
    tag: str

    def __post_init__(self) -> None:
        for part in (self.repository, self.type, self.tag):
            if not _PART.fullmatch(part) or part in (".", ".."):
                raise SecretInvalid(
                    "a secret's name is repository/type/tag, each of 1 to 64 letters, digits and "
                    ". _ -, and neither . nor .."
                )

    def __str__(self) -> str:
        return f"{self.repository}/{self.type}/{self.tag}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``repository/type/tag``. Raises SecretInvalid."""
        repository, _, rest = text.partition("/")
        kind, _, tag = rest.partition("/")
        return cls(repository, kind, tag)
