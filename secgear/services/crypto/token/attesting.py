"""The module's attestation key, and what it signs: statements about keys and the module itself.

The key is made when it is first needed after a start, is never stored and never leaves; evidence of
this enclave about it is in its certificate. So nobody but this enclave, as it runs now, can have
signed what leads to it, and there is nothing that could be backed up, copied or rolled back.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
from typing import Final, final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from secgear.base.tee import Guest
from secgear.middleware.attestation import cose
from secgear.middleware.channel.ratls import forms
from secgear.services.crypto import pkix
from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr, ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.statement import (
    ATTESTS,
    ATTESTS_KEYS,
    CONTENT_TYPE,
    FLAGS,
    KEY_STATEMENT,
    KEY_TYPE,
    MAX_TEXT,
    MODULE_TYPE,
    KeyStatement,
    ModuleStatement,
    TokenStatement,
)
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.state import TokenState

_ES256: Final = -7
_SCALAR: Final = 32  # bytes
_MAX_NAME: Final = 64  # bytes of a common name, as `cryptography` counts them
# An enclave's clock is its host's: nobody judges these certificates by their dates.
_FROM: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@final
class Attestor:
    """Signs statements. guest: gives evidence about this enclave. Safe for threads.

    Methods raise GuestError when the TEE gives no evidence.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._lock = threading.Lock()
        self._key: ec.EllipticCurvePrivateKey | None = None
        self._certificate = b""  # without a nonce: made once

    def __repr__(self) -> str:
        return "<Attestor>"

    def certificate(self, nonce: bytes = b"") -> bytes:
        """The attestation key's certificate, in DER, with evidence about it; for a nonce, new."""
        key = self._made()
        if nonce:
            return _certified(key, self._guest, nonce)
        with self._lock:
            if not self._certificate:
                self._certificate = _certified(key, self._guest, b"")
            return self._certificate

    def certify(self, spki: bytes, statement: KeyStatement) -> bytes:
        """The certificate of a key pair, with the statement in it, and `certificate`, in PEM.

        spki: the public key, in DER.
        """
        key, issuer = self._made(), self.certificate(statement.nonce)
        label = statement.label.decode("utf-8", "replace").encode()
        name = label[:_MAX_NAME].decode("utf-8", "ignore") or "key"
        leaf = pkix.certificate(
            issuer=_name(key),
            subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]).public_bytes(),
            spki=spki,
            serial=x509.random_serial_number(),
            not_before=_FROM,
            not_after=pkix.NO_END,
            extensions=(
                _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
                _extension(x509.SubjectKeyIdentifier(_identifier(spki))),
                _extension(x509.AuthorityKeyIdentifier(_identifier(_spki(key)), None, None)),
                _extension(x509.UnrecognizedExtension(KEY_STATEMENT, statement.to_cbor())),
            ),
            algorithm=pkix.ECDSA_SHA256,
            sign=self._sign,
        )
        both = (x509.load_der_x509_certificate(der) for der in (leaf, issuer))
        return b"".join(one.public_bytes(Encoding.PEM) for one in both)

    def sign(self, statement: KeyStatement | ModuleStatement) -> bytes:
        """A COSE_Sign1 of a statement that is about no public key, with the certificate in it."""
        kind = KEY_TYPE if isinstance(statement, KeyStatement) else MODULE_TYPE
        protected = cbor2.dumps(
            {cose.ALG: _ES256, CONTENT_TYPE: kind, cose.X5CHAIN: self.certificate(statement.nonce)},
            canonical=True,
        )
        payload = statement.to_cbor()
        message = cose.Sign1(protected, {}, payload, b"")
        r, s = decode_dss_signature(self._sign(message.to_be_signed()))
        signature = r.to_bytes(_SCALAR, "big") + s.to_bytes(_SCALAR, "big")
        return cbor2.dumps(cbor2.CBORTag(cose.TAG, [protected, {}, payload, signature]))

    def _sign(self, data: bytes) -> bytes:
        return self._made().sign(data, ec.ECDSA(hashes.SHA256()))

    def _made(self) -> ec.EllipticCurvePrivateKey:
        with self._lock:
            if self._key is None:
                self._key = ec.generate_private_key(ec.SECP256R1())
            return self._key


def describe(
    item: Object, token: TokenState, module: bytes, *, nonce: bytes, at: datetime.datetime
) -> KeyStatement:
    """The statement about a private or secret key. module: its audit key.

    Raises CryptokiError for what is no such key, and for a label or id that is too long.
    """
    attributes = item.attributes
    if item.object_class not in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
        raise CryptokiError(Rv.KEY_TYPE_INCONSISTENT)
    label, id = _octets(item, Attr.LABEL), _octets(item, Attr.ID)
    if max(len(label), len(id)) > MAX_TEXT:
        raise CryptokiError(Rv.DATA_LEN_RANGE)
    secret = item.object_class == ObjectClass.SECRET_KEY
    local = item.flag(Attr.LOCAL)
    mechanism = attributes.get(Attr.KEY_GEN_MECHANISM, UNAVAILABLE)
    mechanisms = attributes.get(Attr.ALLOWED_MECHANISMS, ())
    size = attributes.get(Attr.VALUE_LEN)
    return KeyStatement(
        version=1,
        module=module,
        token=token.label.rstrip(),
        serial=token.serial,
        class_=item.object_class,
        type=item.key_type,
        label=label,
        id=id,
        flags=tuple(sorted(name for name, attr in FLAGS.items() if item.flag(attr))),
        generated_by=mechanism if local and isinstance(mechanism, int) else None,
        envelope=_octets(item, Attr.ENVELOPE),
        mechanisms=mechanisms if isinstance(mechanisms, tuple) else (),
        size=size if secret and isinstance(size, int) else None,
        # Of a key that somebody chose it could help to guess it.
        check_value=_octets(item, Attr.CHECK_VALUE) if secret and local else b"",
        nonce=nonce,
        at=int(at.timestamp()),
    )


def describe_token(slot: int, token: TokenState) -> TokenStatement:
    """What a module says about one of its tokens."""
    return TokenStatement(slot, token.serial, token.label.rstrip(), token.so is not None)


def _certified(key: ec.EllipticCurvePrivateKey, guest: Guest, nonce: bytes) -> bytes:
    spki = _spki(key)
    more = {ATTESTS: ATTESTS_KEYS} | ({forms.NONCE: nonce} if nonce else {})
    claims = forms.claims_about(spki, more)
    evidence = guest.evidence(hashlib.sha256(claims).digest().ljust(64, b"\0"))
    return pkix.certificate(
        issuer=_name(key),
        subject=_name(key),
        spki=spki,
        serial=x509.random_serial_number(),
        not_before=_FROM,
        not_after=pkix.NO_END,
        extensions=(
            _extension(x509.BasicConstraints(ca=True, path_length=0), critical=True),
            _extension(_USAGE, critical=True),
            _extension(x509.SubjectKeyIdentifier(_identifier(spki))),
            _extension(
                x509.UnrecognizedExtension(
                    x509.ObjectIdentifier(forms.INTEROPERABLE_OID), forms.pack(evidence, claims)
                )
            ),
        ),
        algorithm=pkix.ECDSA_SHA256,
        sign=lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())),
    )


def _extension(
    value: x509.ExtensionType, *, critical: bool = False
) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


def _octets(item: Object, attr: int) -> bytes:
    value = item.attributes.get(attr, b"")
    return value if isinstance(value, bytes) else b""


def _name(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The attestation key's name, in DER: another one for every key."""
    digest = hashlib.sha256(_spki(key)).hexdigest()[:16]
    text = f"secGear key attestation {digest}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]).public_bytes()


def _identifier(spki: bytes) -> bytes:
    """RFC 7093, section 2, method 4: the leftmost 160 bits of a digest over the whole key."""
    return hashlib.sha256(spki).digest()[:20]


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
