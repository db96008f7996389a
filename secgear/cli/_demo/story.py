"""The demo's chapters, in their order."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, final

import msgspec

from secgear.cli._demo import parties
from secgear.cli._demo.cast import Part, PartFailed, blame
from secgear.cli._demo.report import (
    Contribution,
    Deception,
    Escape,
    ImageFacts,
    LayerFacts,
    OwnerFacts,
    Report,
    TeeFacts,
    Try,
)
from secgear.errors import SecGearError

if TYPE_CHECKING:
    from secgear.base.image import Image
    from secgear.base.signing import PrivateKey
    from secgear.cli._demo.screen import Screen, Update

_FILES: Final = Path(__file__).parent
_DEMANDS: Final = {
    "airline": "the program that it has read, to the last byte: its measurement",
    "weather service": "what the program's maker has signed, from svn 1 on",
}
# The owners' rule that groups of fewer than 50 flights stay inside, undone.
_RULE, _UNDONE = b"SMALLEST_GROUP = 50", b"SMALLEST_GROUP = 1"


class EnclaveEnded(SecGearError):
    """The enclave is gone, and what is gone refuses nothing."""

    code = "demo.enclave_ended"


@final
class Story:
    """Directs the parts, fills the report, shows it. A context manager: leaving ends the parts.

    Each chapter stands on those before it. Raises SecGearError when it can't go on; `root_of` tells
    what is behind a party's failure.
    """

    def __init__(self, folder: Path, screen: Screen, report: Report) -> None:
        from secgear.base import signing
        from secgear.base.tee import choose

        self._folder = folder
        self._screen = screen
        self._report = report
        self._key = signing.generate_key()  # the maker's; never written anywhere
        self._maker = signing.signer_of(self._key).hex()
        self._tee, self._availability = choose("auto")
        self._others: list[Future[None]] = []
        self._decoy = f"decoy-{secrets.token_hex(16)}"
        self.address = ""
        self.enclave: int | None = None  # its process on the host, if there is one
        host_folder, owner_folder = folder / "host", folder / "owners"
        with contextlib.ExitStack() as stack:
            # Left last: by then those that its threads wait for are gone.
            self._pool = stack.enter_context(ThreadPoolExecutor(len(parties.OWNERS) + 2))
            for each in (host_folder, owner_folder):
                each.mkdir()
            host = Part("host", "host", str(host_folder), folder=folder)
            self.host = stack.enter_context(host)
            self.owners = [
                stack.enter_context(Part(name, "owner", name, folder=owner_folder))
                for name in parties.OWNERS
            ]
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def tell(self) -> None:
        """All chapters, and what came of them."""
        from secgear.cli._demo.limits import limits

        chapters = (
            *(self.build, self.launch, self.verify, self.contribute, self.answer),
            *(self.look, self.deceive, self.escape, self.break_in),
        )
        for chapter in chapters:
            start = time.perf_counter()
            chapter()
            self._report.seconds[chapter.__name__] = round(time.perf_counter() - start, 3)
        self._report.limits = limits(self._report, self._tee)
        self._report.judge()

    def root_of(self, error: PartFailed) -> SecGearError:
        """What is behind a party's failure: somebody else who is gone, if there is one."""
        lost = blame([self.host, *self.owners])
        if lost is not None:
            return lost
        with contextlib.suppress(SecGearError):
            if not self.host.ask("alive"):
                return EnclaveEnded(f"the enclave has ended; {error}")
        return error

    # --- the agreement ----------------------------------------------------------------------------

    def build(self) -> None:
        """The owners make keys, and the program becomes an image that names them."""
        self._screen.chapter("1  Build, measure, sign")
        with self._screen.step("each owner makes a key"):
            certificates = "".join(self._of_each(lambda owner: owner.ask("certificate")))
        with self._screen.step("building and measuring the image"):
            source = self._source("flights", "flights.py", certificates)
            image = self._make("flights", source, self._key)
        # What the host will try to pass off for it; nobody has to wait for these yet.
        self._others = [
            self._pool.submit(make, certificates) for make in (self._alter, self._stranger)
        ]
        manifest = image.manifest
        self._report.image = ImageFacts(
            manifest.name,
            manifest.version,
            manifest.svn,
            image.measurement.hex(),
            self._maker,
            len(image.data),
            [f"{entry.name} {entry.version}" for entry in manifest.requires],
        )
        self._screen.image(self._report.image)

    def _source(self, name: str, program: str, certificates: str) -> Path:
        """A folder with a program and the owners' certificates, to build an image of."""
        folder = self._folder / name
        folder.mkdir()
        shutil.copy(_FILES / program, folder / "app.py")
        (folder / "owners.pem").write_text(certificates)
        return folder

    def _make(self, name: str, source: Path, key: PrivateKey) -> Image:
        from secgear.base import signing
        from secgear.base.build import build

        image = signing.sign(build(source), key)
        image.save(self._image(name))
        return image

    def _alter(self, certificates: str) -> None:
        """The owners' program without the rule that protects small groups, signed by the host."""
        from secgear.base import signing

        source = self._source("altered", "flights.py", certificates)
        text = (source / "app.py").read_bytes()
        (source / "app.py").write_bytes(text.replace(_RULE, _UNDONE))
        self._make("altered", source, signing.generate_key())

    def _stranger(self, certificates: str) -> None:
        """Another program, genuine, for the same owners and signed by the same maker."""
        self._make("other", self._source("other", "stranger.py", certificates), self._key)

    def _image(self, name: str) -> str:
        return str(self._folder / "host" / f"{name}.sgear")

    # --- what happens -----------------------------------------------------------------------------

    def launch(self) -> None:
        """The host starts the enclave."""
        self._screen.chapter("2  The host launches it, in the best TEE of this machine")
        with self._screen.step("starting the enclave"):
            launched = self.host.ask(
                "launch",
                name="genuine",
                image=self._image("flights"),
                tee=self._tee.name,
                signer=self._maker,
            )
        self.address, self.enclave = launched["address"], launched["pid"]
        # The enclave tells what holds, the probe what that means.
        meanings = {layer.name: layer.detail for layer in self._availability.layers if layer.holds}
        layers = [
            LayerFacts(name, holds, detail or meanings.get(name, ""))
            for name, holds, detail in launched["layers"]
        ]
        tee = self._tee
        self._report.tee = TeeFacts(tee.name, tee.simulated, tee.protects, layers)
        self._screen.tee(self._report.tee, self._report.host)

    def verify(self) -> None:
        """Both owners connect; nothing was sent before they have verified it."""
        self._screen.chapter("3  Two data owners verify it, each under its own policy")
        with self._screen.step("verifying"):
            self._report.owners = self._of_each(self._introduce)
        self._screen.owners(self._report.owners)

    def _introduce(self, owner: Part) -> OwnerFacts:
        """One owner makes up a policy, and connects."""
        from secgear.middleware.attestation.own import own_simulated_root

        facts = OwnerFacts(name=owner.name, demands=_DEMANDS[owner.name])
        facts.policy = owner.ask(
            "agree", image=self._image("flights"), maker=self._maker, root=own_simulated_root().pem
        )
        facts.refused_for = self._refused(owner, production=True)
        met = owner.ask("meet", address=self.address)
        facts.trusted, facts.format = True, met["format"]
        facts.tls, facts.claims = met["tls"], met["claims"]
        return facts

    def _refused(self, owner: Part, *, production: bool = False) -> list[str]:
        """The checks for which an owner refuses whom it is led to; empty if it trusts."""
        try:
            owner.ask("verify", address=self.address, production=production)
        except PartFailed as error:
            if not error.checks:
                raise
            return list(error.checks)
        return []

    def contribute(self) -> None:
        """Both send their tables."""
        self._screen.chapter("4  They send their tables, through the host")
        with self._screen.step("the owners send their tables") as update:
            sent = self._of_each(lambda owner: (owner.ask("read"), owner.ask("contribute")), update)
        for owner, (read, counted) in zip(self.owners, sent, strict=True):
            for (name, _, size), (_, rows) in zip(read, counted, strict=True):
                self._report.parties.append(Contribution(owner.name, name, rows, size))
                self._screen.contribution(self._report.parties[-1])

    def answer(self) -> None:
        """Both ask, and are given the same."""
        self._screen.chapter(f"5  {self._report.question}")
        with self._screen.step("joining") as update:
            answers = self._of_each(lambda owner: owner.ask("answer"), update)
        if any(answer != answers[0] for answer in answers):
            raise PartFailed("the owners were given different answers", "demo.answers")
        self._report.answer = answers[0]
        self._screen.answer(answers[0])

    # --- what the host sees, and tries ------------------------------------------------------------

    def look(self) -> None:
        """Search everything that the host has."""
        from secgear.cli._demo import looking
        from secgear.cli._demo.needles import Needle

        self._screen.chapter("6  What the host has seen")
        folder = self._folder / "host"
        with self._screen.step("putting a decoy where we look"):
            self.host.ask("plant", decoy=self._decoy)
        with self._screen.step("searching") as update:
            samples = self._of_each(lambda owner: owner.ask("samples"))
            known = [msgspec.convert(one["needles"], list[Needle]) for one in samples]
            update("searching the host", 0.2)
            everything = list(dict.fromkeys(needle for one in known for needle in one))
            self._report.seen = looking.at_the_host(
                folder, self.host.process.pid, everything, self._decoy
            )
            update("searching the owners", 0.6)
            self._report.control = [
                looking.at_an_owner(owner.name, owner.process.pid, own)
                for owner, own in zip(self.owners, known, strict=True)
            ]
            update("taking the recording apart", 0.8)
            self._report.carried = looking.carried(
                folder, self.host.ask("seen"), self._decoy, samples[0]["compressed"]
            )
        self._screen.seen(self._report)

    def deceive(self) -> None:
        """The host leads the owners elsewhere, and asks the enclave itself."""
        self._screen.chapter("7  The host deceives")
        with self._screen.step("leading the owners elsewhere"):
            for image in self._others:
                image.result()
            for name, what in (
                ("altered", "the same program, altered to give away small groups"),
                ("other", "another program of the same maker, in a genuine enclave"),
            ):
                self.host.ask("launch", name=name, image=self._image(name), tee=self._tee.name)
                self.host.ask("divert", name=name)
                refused = self._of_each(self._refused)
                self._report.deceptions.append(
                    Deception(what, dict(zip(parties.OWNERS, refused, strict=True)))
                )
            self.host.ask("divert", name="genuine")
            self._of_each(lambda owner: owner.ask("verify", address=self.address))
        with self._screen.step("asking the enclave"):
            policy = self._report.owners[0].policy
            tries = self.host.ask("ask_itself", policy=policy)
        self._report.tries = msgspec.convert(tries, list[Try])
        self._screen.deceptions(self._report)

    def escape(self) -> None:
        """Code inside tries to get out."""
        self._screen.chapter("8  Try to get out")
        with self._screen.step("trying to get out"):
            attempts = self.host.ask("try_to_get_out")
        self._report.escapes = msgspec.convert(attempts, list[Escape])
        self._screen.escapes(self._report.escapes)

    def break_in(self) -> None:
        """A process of the same user tries to get in."""
        from secgear.cli._demo.attacking import break_in

        self._screen.chapter("9  Try to break in")
        if self.enclave is None:
            self._screen.say("This TEE has no process on the host that could be attacked.")
            return
        with self._screen.step("breaking in"):
            self._report.attacks, self._report.attacker = break_in(self.enclave)
            if not self.host.ask("alive"):
                raise EnclaveEnded("the enclave ended during the break-in")
        self._screen.attacks(self._report.attacks, self._report.attacker)

    # --- directing --------------------------------------------------------------------------------

    def _of_each(self, ask: Callable[[Part], Any], update: Update | None = None) -> list[Any]:
        """What each owner says, all asked at once. Raises the first one's error.

        update: shown what the enclave tells its host meanwhile of how the work goes on.
        """
        asked = [self._pool.submit(ask, owner) for owner in self.owners]
        while update is not None and wait(asked, 0.05, FIRST_EXCEPTION).not_done:
            if any(one.done() and one.exception() for one in asked):
                break
            self.host.overhear(update)
        return [one.result() for one in asked]
