"""The manifest of an image: what the program is, what it needs, and the digest of every file.

Its canonical bytes are what the measurement covers, so one manifest has exactly one spelling. The
spelling is a small subset of TOML 1.0 (people and `tomllib` can read it): one ``key = value`` a
line, in a fixed order, strings of printable ASCII that never need an escape. The parser reads that
subset only, in linear time, writes what it understood back and demands the same bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from secgear.errors import ImageError, ImageTampered

FORMAT: Final = 1
MAX_MANIFEST: Final = 4 << 20
MAX_FILES: Final = 10_000
MAX_PATH: Final = 512
DIGEST_SIZE: Final = 48
LOG_LEVELS: Final = ("off", "debug", "info", "warning", "error")
MIN_MEMORY: Final = 1 << 20
MAX_MEMORY: Final = 1 << 50

Value = str | int | bool | list[str]
Table = dict[str, Value]

_LINE = re.compile(
    r'(?:([a-z_]+)|"([ !#-\[\]-~]+)") = '
    r'(?:"([ !#-\[\]-~]*)"|(0|[1-9][0-9]{0,18})|(true|false)|(\[.*\]))'
)
_LIST = re.compile(r'\[(?:"[ !#-\[\]-~]*"(?:, "[ !#-\[\]-~]*")*)?\]')
_TEXT = re.compile(r"[!#-\[\]-~](?:[ !#-\[\]-~]{0,126}[!#-\[\]-~])?")
_PART = re.compile(r"[!#-.0-\[\]-~](?:[ !#-.0-\[\]-~]*[!#-.0-\[\]-~])?")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DISTRIBUTION = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


class Requirement(msgspec.Struct, frozen=True):
    """A distribution that the app imports from, as it was measured when the image was built.

    name: normalised (PEP 503). version: as the installed metadata's folder spells it.
    digest: 48 bytes, see `secgear.base.distributions`.
    """

    name: str
    version: str
    digest: bytes


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is and may do. An instance always holds valid values, however it was made.

    name, version: for people. product: what sealing and policies call the program.
    svn: security version number. entry: module that holds the `App`.
    debug: whether tracebacks may leave the enclave; no verifier accepts such an image by default.
    interface: SHA-384 of ``interface.json``. threads: ECALLs at once.
    memory: bytes of private data. log: lowest level that may leave, or ``off``.
    ocalls: OCALLs the program may make, sorted.
    python, platform: what the required distributions were built for, for example
    ``cpython-311`` and ``linux-x86_64``; empty without required distributions.
    requires: sorted by name. files: path below ``app/`` to SHA-384.
    """

    name: str
    version: str
    product: str
    svn: int
    entry: str
    debug: bool
    interface: bytes
    threads: int
    memory: int
    log: str
    ocalls: tuple[str, ...] = ()
    python: str = ""
    platform: str = ""
    requires: tuple[Requirement, ...] = ()
    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for field in ("name", "version", "product"):
            _check_text(field, getattr(self, field))
        _check_range("svn", self.svn, 0, 2**32 - 1)
        _check_range("threads", self.threads, 1, 256)
        _check_range("memory", self.memory, MIN_MEMORY, MAX_MEMORY)
        if type(self.debug) is not bool:
            raise ImageError(f"manifest: debug is true or false, not {self.debug!r}")
        if self.log not in LOG_LEVELS:
            raise ImageError(f"manifest: log is one of {', '.join(LOG_LEVELS)}, not {self.log!r}")
        _check_digest("interface", self.interface)
        for name in self.ocalls:
            _check_pattern("ocalls", name, _NAME, "a Python name")
        _check_sorted("ocalls", self.ocalls)
        self._check_requires()
        self._check_files()

    def _check_requires(self) -> None:
        for requirement in self.requires:
            _check_pattern("requires", requirement.name, _DISTRIBUTION, "a normalised name")
            _check_text(f"requires {requirement.name}: version", requirement.version)
            _check_digest(f"requires {requirement.name}", requirement.digest)
        _check_sorted("requires", [requirement.name for requirement in self.requires])
        if bool(self.requires) != bool(self.python) or bool(self.requires) != bool(self.platform):
            raise ImageError(
                "manifest: python and platform go together with required distributions"
            )
        if self.requires:
            _check_text("python", self.python)
            _check_text("platform", self.platform)

    def _check_files(self) -> None:
        if len(self.files) > MAX_FILES:
            raise ImageError(f"manifest: names {len(self.files)} files; the limit is {MAX_FILES}")
        folders = set()
        for path, digest in self.files.items():
            check_path(path)
            _check_digest(f"files {path}", digest)
            at = path.find("/")
            while at != -1:
                folders.add(path[:at])
                at = path.find("/", at + 1)
        for path in self.files:
            if path in folders:
                raise ImageError(f"manifest: {path} is both a file and a folder")
        _check_pattern("entry", self.entry, _MODULE, "a module name")
        stem = self.entry.replace(".", "/")
        if f"{stem}.py" not in self.files and f"{stem}/__init__.py" not in self.files:
            raise ImageError(f"manifest: entry {self.entry} names no file of the image")
        ordered = MappingProxyType({path: self.files[path] for path in sorted(self.files)})
        msgspec.structs.force_setattr(self, "files", ordered)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest that `data` spells.

        Raises ImageError when it can't be read, ImageTampered when it is not canonical.
        """
        manifest = _from_tables(read_tables(data, "manifest.toml", MAX_MANIFEST))
        if manifest.canonical() != data:
            raise ImageTampered(
                "manifest.toml is not in canonical form: keys out of order, or a changed layout; "
                "build the image again with secgear build"
            )
        return manifest

    def canonical(self) -> bytes:
        """The one spelling of this manifest. Raises ImageError beyond `MAX_MANIFEST` bytes."""
        lines = [
            "format = 1",
            *(write_line(field, getattr(self, field)) for field in _FIELDS),
            write_line("ocalls", list(self.ocalls)),
        ]
        if self.requires:
            lines += [write_line("python", self.python), write_line("platform", self.platform)]
        for requirement in self.requires:
            lines += ["", "[[requires]]", write_line("name", requirement.name)]
            lines += [write_line("version", requirement.version)]
            lines += [write_line("digest", requirement.digest.hex())]
        lines += ["", "[files]"]
        lines += [f'"{path}" = "{digest.hex()}"' for path, digest in self.files.items()]
        data = ("\n".join(lines) + "\n").encode("ascii")
        if len(data) > MAX_MANIFEST:
            raise ImageError(f"manifest.toml has {len(data)} bytes; the limit is {MAX_MANIFEST}")
        return data


# In the order in which they are written; `ocalls`, `python` and `platform` follow.
_FIELDS = {
    "name": str,
    "version": str,
    "product": str,
    "svn": int,
    "entry": str,
    "debug": bool,
    "interface": str,
    "threads": int,
    "memory": int,
    "log": str,
}


def check_path(path: str) -> None:
    """Raise ImageError unless `path` is a plain relative path: ASCII, no ``..``, no backslash."""
    if not isinstance(path, str) or len(path) > MAX_PATH:
        raise ImageError(f"manifest: a path has at most {MAX_PATH} characters: {str(path)[:80]!r}…")
    for part in path.split("/"):
        if part in (".", "..") or not _PART.fullmatch(part):
            raise ImageError(
                f"manifest: {path!r} is not a plain relative path of printable ASCII "
                'without "..", backslash or quote'
            )


def read_tables(data: bytes, what: str, limit: int) -> list[tuple[str, Table]]:
    """The tables of a canonical file in order, each with its header (``""`` for the first).

    what: the file's name, for messages. limit: bytes. Raises ImageError for any other shape.
    """
    if len(data) > limit:
        raise ImageError(f"{what} has {len(data)} bytes; the limit is {limit}")
    try:
        text = bytes(data).decode("ascii")
    except UnicodeDecodeError:
        raise ImageError(f"{what} holds bytes that are not ASCII") from None
    tables: list[tuple[str, Table]] = [("", {})]
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        if line in ("[files]", "[[requires]]"):
            tables.append((line, {}))
            continue
        key, value = _read_line(line, f"{what}, line {number}")
        if key in tables[-1][1]:
            raise ImageError(f"{what}, line {number}: {key!r} is given twice")
        tables[-1][1][key] = value
    return tables


def _read_line(line: str, where: str) -> tuple[str, Value]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ImageError(f"{where}: not a line of the form key = value: {line[:60]!r}")
    bare, quoted, text, number, truth, items = match.groups()
    key = bare or quoted
    if text is not None:
        return key, text
    if number is not None:
        return key, int(number)
    if truth is not None:
        return key, truth == "true"
    if not _LIST.fullmatch(items):
        raise ImageError(f'{where}: a list is written ["a", "b"]: {line[:60]!r}')
    return key, items[2:-2].split('", "') if items != "[]" else []


def write_line(key: str, value: Value) -> str:
    """One canonical line; strings are known to need no escape."""
    if isinstance(value, bytes):
        value = value.hex()
    if isinstance(value, bool):
        return f"{key} = {'true' if value else 'false'}"
    if isinstance(value, int):
        return f"{key} = {value}"
    if isinstance(value, str):
        return f'{key} = "{value}"'
    return f"{key} = [{', '.join(f'{chr(34)}{item}{chr(34)}' for item in value)}]"


def take(table: Table, key: str, kind: type, where: str) -> Value:
    """Remove `key` from `table`. Raises ImageError when it is absent or not of `kind`."""
    if key not in table:
        raise ImageError(f"{where}: {key} is missing")
    value = table.pop(key)
    if type(value) is not kind:
        raise ImageError(f"{where}: {key} is not {_KINDS[kind]}")
    return value


_KINDS = {str: "a string", int: "a number", bool: "true or false", list: "a list of strings"}


def check_format(top: Table, what: str) -> None:
    """Remove ``format`` from the first table. Raises ImageError when it is not 1."""
    version = take(top, "format", int, what)
    if version != FORMAT:
        raise ImageError(
            f"{what}: format {version} is not known; this version of secgear reads format {FORMAT}"
        )


def refuse_rest(table: Table, where: str) -> None:
    """Raise ImageError when keys are left that nobody took."""
    if table:
        raise ImageError(f"{where}: unknown key {next(iter(table))!r}")


def _from_tables(tables: list[tuple[str, Table]]) -> Manifest:
    where = "manifest.toml"
    top = tables[0][1]
    check_format(top, where)
    values: dict[str, Any] = {key: take(top, key, kind, where) for key, kind in _FIELDS.items()}
    values["ocalls"] = take(top, "ocalls", list, where)
    for key in ("python", "platform"):
        values[key] = take(top, key, str, where) if key in top else ""
    refuse_rest(top, where)
    if tables[-1][0] != "[files]":
        raise ImageError(f"{where}: [files] is missing or not last")
    requires = []
    for header, table in tables[1:-1]:
        if header != "[[requires]]":
            raise ImageError(f"{where}: {header} is out of place")
        name, version, digest = (
            str(take(table, key, str, f"{where}, [[requires]]"))
            for key in ("name", "version", "digest")
        )
        refuse_rest(table, f"{where}, [[requires]] {name}")
        requires.append(Requirement(name, version, _unhex(f"requires {name}", digest)))
    files = {path: _unhex(f"files {path}", digest) for path, digest in tables[-1][1].items()}
    values["interface"] = _unhex("interface", values["interface"])
    values["ocalls"] = tuple(values["ocalls"])
    return Manifest(**values, requires=tuple(requires), files=files)


def _unhex(field: str, value: Value) -> bytes:
    if isinstance(value, str) and len(value) == 2 * DIGEST_SIZE:
        try:
            return bytes.fromhex(value)
        except ValueError:
            pass
    raise ImageError(f"manifest: {field}: a SHA-384 digest is {2 * DIGEST_SIZE} hex digits")


def _check_text(field: str, value: object) -> None:
    _check_pattern(field, value, _TEXT, "1 to 128 printable ASCII characters, no quote, backslash")


def _check_pattern(field: str, value: object, pattern: re.Pattern[str], meaning: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ImageError(f"manifest: {field}: {str(value)[:80]!r} is not {meaning}")


def _check_range(field: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ImageError(f"manifest: {field} is a number from {low} to {high}, not {value!r}")


def _check_digest(field: str, value: object) -> None:
    if not isinstance(value, bytes) or len(value) != DIGEST_SIZE:
        raise ImageError(f"manifest: {field}: a SHA-384 digest has {DIGEST_SIZE} bytes")


def _check_sorted(field: str, names: tuple[str, ...] | list[str]) -> None:
    for before, after in itertools.pairwise(names):
        if before >= after:
            raise ImageError(f"manifest: {field}: {after!r} is out of order or given twice")
