"""How the service is reached and run: TLS, settings, key files, its own description."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import select
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from uvicorn.server import ServerState

from secgear.errors import CollateralError, KeyFileError, ServiceError
from secgear.middleware.attestation.results import ResultKey
from secgear.middleware.attestation.service import serving
from secgear.middleware.attestation.service.client import VerificationClient
from secgear.middleware.attestation.service.keyfile import open_keys, rotate
from secgear.middleware.attestation.service.serving import serve
from secgear.middleware.attestation.service.settings import AnchorFile, Rate, Settings

Make = Callable[..., Settings]


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """A certificate for this machine, which nobody else trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    files["tls_certificate"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files["tls_key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def test_over_tls_only_a_trusted_certificate_will_do(start: Any, tls: dict[str, Path]) -> None:
    service = start(**tls)
    port = service.client.base_url.port
    with VerificationClient(f"https://localhost:{port}", trust=tls["tls_certificate"]) as client:
        attested = client.attest(
            lambda data: service.vendor.evidence(report_data=data),
            policy="laboratory",
            audience="me",
        )
    assert attested.verdict["trusted"] is True
    with (
        VerificationClient(f"https://localhost:{port}") as stranger,
        pytest.raises(ServiceError, match="certificate"),
    ):
        stranger.keys()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_not_spoken(start: Any, tls: dict[str, Path]) -> None:
    service = start(**tls)
    context = ssl.create_default_context(cafile=tls["tls_certificate"])
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((httpx.ConnectError, ssl.SSLError)):
        httpx.get(f"https://localhost:{service.client.base_url.port}/healthz", verify=context)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": ""}, "issuer"),
        ({"max_nonces": 0}, "limits"),
        ({"verifications": 0}, "limits"),
        ({"tls_key": Path("k")}, "both"),
        ({"tls_certificate": Path("c")}, "both"),
        ({"max_connections": 0}, "limits"),
        ({"nonce_lifetime": datetime.timedelta(0)}, "lifetimes"),
        ({"result_lifetime": datetime.timedelta(seconds=-1)}, "lifetimes"),
        ({"body_timeout": 0.0}, "timeouts"),
        ({"body_timeout": float("nan")}, "timeouts"),
        ({"port": 65_536}, "no port"),
        ({"port": -1}, "no port"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings_in: Make, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ServiceError, match=reason):
        settings_in(**changes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_beyond_this_machine_only_with_tls(settings_in: Make, host: str) -> None:
    with pytest.raises(ServiceError, match="needs TLS"):
        settings_in(host=host).check_listening()
    settings_in(host=host, insecure=True).check_listening()
    settings_in(host="127.0.0.1").check_listening()


@pytest.mark.parametrize("spoilt", ["missing", "rubbish", "another's", "encrypted"])
def test_tls_that_can_not_work_is_one_clear_error_before_listening(
    settings_in: Make, tls: dict[str, Path], spoilt: str
) -> None:
    settings_in(**tls).check_listening()
    path = tls["tls_key"]
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    if spoilt == "missing":
        path.unlink()
    elif spoilt == "rubbish":
        path.write_text("rubbish")
    elif spoilt == "another's":
        other = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    else:  # must not ask on a terminal
        same = serialization.load_pem_private_key(path.read_bytes(), None)
        hidden = serialization.BestAvailableEncryption(b"passphrase")
        path.write_bytes(same.private_bytes(pem, pkcs8, hidden))
    with pytest.raises(ServiceError, match="no certificate and its key") as caught:
        serve(settings_in(**tls))
    assert "tls.key" in str(caught.value)


def test_a_port_that_is_taken_is_one_clear_error(service: Any, settings_in: Make) -> None:
    port = service.client.base_url.port
    with pytest.raises(ServiceError, match=f"can't listen on 127.0.0.1 port {port}"):
        serve(settings_in(port=port))


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nX: ", b"GET /healthz HTTP/1.1\r\n"]
)
def test_connections_on_which_no_request_comes_are_closed(
    service: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(serving, "_WATCH", 0.2)
    where = ("127.0.0.1", service.client.base_url.port)
    with socket.create_connection(where, timeout=5) as connection:
        connection.sendall(sent)
        assert connection.recv(1) == b""  # TimeoutError if it stayed open


def test_a_client_that_does_not_read_its_answers_is_cut_off(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_WATCH", 0.2)
    where = ("127.0.0.1", service.client.base_url.port)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(where)
        ended = select.poll()
        ended.register(connection, 0)  # errors and the end are always told
        connection.setblocking(False)
        for _ in range(2000):  # until nothing more goes in: then requests wait unread over there
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert ended.poll(20_000), "the connection stayed open"


def _connected(service: Any) -> tuple[serving._Protocol, Mock]:
    """A connection as the server has it, over a transport that only notes what is asked of it."""
    transport = Mock(spec=asyncio.Transport, **{"is_closing.return_value": False})
    transport.get_extra_info.return_value = None
    config = uvicorn.Config(service.app, log_config=None)
    config.load()
    connection = serving._Protocol(config, ServerState(), {})
    connection.connection_made(transport)
    return connection, transport


@pytest.mark.parametrize("reads", [True, False])
def test_who_reads_on_may_take_longer_than_the_watch(service: Any, reads: bool) -> None:
    """Of an answer that fills the buffer again and again, some has to get through meanwhile."""

    async def watched() -> bool:
        connection, transport = _connected(service)
        connection.pause_writing()
        for _ in range(4):
            if reads:
                connection.resume_writing()
                connection.pause_writing()
            connection._look()
        connection.connection_lost(None)
        return bool(transport.abort.called)

    assert asyncio.run(watched()) is not reads


def test_a_connection_that_is_closed_does_not_wait_for_the_last_of_its_answer(
    service: Any,
) -> None:
    async def watched() -> tuple[bool, bool]:
        connection, transport = _connected(service)
        connection._look()
        connection._look()
        closed = bool(transport.close.called) and not transport.abort.called
        transport.is_closing.return_value = True  # with something in its buffer that nobody reads
        connection._look()
        connection.connection_lost(None)
        return closed, bool(transport.abort.called)

    assert asyncio.run(watched()) == (True, True)


def test_a_request_that_takes_its_time_keeps_its_connection(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_WATCH", 0.1)
    service = start()

    def slowly() -> Any:
        for _ in range(8):
            yield b" "
            time.sleep(0.1)
        yield json.dumps(service.request(nonce)).encode()

    nonce = service.nonce()
    assert service.client.post("/v1/attest", content=slowly()).status_code == 200


def test_only_a_trusted_proxy_says_who_asks(start: Any) -> None:
    limit = {"challenge_rate": Rate(0.001, 1)}
    codes: dict[tuple[str, ...], list[int]] = {}
    for proxies in ((), ("192.0.2.7",), ("127.0.0.1",)):
        service = start(f"a{len(codes)}", trusted_proxies=proxies, **limit)
        codes[proxies] = [
            service.client.post(
                "/v1/challenge", headers={"X-Forwarded-For": f"198.51.100.{number}"}
            ).status_code
            for number in range(3)
        ]
    assert codes == {
        (): [200, 429, 429],
        ("192.0.2.7",): [200, 429, 429],
        ("127.0.0.1",): [200, 200, 200],
    }


def test_roots_that_can_not_be_read_stop_the_start(settings_in: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    for anchor, kind in (
        (AnchorFile("simulated", tmp_path / "missing.pem"), ServiceError),
        (AnchorFile("simulated", tmp_path / "bad.pem"), CollateralError),
        (AnchorFile("acme", tmp_path / "bad.pem"), CollateralError),
    ):
        with pytest.raises(kind):
            settings_in(extra_anchors=(anchor,)).anchors()


def test_a_key_file_is_made_once_and_rotated(tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    file = open_keys(path)
    (first,) = file.keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_keys(path).keys[0].kid == first.kid
    new = rotate(path)
    assert [key.kid for key in file.keys] == [new.kid, first.kid]  # a running instance sees it
    for _ in range(20):
        newest = rotate(path)
    assert file.keys[0].kid == newest.kid
    assert len(file.keys) <= 16


def test_of_racing_rotations_no_key_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    first = open_keys(path).keys[0]
    with ThreadPoolExecutor(8) as racers:
        made = list(racers.map(lambda _: rotate(path), range(8)))
    kids = [key.kid for key in open_keys(path).keys]
    assert sorted(kids) == sorted(key.kid for key in [*made, first])
    assert kids[-1] == first.kid
    assert list(tmp_path.iterdir()) == [path]


def test_racing_instances_make_one_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.pem"
    with ThreadPoolExecutor(8) as racers:
        kids = racers.map(lambda _: open_keys(path).keys[0].kid, range(8))
    assert len(set(kids)) == 1


def test_key_files_that_are_not_private_or_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    open_keys(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others may access"):
        open_keys(path)
    path.chmod(0o600)
    for content in (b"", b"rubbish", path.read_bytes()[:-10]):
        path.write_bytes(content)
        with pytest.raises(KeyFileError):
            open_keys(path)


def test_keys_show_nothing_of_themselves(tmp_path: Path) -> None:
    key: ResultKey = open_keys(tmp_path / "keys.pem").keys[0]
    secret = format(key.private.private_numbers().private_value, "x")
    for text in (repr(key), str(key), repr(open_keys(tmp_path / "keys.pem"))):
        assert secret not in text.lower()
        assert "PRIVATE" not in text


def test_settings_show_no_password(settings_in: Make) -> None:
    settings = settings_in(database="postgresql://user:hunter2@db.example/secgear")
    assert "hunter2" in settings.database_url
    assert "hunter2" not in f"{settings} {settings!r}"


def test_a_full_queue_is_busy_and_passes(start: Any) -> None:
    """One thread, one place to wait: of many at once some are told to come back, none is lost."""
    service = start(verifications=1, queue=1, max_connections=200)
    bodies = [service.request(service.nonce()) for _ in range(40)]
    with ThreadPoolExecutor(40) as racers:
        answers = list(
            racers.map(lambda body: service.client.post("/v1/attest", json=body), bodies)
        )
    codes = {answer.status_code for answer in answers}
    assert codes <= {200, 503}
    assert codes >= {200, 503}
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert (busy.json()["code"], busy.headers["retry-after"]) == ("service.busy", "1")
    refused = answers.index(busy)
    assert service.client.post("/v1/attest", json=bodies[refused]).status_code == 200


def test_failed_authentication_is_slowed_down(start: Any) -> None:
    service = start(failure_rate=Rate(0.01, 5))
    codes = [
        service.client.get("/v1/policies", headers={"Authorization": "Bearer x"}).status_code
        for _ in range(8)
    ]
    assert codes == [401] * 5 + [429] * 3
    assert service.get("policies").status_code == 429  # the same address
