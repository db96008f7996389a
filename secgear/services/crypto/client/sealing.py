"""Keys that a data owner seals to one token of a module, to be carried there by anybody.

`ImportKey.verify` takes what the module gives out (``S_GetImportKey``) and verifies it; `seal`
makes an envelope that this token alone opens, once.
"""

from __future__ import annotations

import base64
import datetime
from typing import TYPE_CHECKING, Annotated, Final, Self, final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from secgear.errors import EnvelopeRefused, KeyFileError
from secgear.middleware.envelopes import TrustedKey, seal, verify_key
from secgear.services.crypto.client import algorithms
from secgear.services.crypto.client.publics import EcAlgorithm
from secgear.services.crypto.client.talk import template
from secgear.services.crypto.parcel import Destination, Parcel
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, ObjectClass
from secgear.services.crypto.pkcs11.values import Value

if TYPE_CHECKING:
    from secgear.middleware.attestation.anchors import Anchors
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.policy import Policy
    from secgear.middleware.attestation.reference import ReferenceValues

_SM2_PARAMS: Final = bytes.fromhex("06082a811ccf5501822d")
_BEGIN, _END = b"-----BEGIN PRIVATE KEY-----", b"-----END PRIVATE KEY-----"


@final
class ImportKey:
    """A token's import key that was verified and trusted under a policy.

    destination: module and token, as the enclave's evidence says.
    """

    def __init__(self, trusted: TrustedKey) -> None:
        """`verify` calls this. Raises EnvelopeMalformed for a key that is for other things."""
        self.trusted = trusted
        purpose = trusted.key.purposes[0] if len(trusted.key.purposes) == 1 else ""
        self.destination = Destination.of_purpose(purpose)

    def __repr__(self) -> str:
        return f"<ImportKey of {self.destination.purpose}>"

    @classmethod
    def verify(
        cls,
        document: bytes,
        policy: Policy,
        *,
        at: datetime.datetime,
        nonce: bytes | None = None,
        module: bytes | None = None,
        serial: str | None = None,
        collateral: Collateral | None = None,
        anchors: Anchors | None = None,
        reference_values: ReferenceValues | None = None,
    ) -> Self:
        """Verify what the module gave out.

        nonce: the 32 bytes that it was asked with, if it was. module, serial: the module (its audit
        key) and token that are meant; without them any module with a trusted enclave will do, also
        one that somebody else runs. The rest as of `middleware.envelopes.verify_key`.
        Raises EnvelopeError, Untrusted.
        """
        trusted = verify_key(
            document,
            policy,
            at=at,
            context=nonce,
            collateral=collateral,
            anchors=anchors,
            reference_values=reference_values,
        )
        made = cls(trusted)
        if module is not None and made.destination.module != module:
            raise EnvelopeRefused("the import key is another module's")
        if serial is not None and made.destination.serial != serial:
            raise EnvelopeRefused("the import key is another token's")
        return made

    def seal(self, parcel: Parcel, *, at: datetime.datetime | None = None) -> bytes:
        """An envelope with one key. at: now. Raises EnvelopeRefused when the import key expired."""
        purpose = self.destination.purpose
        return seal(self.trusted, parcel.to_cbor(), purpose=purpose, at=at)


def private_parcel(
    key: bytes,
    *,
    passphrase: bytes | None = None,
    label: str,
    id: bytes = b"",
    uses: tuple[str, ...] = ("sign",),
    **more: Value,
) -> Parcel:
    """A private key, in PEM or DER (PKCS#8, or what OpenSSL wrote before), for `ImportKey.seal`.

    uses: ``sign``, ``decrypt``, ``unwrap``, ``derive``, ``decapsulate``. Its public key becomes an
    object, too. more: attributes of the private key by their names.
    Raises KeyFileError for what is no private key, or a wrong passphrase.
    """
    if not set(uses) <= {*algorithms.COUNTERPARTS, "derive"}:
        raise ValueError(f"uses are {', '.join(algorithms.COUNTERPARTS)}, derive")
    given = template(label, id, **(dict.fromkeys(uses, True) | more))
    others = [other for use in uses if (other := algorithms.COUNTERPARTS.get(use))]
    public = template(label, id, **dict.fromkeys(others, True))
    scalar = _sm2_scalar(key)
    if scalar is not None:
        given |= {
            int(Attr.CLASS): int(ObjectClass.PRIVATE_KEY),
            int(Attr.KEY_TYPE): int(KeyType.SM2),
            int(Attr.EC_PARAMS): _SM2_PARAMS,
            int(Attr.VALUE): scalar,
        }
        return Parcel(template=given, public=public)
    load = load_pem_private_key if b"-----BEGIN" in key else load_der_private_key
    try:
        loaded = load(key, passphrase)
    except TypeError:
        hint = "encrypted; give its" if passphrase is None else "not encrypted; leave out the"
        raise KeyFileError(f"the private key is {hint} passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        hint = "" if passphrase is None else ", or a wrong passphrase"
        raise KeyFileError(f"no private key in PEM or DER{hint}") from None
    pkcs8 = loaded.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Parcel(pkcs8=pkcs8, template=given, public=public)


def secret_parcel(
    value: bytes,
    kind: str,
    *,
    label: str,
    id: bytes = b"",
    uses: tuple[str, ...] | None = None,
    **more: Value,
) -> Parcel:
    """A secret key's bytes, for `ImportKey.seal`. kind, uses, more: as of `generate_key`."""
    known = algorithms.SECRETS[kind]
    given = template(label, id, **(dict.fromkeys(uses or known.uses, True) | more))
    given |= {
        int(Attr.CLASS): int(ObjectClass.SECRET_KEY),
        int(Attr.KEY_TYPE): int(known.type),
        int(Attr.VALUE): value,
    }
    return Parcel(template=given)


# --- SM2, for which `cryptography` has no class ---------------------------------------------------


@asn1.sequence
class _PrivateKeyInfo:
    """RFC 5958, without attributes."""

    version: int
    algorithm: EcAlgorithm
    key: bytes


@asn1.sequence
class _EcPrivateKey:
    """RFC 5915."""

    version: int
    scalar: bytes
    public: Annotated[asn1.BitString | None, asn1.Explicit(1)]


def _sm2_scalar(key: bytes) -> bytes | None:
    """The secret of an SM2 key in PKCS#8 that is not encrypted; None for any other key."""
    der = key
    if _BEGIN in key:
        text = key.partition(_BEGIN)[2].partition(_END)[0]
        try:
            der = base64.b64decode(b"".join(text.split()), validate=True)
        except ValueError:
            return None
    try:
        info = asn1.decode_der(_PrivateKeyInfo, der)
        if not info.algorithm.is_sm2:
            return None
        scalar: bytes = asn1.decode_der(_EcPrivateKey, info.key).scalar
    except ValueError:
        return None
    return scalar
