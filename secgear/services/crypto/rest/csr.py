"""Certificate requests (PKCS#10, RFC 2986) for keys of the module, signed by the key itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

from cryptography import x509

from secgear.services.crypto import pkix
from secgear.services.crypto.rest.bodies import Body
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.ring import Ring
from secgear.services.crypto.rest.routes import Form, Request, Route
from secgear.services.crypto.rest.signing import Options, marshal, plans
from secgear.services.crypto.rest.transit_keys import pem, spki

MAX_SUBJECT: Final = 1024  # characters
_RSA: Final = ("sha2-256", pkix.RSA_SHA256)
_ALGORITHMS: Final[Mapping[str, tuple[str, x509.ObjectIdentifier]]] = {
    "rsa-2048": _RSA,
    "rsa-3072": _RSA,
    "rsa-4096": _RSA,
    "ecdsa-p256": ("sha2-256", pkix.ECDSA_SHA256),
    "ecdsa-p384": ("sha2-384", x509.ObjectIdentifier("1.2.840.10045.4.3.3")),
    "ecdsa-p521": ("sha2-512", x509.ObjectIdentifier("1.2.840.10045.4.3.4")),
    "ed25519": ("sha2-256", x509.ObjectIdentifier("1.3.101.112")),
    "sm2": ("sm3", pkix.SM2_SM3),
    "ml-dsa-44": ("sha2-256", x509.ObjectIdentifier("2.16.840.1.101.3.4.3.17")),
    "ml-dsa-65": ("sha2-256", x509.ObjectIdentifier("2.16.840.1.101.3.4.3.18")),
    "ml-dsa-87": ("sha2-256", x509.ObjectIdentifier("2.16.840.1.101.3.4.3.19")),
}
"""By type of key: the hash function, where there is one to choose, and the signature's name."""


class Subject(Body, frozen=True):
    """subject: a name as RFC 4514 writes it, ``CN=example.org,O=Example``."""

    subject: str


def _request(request: Request) -> str:
    ring = Ring(request.work, request.path["name"], 404)
    kind = ring.needs(lambda kind: kind.name in _ALGORITHMS, "certificate requests")
    hashed, algorithm = _ALGORITHMS[kind.name]
    version = ring.named.version(0)
    options = Options(hashed, False, "pkcs1v15", "asn1", "auto")

    def sign(content: bytes) -> bytes:
        plan = next(plans(kind, options, content))
        _, signature = ring.protect(
            version.number,
            lambda handle: request.work.run("Sign", plan.mechanism, handle, plan.data),
        )
        return base64.b64decode(marshal(kind, options, signature))

    made = pkix.request(
        subject=_name(request.body.subject), spki=spki(version), algorithm=algorithm, sign=sign
    )
    return pem(made, "CERTIFICATE REQUEST")


def _name(text: str) -> bytes:
    """The name, in DER. Raises Refusal."""
    try:
        if 0 < len(text) <= MAX_SUBJECT and "=#" not in text:  # DER, which would be taken for text
            return x509.Name.from_rfc4514_string(text).public_bytes()
    except (ValueError, UnicodeEncodeError):
        pass
    raise Refusal(400, "subject is no name as RFC 4514 writes it")


ROUTES: Final = (
    Route("POST", "/v1/keys/{name}/csr.pem", "A certificate request of the current version.",
          _request, body=Subject, form=Form.TEXT),
)  # fmt: skip
