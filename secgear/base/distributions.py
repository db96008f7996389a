r"""Measured distributions: what an app imports from, pinned file by file.

A distribution's digest is SHA-384 over a listing that does not depend on where, when or by whom it
was installed::

    secgear distribution v1\n
    numpy 2.4.6\n
    <sha256 hex>  numpy/__init__.py\n         one line a file, sorted by the path's UTF-8 bytes

The lines are those of ``sha256sum``. The files are those that the distribution's RECORD names,
below the folder it is installed in (scripts are outside), without byte code (Python's sources are
what runs) and without the notes that every installer writes differently.

The build hashes the files themselves and insists that RECORD agrees. Inside the enclave the listing
is then made from RECORD alone, in milliseconds: if its digest is the measured one, its hashes are
the measured ones, and every file is compared with its own before it is used.
"""

# Pathlib costs the enclave 5 ms at start.
# ruff: noqa: PTH100, PTH122, PTH123, PTH208

from __future__ import annotations

import binascii
import hashlib
import os
import posixpath
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from secgear.base.manifest import Requirement
from secgear.errors import BuildError, RequirementError

if TYPE_CHECKING:
    from packaging.requirements import Requirement as Wanted

LABEL: Final = b"secgear distribution v1\n"
_THREADS: Final = 3
_MAX_RECORD: Final = 64 << 20

# Written by installers about this one installation (PEP 376, 610, 627; uv's cache notes), or
# signatures over RECORD that nothing checks.
_INSTALLATION_NOTES: Final = frozenset(
    {
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
        "uv_cache.json",
        "uv_build.json",
        "installed-files.txt",
        "SOURCES.txt",
    }
)


class Distribution(msgspec.Struct, frozen=True):
    """One installed distribution as listed.

    name: normalised (PEP 503). version: as its metadata folder spells it. digest: 48 bytes.
    root: the folder it is installed in, such as site-packages. metadata: its metadata folder.
    files: path below `root` to the file's SHA-256, 32 bytes.
    """

    name: str
    version: str
    digest: bytes
    root: str
    metadata: str
    files: Mapping[str, bytes]

    @property
    def requirement(self) -> Requirement:
        """What a manifest says about this distribution."""
        return Requirement(self.name, self.version, self.digest)


class _Place(msgspec.Struct, frozen=True):
    """Where a distribution is installed."""

    name: str
    version: str
    root: str
    metadata: str


def normalise(name: str) -> str:
    """The one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def python_tag() -> str:
    """Which interpreters' extension modules fit this one, for example ``cpython-311``."""
    return sys.implementation.cache_tag or sys.implementation.name


def platform_tag() -> str:
    """Which machines' extension modules fit this one, for example ``linux-x86_64``."""
    return f"{sys.platform}-{os.uname().machine}"


def measure(name: str, search_path: Sequence[str] | None = None) -> Distribution:
    """The distribution `name` as installed in the first folder of `search_path` that has it.

    search_path: folders like site-packages; None for `sys.path`.
    Raises RequirementError when it is missing, editable, damaged or installed in a way that does
    not tell its files.
    """
    return _measure(_find(_index(search_path), normalise(name)))


def closure(
    names: Iterable[str], search_path: Sequence[str] | None = None
) -> tuple[Distribution, ...]:
    """What `names` and everything they depend on here measure as, sorted by name.

    names: requirements as in ``pip install``: ``numpy``, ``numpy>=2``, ``pandas[parquet]``; extras
    count only when written. secgear itself belongs to the TEE and is never part of it.
    Raises RequirementError as `measure`, also for a version that does not fit; BuildError when
    secgear is named.
    """
    from packaging.requirements import InvalidRequirement
    from packaging.requirements import Requirement as Wanted

    index = _index(search_path)
    waiting: list[tuple[Wanted, str]] = []
    for text in names:
        try:
            wanted = Wanted(text)
        except InvalidRequirement as error:
            raise RequirementError(f"{text!r} in App(requires=...): {error}") from error
        if normalise(wanted.name) == "secgear":
            raise BuildError(
                "App(requires=...) names secgear; leave it out: the runtime in the TEE brings it"
            )
        waiting.append((wanted, "App(requires=...)"))
    found: dict[str, _Place] = {}
    done: set[tuple[str, str]] = set()
    while waiting:
        wanted, by = waiting.pop()
        name = normalise(wanted.name)
        if name == "secgear":
            continue
        place = found.get(name) or _find(index, name, by)
        found[name] = place
        if not wanted.specifier.contains(place.version, prereleases=True):
            raise RequirementError(
                f"{name} {place.version} is installed, but {by} needs {wanted}; "
                f"pip install '{wanted}'"
            )
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) not in done:
                done.add((name, extra))
                waiting += [(needed, name) for needed in _needs(place, extra)]
    return tuple(_measure(found[name]) for name in sorted(found))


def verify(
    requirements: Iterable[Requirement], search_path: Sequence[str]
) -> tuple[Distribution, ...]:
    """The listings of the required distributions, proven to be the measured ones. Fast.

    Says nothing yet about the files themselves: compare each with its hash before using it
    (`check_files`, and `secgear.base.loader` for imports).
    Raises RequirementError when one is missing, has another version or differs.
    """
    index = _index(search_path)
    listed = []
    for requirement in requirements:
        place = _find(index, requirement.name, "the image")
        if place.version != requirement.version:
            raise RequirementError(
                f"the image was built with {requirement.name} {requirement.version}, here is "
                f"{place.version}; pip install {requirement.name}=={requirement.version}, "
                "or build the image again"
            )
        recorded = _recorded(place)
        missing = [path for path, digest in recorded.items() if digest is None]
        recorded |= hash_files(place.root, missing)
        distribution = _listed(place, recorded)
        if distribution.digest != requirement.digest:
            raise RequirementError(
                f"{requirement.name} {requirement.version} differs from what the image was built "
                "with: another build of it, or changed files; install it again from the same "
                "wheel, or build the image again"
            )
        listed.append(distribution)
    return tuple(listed)


def check_files(distribution: Distribution, paths: Iterable[str]) -> None:
    """Compare files with their listed hashes. Raises RequirementError naming one that differs."""
    for path, digest in hash_files(distribution.root, paths).items():
        if distribution.files.get(path) != digest:
            raise RequirementError(
                f"{path} of {distribution.name} {distribution.version} differs from what was "
                "measured; install the distribution again"
            )


def hash_files(root: str, paths: Iterable[str]) -> dict[str, bytes]:
    """SHA-256 of each of `paths` below `root`. Raises RequirementError when one can't be read."""

    def digest(path: str) -> bytes:
        try:
            with open(f"{root}/{path}", "rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise RequirementError(
                f"{path} belongs to a required distribution and can't be read "
                f"({error.strerror}); install the distribution again"
            ) from error

    wanted = list(paths)
    if len(wanted) < 2 * _THREADS:
        return {path: digest(path) for path in wanted}
    from concurrent.futures import ThreadPoolExecutor  # 8 ms that small distributions don't pay

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(wanted, pool.map(digest, wanted), strict=True))


def _index(search_path: Sequence[str] | None) -> dict[str, list[_Place]]:
    """Every distribution of the search path by name, the winning one first."""
    index: dict[str, list[_Place]] = {}
    for root in sys.path if search_path is None else search_path:
        try:
            folders = sorted(os.listdir(root))
        except OSError:
            continue
        for folder in folders:
            stem, kind = os.path.splitext(folder)
            if kind not in (".dist-info", ".egg-info", ".egg-link"):
                continue
            name, _, version = stem.partition("-")
            version = version.partition("-")[0]  # old egg-info folders end in -py3.11
            place = _Place(normalise(name), version, os.path.abspath(root), folder)
            index.setdefault(place.name, []).append(place)
    return index


def _find(index: Mapping[str, list[_Place]], name: str, by: str = "") -> _Place:
    places = index.get(name)
    if not places:
        reason = f"; {by} needs it" if by else ""
        raise RequirementError(f"{name} is not installed here{reason}; pip install {name}")
    first = places[0]
    rivals = [place for place in places if place.root == first.root]
    if first.metadata.endswith(".egg-link"):
        raise _editable(first)
    if len(rivals) > 1:
        raise RequirementError(
            f"{name} is installed twice in {first.root} ({rivals[0].metadata}, "
            f"{rivals[1].metadata}); uninstall it until it is gone, then install it once"
        )
    return first


def _needs(place: _Place, extra: str) -> list[Wanted]:
    from importlib.metadata import PathDistribution
    from pathlib import Path

    from packaging.requirements import Requirement as Wanted

    needed = []
    for text in PathDistribution(Path(place.root, place.metadata)).requires or ():
        wanted = Wanted(text)
        without = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            if extra and without:
                continue  # already there through the distribution itself
            needed.append(wanted)
    return needed


def _measure(place: _Place) -> Distribution:
    _refuse_editable(place)
    recorded = _recorded(place)
    actual = hash_files(place.root, recorded)
    for path, digest in recorded.items():
        if digest is not None and actual[path] != digest:
            raise RequirementError(
                f"{path} of {place.name} {place.version} was changed after installation (its "
                f"RECORD says otherwise); pip install --force-reinstall {place.name}"
            )
    return _listed(place, actual)


def _listed(place: _Place, files: Mapping[str, bytes | None]) -> Distribution:
    ordered = {path: files[path] or b"" for path in sorted(files, key=str.encode)}
    listing = hashlib.sha384(LABEL)
    listing.update(f"{place.name} {place.version}\n".encode())
    listing.update(
        "".join(f"{digest.hex()}  {path}\n" for path, digest in ordered.items()).encode()
    )
    return Distribution(
        place.name, place.version, listing.digest(), place.root, place.metadata, ordered
    )


def _recorded(place: _Place) -> dict[str, bytes | None]:
    """The files that count, with the SHA-256 that RECORD gives for them, if it gives one."""
    if place.metadata.endswith(".egg-info"):
        rows = [[posixpath.join(place.metadata, line), ""] for line in _lines(place)]
    else:
        import csv

        try:
            rows = list(csv.reader(_lines(place), strict=True))
        except csv.Error as error:
            raise _unlisted(place, f"its RECORD can't be read: {error}") from error
    files: dict[str, bytes | None] = {}
    for row in rows:
        if not row:
            continue
        path = posixpath.normpath(row[0])
        if not _counts(path, place.metadata):
            continue
        if "\\" in path or not path.isprintable():
            raise _unlisted(place, f"its RECORD names a strange path: {path[:80]!r}")
        if path in files:
            raise _unlisted(place, f"its RECORD names {path} twice")
        files[path] = _hash(row[1]) if len(row) > 1 else None
    return files


def _counts(path: str, metadata: str) -> bool:
    if path.startswith(("../", "/")) or path in ("..", "."):
        return False
    folder, _, name = path.rpartition("/")
    if name.endswith((".pyc", ".pyo")) or "__pycache__" in path.split("/"):
        return False
    return not (folder == metadata and name in _INSTALLATION_NOTES)


def _hash(text: str) -> bytes | None:
    """A hash as RECORD writes it: unpadded URL-safe base64 (PEP 376). None for other algorithms."""
    algorithm, _, value = text.partition("=")
    if algorithm != "sha256" or len(value) != 43:
        return None
    try:
        plain = value.translate(_FROM_URL_SAFE) + "="
        return binascii.a2b_base64(plain.encode("ascii"), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        return None


_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")


def _lines(place: _Place) -> list[str]:
    listing = "RECORD" if place.metadata.endswith(".dist-info") else "installed-files.txt"
    try:
        with open(f"{place.root}/{place.metadata}/{listing}", "rb") as file:
            data = file.read(_MAX_RECORD + 1)
    except FileNotFoundError:
        raise _unlisted(place, f"it has no {listing}") from None
    except OSError as error:
        raise _unlisted(place, f"its {listing} can't be read: {error.strerror}") from error
    if len(data) > _MAX_RECORD:
        raise _unlisted(place, f"its {listing} is larger than {_MAX_RECORD >> 20} MiB")
    try:
        return data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise _unlisted(place, f"its {listing} is not UTF-8") from None


def _unlisted(place: _Place, reason: str) -> RequirementError:
    return RequirementError(
        f"{place.name} {place.version} can't be measured: {reason}; install it with pip into a "
        "virtual environment"
    )


def _refuse_editable(place: _Place) -> None:
    import json

    try:
        with open(f"{place.root}/{place.metadata}/direct_url.json", "rb") as file:
            origin = json.load(file)
    except (OSError, ValueError):
        origin = None
    info = origin.get("dir_info") if isinstance(origin, dict) else None
    if isinstance(info, dict) and info.get("editable"):
        raise _editable(place)
    if any(path.startswith("__editable__") for path in _recorded(place)):
        raise _editable(place)


def _editable(place: _Place) -> RequirementError:
    return RequirementError(
        f"{place.name} is an editable installation, whose files are elsewhere and can change at "
        f"any time; install it properly to measure it: pip install . (in {place.name}'s project)"
    )
