"""Mail that OpenSSL signs and opens with keys in the enclave: CMS, by OpenSSL's `pkcs11` engine.

OpenSSL knows nothing of us. Its engine loads p11-kit's client, which finds the module's socket.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.crypto_module import TOKEN, Place, running
from secgear.services.crypto.client import connect

LIBRARIES = Path("/usr/lib")
CONFIGURATION = """
openssl_conf = start
[start]
engines = all
[all]
pkcs11 = ours
[ours]
engine_id = pkcs11
MODULE_PATH = {client}
init = 1
"""


class OpenSsl:
    """OpenSSL with the engine, in the module's folder."""

    def __init__(self, place: Place, client: Path) -> None:
        configuration = place.folder / "openssl.cnf"
        configuration.write_text(CONFIGURATION.format(client=client))
        self._folder = place.folder
        self._environment = {
            **os.environ,
            "OPENSSL_CONF": str(configuration),
            "P11_KIT_SERVER_ADDRESS": f"unix:path={place.socket}",
        }
        self._key = (
            f"pkcs11:token={TOKEN};object={{}};type=private;pin-source=file:{place.folder}/pin"
        )

    def key(self, label: str) -> str:
        """The URI of a private key in the module."""
        return self._key.format(label)

    def run(self, *arguments: str, fails: bool = False) -> str:
        """What a command prints. fails: whether it is to fail."""
        done = subprocess.run(
            ["openssl", *arguments],
            cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if (done.returncode != 0) != fails:
            sys.exit(done.stderr)
        return done.stdout + done.stderr


def main() -> None:
    engines = sorted(LIBRARIES.glob("*/engines-3/pkcs11.so"))
    clients = sorted(LIBRARIES.glob("*/pkcs11/p11-kit-client.so"))
    if not engines or not clients:
        sys.exit("this needs Debian's libengine-pkcs11-openssl and p11-kit-modules")
    with running() as place:
        with (
            connect(place.socket) as module,
            module.token(TOKEN).session(place.pin.encode()) as session,
        ):
            session.generate_pair("RSA", 2048, label="mail", uses=("sign", "decrypt"))
        openssl = OpenSsl(place, clients[0])
        engine = ("-engine", "pkcs11", "-keyform", "engine")
        openssl.run(
            "req", "-new", "-x509", "-days", "2", "-subj", "/CN=alice", *engine,
            "-key", openssl.key("mail"), "-out", "alice.pem",
        )  # fmt: skip
        (place.folder / "letter").write_text("Dear Bob, the meeting is at nine.\n")

        openssl.run(
            "cms", "-sign", "-in", "letter", "-text", "-signer", "alice.pem", *engine,
            "-inkey", openssl.key("mail"), "-out", "signed",
        )  # fmt: skip
        verify = ("cms", "-verify", "-in", "signed", "-CAfile", "alice.pem", "-text")
        print("Bob reads:", openssl.run(*verify).splitlines()[0])
        signed = (place.folder / "signed").read_text()
        (place.folder / "signed").write_text(signed.replace("at nine", "at five"))
        openssl.run(*verify, fails=True)
        print("a changed letter does not verify")

        # Whoever has Alice's certificate can write to her; her key opens it, in the enclave.
        openssl.run(
            "cms", "-encrypt", "-aes-256-cbc", "-in", "letter", "-out", "secret", "alice.pem"
        )
        opened = openssl.run(
            "cms", "-decrypt", "-in", "secret", "-recip", "alice.pem", *engine,
            "-inkey", openssl.key("mail"),
        )  # fmt: skip
        print("Alice reads:", opened.splitlines()[0])


if __name__ == "__main__":
    main()
