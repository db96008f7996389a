"""Quotes of a real TPM 2.0 implementation, collected and verified end to end."""

from __future__ import annotations

import datetime
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgear.errors import CollectionFailed, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchors, KeyAnchor
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collect import tpm, tpm_commands
from secgear.middleware.attestation.collect.tpm import collect_tpm
from secgear.middleware.attestation.formats.tpm.structures import parse_public
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.pki import ec_key
from tests.adversary.vendors.tpm import running_swtpm

NOW = datetime.datetime.now(datetime.UTC)
NONCE = b"n" * 64


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with running_swtpm(tmp_path) as path:
        yield path


def judge(evidence, *, ak: bytes | None = None) -> Claims:  # type: ignore[no-untyped-def]
    key = parse_public(ak or evidence.attachments["ak"])
    return verify(evidence, at=NOW, anchors=Anchors(keys=(KeyAnchor("mine", "tpm", key),)))


def test_a_quote_of_a_real_tpm_verifies(device: str) -> None:
    evidence = collect_tpm(NONCE, device=device, event_log=None)
    claims = judge(evidence)
    assert claims.report_data == NONCE
    assert claims.measurements["pcr0"] == bytes(32)
    assert claims.measurements["pcr17"] == b"\xff" * 32
    assert not claims.not_checked


def test_the_key_is_the_same_each_time_and_no_key_is_left_behind(device: str) -> None:
    keys = {
        collect_tpm(bytes([number + 1]), device=device, event_log=None).attachments["ak"]
        for number in range(8)  # a TPM has room for three
    }
    assert len(keys) == 1


def test_an_extended_register_shows(device: str, tmp_path: Path) -> None:
    before = judge(collect_tpm(NONCE, device=device, event_log=None))
    _extend(device, 16, b"\1" * 32)
    after = judge(collect_tpm(NONCE, device=device, event_log=None))
    assert before.measurements["pcr16"] != after.measurements["pcr16"]
    assert before.measurements["launch"] != after.measurements["launch"]
    assert before.measurements["pcr0"] == after.measurements["pcr0"]


def test_some_registers_may_be_chosen(device: str) -> None:
    claims = judge(collect_tpm(NONCE, device=device, pcrs=(7, 0), event_log=None))
    assert set(claims.measurements) == {"launch", "pcr0", "pcr7"}


def test_another_tpms_quote_is_refused(device: str, tmp_path: Path) -> None:
    evidence = collect_tpm(NONCE, device=device, event_log=None)
    (tmp_path / "other").mkdir()
    with running_swtpm(tmp_path / "other") as other:
        ak = collect_tpm(NONCE, device=other, event_log=None).attachments["ak"]
    with pytest.raises(EvidenceRefused, match="root"):
        judge(evidence, ak=ak)
    anchors = Anchors(keys=(KeyAnchor("mine", "tpm", ec_key().public_key()),))
    with pytest.raises(EvidenceRefused, match="root"):
        verify(evidence, at=NOW, anchors=anchors)
    with pytest.raises(EvidenceRefused, match="root"):
        verify(evidence, at=NOW)


def test_the_firmwares_log_goes_along(device: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"log")
    evidence = collect_tpm(NONCE, device=device, event_log=tmp_path / "log")
    assert evidence.attachments["eventlog"] == b"log"
    evidence = collect_tpm(NONCE, device=device, event_log=tmp_path / "absent")
    assert "eventlog" not in evidence.attachments


def test_registers_that_never_rest_end_in_an_error(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tpm_commands.read_pcrs

    def stale(channel: tpm_commands.Channel, pcrs: list[int]) -> dict[int, bytes]:
        return dict.fromkeys(original(channel, pcrs), b"\x07" * 32)

    monkeypatch.setattr(tpm.tpm_commands, "read_pcrs", stale)
    with pytest.raises(CollectionFailed, match="changed during"):
        collect_tpm(NONCE, device=device, event_log=None)


@pytest.mark.parametrize("report_data", [b"", bytes(65)])
def test_a_nonce_has_its_limits(report_data: bytes) -> None:
    with pytest.raises(CollectionFailed, match="1 to 64"):
        collect_tpm(report_data)


@pytest.mark.parametrize("pcrs", [(), (24,), (-1,)])
def test_registers_have_their_limits(pcrs: tuple[int, ...]) -> None:
    with pytest.raises(CollectionFailed, match="0 to 23"):
        collect_tpm(NONCE, pcrs=pcrs)


def test_a_machine_without_a_tpm_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tpm, "DEVICES", (str(tmp_path / "tpmrm0"),))
    with pytest.raises(CollectionFailed, match="driver"):
        collect_tpm(NONCE)
    with pytest.raises(CollectionFailed, match="No such file"):
        collect_tpm(NONCE, device=str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed"),
        (b"\x80\x01\0\0\0\x0a\0\0\1\0", "not started"),
        (b"\x80\x01\0\0\0\x0a\0\0\x09\xa2", "password"),
        (b"\x80\x01\0\0\0\x0a\0\0\x7f\xff", "Part 2"),
        (b"\x80\x01\0\0\0\x05\0\0\0\0", "a response of 5 bytes"),
        (b"\x80\x01\xff\xff\xff\xff\0\0\0\0", "a response of 4294967295 bytes"),
        (b"\x80\x01\0\0\0\x0a\0\0\0\0", "handle"),
        (b"\x80\x01\0\0\0\x14\0\0\0\0" + b"\x80\0\0\0\0\0\0\0\xff\xff", "public area"),
    ],
)
def test_a_lying_tpm_is_an_error_with_a_reason(tmp_path: Path, answer: bytes, message: str) -> None:
    with (
        LyingTpm(tmp_path / "lying.sock", answer) as device,
        pytest.raises(CollectionFailed, match=message),
    ):
        collect_tpm(NONCE, device=device)


class LyingTpm:
    """A socket that answers every command with the same bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._path, self._answer = path, answer
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> str:
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._thread: threading.Thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return str(self._path)

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while connection.recv(4096):
                if not self._answer:
                    return
                connection.sendall(self._answer)


def _extend(device: str, index: int, digest: bytes) -> None:
    """TPM2_PCR_Extend (Part 3, section 22.2)."""
    with socket.socket(socket.AF_UNIX) as connection:
        tpm._connect(connection, device)
        session = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
        body = struct.pack(">II", index, len(session)) + session
        body += struct.pack(">IH", 1, 0x000B) + digest
        connection.sendall(struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body)
        assert connection.recv(4096)[6:10] == bytes(4)
