"""The image file: any byte that differs is refused, and only checked bytes become an `Image`."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import struct
import subprocess
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear import App
from secgear.base import image as image_module
from secgear.base.image import Image, LaunchPolicy, Signature, assemble, with_signature
from secgear.base.manifest import Manifest
from secgear.base.signing import generate_key, sign, signer_of
from secgear.errors import ImageError, ImageRefused, ImageTampered, SignatureInvalid

SOURCE = b"from secgear import App\napp = App('demo')\n"
KEY = generate_key("ed25519")


def digest(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def interface(name: str = "demo") -> bytes:
    return App(name, "1.0").interface.to_json()


def make(
    files: dict[str, bytes] | None = None, describes: bytes | None = None, **changes: Any
) -> Image:
    files = files or {"demo.py": SOURCE, "data/words.txt": b"a b a\n"}
    describes = describes or interface()
    values: dict[str, Any] = {
        "name": "demo",
        "version": "1.0",
        "product": "demo",
        "svn": 2,
        "entry": "demo",
        "debug": False,
        "interface": digest(describes),
        "threads": 2,
        "memory": 1 << 30,
        "log": "off",
        "files": {path: digest(content) for path, content in files.items()},
    }
    return assemble(Manifest(**{**values, **changes}), describes, files)


UNSIGNED = make()
SIGNED = sign(UNSIGNED, KEY)


def parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_an_image_reads_back_as_it_was_made() -> None:
    again = Image.parse(SIGNED.data)
    assert again == SIGNED
    assert again.paths == ("data/words.txt", "demo.py")
    assert again.read("demo.py") == SOURCE
    assert again.interface.to_json() == interface()
    assert again.measurement == digest(parts(SIGNED.data)["manifest.toml"])
    assert again.signer == signer_of(KEY)
    with pytest.raises(KeyError):
        again.read("../manifest.toml")


def test_a_signature_does_not_change_the_measurement() -> None:
    assert SIGNED.measurement == UNSIGNED.measurement
    assert UNSIGNED.signer is None
    assert with_signature(SIGNED, None) == UNSIGNED


def test_common_tools_can_read_an_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(SIGNED.data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "app/data/words.txt", "app/demo.py",
            "interface.json", "manifest.toml", "signature.toml",
        ]  # fmt: skip
    SIGNED.save(tmp_path / "demo.sgear")
    for tool, *options in (["unzip", "-t"], ["bsdtar", "-tf"]):
        if shutil.which(tool):
            subprocess.run([tool, *options, tmp_path / "demo.sgear"], check=True)


def test_every_flipped_byte_is_refused() -> None:
    data = bytearray(SIGNED.data)
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            data[at] ^= mask
            with pytest.raises(ImageError):
                Image.parse(bytes(data))
            data[at] ^= mask
    assert Image.parse(data) == SIGNED


def test_flipped_bytes_of_a_large_image_are_refused() -> None:
    large = make({"demo.py": SOURCE, "blob": random.Random(1).randbytes(3 << 20)})
    data = bytearray(large.data)
    chosen = random.Random(2)
    for at in [chosen.randrange(len(data)) for _ in range(60)]:
        data[at] ^= 1 << chosen.randrange(8)
        with pytest.raises(ImageTampered):
            Image.parse(data)
        data[at] = large.data[at]


def test_every_truncation_is_refused() -> None:
    for length in range(len(SIGNED.data)):
        with pytest.raises(ImageError):
            Image.parse(SIGNED.data[:length])


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"PK\5\6" + bytes(18), SIGNED.data])
def test_bytes_before_after_or_between_are_refused(extra: bytes) -> None:
    with pytest.raises(ImageError):
        Image.parse(extra + SIGNED.data[1:])
    with pytest.raises(ImageError):
        Image.parse(SIGNED.data + extra)
    second = SIGNED.data.index(b"PK\3\4", 4)
    directory = SIGNED.data.index(b"PK\1\2")
    for at in (second, directory, len(SIGNED.data) - 22):
        with pytest.raises(ImageError):
            Image.parse(SIGNED.data[:at] + extra + SIGNED.data[at:])


def rezip(change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        change(archive, parts(SIGNED.data))
    return buffer.getvalue()


def entry(name: str, **fields: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o100644 << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_all(archive: zipfile.ZipFile, contents: dict[str, bytes], **fields: Any) -> None:
    for name, content in contents.items():
        archive.writestr(entry(name, **fields), content)


def test_the_canonical_form_is_what_zipfile_writes_with_the_same_settings() -> None:
    assert rezip(lambda archive, contents: write_all(archive, contents)) == SIGNED.data


@pytest.mark.parametrize(
    "fields",
    [
        {"compress_type": zipfile.ZIP_DEFLATED},
        {"compress_type": zipfile.ZIP_BZIP2},
        {"extra": b"\x99\x99\x02\x00ab"},
        {"comment": b"hello"},
        {"date_time": (2024, 1, 1, 0, 0, 0)},
        {"external_attr": 0o100755 << 16},
        {"external_attr": 0o120777 << 16},
        {"create_system": 0},
        {"create_version": 45},
        {"internal_attr": 1},
    ],
)
def test_another_zip_of_the_same_contents_is_refused(fields: dict[str, Any]) -> None:
    data = rezip(lambda archive, contents: write_all(archive, contents, **fields))
    assert parts(data) == parts(SIGNED.data)
    with pytest.raises(ImageError):
        Image.parse(data)


def test_an_archive_comment_is_refused() -> None:
    def change(archive: zipfile.ZipFile, contents: dict[str, bytes]) -> None:
        write_all(archive, contents)
        archive.comment = b"signed by nobody"

    with pytest.raises(ImageTampered):
        Image.parse(rezip(change))


def test_streamed_and_zip64_entries_are_refused() -> None:
    def change(archive: zipfile.ZipFile, contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            with archive.open(entry(name), "w", force_zip64=True) as file:
                file.write(content)

    with pytest.raises(ImageTampered):
        Image.parse(rezip(change))


def test_unsorted_and_repeated_entries_are_refused() -> None:
    with pytest.raises(ImageTampered):
        Image.parse(rezip(lambda a, c: write_all(a, dict(sorted(c.items(), reverse=True)))))

    def twice(archive: zipfile.ZipFile, contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            archive.writestr(entry(name), content)
            if name == "app/demo.py":
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr(entry(name), b"evil")

    with pytest.raises(ImageTampered, match="twice"):
        Image.parse(rezip(twice))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.py", "app/../x.py", "app/", "app//x", "app/a\\b", "APP/x", "a", "z", "é"],
)
def test_an_entry_that_the_manifest_does_not_name_is_refused(name: str) -> None:
    data = rezip(lambda a, c: write_all(a, dict(sorted({**c, name: b"evil"}.items()))))
    with pytest.raises(ImageError):
        Image.parse(data)


@pytest.mark.parametrize("name", ["app/demo.py", "interface.json", "manifest.toml"])
def test_a_missing_or_replaced_entry_is_refused(name: str) -> None:
    contents = parts(SIGNED.data)
    del contents[name]
    with pytest.raises(ImageError, match=name):
        Image.parse(rezip(lambda archive, _: write_all(archive, contents)))
    with pytest.raises(ImageError):
        Image.parse(
            rezip(lambda a, c: write_all(a, dict(sorted({**c, name: c[name] + b" "}.items()))))
        )


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (4, 45),  # version needed
        (6, 1),  # encrypted
        (6, 8),  # sizes follow the data
        (6, 0x800),  # UTF-8 names
        (8, 8),  # deflated
        (10, 1),  # time
        (14, 0),  # CRC-32
        (26, 0),  # name length
        (28, 4),  # extra length
    ],
)
def test_games_with_header_fields_are_refused(offset: int, value: int) -> None:
    at = SIGNED.data.index(b"PK\1\2")
    for start, shift in ((0, 0), (at, 2)):  # local header and central directory
        data = bytearray(SIGNED.data)
        struct.pack_into("<H", data, start + offset + shift, value)
        with pytest.raises(ImageError):
            Image.parse(data)


def test_games_with_sizes_are_refused() -> None:
    for offset in (18, 22):
        for size in (0, 1, 2**31, 2**32 - 1):
            data = bytearray(SIGNED.data)
            struct.pack_into("<L", data, offset, size)
            with pytest.raises(ImageError):
                Image.parse(data)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x7fELF", b"#!"])
def test_other_files_are_not_images(data: bytes) -> None:
    with pytest.raises(ImageError):
        Image.parse(data)


@given(st.binary(max_size=400).map(lambda tail: b"PK\3\4" + tail) | st.binary(max_size=400))
def test_arbitrary_bytes_are_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        Image.parse(data)


@given(st.data())
@settings(max_examples=300)
def test_edited_images_are_an_image_error(data: st.DataObject) -> None:
    original = SIGNED.data
    at = data.draw(st.integers(0, len(original)))
    cut = data.draw(st.integers(0, 200))
    piece = data.draw(st.binary(max_size=20))
    changed = original[:at] + piece + original[at + cut :]
    if changed != original:
        with pytest.raises(ImageError):
            Image.parse(changed)


@given(st.dictionaries(st.sampled_from(["manifest.toml", "interface.json"]), st.binary()))
def test_well_formed_zips_of_garbage_are_an_image_error(contents: dict[str, bytes]) -> None:
    data = image_module._write_zip({**parts(UNSIGNED.data), **contents})
    if contents:
        with pytest.raises(ImageError):
            Image.parse(data)


@given(st.binary(max_size=300))
def test_arbitrary_signature_files_are_an_image_error(content: bytes) -> None:
    with pytest.raises(ImageError):
        Image.parse(image_module._write_zip({**parts(UNSIGNED.data), "signature.toml": content}))


def test_parsing_takes_bounded_time_and_memory() -> None:
    # The smallest entries there are, as many as fit in 8 MiB.
    empty = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0x21, 0, 0, 0, 4, 0)
    hostile = b"".join(empty + b"%04x" % number for number in range(65536))
    tracemalloc.start()
    before = time.process_time()
    try:
        with pytest.raises(ImageError, match="at most"):
            Image.parse(hostile)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - before < 10
    assert peak < 32 << 20


def test_an_image_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "MAX_IMAGE", len(SIGNED.data) - 1)
    with pytest.raises(ImageError, match="at most"):
        Image.parse(SIGNED.data)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ImageError, match="at most"):
        Image.load(tmp_path / "large")


def test_an_image_keeps_its_own_copy() -> None:
    shared = bytearray(SIGNED.data)
    image = Image.parse(shared)
    shared[:] = bytes(len(shared))
    assert image.data == SIGNED.data
    assert image.read("demo.py") == SOURCE


def test_an_image_can_not_be_changed_or_made_up() -> None:
    for field in ("manifest", "measurement", "signer", "data", "anything"):
        with pytest.raises(AttributeError):
            setattr(SIGNED, field, None)
    with pytest.raises(AttributeError):
        del SIGNED.signer
    with pytest.raises(TypeError):
        Image()  # type: ignore[call-arg]


def test_the_interface_must_be_the_app_s() -> None:
    with pytest.raises(ImageTampered, match="another app"):
        make(describes=interface("other"))
    with pytest.raises(ImageTampered, match="OCALL"):
        make(ocalls=("upload",))
    with pytest.raises(ImageError, match="interface"):
        make(describes=b"{}")
    with pytest.raises(ImageTampered, match="canonical"):
        make(describes=interface() + b"\n")


@pytest.mark.parametrize(
    "make_path",
    [
        lambda folder: folder / "missing.sgear",
        lambda folder: folder,
        lambda folder: folder / "fifo",
        lambda folder: folder / "demo.sgear" / "below-a-file",
    ],
)
def test_a_file_that_can_not_be_read_is_named(
    tmp_path: Path, make_path: Callable[[Path], Path]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "demo.sgear").write_bytes(b"hello")
    path = make_path(tmp_path)
    with pytest.raises(ImageError, match=str(path)):
        Image.load(path)


def test_loading_names_the_file_that_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "demo.sgear"
    path.write_bytes(SIGNED.data[:-1])
    with pytest.raises(ImageTampered, match=str(path)):
        Image.load(path)


def test_saving_replaces_in_one_step_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "demo.sgear"
    path.write_bytes(b"old")
    with path.open("rb") as old:
        SIGNED.save(path)
        assert old.read() == b"old"
    assert Image.load(path) == SIGNED
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageError, match="folder"):
        SIGNED.save(tmp_path / "folder")
    with pytest.raises(ImageError, match="nowhere"):
        SIGNED.save(tmp_path / "nowhere" / "demo.sgear")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["demo.sgear", "folder"]


# --- launch policy -------------------------------------------------------------------------------

DEBUG = make(debug=True)
OTHER = frozenset({digest(b"somebody else")})


@pytest.mark.parametrize(
    ("policy", "image"),
    [
        (LaunchPolicy(), SIGNED),
        (LaunchPolicy(unsigned=True), UNSIGNED),
        (LaunchPolicy(debug=True), DEBUG),
        (LaunchPolicy(debug=True), sign(DEBUG, KEY)),
        (LaunchPolicy(signers=frozenset({signer_of(KEY)}), minimum_svn=2), SIGNED),
    ],
)
def test_the_policy_accepts(policy: LaunchPolicy, image: Image) -> None:
    policy.check(image)


@pytest.mark.parametrize(
    ("policy", "image", "reason"),
    [
        (LaunchPolicy(), UNSIGNED, "not signed"),
        (LaunchPolicy(debug=True), UNSIGNED, "not signed"),
        (LaunchPolicy(), DEBUG, "debug image"),
        (LaunchPolicy(unsigned=True), DEBUG, "debug image"),
        (LaunchPolicy(), sign(DEBUG, KEY), "debug image"),
        (LaunchPolicy(minimum_svn=3), SIGNED, "svn 2 is below the minimum of 3"),
        (LaunchPolicy(signers=OTHER), SIGNED, "does not name"),
        (LaunchPolicy(signers=frozenset()), SIGNED, "does not name"),
        (LaunchPolicy(signers=OTHER, unsigned=True), UNSIGNED, "not signed"),
        (LaunchPolicy(signers=OTHER, debug=True), DEBUG, "not signed"),
    ],
)
def test_the_policy_refuses(policy: LaunchPolicy, image: Image, reason: str) -> None:
    with pytest.raises(ImageRefused, match=reason):
        policy.check(image)


# --- signature games -----------------------------------------------------------------------------


def signed_with(signature: Signature) -> bytes:
    contents = {**parts(UNSIGNED.data), "signature.toml": signature.canonical()}
    return image_module._write_zip(contents)


def test_a_signature_of_another_image_is_refused() -> None:
    other = sign(make(svn=1), KEY)
    assert other.signature is not None
    with pytest.raises(SignatureInvalid):
        Image.parse(signed_with(other.signature))


def test_a_signature_by_another_key_is_refused() -> None:
    stranger = sign(UNSIGNED, generate_key("ed25519"))
    assert stranger.signature is not None
    assert SIGNED.signature is not None
    mixed = Signature("ed25519", SIGNED.signature.public_key, stranger.signature.signature)
    with pytest.raises(SignatureInvalid):
        Image.parse(signed_with(mixed))


def test_stripping_a_signature_makes_an_unsigned_image() -> None:
    contents = parts(SIGNED.data)
    del contents["signature.toml"]
    stripped = Image.parse(image_module._write_zip(contents))
    assert stripped.signer is None
    with pytest.raises(ImageRefused):
        LaunchPolicy().check(stripped)


@pytest.mark.parametrize("algorithm", ["none", "rsa", "ecdsa-p384-sha384", "Ed25519", ""])
def test_a_signature_under_another_algorithm_s_name_is_refused(algorithm: str) -> None:
    assert SIGNED.signature is not None
    good = SIGNED.signature
    with pytest.raises(ImageError):
        Image.parse(signed_with(Signature(algorithm, good.public_key, good.signature)))


def test_padding_games_in_signature_toml_are_refused() -> None:
    content = parts(SIGNED.data)["signature.toml"]
    # 64 bytes are 86 digits and "=="; the last digit has four bits that decoders ignore.
    assert content.endswith(b'=="\n')
    games = [content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], content[:-4] + b'="\n']
    games += [content.replace(b"==", b"", 1), content + b"\n", content.replace(b" = ", b"=", 1)]
    for game in games:
        with pytest.raises(ImageError):
            Image.parse(image_module._write_zip({**parts(UNSIGNED.data), "signature.toml": game}))
