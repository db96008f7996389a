"""Starts the enclave and carries two owners' bytes to it. This file is the untrusted side.

The owners' connections end inside the enclave: what goes through the relay is ciphertext. In life
the owners are elsewhere; here this program starts them, so that there is something to see.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import secgear

HERE = Path(__file__).parent
OWNERS = ("clinic", "registry")


def main() -> None:
    with secgear.launch(HERE / "join.py", tee="auto") as enclave, secgear.Relay(enclave) as relay:
        command = [sys.executable, str(HERE / "owner.py")]
        owners = [subprocess.Popen([*command, owner, relay.address]) for owner in OWNERS]
        failed = [name for name, owner in zip(OWNERS, owners, strict=True) if owner.wait() != 0]
        stats = relay.stats
        print(f"host: {stats.received + stats.sent:,} bytes carried, and none of it understood")
        print("the treatment that three people got stays inside")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
