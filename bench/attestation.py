"""Verifying evidence: cold, with cached chains, against the bare signatures and against dcap-qvl.

"bare" makes the signature checks that the evidence itself needs (not those of its chain) and
nothing else: no verifier with warm chains can be faster. Real evidence comes from tests/vectors.
"""

from __future__ import annotations

import datetime
import functools
import gc
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from bench.measure import Row, interleaved, rows
from secgear.base.tee import Evidence
from secgear.middleware.attestation import Anchors, Collateral, builtin_anchors, verify
from secgear.middleware.attestation.formats.dcap.memory import Memory
from secgear.middleware.attestation.importing import import_collateral

_REPOSITORY = Path(__file__).parents[1]
_PLACES = (
    _REPOSITORY / "tests" / "vectors",
    Path(os.environ.get("SECGEAR_VECTORS", _REPOSITORY.parent / "shared" / "vectors")),
)


class Case(NamedTuple):
    """One piece of evidence, and the signatures over it by curve or key size."""

    evidence: Evidence
    at: datetime.datetime
    collateral: Collateral
    anchors: Anchors
    signatures: tuple[str, ...]


def main(*, quick: bool) -> list[Row]:
    """A table for each format whose evidence is here."""
    table: list[Row] = []
    rounds = 5 if quick else 25
    signers = _signers()
    for name, make in _CASES.items():
        try:
            case = make()
        except FileNotFoundError as missing:
            print(f"{name}: no evidence here ({missing.args[0]})")
            continue
        contenders: dict[str, Callable[[], object]] = {
            "bare signatures": functools.partial(
                _check_all, [signers[kind] for kind in case.signatures]
            ),
            "warm": functools.partial(_verify, case),
            "cold": functools.partial(_cold, case),
        }
        _caches.cache_clear()  # the case has imported its verifier only now
        peer = _dcap_qvl(name, case)
        if peer is not None:
            contenders["dcap-qvl"] = peer
        samples = interleaved(contenders, rounds=rounds, batch=20)
        table += rows(name, samples, "bare signatures")
    return table


def _check_all(checks: list[Callable[[], None]]) -> None:
    for check in checks:
        check()


def _verify(case: Case) -> None:
    verify(case.evidence, at=case.at, collateral=case.collateral, anchors=case.anchors)


def _cold(case: Case) -> None:
    forget()
    _verify(case)


def forget() -> None:
    """Empty every cache of the verifiers, as a new process has them."""
    for cache in _caches():
        cache.cache_clear()


@functools.cache
def _caches() -> list[functools._lru_cache_wrapper[object] | Memory[object]]:
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, Memory)
        or (
            isinstance(found, functools._lru_cache_wrapper)
            and str(getattr(found, "__module__", "")).startswith("secgear.middleware.attestation")
            and found.__name__ != "builtin_anchors"
        )
    ]


def _signers() -> dict[str, Callable[[], None]]:
    """A signature check of each kind, alone."""
    data = bytes(1024)
    found: dict[str, Callable[[], None]] = {}
    for name, curve, digest in (
        ("P-256", ec.SECP256R1(), hashes.SHA256()),
        ("P-384", ec.SECP384R1(), hashes.SHA384()),
    ):
        key = ec.generate_private_key(curve)
        signature = key.sign(data, ec.ECDSA(digest))
        found[name] = functools.partial(key.public_key().verify, signature, data, ec.ECDSA(digest))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    for name, size, scheme in (
        ("RSA-2048", 2048, padding.PKCS1v15()),
        ("RSA-4096-PSS", 4096, pss),
    ):
        rsa_key = rsa.generate_private_key(65537, size)
        signature = rsa_key.sign(data, scheme, hashes.SHA256())
        found[name] = functools.partial(
            rsa_key.public_key().verify, signature, data, scheme, hashes.SHA256()
        )
    return found


def _read(name: str) -> bytes:
    for place in _PLACES:
        if (place / name).is_file():
            return (place / name).read_bytes()
    raise FileNotFoundError(name)


def _at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _snp() -> Case:
    attachments = {"vcek": _read("snp/trustee-test-vcek.der")}
    evidence = Evidence("amd.sev-snp", _read("snp/trustee-test-report.bin"), attachments)
    return Case(evidence, _at("2026-01-01T00:00Z"), Collateral(), builtin_anchors(), ("P-384",))


def _intel(format_name: str, quote: str, at: str) -> Case:
    return Case(
        Evidence(format_name, _read(quote)),
        _at(at),
        import_collateral(_read(f"{quote}_collateral.json"), quote),
        builtin_anchors(),
        ("P-256", "P-256"),
    )


def _nitro() -> Case:
    import base64

    document = base64.b64decode(_read("nitro/evervault-valid-attestation-doc.b64"))
    evidence = Evidence("aws.nitro", document)
    return Case(evidence, _at("2023-09-18T15:05Z"), Collateral(), builtin_anchors(), ("P-384",))


def _cca() -> Case:
    from secgear.middleware.attestation.formats.arm_keys import key_from_jwk

    key = key_from_jwk("cpak", _read("cca/trustee-cpak-pub.json"))
    evidence = Evidence("arm.cca", _read("cca/trustee-cca-example-token.cbor"))
    at = _at("2026-01-01T00:00Z")
    return Case(evidence, at, Collateral(), Anchors(keys=(key,)), ("P-384", "P-384"))


def _itrustee() -> Case:
    text = _read("itrustee/kunpengsecl-testdata.h").decode()
    body = text.partition("report_noas[]")[2].partition("{")[2].partition("}")[0]
    report = bytes(int(number, 16) for number in body.replace(",", " ").split())
    evidence = Evidence("huawei.itrustee", report)
    at = _at("2026-01-01T00:00Z")
    return Case(evidence, at, Collateral(), builtin_anchors(), ("RSA-4096-PSS", "RSA-4096-PSS"))


def _azure() -> Case:
    from secgear.middleware.attestation.formats.tpm.azure_coco import from_coco

    evidence = from_coco(_read("vtpm/trustee-azsnp-evidence-v1.json"))
    at = _at("2026-01-01T00:00Z")
    return Case(evidence, at, Collateral(), builtin_anchors(), ("P-384", "RSA-2048"))


def _nvidia() -> Case:
    from secgear.middleware.attestation.formats.nvidia.exchange import evidence_from_nvat

    evidence = evidence_from_nvat(_read("nvidia/nvat-hopper_evidence.json"))[0]
    return Case(evidence, _at("2026-01-01T00:00Z"), Collateral(), builtin_anchors(), ("P-384",))


_CASES: Mapping[str, Callable[[], Case]] = {
    "sev-snp": _snp,
    "tdx": lambda: _intel("intel.tdx.quote", "tdx/dcapqvl-tdx_quote", "2025-06-19T11:32Z"),
    "sgx": lambda: _intel("intel.sgx.quote", "sgx/dcapqvl-sgx_quote", "2025-06-19T11:32Z"),
    "nitro": _nitro,
    "cca": _cca,
    "itrustee": _itrustee,
    "azure-snp": _azure,
    "nvidia": _nvidia,
}


def _dcap_qvl(name: str, case: Case) -> Callable[[], object] | None:
    if name not in ("tdx", "sgx"):
        return None
    try:
        import dcap_qvl
    except ImportError:
        return None
    text = json.loads(_read(f"{name}/dcapqvl-{name}_quote_collateral.json"))
    now = int(case.at.timestamp())
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(text))
    return lambda: dcap_qvl.verify(case.evidence.data, collateral, now)
