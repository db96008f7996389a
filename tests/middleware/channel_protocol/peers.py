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
            except SSL.Error:
                self._flush()  # the alert that says why
                raise
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
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            raise Malformed("the connection ended")
        self._tls.bio_write(data)


Setting = Callable[[SSL.Context], object]


def _tls13(context: SSL.Context) -> None:
    context.set_min_proto_version(SSL.TLS1_3_VERSION)


class Client(Peer):
    """setting: of TLS, by default what the page says. floor: of groups; empty for none."""

    role = b"C"
    floor: tuple[str, ...] = ("X25519MLKEM768",)

    def __init__(self, sock: socket.socket, setting: Setting = _tls13) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        setting(context)
        super().__init__(sock, context)
        self._tls.set_connect_state()

    def connect(
        self, trusts: Callable[[bytes, bytes], bool], service: str = "", *, opening: bool = True
    ) -> None:
        """Up to a session; not `opening`, only to where it would be opened.

        trusts: whether evidence (an envelope in CBOR) is good and carries that report data.
        """
        self.shake()
        if self.floor and self._tls.get_group_name() not in self.floor:
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
        if not opening:
            return
        self.say("OPEN", service=service, calls=False)
        self.hear("OPENED")


class Server(Peer):
    """One connection. setting: of TLS, by default what the page says."""

    role = b"S"

    def __init__(
        self, sock: socket.socket, key: Any, certificate: Any, setting: Setting = _tls13
    ) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        setting(context)
        context.use_privatekey(key)
        context.use_certificate(certificate)
        super().__init__(sock, context)
        self._tls.set_accept_state()

    def accept(self, attest: Callable[[bytes], bytes], *, demand: bool = False) -> dict[str, Any]:
        """Take the client; returns what it wants.

        attest: evidence (an envelope in CBOR) that carries this report data. demand: ask for the
        client's and give up, for what it would be held against is not here.
        """
        self.shake()
        challenge = self.hear("CHALLENGE").message
        evidence = attest(self.binding(b"S", challenge["nonce"], self.nonce))
        seen = self._tls.get_peer_certificate() is not None
        self.say("EVIDENCE", nonce=self.nonce, evidence=evidence, demand=demand, client_key=seen)
        if demand:
            return self.hear("EVIDENCE").message
        self.hear("ACCEPT")
        self.say("ACCEPT")
        return self.hear("OPEN").message
