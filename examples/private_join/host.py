"""Two owners contribute a table each; the host sees them pass. This file is the untrusted side.

In this release the owners' tables reach the enclave through the host's memory. That shows the
programming model, not yet the protection: an owner's own encrypted and attested connection into
the enclave is planned work.
"""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa

import secgear

APP = Path(__file__).with_name("join.py")


def clinic() -> pa.Table:
    """Who got which treatment: 3,000 people, three of whom got something rare."""
    people = list(range(3000))
    treatments = ["A" if person % 2 else "B" for person in people]
    treatments[:3] = ["rare"] * 3
    return pa.table({"person": people, "treatment": treatments})


def registry() -> pa.Table:
    """Who recovered after how many days: 2,500 people, not quite the same ones."""
    days = random.Random(1)
    people = list(range(0, 5000, 2)) + list(range(1, 2000, 2))
    return pa.table(
        {
            "person": people,
            "recovery_days": [days.randint(3, 12) + 4 * (person % 2) for person in people],
        }
    )


def main() -> None:
    with secgear.launch(APP, tee="auto") as enclave:
        print("rows from the clinic:  ", enclave.contribute("clinic", clinic()))
        try:
            enclave.recovery_by_treatment()
        except enclave.errors.Refused as error:
            print("too early:             ", error)
        print("rows from the registry:", enclave.contribute("registry", registry()))

        for row in enclave.recovery_by_treatment().to_pylist():
            print(
                f"treatment {row['treatment']}: {row['people']:,} people, "
                f"median {row['median_days']:.0f} days"
            )
        print("the treatment that three people got stays inside")


if __name__ == "__main__":
    main()
