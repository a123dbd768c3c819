"""Command lines of `edgereason`, parsed by the real parser and not run."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from edgereason.cli.main import app

ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command that does something, by its path, such as ``bundle build``."""
    found = {}
    for name, command in group.commands.items():
        here = (*path, name)
        found |= commands(command, here) if hasattr(command, "commands") else {" ".join(here): command}
    return found


def parse(line: str) -> str:
    """Parses a command line, and gives the path of its command.

    Raises:
        Exception: the parser's own, which names what it refuses.
    """
    program, *arguments = shlex.split(line, comments=True)
    assert program == "edgereason", line
    command, name, path = ROOT, "edgereason", []
    while hasattr(command, "commands"):
        # What a group leaves is the name of its command, and that command's arguments.
        context = command.make_context(name, list(arguments))
        rest = [*getattr(context, "_protected_args", getattr(context, "protected_args", [])), *context.args]
        name, command, arguments = command.resolve_command(context, rest)
        path.append(name)
    command.make_context(name, list(arguments))
    return " ".join(path)
