"""The simulated platform: a local root that signs evidence and derives sealing keys.

It plays the part that hardware plays elsewhere, with the form (a signed token with a certificate
chain) and without the substance: its keys lie in a file, and who can read that file can sign
anything. Every token says ``simulated``; verifiers refuse it unless their policy names it.

Token: COSE_Sign1 (RFC 9052), ES384, chain in ``x5chain`` (RFC 9360); payload a CWT (RFC 8392)
with EAT claims (RFC 9711) and claims of our own under text keys.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from secgear.base.image import Image
from secgear.base.tee import Layer, SealingPolicy
from secgear.errors import GuestError, LaunchFailed

PROFILE = "tag:secgear,2026:process-simulated"

_ALG, _X5CHAIN = 1, 33  # COSE header parameters
_ES384 = -35
_IAT, _NONCE, _DEBUG_STATUS, _PROFILE = 6, 10, 263, 265  # CWT and EAT claims
_DEBUG_ENABLED, _DEBUG_DISABLED = 0, 1


def home() -> Path:
    """Where the simulated platform keeps its secrets: ``$SECGEAR_HOME`` or the user's data."""
    explicit = os.environ.get("SECGEAR_HOME")
    if explicit:
        return Path(explicit)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "secgear"


class SimulatedPlatform:
    """One user's simulated root. Created on first use; `repr` shows no key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "simulated-platform"
        secret = _once(self._directory / "root.key", _new_root)
        try:
            key = serialization.load_pem_private_key(secret, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise LaunchFailed(f"{self._directory}: root.key is no EC key; remove the folder")
        self._key = key
        certificate = _once(self._directory / "root.crt", lambda: _certify(key))
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate)
        except ValueError:
            raise LaunchFailed(
                f"{self._directory}: root.crt is no certificate; remove the folder"
            ) from None
        self._seal = _once(self._directory / "seal.key", lambda: os.urandom(32))
        if len(self._seal) != 32 or self._certificate.public_key() != key.public_key():
            raise LaunchFailed(f"{self._directory}: its files do not belong together; remove it")

    def __repr__(self) -> str:
        return f"SimulatedPlatform({str(self._directory)!r})"

    @property
    def root(self) -> x509.Certificate:
        """The certificate that a verifier on this machine may pin, for simulated evidence."""
        return self._certificate

    def evidence(self, image: Image, layers: tuple[Layer, ...], report_data: bytes) -> bytes:
        """A token about an enclave started from `image`.

        report_data: 64 bytes, in the token's ``eat_nonce``.
        """
        if len(report_data) != 64:
            raise GuestError(f"report data is 64 bytes, not {len(report_data)}")
        manifest = image.manifest
        claims = {
            _PROFILE: PROFILE,
            _IAT: int(time.time()),
            _NONCE: report_data,
            _DEBUG_STATUS: _DEBUG_ENABLED if manifest.debug else _DEBUG_DISABLED,
            "tee": "process",
            "simulated": True,
            "measurement": image.measurement,
            "signer": image.signer,
            "product": manifest.product,
            "svn": manifest.svn,
            "layers": {layer.name: layer.holds for layer in layers},
        }
        payload = cbor2.dumps(claims, canonical=True)
        protected = cbor2.dumps({_ALG: _ES384}, canonical=True)
        to_sign = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(self._key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        chain = self._certificate.public_bytes(serialization.Encoding.DER)
        return cbor2.dumps(cbor2.CBORTag(18, [protected, {_X5CHAIN: chain}, payload, signature]))

    def sealing_key(self, image: Image, policy: SealingPolicy, svn: int | None) -> bytes:
        """32 bytes that only the identity which `policy` names gets again.

        Raises GuestError for SIGNER without a signature and for an svn above the image's own.
        """
        own = image.manifest.svn
        wanted = own if svn is None else svn
        if not 0 <= wanted <= own:
            raise GuestError(f"svn {wanted} is above the enclave's own, {own}")
        if policy is SealingPolicy.MEASUREMENT:
            identity = image.measurement
        else:
            if image.signer is None:
                raise GuestError("the image is not signed, so there is no signer to seal to")
            identity = image.signer + image.manifest.product.encode()
        debug = b"debug" if image.manifest.debug else b"production"
        info = cbor2.dumps(["secgear sealing key v1", policy.value, debug, wanted, identity])
        return HKDF(hashes.SHA384(), 32, salt=None, info=info).derive(self._seal)


def _new_root() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certify(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "secGear simulated root (no hardware)")]
    )
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2056))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _once(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content, made by the first caller; safe among processes that start at once.

    A complete file is linked into place, so nobody reads half of one and the first one wins.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LaunchFailed(
            f"{path}: {error.strerror}; set SECGEAR_HOME to a place of yours"
        ) from error
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(make())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()
        return path.read_bytes()
    except OSError as error:
        raise LaunchFailed(
            f"{path.parent}: {error.strerror}; the simulated platform keeps its keys there. Set "
            "SECGEAR_HOME to a directory of yours"
        ) from error
