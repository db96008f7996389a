"""The library as a file: what it exports, what it needs, how it is hardened; and its generator."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from secgear.errors import CryptoModuleError
from secgear.services.crypto.library import generate, prototypes
from secgear.services.crypto.library.build import build, install_headers
from secgear.services.crypto.library.prototypes import STANDARD, derived, own_calls
from secgear.services.crypto.pkcs11.calls import CALLS, Call
from tests.services.crypto.running import secgear


def elf(built: Path, *arguments: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    return subprocess.run(
        ["readelf", "-W", *arguments, str(built)], capture_output=True, text=True, check=True
    ).stdout


def test_it_exports_its_functions_and_nothing_else(built: Path) -> None:
    symbols = elf(built, "--dyn-syms")
    defined = {
        line.split()[-1] for line in symbols.splitlines() if re.search(r"\bGLOBAL\b.* \d+ \w", line)
    }
    ours = {name for name in defined if not name.startswith("SDF_")}
    assert ours == {*STANDARD, "S_Free", *(name for name, _ in own_calls())}


def test_it_needs_the_c_library_and_nothing_else(built: Path) -> None:
    needed = re.findall(r"NEEDED\).*\[(.*)\]", elf(built, "-d"))
    assert set(needed) <= {"libc.so.6", "libpthread.so.0"}  # one library since glibc 2.34


def test_it_is_hardened(built: Path) -> None:
    dynamic, segments, symbols = (elf(built, flag) for flag in ("-d", "-l", "--dyn-syms"))
    assert "BIND_NOW" in dynamic
    assert "GNU_RELRO" in segments
    assert re.search(r"GNU_STACK.* RW ", segments)  # no program on the stack
    assert "__stack_chk_fail" in symbols
    assert "__memcpy_chk" in symbols or "__fread_chk" in symbols or "__fgets_chk" in symbols
    assert "TEXTREL" not in dynamic


def test_the_same_tables_make_the_same_text() -> None:
    program = (
        "import hashlib; from secgear.services.crypto.library.generate import files; "
        "print(hashlib.sha256(repr(files()).encode()).hexdigest())"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(texts) == 1


def test_every_call_of_the_table_has_a_function() -> None:
    text = "".join(generate.files().values())
    written = "".join(
        path.read_text() for path in (Path(prototypes.__file__).parent / "c").glob("*.c")
    )
    for call in CALLS.values():
        name = call.name if call.name in STANDARD else f"S_{call.name[2:]}"
        assert re.search(rf"SG_EXPORT CK_RV {name}\(", text + written), name


def test_a_call_of_ours_becomes_a_function_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {
        120: Call(120, "S_Standing", "ay", "ay"),
        150: Call(150, "S_AttestKey", "uuayfy", "ay"),
        170: Call(170, "S_NewKey", "uayMaAaA", "u"),
    }
    monkeypatch.setattr(prototypes, "CALLS", {**CALLS, **added})
    header = generate.public_header()
    assert re.search(r"CK_RV S_AttestKey\(CK_ULONG a0, CK_ULONG a1, CK_BYTE_PTR a2, ", header)
    assert re.search(r"CK_RV S_Standing\(CK_BYTE_PTR a0, CK_ULONG a0_size, CK_BYTE_PTR \*", header)
    assert 'sg_begin(&call, 170, "uayMaAaA");' in generate.calls()


@pytest.mark.parametrize(
    ("request_", "response"), [("u", "s"), ("ufy", "u"), ("u", "au"), ("v", "u")]
)
def test_a_call_that_c_has_no_parameters_for_is_refused(request_: str, response: str) -> None:
    with pytest.raises(ValueError, match="S_New"):
        derived(Call(199, "S_New", request_, response))


def test_two_calls_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = {161: Call(161, "S_ImportKey", "u", ""), 171: Call(171, "S_ImportKey", "uu", "")}
    monkeypatch.setattr(prototypes, "CALLS", {**CALLS, **twice})
    with pytest.raises(ValueError, match="one name"):
        own_calls()


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CryptoModuleError, match="no such compiler; install one"):
        build(tmp_path / "library.so")
    assert "error:" in secgear(
        "crypto", "library", "--output", str(tmp_path / "library.so"), fails=True
    )
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(CryptoModuleError, match="does not compile"):
        build(tmp_path / "library.so", flags=["-include", "no-such-header.h"])
    assert not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CryptoModuleError, match="nowhere"):
        build(tmp_path / "nowhere" / "library.so")
    (tmp_path / "file").write_text("")
    with pytest.raises(CryptoModuleError, match="file"):
        install_headers(tmp_path / "file" / "headers")


@pytest.mark.parametrize(("compiler", "suffix"), [("cc", "c"), ("c++", "cc")])
def test_the_command_makes_the_library_and_its_headers(
    tmp_path: Path, compiler: str, suffix: str
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    output, headers = tmp_path / "library.so", tmp_path / "headers"
    said = secgear("crypto", "library", "--output", str(output), "--headers", str(headers))
    assert said.splitlines()[0] == str(output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o755
    program = tmp_path / f"program.{suffix}"
    program.write_text(
        '#include "pkcs11.h"\n#include "functions.h"\n#include "secgear.h"\n#include "sdf.h"\n'
        "int main(void) { CK_FUNCTION_LIST *list; return C_GetFunctionList(&list) != 0 || "
        "list->version.major != 2 || CKM_SM3 == 0; }\n"
    )
    command = [compiler, "-Wall", "-Wextra", "-Werror", f"-I{headers}", str(program), str(output)]
    command += [f"-Wl,-rpath,{tmp_path}", "-o", str(tmp_path / "program")]
    done = subprocess.run(command, check=False)
    assert done.returncode == 0
    assert subprocess.run([str(tmp_path / "program")], check=False).returncode == 0


@pytest.mark.parametrize("address", ["tcp://host:1", "unix:relative", "|a\nb", 'unix:/"\u00e9'])
def test_a_module_that_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    output = str(tmp_path / "library.so")
    assert "--module takes" in secgear(
        "crypto", "library", "--output", output, "--module", address, fails=True
    )
