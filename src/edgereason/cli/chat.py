"""`edgereason chat`: a conversation in the terminal, or of the lines on standard input.

Owns where lines come from and what ends the conversation: Ctrl-D or the last line; Ctrl-C only ends an
answer, except in a script. What a line does is `chat_commands.py`'s business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from signal import SIGINT
from typing import TYPE_CHECKING, Final

import typer

from edgereason.cli.options import (
    KV,
    BaseOption,
    BudgetOption,
    BundleOption,
    CalculatorOption,
    ContextOption,
    EffortOption,
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
from edgereason.core.printable import on_one_line
from edgereason.errors import EdgeReasonError, RequestError

if TYPE_CHECKING:
    from edgereason.cli.chat_commands import Talk
    from edgereason.core.types import Response
    from edgereason.reasoning.events import Event
    from edgereason.reasoning.model import Model
    from edgereason.reasoning.request import AskOptions

_PROMPT: Final = "› "
_INTERRUPTED: Final = 130
_MOST_LINE_BYTES: Final = 1 << 24


def chat(
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
) -> None:
    """Talk with a model, which can think harder about what it was asked; /help lists what else it can do."""
    from edgereason.cli.options import checked, find, require_one
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.reasoning.request import make_request

    if sys.stdin is None:
        raise typer.BadParameter("there is nothing to read questions from", param_hint="standard input")
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
        calculator=calculator,
        system=checked(system, "the system message") if system is not None else None,
    )
    make_request("?", **options)  # refused before anything is loaded
    source = find(bundle, model, base, allow_mirror=not no_mirror)
    with stop_on_interrupt() as should_stop:
        loaded = source.load(kv=kv, threads=threads, context=context)
    with loaded:
        if should_stop():
            raise KeyboardInterrupt
        if sys.stdin.isatty() and sys.stdout.isatty():
            _converse(loaded, options, source.name)
        else:
            _recite(loaded, options)


def _converse(model: Model, options: AskOptions, name: str) -> None:
    """With a person at both ends."""
    from rich.console import Console
    from rich.text import Text

    from edgereason.cli.chat_commands import Talk
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.live import watch
    from edgereason.cli.terminal.text import printable

    with suppress(ImportError):
        import readline  # noqa: F401  # gives `input` its editing and history

    console = Console(highlight=False, markup=False, emoji=False)

    def say(text: str) -> None:
        console.print(Text(printable(text), "dim"))

    def show(events: Iterator[Event]) -> Response:
        console.print()
        response = watch(events, console, model=name)
        console.print()
        return response

    say(f"{name} · /help lists the commands, Ctrl-D leaves")
    with closing(Talk(model, options, show=show, say=say)) as talk:
        while not talk.is_over:
            try:
                while not talk.is_over:
                    line = input(_PROMPT)
                    with stop_on_interrupt([SIGINT]) as should_stop:  # a kill is not for one turn only
                        _is_done(talk, line, should_stop)
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:  # while nothing is answered, it takes back what was typed
                console.print()


def _recite(model: Model, options: AskOptions) -> None:
    """With lines from a file or another program: answers alone on stdout, the rest on stderr."""
    from edgereason.cli.chat_commands import Talk
    from edgereason.cli.terminal.interrupt import stop_on_interrupt
    from edgereason.cli.terminal.live import follow, print_answer

    def show(events: Iterator[Event]) -> Response:
        response, _ = follow(events)
        print_answer(response)
        return response

    def say(text: str) -> None:
        echo(text, err=True)

    went_well = True
    with closing(Talk(model, options, show=show, say=say)) as talk:
        while not talk.is_over and (line := _next_line()):
            with stop_on_interrupt() as should_stop:
                went_well &= _is_done(talk, line, should_stop)
            if should_stop():
                raise typer.Exit(_INTERRUPTED)
    if not went_well:
        raise typer.Exit(1)


def _next_line() -> bytes:
    """The next line of standard input, empty at its end."""
    line = sys.stdin.buffer.readline(_MOST_LINE_BYTES + 1)
    if len(line) > _MOST_LINE_BYTES:
        raise RequestError(f"a line of standard input has more than {_MOST_LINE_BYTES:,} bytes, or no end")
    return line


def _is_done(talk: Talk, line: str | bytes, should_stop: Callable[[], bool]) -> bool:
    """Whether what a line says could be done; why not is said in one line, and the conversation goes on."""
    try:
        talk.take(_text(line), should_stop)
    except EdgeReasonError as error:
        echo(f"edgereason: {on_one_line(str(error))}", err=True)
        return False
    return True


def _text(line: str | bytes) -> str:
    if isinstance(line, str):
        return line
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError("this line of standard input is not UTF-8 text") from error
