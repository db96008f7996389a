"""CoRIM: reference values and platform keys as a vendor or owner publishes them.

draft-ietf-rats-corim, section 4: CBOR, tag 501, or signed with COSE (tag 18). What it brings is
believed only under a key that the caller gives, or if the caller says that this file needs none.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import cbor2
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.errors import CollateralError, EvidenceMalformed, EvidenceRefused, PolicyError
from secgear.middleware.attestation import cbor, cose
from secgear.middleware.attestation.anchors import Anchor, KeyAnchor, read_anchors
from secgear.middleware.attestation.certificates import load_certificate
from secgear.middleware.attestation.chains import check_path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.reference import comid, profiles
from secgear.middleware.attestation.reference.model import ReferenceValue, ReferenceValues

MAX_SIZE: Final = 1 << 20  # bytes
MAX_TAGS: Final = 1024

_UNSIGNED, _COMID = 501, 506
_SIGNED: Final = frozenset((500, 502))  # wrappers of older drafts
_OTHER_TAGS: Final = {505: "a CoSWID", 508: "a CoTL"}
_CONTENT_TYPE, _META = 3, 8  # COSE header parameters
_CONTENT_TYPES: Final = frozenset(("application/rim+cbor", "application/corim-unsigned+cbor"))


class Imported(msgspec.Struct, frozen=True):
    """What a CoRIM brought.

    identifier, profile: its own. signer: who signed it, empty for nobody. keys: platform keys, to
    be added to `Anchors`. not_imported: what it says besides, one line each: nothing compares it.
    """

    identifier: str
    profile: str
    signer: str
    values: ReferenceValues
    keys: tuple[KeyAnchor, ...]
    not_imported: tuple[str, ...]


def read_corim(
    data: bytes,
    *,
    at: datetime.datetime,
    key: ec.EllipticCurvePublicKey | None = None,
    roots: Sequence[Anchor] = (),
    allow_unsigned: bool = False,
    tee: str | None = None,
) -> Imported:
    """Read a CoRIM. Raises PolicyError, with the reason.

    at: when it and its signature must be valid. key: whose signature is required; or roots: those
    to which the certificates in its header must lead. allow_unsigned: take it without either, as
    from a file that is protected otherwise. tee: for which TEE the values of a CoRIM are whose
    profile is unknown or missing; without it they are not imported.
    """
    if len(data) > MAX_SIZE:
        raise PolicyError(f"a CoRIM of {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        payload, signer = _opened(data, at, key, roots, allow_unsigned)
        return _imported(payload, signer, at, tee)
    except (EvidenceRefused, CollateralError) as error:
        raise PolicyError(f"CoRIM: {error}") from None
    except ValueError as error:  # of the reference values' own checks
        raise PolicyError(f"CoRIM: {error}") from None


def _opened(
    data: bytes,
    at: datetime.datetime,
    key: ec.EllipticCurvePublicKey | None,
    roots: Sequence[Anchor],
    allow_unsigned: bool,
) -> tuple[Mapping[Any, Any], str]:
    """The map inside, and who signed it."""
    item = cbor.decode(data, "CoRIM")
    while isinstance(item, cbor2.CBORTag) and item.tag in _SIGNED:
        item = item.value
    if isinstance(item, cbor2.CBORTag) and item.tag == _UNSIGNED:
        if not allow_unsigned:
            raise PolicyError("CoRIM: not signed; say so if its source is trusted without that")
        return _map(item.value), ""
    if not (isinstance(item, cbor2.CBORTag) and item.tag == cose.TAG):
        tag = f"CBOR tag {item.tag}" if isinstance(item, cbor2.CBORTag) else type(item).__name__
        raise PolicyError(f"no CoRIM: {tag} instead of tag {_UNSIGNED} or a COSE_Sign1")
    message = cose.parse(item, "CoRIM")
    protected = _map(cbor.decode(message.protected, "CoRIM: protected header"))
    content_type = protected.get(_CONTENT_TYPE)
    if not isinstance(content_type, int | str) or content_type not in _CONTENT_TYPES:
        raise PolicyError(f"CoRIM: content type {protected.get(_CONTENT_TYPE)!r}")
    meta = protected.get(_META)
    signer = _signer(meta, at) if isinstance(meta, bytes) else "unnamed signer"
    fault = cose.verify(message, _signing_key(message, key, roots, at))
    if fault:
        raise PolicyError(f"CoRIM: {fault}")
    inner = cbor.decode(message.payload, "CoRIM: payload")
    if isinstance(inner, cbor2.CBORTag) and inner.tag == _UNSIGNED:
        inner = inner.value
    return _map(inner), signer


def _signing_key(
    message: cose.Sign1,
    key: ec.EllipticCurvePublicKey | None,
    roots: Sequence[Anchor],
    at: datetime.datetime,
) -> ec.EllipticCurvePublicKey:
    if key is not None:
        return key
    if not roots:
        raise PolicyError("CoRIM: signed, but nobody said whose key or root to accept")
    chain = message.headers.get(cose.X5CHAIN)
    certificates = [chain] if isinstance(chain, bytes) else chain
    if not isinstance(certificates, list | tuple) or not certificates:
        raise PolicyError("CoRIM: no certificates in its header; give the signer's key")
    if not all(isinstance(one, bytes) for one in certificates):
        raise PolicyError("CoRIM: certificates in its header that are none")
    leaf, *others = certificates
    path = check_path(
        load_certificate(leaf),
        others,
        roots,
        at=at,
        crls=(),
        checks=Checks(),
        revocable="nothing",
        label="corim.",
    )
    found = path.leaf.public_key
    if not isinstance(found, ec.EllipticCurvePublicKey):
        raise PolicyError("CoRIM: its signer's key is not EC")
    return found


def _signer(meta: bytes, at: datetime.datetime) -> str:
    content = _map(cbor.decode(meta, "CoRIM: meta"))
    _valid(content.get(1), at, "signature")
    named = content.get(0)
    name = named.get(0) if isinstance(named, Mapping) else None
    return name if isinstance(name, str) else "unnamed signer"


def _imported(
    corim: Mapping[Any, Any], signer: str, at: datetime.datetime, tee: str | None
) -> Imported:
    identifier = corim.get(0)
    name = identifier.hex() if isinstance(identifier, bytes) else str(identifier)[:128]
    profile = _profile(corim.get(3))
    not_after = _valid(corim.get(4), at, "content")
    tags = corim.get(1)
    if not isinstance(tags, list | tuple) or not 1 <= len(tags) <= MAX_TAGS:
        raise PolicyError(f"CoRIM: no list of 1 to {MAX_TAGS} tags")
    found: list[ReferenceValue] = []
    keys: list[KeyAnchor] = []
    left: list[str] = []
    meaning = profiles.PROFILES.get(profile) or (profiles.other(tee) if tee else None)
    for place, tag in enumerate(tags):
        if not isinstance(tag, cbor2.CBORTag) or not isinstance(tag.value, bytes):
            raise PolicyError(f"CoRIM: tag {place} is no tagged bytes")
        if tag.tag != _COMID:
            left.append(_OTHER_TAGS.get(tag.tag, f"CBOR tag {tag.tag}"))
            continue
        content = comid.parse(tag.value)
        left += content.unused
        for number, triple in enumerate(content.references):
            if meaning is None:
                where = triple.environment.label
                left.append(f"{where}: profile {profile!r} does not say for which TEE")
                continue
            named = meaning(triple)
            left += named.left_out
            label = f"{name} {place}.{number}"
            found += profiles.values(named, label, f"CoRIM {name}, {signer or 'unsigned'}")
        for triple_ in content.keys:
            keys += _anchors(triple_, profile, f"corim-{name}", left)
    dated = [
        msgspec.structs.replace(value, not_after=not_after) if not_after else value
        for value in found
    ]
    return Imported(name, profile, signer, ReferenceValues(tuple(dated)), tuple(keys), tuple(left))


def _anchors(
    triple: comid.KeyTriple, profile: str, name: str, left: list[str]
) -> Iterator[KeyAnchor]:
    family = profiles.KEY_FAMILIES.get(profile)
    for kind, pem in triple.keys:
        if family is None or kind != "key":
            left.append(f"{triple.environment.label}: a {kind} to attest with")
            continue
        yield from read_anchors(family, name, pem.encode(), triple.environment.instance.hex()).keys


def _valid(item: object, at: datetime.datetime, what: str) -> datetime.datetime | None:
    """Check a validity-map; returns its end."""
    if item is None:
        return None
    limits = _map(item)
    start, end = limits.get(0), limits.get(1)
    if not isinstance(end, datetime.datetime) or not isinstance(start, datetime.datetime | None):
        raise PolicyError(f"CoRIM: the validity of its {what} is no validity")
    if at > end or (start is not None and at < start):
        raise PolicyError(
            f"CoRIM: its {what} is valid from {start} to {end}, not at {at.isoformat()}"
        )
    return end


def _profile(item: object) -> str:
    if isinstance(item, cbor2.CBORTag) and isinstance(item.value, str):
        return item.value
    return item if isinstance(item, str) else ""


def _map(item: object) -> Mapping[Any, Any]:
    if not isinstance(item, Mapping):
        raise EvidenceMalformed("format: no map where one should be")
    return item
