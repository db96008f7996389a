"""A verification service from the attester's side: a challenge, evidence for it, a signed result.

It runs in the guest, or on a host for an enclave, and needs httpx (``secgear[fetch]``), nothing of
the service itself. What it gets back is for a relying party, who verifies it with keys of their
own: the client does not make the service's word true.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import ServiceError, ServiceRefused, Untrusted
from secgear.middleware.attestation import base64url, envelope
from secgear.middleware.attestation.answers import AS_IT_IS, AnswerRefused, body_of
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.service import binding

T = TypeVar("T")

MAX_ANSWER: Final = 4 << 20  # bytes
REPORT_DATA: Final = 64  # bytes of the field in most formats


class Attested(msgspec.Struct, frozen=True):
    """A signed result, and the verdict that it stands for.

    result: the JWT, or the CWT's bytes. verdict: as `Verdict.to_dict` says it; for reading only,
    what counts is signed.
    """

    result: str | bytes
    verdict: Mapping[str, Any]


class _Challenge(msgspec.Struct):
    nonce: str
    expires: str


class _Attested(msgspec.Struct):
    result: str
    form: Literal["jwt", "cwt"]
    verdict: dict[str, Any]


class _Problem(msgspec.Struct):
    code: str
    title: str
    detail: str = ""
    verdict: dict[str, Any] | None = None


class Door:
    """HTTP to one service, whose answers are bounded and typed. Used by the clients.

    url: of the service. trust: PEM file of the certificate authority, instead of the system's.
    insecure: allow plain HTTP elsewhere than on this machine.
    """

    def __init__(
        self, url: str, *, trust: Path | None = None, insecure: bool = False, timeout: float = 30
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise ServiceError("client: this needs httpx: secgear[fetch]") from None
        self._httpx = httpx
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise ServiceError("client: the service's URL is none") from None
        if parsed.scheme not in ("https", "http") or not parsed.host or parsed.userinfo:
            raise ServiceError("client: a URL such as https://attestation.example:8443 is needed")
        if parsed.scheme == "http" and not insecure and not _is_local(parsed.host):
            raise ServiceError(f"client: {parsed.host} over plain HTTP: use https")
        self._client = httpx.Client(
            base_url=parsed,
            verify=_context(trust),
            timeout=timeout,
            follow_redirects=False,
            headers=AS_IT_IS,
        )

    def ask(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a good answer.

        Raises Untrusted with the verdict that the service sends along, ServiceRefused for other
        refusals, ServiceError if it can't be reached or does not speak as expected.
        """
        try:
            with self._client.stream(method, path, content=content, headers=headers) as response:
                body, status = body_of(response, MAX_ANSWER), response.status_code
        except (self._httpx.HTTPError, AnswerRefused) as error:
            raise ServiceError(f"client: {self._client.base_url}: {error}") from None
        if status == 200:
            return body
        raise _refusal(status, body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class VerificationClient:
    """A verification service at a URL. Safe to use from several threads.

    See `Door` for the parameters. Raises ServiceError for a URL that is not safe to use.
    """

    def __init__(
        self, url: str, *, trust: Path | None = None, insecure: bool = False, timeout: float = 30
    ) -> None:
        self._door = Door(url, trust=trust, insecure=insecure, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._door.close()

    def attest(
        self,
        collect: Callable[[bytes], Evidence],
        *,
        policy: str,
        audience: str,
        user_data: bytes | None = None,
        bound_inside: bool = False,
        form: Literal["jwt", "cwt"] = "jwt",
    ) -> Attested:
        """Have an enclave judged and get the result that says so.

        collect: makes evidence with the 64 bytes of report data that it is given. policy: its name
        at the service. audience: who shall rely on the result. user_data: what the enclave vouches
        for besides itself, for example its public key; the result carries its SHA-256.
        bound_inside: `collect` is given the nonce instead, and the enclave that it asks makes the
        report data itself (`binding.report_data`). So it must be wherever somebody else than the
        enclave collects: an enclave that puts any report data into its evidence vouches for
        whatever its host likes.
        Raises Untrusted (with the verdict), ServiceRefused, ServiceError, CollectionFailed.
        """
        nonce = _nonce(self._door.ask("POST", "/v1/challenge"))
        bound = nonce if bound_inside else binding.report_data(nonce, user_data)
        evidence = collect(bound if bound_inside else bound.ljust(REPORT_DATA, b"\0"))
        request: dict[str, Any] = {
            "evidence": msgspec.Raw(envelope.to_json(evidence)),
            "nonce": base64url.pack(nonce),
            "policy": policy,
            "audience": audience,
            "result": form,
        }
        if user_data is not None:
            request["user_data"] = base64url.pack(user_data)
        answer = _typed(
            self._door.ask("POST", "/v1/attest", content=msgspec.json.encode(request)), _Attested
        )
        if answer.form != form:
            raise ServiceError(f"client: asked for a {form.upper()}, got a {answer.form.upper()}")
        token = _unpacked(answer.result) if form == "cwt" else answer.result
        return Attested(token, answer.verdict)

    def keys(self) -> bytes:
        """The public keys of results, a JWK set: for `results.public_keys`.

        Fetch them once over a connection that you trust, and keep them.
        """
        return self._door.ask("GET", "/v1/keys")


def _refusal(status: int, body: bytes) -> ServiceError | Untrusted:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except UNREADABLE:
        return ServiceError(f"client: the service answered with status {status}")
    text = ": ".join(filter(None, (problem.title, problem.detail)))[:1000]
    if problem.code == "attestation.untrusted":
        return Untrusted(f"service: {text}", problem.verdict)
    return ServiceRefused(f"service: {text} ({problem.code}, status {status})", problem.code)


def _nonce(body: bytes) -> bytes:
    nonce = _unpacked(_typed(body, _Challenge).nonce)
    if len(nonce) != binding.NONCE_SIZE:
        raise ServiceError(f"client: a nonce of {len(nonce)} bytes")
    return nonce


def _unpacked(text: str) -> bytes:
    try:
        return base64url.unpack(text)
    except ValueError:
        raise ServiceError("client: the service's answer is not base64url") from None


def _typed(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE:
        raise ServiceError("client: the service's answer has another form") from None


def _context(trust: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=trust)
    except (OSError, ssl.SSLError) as error:
        raise ServiceError(f"client: {trust}: no certificates: {error}") from None


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
