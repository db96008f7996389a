"""One tree of exceptions.

Every error says what happened, why, and what to do about it, and carries a stable ``code`` that
programs may compare. Codes never change meaning; messages may.
"""

from __future__ import annotations

from typing import ClassVar


class SecGearError(Exception):
    """Root of every error this package raises on purpose."""

    code: ClassVar[str] = "error"


# --- writing an app ------------------------------------------------------------------------------


class InterfaceError(SecGearError):
    """An app's interface can't be used: unsupported type, reserved name, missing annotation."""

    code = "interface.invalid"


class InterfaceMismatch(InterfaceError):
    """The two sides were built against different interfaces. The message holds a readable diff."""

    code = "interface.mismatch"


# --- images --------------------------------------------------------------------------------------


class ImageError(SecGearError):
    """A file is not an image, or not one this version can read."""

    code = "image.invalid"


class ImageTampered(ImageError):
    """Bytes of the image differ from what its manifest names, or are not in canonical form."""

    code = "image.tampered"


class SignatureInvalid(ImageError):
    """The image's signature does not verify."""

    code = "image.signature"


class ImageRefused(ImageError):
    """A launch policy refuses this image: unsigned, wrong signer, svn too low, debug."""

    code = "image.refused"


class RequirementError(ImageError):
    """A required distribution is missing here, or its files differ from what was measured."""

    code = "image.requirement"


class BuildError(SecGearError):
    """An image can't be built from the given source."""

    code = "image.build"


class KeyFileError(SecGearError):
    """A key file can't be used: unreadable, wrong type, wrong passphrase."""

    code = "key.invalid"


# --- platforms -----------------------------------------------------------------------------------


class PlatformUnavailable(SecGearError):
    """The requested TEE can't run here; the message holds the reason and what would fix it."""

    code = "tee.unavailable"


class LayerMissing(PlatformUnavailable):
    """An isolation layer that the caller insists on does not hold here."""

    code = "tee.layer_missing"


class LaunchFailed(SecGearError):
    """The enclave did not come up."""

    code = "launch.failed"


# --- calls ---------------------------------------------------------------------------------------


class CallError(SecGearError):
    """A call did not produce a result."""

    code = "call.failed"


class UnknownCall(CallError, AttributeError):
    """No ECALL or OCALL of that name."""

    code = "call.unknown"


class ArgumentError(CallError, TypeError):
    """An argument or result does not fit the declared type."""

    code = "call.argument"


class LimitExceeded(CallError):
    """A value is larger, deeper or more numerous than the limits allow."""

    code = "call.limit"


class DeadlineExceeded(CallError, TimeoutError):
    """The call did not finish before its deadline; it was cancelled."""

    code = "call.deadline"


class CallCancelled(CallError):
    """The call was cancelled by its caller."""

    code = "call.cancelled"


class Cancelled(BaseException):
    """Inside the enclave: the caller of this call has given up.

    Like `asyncio.CancelledError` it is no `Exception`, so that ``except Exception`` lets it pass.
    Clean up in ``finally`` and let it go; the caller has its CallCancelled or DeadlineExceeded
    already.
    """


class EnclaveLost(CallError, ConnectionError):
    """The enclave died or closed its stream; every pending call ends with this."""

    code = "enclave.lost"


class EnclaveClosed(EnclaveLost):
    """The handle was closed; no more calls can be made."""

    code = "enclave.closed"


class EnclaveInternalError(CallError):
    """An exception inside the enclave whose class was not declared with ``raises=``.

    Its text stays inside: error text leaks secrets. ``incident`` is the id under which the
    enclave knows it; debug images add the traceback.
    """

    code = "enclave.internal"

    def __init__(self, message: str, incident: str = "") -> None:
        super().__init__(message)
        self.incident = incident


class EnclaveError(CallError):
    """Base of exceptions that an ECALL declared with ``raises=`` and the enclave raised."""

    code = "enclave.declared"

    def __str__(self) -> str:
        """The text as it came; a KeyError, which a subclass may be as well, would quote it."""
        return Exception.__str__(self)


class SharedBufferError(CallError):
    """A shared buffer can't be used like that: closed, too small, still in use, its call ended."""

    code = "call.shared_buffer"


class SealedFrameError(CallError):
    """A frame of a sealed stream is not the one that was sealed, or the stream has ended."""

    code = "call.sealed_frame"


class HandOverRefused(CallError):
    """An enclave does not take a connection: nobody in it serves such ones, or it has enough."""

    code = "call.hand_over"


class OcallFailed(CallError):
    """Inside the enclave: the host's handler of an OCALL failed, or there is none."""

    code = "ocall.failed"


class ProtocolError(CallError):
    """The peer sent bytes that the protocol does not allow."""

    code = "wire.protocol"


# --- sealing and evidence ------------------------------------------------------------------------


class GuestError(SecGearError):
    """A TEE service inside the enclave (evidence, sealing key, entropy) can't be had."""

    code = "guest.failed"


# --- attestation ---------------------------------------------------------------------------------


class AttestationError(SecGearError):
    """Root of what can go wrong between evidence and trust."""

    code = "attestation.failed"


class EvidenceRefused(AttestationError):
    """Evidence is not authentic, or does not hold together. There are no claims.

    checks: what was looked at before and including the check that failed (`Check` objects of
    `secgear.middleware.attestation`); empty where the failure came before the first.
    """

    code = "attestation.refused"

    def __init__(self, message: str, checks: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.checks = checks


class EvidenceMalformed(EvidenceRefused):
    """Bytes do not have the form that their format prescribes."""

    code = "attestation.malformed"


class EvidenceUnsupported(EvidenceRefused):
    """The format, a version of it, or an algorithm in it is not one that this release verifies."""

    code = "attestation.unsupported"


class CollateralError(AttestationError):
    """Collateral (certificates, revocation lists, TCB information) is unusable or unreachable."""

    code = "attestation.collateral"


class PolicyError(AttestationError):
    """An appraisal policy or a set of reference values can't be used."""

    code = "attestation.policy"


class Untrusted(AttestationError):
    """An appraisal ended in distrust.

    verdict: the `Verdict` with every check, its values and what would fix it.
    """

    code = "attestation.untrusted"

    def __init__(self, message: str, verdict: object = None) -> None:
        super().__init__(message)
        self.verdict = verdict


class ResultInvalid(AttestationError):
    """An attestation result does not verify: signature, audience, nonce, time or content."""

    code = "attestation.result"


class CollectionFailed(AttestationError):
    """This guest's TEE did not give evidence."""

    code = "attestation.collection"


class ServiceError(AttestationError):
    """The verification service can't start or do its work: settings, database, key file."""

    code = "attestation.service"


class ServiceRefused(ServiceError):
    """A service refused a request.

    problem: its code for the reason, as `application/problem+json` names it, for example
    ``nonce.refused``.
    """

    code = "attestation.service-refused"

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem


class ChannelError(SecGearError):
    """A secure channel could not be made or has failed."""

    code = "channel.failed"


class HandshakeFailed(ChannelError):
    """The two sides did not agree: TLS, its parameters, or the attestation bound to it."""

    code = "channel.handshake"


class VersionUnknown(HandshakeFailed):
    """The peer speaks another version of the channel's protocol."""

    code = "channel.version"


class ChannelTruncated(ChannelError):
    """The connection ended without the peer's goodbye: what was received may be incomplete."""

    code = "channel.truncated"


class ChannelClosed(ChannelError):
    """The channel has been closed, by this side or in order by the peer."""

    code = "channel.closed"


class SealingError(SecGearError):
    """Data could not be sealed or unsealed."""

    code = "sealing.failed"


class SealedMalformed(SealingError):
    """The bytes are no sealed data of a known version, or have been changed."""

    code = "sealing.malformed"


class SealedForOther(SealingError):
    """Sealed for another enclave, a newer version of it, or with other associated data."""

    code = "sealing.other"


class RolledBack(SealingError):
    """Genuine sealed data, but not the newest: the counter has moved on."""

    code = "sealing.rolled-back"


class EnvelopeError(SecGearError):
    """An envelope could not be sealed or opened."""

    code = "envelope.failed"


class EnvelopeMalformed(EnvelopeError):
    """The bytes are no envelope of a known version and suite."""

    code = "envelope.malformed"


class EnvelopeRefused(EnvelopeError):
    """The envelope is not for this key, purpose or place, or has been changed."""

    code = "envelope.refused"


class Replayed(EnvelopeError):
    """The envelope was opened before."""

    code = "envelope.replayed"


class CryptoModuleError(SecGearError):
    """The cryptographic module can't start or do its work: its store, settings, audit trail."""

    code = "crypto.failed"


class CryptoRefused(SecGearError):
    """The cryptographic module refuses: a role, an approval, a backup is not what it takes."""

    code = "crypto.refused"
