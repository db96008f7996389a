"""A module that damages its answers to the PKCS#11 library.

    python tests/fuzz/crypto_library.py [LIBRARY]

LIBRARY: one that is there, with sanitizers perhaps; otherwise it is compiled first. FUZZ_SECONDS:
how long, 60 by default. FUZZ_ROUNDS: at most so many rounds, without an end by default. FUZZ_SEED:
begin here. Ends with status 1 when something was written beyond an application's buffer or
returned that is no return value; a crash has a status of its own.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from secgear.services.crypto.library.build import build
from tests.adversary.crypto_host import open_module, prepared
from tests.services.crypto.library.hostile import play


def main() -> int:
    """0 when nothing was found."""
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "60"))
    rounds = int(os.environ.get("FUZZ_ROUNDS", str(sys.maxsize)))
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbits(32)))
    print(f"seed {seed}", flush=True)
    store = prepared()
    done = calls = refused = 0
    with tempfile.TemporaryDirectory(prefix="sg") as name:
        folder = Path(name)
        path = folder / "library.so"
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            build(path)
        while done < rounds and time.monotonic() < end:
            try:
                made = play(open_module(store.copy()), path, folder / "socket", seed + done)
            except AssertionError as error:
                print(f"seed {seed + done}: {error}")
                return 1
            calls, refused, done = calls + made[0], refused + made[1], done + 1
    print(f"{done} rounds, {calls} calls, {refused} answers refused; nothing found", flush=True)
    return 0 if refused else 1


if __name__ == "__main__":
    sys.exit(main())
