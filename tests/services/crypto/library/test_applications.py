"""Applications that know nothing of us, with the library: over the socket, and from afar."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from secgear.base.image import Image
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.services.crypto.host import Home
from secgear.services.crypto.library.build import build
from tests.services.crypto.running import PIN, Server, founded, prepare_token, serving
from tests.services.crypto.test_applications import ENGINES, KEY, connected, needs, web_server


class Place:
    """A running module, the library made for it, and the command that leads there from afar."""

    def __init__(self, server: Server, folder: Path, address: str) -> None:
        self.server = server
        self.folder = folder
        self.library = folder / "libsecgear-pkcs11.so"
        measurement = Image.load(Home(folder / "module").image).measurement.hex()
        policy = folder / "policy.toml"
        policy.write_text(
            'name = "owner"\n[accept]\ntees = ["process"]\n'
            f'measurements = ["{measurement}"]\n[allow]\nsimulated = true\ntest_roots = true\n'
        )
        root = folder / "root.pem"
        root.write_bytes(SimulatedPlatform(home()).root.public_bytes(Encoding.PEM))
        self.command = (
            f"|secgear crypto connect {address} --policy {policy} --root simulated={root}"
        )

    def run(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def tool(self, *arguments: str, **environment: str) -> str:
        command = (needs("pkcs11-tool"), "--module", str(self.library), "--slot", "0")
        return self.run(*command, "--login", "--pin", PIN, *arguments, **environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("crypto")
    founded(folder / "module")
    with serving(folder / "module", "--attested", "tcp://127.0.0.1:0", ready=2) as server:
        prepare_token(server.socket, folder / "pins")
        match = re.search(r"attested channels at (\S+)", "\n".join(server.said))
        assert match is not None
        made = Place(server, folder, match[1])
        build(made.library, address=f"unix:{server.socket}")
        for kind, label, number in (
            ("rsa:2048", "rsa", "01"), ("EC:prime256v1", "ec", "02"),
        ):  # fmt: skip
            pair = ("--keypairgen", "--key-type", kind, "--label", label, "--id", number)
            assert "never extractable" in made.tool(*pair)
        yield made


@pytest.fixture
def openssl(place: Place, tmp_path: Path) -> dict[str, str]:
    """The environment in which OpenSSL finds the library."""
    if not ENGINES:
        pytest.skip("libengine-pkcs11-openssl is not installed")
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        "openssl_conf = start\n[start]\nengines = all\n[all]\npkcs11 = ours\n"
        f"[ours]\nengine_id = pkcs11\nMODULE_PATH = {place.library}\ninit = 1\n"
    )
    return {"OPENSSL_CONF": str(configuration)}


def test_opensc_tests_the_token_and_finds_no_errors(place: Place) -> None:
    said = place.tool("--test")
    assert "No errors" in said
    assert "RSA-PKCS: OK" in said


def test_opensc_lists_what_p11_kit_drops(place: Place) -> None:
    said = place.tool("--list-mechanisms")
    for name in ("AES-GCM", "EDDSA", "SHA3-256", "mechtype-0x80534725", "mechtype-0x80534732"):
        assert name in said, name
    assert "Cryptoki version 3.2" in place.tool("--show-info")


def test_opensc_works_with_what_p11_kit_drops(place: Place, tmp_path: Path) -> None:
    """AES in CBC mode, and keys on Ed25519."""
    place.tool("--keygen", "--key-type", "AES:32", "--label", "sealing", "--id", "11")
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_bytes(b"not of any block's size")
    common = ("-m", "AES-CBC-PAD", "--id", "11", "--iv", "00" * 16)
    place.tool("--encrypt", *common, "-i", str(plain), "-o", str(sealed))
    assert len(sealed.read_bytes()) == 32
    place.tool("--decrypt", *common, "-i", str(sealed), "-o", str(opened))
    assert opened.read_bytes() == plain.read_bytes()
    place.tool("--keypairgen", "--key-type", "EC:edwards25519", "--label", "ed", "--id", "12")
    place.tool("--sign", "-m", "EDDSA", "--id", "12", "-i", str(plain), "-o", str(sealed))
    assert len(sealed.read_bytes()) == 64
    # libp11 0.4.12, behind OpenSSL's engine, lists no key of a token that has one of these.
    for kind in ("privkey", "pubkey"):
        place.tool("--delete-object", "--type", kind, "--id", "12")


def test_opensc_forks_and_initialises_in_the_child(place: Place) -> None:
    said = place.run(needs("pkcs11-tool"), "--module", str(place.library), "--test-fork")
    assert "Calling C_Initialize in forked child process" in said
    assert "C_Initialize in child failed" not in said


def test_p11tool_sees_the_token_and_its_keys(place: Place) -> None:
    command = (needs("p11tool"), "--provider", str(place.library), "--login", "--list-all")
    listed = place.run(*command, "pkcs11:token=demo", GNUTLS_PIN=PIN)
    assert "object=rsa;type=private" in listed
    assert "object=ec;type=public" in listed


def test_ssh_reads_its_public_keys(place: Place) -> None:
    said = place.run(needs("ssh-keygen"), "-D", str(place.library))
    assert "ssh-rsa AAAA" in said
    assert "ecdsa-sha2-nistp256 AAAA" in said


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_openssl_signs(place: Place, openssl: dict[str, str], tmp_path: Path, key: str) -> None:
    program = needs("openssl")
    data, signature, public = (tmp_path / name for name in ("data", "signature", "public"))
    data.write_bytes(os.urandom(1000))
    engine = ("-engine", "pkcs11", "-keyform", "engine", "-sign", KEY.format(key))
    place.run(program, "dgst", "-sha256", *engine, "-out", str(signature), str(data), **openssl)
    place.run(
        program, "pkey", "-engine", "pkcs11", "-inform", "engine", "-in", KEY.format(key),
        "-pubout", "-out", str(public), **openssl,
    )  # fmt: skip
    said = place.run(
        program, "dgst", "-sha256", "-verify", str(public), "-signature", str(signature), str(data)
    )
    assert "Verified OK" in said


def test_nginx_serves_tls_from_workers_that_were_forked(
    place: Place, openssl: dict[str, str], tmp_path: Path
) -> None:
    """The master initialises the library; its workers are children and do it again."""
    nginx, program = needs("nginx"), needs("openssl")
    certificate = tmp_path / "certificate.pem"
    place.run(
        program, "req", "-new", "-x509", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost", "-engine", "pkcs11", "-keyform", "engine", "-key",
        KEY.format("ec"), "-out", str(certificate), **openssl,
    )  # fmt: skip
    socket = tmp_path / "https.sock"
    with web_server(nginx, place.server, openssl, tmp_path, socket, certificate, "ec"):
        context = ssl.create_default_context(cafile=str(certificate))
        for _ in range(4):
            with (
                connected(socket) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as tls,
            ):
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert tls.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_module_on_another_machine_through_a_channel_that_ends_in_the_enclave(
    place: Place, built: Path, tmp_path: Path
) -> None:
    """The library that was made for no module in particular, told by the environment."""
    data, signature = tmp_path / "data", tmp_path / "signature"
    data.write_bytes(b"signed from afar")
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": scripts + os.pathsep + os.environ["PATH"],
        "SECGEAR_PKCS11": place.command,
    }
    command = (
        needs("pkcs11-tool"), "--module", str(built), "--slot", "0", "--login", "--pin", PIN,
        "--sign", "-m", "SHA256-RSA-PKCS", "--id", "01", "-i", str(data), "-o", str(signature),
    )  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = place.tool(
        "--verify", "-m", "SHA256-RSA-PKCS", "--id", "01", "-i", str(data),
        "--signature-file", str(signature),
    )  # fmt: skip
    assert "Signature is valid" in said
