"""A third party adds a TEE by installing a distribution; these are real ones, on a path."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
from secgear.base.tee import Availability, Tee

class Mine(Tee):
    name = "mine"
    protects = "from nobody; not from anybody"
    strength = 7
    simulated = True

    def probe(self):
        return Availability(True, "ready")

    def launch(self, image, config):
        raise NotImplementedError

class Thief(Mine):
    name = "vm"

class Greedy(Mine):
    name = "auto"

class Moody(Mine):
    name = "moody"
    strength = 9999

    def probe(self):
        raise RuntimeError("not today")

class Unfinished(Tee):
    name = "unfinished"

class Vague(Mine):
    name = "vague"
    strength = "very"

def nothing():
    return object()
"""

EXAMINE = """
import msgspec, sys
from secgear.base.doctor import examine
sys.stdout.buffer.write(msgspec.json.encode(examine()))
"""


class Site:
    """A directory of installed distributions and what secgear finds there."""

    def __init__(self, path):
        self.path = path

    def install(self, distribution, entries, **modules):
        info = self.path / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = "".join(f"{name} = {target}\n" for name, target in entries.items())
        (info / "entry_points.txt").write_text(f"[secgear.tees]\n{lines}")
        for name, text in modules.items():
            (self.path / f"{name}.py").write_text(text)

    def run(self, script):
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.path), str(ROOT)])}
        return subprocess.run(
            [sys.executable, "-c", script],
            cwd=self.path,
            env=environ,
            capture_output=True,
            check=True,
        ).stdout

    def rows(self):
        report = msgspec.json.decode(self.run(EXAMINE))
        return {row["name"]: row for row in report["tees"]}


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site"
    path.mkdir()
    return Site(path)


def test_a_registered_tee_is_found_and_probed(site):
    site.install("mine", {"mine": "mine_tee:Mine"}, mine_tee=GOOD)
    row = site.rows()["mine"]
    assert row["available"]
    assert row["reason"] == "ready"
    assert not row["broken"]
    assert b"mine" in site.run("from secgear.base.tee import choose; print(choose('mine')[0].name)")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("absent_module:Tee", "ModuleNotFoundError: No module named 'absent_module'"),
        ("bad_tee:Absent", "AttributeError"),
        ("crash_tee:Tee", "ZeroDivisionError"),
        ("syntax_tee:Tee", "SyntaxError"),
        ("bad_tee:Unfinished", "TypeError: Can't instantiate abstract class"),
        ("bad_tee:Vague", "has no attribute strength of type int"),
        ("bad_tee:nothing", "makes a object, which is no secgear.base.tee.Tee"),
        ("bad_tee:Greedy", "wants the name 'auto', which is taken"),
    ],
)
def test_a_broken_plug_in_is_named_with_its_reason_and_harms_nobody(site, target, reason):
    site.install(
        "broken-tee",
        {"sick": target},
        bad_tee=GOOD,
        crash_tee="1 / 0",
        syntax_tee="def (",
    )
    site.install("mine", {"mine": "mine_tee:Mine"}, mine_tee=GOOD)
    rows = site.rows()
    assert rows["mine"]["available"]
    sick = rows["sick"]
    assert sick["broken"]
    assert not sick["available"]
    assert reason in sick["reason"]
    assert target in sick["reason"]
    assert sick["fix"] == "repair or uninstall broken-tee"
    script = (
        "from secgear.base.tee import choose, installed\n"
        "from secgear.errors import PlatformUnavailable\n"
        "assert 'sick' not in installed()\n"
        "try:\n    choose('sick')\n"
        "except PlatformUnavailable as error:\n    print(error)\n"
    )
    assert reason in site.run(script).decode()


def test_a_stranger_cannot_replace_a_tee_of_secgear(site):
    site.install("aaa-thief", {"vm": "thief_tee:Thief"}, thief_tee=GOOD)
    site.install("secgear", {"vm": "secgear.base.tees.vm:VmTee"})
    output = site.run(
        "from secgear.base.tee import discover\n"
        "found = discover()\n"
        "print(type(found.tees['vm']).__module__, found.broken[0].distribution)"
    )
    assert output.decode().split() == ["secgear.base.tees.vm", "aaa-thief"]


def test_a_probe_that_raises_means_unavailable_and_auto_goes_on(site):
    site.install("moody", {"moody": "moody_tee:Moody"}, moody_tee=GOOD)
    site.install("mine", {"mine": "mine_tee:Mine"}, mine_tee=GOOD)
    row = site.rows()["moody"]
    assert not row["available"]
    assert row["reason"] == "its probe failed: RuntimeError: not today"
    script = "from secgear.base.tee import choose; print(choose('auto')[0].name)"
    assert site.run(script).decode().strip() != "moody"
