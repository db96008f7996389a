"""A module that people govern: what they decide happens, with a record, once, or not at all."""

from __future__ import annotations

import datetime
import hashlib
import json
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secgear.errors import CryptoModuleError, CryptoRefused, RolledBack, Untrusted
from secgear.middleware.attestation.collateral import Collateral
from secgear.services.crypto.administration import Administration
from secgear.services.crypto.pkcs11.calls import BY_NAME, split
from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.roles import standing
from secgear.services.crypto.roles.operations import (
    AdmitEnclave,
    ChangeAdministrators,
    ChangePinPolicy,
    ChangeRoles,
    PinPolicy,
    ResetOfficer,
    RestoreBackup,
    Zeroise,
)
from secgear.services.crypto.roles.requests import new_pin
from secgear.services.crypto.token import membership
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import table
from secgear.services.crypto.token.guard import ALWAYS
from secgear.services.crypto.token.roles import Phase
from secgear.services.crypto.token.state import Founding, Root
from secgear.services.crypto.trail import Verifier
from tests.adversary.crypto_host import PIN, SO_PIN, MemoryStore, connect
from tests.services.crypto.conftest import User, refusal
from tests.services.crypto.roles.people import KEYS, PEOPLE, roles
from tests.services.crypto.roles.world import (
    VENDOR,
    AttestingGuest,
    administered,
    approved,
    decided,
    founded,
    opened,
    policy,
    vault,
    with_token,
)

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def _governed() -> MemoryStore:
    return with_token(founded())


@pytest.fixture
def governed(_governed: MemoryStore) -> MemoryStore:
    return _governed.copy()


def refused(function: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(CryptoRefused) as error:
        function(*arguments, **named)
    return str(error.value)


def actions(store: MemoryStore) -> list[str]:
    return [json.loads(record.body)["action"] for record in store.records]


def test_administrators_are_replaced_by_their_own_decision(governed: MemoryStore) -> None:
    module = opened(governed)
    decided(module, ChangeAdministrators(1, (PEOPLE["frank"],)))
    for current in (module, opened(governed)):
        said = administered(current, name="frank").standing()
        assert (said.threshold, said.administrators) == (1, (PEOPLE["frank"],))
        assert "no administrator here" in refused(administered, current)


def test_who_has_lost_a_role_has_lost_it_on_every_connection(governed: MemoryStore) -> None:
    module = opened(governed)
    alice = administered(module)
    request = alice.request(Zeroise(), seconds=60)
    decided(module, ChangeAdministrators(1, (PEOPLE["frank"],)))
    assert "takes a login" in refused(alice.execute, request, approved(request, "alice", "bob"))
    frank = administered(module, name="frank")
    assert "alice is no administrator" in refused(
        frank.execute, request, approved(request, "alice", "bob")
    )


def test_a_request_survives_a_restart_and_is_executed_once(governed: MemoryStore) -> None:
    request = administered(opened(governed)).request(ChangePinPolicy(PinPolicy(8, 3)), seconds=60)
    given = approved(request, "bob", "carol")
    alice = administered(opened(governed))
    alice.execute(request, given)
    for again in (alice, administered(opened(governed))):
        assert "was executed" in refused(again.execute, request, given)
        assert again.standing().pins == PinPolicy(8, 3)
    assert actions(governed).count("executed: pin-policy") == 1


def test_what_the_host_does_not_keep_has_not_been_executed(governed: MemoryStore) -> None:
    module = opened(governed)
    alice = administered(module)
    request = alice.request(ChangePinPolicy(PinPolicy(8, 3)), seconds=60)
    given = approved(request, "alice", "bob")
    governed.refuse = True
    assert refusal(alice.execute, request, given) is Rv.DEVICE_ERROR
    governed.refuse = False
    assert alice.standing().pins == PinPolicy()
    alice.execute(request, given)
    assert alice.standing().pins == PinPolicy(8, 3)


def test_an_older_store_does_not_bring_a_request_back(governed: MemoryStore) -> None:
    alice = administered(opened(governed))
    request = alice.request(ChangePinPolicy(PinPolicy(8, 3)), seconds=60)
    older = governed.copy()
    alice.execute(request, approved(request, "alice", "bob"))
    older.value, older.mark = governed.value, governed.mark
    with pytest.raises(RolledBack):
        opened(older)


def test_the_record_says_who_has_approved_and_what(governed: MemoryStore) -> None:
    decided(opened(governed), ChangeRoles((PEOPLE["frank"],), ()))
    told = [json.loads(record.body) for record in governed.records]
    (done,) = [one for one in told if one["action"] == "executed: roles"]
    assert done["detail"] == {"approved by": "alice, bob", "executed by": "alice"}
    (asked,) = [one for one in told if one["action"] == "requested: roles"]
    assert asked["detail"]["by"] == "alice"
    verifier = Verifier(opened(governed).vault.audit_key)
    verifier.follow((one.seq, one.body, one.hash, one.signature) for one in governed.records)
    verifier.end()


def test_what_is_refused_to_somebody_with_a_role_is_on_record(governed: MemoryStore) -> None:
    module = opened(governed)
    alice = administered(module)
    request = alice.request(Zeroise(), seconds=60)
    before = len(governed.records)
    refused(Administration(connect(module)).execute, request, [])
    assert len(governed.records) == before
    refused(alice.execute, request, approved(request, "alice"))
    told = json.loads(governed.records[-1].body)
    assert told["action"] == "execution refused"
    assert told["detail"]["name"] == "alice"
    assert told["detail"]["why"] == "1 of 2 approvals: alice"


def test_without_administrators_nothing_can_be_decided(store: MemoryStore) -> None:
    module = opened(store)
    assert "no administrator here" in refused(administered, module)
    assert Administration(connect(module)).standing().threshold == 0


def test_a_locked_officer_gets_a_new_pin_and_keys_stay(governed: MemoryStore) -> None:
    module = opened(governed)
    key = User(connect(module)).aes(TOKEN=True)
    caller = connect(module)
    session = caller.one("C_OpenSession", 0, 6)
    for _ in range(10):
        assert refusal(caller.call, "C_Login", session, 0, b"wrong") is Rv.PIN_INCORRECT
    module = opened(governed)  # the lock-out survives
    caller = connect(module)
    session = caller.one("C_OpenSession", 0, 6)
    assert refusal(caller.call, "C_Login", session, 0, SO_PIN) is Rv.PIN_LOCKED
    assert "4 to 255 bytes" in refused(decided, module, ResetOfficer(0), b"no")
    assert "no slot 9" in refused(decided, module, ResetOfficer(9), b"new-pin")
    decided(module, ResetOfficer(0), b"new-pin")
    assert refusal(caller.call, "C_Login", session, 0, SO_PIN) is Rv.PIN_INCORRECT
    caller.call("C_Login", session, 0, b"new-pin")
    assert User(connect(module)).find() == [key]


def test_whoever_carries_the_connection_gives_no_officer_a_pin(governed: MemoryStore) -> None:
    alice = administered(opened(governed))
    request = alice.request(ResetOfficer(0), seconds=60)
    other = alice.request(ResetOfficer(0), seconds=60)
    given = approved(request, "alice", "bob")
    for secret, said in (
        (b"chosen-by-the-host", "is no new PIN"),
        (b"", "is no new PIN"),
        (new_pin(request, b"host-pin", KEYS["bob"]), "the new PIN is not alice's"),
        (new_pin(other, b"host-pin", KEYS["alice"]), "the new PIN is not alice's"),
    ):
        assert said in refused(alice.execute, request, given, secret)
    alice.execute(request, given, new_pin(request, b"alices-pin", KEYS["alice"]))


def test_the_policy_of_pins_holds_for_new_ones_and_for_tries(governed: MemoryStore) -> None:
    module = opened(governed)
    decided(module, ChangePinPolicy(PinPolicy(shortest=12, tries=2)))
    caller = connect(module)
    assert caller.call("C_GetTokenInfo", 0)[10] == 12
    user = User(caller)
    assert refusal(user.call, "C_SetPIN", PIN, b"eleven-char") is Rv.PIN_LEN_RANGE
    user.call("C_SetPIN", PIN, b"twelve-chars")
    user.call("C_Logout")
    for expected in (Rv.PIN_INCORRECT, Rv.PIN_INCORRECT, Rv.PIN_LOCKED):
        assert refusal(user.call, "C_Login", 1, b"wrong") is expected
    assert refusal(user.call, "C_Login", 1, b"twelve-chars") is Rv.PIN_LOCKED


@pytest.mark.parametrize("name", ["S_BackupPiece", "S_RestoreShare", "S_RestorePiece"])
def test_calls_for_roles_are_refused_to_anybody_else(governed: MemoryStore, name: str) -> None:
    caller = connect(opened(governed))
    argument = 0 if name == "S_BackupPiece" else b""
    answer = caller.one(name, argument)
    assert answer[:1] == b"\1"


@pytest.mark.parametrize(
    ("role", "name"), [(None, ""), ("administrator", "alice"), ("auditor", "dave"),
                       ("backup-operator", "erin")],
)  # fmt: skip
def test_the_trail_is_auditors_and_administrators_to_read(
    governed: MemoryStore, role: str | None, name: str
) -> None:
    module = opened(governed)
    one = Administration(connect(module)) if role is None else administered(module, role, name)
    key = module.vault.audit_key
    if role in ("auditor", "administrator"):
        seen = list(one.trail(key))
        assert [number for number, _ in seen] == list(range(1, len(governed.records) + 1))
    else:
        assert "takes a login" in refused(lambda: list(one.trail(key)))


def test_a_shorter_trail_is_noticed_by_whoever_asks_the_enclave(governed: MemoryStore) -> None:
    module = opened(governed)
    dave = administered(module, "auditor", "dave")
    key = module.vault.audit_key
    removed = governed.records.pop()
    with pytest.raises(CryptoModuleError, match="cut off"):
        list(dave.trail(key))
    governed.records.append(msgspec.structs.replace(removed, body=removed.body + b" "))
    with pytest.raises(CryptoModuleError, match="was changed"):
        list(dave.trail(key))
    with pytest.raises(CryptoRefused, match="not signed by this module"):
        list(dave.trail(bytes(32)))


def test_the_audit_key_comes_from_the_enclave(governed: MemoryStore) -> None:
    module = opened(governed)
    nonce = bytes(range(32))
    data = Administration(connect(module)).evidence(nonce)
    said, _ = standing.verify(data, policy(), at=NOW, nonce=nonce, anchors=VENDOR.anchors)
    assert said.audit_key == module.vault.audit_key.hex()
    assert said.administrators == module.vault.head.roles.administrators
    with pytest.raises(CryptoRefused, match="nonce"):
        standing.verify(data, policy(), at=NOW, nonce=bytes(32), anchors=VENDOR.anchors)
    with pytest.raises(Untrusted):
        standing.verify(data, policy(b"o" * 48), at=NOW, nonce=nonce, anchors=VENDOR.anchors)
    document = standing.parse(data)
    lie = msgspec.structs.replace(document.standing, audit_key="00" * 32)
    forged = msgspec.structs.replace(document, standing=lie).to_bytes()
    with pytest.raises(Untrusted):
        standing.verify(forged, policy(), at=NOW, nonce=nonce, anchors=VENDOR.anchors)
    assert "a nonce has 32 bytes" in refused(Administration(connect(module)).evidence, b"short")


# --- zeroisation ---------------------------------------------------------------------------------


def test_a_zeroised_module_holds_nothing_and_says_so(governed: MemoryStore) -> None:
    module = opened(governed)
    user = User(connect(module))
    user.aes(TOKEN=True)
    domain_key = module.vault.head.domain_key
    session_key = user.aes()
    user.call("C_EncryptInit", Mechanism(Mech.AES_ECB), session_key)
    older = governed.copy()
    alice = administered(module)
    request = alice.request(Zeroise(), seconds=60)
    alice.execute(request, approved(request, "alice", "bob"))
    # An enclave that has held keys ends with the next call that would need them.
    with pytest.raises(CryptoModuleError, match="was zeroised"):
        user.call("C_Encrypt", bytes(16), 64)
    assert not governed.objects
    module = opened(governed)
    head = module.vault.head
    assert head.roles.phase is Phase.ZEROISED
    assert domain_key not in msgspec.msgpack.encode(head)
    assert all(token.so is None and token.user is None for token in head.tokens)
    caller = connect(module)
    assert refusal(caller.call, "C_OpenSession", 0, 6) is Rv.TOKEN_NOT_PRESENT
    assert refusal(caller.call, "C_InitToken", 0, SO_PIN, b"x" * 32) is Rv.TOKEN_NOT_PRESENT
    alice = administered(module)
    assert alice.standing().phase == "zeroised"
    again = alice.request(Zeroise(), seconds=60)
    assert "the module is zeroised" in refused(
        alice.execute, again, approved(again, "alice", "bob")
    )
    # Neither does an older store bring it back.
    older.value, older.mark = governed.value, governed.mark
    with pytest.raises(RolledBack):
        opened(older)
    assert "module zeroised" in actions(governed)


@pytest.mark.parametrize("phase", [Phase.RESTORING, Phase.ZEROISED])
def test_every_call_but_these_is_shut_with_the_module(governed: MemoryStore, phase: Phase) -> None:
    module = opened(governed)
    roles = msgspec.structs.replace(module.vault.head.roles, phase=phase)
    module.vault.transact(lambda draft: draft.alter(roles=roles))
    module = opened(governed)
    app = Application(module, "test", initialised=True)
    for call in BY_NAME.values():
        if call.id in table() and call.name not in ALWAYS:
            given = [0] * len(split(call.request))
            assert refusal(table()[call.id], app, *given) is Rv.TOKEN_NOT_PRESENT, call.name
    connect(module).call("C_GetInfo")


def test_another_enclave_of_the_domain_ends_as_well(governed: MemoryStore) -> None:
    here, there = opened(governed), opened(governed)
    user = User(connect(there))
    user.aes()
    decided(here, Zeroise())
    there.vault.catch_up()
    with pytest.raises(CryptoModuleError, match="was zeroised"):
        user.find()


def test_nothing_is_restored_to_a_module_with_tokens(governed: MemoryStore) -> None:
    alice = administered(opened(governed))
    request = alice.request(RestoreBackup("00" * 32), seconds=60)
    manifest = b"{}"
    given = approved(request, "alice", "bob")
    assert "no backup" in refused(alice.begin_restoring, request, given, manifest)
    assert "has a call of its own" in refused(alice.execute, request, given)


# --- another machine -----------------------------------------------------------------------------


def test_another_machine_becomes_a_member_by_the_administrators_decision() -> None:
    pem = x509.load_der_x509_certificate(VENDOR.certificate.der).public_bytes(Encoding.PEM)
    store = MemoryStore()
    root = Root("simulated", "fake", pem.decode())
    one = vault(store)
    one.found(1, Founding((root,), witness=bytes(32)), roles())
    module = opened(store)
    collateral, now = Collateral(), NOW
    application, _ = membership.apply(AttestingGuest("other"), one.policy, (root,), now)

    def admit(*decision: bytes) -> bytes:
        given = decision or (b"", b"[]")
        return membership.admit(
            module.vault, application, collateral, AttestingGuest(), now, (given[0], given[1])
        )

    assert "no request" in refused(admit)
    alice = administered(module)
    other = alice.request(AdmitEnclave("00" * 32), seconds=60)
    array = b"[" + b",".join(approved(other, "alice", "bob")) + b"]"
    assert "something else than this application" in refused(admit, other, array)
    request = alice.request(AdmitEnclave(hashlib.sha256(application).hexdigest()), seconds=60)
    array = b"[" + b",".join(approved(request, "alice")) + b"]"
    assert "1 of 2 approvals" in refused(admit, request, array)
    array = b"[" + b",".join(approved(request, "alice", "bob")) + b"]"
    assert admit(request, array)
    assert len(module.vault.head.members) == 2
    assert "was executed" in refused(admit, request, array)
    # A module that nobody administrates is its host's to spread, to enclaves like itself.
    alone = vault(MemoryStore())
    alone.found(1, Founding((root,), witness=bytes(32)))
    assert membership.admit(alone, application, collateral, AttestingGuest(), now)


def test_nobody_is_logged_in_whose_login_the_host_did_not_keep(governed: MemoryStore) -> None:
    module = opened(governed)
    alice = Administration(connect(module))
    governed.refuse = True
    assert refusal(alice.login, "administrator", "alice", KEYS["alice"]) is Rv.DEVICE_ERROR
    governed.refuse = False
    assert "takes a login" in refused(alice.request, Zeroise(), seconds=60)
    assert "takes a login" in refused(alice._asked, "S_AuditRecords", 0)
    alice.login("administrator", "alice", KEYS["alice"])
    assert alice.request(Zeroise(), seconds=60)
