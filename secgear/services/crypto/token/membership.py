"""How an enclave on another machine becomes a member of the domain, and how one stops to be.

The applicant makes a key pair, and evidence that it has. A member verifies that this is an enclave
like itself, encrypts the domain key to it, and gives evidence that it did. The applicant verifies
that the donor is an enclave like itself, too, before it keeps anything: otherwise its host could
give it a domain of the host's own making. Hosts carry the messages, and can only lose them.

An enclave like oneself: the same kind of TEE, in a state no worse; and the same image, or where the
module is sealed to a signer, that signer's, of the same product, in a version at least as high as
any that has written to the module.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from typing import Final, TypeVar, final

import msgspec

from secgear.base.tee import Evidence, Guest, SealingPolicy
from secgear.errors import CryptoModuleError, CryptoRefused, EvidenceMalformed
from secgear.middleware.attestation import Policy, bundle, envelope, examine, verify
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.policy.model import Accept, Allow, TcbRules
from secgear.middleware.attestation.values import Hex
from secgear.middleware.sealing import seal, unseal
from secgear.services.crypto.roles.operations import AdmitEnclave
from secgear.services.crypto.token import keyring, members
from secgear.services.crypto.token.authority import Badge
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.governing import authorised
from secgear.services.crypto.token.keyring import Credential
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.state import Member, MemberRow, Root, encode
from secgear.services.crypto.token.vault import Vault

MAX_SIZE: Final = 16 << 20
"""Bytes of an application or a welcome; evidence has at most 8 MiB."""
LIFETIME: Final = datetime.timedelta(days=1)
"""For which an application may be granted, by the clocks of the hosts."""
_VERSION: Final = 1
_APPLICATION: Final = b"secgear crypto application v1\0"
_WELCOME: Final = b"secgear crypto welcome v1\0"
_SELF: Final = b"secgear crypto self v1\0"
_PENDING: Final = b"secgear crypto pending v1"
_OF_PLATFORM: Final = ("launch", "mrseam", "mrsignerseam")  # judged apart, or with the TCB
_BOUNDED: Final = ("snp", "cca")  # TEEs whose components can make up for an assessment

T = TypeVar("T", "_Application", "_Welcome")


class _Application(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """not_after: seconds since 1970."""

    version: int
    public: bytes
    not_after: int
    evidence: bytes

    @property
    def report_data(self) -> bytes:
        bound = _APPLICATION + self.not_after.to_bytes(8, "big") + self.public
        return hashlib.sha512(bound).digest()


class _Welcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """audit: the module's audit key."""

    version: int
    audit: bytes
    grant: bytes
    evidence: bytes

    def report_data(self, applicant: bytes) -> bytes:
        granted = hashlib.sha256(self.grant).digest()
        return hashlib.sha512(_WELCOME + self.audit + granted + applicant).digest()


class _Pending(msgspec.Struct, frozen=True):
    """What an applicant keeps until it is welcomed. roots: as in `Founding`."""

    secret: bytes
    roots: tuple[Root, ...]

    def __repr__(self) -> str:
        return "_Pending(…)"


@final
class Kin:
    """Judges whether evidence is of an enclave like this one.

    roots: whom to believe besides the vendors, if this enclave itself has to be believed by one of
    them: on hardware that its vendor vouches for, only vendors vouch for others.
    Raises AttestationError when this enclave's own evidence can't be verified.
    """

    def __init__(
        self,
        guest: Guest,
        policy: SealingPolicy,
        roots: tuple[Root, ...],
        collateral: Collateral,
        at: datetime.datetime,
    ) -> None:
        added = [bundle.AddedRoot(one.family, one.name, one.pem, one.subject) for one in roots]
        anchors = bundle.anchors_with(added)
        nonce = hashlib.sha512(_SELF + os.urandom(32)).digest()
        own = verify(guest.evidence(nonce), at=at, collateral=collateral, anchors=anchors)
        if own.report_data[: len(nonce)] != nonce:
            raise CryptoModuleError("this enclave's evidence is not its own")
        self._own = own
        self._policy = policy
        self._anchors: Anchors = builtin_anchors() if own.root.builtin else anchors
        self._collateral = collateral
        self._at = at

    def check(self, evidence: Evidence, report_data: bytes, svn: int) -> Claims:
        """The claims of evidence that is trusted. svn: the least. Raises Untrusted."""
        verdict = examine(
            evidence,
            self._rules(svn),
            at=self._at,
            report_data=report_data,
            collateral=self._collateral,
            anchors=self._anchors,
        )
        return verdict.require()

    def _rules(self, svn: int) -> Policy:
        own = self._own
        if self._policy is SealingPolicy.SIGNER:
            if own.signer is None or own.product is None:
                raise CryptoModuleError("this enclave's evidence names no signer and product")
            accept = Accept(
                tees=(own.tee,),
                signers=(Hex(own.signer),),
                products=(own.product,),
                min_svn=max(svn, own.svn or 0),
            )
        else:
            # What was launched may be no more than firmware; then registers tell what it has begun.
            accept = Accept(
                tees=(own.tee,),
                measurements=(Hex(own.measurements["launch"]),),
                registers={
                    name: (Hex(value),)
                    for name, value in own.measurements.items()
                    if name not in _OF_PLATFORM
                },
            )
        minimum = {own.tee: own.tcb.components} if own.tee in _BOUNDED else {}
        return Policy(
            name="members of a cryptographic module",
            accept=accept,
            tcb=TcbRules(minimum={tee: parts for tee, parts in minimum.items() if parts}),
            allow=Allow(
                debug=own.debug,
                simulated=own.simulated,
                migratable=own.migratable,
                test_roots=not own.root.builtin,
            ),
        )


def apply(
    guest: Guest, policy: SealingPolicy, roots: tuple[Root, ...], at: datetime.datetime
) -> tuple[bytes, bytes]:
    """An application for a member to grant, and what this enclave has to be given back then."""
    secret = keyring.new_secret()
    public = Credential(secret, b"").public
    made = _Application(_VERSION, public, int((at + LIFETIME).timestamp()), b"")
    evidence = envelope.to_cbor(guest.evidence(made.report_data))
    pending = seal(encode(_Pending(secret, roots)), policy=policy, aad=_PENDING, guest=guest)
    return encode(msgspec.structs.replace(made, evidence=evidence)), pending


def admit(  # noqa: PLR0917  (the last one only where there are administrators)
    vault: Vault,
    application: bytes,
    collateral: Collateral,
    guest: Guest,
    at: datetime.datetime,
    decision: tuple[bytes, bytes] = (b"", b""),
) -> bytes:
    """Admit an applicant. Returns its welcome.

    decision: request and approvals, which it takes where the module has administrators. Raises
    CryptoModuleError for what is no application, AttestationError (Untrusted) for one by something
    else than an enclave like this one, CryptoRefused without the decision.
    """
    given = _read(_APPLICATIONS, application, "application")
    if not 0 <= given.not_after < 1 << 40 or at.timestamp() >= given.not_after:
        raise CryptoModuleError("the application has expired")
    if given.not_after > (at + 2 * LIFETIME).timestamp():
        raise CryptoModuleError("the application is of the future")
    keyring.check_public(given.public)
    head = vault.head
    if not head.founding.witness:
        raise CryptoRefused("a file of its host's counts for this module; others need a witness")
    kin = Kin(guest, vault.policy, head.founding.roots, collateral, at)
    claims = kin.check(_evidence(given.evidence), given.report_data, head.svn)
    member = Member(
        keyring.member_id(given.public), given.public, claims.tee, claims.measurements["launch"]
    )

    def add(draft: Draft) -> bytes:
        members.check_room(draft.head, member)
        if draft.head.roles.administrators:
            done = authorised(draft, *decision, vault=vault, badge=Badge(), actor="host")
            if done.operation != AdmitEnclave(hashlib.sha256(application).hexdigest()):
                raise CryptoRefused("the request is for something else than this application")
        grant = keyring.grant(draft.head, member.public)
        if member not in draft.head.members:
            draft.alter(members=(*draft.head.members, member))
        draft.members.append(MemberRow(member.id, b"", grant))
        draft.record(Event("member admitted", "host", None, members.told(member)))
        return grant

    welcome = _Welcome(_VERSION, vault.audit_key, vault.transact(add), b"")
    evidence = envelope.to_cbor(guest.evidence(welcome.report_data(member.public)))
    return encode(msgspec.structs.replace(welcome, evidence=evidence))


def accept(
    pending: bytes,
    welcome: bytes,
    *,
    collateral: Collateral,
    guest: Guest,
    policy: SealingPolicy,
    at: datetime.datetime,
) -> tuple[bytes, bytes]:
    """The applicant's part: its id as a member, and the credential that makes it one.

    Raises CryptoModuleError, SealedForOther, AttestationError (Untrusted).
    """
    own = _PENDINGS.decode(unseal(pending, aad=_PENDING, policy=policy, guest=guest))
    given = _read(_WELCOMES, welcome, "welcome")
    credential = Credential(own.secret, given.audit)
    kin = Kin(guest, policy, own.roots, collateral, at)
    kin.check(_evidence(given.evidence), given.report_data(credential.public), 0)
    keyring.accepted(credential, given.grant)
    return credential.id, credential.sealed(guest, policy)


def expel(vault: Vault, id: bytes) -> None:
    """A member gets no domain key any more; rotate, so that the one it has opens nothing new.

    Raises CryptoRefused for who is none, for this enclave's own platform, and where there are
    administrators, whose decision it is.
    """

    def decide(draft: Draft) -> None:
        if draft.head.roles.administrators:
            raise CryptoRefused("it is the administrators' to decide: secgear crypto request expel")
        members.remove(draft, id, vault.member)

    vault.transact(decide)


def _evidence(data: bytes) -> Evidence:
    try:
        return envelope.from_cbor(data)
    except EvidenceMalformed as error:
        raise CryptoModuleError(f"no evidence: {error}") from None


def _read(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    if len(data) > MAX_SIZE:
        raise CryptoModuleError(f"the {what} has {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        given = decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        raise CryptoModuleError(f"the bytes are no {what}") from None
    if given.version != _VERSION:
        raise CryptoModuleError(f"the {what} is of version {given.version}, not {_VERSION}")
    return given


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_APPLICATIONS = msgspec.msgpack.Decoder(_Application)
_WELCOMES = msgspec.msgpack.Decoder(_Welcome)
_PENDINGS = msgspec.msgpack.Decoder(_Pending)
