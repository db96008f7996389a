"""A session of TLS can't be taken up again: it would carry trust past what it was given for."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.tls import Parameters, context


def _reused(server: SSL.Context, client: SSL.Context) -> bool:
    """Whether a second connection resumes the session of a first."""
    session: Any = None
    kept = []  # freeing a connection that was not closed makes OpenSSL forget its session
    for _ in range(2):
        connection, other = SSL.Connection(client, None), SSL.Connection(server, None)
        connection.set_connect_state()
        other.set_accept_state()
        if session is not None:
            connection.set_session(session)
        for _ in range(4):
            for one, two in ((connection, other), (other, connection)):
                _step(one)
                try:
                    two.bio_write(one.bio_read(1 << 16))
                except SSL.WantReadError:
                    continue
        session = connection.get_session()
        kept.append((connection, other))
    return bool(SSL._lib.SSL_session_reused(kept[-1][0]._ssl))


def _step(connection: Any) -> None:
    try:
        connection.do_handshake()
        connection.recv(1)
    except SSL.WantReadError:
        return


def test_a_server_resumes_nothing() -> None:
    identity = Identity.fresh()
    ours = [context(Parameters(), identity, (), server=True)]
    ours.append(context(Parameters(), None, (), server=False))
    assert not _reused(*ours)

    # With OpenSSL as it is without our settings the same attempt works.
    plain = SSL.Context(SSL.TLS_SERVER_METHOD)
    plain.use_privatekey(identity.key)
    plain.use_certificate(identity.certificate)
    assert _reused(plain, SSL.Context(SSL.TLS_CLIENT_METHOD))
