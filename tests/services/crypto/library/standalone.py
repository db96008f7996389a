"""A token that answers on a socket, in a process of its own, until its standard input ends.

    python standalone.py SOCKET

For clients that hold Python's lock during a call: a thread beside them could not answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from tests.adversary.crypto_host import open_module, prepared
from tests.services.crypto.library.answering import answering, honest


def main() -> int:
    """Says that it is ready, and is."""
    with answering(Path(sys.argv[1]), honest(open_module(prepared()))):
        print("ready", flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
