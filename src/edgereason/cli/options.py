"""What `ask` and `chat` have in common: their options, the question's source, and the model that answers.

An option that was not given is None, so that the library's own default holds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgereason.cli.help import RARE
from edgereason.core.machine import MAX_THREADS
from edgereason.core.types import Effort, Mode, Vote
from edgereason.errors import RequestError

if TYPE_CHECKING:
    from edgereason.reasoning.model import Model
    from edgereason.reasoning.request import AskOptions


class KV(StrEnum):
    """Types of the KV cache."""

    F16 = "f16"
    Q8_0 = "q8_0"


ModeOption = Annotated[
    Mode | None, typer.Option(help="Answer at once, think first, or let the switcher decide. [auto]")
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKENS|SECONDSs",
        help="Most tokens that a stream may spend (400), or seconds for it all (5s); wins over --effort.",
    ),
]
EffortOption = Annotated[Effort | None, typer.Option(help="A budget by name; none is chat. [medium]")]
StreamsOption = Annotated[int | None, typer.Option(help="Streams that think in parallel. [1]")]
VoteOption = Annotated[
    Vote | None,
    typer.Option(help="How streams become one answer. [weighted with a verifier, else majority]"),
]
StageOption = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N…]",
        help="So many streams begin, as 5 of 8; the others only while the vote is open. [all at once]",
        rich_help_panel=RARE,
    ),
]
TemperatureOption = Annotated[float | None, typer.Option(help="0 is greedy. [0.7]")]
SeedOption = Annotated[int | None, typer.Option(help="Stream i draws with seed + i. [0]")]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(help="Caps a chat answer, and a stream whose budget is higher.", rich_help_panel=RARE),
]
SystemOption = Annotated[str | None, typer.Option(help="A system message.")]

BundleOption = Annotated[Path | None, typer.Option(help="Folder of a bundle. [the one that is built in]")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="A bare model: a name of `edgereason models`, a GGUF file, or a checkpoint."),
]
BaseOption = Annotated[
    str | None,
    typer.Option(help="The bundle's base, where it is not to be found otherwise.", rich_help_panel=RARE),
]
CalculatorOption = Annotated[
    bool | None,
    typer.Option(help="Force exact results of arithmetic while it thinks. [as the bundle has it]"),
]
EnableThinkingOption = Annotated[
    bool | None,
    typer.Option(
        help="Whether a natively reasoning model thinks in chat, too. [it does not]", rich_help_panel=RARE
    ),
]
KvOption = Annotated[KV, typer.Option(help="Type of the KV cache.", rich_help_panel=RARE)]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads. [all]", rich_help_panel=RARE)
]
ContextOption = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens of context, fixed. [what the request needs]", rich_help_panel=RARE),
]
NoMirrorOption = Annotated[
    bool,
    typer.Option(
        "--no-mirror", help="Never pull from the package index, only from the hub.", rich_help_panel=RARE
    ),
]


def given(**options: object) -> AskOptions:
    """The options that were given."""
    return cast("AskOptions", {name: value for name, value in options.items() if value is not None})


def read_question(argument: str | None, file: Path | None) -> str:
    """The question that the caller gave.

    Standard input is read where the argument or the file is ``-``, or where neither is given and something
    other than a person is at its other end. It is never touched otherwise: in a script it is often a pipe
    that nobody writes to.

    Raises:
        typer.BadParameter: there is none, or two.
        RequestError: it can't be read, or it is not UTF-8 text.
    """
    if argument is not None and file is not None:
        raise typer.BadParameter("give one question: as argument or in a file", param_hint="'--file'")
    if file is not None and str(file) != "-":
        return _decoded(_bytes_of(file), str(file))
    if argument is not None and argument != "-":
        return checked(argument, "the question")
    if sys.stdin is None or (argument is None and file is None and sys.stdin.isatty()):
        raise typer.BadParameter(
            "there is none: give it as argument, with --file, or on standard input", param_hint="'QUESTION'"
        )
    from edgereason.config import bounded

    try:
        return _decoded(bounded(sys.stdin.buffer), "standard input")
    except ValueError as error:
        raise RequestError(f"can't read the question from standard input: {error}") from error


def checked(text: str, what: str) -> str:
    """`text`, if it can be encoded: bytes of the command line that are not UTF-8 arrive as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{what} is not UTF-8 text") from error
    return text


def _bytes_of(file: Path) -> bytes:
    from edgereason.config import read_bounded

    try:
        return read_bounded(file)
    except OSError as error:
        raise RequestError(f"can't read the question from {file}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"can't read the question from {file}: {error}") from error


def _decoded(content: bytes, source: str) -> str:
    """As text; an editor's or an echo's line break at the end belongs to the file, not to the question."""
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is not UTF-8 text") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that is here, and can be loaded.

    Attributes:
        name: the caller's word for it: a GGUF calls itself what its maker's scripts happened to write.
        path: a bundle's folder, or a model's file.
        base: the bundle's base, where it was given.
    """

    name: str
    path: Path
    base: Path | None
    allow_mirror: bool

    def load(self, *, kv: KV, threads: int | None, context: int | None) -> Model:
        """The model, loaded."""
        from edgereason.cli.models import display
        from edgereason.core.bundle import Bundle
        from edgereason.reasoning.model import load

        if not self.path.is_file():
            Bundle.read(self.path)  # or a folder without a bundle would be taken for a model's name
        with display() as (report, notice):  # a bundle may name a base that has to be fetched
            return load(
                self.path,
                base=self.base,
                threads=threads,
                kv="q8_0" if kv is KV.Q8_0 else "f16",
                context_tokens=context,
                allow_mirror=self.allow_mirror,
                progress=report,
                notice=notice,
            )


def require_one(bundle: Path | None, model: str | None, base: str | None) -> None:
    """Refuses options that don't go together.

    Raises:
        typer.BadParameter: a bundle and a model, or a base without a bundle.
    """
    if bundle is not None and model is not None:
        raise typer.BadParameter("a bundle brings its model: give one of the two", param_hint="'--model'")
    if base is not None and bundle is None:
        raise typer.BadParameter("only a bundle has a base: give --bundle too", param_hint="'--base'")


def find(bundle: Path | None, model: str | None, base: str | None, *, allow_mirror: bool) -> ModelSource:
    """The model that the options name, fetched if it is not here; by default the bundle of this package."""
    from edgereason.hub.catalog import bundle_folder

    named = bundle_folder(bundle) if model is None else Path(model)
    return ModelSource(
        name=named.resolve().name,
        path=named if model is None else _pulled(model, allow_mirror=allow_mirror),
        base=None if base is None else _pulled(base, allow_mirror=allow_mirror),
        allow_mirror=allow_mirror,
    )


def _pulled(model: str, *, allow_mirror: bool) -> Path:
    """The file of a model, fetched in view of the user if it is not here."""
    from edgereason.cli.models import display
    from edgereason.hub.pull import resolve

    with display() as (report, notice):
        return resolve(model, allow_mirror=allow_mirror, progress=report, notice=notice)
