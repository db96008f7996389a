"""CoMID: the tags of a CoRIM that hold reference values and keys, as they are in it.

draft-ietf-rats-corim, section 5. Names and languages are passed over; triples that nobody here uses
are listed, so that an importer can say what it left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import cbor2
import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation import cbor

MAX_TRIPLES: Final = 4096  # of one CoMID, and measurements of one triple

_TRIPLES: Final = 4
_REFERENCE, _ATTEST_KEY = 0, 3
_OTHERS: Final = {
    1: "endorsed values",
    2: "identity keys",
    4: "domain dependencies",
    5: "domain memberships",
    6: "CoSWID links",
    8: "conditional endorsement series",
    10: "conditional endorsements",
}
# IANA's Named Information Hash Algorithms: name and bytes.
_DIGESTS: Final = {
    1: ("sha256", 32),
    7: ("sha384", 48),
    8: ("sha512", 64),
    10: ("sha3-256", 32),
    11: ("sha3-384", 48),
    12: ("sha3-512", 64),
}
# Tags around byte strings: UEID, tagged bytes, and what they were before (implementation id).
_BYTES_TAGS: Final = frozenset((111, 550, 560, 600))
_KEY_TAGS: Final = {554: "key", 555: "certificate"}

Key = str | int | None


class Environment(msgspec.Struct, frozen=True):
    """Which device, or kind of device. Empty where nothing is said."""

    class_id: str = ""
    vendor: str = ""
    model: str = ""
    instance: bytes = b""

    @property
    def label(self) -> str:
        """For people."""
        return " ".join(filter(None, (self.vendor, self.model, self.class_id))) or "any environment"


class Measurement(msgspec.Struct, frozen=True):
    """One measured element.

    key: what was measured. name: its name; version, too, where the key says so (PSA).
    digests: by name of the algorithm. raw: a value that is no digest. registers: digests by name.
    ignored: what else is said of it and not compared by anybody here.
    """

    key: Key
    name: str = ""
    digests: Mapping[str, bytes] = {}
    raw: bytes | None = None
    registers: Mapping[str, Mapping[str, bytes]] = {}
    ignored: tuple[str, ...] = ()


class ReferenceTriple(msgspec.Struct, frozen=True):
    """Measurements that are good in an environment."""

    environment: Environment
    measurements: tuple[Measurement, ...]


class KeyTriple(msgspec.Struct, frozen=True):
    """Attestation keys of an environment: kind (``key``, ``certificate``) and PEM each."""

    environment: Environment
    keys: tuple[tuple[str, str], ...]


class Comid(msgspec.Struct, frozen=True):
    """One CoMID. unused: names of the triples that it has besides, with their number."""

    references: tuple[ReferenceTriple, ...]
    keys: tuple[KeyTriple, ...]
    unused: tuple[str, ...]


def parse(data: bytes) -> Comid:
    """Bytes to fields. Raises PolicyError, EvidenceMalformed."""
    content = cbor.decode(data, "CoMID")
    triples = content.get(_TRIPLES) if isinstance(content, Mapping) else None
    if not isinstance(triples, Mapping) or not triples:
        raise PolicyError("CoMID: no triples")
    unused = tuple(
        f"{len(value) if isinstance(value, list | tuple) else 1} triples of "
        f"{_OTHERS.get(kind, f'unknown kind {kind!r}') if type(kind) is int else repr(kind)}"
        for kind, value in triples.items()
        if kind not in {_REFERENCE, _ATTEST_KEY}
    )
    return Comid(
        tuple(_reference(item) for item in _items(triples.get(_REFERENCE, ()), "triples")),
        tuple(_keys(item) for item in _items(triples.get(_ATTEST_KEY, ()), "triples")),
        unused,
    )


def _reference(item: object) -> ReferenceTriple:
    match _items(item, "reference triple"):
        case [environment, measurements]:
            return ReferenceTriple(
                _environment(environment),
                tuple(_measurement(one) for one in _items(measurements, "measurements")),
            )
        case _:
            raise PolicyError("CoMID: a reference triple that is none")


def _keys(item: object) -> KeyTriple:
    triple = _items(item, "key triple")
    if not 2 <= len(triple) <= 3:
        raise PolicyError("CoMID: a key triple that is none")
    return KeyTriple(_environment(triple[0]), tuple(_key(one) for one in _items(triple[1], "keys")))


def _key(item: object) -> tuple[str, str]:
    if isinstance(item, cbor2.CBORTag) and isinstance(item.value, str):
        return _KEY_TAGS.get(item.tag, f"tag {item.tag}"), item.value
    raise PolicyError("CoMID: a key that is no PEM text")


def _environment(item: object) -> Environment:
    if not isinstance(item, Mapping) or not item:
        raise PolicyError("CoMID: an environment that is none")
    described = item.get(0, {})
    if not isinstance(described, Mapping):
        raise PolicyError("CoMID: the class of an environment is no map")
    instance = item.get(1)
    return Environment(
        class_id="" if 0 not in described else _identifier(described[0]),
        vendor=_text(described.get(1, "")),
        model=_text(described.get(2, "")),
        instance=b"" if instance is None else _binary(instance),
    )


def _measurement(item: object) -> Measurement:
    values = item.get(1) if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(values, Mapping) or not values:
        raise PolicyError("CoMID: a measurement without values")
    key, name = _measured(item.get(0))
    raw = values.get(4)
    registers = values.get(14, {})
    if not isinstance(registers, Mapping):
        raise PolicyError("CoMID: integrity registers that are no map")
    return Measurement(
        key=key,
        name=_text(values.get(11, name)),
        digests=_digests(values[2]) if 2 in values else {},
        raw=None if raw is None else _binary(raw),
        registers={str(name)[:64]: _digests(value) for name, value in registers.items()},
        ignored=tuple(_ignored(item, values)),
    )


def _ignored(item: Mapping[Any, Any], values: Mapping[Any, Any]) -> Iterator[str]:
    known = {0: "version", 1: "svn", 3: "flags", 5: "raw mask", 13: "cryptographic keys"}
    for number in values:
        if number not in {2, 4, 11, 14}:
            yield known.get(number, f"value {number!r}") if type(number) is int else repr(number)
    if 2 in item:
        yield "authorised by"


def _measured(key: object) -> tuple[Key, str]:
    """The key, and the name in it: PSA's and CCA's older form is a map."""
    match key:
        case None | int() | str():
            return key, ""
        case uuid.UUID():
            return str(key), ""
        case cbor2.CBORTag(tag=601, value=Mapping() as component):
            return "software-component", _text(component.get(1, ""))
        case cbor2.CBORTag(tag=602, value=str()):
            return "platform-config", ""
        case cbor2.CBORTag() if key.tag in _BYTES_TAGS:
            return _binary(key).hex(), ""
        case _:
            raise PolicyError("CoMID: a measured element of an unknown kind")


def _digests(item: object) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for digest in _items(item, "digests"):
        match digest:
            case [int() as number, bytes() as value] if number in _DIGESTS:
                name, size = _DIGESTS[number]
                if len(value) != size or name in found:
                    raise PolicyError(f"CoMID: a {name} digest of {len(value)} bytes, or two")
                found[name] = value
            case _:
                raise PolicyError("CoMID: a digest of an unknown algorithm")
    if not found:
        raise PolicyError("CoMID: no digest where one should be")
    return found


def _identifier(item: object) -> str:
    match item:
        case uuid.UUID():
            return str(item)
        case str() | int():
            return str(item)[:128]
        case _:
            return _binary(item).hex()


def _binary(item: object) -> bytes:
    value = item.value if isinstance(item, cbor2.CBORTag) and item.tag in _BYTES_TAGS else item
    if isinstance(value, uuid.UUID):
        return value.bytes
    if not isinstance(value, bytes) or not value:
        raise PolicyError("CoMID: no bytes where some should be")
    return value


def _text(item: object) -> str:
    if not isinstance(item, str) or len(item) > 1024:
        raise PolicyError("CoMID: no short text where one should be")
    return item


def _items(item: object, what: str) -> list[Any]:
    if not isinstance(item, list | tuple) or len(item) > MAX_TRIPLES:
        raise PolicyError(f"CoMID: {what} that are no list of at most {MAX_TRIPLES}")
    return list(item)
