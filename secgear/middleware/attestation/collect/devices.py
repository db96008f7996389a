"""Devices that answer one ioctl: /dev/sev-guest and /dev/nsm; and /dev/tdx_guest, which does not.

Structures as in the kernel's uapi headers: linux/sev-guest.h, linux/nsm.h, linux/tdx-guest.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from typing import Final

import cbor2

from secgear.base.tee import Evidence
from secgear.errors import CollectionFailed, EvidenceMalformed
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.collect.system import System

SEV_GUEST, NSM, TDX_GUEST = "/dev/sev-guest", "/dev/nsm", "/dev/tdx_guest"

SNP_GET_REPORT: Final = 0xC0205300
SNP_GET_EXT_REPORT: Final = 0xC0205302
NSM_REQUEST: Final = 0xC0200A00

_MESSAGE_VERSION = 1
_RESPONSE_SIZE, _REPORT_OFFSET, _REPORT_SIZE = 4000, 0x20, 1184
_CERTIFICATES = 16 << 10  # bytes to begin with; the host says how many it needs
_MAX_CERTIFICATES = 1 << 20
_VMM_INVALID_LENGTH, _VMM_BUSY = 1, 2
_ATTEMPTS, _PAUSE = 10, 0.5  # seconds: hosts throttle guests
_NSM_REQUEST_SIZE, _NSM_RESPONSE_SIZE = 0x1000, 0x3000


def collect_sev_guest(report_data: bytes, system: System, *, vmpl: int = 0) -> Evidence:
    """An SEV-SNP report, with the host's certificate table where it has one.

    Raises CollectionFailed with the firmware's or the host's error.
    """
    descriptor = _open(SEV_GUEST, system)
    try:
        size = _CERTIFICATES
        while True:
            report, certificates, needed = _extended(descriptor, report_data, vmpl, size, system)
            if needed <= size:
                attached = {"certs": certificates} if any(certificates) else {}
                return Evidence("amd.sev-snp", report, attached)
            if needed > _MAX_CERTIFICATES:
                raise CollectionFailed(f"sev-guest: the host has {needed} bytes of certificates")
            size = needed
    finally:
        os.close(descriptor)


def _extended(
    descriptor: int, report_data: bytes, vmpl: int, size: int, system: System
) -> tuple[bytes, bytes, int]:
    """Report, certificates and the size that the host wants for them: if more, ask again."""
    certificates = ctypes.create_string_buffer(size)
    response = ctypes.create_string_buffer(_RESPONSE_SIZE)
    inner = struct.pack("<64sI28x", report_data, vmpl)
    inner += struct.pack("<QI4x", ctypes.addressof(certificates), size)
    request = ctypes.create_string_buffer(inner, len(inner))
    for _ in range(_ATTEMPTS):
        outer = bytearray(
            struct.pack(
                "<B7xQQQ",
                _MESSAGE_VERSION,
                ctypes.addressof(request),
                ctypes.addressof(response),
                0,
            )
        )
        try:
            system.ioctl(descriptor, SNP_GET_EXT_REPORT, outer)
        except OSError as error:
            firmware, host = struct.unpack_from("<II", outer, 24)
            if host == _VMM_INVALID_LENGTH:
                return b"", b"", struct.unpack_from("<I", request.raw, 104)[0]
            if host == _VMM_BUSY:
                time.sleep(_PAUSE)
                continue
            raise CollectionFailed(
                f"sev-guest: {error.strerror}; firmware error {firmware:#x}, host error {host:#x}"
            ) from error
        return _snp_report(response.raw), certificates.raw, 0
    raise CollectionFailed(f"sev-guest: the host stayed busy in {_ATTEMPTS} attempts")


def _snp_report(response: bytes) -> bytes:
    status, size = struct.unpack_from("<II", response)
    if status or size != _REPORT_SIZE:
        raise CollectionFailed(f"sev-guest: status {status:#x}, a report of {size} bytes")
    return response[_REPORT_OFFSET : _REPORT_OFFSET + _REPORT_SIZE]


def collect_nsm(report_data: bytes, system: System) -> Evidence:
    """A Nitro attestation document with `report_data` as its nonce. Raises CollectionFailed.

    AWS Nitro Enclaves NSM API: one CBOR request, one CBOR response.
    """
    asked = {"user_data": None, "nonce": report_data, "public_key": None}
    message = cbor2.dumps({"Attestation": asked})
    if len(message) > _NSM_REQUEST_SIZE:
        raise CollectionFailed("nsm: report data too large")
    request = ctypes.create_string_buffer(message, len(message))
    response = ctypes.create_string_buffer(_NSM_RESPONSE_SIZE)
    outer = bytearray(
        struct.pack(
            "<QQQQ",
            ctypes.addressof(request),
            len(message),
            ctypes.addressof(response),
            _NSM_RESPONSE_SIZE,
        )
    )
    descriptor = _open(NSM, system)
    try:
        system.ioctl(descriptor, NSM_REQUEST, outer)
    except OSError as error:
        raise CollectionFailed(f"nsm: {error.strerror or error}") from error
    finally:
        os.close(descriptor)
    size = struct.unpack_from("<Q", outer, 24)[0]
    if size > _NSM_RESPONSE_SIZE:
        raise CollectionFailed(f"nsm: a response of {size} bytes")
    try:
        answer = cbor.decode(response.raw[:size], "NSM response")
    except EvidenceMalformed as error:
        raise CollectionFailed(f"nsm: {error}") from None
    match answer:
        case {"Attestation": {"document": bytes() as document}}:
            return Evidence("aws.nitro", document)
        case {"Error": error}:
            raise CollectionFailed(f"nsm: the security module says {str(error)[:64]}")
        case _:
            raise CollectionFailed("nsm: an answer of another form")


def collect_tdx_guest(report_data: bytes, system: System) -> Evidence:
    """Always raises CollectionFailed, which tells what to do: this device's reports are local."""
    del report_data
    os.close(_open(TDX_GUEST, system))
    raise CollectionFailed(
        "tdx-guest: this device makes a TDREPORT, which only the same machine can check; a quote "
        "comes through configfs-tsm (Linux 6.7, mount -t configfs none /sys/kernel/config)"
    )


def _open(name: str, system: System) -> int:
    try:
        return system.open(name)
    except OSError as error:
        who = "; only root may use it" if error.errno in (1, 13) else ""
        raise CollectionFailed(f"{name}: {error.strerror or error}{who}") from error
