"""The service's tables. Times are whole seconds since 1970 unless a column says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of one component and the version of their form, kept in the database."""

    component: str
    version: int
    tables: MetaData


_COMMON: Final = MetaData()
_ATTESTATION: Final = MetaData()

layouts = Table(
    "layouts",
    _COMMON,
    Column("component", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
)

# One row a record, never changed. hash covers the record and the hash of the one before.
audit = Table(
    "audit",
    _COMMON,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", String(40), nullable=False),  # ISO 8601, UTC, microseconds
    Column("actor", String(160), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(160), nullable=False),
    Column("detail", Text, nullable=False),  # JSON
    Column("previous", LargeBinary(32), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# Bearer tokens of administrators. The tokens themselves are nowhere.
tokens = Table(
    "tokens",
    _COMMON,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

# Those that are outstanding.
nonces = Table(
    "nonces",
    _COMMON,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("expires", BigInteger, nullable=False, index=True),
)

# Every version of every policy, set of reference values and set of collateral. The newest counts;
# one without data says that it was deleted.
documents = Table(
    "documents",
    _ATTESTATION,
    Column("kind", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("data", LargeBinary),
    Column("digest", LargeBinary(32)),
    Column("at", BigInteger, nullable=False),
    Column("author", String(64), nullable=False),
)

# Grows by one with every change of `documents`, so that other instances notice.
generation = Table(
    "generation",
    _ATTESTATION,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)

COMMON: Final = Layout("common", 1, _COMMON)
ATTESTATION: Final = Layout("attestation", 1, _ATTESTATION)
