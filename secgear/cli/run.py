"""``secgear run``: make one ECALL from the command line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from secgear.cli.images import ImageOrSource, MinSvn, Signer, open_image, policy
from secgear.cli.output import AsJson, UsageError, emit, note, read, to_json
from secgear.errors import UnknownCall

if TYPE_CHECKING:
    from secgear.base.interface import Function, Interface, Param


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
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Accept a production image that nobody signed.")
    ] = False,
    signer: Signer = None,
    min_svn: MinSvn = 0,
    as_json: AsJson = False,
) -> None:
    """Launch an app, make one ECALL, print its result as JSON; a stream as one line an item.

    OCALLs and log records are shown on stderr. Source is built as a debug image.
    """
    import secgear
    from secgear.base.interface import signature

    image = open_image(app)
    source = app.suffix == ".py" or app.is_dir()
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
    positional, named = _parse(function, arguments or [])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    with secgear.launch(
        image,
        tee=tee,
        ocalls=_handlers(interface),
        policy=policy(signer, min_svn, unsigned=unsigned, debug=source),
        require=require or (),
        deadline=deadline,
    ) as enclave:
        result = enclave.call(ecall, *positional, **named)
        if not function.result_stream:
            emit({"result": result}) if as_json else typer.echo(to_json(result))
        elif as_json:
            emit({"result": list(result)})
        else:
            for item in result:
                typer.echo(to_json(item))


def _handlers(interface: Interface) -> dict[str, Callable[..., None]]:
    def shown(name: str) -> Callable[..., None]:
        def handler(*args: Any, **kwargs: Any) -> None:
            values = [*map(to_json, args), *(f"{key}={to_json(kwargs[key])}" for key in kwargs)]
            note(f"ocall {name}({', '.join(values)})")

        return handler

    return {name: shown(name) for name in interface.ocalls}


def _parse(function: Function, texts: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by position and by name."""
    params = {param.name: param for param in function.params}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if equals and name in params:
            named[name] = _value(params[name], rest)
        else:
            at = len(positional)
            param = function.params[at] if at < len(function.params) else None
            positional.append(_value(param, text))
    return positional, named


def _value(param: Param | None, text: str) -> Any:
    from secgear.base.interface import top_level_bytes
    from secgear.base.typedesc import Arrow, Basic

    kind = param.type if param is not None else None
    binary = kind is not None and top_level_bytes(kind)
    if text.startswith("@"):
        path = Path(text[1:])
        if binary:
            return read(path)
        if isinstance(kind, Arrow):
            return _table(path)
        text = read(path).decode(errors="replace")
    elif binary:
        return text.encode()
    if kind == Basic("str"):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _table(path: Path) -> Any:
    """A table from a Parquet, CSV or Arrow file, by its ending."""
    import pyarrow as pa

    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pa.parquet.read_table(path)
        if path.suffix == ".csv":
            import pyarrow.csv

            return pa.csv.read_csv(path)
        if path.suffix in {".arrow", ".feather"}:
            import pyarrow.feather

            return pa.feather.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path}: can't be read as a table: {error}") from error
    raise UsageError(f"{path}: tables are read from .parquet, .csv and .arrow files")
