"""Administrators and others, with their keys."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from secgear.base.signing import generate_key
from secgear.services.crypto.roles import requests
from secgear.services.crypto.roles.persons import Person, PrivateKey, person, sign
from secgear.services.crypto.token.authority import Badge, admit
from secgear.services.crypto.token.roles import Role, Roles

KEYS: dict[str, PrivateKey] = {
    name: generate_key("ecdsa-p384-sha384" if name == "bob" else "ed25519")
    for name in ("alice", "bob", "carol", "dave", "erin", "frank")
}
PEOPLE: dict[str, Person] = {name: person(name, key.public_key()) for name, key in KEYS.items()}
MODULE = bytes(range(16))
NOW = datetime.datetime(2026, 11, 28, 18, tzinfo=datetime.UTC)


def roles(**changes: Any) -> Roles:
    """Alice, Bob and Carol administrate, two of them decide; Dave audits, Erin fetches backups."""
    made = Roles(
        MODULE,
        (PEOPLE["alice"], PEOPLE["bob"], PEOPLE["carol"]),
        2,
        (PEOPLE["dave"],),
        (PEOPLE["erin"],),
    )
    return msgspec.structs.replace(made, **changes)


def proof(module: bytes, challenge: bytes, role: str, name: str, key: str | None = None) -> bytes:
    """What logs somebody in. key: whose they sign with, if not their own."""
    import base64

    signature = sign(KEYS[key or name], requests.login_message(module, challenge, role, name))
    return requests.encode(requests.Proof(role, name, base64.b64encode(signature).decode()))


def badge(current: Roles, role: Role, name: str) -> Badge:
    """A connection on which somebody has logged in."""
    made = Badge()
    made.put_on(*admit(current, made, proof(current.module, made.challenged(), role, name)))
    return made


def approvals(request: bytes, *names: str) -> bytes:
    """Their approvals, as the module takes them."""
    return b"[" + b",".join(requests.approve(request, name, KEYS[name]) for name in names) + b"]"
