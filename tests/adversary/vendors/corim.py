"""A publisher of CoRIMs that says and signs anything."""

from __future__ import annotations

import datetime
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

DIGEST = b"\x11" * 48  # SHA-384, number 7


def measurement(key: Any = None, digest: bytes = DIGEST, algorithm: int = 7, **more: Any) -> Any:
    """One measurement-map; `more` are further values by number: ``v11="BL"``."""
    values = {2: [[algorithm, digest]]} | {int(name[1:]): item for name, item in more.items()}
    return ({} if key is None else {0: key}) | {1: values}


def reference(*measurements: Any, class_id: Any = b"\x01" * 32) -> dict[int, Any]:
    """Triples of a CoMID with one reference triple."""
    return {0: [[{0: {0: cbor2.CBORTag(560, class_id)}}, list(measurements)]]}


def comid(triples: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(506, cbor2.dumps({1: {0: b"\x02" * 16}, 4: triples}))


def corim(*tags: Any, profile: str = "", **more: Any) -> dict[int, Any]:
    """The map; `more` as in `measurement`: ``v4`` is its validity."""
    made: dict[int, Any] = {0: "corim-1", 1: list(tags)}
    if profile:
        made[3] = cbor2.CBORTag(32, profile)
    return made | {int(name[1:]): item for name, item in more.items()}


def unsigned(content: Any) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(501, content), datetime_as_timestamp=True)


class Publisher:
    """Signs with ES384; its certificate is issued by its own authority."""

    def __init__(self) -> None:
        self.authority = Authority("publishers")
        self.key = ec_key()
        self.certificate = self.authority.issue("publisher", self.key.public_key())
        self.anchor = self.authority.anchor("fake-publishers", "arm")

    def signed(
        self,
        content: Any,
        *,
        content_type: str = "application/rim+cbor",
        algorithm: int = -35,
        until: datetime.datetime = NOW + YEAR,
        chain: Any = None,
    ) -> bytes:
        meta = cbor2.dumps({0: {0: "publisher"}, 1: {1: until}}, datetime_as_timestamp=True)
        protected = cbor2.dumps({1: algorithm, 3: content_type, 8: meta})
        payload = unsigned(content)
        to_sign = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(self.key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        header = {} if chain is None else {33: chain}
        return cbor2.dumps(cbor2.CBORTag(18, [protected, header, payload, signature]))
