"""QE identity: which quoting enclaves Intel stands behind, and from which security version on.

Version 2 of the structure that the PCS serves; Intel's "Provisioning Certification Service for
ECDSA Attestation", Get SGX QE Identity and Get TDX QE Identity.
"""

from __future__ import annotations

import datetime
import functools
from typing import Annotated, Literal

import msgspec

from secgear.middleware.attestation.formats.dcap.report import SgxReport
from secgear.middleware.attestation.formats.dcap.signing import SignedJson, read_signed
from secgear.middleware.attestation.formats.dcap.tcbinfo import (
    EnclaveLevel,
    JsonEnclaveLevel,
    Svn16,
    Time,
)

KIND = "intel.qe-identity"

_Hex = Annotated[str, msgspec.Meta(pattern="^(?:[0-9a-fA-F]{2})*$", max_length=64)]
_TEES = {"QE": "sgx", "TD_QE": "tdx", "QVE": "qve"}


class QeIdentity(msgspec.Struct, frozen=True):
    """What one document says. tee: whose quoting enclave: ``sgx``, ``tdx``."""

    signed: SignedJson
    tee: str
    issued: datetime.datetime
    next_update: datetime.datetime
    evaluation: int
    miscselect: int
    miscselect_mask: int
    attributes: int
    attributes_mask: int
    mrsigner: bytes
    product_id: int
    levels: tuple[EnclaveLevel, ...]

    def fault(self, report: SgxReport) -> tuple[str, str, str] | None:
        """What of the enclave's report differs, what it should be and is; None if nothing does.

        Intel's "Attestation Library", 4.1.2.9.
        """
        attributes = int.from_bytes(report.attributes, "big")
        pairs = (
            ("MRSIGNER", self.mrsigner.hex(), report.mrsigner.hex()),
            ("ISVPRODID", str(self.product_id), str(report.product_id)),
            (
                "MISCSELECT",
                f"{self.miscselect:#x}",
                f"{report.miscselect & self.miscselect_mask:#x}",
            ),
            ("ATTRIBUTES", f"{self.attributes:032x}", f"{attributes & self.attributes_mask:032x}"),
        )
        return next((pair for pair in pairs if pair[1] != pair[2]), None)


class _Json(msgspec.Struct, rename="camel"):
    id: Literal["QE", "TD_QE", "QVE"]
    version: int
    issue_date: Time
    next_update: Time
    tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    miscselect: _Hex
    miscselect_mask: _Hex
    attributes: _Hex
    attributes_mask: _Hex
    mrsigner: _Hex
    isvprodid: Svn16
    tcb_levels: Annotated[list[JsonEnclaveLevel], msgspec.Meta(min_length=1, max_length=1024)]


_DECODER = msgspec.json.Decoder(_Json)


@functools.lru_cache(maxsize=128)
def parse(data: bytes) -> QeIdentity:
    """A document as the PCS serves it. Raises ValueError. Its signature is for the caller."""
    signed = read_signed(data, "enclaveIdentity")
    body = _DECODER.decode(signed.body)
    if body.version != 2:
        raise ValueError(f"QE identity of version {body.version}; 2 is known")
    return QeIdentity(
        signed=signed,
        tee=_TEES[body.id],
        issued=body.issue_date,
        next_update=body.next_update,
        evaluation=body.tcb_evaluation_data_number,
        # MISCSELECT is printed as it lies in memory, in little-endian order.
        miscselect=int.from_bytes(_sized(body.miscselect, 4), "little"),
        miscselect_mask=int.from_bytes(_sized(body.miscselect_mask, 4), "little"),
        attributes=int.from_bytes(_sized(body.attributes, 16), "big"),
        attributes_mask=int.from_bytes(_sized(body.attributes_mask, 16), "big"),
        mrsigner=_sized(body.mrsigner, 32),
        product_id=body.isvprodid,
        levels=tuple(level.read() for level in body.tcb_levels),
    )


def _sized(text: str, size: int) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != size:
        raise ValueError(f"a field of {len(found)} bytes in the QE identity, not {size}")
    return found
