"""``secgear demo``: two parties join real data inside an enclave; then we try to break in."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

import msgspec
import typer

from secgear.base.tee import Evidence
from secgear.cli._demo import parties, unprivileged
from secgear.cli._demo.report import (
    Attack,
    Contribution,
    Escape,
    EvidenceFacts,
    ImageFacts,
    LayerFacts,
    Outcome,
    Report,
    TeeFacts,
    User,
)
from secgear.cli.output import AsJson, emit
from secgear.errors import SecGearError

if TYPE_CHECKING:
    from secgear.base.enclave import Enclave
    from secgear.base.image import Image
    from secgear.base.tee import Availability, Tee
    from secgear.cli._demo.screen import Screen
    from secgear.middleware.attestation.claims import Claims
    from secgear.middleware.attestation.verdict import Verdict

_FILES: Final = Path(__file__).with_name("_demo")
_QUESTION: Final = "What does the weather cost a flight from New York?"
_NEEDLE: Final = "Newark Liberty Intl"
_ATTACK_SECONDS: Final = 60

_MEANS: Final = {
    "/proc/PID/maps": "list memory areas",
    "/proc/PID/mem": "read memory",
    "process_vm_readv": "copy memory",
    "/proc/PID/fd": "list descriptors",
    "pidfd_getfd": "steal descriptors",
    "/proc/PID/environ": "read environment",
    "ptrace": "attach a debugger",
}
_POLICY: Final = """
name = "data owners"
[accept]
tees = ["process", "vm", "snp", "tdx", "cca", "sgx", "nitro"]
measurements = ["{}"]
{}
"""
_ALLOWANCES: Final = """
[allow]
simulated = true
test_roots = true
"""


class BreakInFailed(SecGearError):
    """The attacker could not do its work, so nothing was shown."""

    code = "demo.break_in"


def demo(as_json: AsJson = False) -> None:
    """Join two parties' real data inside an enclave, then try to break in.

    Started by root, it continues as nobody: root may look into every process, so a break-in by
    root would show nothing.
    """
    parties.check_installed()
    if os.geteuid() == 0:
        status = unprivileged.rerun(["demo", "--json"] if as_json else ["demo"])
        if status is not None:
            raise typer.Exit(status)
    from secgear.cli._demo.screen import Screen

    screen = Screen(quiet=as_json)
    report = Report(host=_myself(), question=_QUESTION)
    with _own_home():
        _run(screen, report)
    if as_json:
        emit(report)
    if not report.holds:
        raise typer.Exit(1)


def _myself() -> User:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return User(os.geteuid(), fields["CapEff"].strip())


@contextlib.contextmanager
def _own_home() -> Iterator[None]:
    """The simulated platform's keys live as long as the demo, unless the user has a place."""
    if "SECGEAR_HOME" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="secgear-demo-") as folder:
        os.environ["SECGEAR_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["SECGEAR_HOME"]


def _run(screen: Screen, report: Report) -> None:
    from secgear.base.image import LaunchPolicy
    from secgear.base.launch import launch
    from secgear.base.tee import choose

    with _timed(report, "build"):
        image, signer = _build(screen, report)
    tee, availability = choose("auto")
    progress = _Progress()
    with _timed(report, "launch"), screen.step("starting the enclave"):
        enclave = launch(
            image,
            tee=tee.name,
            ocalls={"progress": progress},
            policy=LaunchPolicy(signers=frozenset([signer]), minimum_svn=1),
        )
    with enclave:
        _show_tee(screen, report, tee, availability, enclave)
        with _timed(report, "contribute"):
            _contribute(screen, report, enclave, progress)
        with _timed(report, "answer"):
            _answer(screen, report, enclave, progress)
        with _timed(report, "escape"):
            _escape(screen, report, enclave)
        with _timed(report, "evidence"):
            _evidence(screen, report, enclave, image)
        with _timed(report, "break in"):
            _break_in(screen, report, enclave)
    report.limits = _limits(report, tee)
    report.holds = (
        all(attempt.refused for attempt in report.escapes)
        and report.evidence is not None
        and report.evidence.trusted
        and all(attack.verdict != "broken" for attack in report.attacks)
    )
    screen.chapter("What this shows, and what it does not")
    screen.closing(report)


# --- the steps -----------------------------------------------------------------------------------


def _build(screen: Screen, report: Report) -> tuple[Image, bytes]:
    """The signed image and its signer. The key is thrown away: it is never written anywhere."""
    from secgear.base import signing
    from secgear.base.build import build

    screen.chapter("1  Build, measure, sign")
    with screen.step("building and measuring the image"):
        key = signing.generate_key()
        image = signing.sign(build(_FILES / "flights.py"), key)
    manifest, signer = image.manifest, signing.signer_of(key)
    report.image = ImageFacts(
        manifest.name,
        manifest.version,
        manifest.svn,
        image.measurement.hex(),
        signer.hex(),
        len(image.data),
        [f"{entry.name} {entry.version}" for entry in manifest.requires],
    )
    screen.image(report.image)
    return image, signer


def _show_tee(
    screen: Screen, report: Report, tee: Tee, availability: Availability, enclave: Enclave
) -> None:
    # The enclave tells what holds, the probe what that means.
    meanings = {layer.name: layer.detail for layer in availability.layers if layer.holds}
    layers = [
        LayerFacts(layer.name, layer.holds, layer.detail or meanings.get(layer.name, ""))
        for layer in enclave.layers
    ]
    report.tee = TeeFacts(tee.name, tee.simulated, tee.protects, layers)
    screen.chapter("2  Launch in the best TEE of this machine")
    screen.tee(report.tee, report.host)


def _contribute(screen: Screen, report: Report, enclave: Enclave, progress: _Progress) -> None:
    screen.chapter("3  Two parties contribute")
    for name, (owner, _) in parties.TABLES.items():
        with screen.step(f"reading {name}") as update:
            table = parties.load(name)
            progress.show = update
            rows = enclave.contribute(owner, name, table)
        report.parties.append(Contribution(owner, name, rows, table.nbytes))
        screen.contribution(report.parties[-1])


def _answer(screen: Screen, report: Report, enclave: Enclave, progress: _Progress) -> None:
    screen.chapter(f"4  {_QUESTION}")
    with screen.step("joining") as update:
        progress.show = update
        report.answer = enclave.answer().to_pylist()
    screen.answer(report.answer)


def _escape(screen: Screen, report: Report, enclave: Enclave) -> None:
    screen.chapter("5  Try to get out")
    with screen.step("trying to get out"):
        attempts = enclave.try_to_get_out()
    report.escapes = [
        Escape(attempt.what, attempt.barrier, attempt.refused, attempt.how) for attempt in attempts
    ]
    screen.escapes(report.escapes)


def _evidence(screen: Screen, report: Report, enclave: Enclave, image: Image) -> None:
    screen.chapter("6  Verify the evidence")
    nonce = secrets.token_bytes(32)
    with screen.step("asking for evidence"):
        proof = enclave.prove(nonce)
    expected = hashlib.sha512(parties.EVIDENCE_LABEL + nonce).digest()
    evidence = Evidence(proof.format, proof.data)
    with screen.step("verifying it"):
        production = _judged(evidence, _POLICY.format(_measured(image), ""), expected)
        allowing = _judged(evidence, _POLICY.format(_measured(image), _ALLOWANCES), expected)
    claims = allowing.claims
    report.evidence = EvidenceFacts(
        proof.format,
        len(proof.data),
        {} if claims is None else _shown(claims),
        trusted=allowing.trusted,
        refused_for=[check.name for check in production.reasons],
    )
    screen.evidence(report.evidence)


def _judged(evidence: Evidence, policy: str, expected: bytes) -> Verdict:
    """As a data owner does it, who knows the image's measurement and chose the nonce."""
    from secgear.middleware.attestation import examine, load_policy
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.middleware.attestation.own import own_simulated_root

    return examine(
        evidence,
        load_policy(policy.encode()),
        at=datetime.datetime.now(datetime.UTC),
        report_data=expected,
        anchors=anchors_with([own_simulated_root()]),
    )


def _measured(image: Image) -> str:
    return image.measurement.hex()


def _shown(claims: Claims) -> dict[str, Any]:
    made = claims.evidence_time
    return {
        "tee": claims.tee,
        "simulated": claims.simulated,
        "debug": claims.debug,
        "measurement": claims.measurements["launch"].hex(),
        "signer": claims.signer.hex() if claims.signer else None,
        "product": claims.product,
        "svn": claims.svn,
        "root": claims.root.name,
        "made at": made.isoformat() if made else None,
    }


def _break_in(screen: Screen, report: Report, enclave: Enclave) -> None:
    screen.chapter("7  Try to break in")
    if enclave.pid is None:
        screen.say("This TEE has no process on the host that could be attacked.")
        return
    with screen.step("breaking in"), _ordinary_process() as victim:
        on_enclave, attacker = _attack(enclave.pid)
        on_victim, _ = _attack(victim)
    if not enclave.alive:
        raise BreakInFailed("the enclave ended during the break-in; what is gone refuses nothing")
    report.attacker = attacker
    report.attacks = [
        Attack(ours.means, _MEANS[ours.means], _verdict(ours, control), ours, control)
        for ours, control in zip(on_enclave, on_victim, strict=True)
    ]
    screen.attacks(report.attacks, attacker)


def _verdict(enclave: Outcome, ordinary: Outcome) -> Any:
    if enclave.result == "succeeded":
        return "broken"
    both = enclave.result == "refused" and ordinary.result == "succeeded"
    return "refused" if both else "inconclusive"


@contextlib.contextmanager
def _ordinary_process() -> Iterator[int]:
    """A process that holds the same secret, started like any other; yields its id."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_FILES / "breakin.py"), "victim"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"SECRET": _NEEDLE},
    )
    with process:
        try:
            stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
            stdin.write(f"{_NEEDLE}\n".encode())
            stdin.flush()
            stdout.readline()
            yield process.pid
        finally:
            process.kill()


def _attack(pid: int) -> tuple[list[Outcome], User]:
    command = [sys.executable, "-I", "-S", "-B", str(_FILES / "breakin.py"), "attack"]
    try:
        done = subprocess.run(
            [*command, str(pid), _NEEDLE],
            capture_output=True,
            text=True,
            timeout=_ATTACK_SECONDS,
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired:
        raise BreakInFailed(f"the attacker was not done in {_ATTACK_SECONDS} seconds") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise BreakInFailed(f"the attacker could not work: {lines[-1]}")
    found = json.loads(done.stdout)
    outcomes = msgspec.convert(found["outcomes"], list[Outcome])
    return outcomes, User(found["uid"], found["capabilities"])


def _limits(report: Report, tee: Tee) -> list[str]:
    limits = [f"What the {tee.name} TEE protects: {tee.protects}."]
    if tee.simulated:
        limits.append(
            "SIMULATION: root, the kernel, a hypervisor and whoever holds the machine can read "
            "everything. The evidence is signed by a key in a file that the same user can read, so "
            "it proves nothing to anybody."
        )
    limits.append(
        "Both parties' tables went through the memory of this host program, which other "
        "processes of the same user can read. Connections that end inside the enclave are not in "
        "this release."
    )
    limits.append("The same user can still end the enclave, and learns when it works and how long.")
    if report.attacker is not None and report.attacker.uid == 0:
        limits.append(
            "This ran as root, because no other user can read this interpreter or these packages. "
            "The attacker gave up its capabilities but not its uid, which owns what it attacked. "
            "Run the demo as another user, or from a folder that others may read."
        )
    if any(attack.verdict == "inconclusive" for attack in report.attacks):
        limits.append(
            "An attack in yellow shows nothing: it does not work here on an ordinary process "
            "either, or it failed for another reason than permission."
        )
    return limits


class _Progress:
    """The host's handler of the app's OCALL; hands on to whatever is being shown."""

    def __init__(self) -> None:
        self.show: Any = None

    def __call__(self, stage: str, fraction: float) -> None:
        if self.show is not None:
            # What an enclave says is data: it must not steer the terminal.
            plain = "".join(char for char in stage[:60] if char.isprintable())
            self.show(plain, fraction)


@contextlib.contextmanager
def _timed(report: Report, step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    report.seconds[step] = round(time.perf_counter() - start, 3)
