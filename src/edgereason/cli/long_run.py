"""What commands that run long share: Ctrl-C, a progress display, the record's own command, and how they end.

::

    with run_context(threads) as context:
        record = run(recipe, output, context)
    show_record(record, output, as_json, sentence)
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text

if TYPE_CHECKING:
    from edgereason.recipe.dry_run import DryRun, Shape
    from edgereason.records.context import RunContext

_DECIDE_NOTHING: Final = {"--into": True, "--threads": True, "--json": False}
"""Options that do not change what is made, and whether a value follows them."""

_ADDRESS: Final = "--endpoint"
"""Its value says where a server was: a record says `URL` instead."""

_FOREIGN: Final = r"(torch|transformers|accelerate|peft|trl|huggingface_hub|datasets)(\.|$)"
"""Modules whose warnings are for developers; `python -W default` shows them."""


class Stopped(Exception):
    """A command ended in order before it was done; the text says what there is and how to go on."""


@contextmanager
def run_context(threads: int | None = None, *, base: str | None = None) -> Iterator[RunContext]:
    """A context that stops at Ctrl-C, shows progress and notices, and pulls models in view.

    Args:
        threads: CPU threads; None for all.
        base: a name or a file that is used in place of whatever model the run asks for.
    """
    from edgereason.cli.models import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display
    from edgereason.records.context import RunContext

    with stop_on_interrupt() as should_stop, progress_display() as progress:
        yield RunContext(
            should_stop=should_stop,
            progress=progress,
            notice=lambda line: echo(line, err=True),
            threads=threads,
            fetch=lambda name: fetch(base or name),
            command=command_given(sys.argv[1:]),
        )


def command_given(arguments: Sequence[str]) -> tuple[str, ...]:
    """The running command for a record: each file and folder by its name, what decides nothing left out.

    Run where the files lie, it makes the same again.

    Args:
        arguments: of the command line, without the program.
    """
    words, rest = ["edgereason"], iter(arguments)
    for word in rest:
        option, is_joined, value = word.partition("=")
        if option in _DECIDE_NOTHING:
            if _DECIDE_NOTHING[option] and not is_joined:
                next(rest, None)
        elif option == _ADDRESS:
            words += [_ADDRESS, "URL"]
            if not is_joined:
                next(rest, None)
        elif option.startswith("--") and is_joined:
            words.append(f"{option}={_name(value)}")
        else:
            words.append(_name(word))
    return tuple(words)


def _name(word: str) -> str:
    """A path's last part; anything else as it is, such as a data set of the hub."""
    path = Path(word)
    is_path = path.is_absolute() or (os.sep in word and (path.exists() or path.parent.exists()))
    return path.name if is_path else word


def import_torch(why: str, *packages: str, extra: str = "train") -> Any:
    """Imports torch and packages that build on it, without what they say of themselves to developers.

    Args:
        why: what needs them, with its verb, for the message.
        packages: beside torch.
        extra: the part of the installation that brings them.

    Returns:
        Torch.

    Raises:
        ConfigError: one of them is missing.
    """
    import edgereason.train  # noqa: F401  (sets how long OpenMP's threads spin, before torch reads it)
    from edgereason.data.rows import import_optional

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=_FOREIGN)
    torch, *_ = [import_optional(package, why, extra=extra) for package in ("torch", *packages)]
    return torch


def shape_of(base: str) -> Shape:
    """The sizes of a base: a GGUF, a checkpoint's config.json, or a model that has been pulled."""
    from edgereason.hub.pull import resolve
    from edgereason.recipe.dry_run import Shape

    path = Path(base).expanduser()
    return Shape.read(path if path.exists() else resolve(base))


def show_dry_run(plan: DryRun, as_json: bool) -> None:
    """Prints what a command would take; what does not fit ends in an exit code of its own."""
    echo(json_text(plan.to_json(), ensure_ascii=False) if as_json else "\n".join(plan.lines()))
    if not plan.fits:
        raise typer.Exit(1)


def show_record(
    record: dict[str, Any] | None,
    output: Path,
    as_json: bool,
    sentence: Callable[[dict[str, Any]], str],
) -> None:
    """Prints a finished run's record as JSON or as a sentence; ends the command if the run was stopped."""
    whole = finished(record, output)
    echo(json_text(whole, ensure_ascii=False) if as_json else sentence(whole))


def finished(record: dict[str, Any] | None, output: Path | None = None) -> dict[str, Any]:
    """The record of a run that was not stopped.

    Args:
        record: None of a run that was stopped.
        output: folder in which the same command goes on, if there is one.

    Raises:
        Stopped: the run was.
    """
    if record is None:
        raise Stopped(f"stopped: the same command with -o {output} goes on" if output else "stopped")
    return record
