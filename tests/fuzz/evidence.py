"""Damaged evidence, collateral and documents against every reader, for as long as one likes.

    python tests/fuzz/evidence.py

FUZZ_SECONDS: how long, 600 by default. FUZZ_SEED: begin here, to see a failure again.
Ends with status 1 and the seed at the first crash, hang or growth of memory. The seeds are the
genuine files of tests/vectors and documents made here; each is read as everything that it could be
taken for.
"""

from __future__ import annotations

import datetime
import os
import random
import resource
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused, SecGearError
from secgear.middleware.attestation import builtin_anchors, envelope, verify
from secgear.middleware.attestation.broker import kbs
from secgear.middleware.attestation.bundle import load_bundle
from secgear.middleware.attestation.eventlog import tcg
from secgear.middleware.attestation.formats.snp.firmware import read_firmware
from secgear.middleware.attestation.importing import import_collateral
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.recognition import recognise
from secgear.middleware.attestation.reference import load_reference_values
from secgear.middleware.attestation.reference.corim import read_corim
from secgear.middleware.attestation.results import public_keys, verify_cwt, verify_jwt
from secgear.middleware.attestation.service.messages import read_attest
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.verification import formats
from tests.adversary.vendors import ovmf
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.fuzz.beside import Beside
from tests.fuzz.sealed import Sealed

ROOT = Path(__file__).resolve().parents[2]
AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HANG = 20  # seconds; a case takes milliseconds
GROWTH = 200_000
"""KiB that this process may grow by once it has warmed up."""
LARGEST = 1 << 20
"""Bytes of a seed: larger ones only take longer."""
DER_TAGS = bytes.fromhex("0102030405060a0c131416171e3031a0a1a380")
EDGES = tuple(
    number.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for order in ("big", "little")
    for number in (0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1)
)

_POLICY = b"""
name = "fuzzed"
[accept]
tees = ["snp", "tdx"]
measurements = ["00"]
[tcb]
statuses = ["up-to-date"]
[freshness]
max_age = "5m"
[allow]
debug = true
"""


def main() -> int:
    """Damage and read until the time is up; 0 when nothing was found."""
    warnings.simplefilter("ignore")  # cryptography complains about names that are too long
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600"))
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbits(32)))
    beside, sealed = Beside(), Sealed()
    seeds = {**_seeds(), **beside.seeds(), **sealed.seeds}
    readers = {**_readers(), **beside.readers(), **sealed.readers()}
    cases = 0
    warm = 0
    signal.signal(signal.SIGALRM, _late)
    while time.monotonic() < end:
        chance = random.Random(seed)
        name = chance.choice(list(seeds))
        data = damaged(chance, seeds[name], seeds)
        for reader, read in readers.items():
            signal.alarm(HANG)
            try:
                read(data)
            except (SecGearError, Problem):
                pass
            except BaseException as error:
                print(f"\n{reader} of {name} failed: FUZZ_SEED={seed}", file=sys.stderr)
                if isinstance(error, KeyboardInterrupt):
                    return 130
                raise
            finally:
                signal.alarm(0)
            cases += 1
        seed += 1
        if not warm and cases > 20_000:
            warm = _resident()
        if warm and _resident() - warm > GROWTH:
            print(f"\ngrew by {_resident() - warm} KiB until {seed}", file=sys.stderr)
            return 1
        if sys.stdout.isatty():
            print(f"\r{cases:,} cases, {round(end - time.monotonic())} s left ", end="", flush=True)
    print(f"\n{cases:,} cases, nothing found")
    return 0


def damaged(chance: random.Random, data: bytes, others: Mapping[str, bytes]) -> bytes:
    """The same with one to four mistakes in it."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        length = min(chance.choice((1, 2, 4, 16, 256, 4096)), len(changed) - at)
        match chance.randrange(8):
            case 0 if changed:
                at = min(at, len(changed) - 1)
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if changed:
                # Often a tag in the place of a tag: DER has more of them than anything else.
                at = min(at, len(changed) - 1)
                tags = [place for place, byte in enumerate(changed[:4096]) if byte in DER_TAGS]
                changed[chance.choice(tags or [at])] = chance.choice(DER_TAGS)
            case 2:
                edge = chance.choice(EDGES)
                changed[at : at + len(edge)] = edge
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * chance.choice((1, 2, 64))
            case 5:
                changed[at:at] = chance.randbytes(length)
            case 6:
                other = chance.choice(list(others.values()))
                start = chance.randrange(len(other))
                changed[at : at + length] = other[start : start + chance.choice((16, 256, 4096))]
            case _:
                del changed[at:]
    return bytes(changed)


def _readers() -> dict[str, Callable[[bytes], object]]:
    vendor = SimulatedVendor()
    anchors = builtin_anchors().adding(*vendor.anchors.roots)
    keys = {"k": vendor.key.public_key()}
    judged = {"audience": "a", "nonce": None, "issuer": "i", "now": AT}

    def verifier(name: str) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            try:
                return verify(Evidence(name, data), at=AT, anchors=anchors)
            except EvidenceRefused as refusal:
                if not refusal.checks:
                    raise AssertionError("refused without a record") from refusal
                return None

        return read

    return {
        **{name: verifier(name) for name in formats()},
        "snp with attachments": lambda data: verify(
            Evidence(
                "amd.sev-snp", (ROOT / "tests/vectors" / _REPORT).read_bytes(), {"vcek": data}
            ),
            at=AT,
        ),
        "recognise": recognise,
        "envelope, JSON": envelope.from_json,
        "envelope, CBOR": envelope.from_cbor,
        "bundle": load_bundle,
        "collateral": lambda data: import_collateral(data, "fuzzed"),
        "event log": tcg.parse,
        "CoRIM": lambda data: read_corim(data, at=AT, allow_unsigned=True),
        "policy": load_policy,
        "reference values": load_reference_values,
        "firmware": read_firmware,
        "JWT": lambda data: verify_jwt(data.decode("latin-1"), keys, **judged),
        "CWT": lambda data: verify_cwt(data, keys, **judged),
        "JWK set": public_keys,
        "attest request": read_attest,
        "KBS request": kbs.parse_request,
        "KBS attestation": kbs.parse_attestation,
    }


_REPORT = "snp/msft-milan_attestation_report.bin"


def _seeds() -> dict[str, bytes]:
    vendor = SimulatedVendor()
    token = vendor.evidence(report_data=bytes(64))
    found = {
        "process": token.data,
        "envelope, JSON": envelope.to_json(token),
        "envelope, CBOR": envelope.to_cbor(token),
        "policy": _POLICY,
        "firmware": ovmf.image(),
        "JWT": b"eyJhbGciOiJFUzM4NCIsImtpZCI6ImsiLCJ0eXAiOiJlYXQrand0In0.e30.AAAA",
        "KBS request": b'{"version":"0.4.0","tee":"snp","extra-params":{}}',
    }
    for path in sorted((ROOT / "tests" / "vectors").rglob("*")):
        if path.is_file() and path.stat().st_size <= LARGEST and path.parent.name != "LICENSES":
            found[str(path.relative_to(ROOT / "tests" / "vectors"))] = path.read_bytes()
    return found


def _late(*_: object) -> None:
    raise AssertionError("a reader hangs")


def _resident() -> int:
    """The most that this process has had in memory, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
