"""TLS 1.3 without I/O: bytes from the network in, bytes for the network out (pyOpenSSL).

Who the other side is, its certificate does not tell here: keys are fresh, certificates sign
themselves. TLS gives a connection to the holder of a key, and the exporter by which evidence is
bound to that connection.
"""

from __future__ import annotations

import functools
from typing import Any, Final, final

import msgspec
from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from secgear.errors import ChannelError, HandshakeFailed
from secgear.middleware.channel.binding import EXPORTER_LABEL, EXPORTER_SIZE
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import RECORD

HYBRID: Final = ("X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024")
"""Key exchanges that hold if either of their halves does; OpenSSL offers the first by itself."""
CLASSIC: Final = ("x25519", "secp256r1", "secp384r1", "secp521r1", "x448")
"""Key exchanges that a quantum computer would undo later, for peers that know no others."""
DEFAULT_SUITES: Final = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
SUITES: Final = (*DEFAULT_SUITES, "TLS_AES_128_GCM_SHA256", "TLS_SM4_GCM_SM3")

LIMIT: Final = 256 << 30
"""Bytes that one direction of a connection carries at most, `OVERHEAD` for each record among them.
Its key is used for so many records that keep AES-GCM's margin (RFC 8446, section 5.5: 2^24.5 full
records, some 388 GiB)."""
OVERHEAD: Final = 16 << 10
"""What a record counts besides its content, so that small ones wear the key no less."""
_WORN = "the connection has carried all that its key may; make a new one"
_CHUNK = 116 << 10  # holds `messages.PART` as records


class Parameters(msgspec.Struct, frozen=True):
    """What this side accepts of a TLS handshake; anything else ends it.

    groups: key exchanges, see `HYBRID` and `CLASSIC`. suites: cipher suites in order of
    preference, names of `SUITES`.
    """

    groups: tuple[str, ...] = HYBRID
    suites: tuple[str, ...] = DEFAULT_SUITES

    def __post_init__(self) -> None:
        known = {name.lower() for name in (*HYBRID, *CLASSIC)}
        for group in self.groups:
            if group.lower() not in known:
                raise ValueError(
                    f"the group {group!r} is unknown: {', '.join((*HYBRID, *CLASSIC))}"
                )
        for suite in self.suites:
            if suite not in SUITES:
                raise ValueError(f"the cipher suite {suite!r} is unknown: {', '.join(SUITES)}")
        if not self.groups or not self.suites:
            raise ValueError("no group or no cipher suite is left")


@functools.lru_cache(maxsize=32)
def context(
    parameters: Parameters,
    identity: Identity | None,
    authorities: tuple[bytes, ...],
    *,
    server: bool,
) -> SSL.Context:
    """An OpenSSL context, kept: making one costs more than a handshake's arithmetic.

    Raises ValueError for an authority that is no certificate in PEM.
    """
    made = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(SSL.TLS1_3_VERSION)
    made.set_max_proto_version(SSL.TLS1_3_VERSION)
    made.set_tls13_ciphersuites(":".join(parameters.suites).encode())
    _set_groups(made, parameters.groups)
    # No resumption: a ticket would carry an identity past the moment it was verified for.
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    made.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    # A server's chain proves nothing here, and that it holds its key OpenSSL checks nevertheless
    # (RFC 8446, section 4.4.3). No callback: cffi would want memory that is writable and
    # executable, which an enclave does not have.
    made.set_verify(SSL.VERIFY_NONE)
    if authorities:
        made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        store = made.get_cert_store()
        if store is None:
            raise ChannelError("OpenSSL has no store for certificates")
        for authority in authorities:
            store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(authority)))
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if identity is not None:
        made.use_privatekey(identity.key)
        made.use_certificate(identity.certificate)
    return made


def _set_groups(made: SSL.Context, groups: tuple[str, ...]) -> None:
    """Offer `groups`, the first one preferred: SSL_CTX_set1_groups_list(3) under its older name.

    pyOpenSSL has no method for it. What was agreed is checked after the handshake all the same.
    """
    names = ":".join(groups).encode()
    if Binding().lib.SSL_CTX_set1_curves_list(made._context, names) != 1:
        raise ChannelError(f"this OpenSSL does not know every key exchange of {', '.join(groups)}")


@final
class Tls:
    """One side of a TLS connection."""

    def __init__(
        self,
        parameters: Parameters,
        identity: Identity | None,
        authorities: tuple[bytes, ...] = (),
        *,
        server: bool,
    ) -> None:
        self._parameters = parameters
        self._connection = SSL.Connection(
            context(parameters, identity, authorities, server=server), None
        )
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._sent = 0
        self._received = 0
        self._failure = ""
        self.established = False
        self.finished = False  # the peer has said goodbye

    def feed(self, data: bytes) -> None:
        """Bytes from the network."""
        view = memoryview(data)
        while view:
            view = view[self._connection.bio_write(view[:_CHUNK]) :]

    def outgoing(self) -> bytes:
        """Bytes for the network."""
        pieces: list[bytes] = []
        try:
            while not pieces or len(pieces[-1]) == _CHUNK:
                pieces.append(self._connection.bio_read(_CHUNK))
        except SSL.WantReadError:
            pass  # it was just as much as fits into a chunk, or nothing
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def shake(self) -> bool:
        """Go on with the handshake; True once it is done.

        Raises HandshakeFailed, also for a group or suite that is not accepted here.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise HandshakeFailed(f"TLS: {_reason(error)}") from None
        version = self._connection.get_protocol_version_name()
        suite = self._connection.get_cipher_name()
        group = str(self._connection.get_group_name())
        if version != "TLSv1.3":
            raise HandshakeFailed(f"TLS: {version} is not accepted")
        if suite not in self._parameters.suites:
            raise HandshakeFailed(f"TLS: the cipher suite {suite} is not accepted")
        if group.lower() not in {name.lower() for name in self._parameters.groups}:
            accepted = ", ".join(self._parameters.groups)
            raise HandshakeFailed(
                f"TLS: the key exchange {group} is below the floor; accepted: {accepted}"
            )
        self.established = True
        return True

    def read(self) -> list[bytes]:
        """Plaintext of all records that have arrived; what ended them, `check` tells afterwards."""
        receive = self._connection.recv
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(receive(RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.finished = True
        except SSL.Error as error:
            self._failure = f"TLS: {_reason(error)}"
        self._received += sum(map(len, pieces)) + OVERHEAD * len(pieces)
        return pieces

    def check(self) -> None:
        """Raise ChannelError if a record came that is not the peer's next one, or too much did."""
        if self._failure:
            raise ChannelError(self._failure)
        if self._received > LIMIT:
            raise ChannelError(_WORN)

    def write(self, data: bytes | memoryview) -> None:
        """Plaintext for the peer."""
        self._sent += len(data) + OVERHEAD * -(-len(data) // RECORD)
        if self._sent > LIMIT:
            raise ChannelError(_WORN)
        view = memoryview(data)
        try:
            while view:
                view = view[self._connection.send(view) :]
        except SSL.Error as error:
            raise ChannelError(f"TLS: {_reason(error)}") from None

    def goodbye(self) -> None:
        """Tell the peer that no more will come."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            return  # a connection that has failed says nothing any more

    def exporter(self, client_nonce: bytes, server_nonce: bytes) -> bytes:
        """Bytes that only the two ends of this connection know."""
        return self._connection.export_keying_material(
            EXPORTER_LABEL, EXPORTER_SIZE, client_nonce + server_nonce
        )

    @property
    def peer_certificate(self) -> Any:
        """The peer's certificate (`cryptography.x509.Certificate`), or None.

        Raises HandshakeFailed for one that OpenSSL takes and `cryptography` does not.
        """
        try:
            return self._connection.get_peer_certificate(as_cryptography=True)
        except ValueError:
            raise HandshakeFailed("the peer's certificate: its encoding is not DER") from None

    @property
    def peer_spki(self) -> bytes | None:
        """The peer's key: DER SubjectPublicKeyInfo. Raises HandshakeFailed if it can't be read."""
        certificate = self.peer_certificate
        if certificate is None:
            return None
        try:
            key = certificate.public_key()
            encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            written = certificate.tbs_certificate_bytes
        except Exception as error:  # noqa: BLE001  (a hostile certificate: anything can happen)
            raise HandshakeFailed(f"the peer's certificate: {type(error).__name__}") from None
        if encoded not in written:  # another implementation would hash other bytes
            raise HandshakeFailed("the peer's certificate: its key is not in the usual encoding")
        return encoded

    @property
    def description(self) -> dict[str, str]:
        """What was agreed: version, suite, group."""
        return {
            "version": self._connection.get_protocol_version_name(),
            "suite": str(self._connection.get_cipher_name()),
            "group": str(self._connection.get_group_name()),
        }


def _reason(error: SSL.Error) -> str:
    """OpenSSL's own words for it; they hold no data of the connection."""
    if isinstance(error, SSL.SysCallError):
        return "the connection ended"
    queue = error.args[0] if error.args else ()
    words = [entry[2] for entry in queue if isinstance(entry, tuple) and len(entry) == 3]
    return "; ".join(word for word in words if word) or "failed"
