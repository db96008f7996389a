"""Write tests/vectors/own/envelopes.json: ``python -m tests.middleware.envelopes.make_vectors``.

HPKE draws its own randomness, so every run gives other envelopes under the same keys.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from secgear.middleware.attestation import load_policy
from secgear.middleware.envelopes import CLASSIC, HYBRID, EnclaveKeyPair, Sealer, verify_key
from secgear.middleware.envelopes.document import EnclaveKey, report_data
from secgear.middleware.envelopes.suites import private_key, suite_named
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.envelopes import independent

PLACE = Path(__file__).parents[2] / "vectors" / "own" / "envelopes.json"
NOT_AFTER = 4_102_444_800  # 2100-01-01
SECRETS = {HYBRID: bytes(range(32)), CLASSIC: bytes(range(32, 64))}
CASES = (("empty", 0), ("small", 11), ("a whole chunk", 4096), ("three records", 9000))


def main() -> None:
    vendor = SimulatedVendor()
    policy = load_policy(
        b'name = "vectors"\n[accept]\ntees = ["process"]\nmeasurements = ["%s"]\n'
        b"[allow]\nsimulated = true\ntest_roots = true\n" % (b"m" * 48).hex().encode()
    )
    now = datetime.datetime.now(datetime.UTC)
    vectors: list[dict[str, Any]] = []
    for suite, secret in SECRETS.items():
        _, public = private_key(suite_named(suite), secret)
        context, purposes = bytes(range(100, 132)), ("audit", "vectors")
        bound = report_data(suite, public, NOT_AFTER, context, purposes)
        key = EnclaveKey(
            suite=suite,
            public=public,
            not_after=NOT_AFTER,
            context=context,
            purposes=purposes,
            evidence=vendor.evidence(report_data=bound),
        )
        pair = EnclaveKeyPair(secret, key)
        recipient = verify_key(key, policy, at=now, anchors=vendor.anchors)
        for name, size in CASES:
            plain = bytes(at * 7 & 0xFF for at in range(size))
            sealer = Sealer(recipient, purpose="vectors", associated=b"query 7", chunk=4096)
            envelope = sealer.whole(plain)
            opened = independent.open_envelope(secret, envelope, b"vectors", b"query 7")
            vectors.append(
                {
                    "name": name,
                    "suite": suite,
                    "private_key": secret.hex(),
                    "public_key": public.hex(),
                    "not_after": NOT_AFTER,
                    "context": context.hex(),
                    "purposes": purposes,
                    "report_data": bound.hex(),
                    "key_id": pair.key.id.hex(),
                    "purpose": "vectors",
                    "associated": b"query 7".hex(),
                    "content_key": opened.content_key.hex(),
                    "envelope_id": opened.envelope_id.hex(),
                    "data": plain.hex(),
                    "envelope": envelope.hex(),
                }
            )
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(json.dumps({"secgear-envelope-vectors": 1, "vectors": vectors}, indent=1))


if __name__ == "__main__":
    main()
