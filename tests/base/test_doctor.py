import os
import platform

import msgspec
import pytest

from secgear.base import doctor
from secgear.base.probing.machine import Machine
from secgear.base.tee import Availability, BrokenPlugin, Discovery, Layer, Tee
from secgear.base.tees.snp import SnpTee
from secgear.base.tees.vm import VmTee
from secgear.base.transport import ring


class Ready(Tee):
    """A TEE that is always available."""

    name = "ready"
    protects = "from nobody; not from anybody"
    strength = 5
    simulated = True

    def probe(self):
        return Availability(
            available=True,
            reason="it is here",
            facts={"host.x": "1"},
            layers=(Layer("wall", holds=True),),
        )

    def launch(self, image, config):
        raise NotImplementedError


def report(tmp_path, *broken):
    machine = Machine(tmp_path, arch="x86_64", search_path=[])
    tees = {"snp": SnpTee(machine), "vm": VmTee(machine), "ready": Ready()}
    return doctor.examine(Discovery(tees, broken), machine)


def test_every_tee_has_a_row_in_order_and_broken_ones_come_last(tmp_path):
    sick = BrokenPlugin("sick", "sick_tee:Tee", "sick-dist", "can't be loaded: ImportError: no")
    found = report(tmp_path, sick)
    assert [row.name for row in found.tees] == ["snp", "vm", "ready", "sick"]
    last = found.tees[-1]
    assert last.broken
    assert last.reason == "sick_tee:Tee (from sick-dist) can't be loaded: ImportError: no"
    assert last.fix == "repair or uninstall sick-dist"


def test_auto_is_the_strongest_available(tmp_path):
    assert report(tmp_path).auto == "ready"
    machine = Machine(tmp_path)
    assert doctor.examine(Discovery({"vm": VmTee(machine)}, ()), machine).auto is None


def test_row_carries_what_the_tee_says(tmp_path):
    row = report(tmp_path).tees[2]
    assert row.available
    assert row.simulated
    assert row.strength == 5
    assert row.protects == Ready.protects
    assert row.facts == {"host.x": "1"}
    assert row.layers == (Layer("wall", holds=True),)


def test_report_survives_json(tmp_path):
    found = report(tmp_path, BrokenPlugin("s", "o", "", "r"))
    assert msgspec.json.decode(msgspec.json.encode(found), type=doctor.Report) == found


def test_machine_facts_are_those_of_this_machine():
    facts = doctor.examine(Discovery({}, ())).machine
    assert facts.kernel == f"Linux {os.uname().release}"
    assert facts.arch == os.uname().machine
    assert platform.python_version() in facts.python
    assert facts.cpu


@pytest.mark.parametrize(
    ("file", "text", "environ", "expected"),
    [
        ("run/systemd/container", "lxc\n", {}, "lxc (/run/systemd/container)"),
        ("run/.containerenv", "", {}, "podman (/run/.containerenv)"),
        (".dockerenv", "", {}, "docker (/.dockerenv)"),
        (
            "other",
            "",
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
            "kubernetes (KUBERNETES_SERVICE_HOST)",
        ),
        ("other", "", {}, ""),
    ],
)
def test_containers_are_recognised(tmp_path, file, text, environ, expected):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert doctor.container(Machine(tmp_path), environ) == expected


def test_examining_what_is_installed_here_works():
    found = doctor.examine()
    assert found.schema == doctor.SCHEMA
    assert len({row.name for row in found.tees if not row.broken}) == len(
        [row for row in found.tees if not row.broken]
    )


def test_switchless_says_why_there_is_no_ring_and_what_would_give_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ring, "_REASON", "")
    assert report(tmp_path).switchless.available
    monkeypatch.setattr(ring, "_REASON", "not built")
    found = report(tmp_path).switchless
    assert (found.available, found.reason, found.fix) == (False, "not built", ring.FIX)
