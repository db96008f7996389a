"""``secgear crypto domain``: what an enclave has refused is told so that people can go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from secgear.cli import crypto_domain
from secgear.cli.app import app
from secgear.cli.output import UsageError, exit_code
from secgear.errors import CryptoModuleError, CryptoRefused, EvidenceRefused, SecGearError
from secgear.services.crypto import joining


@pytest.mark.parametrize(
    ("said", "kind", "code", "hint"),
    [
        ("attestation.refused: certificate-chain: no chain", EvidenceRefused, 6, "init --root"),
        ("attestation.untrusted: policy.measurement: another", EvidenceRefused, 6, "another"),
        ("no request: Input data was truncated", CryptoRefused, 1, "crypto request admit"),
        ("the bytes are no application", CryptoModuleError, 1, "no application"),
    ],
)
def test_a_refusal_has_its_exit_code_and_what_to_do(
    said: str,
    kind: type[SecGearError],
    code: int,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application, welcome = tmp_path / "application", tmp_path / "welcome"
    application.write_bytes(b"of somebody")

    def admit(*_: object) -> bytes:
        raise CryptoModuleError(said)

    monkeypatch.setattr(joining, "admit", admit)
    with pytest.raises(kind, match=hint) as refusal:
        app(
            ["crypto", "domain", "admit", str(tmp_path), str(application), "-o", str(welcome)],
            standalone_mode=False,
        )
    assert exit_code(refusal.value) == code
    assert not welcome.exists()


def test_no_file_is_written_over_and_nothing_begun(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"a key")
    directory = str(tmp_path / "module")
    for words in (
        ["admit", directory, str(precious)],
        ["apply", directory, "--image", "i", "--database", "d", "--witness", "w"],
    ):
        with pytest.raises(UsageError, match="exists already"):
            app(["crypto", "domain", *words, "-o", str(precious)], standalone_mode=False)
    with pytest.raises(UsageError, match="32 hexadecimal digits"):
        crypto_domain.expel(Path(directory), "zz")
    assert precious.read_bytes() == b"a key"
    assert not Path(directory).exists()
