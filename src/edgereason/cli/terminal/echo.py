"""Lines that commands print: without control characters, whoever wrote what stands in them."""

from __future__ import annotations

import typer

from edgereason.core.printable import printable


def echo(text: object, *, err: bool = False) -> None:
    """Prints a text and a line break on stdout, or on stderr.

    Raises:
        OSError: stdout can't be written. What can't be told on stderr ends nothing.
    """
    try:
        typer.echo(printable(str(text)), err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        if not err:
            error.filename = "standard output"
            raise
