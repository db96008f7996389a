"""An SM2 certificate authority at work: a server asks, gets a certificate, and loses it again.

OpenSSL makes the server's key and request, and verifies what the authority has signed.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

from cryptography import x509

sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.crypto_ca.authority import Authority
from examples.crypto_module import TOKEN, running
from secgear.services.crypto.client import connect

ID = "1234567812345678"  # of signers, where nobody agreed on another: GM/T 0009


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip()


def main() -> None:
    with (
        running() as place,
        connect(place.socket) as module,
        module.token(TOKEN).session(place.pin.encode()) as session,
    ):
        key = session.generate_pair("SM2", label="authority")
        telling = {"local", "always_sensitive", "never_extractable"} & set(key.flags())
        print("the authority's key:", ", ".join(sorted(telling)))
        authority = Authority(session, key, "Example SM2 CA")
        root, request, mine = (place.folder / name for name in ("root.pem", "asks.der", "key.pem"))
        root.write_text(ssl.DER_cert_to_PEM_cert(authority.root()))

        openssl("genpkey", "-algorithm", "SM2", "-out", mine)
        openssl(
            "req", "-new", "-key", mine, "-subj", "/CN=asks", "-sm3",
            "-sigopt", f"distid:{ID}", "-outform", "DER", "-out", request,
        )  # fmt: skip
        certificate = authority.issue(request.read_bytes(), "www.example.test")
        (place.folder / "server.pem").write_text(ssl.DER_cert_to_PEM_cert(certificate))
        shown = openssl("x509", "-in", place.folder / "server.pem", "-noout", "-text")
        print("signed with", shown.partition("Signature Algorithm: ")[2].splitlines()[0])

        changed = bytearray(request.read_bytes())
        changed[-1] ^= 1
        try:
            authority.issue(bytes(changed), "www.example.test")
        except ValueError as error:
            print("a forged request:", error)

        print("before:", verify(place.folder, authority.revocations()))
        authority.revoke(certificate)
        print("after: ", verify(place.folder, authority.revocations()))


def verify(folder: Path, revocations: bytes) -> str:
    """What OpenSSL says about the server's certificate and the list of those that are revoked.

    Its `verify` takes the signers' identity for certificates and not for lists, so that the list's
    signature is verified by itself.
    """
    identity = f"distid:{ID}"
    root = folder / "root.pem"
    said = openssl(
        "verify", "-x509_strict", "-CAfile", root, "-vfyopt", identity, folder / "server.pem"
    )
    listed = x509.load_der_x509_crl(revocations)
    (folder / "list").write_bytes(listed.tbs_certlist_bytes)
    (folder / "signature").write_bytes(listed.signature)
    (folder / "root.pub").write_text(openssl("x509", "-in", root, "-noout", "-pubkey"))
    whole = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", folder / "root.pub", "-rawin", "-digest", "sm3",
        "-pkeyopt", identity, "-in", folder / "list", "-sigfile", folder / "signature",
    )  # fmt: skip
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    revoked = listed.get_revoked_certificate_by_serial_number(certificate.serial_number)
    return f"{said.rsplit(': ', 1)[-1]}; {whole}; {'revoked' if revoked else 'not revoked'}"


if __name__ == "__main__":
    main()
