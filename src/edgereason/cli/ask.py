"""`edgereason ask`: a question in, an answer out.

Owns where the question comes from and where each part of the outcome goes: an answer to stdout, a live view
too if stdout is a terminal, one JSON object if it is asked for, everything else to stderr. A thin layer: what
the options mean, and which values are allowed, is the library's business.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.options import (
    KV,
    BaseOption,
    BudgetOption,
    BundleOption,
    CalculatorOption,
    ContextOption,
    EffortOption,
    EnableThinkingOption,
    KvOption,
    MaxTokensOption,
    ModelOption,
    ModeOption,
    NoMirrorOption,
    SeedOption,
    StageOption,
    StreamsOption,
    SystemOption,
    TemperatureOption,
    ThreadsOption,
    VoteOption,
    given,
)
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text
from edgereason.core.types import Response, Stop

if TYPE_CHECKING:
    from edgereason.reasoning.events import Event


def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question; - or nothing reads it from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the question from a file.")] = None,
    mode: ModeOption = None,
    budget: BudgetOption = None,
    effort: EffortOption = None,
    streams: StreamsOption = None,
    vote: VoteOption = None,
    stage: StageOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    max_tokens: MaxTokensOption = None,
    system: SystemOption = None,
    bundle: BundleOption = None,
    model: ModelOption = None,
    base: BaseOption = None,
    kv: KvOption = KV.F16,
    threads: ThreadsOption = None,
    context: ContextOption = None,
    no_mirror: NoMirrorOption = False,
    calculator: CalculatorOption = None,
    enable_thinking: EnableThinkingOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a model a question; it thinks first, within a budget, if need be in several streams that vote."""
    from edgereason.cli.options import checked, find, read_question, require_one
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.reasoning.request import make_request

    require_one(bundle, model, base)
    options = given(
        mode=mode,
        budget=budget,
        effort=effort,
        streams=streams,
        vote=vote,
        stage=stage,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        system=checked(system, "the system message") if system is not None else None,
        calculator=calculator,
        enable_thinking=enable_thinking,
    )
    request = make_request(read_question(question, file), **options)  # refused before anything is loaded
    source = find(bundle, model, base, allow_mirror=not no_mirror)
    with (
        stop_on_interrupt() as should_stop,
        source.load(kv=kv, threads=threads, context=context) as loaded,
    ):
        if should_stop():
            raise KeyboardInterrupt
        response = _show(loaded.run(request, should_stop), source.name, as_json=as_json)
    if response.stop is Stop.CANCELLED:
        raise typer.Exit(130)


def _show(events: Iterator[Event], model: str, *, as_json: bool) -> Response:
    """Lets the events happen, in view of the user where there is one, and prints what came out."""
    if sys.stdout.isatty() and not as_json:
        from rich.console import Console

        from edgereason.cli.terminal.live import watch

        return watch(events, Console(highlight=False, markup=False, emoji=False), model=model)

    from edgereason.cli.terminal.live import follow, print_answer
    from edgereason.core.json_output import to_json

    response, limit_tokens = follow(events)
    if as_json:
        echo(json_text(to_json(response, model=model, limit_tokens=limit_tokens)))
    else:
        print_answer(response)
    return response
