"""Applications that know nothing of us, with their keys in the enclave."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.services.crypto.running import PIN, Server, founded, prepare_token, serving

CLIENTS = sorted(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"))
ENGINES = sorted(Path("/usr/lib").glob("*/engines-3/pkcs11.so"))
KEY = f"pkcs11:token=demo;object={{}};type=private;pin-value={PIN}"

pytestmark = pytest.mark.skipif(not CLIENTS, reason="p11-kit-modules is not installed")


def needs(program: str) -> str:
    """Where the program is; skips, and says so, where it is not."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("crypto") / "module"
    founded(directory)
    with serving(directory) as running:
        prepare_token(running.socket, directory / "pins")
        yield running


@pytest.fixture(scope="module")
def pairs(server: Server) -> None:
    """An RSA and an EC key pair, made by OpenSC."""
    for kind, label, number in (("rsa:2048", "rsa", "01"), ("EC:prime256v1", "ec", "02")):
        said = tool(server, "--keypairgen", "--key-type", kind, "--label", label, "--id", number)
        assert "never extractable" in said


def run(server: Server, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env=server.environment | environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def tool(server: Server, *arguments: str, login: bool = True) -> str:
    command = [needs("pkcs11-tool"), "--module", str(CLIENTS[0]), "--slot", "0"]
    return run(server, *command, *(("--login", "--pin", PIN) if login else ()), *arguments)


@pytest.fixture
def openssl(server: Server, tmp_path: Path) -> dict[str, str]:
    """The environment in which OpenSSL finds our keys."""
    if not ENGINES:
        pytest.skip("libengine-pkcs11-openssl is not installed")
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        "openssl_conf = start\n[start]\nengines = all\n[all]\npkcs11 = ours\n"
        f"[ours]\nengine_id = pkcs11\nMODULE_PATH = {CLIENTS[0]}\ninit = 1\n"
    )
    return {"OPENSSL_CONF": str(configuration)}


def test_opensc_tests_the_token_and_finds_no_errors(server: Server, pairs: None) -> None:
    said = tool(server, "--test")
    assert "No errors" in said
    assert "RSA-PKCS: OK" in said
    assert "RSA-PKCS-OAEP" in said


def test_opensc_signs_and_verifies(server: Server, pairs: None, tmp_path: Path) -> None:
    data, signature = tmp_path / "data", tmp_path / "signature"
    data.write_bytes(b"to be signed")
    common = ("-m", "SHA256-RSA-PKCS", "--id", "01", "-i", str(data))
    tool(server, "--sign", *common, "-o", str(signature))
    said = tool(server, "--verify", *common, "--signature-file", str(signature))
    assert "Signature is valid" in said
    data.write_bytes(b"something else")
    said = tool(server, "--verify", *common, "--signature-file", str(signature))
    assert "Invalid signature" in said


def test_p11tool_sees_the_token_and_its_keys(server: Server, pairs: None) -> None:
    program = needs("p11tool")
    said = run(server, program, "--provider", str(CLIENTS[0]), "--list-tokens")
    assert "token=demo" in said
    command = (program, "--provider", str(CLIENTS[0]), "--login", "--list-all", "pkcs11:token=demo")
    listed = run(server, *command, GNUTLS_PIN=PIN)
    assert "object=rsa;type=private" in listed
    assert "object=ec;type=public" in listed


def test_ssh_reads_its_public_keys(server: Server, pairs: None) -> None:
    said = run(server, needs("ssh-keygen"), "-D", str(CLIENTS[0]))
    assert "ssh-rsa AAAA" in said
    assert "ecdsa-sha2-nistp256 AAAA" in said


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_openssl_signs(
    server: Server, pairs: None, openssl: dict[str, str], tmp_path: Path, key: str
) -> None:
    program = needs("openssl")
    data, signature, public = (tmp_path / name for name in ("data", "signature", "public"))
    data.write_bytes(os.urandom(1000))
    engine = ("-engine", "pkcs11", "-keyform", "engine")
    run(
        server, program, "dgst", "-sha256", *engine, "-sign", KEY.format(key),
        "-out", str(signature), str(data), **openssl,
    )  # fmt: skip
    run(
        server, program, "pkey", "-engine", "pkcs11", "-inform", "engine", "-in",
        KEY.format(key), "-pubout", "-out", str(public), **openssl,
    )  # fmt: skip
    # Verified by OpenSSL alone, without us.
    said = run(
        server, program, "dgst", "-sha256", "-verify", str(public),
        "-signature", str(signature), str(data),
    )  # fmt: skip
    assert "Verified OK" in said


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_nginx_serves_tls_with_its_key_in_the_enclave(
    server: Server, pairs: None, openssl: dict[str, str], tmp_path: Path, key: str
) -> None:
    nginx, program = needs("nginx"), needs("openssl")
    certificate = tmp_path / "certificate.pem"
    run(
        server, program, "req", "-new", "-x509", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-engine", "pkcs11", "-keyform", "engine",
        "-key", KEY.format(key), "-out", str(certificate), **openssl,
    )  # fmt: skip
    assert x509.load_pem_x509_certificate(certificate.read_bytes())
    place = tmp_path / "https.sock"
    with web_server(nginx, server, openssl, tmp_path, place, certificate, key):
        context = ssl.create_default_context(cafile=str(certificate))
        for _ in range(3):
            with (
                connected(place) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as tls,
            ):
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while part := tls.recv(4096):
                    answer += part
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"served from the enclave" in answer


@contextlib.contextmanager
def web_server(
    nginx: str,
    server: Server,
    openssl: dict[str, str],
    folder: Path,
    place: Path,
    certificate: Path,
    key: str,
) -> Iterator[None]:
    configuration = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(f"""
{user}
daemon off; master_process on; worker_processes 2;
pid {folder}/nginx.pid; error_log {folder}/error.log;
env P11_KIT_SERVER_ADDRESS; env OPENSSL_CONF;
ssl_engine pkcs11;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen unix:{place} ssl; server_name localhost;
    ssl_certificate {certificate};
    ssl_certificate_key "engine:pkcs11:{KEY.format(key)}";
    location / {{ return 200 "served from the enclave"; }}
  }}
}}
""")
    process = subprocess.Popen(
        [nginx, "-c", str(configuration), "-p", str(folder), "-e", str(folder / "error.log")],
        env=server.environment | openssl,
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail((folder / "error.log").read_text())
            with contextlib.suppress(OSError), connected(place):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)
        if process.stderr is not None:
            process.stderr.close()


@contextlib.contextmanager
def connected(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(60)
        raw.connect(str(place))
        yield raw
