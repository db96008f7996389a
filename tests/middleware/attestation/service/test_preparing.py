"""Nothing is described to msgspec while threads are at work: that crashed a service under load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: in this one other tests have used everything already.
PROGRAM = """
import sys
import msgspec
from secgear.base.tee import Evidence
from secgear.middleware.attestation import envelope, load_policy
from secgear.middleware.attestation.service.preparing import prepare

# One of ours that no decoder was made for at import.
class Late(msgspec.Struct):
    number: int

Late.__module__ = "secgear.late"
if sys.argv[1] == "prepared":
    prepare()
described = 0

def watch(frame, event, _):
    global described
    described += event == "call" and frame.f_code.co_name == "get_class_annotations"

sys.setprofile(watch)
load_policy(b'name = "x"\\n[accept]\\ntees = ["snp"]\\n')
envelope.from_json(envelope.to_json(Evidence("f", b"x", {}, {"gpu0": Evidence("g", b"y")})))
msgspec.json.decode(b'{"number": 1}', type=Late)
sys.setprofile(None)
loaded = "secgear.middleware.attestation.formats.nvidia.verifier" in sys.modules
print(described > 0, loaded)
"""


@pytest.mark.parametrize(("how", "shown"), [("not", "True False"), ("prepared", "False True")])
def test_first_requests_describe_and_load_nothing(tmp_path: Path, how: str, shown: str) -> None:
    """Not prepared is the control: it would."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program, how], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (shown, "")


def test_an_application_is_prepared_when_it_is_made() -> None:
    """`compose` is where every service comes by, before it listens."""
    program = """
import sys, tempfile
from pathlib import Path
from secgear.middleware.attestation.service.app import create_app
from secgear.middleware.attestation.service.settings import Settings
with tempfile.TemporaryDirectory() as folder:
    create_app(Settings(issuer="i", directory=Path(folder)))
print("secgear.middleware.attestation.formats.nvidia.verifier" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
