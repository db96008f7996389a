"""``secgear doctor``: which TEEs are available here, and what would make the others so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.output import AsJson, emit

if TYPE_CHECKING:
    from secgear.base.doctor import Report


def doctor(
    as_json: AsJson = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show isolation layers and what probes saw.")
    ] = False,
) -> None:
    """Examine this machine for every TEE: available, or the exact reason and what would fix it.

    Exits with 4 if there is none.
    """
    from secgear.base.doctor import examine

    report = examine()
    if as_json:
        emit(report)
    else:
        _show(report, verbose=verbose)
    if report.auto is None:
        raise typer.Exit(4)


def _show(report: Report, *, verbose: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    machine = report.machine
    place = f", in {machine.container}" if machine.container else ""
    console.print(
        f"{escape(machine.cpu)}, {machine.arch}, {machine.kernel}, {machine.python}{escape(place)}"
    )
    table = Table(show_lines=True)
    table.add_column("TEE", no_wrap=True)
    table.add_column("available", no_wrap=True)
    table.add_column("why, and what would fix it")
    for row in report.tees:
        state = "[green]yes[/]" if row.available else "[red]broken[/]" if row.broken else "no"
        why = escape(row.reason) + (f"\n[cyan]→ {escape(row.fix)}[/]" if row.fix else "")
        if verbose:
            why += "".join(
                f"\n[dim]{escape(name)}: {escape(value)}[/]" for name, value in row.facts.items()
            )
        label = row.name + ("\n[yellow]simulation[/]" if row.simulated else "")
        table.add_row(label, state, why)
    console.print(table)
    for row in report.tees if verbose else ():
        if not row.layers:
            continue
        layers = Table(title=f"layers of {row.name}: name them in launch(require=[...])")
        layers.add_column("layer", no_wrap=True)
        layers.add_column("holds")
        layers.add_column("what it means, or why not")
        for layer in row.layers:
            layers.add_row(
                layer.name, "[green]yes[/]" if layer.holds else "[red]no[/]", escape(layer.detail)
            )
        console.print(layers)
    switchless = report.switchless
    if switchless.available:
        console.print(
            "Switchless calls go through shared memory: " + escape(switchless.reason) + "."
        )
    else:
        console.print(
            f"Switchless calls take the stream: {escape(switchless.reason)}.\n"
            f"[cyan]→ {escape(switchless.fix)}[/]"
        )
    if report.auto is None:
        console.print("[red]No TEE is available here.[/]")
    else:
        chosen = next(row for row in report.tees if row.name == report.auto)
        console.print(
            f'tee="auto" takes [bold]{report.auto}[/] here'
            + (
                ": a simulation, no protection from whoever administers this machine."
                if chosen.simulated
                else "."
            )
        )
