"""Imports inside the enclave: the app's modules from its image, everything else as measured.

`install` arranges `sys.meta_path`. `ImageFinder` serves the app's own modules and data files from
the image in private memory; `secgear.base.measured` serves the required distributions.
"""

# Pathlib costs the enclave 5 ms at start.
# ruff: noqa: PTH100, PTH119, PTH120, PTH122

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

from secgear.base.distributions import Distribution, platform_tag, python_tag, verify
from secgear.base.measured import GuardedPathFinder, MeasuredFinder
from secgear.errors import RequirementError

if TYPE_CHECKING:
    from secgear.base.image import Image

IMAGE: Final = "<image>"


class Files(Protocol):
    """The app's files; an `Image` is one."""

    @property
    def paths(self) -> Sequence[str]:
        """Every file, relative to the app's root."""
        ...

    def read(self, path: str) -> bytes:
        """The content of one of `paths`."""
        ...


def install(image: Image, search_path: Sequence[str], exempt: Iterable[str] = ()) -> None:
    """From now on import the app from `image`, and what it requires as measured.

    search_path: folders in which distributions may lie; nothing else in them can be imported.
    The standard library's own folders may be among them and stay open.
    exempt: top-level modules in them that stay importable unmeasured, because they belong to the
    runtime itself; ``secgear`` always does.
    Raises RequirementError when a required distribution is missing, differs, or was measured for
    another interpreter or machine.
    """
    manifest = image.manifest
    here = (python_tag(), platform_tag())
    if manifest.requires and (manifest.python, manifest.platform) != here:
        raise RequirementError(
            f"the image was built for {manifest.python} on {manifest.platform}, "
            f"this is {here[0]} on {here[1]}; build it with the same Python and machine type"
        )
    roots = distribution_folders(search_path)
    install_finders(image, verify(manifest.requires, roots), roots, exempt)


def install_finders(
    files: Files,
    distributions: Iterable[Distribution],
    roots: Sequence[str],
    exempt: Iterable[str] = (),
) -> None:
    """Replace the path-based finder by ours; see `install`. distributions: proven listings."""
    distributions = list(distributions)
    own = {"secgear", *exempt}
    # The runtime may complete packages that it has begun to import, unless the app requires them.
    begun = {name.partition(".")[0] for name in sys.modules}
    measured = {path.partition("/")[0] for item in distributions for path in item.files}
    finders: list[Any] = [
        ImageFinder(files),
        MeasuredFinder(distributions, roots, own),
        GuardedPathFinder(roots, own | (begun - measured)),
    ]
    names = [getattr(finder, "__name__", "") for finder in sys.meta_path]
    at = names.index("PathFinder") if "PathFinder" in names else len(names)
    sys.meta_path[at : at + 1] = finders


def distribution_folders(search_path: Iterable[str]) -> list[str]:
    """The folders of `search_path` that are not the standard library's."""
    standard = os.path.realpath(os.path.dirname(os.__file__))
    folders = dict.fromkeys(os.path.abspath(folder) for folder in search_path)
    return [
        folder
        for folder in folders
        if os.path.realpath(folder) != standard and os.path.basename(folder) != "lib-dynload"
    ]


class ImageFinder:
    """Serves the app's modules and data files from the image; names of the stdlib stay its own."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._loaders: dict[str, _ImageLoader | None] = {}
        for path in files.paths:
            stem, kind = os.path.splitext(path)
            if kind != ".py":
                continue
            package, _, name = stem.rpartition("/")
            module = package if name == "__init__" else stem
            if module and (name == "__init__" or module not in self._loaders):
                loader = _ImageLoader(files, path, name == "__init__")
                self._loaders[module.replace("/", ".")] = loader
            while package:
                self._loaders.setdefault(package.replace("/", "."), None)
                package = package.rpartition("/")[0]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the module `name` is in the image; None when it is not there."""
        if name not in self._loaders or name.partition(".")[0] in sys.stdlib_module_names:
            return None
        loader = self._loaders[name]
        if loader is None:  # a folder without __init__.py: a namespace package
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [f"{IMAGE}/{name.replace('.', '/')}"]
            return spec
        spec = ModuleSpec(name, loader, origin=loader.filename, is_package=loader.package)  # type: ignore[arg-type]
        spec.has_location = True
        if loader.package:
            spec.submodule_search_locations = [os.path.dirname(loader.filename)]
        return spec


class _ImageLoader:
    """Loads one module from the image (PEP 302 and 451, with `linecache` and resources)."""

    def __init__(self, files: Files, path: str, package: bool) -> None:
        self._files = files
        self._path = path
        self.package = package
        self.filename = f"{IMAGE}/{path}"

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102  (this is what an importer does)

    def get_code(self, name: str) -> CodeType:
        return compile(self._files.read(self._path), self.filename, "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        from importlib.util import decode_source

        return decode_source(self._files.read(self._path))

    def get_filename(self, name: str) -> str:
        return self.filename

    def is_package(self, name: str) -> bool:
        return self.package

    def get_data(self, path: str) -> bytes:
        """The content of a file given as it appears below a module's ``__file__``."""
        try:
            return self._files.read(path.removeprefix(f"{IMAGE}/"))
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "not in the image", path) from None

    def get_resource_reader(self, name: str) -> _Resources | None:
        return _Resources(self._files, self._path.rpartition("/")[0]) if self.package else None


class _Resources:
    """What `importlib.resources` asks for a package's files."""

    def __init__(self, files: Files, folder: str) -> None:
        self._root = Resource(files, folder)

    def files(self) -> Resource:
        return self._root


class Resource:
    """A file or folder of the image, as `importlib.resources.files` hands it out (Traversable)."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether the image holds a file here."""
        return self._path in self._files.paths

    def is_dir(self) -> bool:
        """Whether the image holds files below here."""
        return any(path.startswith(f"{self._path}/") for path in self._files.paths)

    def iterdir(self) -> Iterator[Resource]:
        """The files and folders in this folder."""
        prefix = f"{self._path}/"
        inside = (
            path.removeprefix(prefix) for path in self._files.paths if path.startswith(prefix)
        )
        for name in dict.fromkeys(path.partition("/")[0] for path in inside):
            yield Resource(self._files, prefix + name)

    def joinpath(self, *parts: str) -> Resource:
        """The file or folder below this one."""
        return Resource(self._files, "/".join([self._path, *(str(part) for part in parts)]))

    __truediv__ = joinpath

    def read_bytes(self) -> bytes:
        """The file's content. Raises FileNotFoundError."""
        try:
            return self._files.read(self._path)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "not in the image", str(self)) from None

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The file's content as text; UTF-8 unless said otherwise."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> io.BytesIO | io.TextIOWrapper:
        """The file, for reading; `args` as for `io.TextIOWrapper` in text mode."""
        data = io.BytesIO(self.read_bytes())
        if "b" in mode:
            return data
        kwargs.setdefault("encoding", None if args else "utf-8")
        if args:
            del kwargs["encoding"]
        return io.TextIOWrapper(data, *args, **kwargs)

    def __str__(self) -> str:
        return f"{IMAGE}/{self._path}"

    def __repr__(self) -> str:
        return f"<{self}>"
