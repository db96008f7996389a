import pytest

from secgear.base.probing import tsm
from secgear.base.probing.machine import Machine


@pytest.fixture
def write(tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return file


def test_no_configfs(tmp_path):
    found = tsm.look(Machine(tmp_path))
    assert not found.ready
    assert "shows no configfs" in found.seen


def test_configfs_that_is_not_mounted(tmp_path):
    (tmp_path / "sys/kernel/config").mkdir(parents=True)
    assert "is not mounted" in tsm.look(Machine(tmp_path)).seen


def test_configfs_without_reports(tmp_path, write):
    (tmp_path / "sys/kernel/config").mkdir(parents=True)
    write("proc/mounts", "x\nnone /sys/kernel/config configfs rw 0 0\n")
    assert "no kernel module offers reports" in tsm.look(Machine(tmp_path)).seen


def test_providers_are_read_from_reports_that_stand_there(tmp_path, write):
    write("sys/kernel/config/tsm/report/one/provider", "tdx_guest\n")
    write("sys/kernel/config/tsm/report/two/inblob", "")
    found = tsm.look(Machine(tmp_path))
    assert found.ready
    assert found.providers == {"tdx_guest"}


def test_looking_makes_no_report(tmp_path):
    (tmp_path / "sys/kernel/config/tsm/report").mkdir(parents=True)
    found = tsm.look(Machine(tmp_path))
    assert found.ready
    assert not found.providers
    assert list((tmp_path / "sys/kernel/config/tsm/report").iterdir()) == []
