"""Options that `ask` and `chat` have in common: how to answer, and with which model.

Owns their names and help texts, once. What they mean, and which values are allowed, is the library's
business. An option that was not given is None, so that the library's own default holds.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgereason.core.types import Effort, Mode, Vote

if TYPE_CHECKING:
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
TemperatureOption = Annotated[float | None, typer.Option(help="0 is greedy. [0.7]")]
SeedOption = Annotated[int | None, typer.Option(help="Stream i draws with seed + i. [0]")]
MaxTokensOption = Annotated[
    int | None, typer.Option(help="Caps a chat answer, and a stream whose budget is higher.")
]
SystemOption = Annotated[str | None, typer.Option(help="A system message.")]

BundleOption = Annotated[Path | None, typer.Option(help="Folder of a bundle. [the one that is built in]")]
ModelOption = Annotated[
    str | None, typer.Option(help="A bare model: a name of `edgereason models`, or a GGUF file.")
]
BaseOption = Annotated[
    str | None, typer.Option(help="The bundle's base, where it is not to be found otherwise.")
]
KvOption = Annotated[KV, typer.Option(help="Type of the KV cache.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")]
ContextOption = Annotated[
    int | None, typer.Option(min=1, help="Tokens of context, fixed. [what the request needs]")
]
NoMirrorOption = Annotated[
    bool, typer.Option("--no-mirror", help="Never pull from the package index, only from the hub.")
]


def given(**options: object) -> AskOptions:
    """The options that were given."""
    return cast("AskOptions", {name: value for name, value in options.items() if value is not None})
