"""PCR values that go with a quote: a claim only as far as the quote's digest covers them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation import eventlog
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.formats.tpm.structures import (
    PCRS,
    Quote,
    Signature,
    pcr_digest,
)
from secgear.middleware.attestation.reader import UNREADABLE

MAX_SIZE = 64 << 10  # bytes of JSON

_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}
_DECODER = msgspec.json.Decoder(dict[str, dict[str, str]])

Values = Mapping[str, Mapping[int, bytes]]


def parse_values(data: bytes) -> Values:
    """``{"sha256": {"0": "<hex>", …}}`` to bytes by bank and index. Raises EvidenceMalformed."""
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: PCR values of {len(data)} bytes")
    try:
        banks = _DECODER.decode(data)
        values = {
            bank: {_index(index): bytes.fromhex(text) for index, text in pcrs.items()}
            for bank, pcrs in banks.items()
        }
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: PCR values: {error}") from None
    for bank, pcrs in values.items():
        if bank not in _SIZES or any(len(value) != _SIZES[bank] for value in pcrs.values()):
            raise EvidenceMalformed("format: PCR values of an unknown bank or of another size")
    return values


def write_values(values: Values) -> bytes:
    """The JSON that `parse_values` reads."""
    return msgspec.json.encode(
        {
            bank: {str(index): value.hex() for index, value in pcrs.items()}
            for bank, pcrs in values.items()
        }
    )


def check_values(
    quote: Quote, signature: Signature, attachments: Mapping[str, bytes], checks: Checks
) -> Mapping[str, bytes]:
    """Bind PCR values and the event log to the quote; the bound ones as measurements by name.

    PCRs of SHA-256 are called ``pcr7``, those of other banks ``sha384.pcr7``. Values come from the
    attachment ``pcrs``, else from the log's replay. Records ``binding.pcrs`` and ``event-log``.
    """
    log = _log(attachments.get("eventlog"), checks)
    given = attachments.get("pcrs")
    if given is None and log is None:
        checks.not_performed(
            "binding.pcrs",
            "neither PCR values nor an event log came with the quote; its digest stands alone",
            fix="attach pcrs or eventlog",
        )
        return {}
    values = parse_values(given) if given is not None else _replayed(quote, log)
    expected = pcr_digest(quote, signature.digest, values)
    if isinstance(expected, str):
        checks.failed("binding.pcrs", expected)
    checks.require(
        expected == quote.digest,
        "binding.pcrs",
        "the PCR values are those that were quoted",
        "the PCR values are not those that were quoted",
        expected=quote.digest.hex(),
        found=expected.hex(),
    )
    bound = {
        (bank, index): values[bank][index]
        for bank, indices in quote.selection.items()
        for index in indices
    }
    if log is not None:
        _check_log(log, bound, checks)
    return {
        f"pcr{index}" if bank == "sha256" else f"{bank}.pcr{index}": value
        for (bank, index), value in bound.items()
    }


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 2 or int(text) >= PCRS:
        raise ValueError(f"{text[:8]!r} is no PCR")
    return int(text)


def _log(data: bytes | None, checks: Checks) -> eventlog.EventLog | None:
    if data is None:
        return None
    try:
        return eventlog.parse(data)
    except EvidenceRefused as error:
        checks.failed("event-log", str(error).removeprefix("format: "))


def _replayed(quote: Quote, log: eventlog.EventLog | None) -> Values:
    """What the log leads to; PCRs that it does not mention are zero."""
    if log is None:
        return {}
    return {
        bank: {index: bytes(_SIZES[bank]) for index in indices} | dict(log.replay(bank))
        for bank, indices in quote.selection.items()
        if bank in log.algorithms
    }


def _check_log(
    log: eventlog.EventLog, bound: Mapping[tuple[str, int], bytes], checks: Checks
) -> None:
    """The log's replay must give each quoted PCR that it has events for."""
    replays = {bank: log.replay(bank) for bank, _ in bound if bank in log.algorithms}
    wrong = [
        f"PCR {index} of {bank}"
        for (bank, index), value in bound.items()
        if bank in replays and replays[bank].get(index, value) != value
    ]
    if wrong:
        checks.failed("event-log", f"the log's replay does not give {', '.join(wrong)}")
    covered = sum(index in replays.get(bank, {}) for bank, index in bound)
    if not covered:
        checks.failed("event-log", "the log has no events for any quoted PCR")
    checks.passed(
        "event-log", f"{len(log.events)} events; their replay gives {covered} quoted PCRs"
    )
