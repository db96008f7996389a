"""Both sides of a channel over a socket, from docs/channel-protocol.md alone: TLS is OpenSSL's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Self

from OpenSSL import SSL, crypto

from tests.middleware.channel_protocol import independent
from tests.middleware.channel_protocol.independent import Frame, Malformed


class Peer:
    """What the two sides have in common."""

    role: bytes

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        sock.settimeout(20)
        self._socket = sock
        self._tls = SSL.Connection(context, None)
        self._plain = b""
        self.nonce = os.urandom(32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def shake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return

    def say(self, kind: str, **members: Any) -> None:
        self.write(independent.message(kind, **members))

    def write(self, frame: bytes) -> None:
        self._tls.sendall(frame)
        self._flush()

    def hear(self, *kinds: str) -> Frame:
        while (taken := independent.take_frame(self._plain)) is None:
            try:
                self._plain += self._tls.recv(1 << 14)
            except SSL.WantReadError:
                self._fill()
        frame, self._plain = taken
        if frame.kind not in kinds:
            raise Malformed(f"{frame.kind} instead of {kinds}: {frame.payload!r}")
        return frame

    def goodbye(self) -> None:
        self._tls.shutdown()
        self._flush()

    def binding(self, role: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
        """What the evidence of `role` must carry."""
        exporter = self._tls.export_keying_material(
            independent.EXPORTER, 32, client_nonce + server_nonce
        )
        keys = {
            self.role: independent.key_digest(self._spki(self._tls.get_certificate())),
            b"S" if self.role == b"C" else b"C": independent.key_digest(
                self._spki(self._tls.get_peer_certificate())
            ),
        }
        other = b"S" if role == b"C" else b"C"
        return independent.report_data(
            role, client_nonce, server_nonce, exporter, keys[role], keys[other]
        )

    @staticmethod
    def _spki(certificate: Any) -> bytes | None:
        if certificate is None:
            return None
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        return independent.subject_public_key_info(der)

    def _flush(self) -> None:
        while True:
            try:
                self._socket.sendall(self._tls.bio_read(1 << 16))
            except SSL.WantReadError:
                return

    def _fill(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise Malformed("the connection ended")
        self._tls.bio_write(data)


class Client(Peer):
    """trusts: whether evidence (an envelope in CBOR) is good and carries that report data."""

    role = b"C"

    def __init__(self, sock: socket.socket) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        super().__init__(sock, context)
        self._tls.set_connect_state()

    def connect(self, trusts: Callable[[bytes, bytes], bool], service: str = "") -> None:
        self.shake()
        if self._tls.get_group_name() != "X25519MLKEM768":
            raise Malformed("a key exchange below the floor")
        self.say("CHALLENGE", version=1, nonce=self.nonce)
        presented = self.hear("EVIDENCE").message
        if presented["demand"]:
            raise Malformed("this client has no evidence")
        wanted = self.binding(b"S", self.nonce, presented["nonce"])
        if not trusts(presented["evidence"], wanted):
            self.say("REFUSE", code="attestation.untrusted", text="")
            self.goodbye()
            raise Malformed("the evidence is not trusted")
        self.say("ACCEPT")
        self.hear("ACCEPT")
        self.say("OPEN", service=service, calls=False)
        self.hear("OPENED")


class Server(Peer):
    """One connection. attest: evidence (an envelope in CBOR) that carries this report data."""

    role = b"S"

    def __init__(self, sock: socket.socket, key: Any, certificate: Any) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.use_privatekey(key)
        context.use_certificate(certificate)
        super().__init__(sock, context)
        self._tls.set_accept_state()

    def accept(self, attest: Callable[[bytes], bytes]) -> dict[str, Any]:
        """Take the client; returns what it wants."""
        self.shake()
        challenge = self.hear("CHALLENGE").message
        evidence = attest(self.binding(b"S", challenge["nonce"], self.nonce))
        self.say("EVIDENCE", nonce=self.nonce, evidence=evidence, demand=False)
        self.hear("ACCEPT")
        self.say("ACCEPT")
        return self.hear("OPEN").message
