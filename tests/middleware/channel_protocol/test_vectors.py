"""The vectors of docs/channel-protocol.md: we agree with them, and a reader that shares no code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secgear.errors import ChannelError
from secgear.middleware.attestation import envelope
from secgear.middleware.channel import binding, ratls
from secgear.middleware.channel.messages import ATTESTATION, Frames, Kind, decode, encode
from tests.middleware.channel_protocol import independent

PLACE = Path(__file__).parents[2] / "vectors" / "own" / "channel.json"
VECTORS: dict[str, Any] = json.loads(PLACE.read_text())
TRANSCRIPTS = VECTORS["transcripts"]
KEY_NAMES = {
    "C": ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0"),
    "S": ("SERVER_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"),
}


def named(vector: dict[str, Any]) -> str:
    return str(vector.get("name") or vector.get("kind") or vector["role"])


def hexes(vector: dict[str, Any], *names: str) -> Iterator[bytes]:
    return (bytes.fromhex(vector[name]) for name in names)


def test_vectors_are_all_there() -> None:
    counts = {name: len(entries) for name, entries in VECTORS.items() if isinstance(entries, list)}
    assert counts == {
        "bindings": 4,
        "messages": 12,
        "refused": 25,
        "certificates": 2,
        "transcripts": 4,
    }
    assert {independent.KINDS[int(kind)] for kind in Kind} == {*independent.MEMBERS} | {
        *independent.OPAQUE
    }


# --- the binding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["bindings"], ids=named)
def test_binding(vector: dict[str, Any]) -> None:
    names = ("client_nonce", "server_nonce", "exporter", "own_key", "peer_key")
    fields = dict(zip(names, hexes(vector, *names), strict=True))
    role = vector["role"].encode()
    assert binding.report_data(binding.Role(role), **fields).hex() == vector["report_data"]
    assert independent.report_data(role, *fields.values()).hex() == vector["report_data"]
    keys = [vector["server_spki"], vector["client_spki"]]
    if role == b"C":
        keys.reverse()
    for key, digest in zip(keys, (vector["own_key"], vector["peer_key"]), strict=True):
        spki = None if key is None else bytes.fromhex(key)
        assert binding.key_digest(spki) == independent.key_digest(spki) == bytes.fromhex(digest)


def test_every_field_of_the_binding_counts() -> None:
    fields = [bytes([number]) * 32 for number in range(5)]
    made = {independent.report_data(role, *fields) for role in (b"S", b"C")}
    for position in range(5):
        changed = [*fields[:position], bytes(32 * [9]), *fields[position + 1 :]]
        made.add(independent.report_data(b"S", *changed))
    assert len(made) == 7


# --- messages ------------------------------------------------------------------------------------


def ours(data: bytes) -> Any:
    frames = Frames(lambda _kind, _size: None)
    frames.feed([data])
    ((kind, payload),) = list(frames)
    return decode(kind, payload)


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=named)
def test_message(vector: dict[str, Any]) -> None:
    (data,) = hexes(vector, "frame")
    assert encode(ours(data)) == data
    (frame,) = independent.frames(data)
    assert frame.kind == vector["kind"]
    assert independent.message(frame.kind, **frame.message) == data
    for name, value in vector["message"].items():
        said = getattr(ours(data), name)
        said = list(said) if isinstance(said, tuple) else said
        assert said == frame.message[name]
        assert value == (said.hex() if isinstance(said, bytes) else said)


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=named)
def test_what_the_page_does_not_allow_is_refused(vector: dict[str, Any]) -> None:
    (data,) = hexes(vector, "frame")
    with pytest.raises(ChannelError):
        ours(data)
    with pytest.raises(independent.Malformed):
        [frame.message for frame in independent.frames(data)]


# --- RA-TLS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["certificates"], ids=named)
def test_certificate_with_evidence(vector: dict[str, Any]) -> None:
    (certificate,) = hexes(vector, "certificate")
    ours = ratls.read(certificate)
    assert ours.form is ratls.Form.INTEROPERABLE
    assert ours.spki.hex() == vector["spki"]
    assert ours.report_data.hex() == vector["report_data"]
    what, evidence, report_data = independent.ra_tls(certificate)
    assert what == vector["name"]
    assert report_data.hex() == vector["report_data"]
    assert independent.subject_public_key_info(certificate).hex() == vector["spki"]
    if what == "envelope":
        assert envelope.from_cbor(evidence) == ours.evidence
        assert independent.token_report_data(evidence) == report_data
    else:
        assert evidence == ours.evidence.data == b"a quote with " + report_data


# --- recorded connections ------------------------------------------------------------------------


class Replay:
    """A recorded connection as the page lets it be read."""

    def __init__(self, vector: dict[str, Any]) -> None:
        secrets = {name: bytes.fromhex(value) for name, value in vector["secrets"].items()}
        self.ends = {
            side: independent.Direction(vector["suite"], *(secrets[name] for name in names))
            for side, names in KEY_NAMES.items()
        }
        self.said: list[tuple[str, independent.Frame]] = []
        rest = {"C": b"", "S": b""}
        for piece in vector["flow"]:
            side = piece["from"]
            end = self.ends[side]
            known = len(end.plain)
            end.feed(bytes.fromhex(piece["data"]))
            rest[side] += end.plain[known:]
            while taken := independent.take_frame(rest[side]):
                frame, rest[side] = taken
                self.said.append((side, frame))
        assert rest == {"C": b"", "S": b""}
        self.exporter = independent.exporter(
            vector["suite"], secrets["EXPORTER_SECRET"], b"".join(self.nonces)
        )

    @property
    def nonces(self) -> tuple[bytes, bytes]:
        return self.said[0][1].message["nonce"], self.said[1][1].message["nonce"]

    def binding(self, side: str) -> bytes:
        other = "S" if side == "C" else "C"
        keys = [independent.key_digest(self.ends[end].spki) for end in (side, other)]
        return independent.report_data(side.encode(), *self.nonces, self.exporter, *keys)

    def evidence(self, side: str) -> bytes:
        for speaker, frame in self.said:
            if (speaker, frame.kind) == (side, "EVIDENCE"):
                return bytes(frame.message["evidence"])
        raise AssertionError("no evidence")


SHAPES = {
    "messages": ["C CHALLENGE", "S EVIDENCE", "C ACCEPT", "S ACCEPT"],
    "another suite": ["C CHALLENGE", "S EVIDENCE", "C ACCEPT", "S ACCEPT"],
    "mutual": ["C CHALLENGE", "S EVIDENCE", "C EVIDENCE", "S ACCEPT"],
    "refused": ["C CHALLENGE", "S EVIDENCE", "C REFUSE"],
}
AFTER = [
    "C OPEN",
    "S OPENED",
    *("C LAST", "C LAST"),
    *("C PART", "C PART", "C LAST"),
    "S LAST",
]


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=named)
def test_recorded_connection_reads_as_the_page_says(vector: dict[str, Any]) -> None:
    replay = Replay(vector)
    shape = [f"{side} {frame.kind}" for side, frame in replay.said]
    name = vector["name"]
    assert shape == SHAPES[name] + ([] if name == "refused" else AFTER)
    client_nonce, server_nonce = hexes(vector, "client_nonce", "server_nonce")
    assert replay.nonces == (client_nonce, server_nonce)
    assert replay.exporter.hex() == vector["exporter"]
    assert vector["version"] == "TLSv1.3"
    for _, frame in replay.said:
        if frame.kind not in independent.OPAQUE:
            assert independent.message(frame.kind, **frame.message)[4:] == frame.payload


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=named)
def test_recorded_evidence_is_about_its_connection(vector: dict[str, Any]) -> None:
    replay = Replay(vector)
    assert set(vector["report_data"]) == ({"S", "C"} if vector["name"] == "mutual" else {"S"})
    for side, wanted in vector["report_data"].items():
        assert replay.binding(side).hex() == wanted
        evidence = replay.evidence(side)
        assert independent.token_report_data(evidence).hex() == wanted
        assert envelope.to_cbor(envelope.from_cbor(evidence)) == evidence


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=named)
def test_keys_are_those_of_the_certificates(vector: dict[str, Any]) -> None:
    replay = Replay(vector)
    for side, name in (("S", "server_key"), ("C", "client_key")):
        spki = replay.ends[side].spki
        if vector[name] is None:
            assert spki is None
            continue
        key = ec.derive_private_key(int(vector[name], 16), ec.SECP256R1()).public_key()
        assert spki == key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=named)
def test_tls_says_what_the_page_allows(vector: dict[str, Any]) -> None:
    """Nothing is resumed or asked for later; the tickets (4) are OpenSSL's, and worth nothing."""
    replay = Replay(vector)
    kinds = {side: [kind for kind, _ in end.handshake] for side, end in replay.ends.items()}
    mutual = vector["name"] == "mutual"
    assert kinds["C"] == [1, *([11, 15] if mutual else []), 20]
    full = [2, 8, *([13] if mutual else []), 11, 15, 20]
    assert kinds["S"][: len(full)] == full
    assert set(kinds["S"][len(full) :]) <= {4}


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=named)
def test_goodbye_is_said(vector: dict[str, Any]) -> None:
    assert Replay(vector).ends["C"].closed


@pytest.mark.parametrize("vector", TRANSCRIPTS, ids=named)
def test_our_reader_agrees_on_the_attestation(vector: dict[str, Any]) -> None:
    for _, frame in Replay(vector).said:
        kind = Kind[frame.kind]
        if kind in ATTESTATION:
            message = decode(kind, frame.payload)
            assert encode(message)[4:] == frame.payload
