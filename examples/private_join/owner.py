"""A data owner: trusts nobody but the enclave that it has verified, wherever that runs.

``owner.py clinic tcp://host:port`` or ``owner.py registry tcp://host:port``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pyarrow as pa

import secgear
from secgear.base.build import build
from secgear.middleware.attestation import Policy, load_policy
from secgear.middleware.attestation.bundle import anchors_with
from secgear.middleware.attestation.own import own_simulated_root

APP = Path(__file__).with_name("join.py")


def clinic() -> pa.Table:
    """Who got which treatment: 3,000 people, three of whom got something rare."""
    people = list(range(3000))
    treatments = ["A" if person % 2 else "B" for person in people]
    treatments[:3] = ["rare"] * 3
    return pa.table({"person": people, "treatment": treatments})


def registry() -> pa.Table:
    """Who recovered after how many days: 3,500 people, not quite the same ones."""
    days = random.Random(1)
    people = list(range(0, 5000, 2)) + list(range(1, 2000, 2))
    return pa.table(
        {
            "person": people,
            "recovery_days": [days.randint(3, 12) + 4 * (person % 2) for person in people],
        }
    )


def policy() -> Policy:
    """What this owner demands: exactly the program that it has read in ``join.py``.

    It builds the image itself; the same source has the same measurement everywhere. The last three
    lines are for trying things out and have no place in production: they allow the debug image that
    an example is launched as, and a TEE that is simulated.
    """
    measurement = build(APP, debug=True).measurement.hex()
    return load_policy(
        f"""
        name = "private join"
        [accept]
        tees = ["process", "vm", "snp", "tdx", "cca", "sgx", "nitro"]
        measurements = ["{measurement}"]
        [allow]
        debug = true
        simulated = true
        test_roots = true
        """.encode()
    )


def main(name: str, address: str) -> None:
    table = {"clinic": clinic, "registry": registry}[name]()
    # Connects, demands evidence that is bound to this very connection, and judges it. If it is not
    # good enough this raises, and nothing has been sent.
    with secgear.connect(
        address, policy(), anchors=anchors_with([own_simulated_root()])
    ) as session:
        rows = session.call.contribute(name, table)
        print(f"{name}: the enclave is the one it should be; {rows} rows sent", flush=True)
        for row in session.call.recovery_by_treatment().to_pylist():
            print(
                f"{name}: treatment {row['treatment']}: {row['people']:,} people, "
                f"median {row['median_days']:.0f} days",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
