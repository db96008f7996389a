"""Compiles the library with the system's C compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.library.generate import files

PLACE: Final = Path(__file__).with_name("c")
SOURCES: Final = (
    "attributes.c",
    "batches.c",
    "buffer.c",
    "call.c",
    "dial.c",
    "mechanisms.c",
    "messages.c",
    "module.c",
    "pieces.c",
    "sdf_agreement.c",
    "sdf_asymmetric.c",
    "sdf_auth.c",
    "sdf_device.c",
    "sdf_exports.c",
    "sdf_files.c",
    "sdf_form.c",
    "sdf_handles.c",
    "sdf_keys.c",
    "sdf_objects.c",
    "sdf_once.c",
    "sdf_pieces.c",
    "sdf_settings.c",
    "sdf_symmetric.c",
    "settings.c",
    "transport.c",
)
"""What is written by hand; every generated ``.c`` is compiled as well."""
EXPORTS: Final = ("C_*", "S_*", "SDF_*")
"""Symbols that the library has for others; all others are its own."""

FLAGS: Final = (
    "-std=c11", "-D_GNU_SOURCE", "-O2", "-g0", "-fPIC", "-pthread", "-fvisibility=hidden",
    "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wwrite-strings",
    "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong",
)  # fmt: skip
LINK: Final = (
    "-shared",
    "-Wl,-Bsymbolic",
    "-Wl,-z,relro,-z,now,-z,noexecstack,-z,defs",
    "-Wl,--as-needed",
)
_SECONDS = 300


def build(
    output: Path, *, address: str = "", flags: Sequence[str] = (), place: Path = PLACE
) -> None:
    """Make the library. address: of its module, for one that asks nobody else.

    flags: more of the compiler's. place: where the sources are. Raises CryptoModuleError without a
    compiler, or when it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        raise CryptoModuleError(
            f"{' '.join(compiler) or 'cc'}: no such compiler; install one (Debian: gcc libc6-dev), "
            "or name one in CC"
        )
    if not output.parent.is_dir():
        raise CryptoModuleError(f"{output}: there is no such directory")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generated = files()
        for file, text in generated.items():
            (folder / file).write_text(text)
        version = folder / "exports.map"
        version.write_text(f"{{ global: {'; '.join(EXPORTS)}; local: *; }};\n")
        sources = [str(place / source) for source in SOURCES]
        sources += [str(folder / file) for file in generated if file.endswith(".c")]
        built = folder / "library.so"
        built_for = [f'-DSG_BUILT_FOR="{_escaped(address)}"'] if address else []
        done = subprocess.run(
            [
                *compiler, *FLAGS, *flags, *built_for, f"-I{place}", f"-I{folder}", *sources,
                *LINK, f"-Wl,--version-script={version}", f"-Wl,-soname,{output.name}",
                "-o", str(built),
            ],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CryptoModuleError(f"the library does not compile:\n{done.stderr.strip()}")
        _install(built, output)


def install_headers(folder: Path) -> list[Path]:
    """Write the headers that programs in C need. Raises CryptoModuleError."""
    generated = files()
    texts = {name: generated[name] for name in ("functions.h", "secgear.h")}
    texts |= {name: (PLACE / name).read_text() for name in ("pkcs11.h", "sdf.h")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise CryptoModuleError(f"{folder}: {error.strerror or error}") from error
    return [folder / name for name in sorted(texts)]


def _install(built: Path, output: Path) -> None:
    """In one step: a program that has the old one loaded keeps it whole."""
    new = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(built, new)
        new.chmod(0o755)
        new.replace(output)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CryptoModuleError(f"{output}: {error.strerror or error}") from error


def _escaped(text: str) -> str:
    """As part of a string in C; what it can't be is refused by the command line."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
