"""The JSON that clients send and get. Bytes are base64url without padding, in strings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import unpack
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.service import binding
from secgear.middleware.attestation.service.appraiser import Claim
from secgear.middleware.attestation.service.documents import NAME
from secgear.middleware.attestation.service.problems import Problem


class ChallengeAnswer(msgspec.Struct, frozen=True):
    """A challenge: put the nonce into evidence and send that before it expires."""

    nonce: Annotated[str, msgspec.Meta(description="32 bytes, base64url without padding.")]
    expires: Annotated[str, msgspec.Meta(description="ISO 8601, UTC.")]


class AttestRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence that answers a challenge."""

    evidence: Annotated[
        msgspec.Raw,
        msgspec.Meta(
            description="The evidence envelope: {secgear-evidence: 1, format, data, attachments, "
            "parts}; its bytes are base64 with padding.",
        ),
    ]
    nonce: Annotated[
        str, msgspec.Meta(max_length=64, description="As the challenge gave it; used up by this.")
    ]
    policy: Annotated[str, msgspec.Meta(pattern=f"^{NAME}$", description="Name of a policy.")]
    audience: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=256, description="Who shall rely on the result (aud)."
        ),
    ]
    user_data: (
        Annotated[
            str,
            msgspec.Meta(
                max_length=90_000,
                description="What the enclave vouches for besides itself, up to 64 KiB, base64url. "
                "Without it the evidence's report data is the nonce, zero-padded; with it, "
                "SHA-512('secgear attest v1' || 00 || nonce || SHA-256(user_data)).",
            ),
        ]
        | None
    ) = None
    result: Annotated[
        Literal["jwt", "cwt"], msgspec.Meta(description="In which form the result is wanted.")
    ] = "jwt"


class AttestAnswer(msgspec.Struct, frozen=True):
    """A trusted verdict and the result that says so to others."""

    result: Annotated[
        str, msgspec.Meta(description="The signed result: a JWT, or a CWT in base64url.")
    ]
    form: Literal["jwt", "cwt"]
    verdict: dict[str, Any]


class Health(msgspec.Struct, frozen=True):
    """Whether this instance can work."""

    status: Literal["ok"]


_ATTEST = msgspec.json.Decoder(AttestRequest)


def read_attest(body: bytes) -> Claim:
    """The request, checked. Raises Problem (400), EvidenceMalformed."""
    try:
        request = _ATTEST.decode(body)
        nonce = unpack(request.nonce)
        user_data = None if request.user_data is None else unpack(request.user_data)
        binding.report_data(nonce, user_data)
    except UNREADABLE as error:
        raise Problem(
            400,
            "request.invalid",
            "The request is not in the form that this service reads",
            str(error)[:300],
        ) from None
    return Claim(
        evidence=envelope.from_json(bytes(request.evidence)),
        nonce=nonce,
        policy=request.policy,
        audience=request.audience,
        user_data=user_data,
        form=request.result,
    )
