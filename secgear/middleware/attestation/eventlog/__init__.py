"""Event logs of measured boot: what was extended into the registers, in which order.

A log is only a story until its replay gives the registers that a quote vouches for.
"""

from secgear.middleware.attestation.eventlog.tcg import Event, EventLog, parse

__all__ = ["Event", "EventLog", "parse"]
