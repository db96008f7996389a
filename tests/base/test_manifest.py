"""The manifest: one spelling, strict values, and a parser that hostile bytes can't surprise."""

from __future__ import annotations

import time
import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.manifest import MAX_MANIFEST, Manifest, Requirement
from secgear.errors import ImageError, ImageTampered

DIGEST = bytes(range(48))


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "word count",
        "version": "1.0",
        "product": "wordcount",
        "svn": 3,
        "entry": "wordcount",
        "debug": False,
        "interface": DIGEST,
        "threads": 4,
        "memory": 1 << 30,
        "log": "info",
        "ocalls": ("done", "progress"),
        "files": {"wordcount.py": DIGEST, "data/words (1).txt": DIGEST[::-1]},
    }
    return Manifest(**{**values, **changes})


def with_requirement(**changes: Any) -> Manifest:
    return manifest(
        python="cpython-311",
        platform="linux-x86_64",
        requires=(Requirement("numpy", "2.4.6", DIGEST), Requirement("zope-event", "6", DIGEST)),
        **changes,
    )


texts = st.from_regex(r"[!#-\[\]-~]([ !#-\[\]-~]{0,20}[!#-\[\]-~])?", fullmatch=True)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
digests = st.binary(min_size=48, max_size=48)
requirements = st.builds(
    Requirement,
    name=st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8})?", fullmatch=True),
    version=texts,
    digest=digests,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    requires = draw(st.lists(requirements, max_size=3, unique_by=lambda item: item.name))
    files = draw(st.dictionaries(names.map(lambda name: f"data/{name}"), digests, max_size=4))
    return manifest(
        name=draw(texts),
        version=draw(texts),
        product=draw(texts),
        svn=draw(st.integers(0, 2**32 - 1)),
        debug=draw(st.booleans()),
        interface=draw(digests),
        threads=draw(st.integers(1, 256)),
        memory=draw(st.integers(1 << 20, 1 << 50)),
        log=draw(st.sampled_from(["off", "debug", "info", "warning", "error"])),
        ocalls=tuple(sorted(draw(st.sets(names, max_size=4)))),
        requires=tuple(sorted(requires, key=lambda item: item.name)),
        python="cpython-311" if requires else "",
        platform="linux-aarch64" if requires else "",
        files={**files, "wordcount.py": draw(digests)},
    )


@given(manifests())
def test_what_is_written_is_read_back(written: Manifest) -> None:
    assert Manifest.parse(written.canonical()) == written


@given(manifests())
def test_any_toml_reader_sees_the_same_values(written: Manifest) -> None:
    seen = tomllib.loads(written.canonical().decode())
    assert seen["format"] == 1
    for field in ("name", "version", "product", "svn", "entry", "debug", "threads", "memory"):
        assert seen[field] == getattr(written, field)
    assert seen["ocalls"] == list(written.ocalls)
    assert seen["interface"] == written.interface.hex()
    assert seen["files"] == {path: digest.hex() for path, digest in written.files.items()}
    assert [item["name"] for item in seen.get("requires", [])] == [
        requirement.name for requirement in written.requires
    ]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        Manifest.parse(data)


@given(st.data())
def test_a_changed_manifest_is_refused_or_means_what_it_says(data: st.DataObject) -> None:
    original = with_requirement().canonical()
    at = data.draw(st.integers(0, len(original) - 1))
    length = data.draw(st.integers(0, 3))
    piece = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b'"', b"[", b"]"])))
    changed = original[:at] + piece + original[at + length :]
    try:
        parsed = Manifest.parse(changed)
    except ImageError:
        return
    assert parsed.canonical() == changed


@pytest.mark.parametrize(
    "spelling",
    [
        lambda text: text.replace("svn = 3", "svn = 03"),
        lambda text: text.replace("svn = 3", "svn = 0x3"),
        lambda text: text.replace("svn = 3", "svn  = 3"),
        lambda text: text.replace("svn = 3", "svn = 3 # three"),
        lambda text: text.replace("debug = false", "debug = False"),
        lambda text: text.replace('"wordcount"', "'wordcount'"),
        lambda text: text.replace("wordcount", "word\\u0063ount", 1),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n",
        lambda text: text[:-1],
        lambda text: "\n" + text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("svn = 3\n", "").replace("format = 1\n", "format = 1\nsvn = 3\n"),
        lambda text: text.replace('["done", "progress"]', '["done","progress"]'),
        lambda text: text.replace('["done", "progress"]', '["done", "progress",]'),
        lambda text: text.replace(DIGEST.hex(), DIGEST.hex().upper()),
        lambda text: text.replace("[files]", "[ files ]"),
    ],
)
def test_another_spelling_of_the_same_is_refused(spelling: Any) -> None:
    original = with_requirement().canonical().decode()
    changed = spelling(original)
    assert changed != original
    with pytest.raises(ImageError):
        Manifest.parse(changed.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("svn = 3", "svn = 3\nextra = 1"), "unknown key 'extra'"),
        (("svn = 3\n", ""), "svn is missing"),
        (("svn = 3", 'svn = "3"'), "svn is not a number"),
        (("svn = 3", "svn = true"), "svn is not a number"),
        (("svn = 3", "svn = 4294967296"), "from 0 to 4294967295"),
        (("svn = 3", "svn = 3\nsvn = 3"), "given twice"),
        (("threads = 4", "threads = 0"), "threads"),
        (("log = ", "log = 7\nlag = "), "log is not a string"),
        (('log = "info"', 'log = "loud"'), "log is one of"),
        (("format = 1", "format = 2"), "reads format 1"),
        (('["done", "progress"]', '["progress", "done"]'), "out of order"),
        (('["done", "progress"]', '["done", "done"]'), "out of order"),
        (('["done", "progress"]', '["a b"]'), "Python name"),
        (('platform = "linux-x86_64"\n', ""), "go together"),
        (('name = "numpy"', 'name = "NumPy"'), "normalised"),
        (('name = "zope-event"', 'name = "numpy"'), "out of order"),
        (('"wordcount.py" = ', '"../wordcount.py" = '), "relative"),
        (('entry = "wordcount"', 'entry = "other"'), "names no file"),
        (("[files]", "[[files]]"), "not a line"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: tuple[str, str], message: str) -> None:
    text = with_requirement().canonical().decode()
    assert change[0] in text
    with pytest.raises(ImageError, match=message.replace("(", r"\(")):
        Manifest.parse(text.replace(*change, 1).encode())


def test_files_out_of_order_are_refused() -> None:
    lines = manifest().canonical().decode().splitlines()
    lines[-2:] = reversed(lines[-2:])
    with pytest.raises(ImageTampered, match="canonical"):
        Manifest.parse(("\n".join(lines) + "\n").encode())


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "a//b", "./a", "a/./b", "..", "a/../b", "a/..", "a\\b", 'a"b', "a\nb",
        "a\0b", "é", "a/", " a", "a ", "a/ b", "x" * 513,
    ],
)  # fmt: skip
def test_a_path_that_is_not_plain_is_refused(path: str) -> None:
    with pytest.raises(ImageError):
        manifest(files={path: DIGEST, "wordcount.py": DIGEST})


def test_a_file_that_is_also_a_folder_is_refused() -> None:
    with pytest.raises(ImageError, match="both a file and a folder"):
        manifest(files={"a": DIGEST, "a/b": DIGEST, "wordcount.py": DIGEST})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""}, {"name": "a\nb"}, {"name": 'a"'}, {"name": "x" * 129}, {"name": "名"},
        {"name": None}, {"svn": -1}, {"svn": True}, {"svn": 1.0}, {"memory": 0}, {"debug": 1},
        {"interface": b"short"}, {"interface": "00" * 48}, {"entry": "a-b"}, {"entry": "a..b"},
        {"files": {}}, {"files": {"wordcount.py": b""}}, {"python": "cpython-311"},
    ],
)  # fmt: skip
def test_no_manifest_can_hold_a_bad_value(changes: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        manifest(**changes)


def test_a_manifest_can_not_be_changed() -> None:
    fixed = manifest()
    with pytest.raises(AttributeError):
        fixed.svn = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        fixed.files["evil.py"] = DIGEST  # type: ignore[index]
    with pytest.raises(ImageError):
        msgspec.structs.replace(fixed, svn=-1)


def test_too_many_files_are_refused() -> None:
    files = {f"f{number}": DIGEST for number in range(10_000)}
    with pytest.raises(ImageError, match="limit is 10000"):
        manifest(files={**files, "wordcount.py": DIGEST})


@pytest.mark.parametrize(
    "line",
    [b"[", b"a.", b'"', b"a = [", b'a = ["', b'a = ["", ', b"a = 1", b"[[requires]]\n", b"\n"],
)
def test_the_largest_hostile_manifest_is_refused_quickly(line: bytes) -> None:
    data = line * (MAX_MANIFEST // len(line))
    before = time.process_time()
    with pytest.raises(ImageError):
        Manifest.parse(data)
    with pytest.raises(ImageError):
        Manifest.parse(data + b"\n" + data)
    assert time.process_time() - before < 10
