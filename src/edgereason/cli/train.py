"""`edgereason train`: what the reasoning mode is trained with.

::

    train traces --questions …   a teacher's right solutions, made on this engine
    train traces --from …        traces or worked solutions that somebody else made, in our schema
    train answers                what a model says itself (`train_answers.py`)
    train sft, train export      an adapter from traces, and a bundle of it (`train_sft.py`)
    train shortest               an adapter's own shortest right responses (`train_shortest.py`)
    train grpo                   an adapter that keeps its budgets (`train_grpo.py`)
    train heads                  switcher and verifier (`train_heads.py`)
    train sweep                  several recipes, each trained, evaluated and timed (`train_sweep.py`)

Owns the options, and which of them go together. Does not know how traces are made, read or chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.train_answers import answers
from edgereason.cli.train_grpo import grpo
from edgereason.cli.train_heads import heads_app
from edgereason.cli.train_sft import export, sft
from edgereason.cli.train_shortest import shortest
from edgereason.cli.train_sweep import sweep

if TYPE_CHECKING:
    from edgereason.cli.terminal.progress import Show
    from edgereason.train.data.generate import Progress

train_app = typer.Typer(name="train", no_args_is_help=True)
train_app.command()(answers)
train_app.command()(sft)
train_app.command()(shortest)
train_app.command()(grpo)
train_app.command()(export)
train_app.command()(sweep)
train_app.add_typer(heads_app)


class Format(StrEnum):
    """Of traces that are read."""

    OPENTHOUGHTS3 = "openthoughts3"
    S1K = "s1k"
    WORKED = "worked"
    PLAIN = "plain"


@train_app.callback()
def _train() -> None:
    """Train the reasoning mode, as in `edgereason train traces --questions gsm8k_train.jsonl -o traces`."""


@train_app.command("traces")
def traces(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of traces and record; one that is there goes on.")
    ],
    questions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|reasoning-gym:NAME[:COUNT]",
            help="Make traces of these questions, which need answers; repeatable.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE|NAME", help="Read traces of a file or a data set of the hub."),
    ] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="Of the traces that are read.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation file whose questions are left out (13 words in a row); repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name of `edgereason models`, or a GGUF file: the teacher; reading, it counts."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Solutions of each question. [4]")] = None,
    keep: Annotated[int | None, typer.Option(help="Most traces of each question. [2]")] = None,
    instruction: Annotated[
        str | None,
        typer.Option(help="What the teacher is told, as its system message. [to think aloud and to check]"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [0.7]")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest trace. [512; reading, what the context holds]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows of each source.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[0]")] = None,
    parallel: Annotated[int | None, typer.Option(help="Samples that run at a time. [16]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record.")] = False,
) -> None:
    """Make reasoning traces from questions, or read those of others; stopped or killed, making goes on."""
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.progress import progress_display
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.reasoning.model import load
    from edgereason.records.folder import about
    from edgereason.train.data.decontaminate import Evaluations

    making: dict[str, Any] = {
        "samples": samples,
        "keep": keep,
        "instruction": instruction,
        "temperature": temperature,
        "seed": seed,
        "parallel": parallel,
    }
    given = {name: value for name, value in making.items() if value is not None}
    _require_one_way(questions, source, format_, given)
    given |= {} if max_tokens is None else {"max_tokens": max_tokens}
    with stop_on_interrupt() as should_stop, progress_display() as show:
        work: Callable[..., dict[str, Any] | None]
        if source is not None and format_ is not None:
            from edgereason.train.data.readers import find_rows, read_into

            rows, known = find_rows(source, limit), Evaluations.read(against or ())
            work = partial(read_into, output, rows, format_.value, against=known, max_tokens=max_tokens)
            work = partial(work, progress=_counted(show))
        else:
            from edgereason.train.data.generate import GenerateConfig, generate
            from edgereason.train.data.questions import read_questions

            config = GenerateConfig(**given)
            asked = [read_questions(one, limit=limit, seed=config.seed) for one in questions or ()]
            known = Evaluations.read(against or ())
            work = partial(generate, output, config, asked, known, progress=_sampled(show))
        with load(fetch(model or DEFAULT_MODEL), threads=threads, shares_cells=False) as loaded:
            record = work(model=loaded, about=about(threads), should_stop=should_stop)
    if record is None:
        typer.echo(f"stopped: the same command with -o {output} goes on", err=True)
        raise typer.Exit(130)
    typer.echo(json.dumps(record, ensure_ascii=False) if as_json else _sentence(record, output))


def _require_one_way(
    questions: list[str] | None, source: str | None, format_: Format | None, given: dict[str, Any]
) -> None:
    """Refuses options that do not go together."""
    if (questions is None) == (source is None):
        raise typer.BadParameter("say which: traces made of --questions, or traces read --from somewhere")
    if (source is None) != (format_ is None):
        raise typer.BadParameter(f"--from and --format go together: {', '.join(Format)}")
    if source is not None and given:
        names = ", ".join(f"--{name}" for name in given)
        raise typer.BadParameter(f"{names} is for traces that are made of --questions")


def _counted(show: Show) -> Callable[[int, int], None]:
    from edgereason.cli.terminal.progress import timed

    return timed(lambda done, total, left: show(done, total, f"rows, {left}"))


def _sampled(show: Show) -> Callable[[Progress], None]:
    """Shows samples with their speed and the time left."""
    from edgereason.cli.terminal.progress import timed

    speed = ""
    counted = timed(lambda done, total, left: show(done, total, f"samples, {speed}{left}"))

    def report(state: Progress) -> None:
        nonlocal speed
        speed = "" if state.tokens_per_s is None else f"{state.tokens_per_s:.0f} tok/s, "
        counted(state.done, state.total)

    return report


def _sentence(record: dict[str, Any], output: Path) -> str:
    """How many traces there are, and what became of the rest."""
    from edgereason.train.data.trace_folder import TRACES

    parts = []
    for name, found in record["yield"].items():
        tokens = found["tokens"]
        length = "" if tokens is None else f", {tokens['mean']:.0f} tokens on average"
        if record["way"] == "read":
            kinds = {key: value for key, value in found.items() if isinstance(value, int)}
            rest = ", ".join(f"{k} {v}" for k, v in kinds.items() if k not in ("rows", "traces"))
            parts.append(
                f"{name}: {found['traces']} of {found['rows']} rows{length}{f' ({rest})' if rest else ''}"
            )
        else:
            right = found["share_right"]
            parts.append(
                f"{name}: {found['traces']} traces for {found['questions_with_traces']} of "
                f"{found['questions']} questions{length}"
                + ("" if right is None else f"; {right:.0%} of {found['samples']} samples right")
            )
    total = record["traces"]["rows"]
    return f"{output / TRACES}: {total} trace{'' if total == 1 else 's'}; " + "; ".join(parts)
