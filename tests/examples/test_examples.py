"""Every example runs as its README says and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PROMISES = {
    "wordcount": [
        "100% counted",
        "an ECALL: {'the': 2, 'quick': 1",
        "a future: {'a': 2, 'b': 1}",
        "awaited: {'c': 2, 'd': 1}",
        "a declared error: the text holds no word",
    ],
    "streaming_stats": [
        "20,000,000 values   mean 20.001",
        "deviation 4.999",
        "160 MB went through",
    ],
    "fast_lookups": [
        "the same pseudonyms either way: True",
        "us each",
        "mean 5.000",
        "8001 switchless calls in 2 batches",
        "0 of them over the stream, 0 messages rejected",
    ],
    "private_join": [
        "clinic: the enclave is the one it should be; 3000 rows sent",
        "registry: the enclave is the one it should be; 3500 rows sent",
        "clinic: treatment A: 999 people",
        "registry: treatment B: 1,498 people",
        "bytes carried, and none of it understood",
        "stays inside",
    ],
    "crypto_ca": [
        "always_sensitive, local, never_extractable",
        "signed with SM2-with-SM3",
        "a forged request: whoever asks does not have the key",
        "before: OK; Signature Verified Successfully; not revoked",
        "after:  OK; Signature Verified Successfully; revoked",
    ],
    "crypto_cms": [
        "Bob reads: Dear Bob, the meeting is at nine.",
        "a changed letter does not verify",
        "Alice reads: Dear Bob, the meeting is at nine.",
    ],
    "crypto_signing": [
        "signed by the key in the module: True",
        "proven to be nowhere else: True",
    ],
}
NEEDS = {"crypto_cms": ("*/engines-3/pkcs11.so", "*/pkcs11/p11-kit-client.so")}
"""Files of Debian's, below /usr/lib."""


def run(example: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / example / "host.py"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested_and_listed() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/host.py")}
    assert folders == PROMISES.keys()
    listed = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"examples/(\w+)/host\.py", listed)) == folders


@pytest.mark.parametrize("example", PROMISES)
def test_example_prints_what_it_promises(example: str, tmp_path: Path) -> None:
    if not all(any(Path("/usr/lib").glob(pattern)) for pattern in NEEDS.get(example, ())):
        pytest.skip("libengine-pkcs11-openssl or p11-kit-modules is not installed")
    output = run(example, tmp_path)
    for promise in PROMISES[example]:
        assert promise in output


def test_small_groups_stay_inside(tmp_path: Path) -> None:
    assert "treatment rare" not in run("private_join", tmp_path)


def test_owner_that_finds_another_program_sends_nothing(tmp_path: Path) -> None:
    """The host runs the program with one rule less; the owner has read the one with it."""
    import secgear

    source = (EXAMPLES / "private_join" / "join.py").read_text()
    altered = tmp_path / "join.py"
    altered.write_text(source.replace("SMALLEST_GROUP = 10", "SMALLEST_GROUP = 1"))
    with secgear.launch(altered) as enclave, secgear.Relay(enclave) as relay:
        done = subprocess.run(
            [sys.executable, EXAMPLES / "private_join" / "owner.py", "clinic", relay.address],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode != 0
        assert "Untrusted" in done.stderr
        assert "policy.measurement" in done.stderr
        assert "sent" not in done.stdout
        assert relay.stats.received < 10_000


def test_stream_is_processed_in_constant_memory(tmp_path: Path) -> None:
    grown = re.search(r"grew by (-?\d+) MB", run("streaming_stats", tmp_path))
    assert grown is not None
    assert int(grown[1]) < 60, "160 MB passed through; the enclave kept a good part of it"
