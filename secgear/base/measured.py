"""Imports of required distributions: only from files that match their measured listing.

A source file is read once, compared, and those very bytes are compiled. Before the first module of
a distribution runs, all its other files (shared libraries, data, extension modules) are compared,
and no foreign shared library may lie next to its own, because the dynamic linker would pick it up.
Byte code caches are neither read nor written: nobody measures them.

What this can't do: a file that a library opens by its path later is not compared again then. Where
the host can write to the enclave's files while it runs (the process TEE), that window exists; a
virtual machine's files are part of its measured memory.
"""

# Pathlib costs the enclave 5 ms at start.
# ruff: noqa: PTH100, PTH120, PTH123, PTH208

from __future__ import annotations

import errno
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from secgear.base.distributions import Distribution, check_files, normalise
from secgear.errors import RequirementError

if TYPE_CHECKING:
    from importlib.metadata import DistributionFinder, PathDistribution


class MeasuredFinder:
    """Serves the modules of measured distributions, and nothing else that lies beside them.

    distributions: proven listings (`secgear.base.distributions.verify`).
    search_path: the folders they are in; a module found there that no listing names is refused
    with a hint. exempt: top-level modules left to the other finders, such as the runtime's own.
    """

    def __init__(
        self,
        distributions: Iterable[Distribution],
        search_path: Sequence[str] = (),
        exempt: Iterable[str] = (),
    ) -> None:
        self._distributions = tuple(distributions)
        self._owners: dict[str, dict[str, Distribution]] = {}
        self._folders: set[str] = set()
        for distribution in self._distributions:
            owned = self._owners.setdefault(distribution.root, {})
            for path in distribution.files:
                owned[path] = distribution
                folder = path.rpartition("/")[0]
                while folder and folder not in self._folders:
                    self._folders.add(folder)
                    folder = folder.rpartition("/")[0]
        self._roots = [os.path.abspath(root) for root in search_path]
        self._roots += [root for root in self._owners if root not in self._roots]
        # A project's folder may be on the path as well as the virtual environment inside of it.
        self._innermost = sorted(self._roots, key=len, reverse=True)
        self._exempt = frozenset(exempt)
        self._checked: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the module `name` is among the measured files; None when it is not our business.

        Raises ModuleNotFoundError for an installed module that no required distribution owns.
        """
        top, _, tail = name.rpartition(".")
        if not top and name in sys.stdlib_module_names:
            return None
        namespace: list[str] = []
        ours = path is None
        for folder in self._roots if path is None else path:
            root, below = self._split(folder)
            if root is None:
                continue
            ours = ours or below in self._folders
            base = f"{below}/{tail}" if below else tail
            spec = self._in_folder(name, root, base)
            if spec is not None:
                return spec
            if base in self._folders and self._holds(root, base):
                namespace.append(f"{root}/{base}")
        if namespace:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = namespace
            return spec
        if ours and name not in self._exempt:
            self._explain(name, self._roots if path is None else list(path), tail)
        return None

    def _split(self, folder: str) -> tuple[str | None, str]:
        """`folder` as one of the roots, the innermost one, and what is below it."""
        for root in self._innermost:
            if folder == root:
                return root, ""
            if folder.startswith(f"{root}/"):
                return root, os.path.normpath(folder[len(root) + 1 :])
        return None, ""

    def _holds(self, root: str, folder: str) -> bool:
        return any(path.startswith(f"{folder}/") for path in self._owners.get(root, ()))

    def _in_folder(self, name: str, root: str, base: str) -> ModuleSpec | None:
        owned = self._owners.get(root, {})
        for stem in (f"{base}/__init__", base):
            for suffix in (*EXTENSION_SUFFIXES, ".py"):
                owner = owned.get(stem + suffix)
                if owner is not None:
                    return self._spec(name, owner, stem + suffix, package=stem != base)
        return None

    def _spec(self, name: str, owner: Distribution, path: str, *, package: bool) -> ModuleSpec:
        if owner.name not in self._checked:
            check_beside(owner, self._owners[owner.root])
            self._checked.add(owner.name)
        filename = f"{owner.root}/{path}"
        loader = (MeasuredSource if path.endswith(".py") else MeasuredExtension)(
            name, filename, owner, path
        )
        spec = ModuleSpec(name, loader, origin=filename, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(filename)]
        return spec

    def _explain(self, name: str, folders: Sequence[str], tail: str) -> None:
        """Raise a helpful error if the module is installed but not measured."""
        for folder in folders:
            root, below = self._split(folder)
            if root is None:
                continue
            for suffix in ("", *EXTENSION_SUFFIXES, ".py"):
                exists = os.path.isfile if suffix else os.path.isdir
                if not exists(f"{folder}/{tail}{suffix}"):
                    continue
                if below:
                    raise ModuleNotFoundError(
                        f"{name} is installed, but is not part of the measured distributions: "
                        f"{below}/{tail}{suffix} was added later or belongs to one that is not "
                        "in App(requires=[...])",
                        name=name,
                    )
                owner = owner_of(name, root)
                advice = (
                    f"is installed, but the image does not require it; add {owner!r} to "
                    "App(requires=[...]) and build again"
                    if owner
                    else f"lies in {root}, but it is not part of the image; put it beside the app"
                )
                raise ModuleNotFoundError(f"{name} {advice}", name=name)

    def find_distributions(self, context: DistributionFinder.Context) -> Iterator[PathDistribution]:
        """The measured distributions, for `importlib.metadata`."""
        from importlib.metadata import PathDistribution
        from pathlib import Path

        for distribution in self._distributions:
            if context.name is None or normalise(context.name) == distribution.name:
                prefix = f"{distribution.metadata}/"
                check_files(distribution, [p for p in distribution.files if p.startswith(prefix)])
                yield PathDistribution(Path(distribution.root, distribution.metadata))


class GuardedPathFinder:
    """Python's path-based finder, kept out of the folders in which distributions lie.

    It finds the standard library, and what `exempt` names. Without it, a file planted inside a
    measured package (a byte code file without source, a folder) would be found by its path after
    `MeasuredFinder` had not found it. It has no `find_distributions`, so that `importlib.metadata`
    sees measured distributions only.
    """

    def __init__(self, search_path: Sequence[str], exempt: Iterable[str] = ()) -> None:
        self._guarded = {os.path.realpath(root) for root in search_path}
        self._standard = os.path.realpath(os.path.dirname(os.__file__))
        self._exempt = frozenset(exempt)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the module `name` is outside of the guarded folders; None when it is not there."""
        if name.partition(".")[0] in self._exempt:
            return PathFinder.find_spec(name, path, target)
        folders = [folder for folder in (sys.path if path is None else path) if self._open(folder)]
        return PathFinder.find_spec(name, folders, target) if folders else None

    def invalidate_caches(self) -> None:
        """For `importlib.invalidate_caches`."""
        PathFinder.invalidate_caches()

    def _open(self, folder: str) -> bool:
        # Links and ".." must not lead in by another spelling. Innermost first: site-packages may
        # lie inside of the standard library's folder, and that one inside of a guarded one.
        at = os.path.realpath(folder)
        while at not in self._guarded and at not in (self._standard, "/"):
            at = os.path.dirname(at)
        return at not in self._guarded


class MeasuredSource(SourceFileLoader):
    """Loads a module from a source file whose bytes are compared first, and never from a cache."""

    def __init__(self, name: str, filename: str, owner: Distribution, path: str) -> None:
        super().__init__(name, filename)
        self._owner = owner
        self._relative = path

    def get_code(self, fullname: str) -> CodeType:
        """The module's code, compiled from exactly the bytes that were compared."""
        source = self.get_data(self.path)
        return compile(source, self.path, "exec", dont_inherit=True)

    def get_data(self, path: str) -> bytes:
        """The content of a measured file. Raises RequirementError when it differs."""
        root = f"{self._owner.root}/"
        expected = self._owner.files.get(os.path.normpath(path).removeprefix(root))
        if expected is None:
            raise FileNotFoundError(errno.ENOENT, "not part of the measured distribution", path)
        with io.FileIO(path) as file:
            data = file.readall()
        if hashlib.sha256(data).digest() != expected:
            raise RequirementError(
                f"{path} differs from what was measured for {self._owner.name} "
                f"{self._owner.version}; install the distribution again"
            )
        return data


class MeasuredExtension(ExtensionFileLoader):
    """Loads an extension module, compared once more right before the dynamic linker opens it."""

    def __init__(self, name: str, filename: str, owner: Distribution, path: str) -> None:
        super().__init__(name, filename)
        self._owner = owner
        self._relative = path

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module, once its file is known to be the measured one."""
        check_files(self._owner, [self._relative])
        return super().create_module(spec)


def check_beside(owner: Distribution, owned: Mapping[str, object]) -> None:
    """Compare everything of `owner` that is not Python source, and refuse foreign libraries.

    owned: every measured path of the same root. The dynamic linker looks for what an extension
    module needs in folders that the module names (DT_RUNPATH, ld.so(8)), also in their
    ``glibc-hwcaps``; a library planted there would run unmeasured.
    Raises RequirementError.
    """
    paths = [path for path in owner.files if not path.endswith(".py")]
    check_files(owner, paths)
    folders = {path.rpartition("/")[0] for path in paths if is_library(path)}
    for folder in sorted(folders):
        for entry in os.scandir(f"{owner.root}/{folder}"):
            path = f"{folder}/{entry.name}" if folder else entry.name
            planted = is_library(entry.name) and path not in owned
            if folder == "" and not entry.name.startswith("lib"):
                planted = False  # other distributions' extension modules lie here
            if planted or entry.name == "glibc-hwcaps":
                raise RequirementError(
                    f"{path} lies next to the libraries of {owner.name} and was never measured; "
                    "remove it, or install the distribution again"
                )


def is_library(path: str) -> bool:
    """Whether the name is one that the dynamic linker would load: ``x.so``, ``x.so.1.2``."""
    name = path.rpartition("/")[2]
    return name.endswith(".so") or ".so." in name


def owner_of(module: str, root: str) -> str | None:
    """The installed distribution that a top-level module most likely belongs to, if any."""
    folders = [name for name in os.listdir(root) if name.endswith((".dist-info", ".egg-info"))]
    names = {folder: folder.partition("-")[0] for folder in folders}
    for name in names.values():
        if normalise(name) == normalise(module):
            return normalise(name)
    for folder, name in names.items():
        try:
            with open(f"{root}/{folder}/RECORD", encoding="utf-8", errors="replace") as file:
                if any(line.startswith((f"{module}/", f"{module}.")) for line in file):
                    return normalise(name)
        except OSError:
            continue
    return None
