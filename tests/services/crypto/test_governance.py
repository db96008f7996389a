"""Roles, backups and the end of a module as they are run: by the command line, in processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secgear.base.image import Image
from secgear.base.signing import PrivateKey, generate_key, save_private_key
from secgear.cli import crypto_roles
from secgear.cli.output import UsageError
from secgear.errors import CryptoRefused
from secgear.services.crypto.administration import Administration
from secgear.services.crypto.host import Home
from secgear.services.crypto.pkcs11.constants import KeyType, Mech
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.roles import archive, custody, requests
from secgear.services.crypto.roles.operations import RestoreBackup, Zeroise
from secgear.services.crypto.token.splitting import combine
from tests.services.crypto.conftest import User, refusal, template
from tests.services.crypto.running import (
    PIN,
    SECGEAR,
    SO_PIN,
    Server,
    prepare_token,
    secgear,
    serving,
)
from tests.services.crypto.test_channel import holds

PEOPLE = ("alice", "bob", "carol", "dave", "erin")
CANARY = b"canary-secret-in-the-backup-32-b"
CONTROL = b"control-label-through-the-socket"
KEYS: dict[str, PrivateKey] = {name: generate_key() for name in PEOPLE}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everybody's keys, and custodians'."""
    folder = tmp_path_factory.mktemp("people")
    for name, key in KEYS.items():
        save_private_key(key, folder / f"{name}.pem")
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    for name in ("one", "two", "three"):
        private, public = custody.generate(None)
        (folder / f"{name}.custodian").write_bytes(private)
        (folder / f"{name}.custodian.pub").write_bytes(public)
    return folder


def founded_by(directory: Path, people: Path, *arguments: str) -> str:
    """A module with everybody in their role; returns the audit key that was printed."""
    roles = [f"--administrator={one}={people}/{one}.pub" for one in ("alice", "bob", "carol")]
    said = secgear(
        "crypto", "init", str(directory), *roles, "--threshold", "2",
        "--auditor", f"dave={people}/dave.pub", "--backup-operator", f"erin={people}/erin.pub",
        "--json", *arguments,
    )  # fmt: skip
    return str(json.loads(said)["audit_key"])


def policy_of(directory: Path) -> Path:
    measurement = Image.load(Home(directory).image).measurement.hex()
    policy = directory / "policy.toml"
    policy.write_text(
        'name = "owner"\n[accept]\ntees = ["process"]\n'
        f'measurements = ["{measurement}"]\n[allow]\nsimulated = true\ntest_roots = true\n'
    )
    return policy


def who(people: Path, name: str) -> list[str]:
    return ["--as", name, "--key", str(people / f"{name}.pem")]


def approved(people: Path, request: Path, *names: str) -> list[str]:
    """What names the approvals of these, by the command line."""
    options = []
    for name in names:
        approval = request.with_suffix(f".{name}")
        secgear("crypto", "approve", str(request), *who(people, name), "-o", str(approval), "--yes")
        options += ["--approval", str(approval)]
    return options


@pytest.fixture(scope="module")
def backed_up(
    tmp_path_factory: pytest.TempPathFactory, people: Path
) -> Iterator[tuple[Path, Server, str, int]]:
    """A running module with a key, and ``module.backup`` beside it."""
    directory = tmp_path_factory.mktemp("governed") / "module"
    audit_key = founded_by(directory, people)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        (directory / "pins").unlink()
        with server.caller() as caller:
            user = User(caller, login=False)
            user.call("C_Login", 1, PIN.encode())
            key = user.secret(CANARY, KeyType.GENERIC_SECRET, TOKEN=True, SIGN=True)
        socket = ["--socket", str(server.socket)]
        request = directory / "backup.request"
        custodians = [
            f"--custodian={one}={people}/{one}.custodian.pub" for one in ("one", "two", "three")
        ]
        secgear(
            "crypto", "request", "backup", *custodians, "--threshold", "2", *who(people, "erin"),
            *socket, "-o", str(request),
        )  # fmt: skip
        given = approved(people, request, "alice", "carol")
        secgear(
            "crypto", "backup", "create", "--request", str(request), *given,
            *who(people, "erin"), *socket, "-o", str(directory / "module.backup"),
        )  # fmt: skip
        yield directory, server, audit_key, key


def test_what_two_administrators_approve_happens_once(
    backed_up: tuple[Path, Server, str, int], people: Path, tmp_path: Path
) -> None:
    _, server, _, _ = backed_up
    socket = ["--socket", str(server.socket)]
    request = tmp_path / "request"
    said = secgear(
        "crypto", "request", "pin-policy", "--shortest", "6", "--tries", "8",
        *who(people, "alice"), *socket, "-o", str(request),
    )  # fmt: skip
    assert "new PINs have at least 6 bytes; 8 wrong tries lock a PIN" in said
    assert said.split("\n\n", 1)[1] == secgear("crypto", "request", "show", str(request))
    run = ("crypto", "execute", str(request), *who(people, "bob"), *socket)
    approve = ("crypto", "approve", str(request), *who(people, "alice"), "--yes")
    said = secgear(*approve, "-o", str(request), fails=True)
    assert "is something else" in said  # a slip does not cost the request
    one = approved(people, request, "alice")
    assert "1 of 2 approvals: alice" in secgear(*run, *one, fails=True)
    two = approved(people, request, "bob")
    assert "executed  pin-policy" in secgear(*run, *one, *two)
    assert "it was executed" in secgear(*run, *one, *two, fails=True)
    said = secgear("crypto", "roles", *socket)
    assert "from 6 bytes, locked after 8 failures" in said
    assert "2 of 3 administrators" in said


def test_a_key_elsewhere_approves_in_two_steps(
    backed_up: tuple[Path, Server, str, int], people: Path, tmp_path: Path
) -> None:
    _, server, _, _ = backed_up
    socket = ["--socket", str(server.socket)]
    request, to_be_signed, signature = (tmp_path / name for name in ("request", "tbs", "sig"))
    secgear("crypto", "request", "pin-policy", *who(people, "alice"), *socket, "-o", str(request))
    approve = ("crypto", "approve", str(request), "--as", "alice")
    secgear(*approve, "--to-be-signed", "-o", str(to_be_signed))
    subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(people / "alice.pem"),
         "-in", str(to_be_signed), "-out", str(signature)],
        check=True,
    )  # fmt: skip
    made = tmp_path / "approval"
    secgear(*approve, "--signature", str(signature), "-o", str(made), "--yes")
    two = approved(people, request, "bob")
    run = ("crypto", "execute", str(request), *who(people, "bob"), *socket)
    secgear(*run, "--approval", str(made), *two)


def test_the_audit_key_is_learnt_from_the_enclave(
    backed_up: tuple[Path, Server, str, int],
) -> None:
    directory, server, audit_key, _ = backed_up
    policy = policy_of(directory)
    ask = ("crypto", "audit", "key", "--socket", str(server.socket), "--policy", str(policy))
    said = json.loads(secgear(*ask, "--root", "simulated", "--json"))
    assert said["audit_key"] == audit_key
    assert set(said["administrators"]) == {"alice", "bob", "carol"}
    other = policy.read_text().split('measurements = ["')[1].split('"')[0]
    policy.write_text(policy.read_text().replace(other, "00" * 48))
    assert "not trusted" in secgear(*ask, "--root", "simulated", fails=True).lower()


def test_an_auditor_reads_the_trail_and_others_do_not(
    backed_up: tuple[Path, Server, str, int], people: Path
) -> None:
    directory, server, audit_key, _ = backed_up
    show = (
        "crypto", "audit", "show", "--audit-key", audit_key, "--socket", str(server.socket),
    )  # fmt: skip
    lines = secgear(*show, *who(people, "dave")).splitlines()
    actions = [json.loads(line)["action"] for line in lines]
    assert actions[0] == "module founded"
    assert "backup made" in actions
    document = json.loads(secgear(*show, *who(people, "dave"), "--json"))
    assert [one["action"] for one in document["records"]][: len(actions)] == actions
    assert "erin is no auditor here" in secgear(*show, *who(people, "erin"), fails=True)
    said = secgear("crypto", "audit", "verify", str(directory), "--key", audit_key, "--records")
    assert said.splitlines()[: len(lines)] == lines
    assert "whole" in said
    said = secgear(
        "crypto", "audit", "verify", str(directory), "--key", audit_key, "--records", "--json"
    )
    assert json.loads(said)["records"][0]["action"] == "module founded"


def test_a_backup_says_whose_it_is(backed_up: tuple[Path, Server, str, int]) -> None:
    directory, _, audit_key, _ = backed_up
    file = directory / "module.backup"
    said = json.loads(secgear("crypto", "backup", "inspect", str(file), "--json"))
    assert said["audit_key"] == audit_key
    assert (said["threshold"], said["custodians"]) == (2, ["one", "two", "three"])
    cut = directory / "cut.backup"
    cut.write_bytes(file.read_bytes()[:-10])
    assert "cut off" in secgear("crypto", "backup", "inspect", str(cut), fails=True)


def restored(directory: Path, people: Path, backup: Path, server: Server, *custodians: str) -> str:
    """Restore by the command line, custodians and all; returns what it says."""
    socket = ["--socket", str(server.socket)]
    request, target, shares = (directory / name for name in ("restore.request", "target", "shares"))
    shares.mkdir()
    secgear(
        "crypto", "request", "restore", str(backup), *who(people, "alice"), *socket,
        "-o", str(request),
    )  # fmt: skip
    given = approved(people, request, "alice", "bob")
    process = subprocess.Popen(
        [*SECGEAR, "crypto", "backup", "restore", str(backup), "--request", str(request), *given,
         *who(people, "alice"), *socket, "--target", str(target), "--shares", str(shares)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    overdue = threading.Timer(120, process.kill)
    overdue.start()
    try:
        while not target.exists():
            assert process.poll() is None
            time.sleep(0.02)
        policy = policy_of(directory)
        for name in custodians:
            secgear(
                "crypto", "backup", "share", str(backup), "--to", str(target),
                "--key", str(people / f"{name}.custodian"), "--policy", str(policy),
                "--root", "simulated", "-o", str(shares / f"{name}.share"), "--yes",
            )  # fmt: skip
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    finally:
        overdue.cancel()
        process.kill()
        process.wait()
    return said


def test_a_backup_is_restored_and_no_host_has_seen_what_is_in_it(
    backed_up: tuple[Path, Server, str, int], people: Path, tmp_path: Path
) -> None:
    source, first, _, key = backed_up
    backup = source / "module.backup"
    directory = tmp_path / "other"
    audit_key = founded_by(directory, people)
    # The backup's key and its shares, as custodians could have them.
    manifest_bytes, _ = archive.read(io.BytesIO(backup.read_bytes()))
    manifest = archive.parse_manifest(manifest_bytes)
    id = bytes.fromhex(manifest.id)
    shares = []
    for sealed in manifest.shares[:2]:
        pem = (people / f"{sealed.custodian}.custodian").read_bytes()
        private, _ = custody.load_private(pem, None)
        shares.append(custody.open_share(sealed.sealed, private, id, sealed.custodian))
    secrets = [share.part for share in shares] + [combine(shares, id, threshold=2)]
    with serving(directory) as server:
        said = restored(directory, people, backup, server, "one", "three")
        assert "restored  1 objects, 1 slots" in said
        with server.caller() as caller:
            user = User(caller, login=False)
            user.call("C_Login", 1, PIN.encode())
            assert user.find() == [key]
            assert user.run("Sign", Mech.SHA256_HMAC, key, b"text")
            # What an application says through the socket passes through the host: a control.
            user.call("C_CreateObject", template(CLASS=0, TOKEN=True, LABEL=CONTROL))
            for one in (first, server):
                process = Path(f"/proc/{one.process.pid}")
                needles = [*secrets, CONTROL] + ([CANARY] if one is server else [])
                found = holds(process / "mem", process / "maps", needles)
                assert found == ({CONTROL} if one is server else set())
        for folder in (source, directory):
            for file in folder.rglob("*"):
                if file.is_file():
                    data = file.read_bytes()
                    assert not any(needle in data for needle in [*secrets, CANARY]), file
        socket = ["--socket", str(server.socket)]
        show = ("crypto", "audit", "show", "--audit-key", audit_key, *who(people, "dave"))
        assert "module restored" in secgear(*show, *socket)


def in_process(server: Server, name: str = "alice") -> Administration:
    """A connection on which an administrator is logged in; open until the test ends."""
    from secgear.services.crypto.client import Caller, SocketExchange

    caller = Caller(SocketExchange(server.socket))
    caller.initialise()
    one = Administration(caller)
    one.login("administrator", name, KEYS[name])
    return one


def signed(request: bytes, *names: str) -> list[bytes]:
    return [requests.approve(request, name, KEYS[name]) for name in names]


@pytest.mark.slow
def test_a_kill_in_the_middle_of_restoring_leaves_nothing_or_everything(
    backed_up: tuple[Path, Server, str, int], people: Path, tmp_path: Path
) -> None:
    import datetime
    import random

    from secgear.middleware.attestation import load_policy
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.middleware.attestation.own import own_simulated_root
    from secgear.services.crypto import custodian

    source, _, _, key = backed_up
    backup = (source / "module.backup").read_bytes()
    directory = tmp_path / "other"
    founded_by(directory, people)
    policy = load_policy(policy_of(directory).read_bytes())
    manifest, _ = archive.read(io.BytesIO(backup))
    pems = [(people / f"{name}.custodian").read_bytes() for name in ("two", "three")]
    operation = RestoreBackup(archive.digest_of(manifest).hex())
    with serving(directory) as server:
        for attempt in range(20):
            alice = in_process(server)
            phase = alice.standing().phase
            if alice.standing().administrators and attempt and phase == "open":
                with server.caller() as caller:
                    if caller.call("C_GetTokenInfo", 0)[4] & 0x400:  # initialised: restored
                        break
            request = alice.request(operation, seconds=600)
            given = signed(request, "alice", "bob")
            target = alice.begin_restoring(request, given, manifest)
            now = datetime.datetime.now(datetime.UTC)
            for pem in pems:
                share = custodian.release(
                    manifest, target, custody.load_private(pem, None), policy, at=now,
                    anchors=anchors_with((own_simulated_root(),)),
                )  # fmt: skip
                alice.send_share(share.envelope)
            delay = random.random() * 0.1 if attempt < 3 else 60.0
            killer = threading.Timer(delay, os.kill, (server.enclave, signal.SIGKILL))
            killer.start()
            try:
                alice.restore(archive.read(io.BytesIO(backup))[1])
            except Exception:
                continue
            finally:
                killer.cancel()
        with server.caller() as caller:
            user = User(caller, login=False)
            user.call("C_Login", 1, PIN.encode())
            assert user.find() == [key]


def test_a_zeroised_module_is_gone_and_stays_gone(people: Path, tmp_path: Path) -> None:
    directory = tmp_path / "module"
    audit_key = founded_by(directory, people)
    database = directory / "module.db"
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with server.caller() as caller:
            user = User(caller, login=False)
            user.call("C_Login", 1, PIN.encode())
            user.aes(TOKEN=True)
    older = database.read_bytes()
    with serving(directory) as server:
        socket = ["--socket", str(server.socket)]
        request = directory / "zeroise.request"
        secgear("crypto", "request", "zeroise", *who(people, "carol"), *socket, "-o", str(request))
        given = approved(people, request, "bob", "carol")
        before = server.enclave
        said = secgear("crypto", "execute", str(request), *given, *who(people, "bob"), *socket)
        assert "executed  zeroise" in said
        assert "zeroised" in secgear("crypto", "roles", *socket)
        # The enclave that held the keys ends with the first call that would need them.
        rv = None
        while rv is not Rv.TOKEN_NOT_PRESENT:
            with server.caller() as caller:
                rv = refusal(caller.call, "C_OpenSession", 0, 6)
        assert server.enclave != before
        assert "zeroised" in secgear("crypto", "roles", *socket)
    assert "whole" in secgear("crypto", "audit", "verify", str(directory), "--key", audit_key)
    database.write_bytes(older)
    for rest in directory.glob("module.db-*"):
        rest.unlink()
    said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
    assert "sealing.rolled-back" in said


@pytest.mark.slow
def test_a_kill_in_the_middle_of_zeroising_leaves_nothing_or_everything(
    people: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "module"
    audit_key = founded_by(directory, people)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with server.caller() as caller:
            user = User(caller, login=False)
            user.call("C_Login", 1, PIN.encode())
            key = user.aes(TOKEN=True)
        for attempt in range(4):
            alice = in_process(server)
            if alice.standing().phase == "zeroised":
                break
            with server.caller() as caller:
                user = User(caller, login=False)
                user.call("C_Login", 1, PIN.encode())
                assert user.find() == [key]
            request = alice.request(Zeroise(), seconds=600)
            given = signed(request, "alice", "bob")
            delay = attempt * 0.004
            killer = threading.Timer(delay, os.kill, (server.enclave, signal.SIGKILL))
            killer.start()
            try:
                alice.execute(request, given)
            except Exception:
                continue
            finally:
                killer.join()
        alice = in_process(server)
        if alice.standing().phase != "zeroised":
            request = alice.request(Zeroise(), seconds=600)
            alice.execute(request, signed(request, "alice", "bob"))
        assert alice.standing().phase == "zeroised"
    assert "whole" in secgear("crypto", "audit", "verify", str(directory), "--key", audit_key)


def test_roles_that_could_not_work_found_no_module(people: Path, tmp_path: Path) -> None:
    directory = tmp_path / "module"
    said = secgear(
        "crypto", "init", str(directory), "--auditor", f"dave={people}/dave.pub", fails=True
    )
    assert "roles take --administrator" in said
    assert not directory.exists()
    two = [f"{one}={people}/{one}.pub" for one in ("alice", "bob")]
    with pytest.raises(UsageError, match="--threshold says"):
        crypto_roles.founders(two, None, None, None)
    with pytest.raises(CryptoRefused, match="between 1 and 2"):
        crypto_roles.founders(two, 3, None, None)
    with pytest.raises(CryptoRefused, match="one key is there twice"):
        crypto_roles.founders([*two, f"eve={people}/alice.pub"], 2, None, None)
    with pytest.raises(UsageError, match="write NAME=FILE"):
        crypto_roles.founders(["alice"], 1, None, None)


def test_users_with_names_and_the_record_of_uses_by_command(
    backed_up: tuple[Path, Server, str, int], people: Path, tmp_path: Path
) -> None:
    _, server, audit_key, key = backed_up
    socket = ["--socket", str(server.socket)]
    officer, pin = tmp_path / "officer", tmp_path / "pin"
    officer.write_text(f"{SO_PIN}\n")
    pin.write_text("ann-has-one\n")
    by = [*socket, "--officer-pin-file", str(officer)]
    said = secgear("crypto", "user", "set", "ann", *by, "--pin-file", str(pin), "--rights", "use")
    assert said == "user  ann, use\n"
    assert secgear("crypto", "user", "list", *socket) == "ann  use, 0 failures\n"
    with server.caller() as caller:
        user = User(caller, login=False)
        user.call("C_LoginUser", 1, b"ann-has-one", b"ann")
        assert "uses are recorded" in secgear("crypto", "token-policy", "--record-uses", *by)
        user.run("Sign", Mech.SHA256_HMAC, key, b"recorded")
    show = ("crypto", "audit", "show", "--audit-key", audit_key, *who(people, "dave"), *socket)
    told = [json.loads(line) for line in secgear(*show).splitlines()]
    (use,) = [one["detail"] for one in told if one["action"] == "key used"]
    assert (use["user"], use["operation"]) == ("ann", "sign")
    secgear("crypto", "user", "remove", "ann", *by)
    assert secgear("crypto", "user", "list", *socket, "--json").strip() == "[]"
    assert "has no user 'ann'" in secgear("crypto", "user", "remove", "ann", *by, fails=True)
    officer.write_text("wrong\n")
    refused = secgear("crypto", "token-policy", "--no-record-uses", *by, fails=True)
    assert "CKR_PIN_INCORRECT" in refused


def test_a_security_officer_gets_a_new_pin_by_command(
    backed_up: tuple[Path, Server, str, int], people: Path, tmp_path: Path
) -> None:
    _, server, _, _ = backed_up
    socket = ["--socket", str(server.socket)]
    request, pin = tmp_path / "request", tmp_path / "pin"
    pin.write_text("another-pin\n")
    secgear("crypto", "request", "reset-officer", *who(people, "bob"), *socket, "-o", str(request))
    given = approved(people, request, "bob", "carol")
    secgear(
        "crypto", "execute", str(request), *given, *who(people, "bob"), *socket,
        "--pin-file", str(pin),
    )  # fmt: skip
    with server.caller() as caller:
        session = caller.one("C_OpenSession", 0, 6)
        assert refusal(caller.call, "C_Login", session, 0, SO_PIN.encode()) is Rv.PIN_INCORRECT
        caller.call("C_Login", session, 0, b"another-pin")
        assert caller.one("C_GenerateRandom", session, 8)
