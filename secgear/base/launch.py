"""`launch`: from an image, or straight from source, to a running enclave."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from secgear.base.enclave import Enclave
from secgear.base.handover import HAND_OVER_ECALL
from secgear.base.image import Image, LaunchPolicy
from secgear.base.interface import Interface, diff
from secgear.base.schema import HostTypes
from secgear.base.switchless.options import Switchless
from secgear.base.tee import LaunchConfig, Tee, choose
from secgear.base.transport.arena import CHUNK_SIZE
from secgear.base.wire import Limits
from secgear.errors import ArgumentError, InterfaceMismatch, UnknownCall

_logger = logging.getLogger("secgear")


def launch(
    app: str | os.PathLike[str] | Image,
    *,
    tee: str = "auto",
    ocalls: Mapping[str, Callable[..., Any]] | None = None,
    policy: LaunchPolicy | None = None,
    require: Iterable[str] = (),
    interface: Interface | None = None,
    types: Mapping[str, type] | None = None,
    deadline: float | None = None,
    timeout: float = 60.0,
    limits: Limits | None = None,
    shared_size: int = 8 << 20,
    switchless: Switchless | bool | None = None,
) -> Enclave:
    """Start an enclave and return its handle.

    app: an image file (``.sgear``) or `Image`; or source (a ``.py`` file or a directory), which is
    built in memory as a debug image that no verifier accepts by default.
    tee: which TEE, or ``auto`` for the strongest that is available.
    ocalls: the host's functions for the OCALLs that the app declares.
    policy: which images may start; by default signed ones, and debug images from source.
    require: isolation layers that must hold, by name (`secgear doctor` lists them).
    interface, types: what the program was written against (a generated client passes them).
    deadline: seconds that each call may take, None for no limit.
    timeout: seconds until the enclave must be ready.
    limits: what this side accepts. shared_size: bytes of shared memory for each direction, a
    multiple of 1 MiB; 0 for none.
    switchless: how calls through shared memory are set up, True for the defaults. By default they
    are if the app declares an ECALL switchless.

    Raises ImageError and its kin for the image, PlatformUnavailable and LayerMissing for the
    platform, InterfaceMismatch with a diff, LaunchFailed when the enclave did not come up.
    """
    if shared_size < 0 or shared_size % CHUNK_SIZE:
        raise ArgumentError(f"shared_size is a multiple of {CHUNK_SIZE} bytes, not {shared_size}")
    if isinstance(app, Image):
        image = app
    else:
        path = Path(app)
        if path.suffix == ".py" or path.is_dir():
            from secgear.base.build import build

            image = build(path, debug=True)
            policy = policy or LaunchPolicy(debug=True)
        else:
            image = Image.load(path)
    (policy or LaunchPolicy()).check(image)
    if interface is not None and interface.digest() != image.interface.digest():
        lines = "\n".join(diff(interface, image.interface))
        raise InterfaceMismatch(
            f"{image.manifest.name}: this program was written against another interface "
            f"(- what it expects, + what the image has):\n{lines}"
        )
    handlers = dict(ocalls or {})
    for name, handler in handlers.items():
        if name not in image.interface.ocalls:
            known = ", ".join(image.interface.ocalls) or "none"
            raise UnknownCall(
                f"{image.manifest.name} declares no OCALL {name!r}; it declares {known}"
            )
        if not callable(handler):
            raise ArgumentError(f"the handler of OCALL {name!r} can't be called")
    host_types = HostTypes(image.interface, provided=dict(types or {}))
    technology, _ = choose(tee)
    options = _switchless(switchless, image.interface)
    config = LaunchConfig(
        timeout=timeout,
        require=tuple(require),
        shared_size=shared_size,
        switchless_size=options.geometry.size if options is not None else 0,
        connections=HAND_OVER_ECALL in image.interface.ecalls,
    )
    running = technology.launch(image, config)
    _say(image, technology)
    return Enclave(
        running,
        image,
        technology.name,
        types=host_types,
        ocalls=handlers,
        limits=limits or Limits(),
        deadline=deadline,
        timeout=timeout,
        switchless=options,
    )


def _switchless(asked: Switchless | bool | None, interface: Interface) -> Switchless | None:
    if isinstance(asked, Switchless):
        return asked
    if asked is None:
        asked = any(function.switchless for function in interface.ecalls.values())
    return Switchless() if asked else None


def _say(image: Image, tee: Tee) -> None:
    """Which TEE it is, and plainly if it is none; a production image deserves a warning then."""
    production = tee.simulated and not image.manifest.debug
    _logger.log(
        logging.WARNING if production else logging.INFO,
        "%s %s started in %s%s",
        image.manifest.name,
        image.manifest.version,
        tee.name,
        ", a simulation: its evidence has no hardware behind it" if tee.simulated else "",
    )
