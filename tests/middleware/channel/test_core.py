"""The channel without I/O: a client and a server in one thread, and everything between them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import (
    ChannelClosed,
    ChannelError,
    ChannelTruncated,
    HandshakeFailed,
    Untrusted,
    VersionUnknown,
)
from secgear.middleware.channel.core import Established, Finished, Received, State
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import (
    ACCEPTED,
    HEADER_SIZE,
    PART,
    Challenge,
    Failed,
    Kind,
    Open,
    Opened,
    encode,
    header,
)
from secgear.middleware.channel.tls import CLASSIC, HYBRID, Parameters
from tests.middleware.channel.pairs import Pair, opened

CLIENT = Identity.fresh("client")
AUTHORITY = (CLIENT.certificate.public_bytes(Encoding.PEM),)


def received(pair: Pair, side: str) -> list[tuple[Kind, bytes]]:
    return [
        (event.kind, event.payload) for event in pair.events[side] if isinstance(event, Received)
    ]


def say(pair: Pair, side: str, frame: bytes) -> None:
    """What an honest core would not let anybody send."""
    pair.ends[side]._tls.write(frame)
    pair.carry()


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize("demand", [False, True])
@pytest.mark.parametrize("client", [None, CLIENT])
@pytest.mark.parametrize("asked", [False, True])
def test_honest_sides_open(client: Identity | None, asked: bool, demand: bool) -> None:
    """Also a client that would show a certificate, to a server that asks for none."""
    if asked and client is None:
        return  # refused by TLS, see below
    pair = opened(client=client, authorities=AUTHORITY if asked else (), demand=demand)
    for side in "CS":
        assert pair.ends[side].state is State.OPEN
        assert any(isinstance(event, Established) for event in pair.events[side])
    seen = pair.server.peer_key
    assert (seen is not None) is asked


def test_client_without_the_certificate_that_is_asked_for_is_refused() -> None:
    pair = Pair(authorities=AUTHORITY)
    pair.carry()
    assert isinstance(pair.errors["S"], HandshakeFailed)
    assert pair.client.state is not State.OPEN


def test_evidence_that_is_not_trusted_opens_nothing() -> None:
    pair = Pair(trusted=False)
    pair.carry()
    assert "attestation.untrusted" in str(pair.errors["S"])
    assert {pair.client.state, pair.server.state} == {State.CLOSED}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.booleans())
def test_how_bytes_are_cut_says_nothing(sizes: list[int], demand: bool) -> None:
    def cut(_: str, data: bytes) -> list[bytes]:
        pieces, at, turn = [], 0, 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            pieces.append(data[at : at + size])
            at, turn = at + size, turn + 1
        return pieces

    pair = opened(demand=demand, cut=cut)
    for _ in pair.client.send(b"m" * 5000):
        pair.carry()
    assert b"".join(payload for _, payload in received(pair, "S")) == b"m" * 5000


def test_nobody_hears_the_application_before_both_have_accepted() -> None:
    pair = Pair()
    with pytest.raises(HandshakeFailed, match="not now"):
        list(pair.client.send(b"too early"))
    pair.carry()
    assert received(pair, "S") == []


# --- frames that must not come now ---------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [kind for kind in Kind if kind not in (Kind.CHALLENGE, Kind.REFUSE)]
)
def test_frame_is_refused_by_its_header_alone(kind: Kind) -> None:
    """Nothing is kept for an EVIDENCE of 4 MiB that a server did not ask for."""
    pair = Pair()
    frames = pair.server._frames
    pair.server.state = State.CHALLENGE
    frames.feed([header(kind, 1000)])
    with pytest.raises(HandshakeFailed, match=kind.name):
        list(frames)


@pytest.mark.parametrize(
    ("side", "frame"),
    [
        ("C", encode(Opened())),
        ("C", encode(Failed("x"))),
        ("C", ACCEPTED),
        ("C", encode(Challenge(1, bytes(32)))),
        ("C", header(Kind.PART, 0)),
        ("S", encode(Open())),
        ("S", ACCEPTED),
        ("S", header(Kind.EVIDENCE, 4)),
        ("S", header(Kind.PART, 0)),
        ("S", b"\x7f\0\0\0"),
        ("S", header(Kind.LAST, (256 << 10) + 1)),
    ],
)
def test_open_channel_ends_with_a_frame_that_is_not_the_peers_to_send(
    side: str, frame: bytes
) -> None:
    pair = opened()
    say(pair, side, frame)
    other = "S" if side == "C" else "C"
    assert type(pair.errors[other]) is ChannelError
    assert pair.ends[other].state is State.CLOSED


def test_frame_that_was_begun_before_the_end_is_none() -> None:
    pair = opened()
    pair.client._tls.write(header(Kind.LAST, 4))
    pair.carry()
    pair.server.abandon()
    pair.client._tls.write(b"late")
    pair.carry()
    assert "after the end" in str(pair.errors["S"])
    assert received(pair, "S") == []


# --- the peer is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code", "kind"),
    [
        (encode(Challenge(2, bytes(32))), "channel.version", VersionUnknown),
        (header(Kind.EVIDENCE, 9), "channel.handshake", HandshakeFailed),
        (header(Kind.CHALLENGE, 2) + b"\xa0\xa0", "channel.handshake", HandshakeFailed),
        (header(Kind.OPEN, 2), "channel.handshake", HandshakeFailed),
        (b"\x7f\0\0\0", "channel.handshake", HandshakeFailed),
    ],
)
def test_client_is_told_what_was_wrong(frame: bytes, code: str, kind: type[Exception]) -> None:
    pair = Pair()

    def lie() -> None:
        pair.client._tls.write(frame)
        pair.client.state = State.EVIDENCE

    pair.client._begin = lie  # type: ignore[method-assign]
    pair.carry()
    assert type(pair.errors["S"]) is kind
    assert code in str(pair.errors["C"])
    assert "refused" in str(pair.errors["C"])


def test_who_has_been_refused_does_not_refuse_back() -> None:
    pair = Pair(trusted=False)
    pair.carry()
    assert "refused" in str(pair.errors["S"])
    assert "C" not in pair.errors


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["C", "S"])
def test_goodbye_is_answered(first: str) -> None:
    pair = opened()
    other = "S" if first == "C" else "C"
    pair.ends[first].close()
    pair.carry()
    assert isinstance(pair.events[other][-1], Finished)
    assert pair.ends[other].state is State.CLOSED
    assert pair.ends[first]._tls.finished or pair.ends[first].state is State.CLOSED
    with pytest.raises(ChannelClosed):
        list(pair.ends[other].send(b"after the end"))


def test_end_without_goodbye_is_truncation() -> None:
    pair = opened()
    pair.hand("S", b"")
    assert isinstance(pair.errors["S"], ChannelTruncated)


def test_goodbye_in_the_middle_of_a_frame_is_truncation() -> None:
    pair = opened()
    pair.client._tls.write(header(Kind.LAST, 10) + b"half")
    pair.client.close()
    pair.carry()
    assert isinstance(pair.errors["S"], ChannelTruncated)


def test_network_that_ends_during_the_handshake_is_named() -> None:
    pair = Pair()
    pair.hand("S", pair.client.outgoing())
    pair.hand("S", b"")
    assert "ended during the handshake" in str(pair.errors["S"])


# --- messages ------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=12))
def test_messages_arrive_as_they_were_cut_up(parts: list[tuple[bytes, bool]]) -> None:
    pair = opened()
    expected, message = [], b""
    for part, last in [*parts, (b"", True)]:
        for _ in pair.client.send(part, last=last):
            pair.carry()
        message += part
        if last:
            expected.append(message)
            message = b""
    got, message = [], b""
    for kind, payload in received(pair, "S"):
        assert payload or kind is Kind.LAST  # nothing is no part
        message += payload
        if kind is Kind.LAST:
            got.append(message)
            message = b""
    assert got == expected


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_sizes_around_a_frame(size: int) -> None:
    pair = opened()
    for _ in pair.server.send(bytes(size)):
        pair.carry()
    frames = received(pair, "C")
    assert sum(len(payload) for _, payload in frames) == size
    assert all(len(payload) <= PART for _, payload in frames)
    assert [kind for kind, _ in frames][-1] is Kind.LAST


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=2000), st.sampled_from("CS"))
def test_any_bytes_inside_an_open_channel_end_it_or_are_frames(data: bytes, side: str) -> None:
    pair = opened()
    say(pair, side, data)
    other = "S" if side == "C" else "C"
    error = pair.errors.get(other)
    assert error is None or type(error) is ChannelError
    assert len(pair.server.outgoing()) == 0


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 3000), st.sampled_from("CS"))
def test_any_bytes_on_the_network_end_the_handshake_or_wait(
    data: bytes, at: int, side: str
) -> None:
    def cut(speaker: str, said: bytes) -> list[bytes]:
        before = len(pair.said[speaker]) - len(said)
        place = at - before
        if speaker == side and 0 <= place < len(said):
            return [said[:place] + data + said[place:]]
        return [said]

    pair = Pair(cut=cut)
    pair.carry()
    for error in pair.errors.values():
        assert isinstance(error, ChannelError | HandshakeFailed)
    assert not received(pair, "S")
    assert not received(pair, "C")


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [*HYBRID, *CLASSIC])
def test_every_key_exchange_can_be_chosen(group: str) -> None:
    pair = opened(parameters=Parameters(groups=(group,)))
    assert pair.client.description["group"].lower() == group.lower()


def test_the_first_of_the_clients_groups_is_taken() -> None:
    pair = opened(parameters=Parameters(groups=("x25519",)), servers=Parameters(groups=CLASSIC))
    assert pair.server.description["group"].lower() == "x25519"


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (Parameters(), Parameters(groups=("x25519",))),
        (Parameters(groups=("x25519",)), Parameters()),
        (Parameters(groups=("SecP256r1MLKEM768",)), Parameters(groups=("X25519MLKEM768",))),
        (Parameters(suites=("TLS_SM4_GCM_SM3",)), Parameters()),
    ],
)
def test_sides_that_have_nothing_in_common_do_not_meet(
    client: Parameters, server: Parameters
) -> None:
    pair = Pair(parameters=client, servers=server)
    pair.carry()
    assert isinstance(pair.errors["S"], HandshakeFailed)
    assert pair.client.state is not State.OPEN
    assert pair.events == {"C": [], "S": []}


def test_sm4_can_be_chosen() -> None:
    pair = opened(parameters=Parameters(suites=("TLS_SM4_GCM_SM3",)))
    assert pair.client.description["suite"] == "TLS_SM4_GCM_SM3"
    for _ in pair.client.send(b"by SM4"):
        pair.carry()
    assert received(pair, "S") == [(Kind.LAST, b"by SM4")]


@pytest.mark.parametrize(
    "options", [{"groups": ("P-192",)}, {"groups": ()}, {"suites": ("NULL",)}, {"suites": ()}]
)
def test_parameters_that_are_none_are_refused(options: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"unknown|no group"):
        Parameters(**options)


# --- who drives it -------------------------------------------------------------------------------


def test_driver_is_told_what_is_not_its_turn() -> None:
    pair = opened()
    evidence = pair.vendor.evidence(report_data=bytes(64))
    with pytest.raises(HandshakeFailed, match="not now"):
        pair.server.present(evidence)
    pair.client.close()
    for attempt in (
        lambda: list(pair.client.send(b"x")),
        lambda: pair.client.send_control(Open()),
        lambda: pair.client.send_calls(b"x"),
        lambda: pair.client.present(evidence),
    ):
        with pytest.raises(ChannelClosed):
            attempt()
    pair.client.close()
    pair.client.abandon()
    pair.client.refuse("x", "y")


def test_untrusted_is_an_error_of_its_own() -> None:
    assert not issubclass(Untrusted, ChannelError)
    assert HEADER_SIZE == 4
