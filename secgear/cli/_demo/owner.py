"""A data owner's side: a process of its own that trusts nobody but the enclave it has verified.

This is what a data owner's program looks like. `Owner.connect` is the heart of it: nothing is sent
before the other end has proven, under this owner's own policy, what it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import pyarrow as pa
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear.base.image import Image
from secgear.cli._demo import needles, parties
from secgear.cli._demo.role import Deeds, Tell
from secgear.errors import SecGearError
from secgear.middleware.attestation import load_policy
from secgear.middleware.attestation.bundle import AddedRoot, anchors_with
from secgear.middleware.channel import Identity

if TYPE_CHECKING:
    from secgear.middleware.channel import Session

PRODUCT: Final = "flights-and-weather"
_PROGRAM: Final = Path(__file__).with_name("flights.py")

# Two ways to know what to trust. The airline has read the program: it demands exactly that, down to
# the last byte. The weather service trusts the program's maker to fix mistakes: it demands the
# maker's signature, and no version older than the first.
_POLICIES: Final = {
    "airline": """
        name = "airline"
        [accept]
        tees = ["process", "vm", "snp", "tdx", "cca", "sgx", "nitro"]
        measurements = ["{measurement}"]
    """,
    "weather service": """
        name = "weather service"
        [accept]
        tees = ["process", "vm", "snp", "tdx", "cca", "sgx", "nitro"]
        signers = ["{maker}"]
        products = ["{product}"]
        min_svn = 1
    """,
}
_FOR_A_DEMO: Final = """
        [allow]
        simulated = true
        test_roots = true
"""


class NotAgreed(SecGearError):
    """The image is not what the owners have agreed on."""

    code = "demo.not_agreed"


@final
class Owner:
    """One of the two. name: which."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Made here, and never anywhere else: the image holds the certificate, so that the enclave
        # knows who may contribute and ask.
        self._identity = Identity.fresh(name)
        self._tables: dict[str, pa.Table] = {}
        self._answer: pa.Table | None = None
        self._policy = ""
        self._root = ""
        self._session: Session | None = None

    # --- before -----------------------------------------------------------------------------------

    def certificate(self) -> str:
        """What the others know this owner by, in PEM."""
        return self._identity.certificate.public_bytes(Encoding.PEM).decode()

    def read(self) -> list[tuple[str, int, int]]:
        """Read the tables; name, rows and bytes of each."""
        for name, (owner, _) in parties.TABLES.items():
            if owner == self._name:
                self._tables[name] = parties.load(name)
        return [(name, table.num_rows, table.nbytes) for name, table in self._tables.items()]

    def agree(self, image: str, maker: str, root: str) -> str:
        """Look at the image and make up a policy; returns it.

        image: its file. maker: whose signature is good, in hexadecimal. root: the platform's root
        certificate, in PEM.
        """
        measured = Image.load(image)
        if self.certificate() not in measured.read("owners.pem").decode():
            raise NotAgreed("the image does not name this owner")
        if measured.read("app.py") != _PROGRAM.read_bytes():
            raise NotAgreed("the image holds another program than the one that was read")
        self._root = root
        self._policy = _POLICIES[self._name].format(
            measurement=measured.measurement.hex(), maker=maker, product=PRODUCT
        )
        return self._policy

    # --- the channel ------------------------------------------------------------------------------

    def connect(self, address: str, *, production: bool = False) -> Session:
        """A session with the enclave at `address`, if it is what this owner wants it to be.

        production: allow no simulation. Raises Untrusted, with the verdict.
        """
        policy = self._policy if production else self._policy + _FOR_A_DEMO
        return secgear.connect(
            address,
            load_policy(policy.encode()),
            anchors=anchors_with([AddedRoot("simulated", "demo-platform", self._root)]),
            identity=self._identity,
        )

    def verify(self, address: str, *, production: bool = False) -> None:
        """Connect, and leave at once. Raises what `connect` does."""
        self.connect(address, production=production).close()

    def meet(self, address: str) -> dict[str, Any]:
        """Connect for good; what the enclave has proven to be."""
        self._session = session = self.connect(address)
        claims = session.peer.claims
        if claims is None:
            raise NotAgreed("the enclave has no evidence")  # can't be: `connect` insists
        made = claims.evidence_time
        return {
            "tls": dict(session.peer.tls),
            "format": claims.format,
            "claims": {
                "tee": claims.tee,
                "simulated": claims.simulated,
                "debug": claims.debug,
                "measurement": claims.measurements["launch"].hex(),
                "signer": claims.signer.hex() if claims.signer else None,
                "product": claims.product,
                "svn": claims.svn,
                "root": claims.root.name,
                "made at": made.isoformat() if made else None,
            },
        }

    def contribute(self) -> list[tuple[str, int]]:
        """Send the tables; name and rows of each, as the enclave has counted them."""
        call = self._met.call
        return [(name, call.contribute(name, table)) for name, table in self._tables.items()]

    def answer(self) -> list[dict[str, Any]]:
        """Ask what came out."""
        table: pa.Table = self._met.call.answer()
        self._answer = table
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    @property
    def _met(self) -> Session:
        if self._session is None:
            raise NotAgreed("there is no session yet")
        return self._session

    # --- for who looks whether any of it was seen -------------------------------------------------

    def samples(self) -> dict[str, Any]:
        """Pieces of what this owner knows, and how far its tables can be compressed."""
        known: Mapping[str, pa.Table] = self._tables
        if self._answer is not None:
            known = {**known, "the answer": self._answer}
        packed = sum(map(_packed_size, self._tables.values()))
        return {
            "needles": [
                needle for name, table in known.items() for needle in needles.pick(name, table)
            ],
            "compressed": packed / sum(table.nbytes for table in self._tables.values()),
        }


def _packed_size(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return len(zlib.compress(sink.getvalue(), 1))


def prepare(_: Tell, name: str) -> Deeds:
    """What an owner can be asked for."""
    owner = Owner(name)
    return {
        "certificate": owner.certificate,
        "read": owner.read,
        "agree": owner.agree,
        "verify": owner.verify,
        "meet": owner.meet,
        "contribute": owner.contribute,
        "answer": owner.answer,
        "samples": owner.samples,
    }
