"""Files of evidence are known by their content; nothing is guessed twice, nothing crashes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.importing import import_collateral
from secgear.middleware.attestation.recognition import recognise
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.adversary.vendors.snp import Amd

Read = Callable[[str], bytes]
TOKEN = SimulatedVendor().evidence()
REPORT = Amd().report()


@pytest.mark.parametrize("evidence", [TOKEN, Evidence("amd.sev-snp", REPORT)])
def test_raw_hexadecimal_base64_and_envelopes_are_the_same(evidence: Evidence) -> None:
    for form in (
        evidence.data,
        evidence.data.hex().encode(),
        b"0x" + evidence.data.hex().encode() + b"\n",
        base64.b64encode(evidence.data),
        base64.encodebytes(evidence.data),
        base64.urlsafe_b64encode(evidence.data).rstrip(b"="),
        envelope.to_json(evidence),
        envelope.to_cbor(evidence),
        base64.b64encode(envelope.to_cbor(evidence)),
    ):
        assert recognise(form) == evidence


def test_a_certificate_table_behind_a_report_goes_along() -> None:
    assert recognise(REPORT + b"table").attachments == {"certs": b"table"}
    assert recognise(REPORT + bytes(100)).attachments == {}


def test_reports_of_configfs_tsm_are_known_by_their_provider() -> None:
    file = {"provider": "sev_guest\n", "outblob": REPORT, "auxblob": b"table"}
    assert recognise(cbor2.dumps(file)) == Evidence("amd.sev-snp", REPORT, {"certs": b"table"})
    with pytest.raises(EvidenceUnsupported, match="acme_guest"):
        recognise(cbor2.dumps({"provider": "acme_guest", "outblob": b""}))


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("snp/gosev-milan-attestation.bin", "amd.sev-snp"),
        ("snp/msft-genoa_attestation_report.bin", "amd.sev-snp"),
        ("snp/veraison-sevsnp-tsm-report.cbor", "amd.sev-snp"),
        ("sgx/dcapqvl-sgx_quote", "intel.sgx.quote"),
        ("sgx/trustee-occlum_quote.dat", "intel.sgx.quote"),
        ("tdx/dcapqvl-tdx_quote", "intel.tdx.quote"),
        ("tdx/gotdx-quote_v5_sample.dat", "intel.tdx.quote"),
        ("tdx/dcapqvl-tdx-quote.hex", "intel.tdx.quote"),
        ("nitro/evervault-valid-attestation-doc.b64", "aws.nitro"),
        ("nitro/evervault-debug-mode-attestation-doc.bin", "aws.nitro"),
        ("cca/trustee-cca-example-token.cbor", "arm.cca"),
        ("cca/veraison-psa-token.cbor", "arm.psa"),
        ("virtcca/secgear-virtcca.cbor", "huawei.virtcca"),
        ("nvidia/nvat-hopper_evidence.json", "nvidia.gpu"),
        ("vtpm/trustee-azsnp-evidence-v0.json", "azure.snp"),
        ("vtpm/trustee-azsnp-evidence-v1.json", "azure.snp"),
        ("vtpm/trustee-aztdx-evidence-v0.json", "azure.tdx"),
        ("csv/trustee-csv_evidence.json", "hygon.csv"),
    ],
)
def test_real_evidence_is_recognised(vector: Read, name: str, format_name: str) -> None:
    assert recognise(vector(name)).format == format_name


@pytest.mark.parametrize(
    "name",
    ["tdx/guestcomp-tdx_report_1.bin", "tdx/gotdx-report.dat", "tdx/lunal-tdx_tdreport_live.bin"],
)
def test_local_reports_are_refused_with_the_reason(vector: Read, name: str) -> None:
    with pytest.raises(EvidenceUnsupported, match="local report"):
        recognise(vector(name))


def test_several_devices_in_one_file_are_refused(vector: Read) -> None:
    with pytest.raises(EvidenceUnsupported, match="NVIDIA devices"):
        recognise(vector("nvidia/nvat-multi_gpu_hopper.json"))


def test_quotes_in_json_bring_their_log() -> None:
    quote = b"\4\0\2\0\x81\0\0\0" + bytes(700)
    text = json.dumps({"quote": base64.b64encode(quote).decode(), "cc_eventlog": "AAEC"})
    assert recognise(text.encode()) == Evidence("intel.tdx.quote", quote, {"ccel": b"\0\1\2"})


@pytest.mark.parametrize(
    "data", [b"", b"x", b"{}", b"[]", b"[7]", b"{", b'{"quote": 7}', b"\xff" * 2000, bytes(2000)]
)
def test_unknown_files_are_refused(data: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        recognise(data)


@settings(max_examples=300)
@given(
    st.binary(max_size=1300)
    | st.binary(max_size=100).map(lambda data: REPORT[:60] + data)
    | st.text(max_size=50).map(str.encode)
    | st.recursive(
        st.none() | st.text(max_size=8) | st.integers(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["quote", "vcek", "hcl_report", "secgear-evidence", "cc_eventlog"]),
                inner,
            )
            | st.lists(inner, max_size=3)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_rubbish_is_recognised_or_refused(data: bytes) -> None:
    try:
        recognise(data)
    except EvidenceRefused:
        return


@pytest.mark.parametrize("text", [b'{"quote": "\xff"}', b'{"\xfe": 1}', b'{"quote": 1e999999}'])
def test_json_in_another_encoding_is_malformed(text: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        recognise(text)
    with pytest.raises(CollateralError):
        import_collateral(text, "file")
