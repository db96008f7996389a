"""Keys of a channel: fresh, in one place, and never shown."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secgear.middleware.channel.identity import Identity


def test_every_one_is_fresh() -> None:
    one, other = Identity.fresh(), Identity.fresh()
    assert one.spki != other.spki
    assert one.certificate.serial_number != other.certificate.serial_number


def test_certificate_of_another_key_is_refused() -> None:
    with pytest.raises(ValueError, match="another key"):
        Identity(Identity.fresh().key, Identity.fresh().certificate)


def test_key_is_not_shown_stored_or_copied() -> None:
    identity = Identity.fresh("shown")
    secret = identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert repr(identity) == "Identity('CN=shown')"
    assert secret.hex() not in repr(vars(identity))
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="can't be pickled"):
            attempt(identity)  # type: ignore[operator]


def test_certificate_signs_itself_and_has_no_end() -> None:
    certificate = Identity.fresh("enclave").certificate
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc.year == 9999
