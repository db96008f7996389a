"""Logging in over REST: PINs, tokens and their ends, and which slot a token counts in."""

from __future__ import annotations

from typing import Any

import hvac
import msgspec
import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultDown

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import UserType
from secgear.services.crypto.rest import logins
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.roles import Phase
from secgear.services.crypto.token.state import Right
from tests.adversary.crypto_host import PIN, SO_PIN, MemoryStore, connect
from tests.services.crypto.rest.conftest import Place

KEYS = "/v1/transit/keys"


def test_a_pin_gives_a_token_and_revoking_ends_it(place: Place) -> None:
    client = place.client(login=False)
    assert not client.is_authenticated()
    answer = client.auth.userpass.login("user", PIN.decode())
    assert answer["auth"]["metadata"] == {"username": "user", "slot": "0"}
    assert answer["auth"]["lease_duration"] in range(3590, 3601)
    assert client.is_authenticated()
    info = client.auth.token.lookup_self()["data"]
    assert info["meta"]["username"] == "user"
    assert info["ttl"] <= 3600
    token = client.token
    client.auth.token.renew_self(increment="2h")
    assert client.auth.token.lookup_self()["data"]["ttl"] > 7000
    client.auth.token.renew_self(increment="9999h")
    assert client.auth.token.lookup_self()["data"]["ttl"] <= 86_400
    client.auth.token.revoke_self()
    assert place.ask("GET", KEYS, token=token)[0] == 403
    assert len(place.one.logins) == 0


@pytest.mark.parametrize("increment", ["1d", "s", "-1s", "1.5h", "999999999999"])
def test_increments_that_are_none_are_refused(place: Place, token: str, increment: str) -> None:
    body = {"increment": increment}
    assert place.ask("POST", "/v1/auth/token/renew-self", body, token)[0] == 400


@pytest.mark.parametrize("token", [None, "", "sg.", "x" * 1000, "hvs.CAESI"])
def test_without_a_token_that_counts_nothing_is_done(place: Place, token: str | None) -> None:
    for method, path in (
        ("GET", KEYS), ("POST", "/v1/transit/random"), ("GET", "/v1/status"), ("GET", "/v1/keys"),
        ("POST", "/v1/auth/token/renew-self"), ("GET", "/v1/auth/token/lookup-self"),
    ):  # fmt: skip
        status, answer = place.ask(method, path, token=token)
        assert (status, answer["errors"]) == (403, ["permission denied"])


def test_a_token_goes_as_bearer_too(place: Place, token: str) -> None:
    status, _ = place.ask("GET", "/v1/auth/token/lookup-self", Authorization=f"Bearer {token}")
    assert status == 200
    assert place.ask("GET", KEYS, Authorization=f"Basic {token}")[0] == 403


def test_wrong_pins_count_and_lock_as_everywhere(place: Place, module: Module) -> None:
    client = place.client(login=False)
    for _ in range(10):
        with pytest.raises(InvalidRequest, match="invalid username or password"):
            client.auth.userpass.login("user", "not the PIN")
    with pytest.raises(Forbidden, match="locked"):
        client.auth.userpass.login("user", PIN.decode())
    officer = connect(module)
    session = officer.one("C_OpenSession", 0, 6)
    officer.call("C_Login", session, UserType.SO, SO_PIN)
    officer.call("C_InitPIN", session, b"another-pin")
    client.auth.userpass.login("user", "another-pin")


@pytest.mark.parametrize("name", ["so", "root", "User", "user ", "ü", "x" * 200])
def test_other_names_do_not_log_in(place: Place, name: str) -> None:
    with pytest.raises((InvalidRequest, Forbidden)):
        place.client(login=False).auth.userpass.login(name, SO_PIN.decode())
    assert len(place.one.logins) == 0


def test_the_longest_unused_login_makes_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "MAX_LOGINS", 2)
    first, second = place.client(), place.client()
    assert first.is_authenticated()
    third = place.client()
    assert first.is_authenticated()
    assert third.is_authenticated()
    assert not second.is_authenticated()


def test_a_token_that_is_over_does_not_count_and_leaves_its_session(
    place: Place, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "TTL", 0.0)
    before = module.slots[0].sessions
    client = place.client()
    assert not client.is_authenticated()
    place.one.logins.sweep()
    assert module.slots[0].sessions == before
    assert len(place.one.logins) == 0


def test_requests_leave_neither_sessions_nor_session_objects(
    place: Place, module: Module, client: hvac.Client
) -> None:
    client.secrets.transit.create_key("data")
    before = module.slots[0].sessions
    for _ in range(5):
        client.secrets.transit.encrypt_data("data", plaintext="AA==")
        with pytest.raises(InvalidRequest):
            client.secrets.transit.decrypt_data("data", "vault:v1:AAAA")
    assert module.slots[0].sessions == before


def test_a_namespace_is_a_slot_and_a_token_counts_in_its_own(place: Place, module: Module) -> None:
    officer = connect(module)
    officer.call("C_InitToken", 1, SO_PIN, b"second".ljust(32))
    session = officer.one("C_OpenSession", 1, 6)
    officer.call("C_Login", session, UserType.SO, SO_PIN)
    officer.call("C_InitPIN", session, b"pin-of-second")
    second = place.client(b"pin-of-second", namespace="second")
    second.secrets.transit.create_key("theirs")
    first = place.client(namespace="first")
    first.secrets.transit.create_key("ours")
    assert first.secrets.transit.list_keys()["data"]["keys"] == ["ours"]
    assert second.secrets.transit.list_keys()["data"]["keys"] == ["theirs"]
    by_number = place.client(b"pin-of-second", namespace="1")
    assert by_number.secrets.transit.list_keys()["data"]["keys"] == ["theirs"]
    status, _ = place.ask("GET", KEYS, token=first.token, **{"X-Vault-Namespace": "second"})
    assert status == 403
    status, _ = place.ask("GET", KEYS, token=first.token, **{"X-Vault-Namespace": "third"})
    assert status == 404


def test_a_label_takes_no_logins_of_another_slot(place: Place) -> None:
    module = place.service.module
    officer = connect(module)
    officer.call("C_InitToken", 1, SO_PIN, b"second".ljust(32))
    slot = place.one.logins.slot
    assert slot("second") is module.slots[1]
    officer.call("C_InitToken", 0, SO_PIN, b"1".ljust(32))
    assert slot("1") is module.slots[1]
    officer.call("C_InitToken", 0, SO_PIN, b"second".ljust(32))
    with pytest.raises(Refusal) as refused:
        slot("second")
    assert refused.value.status == 400
    assert (slot("0"), slot("1")) == module.slots[:2]
    assert slot(None) is slot("") is module.slots[0]


def test_health_says_whether_the_token_has_pins(place: Place) -> None:
    client = place.client(login=False)
    assert client.sys.read_health_status().status_code == 200
    assert client.sys.read_health_status(method="GET")["initialized"] is True
    assert client.sys.is_initialized()
    assert not client.sys.is_sealed()
    assert client.sys.read_seal_status()["type"] == "tee"
    headers: dict[str, Any] = {"X-Vault-Namespace": "1"}
    assert place.ask("GET", "/v1/sys/health", **headers)[0] == 501


def test_neither_pin_nor_token_is_kept_in_what_the_service_holds(place: Place) -> None:
    client = place.client()
    text = repr(place.one.logins.__dict__) + repr(
        [vars(login) for login in place.one.logins._logins.values()]
    )
    assert client.token not in text
    assert PIN.decode() not in text
    with pytest.raises(Refusal):
        place.one.logins.find(client.token + "x")


def officer_of(module: Module) -> tuple[Caller, int]:
    caller = connect(module)
    session = caller.one("C_OpenSession", 0, 6)
    caller.call("C_Login", session, UserType.SO, SO_PIN)
    return caller, session


def test_users_with_names_have_their_rights_and_no_more(place: Place, module: Module) -> None:
    officer, session = officer_of(module)
    officer.call("S_SetUser", session, b"payments", int(Right.USE), b"pin-of-payments")
    everything = place.client()
    everything.secrets.transit.create_key("data")
    client = place.client(login=False)
    answer = client.auth.userpass.login("payments", "pin-of-payments")
    assert answer["auth"]["metadata"]["username"] == "payments"
    transit = client.secrets.transit
    cipher = transit.encrypt_data("data", plaintext="AA==")["data"]["ciphertext"]
    assert transit.decrypt_data("data", cipher)["data"]["plaintext"] == "AA=="
    for forbidden in (
        lambda: transit.create_key("other"), lambda: transit.rotate_key("data"),
        lambda: transit.update_key_configuration("data", deletion_allowed=True),
        lambda: transit.trim_key("data", 1),
    ):  # fmt: skip
        with pytest.raises(Forbidden, match="permission denied"):
            forbidden()
    officer.call("S_SetUser", session, b"payments", int(Right.MANAGE), None)  # at once
    transit.rotate_key("data")
    with pytest.raises(Forbidden, match="permission denied"):
        transit.encrypt_data("data", plaintext="AA==")
    officer.call("S_RemoveUser", session, b"payments")
    with pytest.raises((Forbidden, InvalidPath)):
        transit.rotate_key("data")
    with pytest.raises(InvalidRequest, match="invalid username or password"):
        place.client(login=False).auth.userpass.login("payments", "pin-of-payments")


def test_uses_are_recorded_where_the_token_wants_that(
    place: Place, module: Module, store: MemoryStore
) -> None:
    officer, session = officer_of(module)
    officer.call("S_SetTokenPolicy", session, 1)
    client = place.client()
    client.secrets.transit.create_key("data")
    client.secrets.transit.encrypt_data("data", plaintext="AA==")
    module.uses.flush()
    used = [record.body for record in store.records if b"key used" in record.body]
    assert len(used) == 1
    assert b'"encrypt"' in used[0]
    assert b"rest user, test" in used[0]
    assert module.tally.counts().calls["C_EncryptInit"] == 1  # metrics know of it, too


def test_a_module_without_keys_says_so(
    place: Place, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = place.client()
    head = module.vault.head
    roles = msgspec.structs.replace(head.roles, phase=Phase.RESTORING)
    changed = msgspec.structs.replace(head, roles=roles)
    monkeypatch.setattr(type(module.vault), "head", property(lambda _: changed))
    assert client.sys.read_health_status().status_code == 503
    assert client.sys.is_sealed()
    assert place.ask("GET", KEYS, token=client.token)[0] == 503
    with pytest.raises(VaultDown, match="holds no keys"):
        place.client()
