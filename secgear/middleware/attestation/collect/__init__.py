"""Collecting evidence inside a guest, from whichever door its kernel offers.

`collect` asks; `sources` tells what is there and why the rest is not.
"""

from secgear.middleware.attestation.collect.doors import Source, collect, sources
from secgear.middleware.attestation.collect.system import System
from secgear.middleware.attestation.collect.tpm import collect_tpm

__all__ = ["Source", "System", "collect", "collect_tpm", "sources"]
