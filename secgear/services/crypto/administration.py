"""What administrators, auditors and backup operators ask of a module, over its ordinary calls.

The data owner's side of the boundary. The documents are those of `secgear.services.crypto.roles`.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, final

import msgspec

from secgear.errors import CryptoModuleError, CryptoRefused
from secgear.services.crypto.client import Caller
from secgear.services.crypto.roles import archive, checkpoints, requests, standing
from secgear.services.crypto.roles.operations import Operation
from secgear.services.crypto.roles.persons import PrivateKey, sign
from secgear.services.crypto.roles.standing import Standing
from secgear.services.crypto.trail import End, Verifier

ROLES: Final = ("administrator", "auditor", "backup-operator")


@final
class Administration:
    """One connection to a module. Every method raises CryptoRefused with the module's reason.

    caller: of which C_Initialize was called.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def standing(self) -> Standing:
        """Who decides there, as the module says; nothing vouches for it."""
        return _read(_STANDING, self._asked("S_Standing", b""))

    def evidence(self, nonce: bytes) -> bytes:
        """The same under evidence, for `standing.verify`. nonce: 32 bytes."""
        return self._asked("S_Standing", nonce)

    def login(self, role: str, name: str, key: PrivateKey) -> None:
        """Log in with a role, for as long as the connection lasts."""
        module = bytes.fromhex(self.standing().module)
        challenge = self._asked("S_RoleChallenge")
        signature = sign(key, requests.login_message(module, challenge, role, name))
        proof = requests.Proof(role, name, base64.b64encode(signature).decode())
        self._asked("S_RoleLogin", requests.encode(proof))

    def request(self, operation: Operation, *, seconds: int) -> bytes:
        """A request for the administrators to approve, valid for so long."""
        operation.check()
        return self._asked("S_OpenRequest", requests.encode(requests.Wish(operation, seconds)))

    def execute(self, request: bytes, approvals: Sequence[bytes], secret: bytes = b"") -> None:
        """Have carried out what was approved. secret: `requests.new_pin`, where it takes one."""
        self._asked("S_Execute", request, _array(approvals), secret)

    def backup(self, request: bytes, approvals: Sequence[bytes]) -> Iterator[bytes]:
        """A backup's file, in pieces."""
        manifest = self._asked("S_Execute", request, _array(approvals), b"")
        yield archive.MAGIC + archive.WORD.pack(len(manifest)) + manifest
        number = 0
        while piece := self._asked("S_BackupPiece", number):
            yield piece
            number += 1

    def begin_restoring(self, request: bytes, approvals: Sequence[bytes], manifest: bytes) -> bytes:
        """Where custodians send their shares: the document of `custody.Target`."""
        return self._asked("S_RestoreBegin", request, _array(approvals), manifest)

    def send_share(self, envelope: bytes) -> int:
        """How many more shares it takes."""
        told = msgspec.json.decode(self._asked("S_RestoreShare", envelope), type=dict[str, int])
        return told["missing"]

    def restore(self, records: Iterator[bytes]) -> dict[str, int]:
        """Send all records and the signature; how many objects and slots were taken over."""
        waiting = next(records)
        for following in records:
            self._asked("S_RestorePiece", waiting)
            waiting = following
        return msgspec.json.decode(self._asked("S_RestoreEnd", waiting), type=dict[str, int])

    def trail(self, key: bytes, kept: End | None = None) -> Iterator[tuple[int, bytes]]:
        """The audit trail: number and body of each record, each verified before it is given.

        key: the module's audit key, 32 bytes. kept: an earlier end, which must be in it. That it is
        all of it shows at its end, where this raises CryptoModuleError if it is not.
        """
        nonce = os.urandom(checkpoints.NONCE_SIZE)
        end = checkpoints.verify(self._asked("S_AuditCheckpoint", nonce), key, nonce)
        verifier = Verifier(key)
        wanted = {end.seq: end.hash} | ({} if kept is None else {kept.seq: kept.hash})
        after = 0
        while records := checkpoints.unpack(self._asked("S_AuditRecords", after)):
            verifier.follow(records)
            for seq, body, digest, _ in records:
                if wanted.get(seq) == digest.hex():
                    del wanted[seq]
                yield seq, body
                after = seq
        verifier.end()
        if wanted:
            raise CryptoModuleError(
                f"audit: the trail is not the one whose end is {max(wanted)}: it was cut off"
            )

    def _asked(self, name: str, *arguments: Any) -> bytes:
        answer = self._caller.one(name, *arguments)
        if not isinstance(answer, bytes) or answer[:1] not in (b"\0", b"\1"):
            raise CryptoModuleError("the module's answer can't be read")
        if answer[:1] == b"\1":
            raise CryptoRefused(answer[1:].decode("utf-8", "replace"))
        return answer[1:]


def inspected(file: IO[bytes]) -> tuple[archive.Manifest, str, int]:
    """What a backup says to anybody: its manifest, its digest, its records. Raises CryptoRefused.

    That it is whole and signed by the module that it names is verified; whose that module is, only
    its audit key can tell.
    """
    manifest, records = archive.read(file)
    check = archive.Check(manifest)
    number, waiting = 0, next(records)
    for following in records:
        check.record(waiting)
        waiting = following
        number += 1
    check.finish(waiting)
    return check.manifest, archive.digest_of(manifest).hex(), number


def manifest_of(path: Path) -> bytes:
    """A backup's manifest. Raises CryptoRefused."""
    with path.open("rb") as file:
        return archive.read(file)[0]


def _array(approvals: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(approvals) + b"]"


def _read(decoder: msgspec.json.Decoder[Standing], data: bytes) -> Standing:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        raise CryptoModuleError("the module's answer can't be read") from None


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_STANDING = msgspec.json.Decoder(standing.Standing)
