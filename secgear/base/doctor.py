"""Examine this machine for every installed TEE: what `secgear doctor` shows.

The report is plain data: `msgspec.json.encode` gives the command's ``--json``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

import msgspec

from secgear.base.probing.machine import Machine, clean, this_machine
from secgear.base.tee import BrokenPlugin, Discovery, Layer, Tee, ask, discover
from secgear.base.transport import ring

SCHEMA = "secgear.doctor/1"


class MachineFacts(msgspec.Struct, frozen=True):
    """The machine, for whoever reads the report elsewhere.

    container: what shows that we are in one, empty if nothing does.
    """

    kernel: str
    arch: str
    python: str
    cpu: str
    container: str


class Row(msgspec.Struct, frozen=True):
    """One registered TEE.

    broken: the plug-in can't be loaded; then only name, reason and fix say anything.
    Other fields as in `Tee` and `Availability`.
    """

    name: str
    available: bool
    reason: str
    fix: str = ""
    protects: str = ""
    strength: int = 0
    simulated: bool = False
    facts: Mapping[str, str] = {}
    layers: tuple[Layer, ...] = ()
    broken: bool = False


class Switchless(msgspec.Struct, frozen=True):
    """Whether switchless calls have their native ring here; they take the stream otherwise."""

    available: bool
    reason: str
    fix: str = ""


class Report(msgspec.Struct, frozen=True):
    """The whole examination.

    tees: strongest first, broken plug-ins last. auto: the name that ``tee="auto"`` takes, None
    if no TEE is available. schema: changes when a field changes its meaning.
    """

    schema: str
    machine: MachineFacts
    tees: tuple[Row, ...]
    auto: str | None
    switchless: Switchless


def examine(discovery: Discovery | None = None, machine: Machine | None = None) -> Report:
    """Probe every installed TEE. Never raises for what a machine or a plug-in is like.

    discovery, machine: what to examine; None for what is installed and where this runs.
    """
    discovery = discover() if discovery is None else discovery
    rows = [_row(tee) for tee in discovery.tees.values()]
    return Report(
        schema=SCHEMA,
        machine=machine_facts(machine or this_machine()),
        tees=(*rows, *(_broken(plugin) for plugin in discovery.broken)),
        auto=next((row.name for row in rows if row.available), None),
        switchless=_switchless(),
    )


def _switchless() -> Switchless:
    if ring.available():
        return Switchless(available=True, reason="the native ring is there")
    return Switchless(available=False, reason=ring.reason(), fix=ring.FIX)


def machine_facts(machine: Machine) -> MachineFacts:
    """Kernel, architecture, Python, CPU and container of `machine`."""
    return MachineFacts(
        kernel=f"{platform.system()} {platform.release()}",
        arch=machine.arch,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        cpu=machine.cpu.model,
        container=container(machine, os.environ),
    )


def container(machine: Machine, environ: Mapping[str, str]) -> str:
    """What shows that this process is in a container; empty if nothing does.

    Docker leaves /.dockerenv, Podman /run/.containerenv, systemd's kin /run/systemd/container
    (systemd, "The Container Interface"); Kubernetes sets KUBERNETES_SERVICE_HOST.
    """
    manager = clean(machine.read("/run/systemd/container") or "")
    if manager:
        return f"{manager} (/run/systemd/container)"
    if machine.exists("/run/.containerenv"):
        return "podman (/run/.containerenv)"
    if machine.exists("/.dockerenv"):
        return "docker (/.dockerenv)"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes (KUBERNETES_SERVICE_HOST)"
    return ""


def _row(tee: Tee) -> Row:
    availability = ask(tee)
    return Row(
        name=tee.name,
        available=availability.available,
        reason=availability.reason,
        fix=availability.fix,
        protects=tee.protects,
        strength=tee.strength,
        simulated=tee.simulated,
        facts=availability.facts,
        layers=availability.layers,
    )


def _broken(plugin: BrokenPlugin) -> Row:
    owner = plugin.distribution or "an unknown distribution"
    return Row(
        name=plugin.name,
        available=False,
        reason=clean(f"{plugin.origin} (from {owner}) {plugin.reason}", limit=500),
        fix=f"repair or uninstall {owner}",
        broken=True,
    )
