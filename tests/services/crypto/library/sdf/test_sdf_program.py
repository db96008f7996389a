"""A program in C that is built against the header and linked with the library."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from secgear.services.crypto.library.build import PLACE, install_headers
from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.sdf.binding import (
    DeviceInfo,
    EccPublic,
    EccSignature,
    RsaPublic,
    cipher,
)

HEADER = (PLACE / "sdf.h").read_text()
CC = shlex.split(os.environ.get("CC", "cc"))


def compiled(folder: Path, source: Path, *arguments: str) -> Path:
    install_headers(folder / "include")
    program = folder / "program"
    subprocess.run(
        [*CC, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{folder / 'include'}", str(source),
         "-o", str(program), *arguments],
        check=True, timeout=60,
    )  # fmt: skip
    return program


def test_an_application_in_c(
    built: Path, server: Answering, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECGEAR_PKCS11", server.address)
    program = compiled(
        tmp_path,
        Path(__file__).with_name("application.c"),
        str(built),
        f"-Wl,-rpath,{built.parent}",
    )
    done = subprocess.run(
        [program, PIN.decode()], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said["same"] == "1"
    assert said["refused"] == "01000007"
    assert len(bytes.fromhex(said["digest"])) == 32
    wrong = subprocess.run(
        [program, "wrong"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (wrong.returncode, wrong.stderr) == (1, "right: 01000018\n")


def test_structures_are_what_the_standard_says(built: Path, tmp_path: Path) -> None:
    """Their sizes, and the header's in C++ too."""
    sizes = {
        "DEVICEINFO": ctypes.sizeof(DeviceInfo),
        "RSArefPublicKey": ctypes.sizeof(RsaPublic),
        "RSArefPrivateKey": 4 + 256 * 3 + 128 * 5,
        "ECCrefPublicKey": ctypes.sizeof(EccPublic),
        "ECCrefPrivateKey": 4 + 64,
        "ECCSignature": ctypes.sizeof(EccSignature),
    }
    checks = [
        f"typedef char {name}_[sizeof({name}) == {size} ? 1 : -1];" for name, size in sizes.items()
    ]
    checks.append(
        f"typedef char c_[SDF_CIPHER_SIZE(16) == {type(cipher(16)).mark.offset} ? 1 : -1];"
    )
    for suffix, options in ((".c", ["-std=c90"]), (".cpp", ["-x", "c++"])):
        source = tmp_path / f"sizes{suffix}"
        source.write_text('#include "sdf.h"\n' + "\n".join(checks) + "\n")
        subprocess.run(
            [*CC, *options, "-fsyntax-only", f"-I{PLACE}", str(source)], check=True, timeout=60
        )


def test_everything_in_the_header_is_in_the_library_and_nothing_else(built: Path) -> None:
    declared = set(re.findall(r"^int (SDF_\w+)\(", HEADER, re.MULTILINE))
    assert len(declared) > 55
    library = ctypes.CDLL(str(built))
    for name in declared:
        assert hasattr(library, name), name
    defined = set()
    for source in PLACE.glob("sdf_*.c"):
        defined |= set(re.findall(r"^SG_EXPORT int (SDF_\w+)\(", source.read_text(), re.MULTILINE))
    assert defined == declared
