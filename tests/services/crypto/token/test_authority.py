"""Who may do what: every rule of roles and approvals, and every way around them that is closed."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles import custody, requests
from secgear.services.crypto.roles.operations import (
    AdmitEnclave,
    ChangeAdministrators,
    ChangePinPolicy,
    ChangeRoles,
    Custodian,
    ExpelMember,
    MakeBackup,
    PinPolicy,
    ResetOfficer,
    RestoreBackup,
    Zeroise,
)
from secgear.services.crypto.roles.persons import person, sign
from secgear.services.crypto.token.authority import (
    EXECUTED_BY,
    MAX_OPEN,
    Badge,
    admit,
    authorise,
    open_request,
)
from secgear.services.crypto.token.roles import Phase, Role, Roles
from tests.services.crypto.roles.people import (
    KEYS,
    MODULE,
    NOW,
    PEOPLE,
    approvals,
    badge,
    proof,
    roles,
)

CUSTODIANS = tuple(
    Custodian(name, base64.b64encode(custody.load_public(custody.generate(None)[1])).decode())
    for name in ("one", "two", "three")
)
OPERATIONS = {
    operation.kind: operation
    for operation in (
        ChangeAdministrators(1, (PEOPLE["frank"],)),
        ChangeRoles((PEOPLE["frank"],), ()),
        ChangePinPolicy(PinPolicy(8, 5)),
        ResetOfficer(0),
        MakeBackup(2, CUSTODIANS),
        RestoreBackup("ab" * 32),
        AdmitEnclave("cd" * 32),
        ExpelMember("ab" * 16),
        Zeroise(),
    )
}
HOUR = datetime.timedelta(hours=1)
NAMES = {Role.ADMINISTRATOR: "alice", Role.AUDITOR: "dave", Role.OPERATOR: "erin"}


def opened(current: Roles, operation: Any, *, seconds: int = 3600) -> tuple[bytes, Roles]:
    alice = badge(current, Role.ADMINISTRATOR, "alice")
    return open_request(current, alice, operation, seconds=seconds, now=NOW)


def executor(current: Roles, operation: Any) -> Badge:
    role = EXECUTED_BY[type(operation)]
    return Badge() if role is None else badge(current, role, NAMES[role])


def refusal(function: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(CryptoRefused) as refused:
        function(*arguments, **named)
    return str(refused.value)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_what_enough_administrators_approve_is_authorised_once(kind: str) -> None:
    operation = OPERATIONS[kind]
    request, current = opened(roles(), operation)
    who = executor(current, operation)
    done = authorise(current, who, request, approvals(request, "alice", "carol"), now=NOW)
    assert done.operation == operation
    assert done.approvers == ("alice", "carol")
    assert done.roles == msgspec.structs.replace(current, requests=())
    again = refusal(authorise, done.roles, who, request, approvals(request, "bob"), now=NOW)
    assert "not open here" in again


@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_operation_is_carried_out_by_its_role_alone(kind: str, role: Role | None) -> None:
    operation = OPERATIONS[kind]
    request, current = opened(roles(), operation)
    who = Badge() if role is None else badge(current, role, NAMES[role])
    given = approvals(request, "alice", "bob")
    allowed = Role.OPERATOR if kind == "backup" else Role.ADMINISTRATOR
    if role is allowed or kind == "admit":
        assert authorise(current, who, request, given, now=NOW).operation == operation
    else:
        said = refusal(authorise, current, who, request, given, now=NOW)
        assert said == f"this takes a login as {allowed}"


@pytest.mark.parametrize("role", [None, *Role])
def test_requests_for_backups_are_opened_by_administrators_and_operators(role: Role | None) -> None:
    who = Badge() if role is None else badge(roles(), role, NAMES[role])
    if role in (Role.ADMINISTRATOR, Role.OPERATOR):
        request, _ = open_request(roles(), who, OPERATIONS["backup"], seconds=60, now=NOW)
        assert requests.parse_request(request).opened_by == NAMES[role]
    else:
        assert "takes a login" in refusal(
            open_request, roles(), who, OPERATIONS["backup"], seconds=60, now=NOW
        )


def altered(request: bytes, **changes: Any) -> bytes:
    return requests.encode(msgspec.structs.replace(requests.parse_request(request), **changes))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nobody", "0 of 2 approvals: nobody"),
        ("one", "1 of 2 approvals: alice"),
        ("twice", "alice's approval is there twice"),
        ("two names, one key", "bob's signature does not verify"),
        ("a stranger", "frank is no administrator"),
        ("an auditor", "dave is no administrator"),
        ("of another request", "alice's approval is for another request"),
        ("of other parameters", "the request is not open here"),
        ("relabelled", "alice's signature does not verify"),
        ("of another module", "the request is for another module"),
        ("of nobody's making", "not open here: it was executed, or never made here"),
        ("expired", "the request has expired"),
        ("no approvals", "no approvals"),
        ("not the one encoding", "its encoding is not the one that there is"),
        ("no base64", "a signature is no base64"),
        ("a signature for images", "alice's signature does not verify"),
    ],
)
def test_approvals_that_do_not_count(what: str, said: str) -> None:
    request, current = opened(roles(), Zeroise())
    other, current = opened(current, ResetOfficer(3))
    now = NOW
    given = approvals(request, "alice", "bob")
    match what:
        case "nobody":
            given = b"[]"
        case "one":
            given = approvals(request, "alice")
        case "twice":
            given = approvals(request, "alice", "alice")
        case "two names, one key":
            signature = sign(KEYS["alice"], requests.to_be_signed(request))
            second = requests.attach(request, "bob", signature)
            given = b"[" + requests.approve(request, "alice", KEYS["alice"]) + b"," + second + b"]"
        case "a stranger":
            given = approvals(request, "alice", "frank")
        case "an auditor":
            given = approvals(request, "alice", "dave")
        case "of another request":
            given = approvals(other, "alice", "bob")
        case "of other parameters":
            request = altered(request, operation=ResetOfficer(4))
            given = approvals(request, "alice", "bob")
        case "relabelled":
            one = json.loads(requests.approve(other, "alice", KEYS["alice"]))
            given = json.dumps([one | {"request": requests.digest(request)}]).encode()
        case "of another module":
            request = altered(request, module="ff" * 16)
            given = approvals(request, "alice", "bob")
        case "of nobody's making":
            request = altered(request, nonce="00" * 16)
            given = approvals(request, "alice", "bob")
        case "expired":
            now += HOUR
        case "no approvals":
            given = b'{"secgear-crypto-approval": 1}'
        case "not the one encoding":
            request += b" "
        case "no base64":
            one = json.loads(requests.approve(request, "alice", KEYS["alice"]))
            given = json.dumps([one | {"signature": "*"}]).encode()
        case "a signature for images":
            given = b"[" + requests.attach(request, "alice", sign(KEYS["alice"], request)) + b"]"
    who = badge(current, Role.ADMINISTRATOR, "alice")
    assert said in refusal(authorise, current, who, request, given, now=now)


def test_a_longer_life_is_another_request() -> None:
    request, current = opened(roles(), Zeroise())
    longer = altered(request, expires=int((NOW + 2 * HOUR).timestamp()))
    who = badge(current, Role.ADMINISTRATOR, "alice")
    given = approvals(longer, "alice", "bob")
    assert "not open here" in refusal(authorise, current, who, longer, given, now=NOW)


def test_who_is_no_administrator_any_more_does_not_count() -> None:
    request, current = opened(roles(), Zeroise())
    given = approvals(request, "alice", "bob")
    who = badge(current, Role.ADMINISTRATOR, "alice")
    left = msgspec.structs.replace(current, administrators=(PEOPLE["alice"], PEOPLE["carol"]))
    assert "bob is no administrator" in refusal(authorise, left, who, request, given, now=NOW)
    gone = msgspec.structs.replace(current, administrators=(PEOPLE["bob"], PEOPLE["carol"]))
    assert "takes a login" in refusal(authorise, gone, who, request, given, now=NOW)


def test_a_name_with_another_key_is_another_person() -> None:
    request, current = opened(roles(), Zeroise())
    who = badge(current, Role.ADMINISTRATOR, "alice")
    impostor = person("alice", KEYS["frank"].public_key())
    changed = msgspec.structs.replace(current, administrators=(impostor, PEOPLE["bob"]))
    given = approvals(request, "alice", "bob")
    assert "takes a login" in refusal(authorise, changed, who, request, given, now=NOW)


def test_without_administrators_nothing_is_authorised() -> None:
    empty = Roles(MODULE)
    assert "is no administrator here" in refusal(badge, empty, Role.ADMINISTRATOR, "alice")
    request, _ = opened(roles(), Zeroise())
    forged = Badge()
    forged.put_on(Role.ADMINISTRATOR, PEOPLE["alice"])
    assert "takes a login" in refusal(authorise, empty, forged, request, b"[]", now=NOW)


@pytest.mark.parametrize(
    ("role", "name", "key"),
    [
        (Role.AUDITOR, "alice", "alice"),
        (Role.ADMINISTRATOR, "dave", "dave"),
        (Role.ADMINISTRATOR, "alice", "bob"),
        (Role.OPERATOR, "frank", "frank"),
        ("officer", "alice", "alice"),
    ],
)
def test_nobody_logs_in_to_what_they_are_not(role: str, name: str, key: str) -> None:
    made = Badge()
    given = proof(MODULE, made.challenged(), role, name, key)
    refusal(admit, roles(), made, given)
    assert "takes a login" in refusal(made.require, roles(), *Role)


def test_a_login_counts_for_its_own_challenge_and_module() -> None:
    made = Badge()
    assert "no challenge" in refusal(
        admit, roles(), made, proof(MODULE, b"", "administrator", "alice")
    )
    given = proof(MODULE, made.challenged(), "administrator", "alice")
    admit(roles(), made, given)
    assert "no challenge" in refusal(admit, roles(), made, given)
    made.challenged()
    assert "signed something else" in refusal(admit, roles(), made, given)
    foreign = proof(bytes(16), made.challenged(), "administrator", "alice")
    assert "signed something else" in refusal(admit, roles(), made, foreign)


def test_open_requests_are_limited_and_expire() -> None:
    current = roles()
    for _ in range(MAX_OPEN):
        _, current = opened(current, Zeroise(), seconds=10)
    assert "requests of alice are open" in refusal(opened, current, Zeroise())
    alice, bob = (badge(current, Role.ADMINISTRATOR, name) for name in ("alice", "bob"))
    _, more = open_request(current, bob, Zeroise(), seconds=10, now=NOW)
    assert len(more.requests) == MAX_OPEN + 1, "nobody keeps the others from asking"
    _, later = open_request(
        current, alice, Zeroise(), seconds=10, now=NOW + datetime.timedelta(seconds=10)
    )
    assert len(later.requests) == 1
    for seconds in (0, -1, 7 * 86400 + 1):
        said = refusal(open_request, later, alice, Zeroise(), seconds=seconds, now=NOW)
        assert "valid between" in said


@pytest.mark.parametrize("kind", sorted(OPERATIONS.keys() - {"backup"}))
def test_a_backup_operator_asks_for_backups_alone(kind: str) -> None:
    erin = badge(roles(), Role.OPERATOR, "erin")
    said = refusal(open_request, roles(), erin, OPERATIONS[kind], seconds=10, now=NOW)
    assert said == "this takes a login as administrator"
    open_request(roles(), erin, OPERATIONS["backup"], seconds=10, now=NOW)


@pytest.mark.parametrize("phase", [Phase.RESTORING, Phase.ZEROISED])
@pytest.mark.parametrize("kind", OPERATIONS)
def test_a_module_that_is_none_does_nothing_more(kind: str, phase: Phase) -> None:
    operation = OPERATIONS[kind]
    request, current = opened(roles(), operation)
    current = msgspec.structs.replace(current, phase=phase)
    who = executor(current, operation)
    given = approvals(request, "alice", "bob")
    if phase is Phase.RESTORING and kind in ("restore", "zeroise"):
        assert authorise(current, who, request, given, now=NOW).operation == operation
    else:
        said = refusal(authorise, current, who, request, given, now=NOW)
        assert said == f"the module is {phase}"


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (ChangeAdministrators(0, (PEOPLE["alice"],)), "between 1 and 1"),
        (ChangeAdministrators(2, (PEOPLE["alice"],)), "between 1 and 1"),
        (ChangeAdministrators(0, ()), "nobody could decide"),
        (ChangeAdministrators(1, (PEOPLE["alice"], PEOPLE["alice"])), "one name is there twice"),
        (
            ChangeAdministrators(
                1, (PEOPLE["alice"], person("mallory", KEYS["alice"].public_key()))
            ),
            "one key is there twice",
        ),
        (ChangeRoles((), (PEOPLE["erin"],) * 2), "one name is there twice"),
        (MakeBackup(1, CUSTODIANS), "between 2 and 3"),
        (MakeBackup(4, CUSTODIANS), "between 2 and 3"),
        (MakeBackup(2, CUSTODIANS[:1]), "custodians: 2 to 16"),
        (MakeBackup(2, CUSTODIANS[:1] * 2), "one name is there twice"),
    ],
)
def test_what_could_not_work_is_not_even_asked_for(operation: Any, said: str) -> None:
    assert said in refusal(opened, roles(), operation)
