"""A module spreads to another machine: enclaves verify each other, hosts can only get in the way.

The other machine is another simulated platform: its sealing keys and its root are others.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from secgear.base.build import build
from secgear.base.image import Image
from secgear.base.signing import sign
from secgear.base.tees.simulated import SimulatedPlatform
from secgear.errors import CryptoModuleError, EnclaveError
from secgear.middleware.attestation.bundle import AddedRoot
from secgear.services.crypto import host, joining
from secgear.services.crypto.host import PROGRAM
from tests.postgres import cluster
from tests.services.crypto.conftest import User
from tests.services.crypto.running import (
    PIN,
    SECGEAR,
    founded,
    prepare_token,
    secgear,
    serving,
)


class Machine:
    """A platform of its own: ``SECGEAR_HOME`` names it while it works."""

    def __init__(self, folder: Path, name: str, patch: pytest.MonkeyPatch) -> None:
        self.home = folder / f"platform-{name}"
        self.home.mkdir()
        self.directory = folder / name
        self._patch = patch
        self.root = self.home / "root.pem"
        pem = SimulatedPlatform(self.home).root.public_bytes(Encoding.PEM)
        self.root.write_bytes(pem)
        self.added = AddedRoot("simulated", f"{name}-root", pem.decode())

    def here(self) -> Path:
        """Work on this machine from now on. Returns the module's directory."""
        self._patch.setenv("SECGEAR_HOME", str(self.home))
        return self.directory


class Place:
    """Two machines with one database and one witness; the module lives on the first."""

    def __init__(
        self, folder: Path, database: str, witness: str, patch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self.database, self.witness = folder, database, witness
        self.one, self.other = Machine(folder, "one", patch), Machine(folder, "other", patch)
        self.roots = [
            argument
            for machine in (self.one, self.other)
            for argument in ("--root", f"simulated={machine.root}")
        ]
        self.key = founded(
            self.one.here(), "--database", database, "--witness", witness, *self.roots
        )
        self.image = self.one.directory / "module.sgear"

    def application(self, machine: Machine, image: Path | None = None, *others: Machine) -> bytes:
        """others: machines whose roots it is told, instead of those that were settled."""
        roots = [machine.added for machine in others or (self.one, self.other)]
        return joining.apply(
            machine.here(),
            Image.load(image or self.image),
            database=self.database,
            witness=self.witness.partition(",")[0],
            roots=roots,
        )

    def admit(self, application: bytes) -> bytes:
        return joining.admit(self.one.here(), application)

    def accept(self, machine: Machine, welcome: bytes) -> str:
        return joining.accept(machine.here(), welcome).audit_key.hex()


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = subprocess.Popen(
        [*SECGEAR, "serve", "witness", "--directory", str(tmp_path_factory.mktemp("witness")),
         "--listen", "tcp://127.0.0.1:0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        match = re.search(r"at (\S+) with key (\w+)", process.stderr.readline())
        assert match is not None
        yield f"{match[1]},{match[2]}"
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


@pytest.fixture
def place(
    tmp_path: Path, witness: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Place:
    marker = request.node.get_closest_marker("slow")
    database = f"sqlite:///{tmp_path}/shared.db"
    if marker is not None:
        database = request.getfixturevalue("database")
    return Place(tmp_path, database, witness, monkeypatch)


@pytest.fixture
def database() -> Iterator[str]:
    with cluster() as running:
        yield running.database()


def seen(user: User, key: int) -> None:
    """Wait until one machine knows what the other has done: soon, but not at once."""
    until = time.monotonic() + 30
    while key not in user.find():
        assert time.monotonic() < until


@pytest.mark.slow
def test_two_machines_serve_one_module_until_one_is_expelled(place: Place) -> None:
    one, other = place.one, place.other
    files = [place.folder / name for name in ("application", "welcome")]
    application, welcome = map(str, files)
    secgear(
        "crypto", "domain", "apply", str(other.here()), "--image", str(place.image), "--database",
        place.database, "--witness", place.witness.partition(",")[0], "-o", application,
        *place.roots,
    )  # fmt: skip
    secgear("crypto", "domain", "admit", str(one.here()), application, "-o", welcome)
    assert place.key in secgear("crypto", "domain", "accept", str(other.here()), welcome)
    assert not (other.directory / "pending").exists()
    one.here()
    with serving(one.directory, "--workers", "2") as first:
        prepare_token(first.socket, place.folder / "pins")
        other.here()
        with serving(other.directory) as second, first.caller() as a, second.caller() as b:
            users = [User(caller, login=False) for caller in (a, b)]
            for user in users:
                user.call("C_Login", 1, PIN.encode())
            here, there = users
            key = here.aes(TOKEN=True, LABEL=b"of the first")
            back = there.aes(TOKEN=True, LABEL=b"of the second")  # made upon what the first did
            assert there.find() == [key, back]
            sealed = there.run("Encrypt", 0x1081, key, bytes(16))
            assert here.run("Decrypt", 0x1081, key, sealed) == bytes(16)
            seen(here, back)
            here.set(back, LABEL=b"renamed")
            assert here.find(LABEL=b"renamed") == [back]
            listed = secgear("crypto", "domain", "members", str(other.here()))
            (own,) = re.findall(r"(\w{32})  process  this machine", listed)
            assert len(listed.splitlines()) == 2
            said = secgear("crypto", "domain", "rotate", str(other.directory))
            one.here()
            secgear("crypto", "domain", "expel", str(one.directory), own)
            assert here.find() == [key, back]
            assert here.run("Decrypt", 0x1081, key, sealed) == bytes(16)
            assert second.process.poll() is None
    assert said == "domain key  generation 2\n"
    refused = secgear("serve", "crypto", "--directory", str(other.here()), fails=True)
    assert "not sealed for this enclave" in refused
    one.here()
    verified = secgear("crypto", "audit", "verify", str(one.directory), "--key", place.key)
    assert "whole" in verified
    # What was granted once does not let it come back.
    with pytest.raises(CryptoModuleError, match="was expelled"):
        place.admit(files[0].read_bytes())


def test_only_enclaves_like_the_module_are_admitted(place: Place) -> None:
    source = place.folder / "enclave.py"
    source.write_bytes(PROGRAM.read_bytes() + b"\n# something else\n")
    image = place.folder / "changed.sgear"
    build(source).save(image)
    application = place.application(place.other, image)
    with pytest.raises(CryptoModuleError, match="measurement"):
        place.admit(application)
    with joining.member(place.one.here()) as enclave:
        assert len(enclave.members()) == 1


def test_a_host_that_signs_the_image_itself_gets_nothing_to_open_for_its_signature(
    place: Place,
) -> None:
    """Who signed an image is no part of its measurement, and each host could sign it.

    The module is sealed to the measurement. If the host said otherwise and were believed, another
    program with its signature would be one like the module's, or could unseal what it has sealed.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    source = place.folder / "enclave.py"
    source.write_text(
        PROGRAM.read_text().replace("= SealingPolicy.MEAS", "= SealingPolicy.SIGNER  #")
    )
    evil, signed = place.folder / "evil.sgear", place.folder / "signed.sgear"
    sign(build(source), key).save(evil)
    sign(Image.load(place.image), key).save(signed)
    assert Image.load(signed).measurement == Image.load(place.image).measurement
    with pytest.raises(CryptoModuleError, match="seals to its measurement"):
        place.application(place.other, signed)
    application = place.application(place.other, evil)
    home = host.Home(place.one.here())
    signed.replace(home.image)
    with pytest.raises(CryptoModuleError, match="measurement"):
        place.admit(application)
    home.save(msgspec.structs.replace(home.settings(), policy="signer"))
    with pytest.raises(CryptoModuleError, match="seals to its measurement"):
        place.admit(application)
    evil.replace(home.image)
    with pytest.raises(CryptoModuleError, match="not sealed for this enclave"):
        place.admit(application)


def test_a_platform_that_was_not_settled_at_the_founding_is_not_believed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Machine(place.folder, "stranger", monkeypatch)
    application = place.application(stranger, None, stranger, place.one)
    with pytest.raises(CryptoModuleError, match=r"attestation\.untrusted"):
        place.admit(application)


def test_a_donor_of_the_hosts_own_making_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new machine's host gives its enclave a domain that another program has made."""
    program = PROGRAM.read_text()
    genuine = "with _refusing():\n        return membership.admit("
    assert genuine in program
    source = place.folder / "enclave.py"
    source.write_text(
        program.replace(genuine, "with _refusing():\n        return _admit(")
        + "\n\ndef _admit(*arguments: object) -> bytes:\n"
        "    membership.Kin.check = lambda self, evidence, data, svn: self._own\n"
        "    return membership.admit(*arguments)\n"
    )
    rogue = Machine(place.folder, "rogue", monkeypatch)
    monkeypatch.setattr(host, "PROGRAM", source)
    address, _, key = place.witness.partition(",")
    witness = host.Witness(address, bytes.fromhex(key))
    host.found(rogue.here(), witness=witness, roots=[rogue.added])
    application = place.application(place.other, None, place.one, place.other, rogue)
    with pytest.raises(CryptoModuleError, match="measurement"):
        place.accept(place.other, joining.admit(rogue.here(), application))
    assert place.accept(place.other, place.admit(application)) == place.key


def test_a_module_whose_counter_is_its_hosts_stays_there(place: Place) -> None:
    alone = place.folder / "alone"
    place.one.here()
    host.found(alone, roots=[place.one.added, place.other.added])
    application = place.application(place.other, alone / "module.sgear")
    place.one.here()
    with pytest.raises(CryptoModuleError, match="need a witness"):
        joining.admit(alone, application)


def test_messages_that_were_changed_or_are_of_others_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = place.application(place.other)
    fields = msgspec.msgpack.decode(application)
    lies = [
        ({"not_after": fields["not_after"] + 1}, "report data"),
        ({"not_after": fields["not_after"] + (1 << 20)}, "of the future"),
        ({"not_after": 1}, "has expired"),
        ({"not_after": -1}, "has expired"),
        ({"version": 2}, "of version 2"),
        ({"public": bytes(len(fields["public"]))}, "no key"),
        ({"evidence": b""}, "no evidence"),
        ({"more": 1}, "no application"),
    ]
    with joining.member(place.one.here()) as enclave, host.told():
        for lie, said in lies:
            with pytest.raises(EnclaveError, match=said):
                enclave.admit(msgspec.msgpack.encode(fields | lie), b"")
        for nonsense in (b"", b"\xc1", os.urandom(100), b"\x91" * 100_000):
            with pytest.raises(EnclaveError, match="no application"):
                enclave.admit(nonsense, b"")
        assert len(enclave.members()) == 1
    welcome = place.admit(application)
    fields = msgspec.msgpack.decode(welcome)
    for lie, said in (
        ({"audit": bytes(32)}, "report data"),
        ({"grant": fields["grant"][:-1] + bytes([fields["grant"][-1] ^ 1])}, "report data"),
        ({"version": 0}, "of version 0"),
    ):
        with pytest.raises(CryptoModuleError, match=said):
            place.accept(place.other, msgspec.msgpack.encode(fields | lie))
    third = Machine(place.folder, "third", monkeypatch)
    place.application(third, None, place.one, third)
    with pytest.raises(CryptoModuleError, match="report data"):
        place.accept(third, welcome)  # the other one's
    assert place.accept(place.other, welcome) == place.key
    with pytest.raises(CryptoModuleError, match="founded here already"):
        place.accept(place.other, welcome)
