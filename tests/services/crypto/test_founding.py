"""A module is founded in full or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.base.image import Image
from secgear.base.signing import sign
from secgear.errors import CryptoModuleError, EnclaveLost
from secgear.services.crypto import host, joining
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


def test_to_whom_a_module_is_sealed_is_measured(tmp_path: Path) -> None:
    """A host that signs the other image, and says that its signer will do, is not believed."""
    key = ec.generate_private_key(ec.SECP384R1())
    plain, upgradable = Home(tmp_path / "plain"), Home(tmp_path / "upgradable")
    found(plain.directory)
    audit_key = found(upgradable.directory, key=key).audit_key
    images = [Image.load(home.image) for home in (plain, upgradable)]
    assert images[0].measurement != images[1].measurement
    assert [home.settings().policy for home in (plain, upgradable)] == ["measurement", "signer"]
    with joining.member(upgradable.directory) as enclave:
        assert enclave.status().audit_key == audit_key
    sign(images[0], key).save(plain.image)
    with joining.member(plain.directory) as enclave:  # it is the same program
        assert enclave.status().objects == 0
    plain.save(msgspec.structs.replace(plain.settings(), policy="signer"))
    with (
        pytest.raises(CryptoModuleError, match="seals to its measurement"),
        joining.member(plain.directory),
    ):
        pass
