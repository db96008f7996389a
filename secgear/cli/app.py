"""The command line as a whole: its groups, its version, and what becomes of errors."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any, Final, NoReturn

import typer

import secgear
from secgear.cli import (
    attestation,
    audit,
    codegen,
    collateral,
    connect,
    crypto,
    doctor,
    envelopes,
    images,
    new,
    reference,
    relay,
    results,
    run,
    sealed,
    secret,
    serve,
    signing,
    tokens,
)
from secgear.cli.output import AsJson, CommandError, Interrupted, UsageError, fail
from secgear.errors import SecGearError

app = typer.Typer(
    name="secgear",
    help="Write a trusted program once, run it in any trusted execution environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(doctor.doctor)
app.command()(new.new)
app.command()(images.build)
app.command()(signing.keygen)
app.command()(signing.sign)
app.command()(images.measure)
app.command()(images.inspect)
app.command()(run.run)
app.command()(relay.relay)
app.command()(connect.connect)
app.command()(codegen.codegen)
app.command()(attestation.attest)
app.command()(attestation.verify)
app.command()(attestation.bundle)
app.command("result")(results.result)
app.command("audit")(audit.audit)
app.command("sealed")(sealed.sealed)
app.add_typer(envelopes.app)
app.add_typer(sealed.app)
app.add_typer(reference.app)
app.add_typer(collateral.app)
app.add_typer(crypto.app)
app.add_typer(serve.app)
app.add_typer(secret.app)
app.add_typer(tokens.app)

# Typer has no public name for it: what the parser raises for a wrong command line.
_WrongUsage: Final[type[Exception]] = typer.BadParameter.__mro__[1]
# What optional commands import, and the extra that brings it.
_EXTRAS: Final = {
    "httpx": "fetch",
    "lxml": "gpu",
    "regopy": "rego",
    "signxml": "gpu",
    **dict.fromkeys(
        ("anyio", "jwcrypto", "litestar", "prometheus_client", "sqlalchemy", "uvicorn"),
        "attestation-service",
    ),
}
_INTERRUPTED: Final = 128 + signal.SIGINT
_TERMINATED: Final = 128 + signal.SIGTERM


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Join two owners' real data inside an enclave that they verify, then try to see any of it.

    Started by root, it continues as nobody: root may look into every process, so a break-in by
    root would show nothing.
    """
    from secgear.cli.demo import demo as show

    show(as_json)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secgear {secgear.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Run the command line and end the process with its exit code.

    An error is one line; ``SECGEAR_DEBUG=1`` shows its traceback as well.
    """
    # As for an interrupt, so that enclaves are closed and half-written files go away.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(prog_name="secgear", standalone_mode=False)
        sys.stdout.flush()
    except _WrongUsage as error:
        _refuse(error)
    except typer.Abort:
        fail(Interrupted("nothing was entered"))
    except SecGearError as error:
        _trace()
        fail(error)
    except KeyboardInterrupt:
        fail(Interrupted("interrupted"))
    except BrokenPipeError:
        _let_go()
        sys.exit(1)
    except ModuleNotFoundError as error:
        _trace()
        fail(_missing(error))
    except RecursionError as error:
        _trace()
        fail(UsageError(f"too deeply nested: {error}"))
    except OSError as error:
        _trace()
        _let_go()
        fail(CommandError(f"{error.filename or 'the system says'}: {error.strerror or error}"))
    except Exception as error:  # noqa: BLE001  # a traceback tells a user nothing
        _trace()
        fail(_defect(error))
    if status == _INTERRUPTED:  # what Typer makes of KeyboardInterrupt
        fail(Interrupted("interrupted"))
    sys.exit(status)


def _defect(error: Exception) -> CommandError:
    # Its text stays unsaid: nobody knows what is in it.
    kind = type(error).__name__
    return CommandError(f"secgear has a defect ({kind}); please report what SECGEAR_DEBUG=1 shows")


def _missing(error: ModuleNotFoundError) -> CommandError:
    package = (error.name or "").partition(".")[0]
    if package not in _EXTRAS:
        return _defect(error)
    extra = _EXTRAS[package]
    return CommandError(f"this command needs {package}: pip install 'secgear[{extra}]'")


def _refuse(error: Any) -> NoReturn:
    message = error.format_message().strip().rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
        sys.exit(2)
    command = error.ctx.command_path if error.ctx is not None else "secgear"
    option = getattr(error, "option_name", "")
    if option[1:2].isdigit():
        message += "; put -- before values that begin with a dash"
    fail(UsageError(f"{message}; see {command} --help"))


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(_TERMINATED)


def _trace() -> None:
    if os.environ.get("SECGEAR_DEBUG"):
        import traceback

        traceback.print_exc()


def _let_go() -> None:
    """Give up output that nobody takes; Python would complain once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
