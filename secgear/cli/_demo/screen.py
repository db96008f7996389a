"""What the demo shows to people: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from secgear.cli._demo.report import (
    Attack,
    Carried,
    Contribution,
    Escape,
    ImageFacts,
    Outcome,
    OwnerFacts,
    Report,
    TeeFacts,
    User,
)

Update = Callable[[str, float], None]

_LONG: Final = 96
_STYLES: Final = {"refused": "green", "broken": "bold red", "inconclusive": "yellow"}


class Screen:
    """The terminal. quiet: nothing on standard output, which is for JSON then."""

    def __init__(self, *, quiet: bool) -> None:
        self._out = Console(quiet=quiet, highlight=False, soft_wrap=False)
        self._err = Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Update]:
        """Show that `title` is being worked on; the update takes a stage and a fraction of it."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=self._err,
            transient=True,
            disable=not self._err.is_terminal,
        )
        if not self._err.is_terminal:
            print(f"{title} …", file=sys.stderr, flush=True)
        with progress:
            task = progress.add_task(title, total=None)

            def update(stage: str, fraction: float) -> None:
                progress.update(task, description=stage, completed=fraction, total=1.0)

            yield update

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self._out.print()
        self._out.print(Text(f"── {title} ".ljust(self._out.width, "─"), style="bold"))

    def say(self, text: str, style: str = "") -> None:
        """A paragraph."""
        self._out.print(Text(text, style=style))

    def image(self, facts: ImageFacts) -> None:
        """What was measured and who signed it."""
        self._pairs(
            {
                "image": f"{facts.name} {facts.version}, svn {facts.svn}, {facts.bytes:,} bytes",
                "measurement": _hex(facts.measurement),
                "signer": _hex(facts.signer),
                "measured with it": ", ".join(facts.requires),
            }
        )

    def tee(self, facts: TeeFacts, host: User) -> None:
        """Where the enclave runs and what isolates it."""
        if facts.simulated:
            self.say(f"SIMULATION in the {facts.name} TEE", "bold yellow")
            self.say("No hardware protects this memory, only the kernel.", "yellow")
        else:
            self.say(f"TEE: {facts.name}", "bold green")
        self.say(f"What it protects: {facts.protects}. The host runs as uid {host.uid}.")
        table = _table("isolation layer", "holds", "")
        for layer in facts.layers:
            holds = Text("yes", "green") if layer.holds else Text("NO", "bold red")
            table.add_row(Text(layer.name), holds, Text(layer.detail, "dim"))
        self._out.print(table)

    def contribution(self, facts: Contribution) -> None:
        """A table has arrived inside."""
        self.say(
            f"{facts.owner:>15}  →  {facts.name:<8}  {facts.rows:>7,} rows, "
            f"{facts.bytes / 1e3:>6,.0f} kB"
        )

    def answer(self, rows: list[dict[str, object]]) -> None:
        """The one thing that leaves: an aggregate."""
        self.say(
            "Flights by weather in the hour of departure; the share that was cancelled, the mean "
            "delay at departure, the share that left more than 30 minutes late.",
        )
        table = _table("airport", "weather", "flights", "cancelled", "delay", "late")
        for column in table.columns[2:]:
            column.justify = "right"
        before = ""
        for row in rows:
            airport = str(row["airport"])
            table.add_row(
                Text(airport if airport != before else ""),
                Text(str(row["weather"])),
                f"{row['flights']:,}",
                f"{row['cancelled']:.1f} %",
                f"{row['mean_delay']:.1f} min",
                f"{row['late']:.1f} %",
            )
            before = airport
        self._out.print(table)

    def escapes(self, attempts: list[Escape]) -> None:
        """What code inside tried, by what should stop it."""
        table = _table("by", "tried", "", "in its words")
        before = ""
        for attempt in attempts:
            barrier, before = attempt.barrier if attempt.barrier != before else "", attempt.barrier
            table.add_row(
                Text(barrier),
                Text(attempt.what),
                _refused(attempt.refused),
                # DuckDB's messages name the object before the dash and the reason after it.
                Text(attempt.how.rpartition(" - ")[2].rpartition(" Error: ")[2], "dim"),
            )
        self._out.print(table)

    def owners(self, owners: list[OwnerFacts]) -> None:
        """Who demands what, and what came of it."""
        for facts in owners:
            tls = facts.tls
            pairs: dict[str, str | Text] = {
                "demands": facts.demands,
                "verdict": _good(
                    facts.trusted, "authentic, made for this connection, and what it demands"
                ),
                "session": f"{tls['version']}, {tls['group']}, {tls['suite']}",
            }
            if facts.refused_for:
                pairs["production"] = Text(
                    f"without allowing a simulation: refused by {', '.join(facts.refused_for)}",
                    "yellow",
                )
            self.say(f"The {facts.name}", "bold")
            self._pairs(pairs)
        facts = owners[0]
        self.say("What the evidence says, verified", "bold")
        claims = {name: _claim(name, value) for name, value in facts.claims.items()}
        self._pairs({"format": facts.format, **claims})

    def seen(self, report: Report) -> None:
        """Where it was looked, and what was there."""
        self.say(
            "We look for pieces of the tables' columns and of the answer, and for a decoy that was "
            "put there to be found. In the owners' own memory the same search must find all."
        )
        table = _table("", "searched", "owners' data", "decoy")
        for column in table.columns[1:3]:
            column.justify = "right"
        for place in (*report.seen, *report.control):
            if place.unseen:
                table.add_row(Text(place.what), Text(place.unseen, "yellow"))
                continue
            good = place.found == (0 if place.decoy is not None else place.pieces)
            decoy = {None: Text(""), True: Text("found"), False: Text("MISSED", "bold red")}
            table.add_row(
                Text(place.what),
                _size(place.bytes),
                Text(f"{place.found} of {place.pieces}", "green" if good else "bold red"),
                decoy[place.decoy],
            )
        self._out.print(table)
        if report.carried is not None:
            self._carried(report.carried)

    def _carried(self, facts: Carried) -> None:
        total = facts.encrypted + facts.hellos + facts.headers + facts.other
        complete = "as much as its relay has counted" if facts.complete else "NOT ALL OF IT"
        self.say(
            f"The recording: {total:,} bytes of {facts.connections} connections, {complete}. "
            f"{facts.encrypted:,} are encrypted, {facts.hellos:,} hellos and alerts of TLS, "
            f"{facts.headers:,} headers of {facts.records:,} records, {facts.other:,} anything "
            f"else. What is encrypted compresses to {100 * facts.compressed:.1f} %, the airline's "
            f"tables to {100 * facts.tables:.0f} %."
        )

    def deceptions(self, report: Report) -> None:
        """Where the owners were led, and what the host tried itself."""
        table = _table("it leads the owners to", *(owner.name for owner in report.owners))
        for deception in report.deceptions:
            table.add_row(Text(deception.what), *map(_refusal, deception.refused.values()))
        self._out.print(table)
        table = _table("it asks for the answer itself", "", "in its words")
        for attempt in report.tries:
            table.add_row(Text(attempt.what), _refused(attempt.refused), Text(attempt.how, "dim"))
        self._out.print(table)

    def attacks(self, attacks: list[Attack], attacker: User) -> None:
        """Each attack, on the enclave and on an ordinary process."""
        self.say(
            f"The attacker: uid {attacker.uid}, capabilities {attacker.capabilities}, the same "
            "user as the host. As a control it does the same to an ordinary process."
        )
        table = _table("attack", "", "on the enclave", "on an ordinary process")
        for attack in attacks:
            table.add_row(
                Text(attack.what),
                Text(attack.means, "dim"),
                Text(_outcome(attack.enclave), _STYLES[attack.verdict]),
                Text(_outcome(attack.ordinary)),
            )
        self._out.print(table)

    def closing(self, report: Report) -> None:
        """What held, and what this does not protect from."""
        self.chapter("What this shows, and what it does not")
        if report.holds:
            attacks = " Nobody got in." if report.attacks else ""
            self.say(
                "The host has seen none of the owners' data, and could deceive none of them. "
                f"Nothing got out.{attacks}",
                "bold green",
            )
        else:
            self.say("NOT EVERYTHING HELD; the tables above show what.", "bold red")
        points = Table.grid(padding=(0, 1))
        for limit in report.limits:
            points.add_row("•", Text(limit))
        self._out.print(points)
        self.say(f"{sum(report.seconds.values()):.1f} seconds", "dim")

    def _pairs(self, pairs: Mapping[str, str | Text]) -> None:
        grid = Table.grid(padding=(0, 2))
        for name, value in pairs.items():
            grid.add_row(Text(name, style="dim"), Text(value) if isinstance(value, str) else value)
        self._out.print(grid)


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.show_header = bool(headings)
    for heading in headings:
        table.add_column(heading)
    return table


def _hex(digest: str) -> str:
    """Two lines that can be compared by eye."""
    half = len(digest) // 2
    return f"{digest[:half]}\n{digest[half:]}"


def _good(holds: bool, what: str) -> Text:
    return Text(f"trusted: {what}", "green") if holds else Text(f"NOT {what}", "bold red")


def _refused(refused: bool) -> Text:
    return Text("refused", "green") if refused else Text("NOT REFUSED", "bold red")


def _refusal(checks: list[str]) -> Text:
    if not checks:
        return Text("NOT REFUSED", "bold red")
    return Text("refused: ", "green").append(", ".join(checks), "dim")


def _size(count: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} B"


def _claim(name: str, value: object) -> str:
    """A claim in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return _hex(text) if len(text) >= _LONG else text


def _outcome(outcome: Outcome) -> str:
    """One attack's end: the detail says what was got, the error's symbol why nothing was."""
    if outcome.result == "succeeded":
        return f"SUCCEEDED: {outcome.detail}"
    return f"{outcome.result}, {outcome.errno}"
