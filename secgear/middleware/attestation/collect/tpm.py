"""Collecting a quote from a TPM 2.0: a device file, or the socket of a software TPM."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from secgear.base.tee import Evidence
from secgear.errors import CollectionFailed
from secgear.middleware.attestation.collect import tpm_commands
from secgear.middleware.attestation.formats.tpm.pcrs import write_values
from secgear.middleware.attestation.formats.tpm.structures import (
    parse_quote,
    parse_signature,
    pcr_digest,
)

DEVICES = ("/dev/tpmrm0", "/dev/tpm0")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
ALL_PCRS = tuple(range(24))
MAX_NONCE = 64  # bytes: TPM2B_DATA of a TPM whose largest digest is SHA-512

_ATTEMPTS = 5
_CONNECTS, _PAUSE = 50, 0.02  # seconds
_TIMEOUT = 60.0  # seconds that a TPM may take for one command


def collect_tpm(
    report_data: bytes,
    *,
    device: str | None = None,
    pcrs: Sequence[int] = ALL_PCRS,
    event_log: Path | None = EVENT_LOG,
) -> Evidence:
    """A quote over `pcrs` with `report_data` as qualifying data, PCR values and boot log attached.

    device: a TPM's device file, or the Unix socket of swtpm; the first that exists by default.
    event_log: where the kernel keeps the firmware's log; None to leave it out.
    The attestation key's public area goes along as ``ak``: its owner provisions it once, or a
    verifier can't tell this TPM from any other. Raises CollectionFailed.
    """
    if not 1 <= len(report_data) <= MAX_NONCE:
        raise CollectionFailed(
            f"tpm: report data of 1 to {MAX_NONCE} bytes, not {len(report_data)}"
        )
    wanted = sorted(set(pcrs))
    if not wanted or wanted[0] < 0 or wanted[-1] not in ALL_PCRS:
        raise CollectionFailed("tpm: PCRs are 0 to 23, and one at least")
    with open_tpm(device) as channel:
        handle, public = tpm_commands.create_attestation_key(channel)
        try:
            attest, signature, values = _consistent(channel, handle, report_data, wanted)
        finally:
            tpm_commands.flush(channel, handle)
    attachments = {
        "signature": signature,
        "pcrs": write_values({"sha256": values}),
        "ak": public,
    }
    log = _read_log(event_log)
    if log:
        attachments["eventlog"] = log
    return Evidence("tpm.quote", attest, attachments)


def _consistent(
    channel: tpm_commands.Channel, handle: int, nonce: bytes, pcrs: Sequence[int]
) -> tuple[bytes, bytes, Mapping[int, bytes]]:
    """A quote and the values it is about: something may extend a PCR between the two commands."""
    for _ in range(_ATTEMPTS):
        values = tpm_commands.read_pcrs(channel, pcrs)
        attest, signature = tpm_commands.quote(channel, handle, nonce, pcrs)
        quote = parse_quote(attest)
        digest = parse_signature(signature).digest
        if pcr_digest(quote, digest, {"sha256": values}) == quote.digest:
            return attest, signature, values
    raise CollectionFailed(f"tpm: the PCRs changed during each of {_ATTEMPTS} attempts; try again")


class _Device:
    """``/dev/tpmrm0``: a write is a command, the read after it the response."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def exchange(self, command: bytes) -> bytes:
        os.write(self._descriptor, command)
        return os.read(self._descriptor, tpm_commands.MAX_RESPONSE)


class _Socket:
    """swtpm's data socket: commands and responses one after the other, each with its length."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def exchange(self, command: bytes) -> bytes:
        self._connection.sendall(command)
        head = self._read(10)
        size = int.from_bytes(head[2:6], "big")
        if not 10 <= size <= tpm_commands.MAX_RESPONSE:
            raise OSError(f"a response of {size} bytes")
        return head + self._read(size - 10)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._connection.recv(size - len(data))
            if not more:
                raise OSError("the TPM closed the connection")
            data += more
        return data


@contextlib.contextmanager
def open_tpm(device: str | None = None) -> Iterator[tpm_commands.Channel]:
    """A way to a TPM; `device` as for `collect_tpm`. Raises CollectionFailed."""
    path = device or next((path for path in DEVICES if Path(path).exists()), None)
    if path is None:
        raise CollectionFailed(
            f"tpm: neither {' nor '.join(DEVICES)} is here; load the kernel's TPM driver, or name "
            "the device"
        )
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116  (a str names it)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_TIMEOUT)
                _connect(connection, path)
                yield _Socket(connection)
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        who = "; root, or a member of its group, may use it" if error.errno == 13 else ""
        raise CollectionFailed(f"tpm: {path}: {error.strerror or error}{who}") from error
    try:
        yield _Device(descriptor)
    finally:
        os.close(descriptor)


def _connect(connection: socket.socket, path: str) -> None:
    """A software TPM serves one connection at a time, and refuses others until that has ended."""
    for _ in range(_CONNECTS):
        try:
            connection.connect(path)
        except ConnectionRefusedError:
            time.sleep(_PAUSE)
        else:
            return
    connection.connect(path)


def _read_log(path: Path | None) -> bytes:
    """The firmware's log, where the kernel shows it; without it the quote stands on its values."""
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError:
        return b""
