"""One instance of the service, in a process of its own, over a database that others share.

python -m tests.middleware.attestation.service.instance DIRECTORY DATABASE ROOT.pem
"""

from __future__ import annotations

import sys
from pathlib import Path

from secgear.middleware.attestation.service.serving import serve
from secgear.middleware.attestation.service.settings import AnchorFile, Rate, Settings

MANY = Rate(1e6, 1_000_000)

if __name__ == "__main__":
    serve(
        Settings(
            issuer="https://verifier.example",
            directory=Path(sys.argv[1]),
            database=sys.argv[2],
            extra_anchors=(AnchorFile("simulated", Path(sys.argv[3])),),
            challenge_rate=MANY,
            attest_rate=MANY,
            failure_rate=MANY,
            port=0,
        ),
        lambda url: print(url, flush=True),
    )
