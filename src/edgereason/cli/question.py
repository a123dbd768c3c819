"""Where a question comes from: the argument, a file, or standard input.

Owns the choice between them and what is said where there is none or more than one. Does not know what a
question is for, nor whether it is a good one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from edgereason.errors import RequestError


def read_question(argument: str | None, file: Path | None) -> str:
    """The question that the caller gave.

    Standard input is read where the argument or the file is ``-``, or where neither is given and something
    other than a person is at its other end. It is never touched otherwise: in a script it is often a pipe
    that nobody writes to.

    Raises:
        typer.BadParameter: there is none, or two.
        RequestError: it can't be read, or it is no UTF-8 text.
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
    return _decoded(sys.stdin.buffer.read(), "standard input")


def checked(text: str, what: str) -> str:
    """`text`, if it can be encoded: bytes of the command line that are no UTF-8 arrive as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{what} is no UTF-8 text") from error
    return text


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RequestError(f"can't read the question from {file}: {error.strerror}") from error


def _decoded(content: bytes, source: str) -> str:
    """As text; an editor's or an echo's line break at the end belongs to the file, not to the question."""
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is no UTF-8 text") from error
