"""The broker's tables. Times are whole seconds since 1970."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String, Table, Text

from secgear.middleware.attestation.service.schema import Layout

_BROKER: Final = MetaData()

# Every version of every secret; the newest counts, and only that has content: older versions and
# one that says "deleted" have no salt, nonce and ciphertext. See `vault`.
secrets = Table(
    "secrets",
    _BROKER,
    Column("repository", String(64), primary_key=True),
    Column("type", String(64), primary_key=True),
    Column("tag", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("policy", String(64), nullable=False),
    Column("master", LargeBinary(16)),  # which master key; names it, says nothing about it
    Column("salt", LargeBinary(32)),
    Column("nonce", LargeBinary(12)),
    Column("ciphertext", LargeBinary),
    Column("at", BigInteger, nullable=False),
    Column("author", String(64), nullable=False),
)

# Conversations of the KBS protocol. The session's identifier itself is nowhere.
kbs_sessions = Table(
    "kbs_sessions",
    _BROKER,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("expires", BigInteger, nullable=False, index=True),
    Column("state", String(16), nullable=False),  # challenged, attested
    Column("tee", String(64), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("key", Text),  # the client's public key, JWK
    Column("evidence", LargeBinary),  # envelope in CBOR
    Column("report_data", LargeBinary),  # what the evidence was found to carry
)

BROKER: Final = Layout("broker", 1, _BROKER)
