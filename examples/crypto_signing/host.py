"""An enclave's image signed with a key that is in a module, and who may sign shown by proof.

The release key was made in the module and never leaves it. Whoever is to trust what it signs gets
an attestation of the key, and the signer's name that a policy then has in it.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.crypto_module import SECGEAR, TOKEN, running
from secgear.base.build import build
from secgear.base.image import Image
from secgear.base.signing import signer_of
from secgear.middleware.attestation import Policy, load_policy
from secgear.middleware.attestation.bundle import anchors_with
from secgear.middleware.attestation.own import own_simulated_root
from secgear.services.crypto.attestation import verify_key
from secgear.services.crypto.client import connect

APP = Path(__file__).parents[1] / "wordcount" / "wordcount.py"
NONCE = b"chosen by who is to trust it"


def main() -> None:
    with running() as place:
        with (
            connect(place.socket) as module,
            module.token(TOKEN).session(place.pin.encode()) as session,
        ):
            key = session.generate_pair("EC", "P-384", label="release")
            proof, public = key.attest(NONCE), key.public_key

        image = place.folder / "wordcount.sgear"
        build(APP).save(image)
        where = f"module-path={place.socket}&pin-source=file:{place.folder}/pin"
        uri = f"pkcs11:token={TOKEN};object=release?{where}"
        subprocess.run(
            [*SECGEAR, "sign", str(image), "--pkcs11", uri], check=True, stdout=subprocess.DEVNULL
        )
        signed = Image.load(image)
        print("signed by the key in the module:", signed.signer == signer_of(public))

        found = verify_key(
            proof,
            policy(Image.load(place.folder / "module" / "module.sgear")),
            at=datetime.datetime.now(datetime.UTC),
            nonce=NONCE,
            anchors=anchors_with([own_simulated_root()]),
        ).require("always_sensitive", "never_extractable", origin="generated")
        print("proven to be nowhere else:", signer_of(found.public_key) == signed.signer)


def policy(module: Image) -> Policy:
    """Trust this module's program. In life the measurement comes from who has audited it."""
    return load_policy(
        f"""
        name = "release keys"
        [accept]
        tees = ["process"]
        measurements = ["{module.measurement.hex()}"]
        [allow]
        simulated = true  # nothing here is hardware
        test_roots = true
        """.encode()
    )


if __name__ == "__main__":
    main()
