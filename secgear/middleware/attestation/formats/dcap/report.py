"""The 384-byte enclave report: body of an SGX quote, and what certifies a quoting enclave.

Intel SDM, volume 3D, section 37.15 (REPORT), up to the key id.
"""

from __future__ import annotations

import msgspec

from secgear.middleware.attestation.reader import Reader

SGX_REPORT_SIZE = 384
DEBUG = 1 << 1  # ATTRIBUTES.DEBUG


class SgxReport(msgspec.Struct, frozen=True):
    """What SGX says about an enclave.

    attributes: flags and XFRM, 16 bytes as they are. flags, xfrm: the same as numbers.
    ext_product_id, config_id, family_id: key separation and sharing (KSS); zero without it.
    """

    raw: bytes
    cpu_svn: bytes
    miscselect: int
    ext_product_id: bytes
    attributes: bytes
    mrenclave: bytes
    mrsigner: bytes
    config_id: bytes
    product_id: int
    svn: int
    config_svn: int
    family_id: bytes
    report_data: bytes

    @property
    def flags(self) -> int:
        """ATTRIBUTES without XFRM."""
        return int.from_bytes(self.attributes[:8], "little")

    @property
    def xfrm(self) -> int:
        """The processor state components that the enclave uses."""
        return int.from_bytes(self.attributes[8:], "little")

    @property
    def debug(self) -> bool:
        """Whether the host can read and write the enclave's memory."""
        return bool(self.flags & DEBUG)


def read_sgx(data: bytes) -> SgxReport:
    """Bytes to fields. Raises EvidenceMalformed."""
    reader = Reader(data, "enclave report")
    cpu_svn = reader.take(16, "CPUSVN")
    miscselect = reader.integer(4, "MISCSELECT")
    reader.zeros(12, "bytes 20 to 31")
    ext_product_id = reader.take(16, "ISVEXTPRODID")
    attributes = reader.take(16, "ATTRIBUTES")
    mrenclave = reader.take(32, "MRENCLAVE")
    reader.zeros(32, "bytes 96 to 127")
    mrsigner = reader.take(32, "MRSIGNER")
    reader.zeros(32, "bytes 160 to 191")
    config_id = reader.take(64, "CONFIGID")
    product_id = reader.integer(2, "ISVPRODID")
    svn = reader.integer(2, "ISVSVN")
    config_svn = reader.integer(2, "CONFIGSVN")
    reader.zeros(42, "bytes 262 to 303")
    family_id = reader.take(16, "ISVFAMILYID")
    report_data = reader.take(64, "REPORTDATA")
    reader.end()
    return SgxReport(
        raw=bytes(data),
        cpu_svn=cpu_svn,
        miscselect=miscselect,
        ext_product_id=ext_product_id,
        attributes=attributes,
        mrenclave=mrenclave,
        mrsigner=mrsigner,
        config_id=config_id,
        product_id=product_id,
        svn=svn,
        config_svn=config_svn,
        family_id=family_id,
        report_data=report_data,
    )
