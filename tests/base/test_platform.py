"""Many threads of an enclave ask its platform at once: they take turns, and none is at fault."""

from __future__ import annotations

from pathlib import Path

import secgear

APP = """
import threading
from secgear import App, guest

app = App("curious")

@app.ecall
def ask(threads: int, turns: int) -> int:
    answers = []
    barrier = threading.Barrier(threads)

    def run():
        barrier.wait(60)
        for turn in range(turns):
            answers.append(guest().evidence(bytes(64)).data)

    all_of_them = [threading.Thread(target=run) for _ in range(threads)]
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        one.join()
    return len(answers)
"""


def test_any_number_of_threads_gets_its_evidence(tmp_path: Path) -> None:
    """As many sessions may begin at one time as an app allows."""
    source = tmp_path / "curious.py"
    source.write_text(APP)
    with secgear.launch(source, tee="process") as enclave:
        assert enclave.ask(100, 3) == 300
        assert enclave.ask(1, 1) == 1
