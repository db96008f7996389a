"""The secure channel against plain TLS 1.3 of the same OpenSSL, both through memory BIOs.

Both ends are in one thread, so that the figures are work and not waiting. A handshake is
measured with evidence that costs nothing, which shows the protocol's own price, and with a
simulated platform's; what making and checking that took of it is shown apart. The last tables go
all the way, from a client of its own into a real enclave through the host's relay.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

import secgear
from bench.measure import Row, interleaved, rows, sample
from bench.trusting import trusted
from secgear.base.build import build
from secgear.base.image import Image
from secgear.base.tee import Evidence
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchors, Policy, Verdict, load_policy
from secgear.middleware.attestation.bundle import anchors_with
from secgear.middleware.attestation.own import own_simulated_root
from secgear.middleware.channel import Identity, Relay
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Judge, Present, Received
from secgear.middleware.channel.tls import DEFAULT_SUITES, HYBRID, Parameters
from secgear.middleware.channel.trust import Attester, Trust

_APP = Path(__file__).parent / "apps" / "talker.py"
_RECORD = 16 << 10
_PIECE = (
    7 * _RECORD
)  # bytes handed to plain TLS at once; what suits it best, as it does the channel
_FLIGHT = 116 << 10  # bytes taken from it at once, which hold them as records
SMALL = 64  # bytes of a ping
_PINGS = 50
_NOW = datetime.datetime.now(datetime.UTC)
Judging = Callable[[Evidence, bytes], Verdict]


def main(*, quick: bool) -> list[Row]:
    """Tables for the handshake, for small messages, for bulk, and for the whole way."""
    image = build(_APP, debug=True)
    return [
        *_handshakes(image, quick=quick),
        *_pings(quick=quick),
        *_bulk(quick=quick),
        *_whole_way(image, quick=quick),
    ]


# --- the two contenders --------------------------------------------------------------------------


class _PlainTls:
    """Both ends of TLS 1.3 with the channel's own parameters, and nothing on top."""

    def __init__(self, contexts: tuple[SSL.Context, SSL.Context]) -> None:
        self.client, self.server = (SSL.Connection(context, None) for context in contexts)
        self.client.set_connect_state()
        self.server.set_accept_state()
        done = [False, False]
        while not all(done):
            for number, (one, other) in enumerate(
                ((self.client, self.server), (self.server, self.client))
            ):
                try:
                    one.do_handshake()
                    done[number] = True
                except SSL.WantReadError:
                    pass
                _carry(one, other)
        # A client's first read takes the tickets that OpenSSL's server sends unasked.
        with contextlib.suppress(SSL.WantReadError):
            self.client.recv(1)

    def send(self, one: SSL.Connection, other: SSL.Connection, data: memoryview) -> int:
        """`data` from one end to the other; gives the bytes that arrived."""
        arrived = 0
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            while piece:
                piece = piece[one.send(piece) :]
            _carry(one, other)
            try:
                while True:
                    arrived += len(other.recv(_RECORD))
            except SSL.WantReadError:
                pass
        return arrived


def _carry(one: SSL.Connection, other: SSL.Connection) -> None:
    try:
        while True:
            rest = memoryview(one.bio_read(_FLIGHT))
            while rest:
                rest = rest[other.bio_write(rest) :]
    except SSL.WantReadError:
        pass


class _Channel:
    """Both ends of the channel. attester, judge: what it asks for evidence and for a verdict."""

    def __init__(self, identity: Identity, attester: Attester, judge: Judging) -> None:
        self.client = Core(Role.CLIENT, Parameters())
        self.server = Core(Role.SERVER, Parameters(), identity)
        moved = True
        while moved:
            moved = False
            for one, other in ((self.client, self.server), (self.server, self.client)):
                if data := one.outgoing():
                    moved = True
                    for event in other.receive(data):
                        if isinstance(event, Present):
                            other.present(attester(event.report_data))
                        elif isinstance(event, Judge):
                            other.accept(judge(event.evidence, event.report_data))

    def send(self, one: Core, other: Core, data: memoryview) -> int:
        """As `_PlainTls.send`."""
        arrived = 0
        for _ in one.send(data):
            for event in other.receive(one.outgoing()):
                if isinstance(event, Received):
                    arrived += len(event.payload)
        return arrived


def _contexts(identity: Identity) -> tuple[SSL.Context, SSL.Context]:
    made = []
    for method in (SSL.TLS_CLIENT_METHOD, SSL.TLS_SERVER_METHOD):
        context = SSL.Context(method)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(":".join(DEFAULT_SUITES).encode())
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_verify(SSL.VERIFY_NONE)
        made.append(context)
    made[1].use_privatekey(identity.key)
    made[1].use_certificate(identity.certificate)
    return made[0], made[1]


class _Real:
    """A simulated platform's evidence, and a data owner's policy. making, judging: seconds each."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._platform = SimulatedPlatform(home())
        self._trust = Trust(policy=owner_policy(image.measurement.hex()), anchors=owner_anchors())
        self.making: list[float] = []
        self.judging: list[float] = []

    def attester(self, report_data: bytes) -> Evidence:
        start = time.perf_counter()
        token = self._platform.evidence(self._image, (), report_data)
        self.making.append(time.perf_counter() - start)
        return Evidence("secgear.process.cwt", token)

    def judge(self, evidence: Evidence, report_data: bytes) -> Verdict:
        start = time.perf_counter()
        verdict = self._trust.judge(evidence, report_data)
        self.judging.append(time.perf_counter() - start)
        return verdict


def _no_attester(report_data: bytes) -> Evidence:
    return Evidence("benchmark", report_data)


def _no_judge(evidence: Evidence, report_data: bytes) -> Verdict:
    return trusted(evidence, report_data, at=_NOW)


# --- the tables ----------------------------------------------------------------------------------


def _handshakes(image: Image, *, quick: bool) -> list[Row]:
    identity = Identity.fresh()
    contexts = _contexts(identity)
    real = _Real(image)
    group = str(_PlainTls(contexts).client.get_group_name())
    if group.lower() != HYBRID[0].lower():
        raise RuntimeError(f"the plain handshake used {group}, which compares nothing")
    contenders: dict[str, Callable[[], object]] = {
        "plain TLS 1.3": lambda: _PlainTls(contexts),
        "channel, evidence for nothing": lambda: _Channel(identity, _no_attester, _no_judge),
        "channel": lambda: _Channel(identity, real.attester, real.judge),
    }
    samples = interleaved(contenders, rounds=100 if quick else 500, batch=1)
    samples["of it, making evidence"] = sample(real.making)
    samples["of it, checking evidence"] = sample(real.judging)
    return rows("handshake", samples, "plain TLS 1.3")


def _pings(*, quick: bool) -> list[Row]:
    tls, channel = _both()
    ping = memoryview(bytes(SMALL))

    def plain() -> None:
        tls.send(tls.client, tls.server, ping)
        tls.send(tls.server, tls.client, ping)

    def ours() -> None:
        channel.send(channel.client, channel.server, ping)
        channel.send(channel.server, channel.client, ping)

    samples = interleaved(
        {"plain TLS 1.3": plain, "channel": ours}, rounds=9 if quick else 41, batch=500
    )
    return rows(f"{SMALL} B there and back", samples, "plain TLS 1.3")


def _bulk(*, quick: bool) -> list[Row]:
    size = (16 if quick else 64) << 20
    data = memoryview(os.urandom(size))
    tls, channel = _both()
    cipher = AESGCM(os.urandom(32))
    nonce, out = bytes(12), bytearray(_RECORD + 16)
    back = memoryview(bytearray(_RECORD))

    def bare() -> int:
        for start in range(0, size, _RECORD):
            cipher.encrypt_into(nonce, data[start : start + _RECORD], None, out)
            cipher.decrypt_into(nonce, out, None, back)
        return size

    def checked(run: Callable[[], int]) -> Callable[[], None]:
        def once() -> None:
            if run() != size:
                raise RuntimeError("something was lost on the way")

        return once

    contenders = {
        "AES-256-GCM, both ways": checked(bare),
        "plain TLS 1.3": checked(lambda: tls.send(tls.client, tls.server, data)),
        "channel": checked(lambda: channel.send(channel.client, channel.server, data)),
    }
    samples = interleaved(contenders, rounds=5 if quick else 15, batch=1)
    name = f"{size >> 20} MiB"
    return rows(name, samples, "plain TLS 1.3")


def _whole_way(image: Image, *, quick: bool) -> list[Row]:
    """From a client over TCP and the relay into an enclave, beside ECALLs of the host's."""
    size = (8 if quick else 64) << 20
    data, small = os.urandom(size), bytes(SMALL)
    found: list[Row] = []
    with (
        secgear.launch(_APP, tee="process") as enclave,
        Relay(enclave) as relay,
        _client(relay.address, image.measurement.hex(), size) as ask,
    ):

        def calls() -> None:
            for _ in range(_PINGS):
                enclave.length(small)

        tables: list[tuple[str, int, dict[str, Callable[[], object]]]] = [
            (
                f"{_PINGS} x {SMALL} B into an enclave and back",
                5 if quick else 21,
                {"ECALLs": calls, "session": lambda: ask(str(_PINGS))},
            ),
            (
                f"{size >> 20} MiB into an enclave",
                3 if quick else 9,
                {"ECALLs": lambda: enclave.length(data), "session": lambda: ask("bulk")},
            ),
        ]
        for what, rounds, contenders in tables:
            found += rows(what, interleaved(contenders, rounds=rounds, batch=1), "ECALLs")
    return found


@contextlib.contextmanager
def _client(address: str, measurement: str, size: int) -> Iterator[Callable[[str], None]]:
    """A client in a process of its own; give it orders."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.client", address, measurement, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        orders, answers = process.stdin, process.stdout
        if orders is None or answers is None:
            raise RuntimeError("no pipes")  # can't be: they were asked for

        def ask(order: str) -> None:
            orders.write(f"{order}\n")
            orders.flush()
            if answers.readline() != "done\n":
                raise RuntimeError("the client has failed")

        yield ask


def _both() -> tuple[_PlainTls, _Channel]:
    identity = Identity.fresh()
    return _PlainTls(_contexts(identity)), _Channel(identity, _no_attester, _no_judge)


def owner_anchors() -> Anchors:
    return anchors_with([own_simulated_root()])


def owner_policy(measurement: str) -> Policy:
    return load_policy(
        f"""
        name = "benchmark"
        [accept]
        tees = ["process"]
        measurements = ["{measurement}"]
        [allow]
        debug = true
        simulated = true
        test_roots = true
        """.encode()
    )
