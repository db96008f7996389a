"""A module is founded in full or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from secgear.errors import CryptoModuleError, EnclaveLost
from secgear.services.crypto import host
from secgear.services.crypto.host import Home, found


@pytest.mark.parametrize("step", ["open", "save"])
def test_a_founding_that_fails_after_the_store_was_written_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    directory = tmp_path / "module"
    database = f"sqlite:///{tmp_path}/elsewhere.db"
    started = host.started

    class Dying:
        """An enclave that is lost once the store has everything."""

        def __init__(self, *arguments: object) -> None:
            self._enclave = started(*arguments)  # type: ignore[arg-type]

        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *_: object) -> None:
            self._enclave.close()

        def found(self, *arguments: object) -> None:
            self._enclave.found(*arguments)

        def open_module(self, policy: str) -> None:
            raise EnclaveLost("it has died")

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(host, "started", Dying)
        else:
            patch.setattr(Home, "save", full)
        with pytest.raises((EnclaveLost, OSError)):
            found(directory, database=database)
    assert not (directory / "settings.json").exists()
    status = found(directory, database=database)
    assert status.audit_seq == 1


def test_a_module_is_never_founded_over_another(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/elsewhere.db"
    key = found(tmp_path / "one", database=database).audit_key
    with pytest.raises(CryptoModuleError, match="holds a module already"):
        found(tmp_path / "other", database=database)
    with pytest.raises(CryptoModuleError, match="founded here already"):
        found(tmp_path / "one")
    (tmp_path / "one" / "settings.json").rename(tmp_path / "settings.json")
    with pytest.raises(CryptoModuleError, match="holds a module already"):
        found(tmp_path / "one", database=database)
    (tmp_path / "settings.json").rename(tmp_path / "one" / "settings.json")
    with host.Supervisor(Home(tmp_path / "one")) as supervisor:
        assert supervisor.current()[0].status().audit_key == key
