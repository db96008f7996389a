"""Keys at the command line: made, shown, attested, sealed by their owner and imported."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from secgear.base.image import Image
from secgear.cli.app import app
from secgear.cli.output import exit_code
from secgear.errors import SecGearError
from secgear.services.crypto.client import connect
from secgear.services.crypto.host import Home
from tests.services.crypto.running import (
    PIN,
    SO_PIN,
    Server,
    founded,
    prepare_token,
    secgear,
    serving,
)
from tests.services.crypto.test_channel import holds

ENDED = ("CKR_DEVICE_REMOVED", "CKR_DEVICE_ERROR", "the module's host has closed the connection")


class Place:
    """A running module: how to name it, and the policy that trusts it."""

    def __init__(self, folder: Path, server: Server, audit_key: str, address: str) -> None:
        self.folder, self.server, self.audit_key = folder, server, audit_key
        self.policy = folder / "policy.toml"
        self.pin = folder / "pin"
        self.pin.write_text(f"{PIN}\n")
        measurement = Image.load(Home(folder / "module").image).measurement.hex()
        self.policy.write_text(
            'name = "owner"\n[accept]\ntees = ["process"]\n'
            f'measurements = ["{measurement}"]\n[allow]\nsimulated = true\ntest_roots = true\n'
        )
        self.trust = ("--policy", str(self.policy), "--root", "simulated")
        self.socket = ("--socket", str(server.socket), "--pin-file", str(self.pin))
        self.channel = ("--address", address, *self.trust, "--pin-file", str(self.pin))

    def keys(self, command: str, *arguments: str, remote: bool = False) -> str:
        where = self.channel if remote else self.socket
        return printed("crypto", "keys", command, *arguments, "--token", "demo", *where)

    def told(self, command: str, *arguments: str) -> Any:
        return json.loads(self.keys(command, *arguments, "--json"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("keys")
    audit_key = founded(folder / "module")
    with serving(folder / "module", "--attested", "tcp://127.0.0.1:0", ready=2) as server:
        prepare_token(server.socket, folder / "pins")
        match = re.search(r"attested channels at (\S+)", "\n".join(server.said))
        assert match is not None
        yield Place(folder, server, audit_key, match[1])


def printed(*arguments: str) -> str:
    """What a command prints, in this process: there are many."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        app(list(arguments), standalone_mode=False)
    return out.getvalue()


def code(*arguments: str) -> tuple[int, str]:
    """Exit code and error of a command."""
    try:
        app(list(arguments), standalone_mode=False)
    except SecGearError as error:
        return exit_code(error), str(error)
    return 0, ""


def test_a_key_is_made_shown_listed_exported_and_destroyed(place: Place) -> None:
    (made,) = place.told("generate", "EC", "--variant", "P-384", "--label", "web", "--id", "0a")[
        "keys"
    ]
    assert (made["class"], made["kind"], made["id"]) == ("private", "EC", "0a")
    assert {"sign", "never_extractable"} <= set(made["flags"])
    public = place.folder / "web.pub"
    place.keys("export-public", "web", "-o", str(public))
    key = load_pem_public_key(public.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    listed = place.told("list")["keys"]
    assert {(one["class"], one["label"]) for one in listed} >= {
        ("private", "web"),
        ("public", "web"),
    }
    assert "EC" in place.keys("list", remote=True)
    shown = place.keys("show", "web", "--id", "0a")
    assert "private key 'web'" in shown
    assert "generated" in shown
    missing = ("crypto", "keys", "show", "web", "--token", "demo", *place.socket)
    assert code(*missing, "--id", "0b") == (2, "no key with the label 'web' and id 0b")
    assert len(place.told("destroy", "web", "--yes")["destroyed"]) == 2
    assert code(*missing)[0] == 2


def test_wrong_words_are_explained(place: Place) -> None:
    generate = ("crypto", "keys", "generate")
    there = ("--token", "demo", *place.socket)
    for words, why in (
        (("DSA", "--label", "x"), "key pairs are EC"),
        (("AES", "--label", "x", "--variant", "5"), "128 bits"),
        (("AES", "--label", "x", "--variant", "P"), "size in bits"),
        (("EC", "--label", "x", "--id", "xy"), "hexadecimal"),
        (("EC", "--label", "x", "--use", "sings"), "no attribute 'sings'"),
    ):
        status, error = code(*generate, *words, *there)
        assert (status, why in error) == (2, True), error
    listed = ("crypto", "keys", "list", "--token", "demo")
    wrong = place.folder / "wrong"
    wrong.write_text("not-the-pin\n")
    by = ("--socket", str(place.server.socket), "--pin-file", str(wrong))
    mistakes: tuple[tuple[tuple[str, ...], int, str], ...] = (
        (listed, 2, "name the module"),
        ((*listed, "--address", "tcp://127.0.0.1:1"), 2, "go together"),
        ((*listed[:3], "--token", "none", *place.socket), 1, "there is 'demo'"),
        ((*listed, "--address", "localhost", *place.trust), 2, "'localhost' is no address"),
        (("crypto", "rotate", "web", "--address", "localhost", *place.trust), 2, "no address"),
        (("crypto", "roles", "--address", "localhost", *place.trust), 2, "no address"),
        (("crypto", "connect", "localhost", *place.trust), 2, "no address"),
        ((*listed, "--socket", str(place.folder / "none")), 1, "is the module running"),
        ((*listed, *by), 1, "CKR_PIN_INCORRECT"),
    )
    for line, expected, why in mistakes:
        status, error = code(*line)
        assert (status, why in error) == (expected, True), error
        assert "not-the-pin" not in error
    wrong.write_text("\n")
    status, error = code(*listed, *by)
    assert (status, "empty" in error) == (2, True)
    place.keys("list")  # the count of failures is cleared


def test_what_is_not_there_is_named(place: Place, tmp_path: Path) -> None:
    output = ("-o", str(tmp_path / "out"))
    there = ("--token", "demo", *place.socket)
    exported = code("crypto", "keys", "export-public", "none", *output, *there)
    assert exported == (1, "no private keys with the label 'none'")
    exported = code("crypto", "keys", "export-public", "none", "--id", "0b", *output, *there)
    assert exported == (1, "no private keys with the label 'none' and the id 0b")
    rotate = ("crypto", "rotate", "none", *place.socket)
    status, error = code(*rotate)
    assert (status, "no named key 'none' on 'demo'" in error) == (1, True), error
    assert code(*rotate, "--token", "none")[1].startswith("no tokens with the label 'none'")
    assert code(*rotate, "--slot", "7") == (2, "the module has no slot 7")
    pins = tmp_path.with_name("both-pins")
    pins.write_text(f"{SO_PIN}\n{PIN}\n")
    token = ("crypto", "token", "x", "--slot", "7", *place.channel[:-2], "--pin-file", str(pins))
    status, error = code(*token)  # over the channel
    assert (status, "CKR_SLOT_ID_INVALID" in error) == (1, True), error
    place.keys("generate", "AES", "--label", "none")
    proofs: tuple[tuple[str, ...], ...] = (
        ("crypto", "keys", "attest", "none", *there),
        ("crypto", "attest", "module", "--socket", str(place.server.socket)),
    )
    for words in proofs:
        assert code(*words, "--nonce", "abcd", *output) == (
            2,
            "--nonce takes 8 to 64 bytes, two hexadecimal digits each",
        )
    place.keys("destroy", "none", "--yes")
    status, error = code("crypto", "keys", "import-key", "--nonce", "00" * 8, *output, *there)
    assert (status, "--nonce takes 32 bytes" in error) == (2, True), error
    assert list(tmp_path.iterdir()) == []


def test_a_pin_is_asked_for_without_a_file_and_not_shown(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def prompt(_: str, *, hide_input: bool, err: bool) -> str:
        asked.append(hide_input and err)
        return PIN

    monkeypatch.setattr(typer, "prompt", prompt)
    where = ("--token", "demo", "--socket", str(place.server.socket))
    assert PIN not in printed("crypto", "keys", "list", "--json", *where)
    assert asked == [True]


def test_a_new_pin_is_asked_for_twice_and_an_old_one_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, hide_input: bool, confirmation_prompt: bool, err: bool) -> str:
        assert hide_input
        assert err
        asked.append((text, confirmation_prompt))
        return SO_PIN if "officer" in text else "bobs-own-pin"

    monkeypatch.setattr(typer, "prompt", prompt)
    socket = ("--socket", str(place.server.socket))
    assert printed("crypto", "user", "set", "bob", *socket) == "user  bob, use\n"
    assert asked == [("PIN of bob", True), ("PIN of the security officer", False)]
    assert code("crypto", "user", "remove", "bob", *socket) == (0, "")


def test_a_user_with_a_name_logs_in_and_may_what_they_may(place: Place) -> None:
    with (
        connect(place.server.socket) as module,
        module.token("demo").session(SO_PIN.encode(), officer=True) as officer,
    ):
        officer.call("S_SetUser", b"payments", 1, b"payments-pin")  # uses keys, makes none
    pin = place.folder / "payments"
    pin.write_text("payments-pin\n")
    there = ("--token", "demo", "--socket", str(place.server.socket), "--user", "payments")
    by = (*there, "--pin-file", str(pin))
    assert json.loads(printed("crypto", "keys", "list", "--json", *by))["keys"] is not None
    status, error = code("crypto", "keys", "generate", "EC", "--label", "x", *by)
    assert (status, "CKR_ACTION_PROHIBITED: the user's rights" in error) == (1, True)


def test_attestations_are_made_there_and_verified_anywhere(place: Place) -> None:
    place.keys("generate", "EC", "--label", "signer")
    place.keys("generate", "AES", "--label", "store", "--variant", "128", "--extractable")
    nonce = os.urandom(16).hex()
    for label, name in (("signer", "signer.pem"), ("store", "store.cose")):
        file = place.folder / name
        place.keys("attest", label, "--nonce", nonce, "-o", str(file), remote=True)
        verify = ("crypto", "attest", "verify", str(file), *place.trust)
        said = json.loads(
            printed(*verify, "--nonce", nonce, "--module", place.audit_key, "--origin", "generated",
                    "--require", "always_sensitive", "--json")
        )  # fmt: skip
        assert said["attestation"]["label"] == label
        assert said["attestation"]["module"] == place.audit_key
        assert said["verdict"]["trusted"] is True
        assert "TRUSTED" in printed(*verify, "--nonce", nonce)
        for more, why in (
            ((), "freshness"),
            (("--nonce", "00" * 16), "nonce"),
            (("--nonce", nonce, "--origin", "envelope"), "origin"),
            (("--nonce", nonce, "--module", "00" * 32), "another module"),
            (("--nonce", nonce, "--serial", "0"), "another token"),
            (("--nonce", nonce, "--require", "trusted"), "is not trusted"),
        ):
            status, error = code(*verify, *more)
            assert (status, why in error) == (6, True), error
        status, error = code(*verify, "--require", "holy")
        assert (status, "no flag 'holy'" in error) == (2, True)
    extractable = ("crypto", "attest", "verify", str(place.folder / "store.cose"), *place.trust)
    status, error = code(*extractable, "--nonce", nonce, "--without", "extractable")
    assert (status, "the key is extractable" in error) == (6, True)


def test_a_module_says_which_one_it_is(place: Place) -> None:
    file = place.folder / "module.cose"
    nonce = os.urandom(16).hex()
    printed(
        "crypto", "attest", "module", "-o", str(file), "--nonce", nonce,
        "--socket", str(place.server.socket),
    )  # fmt: skip
    verify = ("crypto", "attest", "verify", str(file), *place.trust, "--nonce", nonce)
    said = json.loads(secgear(*verify, "--json"))["attestation"]
    assert said["module"] == place.audit_key
    assert said["tokens"][0]["label"] == "demo"
    assert place.audit_key in printed(*verify, "--module", place.audit_key)
    assert code(*verify, "--module", "00" * 32)[0] == 6
    assert code(*verify, "--require", "sensitive")[0] == 2


def test_a_key_of_another_machine_comes_in_and_the_host_never_has_it(place: Place) -> None:
    """The owner's machine is this test; everything that the host's user does goes by its socket."""
    key = ec.generate_private_key(ec.SECP256R1())
    owner = place.folder / "owner"
    owner.mkdir()
    file, document, envelope = (owner / name for name in ("key.pem", "import.key", "key.envelope"))
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    nonce = os.urandom(32).hex()
    place.keys("import-key", "-o", str(owner / "first.key"))
    # The owner asks for it with a nonce, over a channel of their own, and has no PIN.
    channel = place.channel[: place.channel.index("--pin-file")]
    fetch = ("crypto", "keys", "import-key", "--token", "demo", *channel)
    assert code(*fetch, "--nonce", nonce, "-o", str(document)) == (0, "")
    seal = (
        "crypto", "keys", "seal", str(file), "--to", str(document), *place.trust,
        "--label", "moved", "--id", "07", "-o", str(envelope),
    )  # fmt: skip
    status, error = code(*seal, "--nonce", nonce, "--module", "00" * 32)
    assert (status, "another module" in error, envelope.exists()) == (1, True, False)
    sealed = json.loads(secgear(*seal, "--nonce", nonce, "--module", place.audit_key, "--json"))
    assert sealed["module"] == place.audit_key
    (made,) = place.told("import", str(envelope))["keys"]
    assert made["label"] == "moved"
    assert made["origin"].startswith("envelope ")
    assert {"sensitive", "sign"} <= set(made["flags"])
    assert not {"extractable", "local", "never_extractable"} & set(made["flags"])
    again = ("crypto", "keys", "import", str(envelope), "--token", "demo", *place.socket)
    said = "CKR_FUNCTION_REJECTED: the envelope was taken before"
    assert code(*again) == (1, said)
    with (
        connect(place.server.socket) as module,
        module.token("demo").session(PIN.encode()) as session,
    ):
        moved = session.private_key("moved")
        key.public_key().verify(moved.sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))
        control = session.call(
            "C_CreateObject", {0: 0, 1: True, 3: b"control-of-the-search-in-host"}
        )
        assert control
        secret = key.private_numbers().private_value.to_bytes(32, "big")
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        process = Path(f"/proc/{place.server.process.pid}")
        needles = [secret, der, b"control-of-the-search-in-host"]
        found = holds(process / "mem", process / "maps", needles)
        # What goes through the socket passes through the host's hands: the search does find it.
        assert found == {b"control-of-the-search-in-host"}
    for kept in (place.folder / "module").iterdir():
        if kept.is_file():
            assert secret not in kept.read_bytes()
    os.kill(place.server.enclave, signal.SIGKILL)
    assert eventually(*again) == (1, said), "another enclave remembers it, too"
    assert "moved" in place.keys("list")


def eventually(*arguments: str) -> tuple[int, str]:
    """The same once another enclave has taken over from one that was killed."""
    until = time.monotonic() + 60
    while (found := code(*arguments))[1] in ENDED and time.monotonic() < until:
        time.sleep(0.05)
    return found


def test_secret_keys_are_sealed_as_their_bytes(place: Place) -> None:
    raw, document, envelope = (place.folder / name for name in ("raw", "raw.key", "raw.envelope"))
    raw.write_bytes(os.urandom(32))
    place.keys("import-key", "-o", str(document))
    policy = place.folder / "lax.toml"
    policy.write_text(place.policy.read_text())
    seal = (
        "crypto", "keys", "seal", str(raw), "--kind", "HMAC", "--to", str(document), "--policy",
        str(policy), "--root", "simulated", "--label", "mac", "-o", str(envelope),
    )  # fmt: skip
    printed(*seal)
    (made,) = place.told("import", str(envelope))["keys"]
    assert (made["class"], made["kind"], made["size"]) == ("secret", "GENERIC_SECRET", 32)
    policy.write_text(
        re.sub(r"measurements = .*", f'measurements = ["{"00" * 48}"]', policy.read_text())
    )
    envelope.unlink()
    status, error = code(*seal)
    assert (status, "not trusted" in error.lower(), envelope.exists()) == (6, True, False)
    assert code(*seal[:5], "DES", *seal[6:])[0] == 2


def test_openssl_reads_what_is_exported(place: Place) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    place.keys("generate", "SM2", "--label", "sm2")
    file = place.folder / "sm2.pub"
    place.keys("export-public", "sm2", "-o", str(file))
    done = subprocess.run(
        [program, "pkey", "-pubin", "-in", str(file), "-noout", "-text"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "SM2" in done.stdout, done.stderr
