"""PCK certificates: which platform a provisioning certification key belongs to, and its TCB.

The extension 1.2.840.113741.1.13.1 as in Intel's "SGX PCK Certificate and CRL Profile
Specification", section 1.3.5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import Certificate
from secgear.middleware.attestation.formats.dcap import der

SGX_EXTENSION = "1.2.840.113741.1.13.1"
COMPONENTS = 16

_ARCS = (1, 2, 840, 113741, 1, 13, 1)
_PPID, _TCB, _PCEID, _FMSPC, _TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_PCESVN, _CPUSVN = 17, 18
_DYNAMIC, _CACHED_KEYS, _SMT = 1, 2, 3
_TYPES = {0: "Standard", 1: "Scalable", 2: "ScalableWithIntegrity"}

T = TypeVar("T")


class Pck(msgspec.Struct, frozen=True):
    """What Intel certifies about the platform.

    components: the 16 SGX TCB component SVNs. pce_svn, pce_id: of the provisioning certification
    enclave; the id in the byte order of TCB information. sgx_type: Standard, Scalable or
    ScalableWithIntegrity. The last four are for multi-package platforms only, else None.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: str
    instance_id: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None


@functools.lru_cache(maxsize=512)
def read_pck(certificate: Certificate) -> Pck:
    """What the certificate's SGX extension says. Raises EvidenceMalformed, also if it has none."""
    extension = certificate.extension(SGX_EXTENSION)
    if extension is None:
        raise EvidenceMalformed(f"format: {certificate.subject} has no SGX extension")
    fields = _table(der.value(extension, der.SEQUENCE), _ARCS)
    tcb = _table(_get(fields, _TCB, der.SEQUENCE), (*_ARCS, _TCB))
    flags: Mapping[int, tuple[int, bytes]] = {}
    if _CONFIGURATION in fields:
        flags = _table(_get(fields, _CONFIGURATION, der.SEQUENCE), (*_ARCS, _CONFIGURATION))
    kind = der.natural(_get(fields, _TYPE, der.ENUMERATED))
    if kind not in _TYPES:
        raise EvidenceMalformed(f"format: PCK certificate of SGX type {kind}")
    return Pck(
        ppid=_octets(fields, _PPID, 16),
        components=tuple(_number(tcb, index, 0xFF) for index in range(1, COMPONENTS + 1)),
        pce_svn=_number(tcb, _PCESVN, 0xFFFF),
        cpu_svn=_octets(tcb, _CPUSVN, 16),
        pce_id=_octets(fields, _PCEID, 2),
        fmspc=_octets(fields, _FMSPC, 6),
        sgx_type=_TYPES[kind],
        instance_id=_octets(fields, _INSTANCE, 16) if _INSTANCE in fields else None,
        dynamic_platform=_maybe(flags, _DYNAMIC, der.BOOLEAN, der.boolean),
        cached_keys=_maybe(flags, _CACHED_KEYS, der.BOOLEAN, der.boolean),
        smt_enabled=_maybe(flags, _SMT, der.BOOLEAN, der.boolean),
    )


def _table(content: bytes, prefix: tuple[int, ...]) -> Mapping[int, tuple[int, bytes]]:
    """A sequence of pairs of identifier and value, by the last arc of the identifier."""
    found: dict[int, tuple[int, bytes]] = {}
    for tag, pair in der.elements(content):
        inner = tuple(der.elements(pair)) if tag == der.SEQUENCE else ()
        if len(inner) != 2 or inner[0][0] != der.OID:
            raise EvidenceMalformed("format: SGX extension: no pair of identifier and value")
        arcs = der.identifier(inner[0][1])
        if arcs[:-1] != prefix:
            raise EvidenceMalformed("format: SGX extension: an identifier of somebody else")
        if arcs[-1] in found:
            raise EvidenceMalformed(f"format: SGX extension: field {arcs[-1]} twice")
        found[arcs[-1]] = inner[1]
    return found


def _get(fields: Mapping[int, tuple[int, bytes]], field: int, tag: int) -> bytes:
    found = fields.get(field)
    if found is None or found[0] != tag:
        raise EvidenceMalformed(f"format: SGX extension: field {field} is missing or of wrong type")
    return found[1]


def _octets(fields: Mapping[int, tuple[int, bytes]], field: int, size: int) -> bytes:
    found = _get(fields, field, der.OCTETS)
    if len(found) != size:
        raise EvidenceMalformed(f"format: SGX extension: field {field} has {len(found)} bytes")
    return found


def _number(fields: Mapping[int, tuple[int, bytes]], field: int, most: int) -> int:
    found = der.natural(_get(fields, field, der.INTEGER))
    if found > most:
        raise EvidenceMalformed(f"format: SGX extension: field {field} is {found}")
    return found


def _maybe(
    fields: Mapping[int, tuple[int, bytes]], field: int, tag: int, read: Callable[[bytes], T]
) -> T | None:
    return read(_get(fields, field, tag)) if field in fields else None
