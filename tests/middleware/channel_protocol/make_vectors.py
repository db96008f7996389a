"""Write tests/vectors/own/channel.json.

Run it as a module. Keys of certificates and nonces are fixed; TLS draws its own ephemeral keys, so
every run records other connections, with the secrets of each in the words of a key log.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from secgear.base.tee import Evidence
from secgear.middleware.attestation import Policy, examine, load_policy
from secgear.middleware.channel.binding import Role, key_digest, report_data
from secgear.middleware.channel.core import Core, Established, Judge, Present, State
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import (
    Accept,
    Challenge,
    Failed,
    Kind,
    Open,
    Opened,
    Presented,
    Refuse,
    encode,
    header,
)
from secgear.middleware.channel.ratls import certify
from secgear.middleware.channel.tls import Parameters, context
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel_protocol import independent

PLACE = Path(__file__).parents[2] / "vectors" / "own" / "channel.json"
SERVER_KEY, CLIENT_KEY = 0x5EC6EA2 + 1, 0x5EC6EA2 + 2
CLIENT_NONCE, SERVER_NONCE = bytes(range(32)), bytes(range(32, 64))
POLICY = b"""
name = "vectors"
[accept]
tees = ["process"]
measurements = ["%s"]
[allow]
simulated = true
test_roots = true
"""
SENT = (  # by whom, what, whether it ends the message
    ("C", b"", True),
    ("C", b"a b a", True),
    ("C", b"in parts: ", False),
    ("C", bytes(range(256)) * 70, False),  # more than a record holds
    ("C", b"", True),
    ("S", b"answer", True),
)


def main() -> None:
    vectors = {
        "secgear-channel-vectors": 1,
        "bindings": list(bindings()),
        "messages": list(messages()),
        "refused": list(refused()),
        "certificates": list(certificates()),
        "transcripts": list(transcripts()),
    }
    PLACE.write_text(json.dumps(vectors, indent=1) + "\n")


def bindings() -> Iterator[dict[str, Any]]:
    keys = {name: identity(secret).spki for name, secret in (("S", SERVER_KEY), ("C", CLIENT_KEY))}
    for role in Role:
        for asked in (True, False):
            digests = {
                "S": key_digest(keys["S"]),
                "C": key_digest(keys["C"] if asked else None),
            }
            own = role.value.decode()
            given = {
                "client_nonce": CLIENT_NONCE,
                "server_nonce": SERVER_NONCE,
                "exporter": bytes(range(64, 96)),
                "own_key": digests[own],
                "peer_key": digests["S" if own == "C" else "C"],
            }
            yield {
                "role": own,
                "server_spki": keys["S"].hex(),
                "client_spki": keys["C"].hex() if asked else None,
                **{name: value.hex() for name, value in given.items()},
                "report_data": report_data(role, **given).hex(),
            }


def messages() -> Iterator[dict[str, Any]]:
    for message in (
        Challenge(1, CLIENT_NONCE),
        Presented(SERVER_NONCE, b"\xa0", demand=True, client_key=True),
        Presented(bytes(32), bytes(300), demand=False, client_key=False),
        Accept(),
        Refuse("attestation.untrusted", "the evidence was not trusted"),
        Refuse("channel.handshake"),
        Open(),
        Open("count"),
        Open(calls=True),
        Opened(),
        Opened(b"{}", ("count", "squares")),
        Failed("session.failed", "the enclave's handler failed"),
    ):
        made = encode(message)
        (frame,) = independent.frames(made)
        yield {"kind": frame.kind, "message": shown(frame.message), "frame": made.hex()}


def refused() -> Iterator[dict[str, str]]:
    good = independent.message("CHALLENGE", version=1, nonce=CLIENT_NONCE)
    content = independent.to_cbor({"version": 1, "nonce": CLIENT_NONCE})
    items = {name: independent.to_cbor(name) for name in ("version", "nonce")}
    nonce = independent.to_cbor(CLIENT_NONCE)
    cases: dict[str, bytes] = {
        "another version": independent.message("CHALLENGE", version=2, nonce=CLIENT_NONCE),
        "no version": independent.message("CHALLENGE", nonce=CLIENT_NONCE),
        "a short nonce": independent.message("CHALLENGE", version=1, nonce=CLIENT_NONCE[:31]),
        "a nonce of text": independent.message("CHALLENGE", version=1, nonce="n" * 32),
        "a version that is true": independent.message("CHALLENGE", version=True, nonce=bytes(32)),
        "a member too many": independent.message(
            "CHALLENGE", version=1, nonce=CLIENT_NONCE, more=0
        ),
        "members in another order": framed(
            "CHALLENGE", b"\xa2" + items["version"] + b"\x01" + items["nonce"] + nonce
        ),
        "a member twice": framed(
            "CHALLENGE", b"\xa3" + items["nonce"] + nonce + (items["version"] + b"\x01") * 2
        ),
        "a number longer than need be": framed(
            "CHALLENGE", b"\xa2" + items["nonce"] + nonce + items["version"] + b"\x18\x01"
        ),
        "a map of indefinite length": framed("CHALLENGE", b"\xbf" + content[1:] + b"\xff"),
        "a tag around it": framed("CHALLENGE", b"\xd9\xd9\xf7" + content),
        "bytes behind it": framed("CHALLENGE", content + b"\x00"),
        "cut off": framed("CHALLENGE", content[:-1]),
        "nothing": framed("ACCEPT", b""),
        "an accept that says something": independent.message("ACCEPT", code="x"),
        "a code that is too long": independent.message("REFUSE", code="c" * 65, text=""),
        "a text that is too long": independent.message("REFUSE", code="c", text="t" * 513),
        "a name that is too long": independent.message("OPEN", service="s" * 65, calls=False),
        "names that are not in order": independent.message(
            "OPENED", interface=b"", offered=["b", "a"]
        ),
        "a name twice": independent.message("OPENED", interface=b"", offered=["a", "a"]),
        "a handler for calls": independent.message("OPEN", service="s", calls=True),
        "names that are bytes": independent.message("OPENED", interface=b"", offered=[b"n"]),
        "an unknown kind": b"\x05\0\0\x01\xa0",
        "over the limit of its kind": b"\x01\0\x10\x01" + bytes(4097),
        "a part over the limit": header(Kind.PART, (256 << 10) + 1),
    }
    assert independent.frames(good)
    for name, frame in cases.items():
        yield {"name": name, "frame": frame.hex()}


def certificates() -> Iterator[dict[str, str]]:
    """Of a TEE that has a token for evidence, and of one that has Intel's quotes (this is none)."""
    vendor = SimulatedVendor()
    carried: list[bytes] = []

    def token(report_data: bytes) -> Evidence:
        carried.append(report_data)
        return vendor.evidence(report_data=report_data)

    def quote(report_data: bytes) -> Evidence:
        carried.append(report_data)
        return Evidence("intel.tdx.quote", b"a quote with " + report_data)

    for name, attester in (("envelope", token), ("quote", quote)):
        made = certify(identity(SERVER_KEY), attester, name="vectors")
        yield {
            "name": name,
            "certificate": made.certificate.public_bytes(Encoding.DER).hex(),
            "spki": made.spki.hex(),
            "report_data": carried[-1].hex(),
        }


def transcripts() -> Iterator[dict[str, Any]]:
    yield record("messages", Parameters())
    yield record("another suite", Parameters(suites=("TLS_CHACHA20_POLY1305_SHA256",)))
    yield record("mutual", Parameters(), mutual=True)
    yield record("refused", Parameters(), trusted=False)


def record(
    name: str, parameters: Parameters, *, mutual: bool = False, trusted: bool = True
) -> dict[str, Any]:
    """A connection from its first byte to its last, and all that a reader needs to follow it."""
    vendor = SimulatedVendor()
    policy = load_policy(POLICY % (b"m" * 48).hex().encode())
    server, client = identity(SERVER_KEY), identity(CLIENT_KEY) if mutual else None
    authorities = (client.certificate.public_bytes(Encoding.PEM),) if client is not None else ()
    log: list[str] = []
    context(parameters, server, authorities, server=True).set_keylog_callback(
        lambda _, line: log.append(line.decode())
    )
    ends = {
        "C": Core(Role.CLIENT, parameters, client),
        "S": Core(Role.SERVER, parameters, server, authorities=authorities, demand=mutual),
    }
    ends["C"]._nonce, ends["S"]._nonce = CLIENT_NONCE, SERVER_NONCE
    flow: list[tuple[str, bytes]] = []
    wanted: dict[str, bytes] = {}

    def carry() -> None:
        moved = True
        while moved:
            moved = False
            for side, other in ("CS", "SC"):
                if data := ends[side].outgoing():
                    flow.append((side, data))
                    moved = True
                    for event in ends[other].receive(data):
                        answer(other, event)

    def answer(side: str, event: object) -> None:
        while isinstance(event, Present | Judge):
            if isinstance(event, Present):
                wanted[side] = event.report_data
                ends[side].present(vendor.evidence(report_data=event.report_data))
                return
            if not trusted:
                ends[side].refuse("attestation.untrusted", "the evidence was not trusted")
                return
            event = ends[side].accept(judged(event, vendor, policy))
        assert event is None or trusted or isinstance(event, Established)

    try:
        carry()
    except Exception:
        assert not trusted
    if trusted:
        assert all(end.state is State.OPEN for end in ends.values())
        ends["C"].send_control(Open("count"))
        carry()
        ends["S"].send_control(Opened())
        carry()
        for side, part, last in SENT:
            for _ in ends[side].send(part, last=last):
                carry()
        ends["C"].close()
        carry()
        ends["S"].close()
        carry()
    secrets = {line.split()[0]: line.split()[2] for line in log}
    tls = ends["C"].description
    vector: dict[str, Any] = {
        "name": name,
        **tls,
        "server_key": f"{SERVER_KEY:064x}",
        "client_key": f"{CLIENT_KEY:064x}" if mutual else None,
        "client_nonce": CLIENT_NONCE.hex(),
        "server_nonce": SERVER_NONCE.hex(),
        "secrets": secrets,
        "report_data": {side: data.hex() for side, data in wanted.items()},
        "exporter": ends["C"]._tls.exporter(CLIENT_NONCE, SERVER_NONCE).hex(),
        "flow": [{"from": side, "data": data.hex()} for side, data in flow],
    }
    context.cache_clear()
    return vector


def judged(judge: Judge, vendor: SimulatedVendor, policy: Policy) -> Any:
    now = datetime.datetime.now(datetime.UTC)
    verdict = examine(
        judge.evidence, policy, at=now, report_data=judge.report_data, anchors=vendor.anchors
    )
    verdict.require()
    return verdict


def identity(secret: int) -> Identity:
    """A certificate that signs itself, for a key that everybody knows."""
    key = ec.derive_private_key(secret, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vectors")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    return Identity(key, certificate)


def framed(kind: str, payload: bytes) -> bytes:
    return independent.frame(kind, payload)


def shown(message: dict[str, Any]) -> dict[str, Any]:
    """For JSON: bytes in hexadecimal."""
    return {
        name: value.hex() if isinstance(value, bytes) else value for name, value in message.items()
    }


if __name__ == "__main__":
    main()
