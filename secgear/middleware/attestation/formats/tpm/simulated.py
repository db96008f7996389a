"""The simulated virtual machine: a software TPM's quote, its key certified by the simulated root.

Real TPM 2.0 bytes with nothing behind them: whoever owns the host owns the TPM. It is trusted only
where a caller adds the root under the family ``simulated`` and a policy allows simulation.
"""

from __future__ import annotations

from secgear.base.tee import Evidence
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats.tpm.pcrs import check_values
from secgear.middleware.attestation.formats.tpm.structures import launch_digest, signature_fault
from secgear.middleware.attestation.formats.tpm.verifier import certified, describe, read
from secgear.middleware.attestation.verification import Context

FORMAT = "secgear.vm.tpm"


def verify(evidence: Evidence, context: Context) -> Claims:
    """Quote under a key that the simulated platform certified."""
    quote, signature = read(evidence, context)
    root, certificate = certified(evidence, context, "simulated")
    fault = signature_fault(quote, signature, certificate.public_key)
    context.checks.require(
        fault is None, "signature", "by the simulated TPM's attestation key", fault or ""
    )
    measurements = check_values(quote, signature, evidence.attachments, context.checks)
    return Claims(
        format=FORMAT,
        tee="vm",
        measurements={"launch": launch_digest(quote), **measurements},
        debug=False,
        simulated=True,
        report_data=quote.extra_data,
        root=root,
        checks=context.checks.done,
        platform={"attestation_key": certificate.spki_digest.hex()},
        details=describe(quote),
    )
