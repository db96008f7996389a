"""CoRIMs are believed under a key, and nothing that they say is dropped in silence."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import PolicyError
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.appraisal import examine
from secgear.middleware.attestation.formats.arm_keys import key_from_jwk
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.reference.corim import Imported, read_corim
from tests.adversary.vendors.corim import (
    DIGEST,
    Publisher,
    comid,
    corim,
    measurement,
    reference,
    unsigned,
)
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

SNP = "tag:amd.com,2024:snp-corim-profile"
REALM = "tag:arm.com,2025:cca_realm#1.0.0"
PLATFORM = "tag:arm.com,2025:cca_platform#1.0.0"
PSA = "tag:arm.com,2025:psa#1.0.0"
GOOD = corim(comid(reference(measurement(641))), profile=SNP)
PUBLISHER = Publisher()


def read(content: Any, **options: Any) -> Imported:
    return read_corim(unsigned(content), at=NOW, allow_unsigned=True, **options)


# --- signatures ----------------------------------------------------------------------------------


def test_signed_corim_is_read_under_its_key() -> None:
    imported = read_corim(PUBLISHER.signed(GOOD), at=NOW, key=PUBLISHER.key.public_key())
    assert imported.signer == "publisher"
    (value,) = imported.values.values
    assert (value.tee, value.measurements) == ("snp", {"launch": DIGEST})


def test_signed_corim_is_read_under_the_root_of_its_certificates() -> None:
    signed = PUBLISHER.signed(GOOD, chain=PUBLISHER.certificate.der)
    assert read_corim(signed, at=NOW, roots=[PUBLISHER.anchor]).values.values


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (unsigned(GOOD), {}, "not signed"),
        (unsigned(GOOD), {"key": PUBLISHER.key.public_key()}, "not signed"),
        (PUBLISHER.signed(GOOD), {}, "nobody said whose key"),
        (PUBLISHER.signed(GOOD), {"allow_unsigned": True}, "nobody said whose key"),
        (PUBLISHER.signed(GOOD), {"key": ec_key().public_key()}, "does not verify"),
        (PUBLISHER.signed(GOOD), {"roots": [PUBLISHER.anchor]}, "no certificates"),
        (PUBLISHER.signed(GOOD, chain=[]), {"roots": [PUBLISHER.anchor]}, "no certificates"),
        (PUBLISHER.signed(GOOD, chain=["x"]), {"roots": [PUBLISHER.anchor]}, "that are none"),
        (
            PUBLISHER.signed(GOOD, chain=PUBLISHER.certificate.der),
            {"roots": [Authority("other").anchor("other", "arm")]},
            "certificate-chain",
        ),
        (
            PUBLISHER.signed(GOOD, chain=PUBLISHER.certificate.der),
            {"roots": [PUBLISHER.anchor], "at": NOW + 3 * YEAR / 4},
            "validity",
        ),
        (
            PUBLISHER.signed(GOOD, algorithm=-7),
            {"key": PUBLISHER.key.public_key()},
            "ES256 with a key on secp384r1",
        ),
        (
            PUBLISHER.signed(GOOD, content_type="text/plain"),
            {"key": PUBLISHER.key.public_key()},
            "content type",
        ),
        (
            PUBLISHER.signed(GOOD, until=NOW - YEAR),
            {"key": PUBLISHER.key.public_key()},
            "its signature is valid",
        ),
    ],
)
def test_corim_that_nobody_vouches_for_is_refused(
    data: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        read_corim(data, **({"at": NOW} | options))


@given(st.integers(0, len(PUBLISHER.signed(GOOD)) - 1), st.integers(1, 255))
def test_changed_signed_corim_is_refused(at: int, change: int) -> None:
    data = bytearray(PUBLISHER.signed(GOOD))
    data[at % len(data)] ^= change
    try:
        imported = read_corim(bytes(data), at=NOW, key=PUBLISHER.key.public_key())
    except PolicyError:
        return
    # Heads of the outermost array may be written differently; what was signed may not.
    assert (
        imported.values
        == read_corim(PUBLISHER.signed(GOOD), at=NOW, key=PUBLISHER.key.public_key()).values
    )


# --- content -------------------------------------------------------------------------------------


def test_validity_is_checked_and_carried_into_the_values() -> None:
    limited = GOOD | {4: {0: NOW - YEAR, 1: NOW + YEAR}}
    (value,) = read(limited).values.values
    assert value.not_after == NOW + YEAR
    for start, end in ((NOW - YEAR, NOW - YEAR / 2), (NOW + YEAR / 2, NOW + YEAR)):
        with pytest.raises(PolicyError, match="its content is valid from"):
            read(GOOD | {4: {0: start, 1: end}})


def test_what_is_not_imported_is_listed() -> None:
    triples = reference(measurement(641, v1=cbor2.CBORTag(552, 3)), measurement(640)) | {
        1: [[{}, []]],
        77: [1, 2],
    }
    imported = read(corim(comid(triples), cbor2.CBORTag(505, b"x"), profile=SNP))
    text = "\n".join(imported.not_imported)
    for part in ("640", "641: svn", "1 triples of endorsed values", "unknown kind 77", "CoSWID"):
        assert part in text


def test_corim_without_known_profile_needs_to_be_told_the_tee() -> None:
    content = corim(comid(reference(measurement())), profile="http://example.com/p")
    assert not read(content).values.values
    assert "does not say for which TEE" in read(content).not_imported[0]
    (value,) = read(content, tee="tdx").values.values
    assert (value.tee, value.measurements) == ("tdx", {"launch": DIGEST})


def test_alternatives_are_values_of_their_own() -> None:
    content = corim(comid(reference(measurement(), measurement(digest=bytes(48)))))
    assert [value.measurements for value in read(content, tee="tdx").values.values] == [
        {"launch": DIGEST},
        {"launch": bytes(48)},
    ]


def test_combinations_that_nobody_called_good_are_refused() -> None:
    parts = [
        measurement("psa.software-component", v11="BL"),
        measurement("psa.software-component", v11="M1"),
        measurement("psa.software-component", digest=bytes(48), v11="M1"),
    ]
    with pytest.raises(PolicyError, match="several values"):
        read(corim(comid(reference(*parts)), profile=PSA))


SHORT, LONG = [1, b"\x22" * 32], [8, b"\x33" * 64]  # SHA-256, SHA-512


def test_elements_that_an_algorithm_lacks_are_never_left_out() -> None:
    """A value without them would fit whatever else they were."""
    both = {0: "cca.rim", 1: {2: [SHORT, LONG]}}
    one = {0: "cca.rem0", 1: {2: [SHORT]}}
    (value,) = read(corim(comid(reference(both, one)), profile=REALM)).values.values
    assert value.measurements == {"launch": SHORT[1], "rem0": SHORT[1]}
    other = {0: "cca.rem0", 1: {2: [LONG]}}
    (value,) = read(
        corim(comid(reference({0: "cca.rim", 1: {2: [SHORT]}}, other)), profile=REALM)
    ).values.values
    assert value.measurements == {"launch": SHORT[1], "rem0": LONG[1]}
    mixed = {0: "cca.rem1", 1: {2: [[7, DIGEST], LONG]}}
    with pytest.raises(PolicyError, match="no algorithm has a digest for all"):
        read(corim(comid(reference(both, one, mixed)), profile=REALM))


def test_realm_without_its_initial_measurement_is_refused() -> None:
    with pytest.raises(PolicyError, match="without its initial"):
        read(corim(comid(reference(measurement("cca.rem0"))), profile=REALM))


def test_platform_values_are_about_the_platform() -> None:
    part = measurement("cca.software-component", v11="BL")
    (value,) = read(corim(comid(reference(part)), profile=PLATFORM)).values.values
    assert value.about == "platform"
    assert value.platform == {"implementation_id": "01" * 32}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {0: "x", 1: []},
        {0: "x", 1: [b"x"]},
        {0: "x", 1: [cbor2.CBORTag(506, "x")]},
        {0: "x", 1: [cbor2.CBORTag(506, b"\xff")]},
        corim(comid({})),
        corim(comid({0: 1})),
        corim(comid({0: [[{}, []]]})),
        corim(comid({0: [[{0: 1}, []]]})),
        corim(comid(reference(measurement(algorithm=1)))),
        corim(comid(reference(measurement(algorithm=99)))),
        corim(comid(reference({1: {}}))),
        corim(comid(reference({1: {2: []}}))),
        corim(comid(reference(measurement(v4=1)))),
        corim(comid(reference(measurement(v11=1)))),
        corim(comid(reference(measurement(v14=1)))),
        corim(comid(reference(measurement(1.5)))),
        corim(comid({3: [[{0: {1: "x"}}, [1]]]})),
        corim(comid({3: [[{0: {1: "x"}}, [cbor2.CBORTag(554, "no PEM")]]]}), profile=PSA),
        GOOD | {4: 1},
        GOOD | {4: {}},
    ],
)
def test_malformed_content_is_refused(content: Any) -> None:
    with pytest.raises(PolicyError):
        read(content, tee="snp")


@given(st.binary(max_size=100))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PolicyError):
        read_corim(data, at=NOW, allow_unsigned=True)


@given(st.integers(0, len(unsigned(GOOD)) - 1), st.integers(0, 255), st.booleans())
def test_changed_bytes_are_read_or_refused(at: int, byte: int, cut: bool) -> None:
    data = unsigned(GOOD)
    with contextlib.suppress(PolicyError):
        read_corim(
            data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :],
            at=NOW,
            allow_unsigned=True,
            tee="snp",
        )


# --- vectors -------------------------------------------------------------------------------------

THEN = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
Vector = Callable[[str], bytes]


def vector_of(vector: Vector, name: str, **options: Any) -> Imported:
    return read_corim(vector(name), **({"at": THEN, "allow_unsigned": True} | options))


@pytest.mark.parametrize("name", ["good-corim", "example-corim", "corim-with-extensions"])
def test_signed_vector_is_read_under_its_key_only(vector: Vector, name: str) -> None:
    file = f"corim/veraison-signed-{name}.cbor"
    key = key_from_jwk("signer", vector("corim/veraison-ec-p256.jwk")).key
    imported = vector_of(vector, file, key=key, tee="psa")
    assert imported.signer == "ACME Ltd signing key"
    assert len(imported.values.values) == 3
    with pytest.raises(PolicyError, match="ES256 with a key on secp384r1"):
        vector_of(vector, file, key=PUBLISHER.key.public_key())
    with pytest.raises(PolicyError, match="its signature is valid"):
        vector_of(vector, file, key=key, at=NOW)


@pytest.mark.parametrize(
    ("name", "values", "keys"),
    [
        ("cca/veraison-corim-cca-platform-valid.cbor", 1, 1),
        ("cca/veraison-corim-cca-realm-valid.cbor", 1, 0),
        ("cca/veraison-corim-psa-valid.cbor", 1, 2),
        ("cca/veraison-e2e-cca-endorsements.cbor", 1, 1),
        ("cca/veraison-e2e-cca-realm-endorsements.cbor", 1, 0),
        ("snp/veraison-corim-sevsnp-valid.cbor", 1, 0),
        ("vtpm/veraison-corim-parsec-tpm-valid.cbor", 2, 1),
        ("corim/veraison-unsigned-good-corim.cbor", 0, 0),
    ],
)
def test_unsigned_vector_is_read(vector: Vector, name: str, values: int, keys: int) -> None:
    imported = vector_of(vector, name)
    assert (len(imported.values.values), len(imported.keys)) == (values, keys)


@pytest.mark.parametrize(
    "name",
    [
        "veraison-coev-tdx-ce-pce-evidence.cbor",
        "veraison-comid-1.cbor",
        "veraison-coserv-rv-results.cbor",
        "veraison-coserv-sample_key.cbor",
    ],
)
def test_vector_that_is_no_corim_is_refused(vector: Vector, name: str) -> None:
    with pytest.raises(PolicyError, match="no CoRIM: "):
        vector_of(vector, f"corim/{name}")


def test_cca_vectors_fit_together(vector: Vector) -> None:
    platform = vector_of(vector, "cca/veraison-corim-cca-platform-valid.cbor")
    realm = vector_of(vector, "cca/veraison-corim-cca-realm-valid.cbor")
    policy = """
    [accept]
    tees = ["cca"]
    reference_values = true
    [freshness]
    report_data = "optional"
    [allow]
    test_roots = true
    """

    def judged(*parts: Imported) -> Any:
        return examine(
            Evidence("arm.cca", vector("cca/veraison-cca-good.cbor")),
            load_policy(policy.encode()),
            at=THEN,
            anchors=Anchors().adding(*platform.keys),
            reference_values=parts[0].values.merged(*(part.values for part in parts[1:])),
        )

    assert judged(platform, realm).trusted
    assert [check.name for check in judged(platform).reasons] == ["policy.measurement"]
    assert [check.name for check in judged(realm).reasons] == ["policy.tcb"]
