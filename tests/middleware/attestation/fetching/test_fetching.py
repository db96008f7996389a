"""Collateral from (fake) vendors over real HTTP: what is asked, what is kept, what is refused."""

from __future__ import annotations

import datetime
import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceMalformed
from secgear.middleware.attestation import verify
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.fetching import (
    DirectoryCache,
    Endpoints,
    HttpxTransport,
    MemoryCache,
    Request,
)
from secgear.middleware.attestation.fetching.cache import Entry
from secgear.middleware.attestation.fetching.transport import MAX_ANSWER, Response
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.nvidia import Nvidia
from tests.adversary.vendors.pki import NOW, YEAR
from tests.adversary.vendors.server import Answer, VendorServer
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.adversary.vendors.snp import TURIN, Amd
from tests.middleware.attestation.fetching.conftest import (
    FMSPC,
    bare,
    serve_amd,
    serve_intel,
    serve_nvidia,
)

Fetching = Callable[..., Collateral]


def checked(claims: Any) -> set[str]:
    return {check.name for check in claims.not_checked}


# --- each vendor ---------------------------------------------------------------------------------


def test_a_chips_certificate_and_the_list_are_all_that_a_report_needs(
    fetching: Fetching, server: VendorServer, amd: Amd
) -> None:
    vcek, crl = serve_amd(server, amd)
    evidence = bare(amd)
    found = fetching(evidence)
    assert server.asked == [vcek, crl]
    claims = verify(evidence, at=NOW, collateral=found, anchors=amd.anchors)
    assert "revocation" not in checked(claims)


def test_turins_short_chip_id_and_its_fmc_are_in_the_url(
    fetching: Fetching, server: VendorServer
) -> None:
    turin = Amd("Turin", TURIN)
    vcek, _ = serve_amd(server, turin)
    evidence = bare(turin)
    verify(evidence, at=NOW, collateral=fetching(evidence), anchors=turin.anchors)
    assert "fmcSPL=1&" in vcek
    assert vcek in server.asked


def test_a_report_that_brings_its_certificate_needs_the_list_only(
    fetching: Fetching, server: VendorServer, amd: Amd
) -> None:
    _, crl = serve_amd(server, amd)
    fetching(amd.evidence())
    assert server.asked == [crl]


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
@pytest.mark.parametrize("pccs", [True, False])
def test_a_quote_is_verified_in_full_with_what_was_fetched(
    fetching: Any, server: VendorServer, intel: Intel, tee: str, pccs: bool
) -> None:
    serve_intel(server, intel, tee, pccs=pccs)
    quote = intel.sgx_quote() if tee == "sgx" else intel.td_quote()
    evidence = Evidence(f"intel.{tee}.quote", quote)
    endpoints = Endpoints(
        intel_pcs=f"{server.url}/",  # a slash at the end harms nobody
        intel_root_crl=None if pccs else f"{server.url}/IntelSGXRootCA.der",
    )
    found = fetching(evidence, endpoints=endpoints)
    claims = verify(evidence, at=NOW, collateral=found, anchors=intel.anchors)
    assert not checked(claims) & {"revocation", "tcb", "qe-identity"}
    assert any(FMSPC in path for path in server.asked)


def test_intels_own_service_needs_the_roots_list_from_elsewhere(
    fetching: Fetching, server: VendorServer, intel: Intel
) -> None:
    serve_intel(server, intel, "sgx", pccs=False)
    with pytest.raises(CollateralError, match="--intel-root-crl"):
        fetching(Evidence("intel.sgx.quote", intel.sgx_quote()))


def test_a_gpu_gets_manifests_and_answers_about_every_chain(
    fetching: Fetching, server: VendorServer, nvidia: Nvidia
) -> None:
    pytest.importorskip("signxml", reason="manifests need secgear[gpu]")
    serve_nvidia(server, nvidia)
    evidence = nvidia.chip.evidence()
    found = fetching(evidence, anchors=nvidia.anchors)
    claims = verify(evidence, at=NOW, collateral=found, anchors=nvidia.anchors)
    assert not checked(claims) & {"revocation", "measurements"}
    assert len(server.bodies) == len(found.ocsp) == 6


def test_a_gpu_that_is_not_authentic_makes_nobody_ask(
    fetching: Fetching, server: VendorServer, nvidia: Nvidia
) -> None:
    serve_nvidia(server, nvidia)
    with pytest.raises(Exception, match="root"):
        fetching(nvidia.chip.evidence())  # NVIDIA's real roots do not know this chip
    assert server.asked == []


def test_parts_are_fetched_for_as_well(
    fetching: Fetching, server: VendorServer, amd: Amd, nvidia: Nvidia
) -> None:
    pytest.importorskip("signxml", reason="manifests need secgear[gpu]")
    serve_amd(server, amd)
    serve_nvidia(server, nvidia)
    evidence = bare(amd)
    whole = Evidence(
        evidence.format, evidence.data, evidence.attachments, {"gpu0": nvidia.chip.evidence()}
    )
    found = fetching(whole, anchors=nvidia.anchors)
    assert found.certificates
    assert found.documents


def test_formats_that_need_nothing_ask_nobody(fetching: Fetching, server: VendorServer) -> None:
    vendor = SimulatedVendor()
    assert fetching(vendor.evidence(), endpoints=Endpoints()) == Collateral()
    assert server.asked == []


# --- endpoints are the caller's ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda amd, _i, _n: bare(amd), "--amd-kds"),
        (lambda _a, intel, _n: Evidence("intel.tdx.quote", intel.td_quote()), "--intel-pcs"),
        (lambda _a, _i, nvidia: nvidia.chip.evidence(), "--nvidia-rim"),
    ],
)
def test_without_an_endpoint_nobody_is_asked(
    fetching: Fetching, amd: Amd, intel: Intel, nvidia: Nvidia, make: Any, option: str
) -> None:
    with pytest.raises(CollateralError, match=option):
        fetching(make(amd, intel, nvidia), endpoints=Endpoints())


@pytest.mark.parametrize("url", ["ftp://x", "kds", "https://", "https://x/?q", "https://x/#f"])
def test_endpoints_that_are_none_are_refused(fetching: Fetching, amd: Amd, url: str) -> None:
    with pytest.raises(CollateralError, match="endpoint"):
        fetching(bare(amd), endpoints=Endpoints(amd_kds=url))


def test_reports_that_name_too_little_say_what_to_give(fetching: Fetching, amd: Amd) -> None:
    with pytest.raises(CollateralError, match="version 2"):
        fetching(bare(amd, version=2))
    with pytest.raises(CollateralError, match="hides"):
        fetching(bare(amd, chip_id=bytes(64), key_info=2))
    with pytest.raises(CollateralError, match="VLEK"):
        fetching(bare(amd, key_info=1 << 2))


def test_a_hostile_name_gets_into_no_url(
    fetching: Fetching, server: VendorServer, nvidia: Nvidia
) -> None:
    from tests.adversary.vendors.nvidia import OPAQUE, messages, tlv

    hostile = messages(entries=tlv({**OPAQUE, 3: b"../../x?y#z\0"}))
    evidence = nvidia.chip.evidence(signed=nvidia.chip.sign(hostile))
    with pytest.raises(EvidenceMalformed, match="no identifier"):
        fetching(evidence, anchors=nvidia.anchors)
    assert server.asked == []


# --- what can go wrong on the way ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(b"no such chip", status=404), "status 404"),
        (Answer(b"", status=500), "status 500"),
        (Answer(b"", {"Location": "https://elsewhere.example/"}, 302), "redirects to https://else"),
        (Answer(b""), "not a VCEK"),
        (Answer(b"\x30\x82"), "not a VCEK"),
        (Answer(b"<html>please log in</html>"), "not a VCEK"),
        (Answer(bytes(MAX_ANSWER + 1)), "more than"),
        (
            Answer(gzip.compress(bytes(MAX_ANSWER), mtime=0), {"Content-Encoding": "gzip"}),
            "not asked for",
        ),
        (Answer(b"x", {"Content-Encoding": "gzip"}), "http"),
    ],
)
def test_an_answer_that_is_none_is_named_with_its_url(
    fetching: Fetching, server: VendorServer, amd: Amd, answer: Answer, reason: str
) -> None:
    vcek, _ = serve_amd(server, amd)
    server.answers[vcek] = answer
    cache = MemoryCache()
    with pytest.raises(CollateralError, match=reason) as caught:
        fetching(bare(amd), cache=cache)
    assert server.url in str(caught.value)
    serve_amd(server, amd)
    assert fetching(bare(amd), cache=cache).certificates  # nothing bad was kept


def test_a_certificate_of_another_kind_is_no_vcek(
    fetching: Fetching, server: VendorServer, amd: Amd
) -> None:
    vcek, _ = serve_amd(server, amd)
    server.answers[vcek] = Answer(amd.endorsement(csp="cloud").der)
    with pytest.raises(CollateralError, match="another certificate"):
        fetching(bare(amd))


def test_tcb_information_about_another_platform_is_refused(
    fetching: Fetching, server: VendorServer, intel: Intel
) -> None:
    serve_intel(server, intel, "tdx")
    serve_intel(server, intel, "sgx")
    tdx = server.answers[f"/tdx/certification/v4/tcb?fmspc={FMSPC}"]
    server.answers[f"/sgx/certification/v4/tcb?fmspc={FMSPC}"] = tdx
    with pytest.raises(CollateralError, match="it is about"):
        fetching(Evidence("intel.sgx.quote", intel.sgx_quote()))


def test_an_answer_without_its_issuers_is_refused(
    fetching: Fetching, server: VendorServer, intel: Intel
) -> None:
    serve_intel(server, intel, "sgx")
    path = "/sgx/certification/v4/qe/identity"
    body = server.answers[path]
    assert isinstance(body, Answer)
    for headers in ({}, {"SGX-Enclave-Identity-Issuer-Chain": "rubbish"}):
        server.answers[path] = Answer(body.body, headers)
        with pytest.raises(CollateralError, match="not QE identity"):
            fetching(Evidence("intel.sgx.quote", intel.sgx_quote()))


def test_a_busy_service_is_asked_again_when_it_says(
    fetching: Any, server: VendorServer, amd: Amd
) -> None:
    vcek, crl = serve_amd(server, amd)
    good = server.answers[vcek]
    assert isinstance(good, Answer)
    server.answers[vcek] = [
        Answer(b"", {"Retry-After": "7"}, 429),
        Answer(b"", {"Retry-After": "86400"}, 503),
        Answer(b"", {"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}, 429),
        good,
    ]
    assert fetching(bare(amd)).certificates
    assert server.asked == [vcek] * 4 + [crl]
    assert fetching.pauses == [7, 30, 8]


def test_a_service_that_stays_busy_is_given_up(
    fetching: Any, server: VendorServer, amd: Amd
) -> None:
    vcek, _ = serve_amd(server, amd)
    server.answers[vcek] = Answer(b"", status=429)
    with pytest.raises(CollateralError, match="status 429"):
        fetching(bare(amd))
    assert len(server.asked) == 4


def test_nobody_there_and_too_slow_are_one_clear_error(
    fetching: Fetching, server: VendorServer, amd: Amd
) -> None:
    serve_amd(server, amd)
    with pytest.raises(CollateralError, match=r"127\.0\.0\.1:1/"):
        fetching(bare(amd), endpoints=Endpoints(amd_kds="http://127.0.0.1:1"))
    server.delay = 1.0
    with pytest.raises(CollateralError, match="timed out"):
        fetching(bare(amd), timeout=0.2)


def test_a_certificate_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(CollateralError, match="no certificates"):
            HttpxTransport(trust=path)


# --- caches --------------------------------------------------------------------------------------


def test_what_is_kept_is_not_asked_for_again(
    fetching: Fetching, server: VendorServer, amd: Amd, tmp_path: Path
) -> None:
    vcek, crl = serve_amd(server, amd)
    first = fetching(bare(amd), cache=DirectoryCache(tmp_path / "cache"))
    again = fetching(bare(amd), cache=DirectoryCache(tmp_path / "cache"))
    assert first == again
    assert server.asked == [vcek, crl]
    offline = fetching(bare(amd), cache=DirectoryCache(tmp_path / "cache"), transport=None)
    assert offline == first


def test_what_has_expired_is_asked_for_again_and_what_can_not_change_is_not(
    fetching: Fetching, server: VendorServer, amd: Amd, tmp_path: Path
) -> None:
    vcek, crl = serve_amd(server, amd)
    cache = DirectoryCache(tmp_path)
    fetching(bare(amd), cache=cache)
    fetching(bare(amd), cache=cache, at=NOW + YEAR)
    assert server.asked == [vcek, crl, crl]


def test_offline_what_is_missing_is_named(fetching: Fetching, amd: Amd) -> None:
    with pytest.raises(CollateralError, match="not in the cache"):
        fetching(bare(amd), transport=None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-5],
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: data.replace(b"/vcek/", b"/other/"),
        lambda data: json.dumps(json.loads(data) | {"body": "AAAA"}).encode(),
        lambda data: json.dumps(json.loads(data) | {"body": "?"}).encode(),
        lambda data: json.dumps(json.loads(data) | {"expires": "2099-01-01T00:00:00"}).encode(),
        lambda data: b"\xff" * 100,
    ],
)
def test_damaged_entries_are_fetched_again(
    fetching: Fetching, server: VendorServer, amd: Amd, tmp_path: Path, spoil: Any
) -> None:
    serve_amd(server, amd)
    cache = DirectoryCache(tmp_path)
    first = fetching(bare(amd), cache=cache)
    for file in tmp_path.iterdir():
        file.write_bytes(spoil(file.read_bytes()))
    assert fetching(bare(amd), cache=cache) == first
    assert len(server.asked) == 4


def test_a_cache_is_for_its_owner_and_leaves_no_pieces(
    fetching: Fetching, server: VendorServer, amd: Amd, tmp_path: Path
) -> None:
    serve_amd(server, amd)
    fetching(bare(amd), cache=DirectoryCache(tmp_path / "made"))
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0
    assert all(file.suffix == ".json" for file in (tmp_path / "made").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(CollateralError, match="cache"):
        DirectoryCache(tmp_path / "file" / "below")


def test_many_writers_leave_a_whole_entry(tmp_path: Path) -> None:
    cache = DirectoryCache(tmp_path)
    request = Request("https://example.org/x")
    bodies = [bytes([number]) * 50_000 for number in range(16)]

    def write(body: bytes) -> None:
        for _ in range(20):
            cache.put(request, Entry(Response(body), NOW))
            found = cache.get(request)
            assert found is not None
            assert found.response.body in bodies

    threads = [threading.Thread(target=write, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 1


def test_requests_are_told_apart_by_url_and_body(tmp_path: Path) -> None:
    for cache in (MemoryCache(), DirectoryCache(tmp_path)):
        cache.put(Request("https://a", b"b"), Entry(Response(b"one", {"x": "y"}), NOW))
        assert cache.get(Request("https://ab")) is None
        assert cache.get(Request("https://a")) is None
        found = cache.get(Request("https://a", b"b"))
        assert found == Entry(Response(b"one", {"x": "y"}), NOW)
        assert found.expires == NOW.astimezone(datetime.UTC)


def test_progress_names_what_and_whom(fetching: Any, server: VendorServer, amd: Amd) -> None:
    serve_amd(server, amd)
    fetching(bare(amd))
    assert fetching.said == ["a VCEK: 127.0.0.1", "AMD's revocation list: 127.0.0.1"]
