"""Clients from afar: over the attested channel the host sees nothing of what they do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear.base.image import Image
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.errors import SecGearError
from secgear.middleware.attestation import Anchor, builtin_anchors, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.services.crypto.client import SERVICE, Caller, ChannelExchange
from secgear.services.crypto.host import Home
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    Mechanism,
    Mechanisms,
    Sm2ExchangeParams,
)
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.frames import HEADER, build_frame, parse_header
from secgear.services.crypto.token.mechanisms import MECHANISMS
from tests.services.crypto.conftest import User, template
from tests.services.crypto.running import PIN, SECGEAR, Server, founded, prepare_token, serving


def policy_of(directory: Path) -> bytes:
    """A policy that trusts exactly the module in a directory."""
    measurement = Image.load(Home(directory).image).measurement.hex()
    return (
        'name = "owner"\n[accept]\ntees = ["process"]\n'
        f'measurements = ["{measurement}"]\n[allow]\nsimulated = true\ntest_roots = true\n'
    ).encode()


def opened(address: str, policy: bytes) -> Any:
    """A channel to a module of this machine."""
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM)
    anchors = builtin_anchors().adding(Anchor("mine", "simulated", load_pem(root)[0]))
    return secgear.connect(address, load_policy(policy), service=SERVICE, anchors=anchors)


@contextlib.contextmanager
def connected(address: str, directory: Path) -> Iterator[Caller]:
    """A caller over such a channel."""
    with opened(address, policy_of(directory)) as session:
        caller = Caller(ChannelExchange(session))
        caller.initialise()
        yield caller


class Place:
    """A running module with an address for channels, and the policy that trusts it."""

    def __init__(self, server: Server, directory: Path, address: str) -> None:
        self.server, self.directory, self.address = server, directory, address
        self.policy = directory / "policy.toml"
        self.policy.write_bytes(policy_of(directory))

    def connect(self, policy: bytes | None = None) -> Any:
        return opened(self.address, policy or self.policy.read_bytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("crypto") / "module"
    founded(directory)
    with serving(directory, "--attested", "tcp://127.0.0.1:0", ready=2) as server:
        prepare_token(server.socket, directory / "pins")
        (directory / "pins").unlink()
        match = re.search(r"attested channels at (\S+)", "\n".join(server.said))
        assert match is not None
        yield Place(server, directory, match[1])


def holds(memory: Path, maps: Path, needles: list[bytes]) -> set[bytes]:
    """Which of these are in a process's memory."""
    found: set[bytes] = set()
    with memory.open("rb", buffering=0) as file:
        for line in maps.read_text().splitlines():
            span, rights = line.split()[:2]
            if not rights.startswith("r") or "[vvar" in line or "[vsyscall]" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                file.seek(start)
                data = file.read(end - start)
            except (OSError, OverflowError, ValueError):
                continue
            found |= {needle for needle in needles if needle in data}
    return found


def test_what_went_through_the_channel_is_nowhere_on_the_host(place: Place) -> None:
    canary = b"canary-secret-through-channel-32"
    control = b"control-label-through-the-socket"
    with place.connect() as session:
        caller = Caller(ChannelExchange(session))
        caller.initialise()
        user = User(caller, login=False)
        user.call("C_Login", 1, PIN.encode())
        key = user.secret(
            canary, KeyType.GENERIC_SECRET, TOKEN=True, SIGN=True, LABEL=b"of the channel"
        )
        for number in range(20):
            user.run("Sign", Mech.SHA256_HMAC, key, b"%d %s" % (number, canary))
    with place.server.caller() as local:
        session_handle = local.one("C_OpenSession", 0, 6)
        data = local.one(
            "C_CreateObject", session_handle, template(CLASS=0, TOKEN=True, LABEL=control)
        )
        assert data
        process = Path(f"/proc/{place.server.process.pid}")
        found = holds(process / "mem", process / "maps", [canary, control])
    # What goes through the socket passes through the host's hands: the search would have found it.
    assert found == {control}
    for file in place.directory.iterdir():
        if file.is_file():
            content = file.read_bytes()
            assert canary not in content
    kept = b"".join(file.read_bytes() for file in place.directory.glob("module.db*"))
    assert control in kept  # the trail's records are meant to be read


def test_who_is_not_trusted_gets_no_channel(place: Place) -> None:
    other = place.policy.read_bytes().replace(b'measurements = ["', b'measurements = ["00')
    other = re.sub(rb'(measurements = \["[0-9a-f]{96})[0-9a-f]*', rb"\1", other)
    with pytest.raises(SecGearError):
        place.connect(other)


def test_nonsense_over_the_channel_is_answered_or_ends_it(place: Place) -> None:
    with place.connect() as session:
        session.send(bytes((OWN,)))
        session.send(b"\xff" * 20)
        assert session.recv()[:4] == bytes(4)  # an error, as p11-kit has them
        Caller(lambda body: (session.send(body), session.recv())[1]).initialise()
    with place.connect() as session:
        session.send(b"no version")
        with pytest.raises(SecGearError):
            session.recv()


def test_the_command_carries_frames_for_p11_kit(place: Place) -> None:
    shim = subprocess.Popen(
        [*SECGEAR, "crypto", "connect", place.address, "--policy", str(place.policy),
         "--root", "simulated"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert shim.stdin is not None
    assert shim.stdout is not None
    shim.stdin.write(b"\1")
    shim.stdin.flush()
    assert shim.stdout.read(1) == b"\1", shim.stderr.read() if shim.stderr else b""
    into, out = shim.stdin, shim.stdout

    def exchange(body: bytes) -> bytes:
        into.write(build_frame(7, body, b"client"))
        into.flush()
        header = parse_header(out.read(HEADER.size))
        assert header.code == 7
        return out.read(header.body)

    caller = Caller(exchange, 1)
    caller.initialise()
    user = User(caller, login=False)
    user.call("C_Login", 1, PIN.encode())
    public, private = user.ec()
    signature = user.run("Sign", Mech.ECDSA_SHA256, private, b"message")
    user.verify(Mech.ECDSA_SHA256, public, b"message", signature)
    assert user.get(private, Attr.LOCAL) is True
    assert user.call("C_DigestInit", Mechanism(Mech.SHA256)) == ()
    into.close()
    assert shim.wait(30) == 0
    out.close()
    if shim.stderr is not None:
        shim.stderr.close()


def test_channels_lead_to_the_next_enclave_when_one_has_died(place: Place) -> None:
    os.kill(place.server.enclave, signal.SIGKILL)
    until = time.monotonic() + 60
    while True:
        try:
            with place.connect() as session:
                caller = Caller(ChannelExchange(session))
                caller.initialise()
                assert caller.call("C_GetTokenInfo", 0)
                return
        except SecGearError:
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.skipif(Mech.SM2 not in MECHANISMS, reason="the system's OpenSSL has no SM2")
def test_the_systems_openssl_works_inside_a_sealed_enclave(place: Place) -> None:
    with place.server.caller() as caller:
        user = User(caller, login=False)
        user.call("C_Login", 1, PIN.encode())
        pairs = [user.pair(Mech.SM2_KEY_PAIR_GEN, {}, {"DERIVE": True}) for _ in range(4)]
        points = [user.get(public, Attr.EC_POINT) for public, _ in pairs]
        made = template(KEY_TYPE=KeyType.SM4, ENCRYPT=True, DECRYPT=True)
        keys = []
        for initiator, own, other in ((True, 0, 2), (False, 2, 0)):
            params = Sm2ExchangeParams(
                initiator, pairs[own + 1][1], points[other], points[other + 1], b"", b""
            )
            mechanism = Mechanism(Mech.SM2_EXCHANGE, params)
            keys.append(user.call("C_DeriveKey", mechanism, pairs[own][1], made))
        messages = [bytes([number]) * 40 for number in range(50)]
        ccm = tuple(CcmParams(40, bytes([number]) * 12, b"aad", 16) for number in range(50))
        batch = Mechanisms(Mech.SM4_CCM, ccm)
        sealed = user.call("S_EncryptBatch", batch, keys[0], messages)
        assert user.call("S_DecryptBatch", batch, keys[1], sealed) == messages
        user.call("C_Logout")
