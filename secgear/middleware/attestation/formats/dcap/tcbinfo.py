"""TCB information: which security versions of a platform Intel calls up to date.

Versions 2 (SGX) and 3 (SGX and TDX) of the structure that the PCS serves; Intel's "Provisioning
Certification Service for ECDSA Attestation", Get SGX TCB Info and Get TDX TCB Info.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from secgear.middleware.attestation.claims import TcbStatus
from secgear.middleware.attestation.formats.dcap.pck import COMPONENTS
from secgear.middleware.attestation.formats.dcap.signing import SignedJson, read_signed

KIND = "intel.tcb-info"

Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]
Svn = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Svn16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Hex = Annotated[str, msgspec.Meta(pattern="^(?:[0-9a-fA-F]{2})*$", max_length=96)]
_Levels = msgspec.Meta(min_length=1, max_length=1024)
_Advisories = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=512)
]

PlatformStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
EnclaveStatus = Literal["UpToDate", "OutOfDate", "Revoked"]


class Component(msgspec.Struct, frozen=True):
    """One component's security version, and what Intel calls it where it says."""

    svn: Svn
    category: Annotated[str, msgspec.Meta(max_length=64)] = ""
    type: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Level(msgspec.Struct, frozen=True):
    """A TCB level: at least these versions have this status.

    tdx: None where the level is for SGX only. sgx_svns, tdx_svns: the versions alone.
    """

    sgx: tuple[Component, ...]
    sgx_svns: bytes
    pce_svn: int
    tdx: tuple[Component, ...] | None
    tdx_svns: bytes | None
    date: datetime.datetime
    status: TcbStatus
    advisories: tuple[str, ...]


class EnclaveLevel(msgspec.Struct, frozen=True):
    """A TCB level of an enclave or TDX module: from `svn` on, it has this status."""

    svn: int
    date: datetime.datetime
    status: TcbStatus
    advisories: tuple[str, ...]


class ModuleIdentity(msgspec.Struct, frozen=True):
    """A major version of the TDX module.

    levels: the highest first, as Intel's library orders them; empty in the identity of version 0.
    """

    name: str
    mrsigner: bytes
    attributes: bytes
    levels: tuple[EnclaveLevel, ...]


class TcbInfo(msgspec.Struct, frozen=True):
    """What one document says. tee: ``sgx`` or ``tdx``. levels: the highest first."""

    signed: SignedJson
    tee: str
    version: int
    issued: datetime.datetime
    next_update: datetime.datetime
    fmspc: bytes
    pce_id: bytes
    evaluation: int
    levels: tuple[Level, ...]
    module: ModuleIdentity | None
    module_identities: tuple[ModuleIdentity, ...]


class _EnclaveTcb(msgspec.Struct):
    isvsvn: Svn16


class JsonEnclaveLevel(msgspec.Struct, rename="camel"):
    """A level as JSON has it; QE identities have the same."""

    tcb: _EnclaveTcb
    tcb_date: Time
    tcb_status: EnclaveStatus
    advisories: _Advisories = msgspec.field(name="advisoryIDs", default_factory=list)

    def read(self) -> EnclaveLevel:
        """The same in our words."""
        return EnclaveLevel(
            self.tcb.isvsvn, self.tcb_date, TcbStatus(self.tcb_status), tuple(self.advisories)
        )


class _Module(msgspec.Struct, rename="camel"):
    mrsigner: _Hex
    attributes: _Hex
    attributes_mask: _Hex
    id: Annotated[str, msgspec.Meta(max_length=32)] = ""
    tcb_levels: Annotated[list[JsonEnclaveLevel], msgspec.Meta(max_length=1024)] = []

    def read(self) -> ModuleIdentity:
        mrsigner, attributes = bytes.fromhex(self.mrsigner), bytes.fromhex(self.attributes)
        if len(mrsigner) != 48 or len(attributes) != 8:
            raise ValueError("a TDX module's identity of wrong size")
        found = (level.read() for level in self.tcb_levels)
        levels = tuple(sorted(found, key=lambda level: level.svn, reverse=True))
        return ModuleIdentity(self.id.upper(), mrsigner, attributes, levels)


class _Level(msgspec.Struct, rename="camel"):
    tcb: dict[str, Any]
    tcb_date: Time
    tcb_status: PlatformStatus
    advisories: _Advisories = msgspec.field(name="advisoryIDs", default_factory=list)


class _Json(msgspec.Struct, rename="camel"):
    version: int
    issue_date: Time
    next_update: Time
    fmspc: _Hex
    pce_id: _Hex
    tcb_type: int
    tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    tcb_levels: Annotated[list[_Level], _Levels]
    id: Literal["SGX", "TDX"] | None = None
    tdx_module: _Module | None = None
    tdx_module_identities: Annotated[list[_Module], msgspec.Meta(max_length=256)] = []


_DECODER = msgspec.json.Decoder(_Json)


@functools.lru_cache(maxsize=128)
def parse(data: bytes) -> TcbInfo:
    """A document as the PCS serves it. Raises ValueError. Its signature is for the caller."""
    signed = read_signed(data, "tcbInfo")
    body = _DECODER.decode(signed.body)
    fmspc, pce_id = bytes.fromhex(body.fmspc), bytes.fromhex(body.pce_id)
    if body.version not in (2, 3):
        raise ValueError(f"TCB information of version {body.version}; 2 and 3 are known")
    tee = "SGX" if body.version == 2 else body.id
    if tee is None or body.id not in (None, tee):
        raise ValueError("TCB information that names no TEE, or one that its version has not")
    if len(fmspc) != 6 or len(pce_id) != 2 or body.tcb_type != 0:
        raise ValueError("TCB information with an FMSPC, PCEID or TCB type of no sense")
    if tee == "TDX" and body.tdx_module is None:
        raise ValueError("TCB information for TDX without the TDX module's identity")
    if not all(module.tcb_levels for module in body.tdx_module_identities):
        raise ValueError("TCB information with a TDX module that has no levels")
    return TcbInfo(
        signed=signed,
        tee=tee.lower(),
        version=body.version,
        issued=body.issue_date,
        next_update=body.next_update,
        fmspc=fmspc,
        pce_id=pce_id,
        evaluation=body.tcb_evaluation_data_number,
        levels=_ordered(_level(level, body.version, tee == "TDX") for level in body.tcb_levels),
        module=body.tdx_module.read() if body.tdx_module else None,
        module_identities=tuple(module.read() for module in body.tdx_module_identities),
    )


def _level(level: _Level, version: int, tdx: bool) -> Level:
    tcb = level.tcb
    if version == 2:
        sgx = [{"svn": tcb.get(f"sgxtcbcomp{index:02}svn")} for index in range(1, COMPONENTS + 1)]
    else:
        sgx = tcb.get("sgxtcbcomponents", [])
    sgx_components = _components(sgx)
    tdx_components = _components(tcb.get("tdxtcbcomponents")) if tdx else None
    return Level(
        sgx=sgx_components,
        sgx_svns=_svns(sgx_components),
        pce_svn=msgspec.convert(tcb.get("pcesvn"), Svn16),
        tdx=tdx_components,
        tdx_svns=None if tdx_components is None else _svns(tdx_components),
        date=level.tcb_date,
        status=TcbStatus(level.tcb_status),
        advisories=tuple(level.advisories),
    )


def _ordered(levels: Iterable[Level]) -> tuple[Level, ...]:
    """As Intel's library orders them, not as the document does: the first match counts."""
    return tuple(
        sorted(
            levels,
            key=lambda level: (level.sgx_svns, level.pce_svn, level.tdx_svns or b""),
            reverse=True,
        )
    )


def _components(found: Any) -> tuple[Component, ...]:
    components = tuple(msgspec.convert(found, list[Component]))
    if len(components) != COMPONENTS:
        raise ValueError(f"a TCB level with {len(components)} components, not {COMPONENTS}")
    return components


def _svns(components: tuple[Component, ...]) -> bytes:
    return bytes(component.svn for component in components)
