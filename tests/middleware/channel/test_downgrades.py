"""Old versions, weak groups and stale grounds: refused by name, whoever brings them about."""

from __future__ import annotations

import datetime
import socket

import pytest
from OpenSSL import SSL

import secgear
from secgear import errors
from secgear.middleware.attestation import load_policy
from secgear.middleware.channel.core import State
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.tls import Parameters
from tests.middleware.channel.ends import in_thread
from tests.middleware.channel.pairs import POLICY, Pair
from tests.middleware.channel.test_handshake import VENDOR, Server

_HYBRID, _X25519 = b"\x11\xec", b"\x00\x1d"  # numbers of named groups: X25519MLKEM768, x25519
_AES_256, _AES_128 = b"\x13\x02", b"\x13\x01"


def test_server_of_an_older_tls_is_refused() -> None:
    near, far = socket.socketpair()
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    identity = Identity.fresh()
    context.use_privatekey(identity.key)
    context.use_certificate(identity.certificate)

    def serve() -> None:
        old = SSL.Connection(context, None)
        old.set_accept_state()
        with far:
            old.bio_write(far.recv(1 << 16))
            with pytest.raises(SSL.Error):
                old.do_handshake()
            far.sendall(old.bio_read(1 << 16))

    serving = in_thread(serve)
    with pytest.raises(errors.HandshakeFailed, match="TLS: ") as caught:
        secgear.connect(near, POLICY, timeout=20)
    assert caught.value.code == "channel.handshake"
    assert serving() is None


@pytest.mark.parametrize(
    ("strong", "weak"), [(_HYBRID, _X25519), (_AES_256, _AES_128)], ids=["group", "suite"]
)
@pytest.mark.parametrize("side", ["C", "S"])
def test_hello_that_was_changed_on_its_way_opens_nothing(
    strong: bytes, weak: bytes, side: str
) -> None:
    """Both would have agreed to the weaker one, had it been offered."""
    changed: list[bool] = []

    def cut(speaker: str, data: bytes) -> list[bytes]:
        if speaker == side and not changed:
            changed.append(strong in data)
            return [data.replace(strong, weak)]
        return [data]

    both = Parameters(
        groups=("X25519MLKEM768", "x25519"),
        suites=("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"),
    )
    pair = Pair(parameters=both, cut=cut)
    pair.carry()
    assert changed == [True]
    assert State.OPEN not in (pair.client.state, pair.server.state)
    assert pair.errors
    assert {error.code for error in pair.errors.values()} == {"channel.handshake"}
    assert pair.events == {"C": [], "S": []}


def test_floor_holds_though_the_network_agrees_to_less() -> None:
    pair = Pair(parameters=Parameters(), servers=Parameters(groups=("x25519", "X25519MLKEM768")))
    pair.carry()
    assert not pair.errors
    assert pair.client.description["group"] == "X25519MLKEM768"


def test_evidence_of_yesterday_is_stale() -> None:
    """About this connection, but by a clock that the policy does not accept any more."""
    policy = load_policy(
        b'name = "fresh"\n[accept]\ntees = ["process"]\nmeasurements = ["'
        + (b"m" * 48).hex().encode()
        + b'"]\n[freshness]\nmax_age = "5m"\n[allow]\nsimulated = true\ntest_roots = true\n'
    )
    now = datetime.datetime.now(datetime.UTC)
    for late, good in ((0, True), (3600, False)):
        server = Server()
        given = {
            "anchors": VENDOR.anchors,
            "timeout": 20,
            "at": now + datetime.timedelta(seconds=late),
        }
        if good:
            secgear.connect(server.near, policy, **given).close()  # type: ignore[arg-type]
            continue
        with pytest.raises(errors.Untrusted) as caught:
            secgear.connect(server.near, policy, **given)  # type: ignore[arg-type]
        assert caught.value.code == "attestation.untrusted"
        assert "attestation.untrusted" in str(server.outcome())


@pytest.mark.parametrize(
    "stricter",
    [
        b'[accept]\ntees = ["process"]\nmeasurements = ["' + (b"n" * 48).hex().encode() + b'"]\n',
        b'[accept]\ntees = ["process"]\nmin_svn = 1000\nmeasurements = ["'
        + (b"m" * 48).hex().encode()
        + b'"]\n',
    ],
    ids=["another measurement", "a higher version"],
)
def test_policy_that_was_tightened_holds_for_the_next_session(stricter: bytes) -> None:
    """Nothing that an earlier session has found good is remembered."""
    secgear.connect(Server().near, POLICY, anchors=VENDOR.anchors, timeout=20).close()
    allow = b"[allow]\nsimulated = true\ntest_roots = true\n"
    tightened = load_policy(b'name = "tightened"\n' + stricter + allow)
    server = Server()
    with pytest.raises(errors.Untrusted):
        secgear.connect(server.near, tightened, anchors=VENDOR.anchors, timeout=20)
    assert "attestation.untrusted" in str(server.outcome())
    secgear.connect(Server().near, POLICY, anchors=VENDOR.anchors, timeout=20).close()


def test_root_that_has_expired_vouches_for_nobody() -> None:
    server = Server()
    with pytest.raises(errors.Untrusted):
        secgear.connect(
            server.near,
            POLICY,
            anchors=VENDOR.anchors,
            at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1000),
            timeout=20,
        )
    assert "attestation.untrusted" in str(server.outcome())
