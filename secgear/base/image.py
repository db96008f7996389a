"""An image: app, interface, manifest and signature in one file that is measured as a whole.

The file is a zip that unpackers can read, in one canonical form: stored entries sorted by name,
every header field fixed. `Image` is the only way in, and its constructor is the check: an instance
exists only after every digest, every header byte and the signature have been verified, over bytes
that nobody else can change. See ``docs/adr/0002-image-format.md``.
"""

# Pathlib and tempfile cost the enclave 10 ms at start.
# ruff: noqa: PTH100, PTH101, PTH105, PTH108

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

import msgspec

from secgear.base.interface import Interface
from secgear.base.manifest import (
    MAX_FILES,
    Manifest,
    check_format,
    read_tables,
    refuse_rest,
    take,
    write_line,
)
from secgear.errors import ImageError, ImageRefused, ImageTampered, InterfaceError

MAX_IMAGE: Final = 256 << 20
MAX_SIGNATURE: Final = 4 << 10
ALGORITHMS: Final = ("ed25519", "ecdsa-p384-sha384")

_APP = "app/"
_LABEL = b"secgear image v1\n"

# PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16. Fixed in every image: version 2.0, no
# flags, stored, 1980-01-01 00:00 (the earliest date there is), made on Unix, mode 0644.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_DATE = 0x0021
_UNIX_2_0 = 0x0314
_MODE = 0o100644 << 16


class Signature(msgspec.Struct, frozen=True):
    """Who vouches for an image.

    algorithm: ``ed25519`` or ``ecdsa-p384-sha384``. public_key: DER SubjectPublicKeyInfo
    (RFC 5280, section 4.1.2.7). signature: raw 64 bytes for Ed25519 (RFC 8032), DER with the
    lower of the two possible s for ECDSA.
    """

    algorithm: str
    public_key: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> Signature:
        """The signature that ``signature.toml`` spells, not yet verified. Raises ImageError."""
        where = "signature.toml"
        tables = read_tables(data, where, MAX_SIGNATURE)
        table = tables[0][1]
        check_format(table, where)
        algorithm = str(take(table, "algorithm", str, where))
        if algorithm not in ALGORITHMS:
            raise ImageError(f"{where}: algorithm is one of {', '.join(ALGORITHMS)}")
        try:
            key, value = (
                base64.b64decode(str(take(table, field, str, where)), validate=True)
                for field in ("public_key", "signature")
            )
        except binascii.Error:
            raise ImageError(f"{where}: public_key and signature are base64") from None
        refuse_rest(table, where)
        signature = cls(algorithm, key, value)
        if len(tables) != 1 or signature.canonical() != data:
            raise ImageTampered(f"{where} is not in canonical form")
        return signature

    def canonical(self) -> bytes:
        """The one spelling of this signature."""
        lines = [
            "format = 1",
            write_line("algorithm", self.algorithm),
            write_line("public_key", base64.b64encode(self.public_key).decode()),
            write_line("signature", base64.b64encode(self.signature).decode()),
        ]
        return ("\n".join(lines) + "\n").encode("ascii")


@final
class Image:
    """A verified image. It can't be changed and holds its own copy of the bytes.

    data: the whole file. manifest, interface: what it declares.
    measurement: SHA-384 of the canonical manifest, 48 bytes.
    signature: as verified, or None. signer: SHA-384 of the signing key's DER
    SubjectPublicKeyInfo, 48 bytes, or None.
    """

    __slots__ = ("_spans", "data", "interface", "manifest", "measurement", "signature", "signer")

    data: bytes
    manifest: Manifest
    interface: Interface
    measurement: bytes
    signature: Signature | None
    signer: bytes | None
    _spans: Mapping[str, tuple[int, int]]

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        """Verify `data`; see `parse`."""
        if memoryview(data).nbytes > MAX_IMAGE:
            raise ImageError(f"an image has at most {MAX_IMAGE >> 20} MiB")
        private = bytes(data)
        spans = _read_zip(private)
        manifest = Manifest.parse(_cut(private, spans, "manifest.toml"))
        _check_contents(private, spans, manifest)
        for field, value in {
            "data": private,
            "manifest": manifest,
            "interface": _read_interface(_cut(private, spans, "interface.json"), manifest),
            "measurement": hashlib.sha384(manifest.canonical()).digest(),
            "_spans": MappingProxyType(spans),
        }.items():
            object.__setattr__(self, field, value)
        signature = signer = None
        if "signature.toml" in spans:
            from secgear.base.signing import verify  # 20 ms that unsigned images don't pay

            signature = Signature.parse(_cut(private, spans, "signature.toml"))
            signer = verify(self.to_be_signed, signature)
        object.__setattr__(self, "signature", signature)
        object.__setattr__(self, "signer", signer)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Image:
        """The image in `data`, after every check.

        Raises ImageError when it is no image, ImageTampered when any byte differs from what the
        manifest and the canonical form demand, SignatureInvalid when a signature is present and
        does not verify.
        """
        return cls(data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Image:
        """The image in the file `path`. Raises ImageError also when it can't be read."""
        try:
            with open(path, "rb", opener=_open_now) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ImageError(f"{path}: not a regular file; secgear build makes images")
                data = file.read(MAX_IMAGE + 1)
        except OSError as error:
            raise ImageError(f"{path}: can't be read: {error.strerror or error}") from error
        try:
            return cls(data)
        except ImageError as error:
            raise type(error)(f"{path}: {error}") from error

    @property
    def paths(self) -> tuple[str, ...]:
        """The app's files, sorted, relative to the app's root."""
        return tuple(self.manifest.files)

    @property
    def to_be_signed(self) -> bytes:
        """What a signature covers: a label and the measurement in hex, so that any signer fits."""
        return _LABEL + self.measurement.hex().encode() + b"\n"

    def read(self, path: str) -> bytes:
        """The content of one of the app's files. Raises KeyError for any other path."""
        start, end = self._spans[_APP + path]
        return self.data[start:end]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image to `path` in one step: readers see the old file or the whole new one.

        Raises ImageError when it can't be written; nothing is left behind then.
        """
        import tempfile

        folder, name = os.path.split(os.path.abspath(path))
        try:
            # The random name and O_EXCL keep other users of the folder from aiming the write.
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self.data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise ImageError(f"{path}: can't be written: {error.strerror or error}") from error

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an image can't be changed ({name}); build or sign makes a new one")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.measurement)

    def __repr__(self) -> str:
        kind = "debug image" if self.manifest.debug else "image"
        signer = self.signer.hex()[:12] if self.signer else "nobody"
        return (
            f"<{kind} {self.manifest.name} {self.manifest.version}, "
            f"measurement {self.measurement.hex()[:12]}…, signed by {signer}>"
        )


class LaunchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which images a host is willing to start.

    It keeps honest hosts from starting the wrong thing; what convinces a data owner is evidence.
    signers: accepted signer digests (48 bytes), None for any signer.
    minimum_svn: lowest security version number; raise it to shut out rolled-back images.
    unsigned: accept production images that nobody signed, unless `signers` is given.
    debug: accept debug images, signed or, unless `signers` is given, not.
    """

    signers: frozenset[bytes] | None = None
    minimum_svn: int = 0
    unsigned: bool = False
    debug: bool = False

    def check(self, image: Image) -> None:
        """Raise ImageRefused with the reason unless the policy accepts `image`."""
        manifest = image.manifest
        what = f"{manifest.name} {manifest.version}"
        if manifest.debug and not self.debug:
            raise ImageRefused(
                f"{what}: a debug image shows its secrets in tracebacks; build it without debug, "
                "or accept debug images in the launch policy while developing"
            )
        if image.signer is None:
            if self.signers is not None:
                raise ImageRefused(f"{what}: not signed, and the policy names its signers")
            if not self.unsigned and not manifest.debug:
                raise ImageRefused(
                    f"{what}: not signed; sign it with secgear sign, "
                    "or accept unsigned images in the launch policy"
                )
        elif self.signers is not None and image.signer not in self.signers:
            raise ImageRefused(
                f"{what}: signed by {image.signer.hex()}, which the policy does not name"
            )
        if manifest.svn < self.minimum_svn:
            raise ImageRefused(
                f"{what}: svn {manifest.svn} is below the minimum of {self.minimum_svn}; "
                "an older version may have known holes"
            )


def assemble(
    manifest: Manifest,
    interface: bytes,
    files: Mapping[str, bytes],
    signature: Signature | None = None,
) -> Image:
    """The image made of these parts, verified like any other. Raises ImageError."""
    entries = {f"{_APP}{path}": content for path, content in files.items()}
    entries |= {"manifest.toml": manifest.canonical(), "interface.json": interface}
    if signature is not None:
        entries["signature.toml"] = signature.canonical()
    return Image(_write_zip(entries))


def with_signature(image: Image, signature: Signature | None) -> Image:
    """The same image signed with `signature`, or unsigned. Raises SignatureInvalid."""
    interface = _cut(image.data, image._spans, "interface.json")
    files = {path: image.read(path) for path in image.paths}
    return assemble(image.manifest, interface, files, signature)


def _open_now(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO must not make us wait for a writer


def _read_interface(data: bytes, manifest: Manifest) -> Interface:
    try:
        interface = Interface.from_json(data)
    except InterfaceError as error:
        raise ImageError(f"interface.json can't be read: {error}") from error
    if interface.to_json() != data:
        raise ImageTampered("interface.json is not in canonical form; build the image again")
    if interface.name != manifest.name or interface.version != manifest.version:
        raise ImageTampered("interface.json belongs to another app or version than the manifest")
    if not set(manifest.ocalls) <= set(interface.ocalls):
        raise ImageTampered("the manifest allows OCALLs that the interface does not declare")
    return interface


def _check_contents(data: bytes, spans: Mapping[str, tuple[int, int]], manifest: Manifest) -> None:
    digests = {f"{_APP}{path}": digest for path, digest in manifest.files.items()}
    digests["interface.json"] = manifest.interface
    unnamed = spans.keys() - digests.keys() - {"manifest.toml", "signature.toml"}
    if unnamed:
        raise ImageTampered(f"{min(unnamed)} is in the image, but its manifest does not name it")
    view = memoryview(data)
    for name, digest in digests.items():
        if name not in spans:
            raise ImageTampered(f"{name} is named by the manifest and missing from the image")
        start, end = spans[name]
        if hashlib.sha384(view[start:end]).digest() != digest:
            raise ImageTampered(f"{name} differs from what the manifest says")


def _cut(data: bytes, spans: Mapping[str, tuple[int, int]], name: str) -> bytes:
    if name not in spans:
        raise ImageError(f"{name} is missing; is this an image?")
    start, end = spans[name]
    return data[start:end]


def _local_header(name: bytes, size: int, crc: int) -> bytes:
    fields = (b"PK\3\4", 20, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
    return _LOCAL.pack(*fields) + name


def _directory(entries: list[tuple[bytes, int, int, int]], start: int) -> bytes:
    """Central directory and end record. entries: name, size, CRC-32, offset of the local header."""
    parts = []
    for name, size, crc, offset in entries:
        fields = (_UNIX_2_0, 20, 0, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0)
        parts.append(_CENTRAL.pack(b"PK\1\2", *fields, _MODE, offset) + name)
    size = sum(map(len, parts))
    count = len(entries)
    parts.append(_END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0))
    return b"".join(parts)


def _write_zip(contents: Mapping[str, bytes]) -> bytes:
    parts: list[bytes] = []
    entries = []
    offset = 0
    for text in sorted(contents):
        name, content = text.encode("ascii"), contents[text]
        crc = binascii.crc32(content)
        parts += [_local_header(name, len(content), crc), content]
        entries.append((name, len(content), crc, offset))
        offset += len(parts[-2]) + len(content)
        if offset > MAX_IMAGE:
            raise ImageError(f"the files add up to more than {MAX_IMAGE >> 20} MiB")
    return b"".join([*parts, _directory(entries, offset)])


def _read_zip(data: bytes) -> dict[str, tuple[int, int]]:
    """Names of the entries and where their contents start and end.

    Only the canonical form is read: from what the local headers say the one possible file is
    rebuilt piece by piece and compared, so no header byte is left to chance.
    """
    view = memoryview(data)
    spans: dict[str, tuple[int, int]] = {}
    entries: list[tuple[bytes, int, int, int]] = []
    offset = 0
    while data[offset : offset + 4] == b"PK\3\4":
        if len(data) - offset < _LOCAL.size:
            raise ImageTampered("the image ends within a header; it was cut short")
        fields = _LOCAL.unpack_from(data, offset)
        crc, size, length = fields[6], fields[7], fields[9]
        start = offset + _LOCAL.size + length
        name = data[offset + _LOCAL.size : start]
        if start + size > len(data):
            raise ImageTampered("the image ends within a file; it was cut short")
        if data[offset:start] != _local_header(name, size, crc):
            raise ImageTampered(f"entry {len(entries) + 1} has a header that no image has")
        if binascii.crc32(view[start : start + size]) != crc:
            raise ImageTampered(f"entry {len(entries) + 1} differs from its checksum")
        if entries and name <= entries[-1][0]:
            raise ImageTampered("the entries are not sorted by name, or one is given twice")
        if len(entries) == MAX_FILES + 3:
            raise ImageError(f"an image has at most {MAX_FILES} files")
        entries.append((name, size, crc, offset))
        spans[name.decode("latin-1")] = (start, start + size)
        offset = start + size
    if not entries:
        raise ImageError("not an image; secgear build makes one")
    if view[offset:] != _directory(entries, offset):
        raise ImageTampered("the directory at the end does not match the entries, or was cut short")
    return spans
