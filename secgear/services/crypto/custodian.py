"""A custodian's part in restoring a backup: to look where it goes, and to let the share go there.

Far from every module. The share leaves in an envelope that the enclave alone opens which the
custodian's policy trusts, for this backup, in this module.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from secgear.errors import CryptoRefused
from secgear.middleware.envelopes import seal, verify_key
from secgear.services.crypto.roles import custody
from secgear.services.crypto.roles.archive import digest_of, parse_manifest
from secgear.services.crypto.roles.custody import PURPOSE, PrivateKey, Target

if TYPE_CHECKING:
    from secgear.middleware.attestation import Anchors, Policy, ReferenceValues, Verdict
    from secgear.middleware.attestation.collateral import Collateral


class Released(NamedTuple):
    """A share on its way. envelope: for the enclave. verdict: why that is trusted."""

    envelope: bytes
    target: Target
    verdict: Verdict


def release(
    manifest: bytes,
    target: bytes,
    key: tuple[PrivateKey, bytes],
    policy: Policy,
    *,
    at: datetime.datetime,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> Released:
    """The custodian's share of a backup, for the enclave that restores it.

    manifest: the backup's. target: the document that the restoring module has given. key: as
    `custody.load_private` gives it. The rest as in `verify_key`.
    Raises CryptoRefused for a backup or key that do not fit, EnvelopeError for what is no enclave's
    key for this, Untrusted with the verdict.
    """
    backup, digest = parse_manifest(manifest), digest_of(manifest)
    place = custody.parse_target(target)
    if place.backup != digest.hex():
        raise CryptoRefused("the module restores another backup than this")
    private, public = key
    mine = hashlib.sha256(public).hexdigest()
    sealed = next((one for one in backup.shares if one.key == mine), None)
    if sealed is None:
        raise CryptoRefused("the backup has no share for this key")
    trusted = verify_key(
        place.key,
        policy,
        at=at,
        context=custody.restoring_at(bytes.fromhex(place.module), digest),
        collateral=collateral,
        anchors=anchors,
        reference_values=reference_values,
    )
    share = custody.open_share(sealed.sealed, private, bytes.fromhex(backup.id), sealed.custodian)
    envelope = seal(trusted, share.to_bytes(), purpose=PURPOSE, associated=digest)
    return Released(bytes(envelope), place, trusted.verdict)
