"""Images signed with keys that are in modules: through p11-kit's library, and our own socket."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base import signing
from secgear.base.image import Image
from secgear.cli.output import UsageError
from secgear.cli.pkcs11_keys import parse_uri
from secgear.services.crypto.client import connect
from tests.services.crypto.running import (
    PIN,
    SECGEAR,
    Server,
    founded,
    prepare_token,
    secgear,
    serving,
)

CLIENTS = sorted(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("signing")
    founded(folder / "module")
    with serving(folder / "module") as running:
        prepare_token(running.socket, folder / "pins")
        (folder / "pin").write_text(PIN)
        with (
            connect(running.socket) as module,
            module.token("demo").session(PIN.encode()) as session,
        ):
            session.generate_pair("EC", "P-384", label="release", id=b"\1")
            session.generate_pair("ED25519", label="edwards")
            session.generate_pair("EC", "P-256", label="short")
        yield running


@pytest.fixture
def image(server: Server, tmp_path: Path) -> Path:
    """Any image will do: the module's own."""
    path = tmp_path / "app.sgear"
    path.write_bytes((server.socket.parent / "module.sgear").read_bytes())
    return path


def uri(server: Server, label: str, module: Path, *, pin: bool = True) -> str:
    source = f"&pin-source=file:{quote(str(server.socket.parent.parent / 'pin'))}" if pin else ""
    return f"pkcs11:token=demo;object={label}?module-path={quote(str(module))}{source}"


def sign(server: Server, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*SECGEAR, "sign", *arguments, "--json"],
        env=server.environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("label", ["release", "edwards"])
def test_an_image_is_signed_through_our_own_socket(server: Server, image: Path, label: str) -> None:
    code, said = sign(server, str(image), "--pkcs11", uri(server, label, server.socket))
    assert code == 0, said
    signed = Image.load(image)
    assert signed.signer is not None
    with connect(server.socket) as module, module.token("demo").session(PIN.encode()) as session:
        key = session.private_key(label).public_key
    assert signed.signer == signing.signer_of(key)
    assert json.loads(said)["signer"] == signed.signer.hex()


@pytest.mark.skipif(not CLIENTS, reason="p11-kit-modules is not installed")
def test_an_image_is_signed_through_anybodys_library(server: Server, image: Path) -> None:
    pytest.importorskip("pkcs11")
    code, said = sign(server, str(image), "--pkcs11", uri(server, "release", CLIENTS[0]))
    assert code == 0, said
    assert Image.load(image).signer is not None
    code, said = sign(server, str(image), "--pkcs11", uri(server, "short", CLIENTS[0]))
    assert code == 2
    assert "another kind" in said
    for wrong in (uri(server, "nobody", CLIENTS[0]), uri(server, "release", Path("/no/library"))):
        code, said = sign(server, str(image), "--pkcs11", wrong)
        assert code == 1
        assert "command.failed" in said


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_an_image_is_signed_with_ed25519_through_a_library_that_has_it(
    server: Server, image: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pkcs11")
    library = tmp_path / "libsecgear-pkcs11.so"
    secgear("crypto", "library", "--output", str(library), "--module", f"unix:{server.socket}")
    code, said = sign(server, str(image), "--pkcs11", uri(server, "edwards", library))
    assert code == 0, said
    signed = Image.load(image)
    with connect(server.socket) as module, module.token("demo").session(PIN.encode()) as session:
        assert signed.signer == signing.signer_of(session.private_key("edwards").public_key)


def test_wrong_keys_and_words_leave_the_image_as_it_was(server: Server, image: Path) -> None:
    before = image.read_bytes()
    for wrong, status, why in (
        (uri(server, "short", server.socket), 2, "another kind"),
        (uri(server, "nobody", server.socket), 1, "no private keys"),
        (uri(server, "release", server.socket).replace("demo", "none"), 2, "no tokens"),
        ("pkcs11:object=release", 2, "module-path"),
        ("https://key", 2, "RFC 7512"),
    ):
        code, said = sign(server, str(image), "--pkcs11", wrong)
        assert (code, why in said) == (status, True), said
    code, said = sign(server, str(image), "--pkcs11", "pkcs11:", "--digest")
    assert (code, "one of --key, --pkcs11" in said) == (2, True)
    assert image.read_bytes() == before


def test_a_uri_is_read_as_rfc_7512_has_it() -> None:
    read = parse_uri(
        "pkcs11:token=My%20Token;serial=0a;object=key;id=%01%02;type=private"
        "?module-path=/lib/p.so&pin-source=file:/run/pin"
    )
    assert (read.token, read.serial, read.label, read.id) == ("My Token", "0a", "key", b"\1\2")
    assert (read.module, read.pin_file) == (Path("/lib/p.so"), Path("/run/pin"))
    assert parse_uri("pkcs11:object=a?module-path=x").pin_file is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pkcs11:object=a?module-path=x&pin-value=1234", "others see a PIN"),
        ("pkcs11:object=a;pin-value=1234?module-path=x", "others see a PIN"),
        ("pkcs11:object=a;object=b?module-path=x", "once"),
        ("pkcs11:object=a;color=red?module-path=x", "is not one of"),
        ("pkcs11:object=a;type=cert?module-path=x", "private key"),
        ("pkcs11:token=a?module-path=x", "object or id"),
        ("pkcs11:object=a", "module-path"),
        ("pkcs11:object=a?module-path=x#y", "RFC 7512"),
        ("", "RFC 7512"),
    ],
)
def test_a_uri_that_is_not_understood_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        parse_uri(text)
    assert "1234" not in str(refused.value)


@given(st.text(max_size=60))
def test_whatever_the_uri_is_it_is_read_or_refused(text: str) -> None:
    for whole in (text, f"pkcs11:{text}", f"pkcs11:object=a?module-path=x&{text}", "pkcs11://["):
        try:
            assert parse_uri(whole).module
        except UsageError:
            continue
