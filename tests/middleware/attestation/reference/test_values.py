"""The reference value store: strict to read, exact to match."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import PolicyError
from secgear.middleware.attestation.reference import (
    ReferenceValue,
    ReferenceValues,
    load_reference_values,
    model,
    values,
)
from secgear.middleware.attestation.values import Hex
from tests.adversary.claims import LAUNCH, NOW, SIGNER, claims_for_tests


def value(**fields: Any) -> ReferenceValue:
    settings: dict[str, Any] = {"name": "v", "tee": "snp", "measurements": {"launch": Hex(LAUNCH)}}
    return ReferenceValue(**(settings | fields))


def store(*items: dict[str, Any]) -> bytes:
    return json.dumps({"secgear-reference-values": 1, "values": items}).encode()


def test_store_is_written_as_it_is_read() -> None:
    made = ReferenceValues(
        (
            value(signer=Hex(SIGNER), product="p", svn=3, not_after=NOW, source="by hand"),
            value(about="platform", platform={"implementation_id": "aa"}),
        )
    )
    assert load_reference_values(made.to_json()) == made


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "a", "tee": "snp"}, "neither a measurement nor a signer"),
        ({"name": "a", "tee": "snp", "measurements": {"launch": "xy"}}, "hexadecimal"),
        ({"name": "a", "tee": "snp", "measurements": {"launch": ""}}, "hexadecimal"),
        ({"name": "a", "tee": "snp", "signer": "aa", "sgner": 1}, "unknown field `sgner`"),
        ({"name": "a", "tee": "snp", "signer": "aa", "svn": "1"}, "svn"),
        ({"name": "a", "tee": "snp", "signer": "aa", "about": "x"}, "about"),
        (
            {"name": "a", "tee": "snp", "signer": "aa", "not_after": "2026-01-01T00:00:00"},
            "no time zone",
        ),
        ({"tee": "snp", "signer": "aa"}, "name"),
    ],
)
def test_value_that_is_not_understood_is_refused(item: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        load_reference_values(store(item))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"secgear-reference-values": 2, "values": []}',
        b'{"secgear-reference-values": 1}',
        b'{"secgear-reference-values": 1, "values": [], "more": 1}',
        b"[" * 100_000,
    ],
)
def test_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyError):
        load_reference_values(data)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    two = ReferenceValues((value(), value(name="w")))
    monkeypatch.setattr(model, "MAX_VALUES", 1)
    monkeypatch.setattr(values, "MAX_VALUES", 1)
    with pytest.raises(PolicyError, match="at most 1"):
        load_reference_values(two.to_json())
    with pytest.raises(PolicyError, match="at most 1"):
        two.merged()
    monkeypatch.setattr(values, "MAX_SIZE", 10)
    with pytest.raises(PolicyError, match="at most 10"):
        load_reference_values(two.to_json())


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PolicyError):
        load_reference_values(data)


def test_merging_keeps_each_value_once_and_in_order() -> None:
    one, two = ReferenceValues((value(), value(name="w"))), ReferenceValues((value(), value(svn=1)))
    assert one.merged(two).values == (value(), value(name="w"), value(svn=1))


def test_match_names_the_value() -> None:
    known = ReferenceValues((value(name="other", tee="tdx"), value(name="this")))
    matched = known.match(claims_for_tests(), NOW)
    assert matched is not None
    assert matched.name == "this"


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"signer": Hex(SIGNER), "product": "wordcount", "svn": 5}, True),
        ({"svn": 6}, False),
        ({"product": "other"}, False),
        ({"signer": Hex(b"\0" * 32)}, False),
        ({"tee": "tdx"}, False),
        ({"measurements": {"launch": Hex(LAUNCH), "pcr7": Hex(b"\x77" * 32)}}, True),
        ({"measurements": {"launch": Hex(LAUNCH), "pcr7": Hex(b"\x78" * 32)}}, False),
        ({"measurements": {"launch": Hex(LAUNCH), "pcr8": Hex(b"\x77" * 32)}}, False),
        ({"measurements": {}, "signer": Hex(SIGNER)}, True),
        ({"platform": {"chip_id": "ab" * 32}}, True),
        ({"platform": {"chip_id": "cd" * 32}}, False),
        ({"not_after": NOW}, True),
        ({"not_after": NOW - datetime.timedelta(seconds=1)}, False),
    ],
)
def test_value_fits_only_what_it_describes(fields: dict[str, Any], fits: bool) -> None:
    assert value(**fields).fits(claims_for_tests(), NOW) is fits


@pytest.mark.parametrize("missing", ["signer", "product", "svn"])
def test_claims_that_lack_something_do_not_fit_a_value_that_has_it(missing: str) -> None:
    whole = value(signer=Hex(SIGNER), product="wordcount", svn=5)
    assert not whole.fits(claims_for_tests(**{missing: None}), NOW)


def test_component_beside_the_listed_ones_does_not_fit() -> None:
    listed = value(tee="psa", measurements={"software.BL": Hex(b"\1"), "software.A": Hex(b"\2")})
    measured = {"software.BL": b"\1", "software.A": b"\2"}
    assert listed.fits(claims_for_tests(tee="psa", measurements=measured), NOW)
    more = measured | {"software.B": b"\3"}
    assert not listed.fits(claims_for_tests(tee="psa", measurements=more), NOW)


@pytest.mark.parametrize(
    ("components", "fits"),
    [
        ([("BL", "aa")], True),
        ([("BL", "aa"), ("M1", "bb")], True),
        ([("BL", "ab")], False),
        ([("BL", "aa"), ("M2", "bb")], False),
        ([("BL", "aa"), ("BL", "cc")], False),
        ([("", "aa")], False),
        ([], False),
    ],
)
def test_platform_fits_if_every_component_is_known(
    components: list[tuple[str, str]], fits: bool
) -> None:
    platform = value(about="platform", measurements={"BL": Hex(b"\xaa"), "M1": Hex(b"\xbb")})
    software = [{"name": name, "measurement": digest} for name, digest in components]
    claims = claims_for_tests(details={"platform": {"software": software}})
    assert platform.fits(claims, NOW) is fits


@pytest.mark.parametrize("details", [{}, {"platform": 1}, {"platform": {"software": ["x"]}}])
def test_claims_without_firmware_fit_no_platform(details: dict[str, Any]) -> None:
    platform = value(about="platform")
    assert not platform.fits(claims_for_tests(details=details), NOW)
