"""An answer without a terminal: the text alone to stdout, what should be known of it to stderr.

Knows events; does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from edgereason.core.types import Response
    from edgereason.reasoning.events import Event


def follow(events: Iterator[Event]) -> tuple[Response, int]:
    """Lets the events happen; returns the response, and the most tokens that a stream might spend."""
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
    return response, limit_tokens


def print_answer(response: Response) -> None:
    """The answer's text, if there is any."""
    if response.text or response.answer:
        typer.echo(response.text or response.answer)
