"""The command that makes again what a record holds: the one that was given, with names in place of paths.

::

    edgereason train heads switcher --prompts data/prompts.jsonl --into heads.safetensors --seed 3
    ─→ ["edgereason", "train", "heads", "switcher", "--prompts", "prompts.jsonl", "--seed", "3"]

Run where the files lie, it makes the same. Knows options; does not know what they are for.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import typer


def command_again(context: typer.Context, leave_out: Collection[str]) -> list[str]:
    """Arguments of the command that runs, each file and folder by its name.

    Args:
        context: of the command.
        leave_out: parameters that decide nothing about what is made.
    """
    words = ["edgereason", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in leave_out:
            continue
        value, option = context.params[name], max(parameter.opts, key=len)
        if getattr(parameter, "is_flag", False):
            words.append(option)
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option, Path(one).name if isinstance(one, str | Path) else f"{one}"]
    return words
