"""``secgear run``: make one ECALL from the command line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli.images import ImageOrSource, MinSvn, Signer, is_source, open_image, policy
from secgear.cli.output import AsJson, emit, note, to_json
from secgear.errors import UnknownCall

if TYPE_CHECKING:
    from secgear.base.enclave import Enclave
    from secgear.base.interface import Interface


def run(
    app: ImageOrSource,
    ecall: Annotated[
        str | None, typer.Argument(help="What to call; without it, the ECALLs are listed.")
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Values or name=value: JSON, else text; @FILE for data from a file."),
    ] = None,
    tee: Annotated[str, typer.Option(help="Which TEE, or auto for the strongest.")] = "auto",
    require: Annotated[
        list[str] | None, typer.Option(help="Isolation layer that must hold; repeatable.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(min=0, help="Seconds that the call may take.")
    ] = None,
    switchless: Annotated[
        bool, typer.Option("--switchless", help="Call through shared memory, if there is some.")
    ] = False,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Accept a production image that nobody signed.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Accept a debug image, which tells its secrets.")
    ] = False,
    signer: Signer = None,
    min_svn: MinSvn = 0,
    as_json: AsJson = False,
) -> None:
    """Launch an app, make one ECALL, print its result as JSON; a stream as one line an item.

    OCALLs and log records are shown on stderr. Source is built as a debug image.
    """
    import secgear
    from secgear.base.interface import bind, signature
    from secgear.base.schema import HostTypes
    from secgear.cli.arguments import parse

    image = open_image(app)
    interface = image.interface
    if ecall is None:
        lines = [signature(function) for function in interface.ecalls.values()]
        if as_json:
            emit({"ecalls": lines})
        else:
            typer.echo("\n".join(lines) or "no ECALLs")
        return
    function = interface.ecalls.get(ecall)
    if function is None:
        known = ", ".join(interface.ecalls) or "none"
        raise UnknownCall(f"{image.manifest.name} has no ECALL {ecall!r}; it has {known}")
    positional, named = parse(function, HostTypes(interface), arguments or [])
    bind(function, tuple(positional), named)  # before anything is started
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    with secgear.launch(
        image,
        tee=tee,
        ocalls=ocall_handlers(interface),
        policy=policy(signer, min_svn, unsigned=unsigned, debug=debug or is_source(app)),
        require=require or (),
        deadline=deadline,
        switchless=switchless or None,
    ) as enclave:
        if switchless:
            result = getattr(enclave.switchless, ecall)(*positional, **named)
            _tell_fallback(enclave)
        else:
            result = enclave.call(ecall, *positional, **named)
        if not function.result_stream:
            emit({"result": result}) if as_json else typer.echo(to_json(result))
        elif as_json:
            emit({"result": list(result)})
        else:
            for item in result:
                typer.echo(to_json(item))


def _tell_fallback(enclave: Enclave) -> None:
    stats = enclave.switchless.stats
    if stats.fallbacks:
        why = stats.unavailable or "it takes or returns an iterator"
        note(f"the call went over the stream: {why}")


def ocall_handlers(interface: Interface) -> dict[str, Callable[..., None]]:
    """Handlers that show each OCALL on stderr."""

    def shown(name: str) -> Callable[..., None]:
        def handler(*args: Any, **kwargs: Any) -> None:
            values = [*map(to_json, args), *(f"{key}={to_json(kwargs[key])}" for key in kwargs)]
            note(f"ocall {name}({', '.join(values)})")

        return handler

    return {name: shown(name) for name in interface.ocalls}
