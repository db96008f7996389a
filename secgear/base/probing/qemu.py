"""Which QEMU is installed and what it was built with; which firmware it can boot.

Lists come from QEMU itself (``-accel help``, ``-object help``). Firmware comes from the
descriptors that distributions install for it (QEMU, docs/interop/firmware.json).
"""

from __future__ import annotations

import re

import msgspec

from secgear.base.probing.machine import Machine, clean
from secgear.base.probing.probed import Finding

DESCRIPTORS = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
DESCRIPTOR_COUNT = 100

_VERSION = re.compile(r"\bversion (\d{1,6}(?:\.\d{1,6}){1,3})")
_ITEM = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s*", re.ASCII)


class Qemu(msgspec.Struct, frozen=True):
    """An installed QEMU for the machine's architecture.

    path: empty if there is none. version: empty if it did not answer.
    """

    path: str = ""
    version: str = ""
    accelerators: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()


class Firmware(msgspec.Struct, frozen=True):
    """An installed firmware image and the features its descriptor claims."""

    file: str
    features: tuple[str, ...] = ()


def look(machine: Machine) -> Qemu:
    """Find QEMU and ask it; some 50 ms for each of three questions, asked once a process."""
    # Red Hat's QEMU lives off the path, under a name that does not tell the architecture.
    path = machine.which(f"qemu-system-{machine.arch}", "/usr/libexec/qemu-kvm")
    if path is None:
        return Qemu()
    version = parse_version(machine.output(path, "--version") or "")
    return Qemu(
        path=path,
        version=version,
        accelerators=parse_list(machine.output(path, "-accel", "help") or ""),
        objects=parse_list(machine.output(path, "-object", "help") or ""),
    )


def findings(qemu: Qemu, arch: str) -> list[Finding]:
    """Whether there is a QEMU that answers."""
    problem = fix = ""
    if not qemu.path:
        problem = f"there is no qemu-system-{arch}"
        fix = (
            "install QEMU (Debian and Ubuntu: qemu-system-x86 or qemu-system-arm; "
            "Fedora and openEuler: qemu-kvm or qemu)"
        )
    elif not qemu.version:
        problem = f"{qemu.path} does not tell its version within two seconds"
        fix = f"run {qemu.path} --version and see what is wrong with it"
    return [
        Finding("host.qemu", qemu.path or "absent", problem, fix),
        Finding("host.qemu.version", qemu.version or "unknown"),
    ]


def object_finding(qemu: Qemu, name: str, since: str) -> Finding:
    """Whether QEMU was built with the object type `name`. since: where it comes with QEMU."""
    there = name in qemu.objects
    return Finding(
        "host.qemu.object",
        f"{name}: {'yes' if there else 'no'}",
        "" if there else f"{qemu.path or 'QEMU'} {qemu.version} has no {name} object",
        "" if there else f"install {since}",
    )


def firmware(machine: Machine, feature: str = "", known: tuple[str, ...] = ()) -> list[Firmware]:
    """Installed UEFI firmware for the machine's architecture, best first.

    feature: only firmware that claims it, for example ``amd-sev-snp``.
    known: file names to look for, too, for distributions without descriptors.
    """
    found: dict[str, Firmware] = {}
    for directory in DESCRIPTORS:
        for name in machine.names(directory)[:DESCRIPTOR_COUNT]:
            text = machine.read(f"{directory}/{name}") if name.endswith(".json") else None
            item = parse_descriptor(text or "", machine.arch)
            if item and (not feature or feature in item.features) and machine.exists(item.file):
                found.setdefault(item.file, item)
    for file in known:
        if machine.exists(file):
            found.setdefault(file, Firmware(file))
    return list(found.values())


def firmware_finding(machine: Machine, feature: str, known: tuple[str, ...]) -> Finding:
    """Which firmware with `feature` is installed. Never a problem: it may come with the image."""
    found = firmware(machine, feature, known)
    seen = clean(", ".join(item.file for item in found)) or f"none that claims {feature}"
    return Finding("host.firmware", seen)


def parse_version(text: str) -> str:
    """The version in the output of ``--version``; empty if there is none."""
    match = _VERSION.search(text[:4096])
    return match.group(1) if match else ""


def parse_list(text: str) -> tuple[str, ...]:
    """The items of a help list: lines that consist of one name. Headings have several words."""
    lines = (_ITEM.fullmatch(line) for line in text.splitlines())
    return tuple(dict.fromkeys(match.group(1) for match in lines if match))


def parse_descriptor(text: str, arch: str) -> Firmware | None:
    """The UEFI firmware for `arch` that a descriptor names; None if it names no such thing."""
    try:
        descriptor = msgspec.json.decode(text.encode("utf-8", "replace"), type=_Descriptor)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return None
    mapping = descriptor.mapping
    file = mapping.executable.filename if mapping.executable else mapping.filename
    fits = any(target.architecture == arch for target in descriptor.targets)
    if "uefi" not in descriptor.interface_types or not fits or not file.startswith("/"):
        return None
    return Firmware(clean(file), tuple(clean(name) for name in descriptor.features))


class _Executable(msgspec.Struct):
    filename: str = ""


class _Mapping(msgspec.Struct):
    """FirmwareMapping: ``flash`` has an executable, ``memory`` and ``kernel`` a file name."""

    executable: _Executable | None = None
    filename: str = ""


class _Target(msgspec.Struct):
    architecture: str = ""


class _Descriptor(msgspec.Struct, rename="kebab"):
    interface_types: list[str] = []
    mapping: _Mapping = msgspec.field(default_factory=_Mapping)
    targets: list[_Target] = []
    features: list[str] = []
