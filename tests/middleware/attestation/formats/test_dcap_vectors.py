"""Real SGX and TDX quotes with Intel's own collateral of their time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchor, Anchors
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.attestation.checks import Outcome
from secgear.middleware.attestation.claims import Claims, TcbStatus
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.formats.dcap import quote as quotes
from secgear.middleware.attestation.formats.dcap.exchange import collateral_from_dcap_qvl
from secgear.middleware.attestation.formats.dcap.verifier import authenticate
from secgear.middleware.attestation.verification import Context, verify

Vector = Callable[[str], bytes]
DAY = datetime.timedelta(days=1)


def utc(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.UTC)  # type: ignore[arg-type,misc]  # (dates)


SGX_AT, TDX_AT = utc(2025, 6, 19, 12), utc(2025, 6, 19, 11, 32)
LUNAL_AT, OLD_AT = utc(2026, 3, 17, 22), utc(2026, 2, 20)
E4_SIZE = 4935  # what follows in the file says "extra bytes(only for testing purpose)"


def qvl(vector: Vector, name: str) -> Collateral:
    return collateral_from_dcap_qvl(vector(f"{name}_collateral.json"))


def lunal(vector: Vector, fmspc: str) -> Collateral:
    """What Intel's PCS served on 2026-03-16."""
    folder = "tdx/lunal-collateral"
    signer = tuple(one.der for one in load_pem(vector(f"{folder}-tcb_signing_chain.pem")))
    qe_signer = tuple(
        one.der for one in load_pem(vector(f"{folder}-qe_identity_signing_chain.pem"))
    )
    info, identity = (
        vector(f"{folder}-tcb_info_{fmspc}.json"),
        vector(f"{folder}-td_qe_identity.json"),
    )
    return Collateral(
        crls=(vector(f"{folder}-root_ca_crl.der"), vector(f"{folder}-pck_crl_platform.der")),
        documents=(
            Document("intel.tcb-info", info, chain=signer),
            Document("intel.qe-identity", identity, chain=qe_signer),
        ),
    )


def check(
    tee: str, quote: bytes, collateral: Collateral, at: datetime.datetime, **attachments: bytes
) -> Claims:
    return verify(Evidence(f"intel.{tee}.quote", quote, attachments), at=at, collateral=collateral)


def refusing(
    tee: str, quote: bytes, collateral: Collateral, at: datetime.datetime, **attachments: bytes
) -> str:
    with pytest.raises(EvidenceRefused) as caught:
        check(tee, quote, collateral, at, **attachments)
    last = caught.value.checks[-1]
    assert last.outcome is Outcome.FAIL  # type: ignore[attr-defined]  # (errors know no Check)
    return str(last.name)  # type: ignore[attr-defined]


def test_sgx_quote_needs_configuration_and_hardening(vector: Vector) -> None:
    name = "sgx/dcapqvl-sgx_quote"
    claims = check("sgx", vector(name), qvl(vector, name), SGX_AT)
    assert claims.tcb.status is TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED
    assert claims.tcb.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert claims.tcb.shortfalls[0] == "SGX component 7 is 0, the level of 2024-03-13 needs 12"
    assert claims.platform["fmspc"] == "00a067110000"
    assert claims.root.builtin
    assert not claims.not_checked
    assert claims.debug is False


@pytest.mark.parametrize("name", ["tdx/dcapqvl-tdx_quote"])
def test_tdx_quote_is_up_to_date(vector: Vector, name: str) -> None:
    claims = check("tdx", vector(name), qvl(vector, name), TDX_AT)
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert (claims.tcb.advisories, claims.tcb.shortfalls) == ((), ())
    assert not claims.not_checked
    assert (claims.debug, claims.migratable) == (False, False)


def test_tdx_quote_v5_is_up_to_date(vector: Vector) -> None:
    collateral = lunal(vector, "90c06f000000")
    claims = check("tdx", vector("tdx/gotdx-quote_v5_sample.dat"), collateral, LUNAL_AT)
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert claims.details["quote_version"] == 5


def test_collateral_of_yesterday_is_refused_tomorrow(vector: Vector) -> None:
    name = "tdx/dcapqvl-tdx_quote"
    late, early = utc(2025, 7, 20), utc(2025, 6, 18)
    assert refusing("tdx", vector(name), qvl(vector, name), late) == "revocation"
    assert refusing("tdx", vector(name), qvl(vector, name), early) == "revocation"


def test_outdated_tdx_platform_is_refused_with_what_it_lacks(vector: Vector) -> None:
    name = "tdx/dcapqvl-tdx_quote_outdated"
    with pytest.raises(EvidenceRefused, match=r"SGX component 8 \(SEAMLDR ACM, OS/VMM\) is 3"):
        check("tdx", vector(name), qvl(vector, name), OLD_AT)


@pytest.mark.parametrize(
    ("name", "fmspc"),
    [
        ("tdx/gotdx-tdx_prod_quote_SPR_E4.dat", "50806f000000"),
        ("tdx/trustee-tdx_quote_5.dat", "90c06f000000"),
    ],
)
def test_platforms_below_all_levels_are_refused(vector: Vector, name: str, fmspc: str) -> None:
    quote = vector(name)
    if name.endswith("E4.dat"):
        with pytest.raises(EvidenceMalformed, match="no padding"):
            quotes.parse(quote)
        quote = quote[:E4_SIZE]
    assert refusing("tdx", quote, lunal(vector, fmspc), LUNAL_AT) == "tcb"


def test_debug_td_is_seen_as_such(vector: Vector) -> None:
    claims = check(
        "tdx", vector("tdx/trustee-tdx_quote_4.dat"), lunal(vector, "50806f000000"), LUNAL_AT
    )
    assert claims.debug is True


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("tdx/dcapqvl-quote-from-tappd.hex", TDX_AT),
        ("tdx/dcapqvl-tdx-quote.hex", TDX_AT),
        ("tdx/gotdx-cos-113-tdx-quote.dat", LUNAL_AT),
        ("tdx/trustee-tdx_quote_6.dat", LUNAL_AT),
        ("tdx/lunal-tdx_quote_live.dat", utc(2026, 4, 1)),
        ("sgx/trustee-occlum_quote.dat", utc(2024, 1, 1)),
    ],
)
def test_quotes_without_collateral_are_authentic_and_say_what_is_missing(
    vector: Vector, name: str, at: datetime.datetime
) -> None:
    data = vector(name)
    if name.endswith(".hex"):
        data = bytes.fromhex(data.decode().strip().removeprefix("0x"))
    claims = check(name[:3], data, Collateral(), at)
    of_td = {"tdx-module"} if claims.tee == "tdx" else set()
    missing = {"revocation", "tcb", "qe-identity"} | of_td
    assert {one.name for one in claims.not_checked} == missing
    assert claims.tcb.status is TcbStatus.NOT_ASSESSED


# --- event logs ----------------------------------------------------------------------------------

LOGS = {
    "tdx/gotdx-cos-113-tdx-quote.dat": ("tdx/gotdx-ccel_data.dat", LUNAL_AT, "43 events"),
    "tdx/lunal-tdx_quote_live.dat": ("tdx/lunal-tdx_ccel_live2.dat", utc(2026, 4, 1), "20 events"),
}


@pytest.mark.parametrize("name", LOGS)
def test_replay_of_the_event_log_gives_the_registers(vector: Vector, name: str) -> None:
    log, at, words = LOGS[name]
    claims = check("tdx", vector(name), Collateral(), at, ccel=vector(log))
    detail = next(one.detail for one in claims.checks if one.name == "event-log")
    assert words.split()[1] in detail


@pytest.mark.parametrize("log", ["tdx/lunal-tdx_ccel_live.bin", "tdx/trustee-CCEL_data"])
def test_event_log_of_another_boot_is_refused(vector: Vector, log: str) -> None:
    quote = vector("tdx/lunal-tdx_quote_live.dat")
    assert refusing("tdx", quote, Collateral(), utc(2026, 4, 1), ccel=vector(log)) == "event-log"


@pytest.mark.parametrize("log", [b"", b"\0" * 64, b"\xff" * 100, bytes(range(256))])
def test_event_log_that_is_none_is_refused(vector: Vector, log: bytes) -> None:
    quote = vector("tdx/lunal-tdx_quote_live.dat")
    assert refusing("tdx", quote, Collateral(), utc(2026, 4, 1), ccel=log) == "event-log"


def test_changed_event_is_refused(vector: Vector) -> None:
    log = bytearray(vector("tdx/gotdx-ccel_data.dat"))
    log[120] ^= 1  # within the digest of the first event after the header
    quote = vector("tdx/gotdx-cos-113-tdx-quote.dat")
    assert refusing("tdx", quote, Collateral(), LUNAL_AT, ccel=bytes(log)) == "event-log"


# --- mutations -----------------------------------------------------------------------------------

WHOLE: tuple[tuple[str, str, datetime.datetime], ...] = (
    ("sgx", "sgx/dcapqvl-sgx_quote", SGX_AT),
    ("tdx", "tdx/dcapqvl-tdx_quote", TDX_AT),
)


def signed_ranges(data: bytes) -> Iterator[int]:
    """Offsets of everything that is signed or is a signature: all but the certificates' PEM, where
    whitespace may change, and the sizes around them."""
    yield from range(0, data.index(b"-----BEGIN"), 7)


@pytest.mark.parametrize(("tee", "name", "at"), WHOLE)
def test_flipped_bytes_are_never_accepted(
    vector: Vector, tee: str, name: str, at: datetime.datetime
) -> None:
    data, collateral = vector(name), qvl(vector, name)
    ignored = range(8, 12)  # SVNs of QE and PCE in the header: signed all the same
    for offset in (*signed_ranges(data), *ignored):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceRefused):
            check(tee, bytes(flipped), collateral, at)


@pytest.mark.parametrize(("tee", "name", "at"), WHOLE)
def test_flipped_bytes_of_the_chain_are_never_accepted_as_another_chain(
    vector: Vector, tee: str, name: str, at: datetime.datetime
) -> None:
    data, collateral = vector(name), qvl(vector, name)
    genuine = check(tee, data, collateral, at)
    for offset in range(data.index(b"-----BEGIN"), len(data), 11):
        flipped = bytearray(data)
        flipped[offset] ^= 1
        try:
            claims = check(tee, bytes(flipped), collateral, at)
        except EvidenceRefused:
            continue
        assert (claims.platform, claims.tcb) == (genuine.platform, genuine.tcb)


@pytest.mark.parametrize(("tee", "name", "at"), WHOLE)
def test_flipped_bytes_of_collateral_never_change_the_verdict(
    vector: Vector, tee: str, name: str, at: datetime.datetime
) -> None:
    data, collateral = vector(name), qvl(vector, name)
    genuine = check(tee, data, collateral, at)
    for index, document in enumerate(collateral.documents):
        for offset in range(0, len(document.data), 41):
            flipped = bytearray(document.data)
            flipped[offset] ^= 1
            changed = list(collateral.documents)
            changed[index] = Document(document.kind, bytes(flipped), chain=document.chain)
            broken = Collateral(collateral.certificates, collateral.crls, (), tuple(changed))
            try:
                claims = check(tee, data, broken, at)
            except EvidenceRefused:
                continue
            assert claims.tcb == genuine.tcb


# --- Intel's own sample set, under Intel's sample root --------------------------------------------

SAMPLE_AT = utc(2022, 1, 1)


def sample_anchors(vector: Vector, tee: str) -> Anchors:
    (root,) = load_pem(vector(f"{tee}/intelqvl-trustedRootCaCert.pem"))
    return Anchors((Anchor("intel-sample", "intel", root),))


def sample_collateral(vector: Vector, tee: str) -> Collateral:
    pck = load_pem(vector(f"{tee}/intelqvl-pckCert.pem"))
    chain = load_pem(vector(f"{tee}/intelqvl-pckSignChain.pem"))
    signers = load_pem(vector(f"{tee}/intelqvl-tcbSignChain.pem"))
    return Collateral(
        certificates=tuple(one.der for one in (*pck, *chain, *signers)),
        crls=(
            vector(f"{tee}/intelqvl-rootCaCrl.der"),
            vector(f"{tee}/intelqvl-intermediateCaCrl.der"),
        ),
        documents=(
            Document("intel.tcb-info", vector(f"{tee}/intelqvl-tcbInfo.json")),
            Document("intel.qe-identity", vector(f"{tee}/intelqvl-qeIdentity.json")),
        ),
    )


def sample_quote(vector: Vector) -> bytes:
    """Its certification data of type 1 lacks the PCEID; nothing signs that part, so it is added."""
    data = vector("sgx/intelqvl-quote.dat")
    assert data[-40:-34] == bytes.fromhex("010022000000")
    size = int.from_bytes(data[432:436], "little") + 2
    sized = data[:432] + size.to_bytes(4, "little") + data[436:-40]
    return sized + bytes.fromhex("010024000000") + data[-34:] + bytes(2)


def test_intels_sgx_sample_is_verified_with_its_pck_from_collateral(vector: Vector) -> None:
    claims = verify(
        Evidence("intel.sgx.quote", sample_quote(vector)),
        at=SAMPLE_AT,
        collateral=sample_collateral(vector, "sgx"),
        anchors=sample_anchors(vector, "sgx"),
    )
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert not claims.not_checked
    assert claims.root.builtin is False


def test_intels_tdx_sample_is_authentic_and_its_tcb_information_is_not_of_this_world(
    vector: Vector,
) -> None:
    """SVNs of 65,473 do not fit into the byte that they are compared with."""
    context = Context(SAMPLE_AT, sample_collateral(vector, "tdx"), sample_anchors(vector, "tdx"))
    authenticate(quotes.parse(vector("tdx/intelqvl-quote.dat")), context)
    evidence = Evidence("intel.tdx.quote", vector("tdx/intelqvl-quote.dat"))
    with pytest.raises(EvidenceRefused, match=r"Expected `int` <= 255"):
        verify(evidence, at=SAMPLE_AT, collateral=context.collateral, anchors=context.anchors)


def test_samples_are_refused_under_intels_real_root(vector: Vector) -> None:
    quote = sample_quote(vector)
    collateral = sample_collateral(vector, "sgx")
    assert refusing("sgx", quote, collateral, SAMPLE_AT) == "certificate-chain"
