"""What the host does about enclaves that end, and what it may not tell them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from secgear.errors import CryptoModuleError, LaunchFailed
from secgear.services.crypto import enclave, host, workers
from secgear.services.crypto.host import Home, Supervisor, found


def test_when_no_enclave_can_be_started_connections_are_told_until_one_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path / "module")
    monkeypatch.setattr(workers, "_MINUTE", 1.0)
    with Supervisor(Home(tmp_path / "module"), 2) as supervisor:
        first = {supervisor.current()[1] for _ in range(2)}
        assert len(first) == 2  # each is picked once

        def fail(*_: Any, **__: Any) -> Any:
            raise LaunchFailed("there is no memory")

        with monkeypatch.context() as patch:
            patch.setattr(host, "started", fail)
            for one in supervisor.enclaves():
                assert one.pid is not None
                os.kill(one.pid, signal.SIGKILL)
            while supervisor.enclaves():  # until it is seen that they are dead
                threading.Event().wait(0.01)
            with pytest.raises(CryptoModuleError, match="can't be started"):
                supervisor.current()
        found_again = None
        while found_again is None:
            try:
                found_again = supervisor.current()
            except CryptoModuleError:
                continue
        assert found_again[1] not in first
        assert found_again[0].status().slots == 1


def test_a_module_that_can_not_be_opened_is_told_at_once(tmp_path: Path) -> None:
    found(tmp_path / "module")
    (tmp_path / "module" / "module.db").unlink()
    with pytest.raises(CryptoModuleError, match="holds no module"):
        Supervisor(Home(tmp_path / "module"), 2)


@pytest.mark.parametrize(
    "row", [(0, 0, b""), (-1, 0, b""), (1 << 63, 0, b""), (1, -1, b""), (1, 64, b"")]
)
def test_rows_that_no_object_has_are_refused(row: tuple[int, int, bytes]) -> None:
    with pytest.raises(CryptoModuleError, match="that no"):
        enclave._rows([row])
    assert enclave._rows([(1, 0, b"x")])[0].blob == b"x"
