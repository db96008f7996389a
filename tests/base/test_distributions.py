"""Measured distributions: the same digest everywhere, and every difference noticed."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base import distributions
from secgear.base.distributions import check_files, closure, measure, verify
from secgear.errors import BuildError, RequirementError


def install(
    site: Path,
    name: str,
    files: dict[str, bytes],
    version: str = "1.0",
    requires: list[str] | None = None,
    notes: dict[str, bytes] | None = None,
    hashed: bool = True,
) -> Path:
    """Lay out a distribution as pip does; returns its metadata folder."""
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {text}" for text in requires or []]
    files = {**files, f"{folder}/METADATA": ("\n".join(lines) + "\n").encode()}
    files |= {f"{folder}/{note}": content for note, content in (notes or {}).items()}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for path, content in files.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        value = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([path, f"sha256={value}" if hashed else "", len(content) if hashed else ""])
    writer.writerow([f"{folder}/RECORD", "", ""])
    (site / folder / "RECORD").write_text(out.getvalue())
    return site / folder


FILES = {"pure/__init__.py": b"x = 1\n", "pure/data.bin": bytes(range(256))}


def test_the_digest_is_the_documented_one(tmp_path: Path) -> None:
    install(tmp_path, "Pure.Thing", FILES)
    measured = measure("pure_thing", [str(tmp_path)])
    folder = "Pure.Thing-1.0.dist-info"
    listing = "secgear distribution v1\npure-thing 1.0\n" + "".join(
        f"{hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()}  {path}\n"
        for path in sorted([*FILES, f"{folder}/METADATA"])
    )
    assert measured.name == "pure-thing"
    assert measured.digest == hashlib.sha384(listing.encode()).digest()
    if shutil.which("sha256sum"):
        body = listing.split("\n", 2)[2]
        subprocess.run(
            ["sha256sum", "--check", "--strict", "--quiet"],
            input=body.encode(), cwd=tmp_path, check=True,
        )  # fmt: skip


def test_where_and_by_whom_it_was_installed_does_not_matter(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b" / "deeper" / "site-packages"
    install(first, "pure", FILES, notes={"INSTALLER": b"pip\n", "REQUESTED": b""})
    origin = json.dumps({"url": "file:///home/me/pure.whl", "archive_info": {}}).encode()
    files = dict(reversed(FILES.items()))
    folder = install(second, "pure", files, notes={"INSTALLER": b"uv", "direct_url.json": origin})
    with (folder / "RECORD").open("a") as record:
        record.write("../../../bin/pure,sha256=AAAA,1\n/usr/share/pure,,\npure/x.pyc,,\n")
        record.write("pure/__pycache__/__init__.cpython-311.pyc,,\n")
    (second / "pure" / "__pycache__").mkdir()
    (second / "pure" / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"cache")
    assert measure("pure", [str(first)]).digest == measure("pure", [str(second)]).digest


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({**FILES, "pure/__init__.py": b"x = 2\n"}, "1.0"),
        ({**FILES, "pure/more.py": b""}, "1.0"),
        ({"pure/__init__.py": FILES["pure/__init__.py"]}, "1.0"),
        (FILES, "1.1"),
    ],
)
def test_other_contents_have_another_digest(
    tmp_path: Path, files: dict[str, bytes], version: str
) -> None:
    install(tmp_path / "a", "pure", FILES)
    install(tmp_path / "b", "pure", files, version)
    first = measure("pure", [str(tmp_path / "a")])
    second = measure("pure", [str(tmp_path / "b")])
    assert first.digest != second.digest
    with pytest.raises(RequirementError):
        verify([first.requirement], [str(tmp_path / "b")])


def test_a_file_changed_after_installation_is_noticed_by_the_build(tmp_path: Path) -> None:
    install(tmp_path, "pure", FILES)
    (tmp_path / "pure/__init__.py").write_bytes(b"x = 3\n")
    with pytest.raises(RequirementError, match=r"pure/__init__\.py .* was changed"):
        measure("pure", [str(tmp_path)])


def test_a_changed_record_is_noticed_inside(tmp_path: Path) -> None:
    folder = install(tmp_path, "pure", FILES)
    requirement = measure("pure", [str(tmp_path)]).requirement
    original = (folder / "RECORD").read_text()
    evil = base64.urlsafe_b64encode(hashlib.sha256(b"evil").digest()).rstrip(b"=").decode()
    lines = original.splitlines(keepends=True)
    for changed in [
        f"pure/__init__.py,sha256={evil},4\n" + "".join(lines[1:]),
        "".join(lines[1:]),
        original + f"pure/evil.py,sha256={evil},4\n",
        original + lines[0],
        original.replace("pure/data.bin", "pure/data.bim"),
        "",
    ]:
        (folder / "RECORD").write_text(changed)
        with pytest.raises(RequirementError):
            verify([requirement], [str(tmp_path)])
    (folder / "RECORD").write_text(original)
    verify([requirement], [str(tmp_path)])


def test_a_changed_file_is_noticed_when_it_is_compared(tmp_path: Path) -> None:
    install(tmp_path, "pure", FILES)
    requirement = measure("pure", [str(tmp_path)]).requirement
    (tmp_path / "pure/data.bin").write_bytes(b"evil")
    (listed,) = verify([requirement], [str(tmp_path)])
    check_files(listed, ["pure/__init__.py"])
    with pytest.raises(RequirementError, match=r"pure/data\.bin"):
        check_files(listed, ["pure/__init__.py", "pure/data.bin"])
    (tmp_path / "pure/data.bin").unlink()
    with pytest.raises(RequirementError, match=r"pure/data\.bin"):
        check_files(listed, listed.files)
    with pytest.raises(RequirementError):
        check_files(listed, ["pure/unlisted.py"])


def test_records_without_hashes_are_hashed_on_both_sides(tmp_path: Path) -> None:
    install(tmp_path, "pure", FILES, hashed=False)
    measured = measure("pure", [str(tmp_path)])
    assert verify([measured.requirement], [str(tmp_path)]) == (measured,)
    (tmp_path / "pure/data.bin").write_bytes(b"evil")
    with pytest.raises(RequirementError):
        verify([measured.requirement], [str(tmp_path)])


def test_the_first_folder_of_the_search_path_wins(tmp_path: Path) -> None:
    install(tmp_path / "a", "pure", FILES, "2.0")
    install(tmp_path / "b", "pure", FILES, "1.0")
    found = measure("pure", [str(tmp_path / "gone"), str(tmp_path / "a"), str(tmp_path / "b")])
    assert found.version == "2.0"
    assert found.root == str(tmp_path / "a")


def test_what_a_distribution_needs_is_measured_with_it(tmp_path: Path) -> None:
    install(tmp_path, "top", {"top.py": b""}, requires=[
        "Middle_One>=1", 'never; python_version < "3"', 'only-extra; extra == "more"',
    ])  # fmt: skip
    install(tmp_path, "middle-one", {"middle.py": b""}, requires=["bottom", "top", "secgear"])
    install(tmp_path, "bottom", {"bottom.py": b""})
    install(tmp_path, "only-extra", {"extra.py": b""})
    site = [str(tmp_path)]
    assert [d.name for d in closure(["top"], site)] == ["bottom", "middle-one", "top"]
    assert [d.name for d in closure(["top[more]", "bottom"], site)] == [
        "bottom", "middle-one", "only-extra", "top",
    ]  # fmt: skip
    assert closure([], site) == ()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("absent", r"absent is not installed.*App\(requires=...\) needs it; pip install absent"),
        ("pure>=2", "pure 1.0 is installed.*pip install 'pure>=2'"),
        ("not a name!", "not a name!"),
        ("needy", "absent is not installed.*needy needs it"),
    ],
)
def test_what_can_not_be_required_is_explained(tmp_path: Path, wanted: str, message: str) -> None:
    install(tmp_path, "pure", FILES)
    install(tmp_path, "needy", {"needy.py": b""}, requires=["absent"])
    with pytest.raises(RequirementError, match=message):
        closure([wanted], [str(tmp_path)])


def test_secgear_itself_can_not_be_required() -> None:
    with pytest.raises(BuildError, match="leave it out"):
        closure(["SecGear"])


def test_editable_installations_are_refused(tmp_path: Path) -> None:
    origin = json.dumps({"url": "file:///src", "dir_info": {"editable": True}}).encode()
    install(tmp_path / "a", "pure", {"_pure.pth": b"/src"}, notes={"direct_url.json": origin})
    install(tmp_path / "b", "pure", {"__editable__.pure-1.0.pth": b"/src"})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "pure.egg-link").write_text("/src\n.")
    for site in "abc":
        with pytest.raises(RequirementError, match="editable"):
            measure("pure", [str(tmp_path / site)])


def test_damaged_installations_are_refused(tmp_path: Path) -> None:
    folder = install(tmp_path, "pure", FILES)
    (tmp_path / "pure/data.bin").unlink()
    with pytest.raises(RequirementError, match=r"data\.bin .* install the distribution again"):
        measure("pure", [str(tmp_path)])
    (folder / "RECORD").unlink()
    with pytest.raises(RequirementError, match="no RECORD"):
        measure("pure", [str(tmp_path)])
    install(tmp_path, "pure", FILES, "0.9")
    with pytest.raises(RequirementError, match="installed twice"):
        measure("pure", [str(tmp_path)])


def test_old_egg_info_installations_are_measured_by_their_own_list(tmp_path: Path) -> None:
    folder = tmp_path / "old-0.3-py3.11.egg-info"
    folder.mkdir()
    (tmp_path / "old.py").write_text("x = 1\n")
    (folder / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: old\nVersion: 0.3\n")
    listed = ["../old.py", "../__pycache__/old.cpython-311.pyc", "PKG-INFO", "SOURCES.txt"]
    (folder / "installed-files.txt").write_text("\n".join(listed) + "\n")
    measured = measure("old", [str(tmp_path)])
    assert measured.version == "0.3"
    assert list(measured.files) == ["old-0.3-py3.11.egg-info/PKG-INFO", "old.py"]
    assert verify([measured.requirement], [str(tmp_path)]) == (measured,)
    (folder / "installed-files.txt").unlink()
    with pytest.raises(RequirementError, match=r"no installed-files\.txt"):
        measure("old", [str(tmp_path)])


def test_real_distributions_are_listed_in_moments() -> None:
    required = closure(["numpy", "pyarrow", "duckdb", "cryptography"])
    requirements = [distribution.requirement for distribution in required]
    before = time.process_time()
    assert verify(requirements, sys.path) == required
    assert time.process_time() - before < 2
    for distribution in required:
        assert not any(path.endswith(".pyc") for path in distribution.files)
        assert not any(path.startswith(("/", "..")) for path in distribution.files)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_arbitrary_records_are_a_requirement_error_or_a_listing(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    site = tmp_path_factory.mktemp("site")
    folder = install(site, "pure", {})
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (folder / "RECORD").write_bytes(data)
    try:
        files = measure("pure", [str(site)]).files
    except RequirementError:
        return
    root = os.path.realpath(site)
    for path in files:
        assert os.path.realpath(site / path).startswith(root)


def test_paths_do_not_escape_the_root(tmp_path: Path) -> None:
    folder = install(tmp_path, "pure", FILES)
    with (folder / "RECORD").open("a") as record:
        record.write("pure/../../outside,,\n/etc/passwd,,\n..,,\n")
    assert set(measure("pure", [str(tmp_path)]).files) == {*FILES, "pure-1.0.dist-info/METADATA"}


def test_importing_the_module_stays_light() -> None:
    code = "import sys, secgear.base.distributions as d; print(*sys.modules)"
    path = [str(Path(distributions.__file__).parents[2]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint(
        {"importlib.metadata", "packaging", "csv", "pathlib", "concurrent.futures", "logging"}
    )
