"""`edgereason eval`: how good the answers are, what they cost, and what else recorded rows can tell.

::

    eval TASK      asks a task's questions, or weighs its options (--score loglik)
    eval sweep     curves from evaluations that are there
    eval compare   two or more of them, paired by question
    eval ppl       perplexity of a text

Knows which commands there are; does not know what they do.
"""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from edgereason.cli.eval_compare import compare
from edgereason.cli.eval_ppl import ppl
from edgereason.cli.eval_sweep import sweep
from edgereason.cli.eval_task import task

_TASK: Final = "task"


class _TaskGroup(TyperGroup):
    """A group whose unknown subcommands are names of tasks: `eval gsm8k` is `eval task gsm8k`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_TASK, *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(name="eval", cls=_TaskGroup, no_args_is_help=True)
eval_app.command(_TASK)(task)
eval_app.command("sweep")(sweep)
eval_app.command("compare")(compare)
eval_app.command("ppl")(ppl)


@eval_app.callback()
def _eval() -> None:
    """Evaluate a model on a task, as in `edgereason eval gsm8k --mode think`, or on recorded rows."""
