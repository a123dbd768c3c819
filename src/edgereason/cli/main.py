"""The command `edgereason`: its subcommands, and how it ends.

::

    EdgeReasonError → one line, exit 1        interrupted      → one line, exit 130
    usage error     → one line, exit 2        stopped in order → one line of its own, exit 130
    disk is full    → one line, exit 1        reader went away → silence, exit 1
    a bug           → its traceback

Every command module imports nothing but typer and plain values at its top and its layers inside the command,
so that importing this is fast.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer

from edgereason import __version__
from edgereason.cli.ask import ask
from edgereason.cli.bench import bench_app
from edgereason.cli.bundle import bundle_app
from edgereason.cli.chat import chat
from edgereason.cli.doctor import doctor
from edgereason.cli.eval import eval_app, report
from edgereason.cli.export import export_app
from edgereason.cli.help import add_examples
from edgereason.cli.long_run import Stopped
from edgereason.cli.make import make_app
from edgereason.cli.models import models, pull
from edgereason.cli.quantize import quantize
from edgereason.cli.serve import serve
from edgereason.cli.terminal.echo import echo
from edgereason.cli.train import train_app
from edgereason.core.printable import on_one_line
from edgereason.errors import EdgeReasonError

# typer carries click inside or depends on it, by version; of these classes only the leaf has a name that
# both kinds export.
_CLICK_ERROR: Final[Any] = typer.BadParameter.__mro__[2]

_INTERRUPTED: Final = 130

app = typer.Typer(
    name="edgereason",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(ask)
app.command()(chat)
app.command()(doctor)
app.command()(models)
app.command()(pull)
app.command()(quantize)
app.command()(report)
app.command()(serve)
app.add_typer(bench_app)
app.add_typer(bundle_app)
app.add_typer(eval_app)
app.add_typer(export_app)
app.add_typer(make_app)
app.add_typer(train_app)
add_examples(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"edgereason {__version__}")
        raise typer.Exit


@app.callback()
def _edgereason(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A reasoning mode for small language models, on this device."""


def _part_for(arguments: Sequence[str]) -> typer.Typer:
    """The application with the command that is called alone, or all of it where no command comes first.

    typer makes validators of all options of all commands before it runs one, which takes longer than to read
    a model's file.
    """
    name = arguments[0] if arguments else None
    part = copy(app)
    part.registered_commands = [
        one for one in app.registered_commands if one.callback and one.callback.__name__ == name
    ]
    part.registered_groups = [
        one for one in app.registered_groups if one.typer_instance and one.typer_instance.info.name == name
    ]
    return part if part.registered_commands or part.registered_groups else app


def main() -> None:
    """Runs the command line, and exits non-zero unless all went well."""
    if sys.stderr is None:  # closed: the next file that is opened would get what is written there
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(_fail("standard output is closed: send it to a file, or to /dev/null", 1))
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        # PYTHONUNBUFFERED: what a full disk takes only a part of would be lost without an error.
        buffer: Any = io.BufferedWriter(sys.stdout.buffer)
        sys.stdout = io.TextIOWrapper(buffer, encoding=sys.stdout.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model may say what this terminal can't show
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1
    except OSError as error:
        code = _fail(_reason(error), 1)
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            # What is still buffered would raise again when the interpreter flushes it on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code:
        sys.exit(code)


def _is_broken(stream: TextIO) -> bool:
    """Whether what was written to a stream can't leave it."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def _reason(error: OSError) -> str:
    """What the system said, and what can be done about it."""
    name = "" if error.filename is None else f"{error.filename}: "
    is_full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
    advice = "; what was written before is there: make room, and give the same command again"
    return f"{name}{error.strerror or error}{advice if is_full else ''}"


def _run() -> int:
    try:
        run = _part_for(sys.argv[1:])
        code = int(run(prog_name="edgereason", standalone_mode=False) or 0)
    except Stopped as stopped:
        typer.echo(str(stopped), err=True)
        return _INTERRUPTED
    except EdgeReasonError as error:
        return _fail(str(error), 1)
    except _CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # newer clicks: the message is the help
            echo(error.format_message())
            return int(error.exit_code)
        message = error.format_message().rstrip(".").replace("Value error, ", "")
        return _fail(message[:1].lower() + message[1:], int(error.exit_code))
    except MemoryError:
        return _fail("there is not enough memory for this", 1)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    return _fail("interrupted", code) if code == _INTERRUPTED else code


def _fail(message: str, code: int) -> int:
    echo(f"edgereason: {on_one_line(message)}", err=True)
    return code
