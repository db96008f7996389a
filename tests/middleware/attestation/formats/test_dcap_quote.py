"""Quotes, certification data and PCK extensions: bytes to fields, and hostile bytes to refusals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.formats.dcap import der, quote
from secgear.middleware.attestation.formats.dcap.pck import read_pck
from tests.adversary.vendors.intel import (
    TDX,
    Intel,
    enclave_report,
    number,
    pair,
    sgx_extension,
    td_report,
    tlv,
)
from tests.adversary.vendors.intel_documents import COMPONENTS, FMSPC

VECTORS = (
    "sgx/dcapqvl-sgx_quote",
    "sgx/trustee-occlum_quote.dat",
    "tdx/dcapqvl-tdx_quote",
    "tdx/gotdx-quote_v5_sample.dat",
    "tdx/gotdx-cos-113-tdx-quote.dat",
)


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


def test_fields_of_an_sgx_quote_come_out_as_they_went_in(intel: Intel) -> None:
    parsed = quote.parse(intel.sgx_quote(mrenclave=b"e" * 32, svn=77, user_data=b"u" * 20))
    assert (parsed.version, parsed.tee_type, parsed.user_data) == (3, quote.SGX, b"u" * 20)
    assert (parsed.body.mrenclave, parsed.body.svn) == (b"e" * 32, 77)
    assert parsed.certification.chain == intel.chain


@pytest.mark.parametrize(("version", "newer"), [(4, False), (5, False), (5, True)])
def test_fields_of_a_tdx_quote_come_out_as_they_went_in(
    intel: Intel, version: int, newer: bool
) -> None:
    parsed = quote.parse(intel.td_quote(version, newer=newer, mrtd=b"t" * 48, rtmr3=b"r" * 48))
    assert parsed.body.mrtd == b"t" * 48
    assert parsed.body.rtmrs[3] == b"r" * 48
    assert (parsed.body.mrservicetd is not None) == newer
    assert (
        parsed.signed
        == intel.td_quote(version, newer=newer, mrtd=b"t" * 48, rtmr3=b"r" * 48)[
            : len(parsed.signed)
        ]
    )


def test_padding_of_zeros_after_a_quote_is_passed_over(intel: Intel) -> None:
    assert quote.parse(intel.td_quote(padding=bytes(3000))).version == 4


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"version": 2}, "quote version 2"),
        ({"version": 6, "body_type": 1}, "quote version 6"),
        ({"key_type": 3}, "attestation key type 3"),
        ({"vendor": b"V" * 16}, "vendor"),
        ({"certification": (7, b"manifest")}, "certification data of type 7"),
        ({"certification": (99, b"")}, "certification data of type 99"),
        ({"version": 5, "body_type": 4}, "quote body of type 4"),
        ({"version": 4, "outer_type": 5}, "certification data of type 5"),
    ],
)
def test_unknown_kinds_are_refused_as_unsupported(
    intel: Intel, knobs: dict[str, object], words: str
) -> None:
    with pytest.raises(EvidenceUnsupported, match=words):
        quote.parse(intel.sgx_quote(**knobs))


def test_unknown_tee_is_refused_as_unsupported(intel: Intel) -> None:
    with pytest.raises(EvidenceUnsupported, match="TEE type 0x82"):
        quote.parse(intel.quote(td_report(), 0x82, 4))
    with pytest.raises(EvidenceUnsupported, match="TEE type 0x81 in a quote of version 3"):
        quote.parse(intel.quote(enclave_report(), TDX, 3))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"padding": b"\0\1"}, "no padding"),
        ({"version": 5, "body_size": 383}, "quote body of 383 bytes"),
        ({"version": 5, "body_type": 2}, "quote body of type 2"),
        ({"reserved1": b"\1" + bytes(11)}, "reserved"),
        ({"reserved3": bytes(31) + b"\1"}, "reserved"),
        ({"reserved4": bytes(41) + b"\1"}, "reserved"),
        ({"auth_data": bytes(5000)}, "5000 bytes of QE authentication data"),
        ({"certification": (5, b"")}, "PEM certificates"),
        ({"certification": (5, b"-----BEGIN CERTIFICATE-----\n!!")}, "PEM"),
        ({"certification": (4, b"\x30\x82\xff\xff")}, "DER"),
        ({"certification": (1, bytes(35))}, "PCEID"),
        ({"certification": (1, bytes(37))}, "after its end"),
        ({"certification": (6, bytes(500))}, "QE report within"),
        ({"qe": {"reserved2": b"\1" * 32}}, "reserved"),
    ],
)
def test_broken_layouts_are_malformed(intel: Intel, knobs: dict[str, object], words: str) -> None:
    with pytest.raises(EvidenceMalformed, match=words):
        quote.parse(intel.sgx_quote(**knobs))


@pytest.mark.parametrize(("version", "at"), [(3, 432), (4, 632), (4, 632 + 4 + 128 + 2)])
@pytest.mark.parametrize("lie", [0, 10, 0x7FFFFFFF, 0xFFFFFFFF, -1, +1])
def test_lengths_that_lie_are_malformed(intel: Intel, version: int, at: int, lie: int) -> None:
    data = bytearray(intel.sgx_quote() if version == 3 else intel.td_quote())
    true = int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = (true + lie if abs(lie) == 1 else lie).to_bytes(4, "little")
    with pytest.raises(EvidenceRefused):
        quote.parse(bytes(data))


@pytest.mark.parametrize("version", [3, 4, 5])
def test_bytes_after_the_signature_data_are_malformed(intel: Intel, version: int) -> None:
    whole = intel.sgx_quote(version)
    start = 432 if version < 5 else 438
    size = int.from_bytes(whole[start : start + 4], "little") + 4
    longer = whole[:start] + size.to_bytes(4, "little") + whole[start + 4 :] + bytes(4)
    with pytest.raises(EvidenceMalformed, match="4 bytes after its end"):
        quote.parse(longer)


def test_a_huge_quote_is_not_read(intel: Intel) -> None:
    with pytest.raises(EvidenceMalformed, match="at most"):
        quote.parse(intel.sgx_quote(padding=bytes(200_000)))


@pytest.mark.parametrize(("size", "words"), [(1024, "TDREPORT"), (432, "SGX REPORT")])
def test_local_reports_are_refused_with_a_reason(size: int, words: str) -> None:
    with pytest.raises(EvidenceUnsupported, match=words):
        quote.parse(b"\x81" + bytes(size - 1))


@pytest.mark.parametrize(
    "name", ["guestcomp-tdx_report_1.bin", "gotdx-report.dat", "lunal-tdx_tdreport_live.bin"]
)
def test_real_tdreports_are_refused_with_a_reason(
    vector: Callable[[str], bytes], name: str
) -> None:
    with pytest.raises(EvidenceUnsupported, match="TDREPORT"):
        quote.parse(vector(f"tdx/{name}"))


@pytest.mark.parametrize(("kind", "ppid"), [(1, 16), (2, 256), (3, 384)])
def test_platform_identification_is_read(intel: Intel, kind: int, ppid: int) -> None:
    data = b"P" * ppid + b"C" * 16 + (7).to_bytes(2, "little") + (9).to_bytes(2, "little")
    platform = quote.parse(intel.sgx_quote(certification=(kind, data))).certification.platform
    assert platform is not None
    assert (platform.cpu_svn, platform.pce_svn, platform.pce_id) == (b"C" * 16, 7, 9)
    assert platform.ppid == (b"P" * 16 if kind == 1 else None)


def test_chains_in_der_and_pem_with_a_nul_are_read(intel: Intel) -> None:
    together = b"".join(certificate.der for certificate in intel.chain)
    for kind, data in ((5, together), (5, intel.pem_chain() + b"\0"), (4, to_pem(intel.pck))):
        parsed = quote.parse(intel.sgx_quote(certification=(kind, data)))
        assert parsed.certification.chain[0] == intel.pck


def test_trailing_bytes_of_a_cut_chain_are_malformed(intel: Intel) -> None:
    together = b"".join(certificate.der for certificate in intel.chain)
    for data in (together[:-1], together * 4):
        with pytest.raises(EvidenceMalformed):
            quote.parse(intel.sgx_quote(certification=(5, data)))


def test_pck_extension_is_read(intel: Intel) -> None:
    pck = read_pck(intel.pck)
    assert (pck.fmspc, pck.components, pck.pce_svn) == (FMSPC, COMPONENTS, 13)
    assert (pck.sgx_type, pck.instance_id) == ("Scalable", bytes(range(16, 32)))
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (True, True, True)


def test_pck_of_a_processor_has_no_platform_fields() -> None:
    pck = read_pck(Intel(extension={"platform": False, "sgx_type": 0}).pck)
    assert (pck.sgx_type, pck.instance_id, pck.dynamic_platform) == ("Standard", None, None)


OID = "1.2.840.113741.1.13.1"


@pytest.mark.parametrize(
    "extension",
    [
        b"\x30\x80\x00\x00",
        sgx_extension() + b"\0",
        sgx_extension(fmspc=bytes(5)),
        sgx_extension(ppid=bytes(17)),
        sgx_extension(pce_id=b""),
        sgx_extension(pce_svn=1 << 16),
        sgx_extension(sgx_type=9),
        sgx_extension(more=pair(f"{OID}.4", tlv(0x04, bytes(6)))),
        sgx_extension(more=pair("1.2.99", tlv(0x04, b""))),
        sgx_extension(more=b"\x02\x01\x00"),
        sgx_extension(components=COMPONENTS[:15]),
        tlv(0x31, sgx_extension()[4:]),
        tlv(0x30, pair(f"{OID}.1", number(1))),
    ],
)
def test_broken_pck_extensions_are_malformed(extension: bytes) -> None:
    with pytest.raises(EvidenceMalformed, match=r"^format: "):
        read_pck(Intel(extension=extension).pck)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x05\x00",
        b"\x30\x81\x05" + bytes(5),
        b"\x30\x82\x00\x85" + bytes(0x85),
        b"\x30\x84\x00\x00\x00\x01\x00",
        b"\x30\x83\xff",
        b"\x1f\x81\x01\x00",
    ],
)
def test_der_that_is_no_der_is_malformed(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed, match=r"^format: DER"):
        der.element(data)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x00\x01", b"\xff\x00"])
def test_numbers_that_are_negative_or_padded_are_malformed(content: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        der.natural(content)


@pytest.mark.parametrize(("content", "value"), [(b"\0", 0), (b"\x7f", 127), (b"\0\xff", 255)])
def test_numbers_are_read(content: bytes, value: int) -> None:
    assert der.natural(content) == value


def test_identifiers_are_read_and_padded_ones_are_not() -> None:
    assert der.identifier(bytes.fromhex("2a864886f84d010d01")) == (1, 2, 840, 113741, 1, 13, 1)
    assert der.identifier(b"\x88\x37\x03") == (2, 999, 3)
    for bad in (b"", b"\x2a\x80", b"\x2a\x80\x01", b"\x80\x01", b"\x2a" * 65):
        with pytest.raises(EvidenceMalformed):
            der.identifier(bad)


def test_truth_values_are_read() -> None:
    assert (der.boolean(b"\xff"), der.boolean(b"\0")) == (True, False)
    with pytest.raises(EvidenceMalformed):
        der.boolean(b"\1")


@given(st.binary(max_size=2000))
def test_random_bytes_never_crash_the_parser(data: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        quote.parse(data)


@settings(max_examples=200)
@given(st.data())
def test_flipped_bytes_never_crash_the_parser(data: st.DataObject) -> None:
    mutable = bytearray(_TD_QUOTE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutable) - 1))
        mutable[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EvidenceRefused):
        quote.parse(bytes(mutable))


_TD_QUOTE = Intel().td_quote(5, newer=True)


@pytest.mark.parametrize("name", VECTORS)
def test_cut_vectors_are_malformed(vector: Callable[[str], bytes], name: str) -> None:
    whole = vector(name).rstrip(b"\0")
    for size in range(0, len(whole) - 1, 53):
        with pytest.raises(EvidenceRefused, match=r"^format: "):
            quote.parse(whole[:size])


def test_certificate_without_the_extension_is_malformed_as_a_pck(intel: Intel) -> None:
    with pytest.raises(EvidenceMalformed, match="no SGX extension"):
        read_pck(intel.root.certificate)
