"""NVIDIA's reference integrity manifests: golden measurements of a driver or of a VBIOS.

A manifest is a SWID tag (ISO/IEC 19770-2, TCG Reference Integrity Manifest) with an enveloped XML
signature. Of XML signatures only the one form that NVIDIA uses is accepted: one reference, to the
whole document, SHA-384, ECDSA over P-384, the certificates inside. Nothing is read but the bytes
that the signature covers. Needs the extra ``gpu`` (lxml and signxml).
"""

from __future__ import annotations

import base64
import binascii
import functools
import importlib
import importlib.util
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import MAX_CHAIN, Certificate, load_certificate

# lxml is loaded when a manifest is there to be read, and has no types of its own.
_Element: TypeAlias = Any

MAX_SIZE = 512 << 10  # bytes; twenty kilobytes are usual
MAX_MEASUREMENTS = 512
MAX_ALTERNATIVES = 64
DIGEST_SIZES = (32, 48, 64)  # bytes

_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_RIM = "{https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/}"
_HASHES = "{http://www.w3.org/2001/04/xmlenc#sha384}"
_DSIG = "{http://www.w3.org/2000/09/xmldsig#}"

_C14N = frozenset(
    (
        "http://www.w3.org/2006/12/xml-c14n11",
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
        "http://www.w3.org/2001/10/xml-exc-c14n#",
    )
)
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_NVIDIA = "5703"  # IANA enterprise number
_DECLARATION = re.compile(rb"\s*<\?xml\s[^>]{0,100}\?>")


class RimRefused(Exception):
    """A manifest that is not what it should be, and why."""


class Golden(msgspec.Struct, frozen=True):
    """The values that one measurement may have. index: from zero."""

    index: int
    values: tuple[bytes, ...]


class Manifest(msgspec.Struct, frozen=True):
    """What a manifest says, once its signature verified under `certificates`.

    version: of the driver or VBIOS. product: the chip, ``GH100``. measurements: the active ones by
    index. certificates: the signer's first. Whether to trust them is the caller's to find out.
    """

    version: str
    product: str
    measurements: Mapping[int, Golden]
    certificates: tuple[Certificate, ...]


def available() -> bool:
    """Whether what this needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("lxml", "signxml"))


@functools.lru_cache(maxsize=32)
def read(data: bytes) -> Manifest:
    """Check the signature of a manifest under the first certificate in it, and read it.

    Nothing in here depends on the time. Raises RimRefused.
    """
    root = _parsed(data)
    signature = _only_signature(root)
    certificates = _certificates(signature)
    _check_form(signature)
    content = _parsed(_signed(data, certificates[0]))
    if content.find(f".//{_DSIG}Signature") is not None:
        raise RimRefused("the signed content has a signature inside")
    return _manifest(content, certificates)


def _parsed(data: bytes) -> _Element:
    """XML without a document type, entities, comments or processing instructions."""
    if len(data) > MAX_SIZE:
        raise RimRefused(f"a manifest of {len(data)} bytes; at most {MAX_SIZE} are read")
    declaration = _DECLARATION.match(data)
    body = data[declaration.end() :] if declaration else data
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise RimRefused("a manifest that is not UTF-8") from None
    if b"<!" in body or b"<?" in body or b"\0" in body:
        raise RimRefused("a manifest with a document type, comments or instructions")
    etree = importlib.import_module("lxml.etree")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
    )
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise RimRefused(f"no XML: {error}") from None
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise RimRefused("no SWID tag")
    return root


def _only_signature(root: _Element) -> _Element:
    """The one signature, which is a child of the root: a second could cover something else."""
    found = list(root.iter(f"{_DSIG}Signature"))
    if len(found) != 1 or found[0].getparent() is not root:
        raise RimRefused(f"{len(found)} signatures in the manifest, or not where it belongs")
    return found[0]


def _certificates(signature: _Element) -> tuple[Certificate, ...]:
    texts = [item.text or "" for item in signature.iter(f"{_DSIG}X509Certificate")]
    if not 1 <= len(texts) <= MAX_CHAIN:
        raise RimRefused(f"{len(texts)} certificates in the manifest")
    try:
        return tuple(load_certificate(_decoded(text)) for text in texts)
    except EvidenceMalformed as error:
        raise RimRefused(str(error).removeprefix("format: ")) from None


def _check_form(signature: _Element) -> None:
    """Exactly the elements and algorithms that NVIDIA uses."""
    children = [child.tag for child in signature]
    expected = [f"{_DSIG}{name}" for name in ("SignedInfo", "SignatureValue", "KeyInfo")]
    if children != expected:
        raise RimRefused("a signature of another form")
    info = signature[0]
    names = ["CanonicalizationMethod", "SignatureMethod", "Reference"]
    if [child.tag for child in info] != [f"{_DSIG}{name}" for name in names]:
        raise RimRefused("a signature with other than one reference")
    canonical, method, reference = info
    steps = ["Transforms", "DigestMethod", "DigestValue"]
    if [child.tag for child in reference] != [f"{_DSIG}{name}" for name in steps]:
        raise RimRefused("a reference of another form")
    if dict(reference.attrib) != {"URI": ""}:
        raise RimRefused("a reference to something else than the document")
    transforms = [item.get("Algorithm") for item in reference[0]]
    accepted = (
        canonical.get("Algorithm") in _C14N
        and method.get("Algorithm") == _ECDSA_SHA384
        and reference[1].get("Algorithm") == _SHA384
        and len(transforms) == 2
        and transforms[0] == _ENVELOPED
        and transforms[1] in _C14N
        and not any(len(item) for item in (canonical, method, *reference[0], *reference[1:]))
    )
    if not accepted:
        raise RimRefused("a signature with algorithms that are not accepted")


def _signed(data: bytes, signer: Certificate) -> bytes:
    """The canonical bytes that the signature covers, as the library for it returns them."""
    signxml = importlib.import_module("signxml")
    key = _key(signer)
    if not isinstance(key.curve, ec.SECP384R1):
        raise RimRefused(f"signed with a key on {key.curve.name}")
    try:
        expected = signxml.SignatureConfiguration(
            location="./",
            expect_references=1,
            signature_methods=frozenset([signxml.SignatureMethod.ECDSA_SHA384]),
            digest_algorithms=frozenset([signxml.DigestAlgorithm.SHA384]),
            # Its validity at the time in question is checked with the rest of its chain.
            verification_time=signer.not_before,
        )
        result = signxml.XMLVerifier().verify(
            _parsed(data), x509_cert=signer.parsed, expect_config=expected
        )
    except Exception as error:  # noqa: BLE001  (lxml's, signxml's, and what they let through)
        raise RimRefused(f"its signature does not verify: {str(error)[:200]}") from None
    content: bytes = result.signed_data
    return content


def _key(signer: Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = signer.public_key
    except EvidenceMalformed as error:
        raise RimRefused(str(error).removeprefix("format: ")) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RimRefused("its signer's key is not EC")
    return key


def _manifest(root: _Element, certificates: tuple[Certificate, ...]) -> Manifest:
    metas = root.findall(f"{_SWID}Meta")
    payloads = root.findall(f"{_SWID}Payload")
    if len(metas) != 1 or len(payloads) != 1:
        raise RimRefused("a SWID tag without exactly one Meta and one Payload")
    meta = metas[0]
    if meta.get(f"{_RIM}PlatformManufacturerId") != _NVIDIA:
        raise RimRefused("a manifest that is not about NVIDIA's devices")
    version, product = meta.get("colloquialVersion"), meta.get("product")
    if not version or not product:
        raise RimRefused("a manifest without version or product")
    golden: dict[int, Golden] = {}
    resources = payloads[0].findall(f"{_SWID}Resource")
    if len(resources) > MAX_MEASUREMENTS:
        raise RimRefused(f"{len(resources)} measurements")
    for resource in resources:
        if resource.get("type") != "Measurement":
            raise RimRefused(f"a resource of type {str(resource.get('type'))[:32]!r}")
        if resource.get("active") == "False":
            continue
        entry = _golden(resource)
        if entry.index in golden:
            raise RimRefused(f"measurement {entry.index} is there twice")
        golden[entry.index] = entry
    if not golden:
        raise RimRefused("no active measurement")
    return Manifest(version, product, golden, certificates)


def _golden(resource: _Element) -> Golden:
    if resource.get("active") != "True":
        raise RimRefused("a measurement that is neither active nor inactive")
    index = _number(resource.get("index"), MAX_MEASUREMENTS)
    alternatives = _number(resource.get("alternatives"), MAX_ALTERNATIVES)
    size = _number(resource.get("size"), max(DIGEST_SIZES))
    if alternatives == 0 or size not in DIGEST_SIZES:
        raise RimRefused(f"measurement {index} has no digest")
    values = tuple(
        _digest(resource.get(f"{_HASHES}Hash{number}"), size) for number in range(alternatives)
    )
    return Golden(index, values)


def _number(text: str | None, most: int) -> int:
    if text is None or not re.fullmatch(r"[0-9]{1,4}", text) or int(text) > most:
        raise RimRefused("a measurement with a number out of range")
    return int(text)


def _digest(text: str | None, size: int) -> bytes:
    if text is None or not re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", text):
        raise RimRefused("a measurement whose digest is not hexadecimal of its size")
    return bytes.fromhex(text)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RimRefused("a certificate that is not base64") from None
