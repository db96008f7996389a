"""A fake TPM: quotes anything, over anything, with any key. And a real one: swtpm in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors, KeyAnchor
from secgear.middleware.attestation.formats.tpm.pcrs import write_values
from tests.adversary.vendors.pki import ec_key

SHA256 = 0x000B
VALUES = {index: bytes([index]) * 32 for index in range(24)}


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def selection(banks: Sequence[tuple[int, Sequence[int]]]) -> bytes:
    found = struct.pack(">I", len(banks))
    for bank, indices in banks:
        bits = sum(1 << index for index in indices)
        found += struct.pack(">HB", bank, 3) + bits.to_bytes(3, "little")
    return found


class FakeTpm:
    """Its attestation key is EC P-256 unless another is given."""

    def __init__(self, key: Any = None) -> None:
        self.key = key or ec_key(ec.SECP256R1())

    @property
    def anchors(self) -> Anchors:
        return Anchors(keys=(KeyAnchor("fake-ak", "tpm", self.key.public_key()),))

    def attest(self, **changes: Any) -> bytes:
        """A TPMS_ATTEST; any field by name."""
        fields: dict[str, Any] = {
            "magic": 0xFF544347,
            "kind": 0x8018,
            "signer": b"\0\x0b" + b"n" * 32,
            "nonce": b"r" * 32,
            "safe": 1,
            "selection": selection([(SHA256, range(24))]),
            "digest": hashlib.sha256(b"".join(VALUES.values())).digest(),
            "tail": b"",
        } | changes
        return (
            struct.pack(">IH", fields["magic"], fields["kind"])
            + sized(fields["signer"])
            + sized(fields["nonce"])
            + struct.pack(">QIIBQ", 123456, 7, 3, fields["safe"], 0x2024)
            + fields["selection"]
            + sized(fields["digest"])
            + fields["tail"]
        )

    def sign(self, attest: bytes, *, pss: bool = False) -> bytes:
        """A TPMT_SIGNATURE."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            scheme = 0x0016 if pss else 0x0014
            how = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if pss else padding.PKCS1v15()
            signature = self.key.sign(attest, how, hashes.SHA256())
            return struct.pack(">HH", scheme, SHA256) + sized(signature)
        r, s = decode_dss_signature(self.key.sign(attest, ec.ECDSA(hashes.SHA256())))
        parts = sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
        return struct.pack(">HH", 0x0018, SHA256) + parts

    def evidence(
        self,
        *,
        values: Mapping[int, bytes] | None = VALUES,
        attachments: Mapping[str, bytes] | None = None,
        kind: str = "tpm.quote",
        **changes: Any,
    ) -> Evidence:
        attest = self.attest(**changes)
        found = {"signature": self.sign(attest)}
        if values is not None:
            found["pcrs"] = write_values({"sha256": values})
        return Evidence(kind, attest, found | dict(attachments or {}))


def event_log(
    events: Sequence[tuple[int, bytes]], *, algorithms: Sequence[int] = (SHA256,)
) -> bytes:
    """A crypto-agile log that extends the SHA-256 of each event's data."""
    sizes = {0x0004: 20, SHA256: 32, 0x000C: 48, 0x000D: 64}
    names = {0x0004: "sha1", SHA256: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
    spec += struct.pack("<I", len(algorithms))
    spec += b"".join(struct.pack("<HH", one, sizes[one]) for one in algorithms) + b"\0"
    log = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(spec)) + spec
    for register, data in events:
        log += struct.pack("<III", register, 13, len(algorithms))
        for one in algorithms:
            log += struct.pack("<H", one) + hashlib.new(names[one], data).digest()
        log += struct.pack("<I", len(data)) + data
    return log


def extended(events: Sequence[tuple[int, bytes]]) -> dict[int, bytes]:
    """What the SHA-256 PCRs are after these events."""
    values = {index: bytes(32) for index in range(24)}
    for register, data in events:
        event = hashlib.sha256(data).digest()
        values[register] = hashlib.sha256(values[register] + event).digest()
    return values


@contextlib.contextmanager
def running_swtpm(folder: Path) -> Iterator[str]:
    """The data socket of a software TPM, whose state is kept in `folder`.

    Skips the test, and says so, without swtpm.
    """
    program = shutil.which("swtpm")
    if program is None:
        pytest.skip("swtpm is not installed (Debian package swtpm)")
    state, data, control = folder / "state", folder / "tpm.sock", folder / "tpm.ctrl"
    state.mkdir(exist_ok=True)
    data.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            program,
            "socket",
            "--tpm2",
            *("--tpmstate", f"dir={state}"),
            *("--server", f"type=unixio,path={data}"),
            *("--ctrl", f"type=unixio,path={control}"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not data.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("swtpm did not start")
            time.sleep(0.01)
        yield str(data)
    finally:
        process.kill()
        process.wait()
