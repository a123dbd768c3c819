"""Checks of what callers hand in: each refuses with what was got, what was expected, and what is nearest.

Types are checked strictly: True is not a whole number, "4" is not 4, and 200.0 is not 200.
"""

from __future__ import annotations

import errno
import inspect
import math
import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from reprlib import Repr
from typing import Any, Final, ParamSpec, TypeVar

from edgereason.config import closest, nearest
from edgereason.errors import RequestError

E = TypeVar("E", bound=StrEnum)
P = ParamSpec("P")
R = TypeVar("R")

_WORDS: Final[dict[type, str]] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    str: "a text",
    Path: "a path",
}
MAX_INT32: Final = 2**31 - 1
"""Largest number that the native library takes: what is larger would be another number there."""


class _Short(Repr):
    """Values in messages: cut where they are long, a number of many digits by their count."""

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() < 128:
            return repr(x)
        return f"a number of about {math.ceil(x.bit_length() * math.log10(2))} digits"


_REPR: Final = _Short()
_REPR.maxother = 60


def require(name: str, value: object, kind: type) -> None:
    """Refuses a value of another type. A whole number is a number too, a text a path, and True neither.

    Args:
        name: what the value is called in the message.
        value: what was got.
        kind: bool, int, float, str, `Path`, or a class of edgereason.

    Raises:
        RequestError: it is of another type, or a path that no file can have.
    """
    accepted = {float: (int, float), Path: (str, Path)}.get(kind, (kind,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise refusal(name, f"must be {_WORDS.get(kind, f'of type {kind.__name__}')}", value)
    if kind is Path:
        try:
            os.lstat(str(value))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise refusal(name, "must be a path that a file can have", value) from error
        except ValueError as error:  # a NUL, or half a character
            raise refusal(name, "must be a path that a file can have", value) from error


def require_int(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Refuses what is not a whole number from `least` to `most`, by default the largest of 32 bits.

    Raises:
        RequestError: it is not.
    """
    require(name, value, int)
    assert isinstance(value, int)
    if most is not None and not least <= value <= most:
        raise refusal(name, f"must be between {least} and {most}", value)
    if value < least:
        raise refusal(name, f"must be at least {least}", value)
    if value > MAX_INT32:
        raise refusal(name, f"must be at most {MAX_INT32}", value)


def whole_number(name: str, text: str, expected: str = "must be a whole number") -> int:
    """A number that a person wrote in digits.

    Raises:
        RequestError: it is something else, or beyond what can be counted with.
    """
    digits = text.strip().lstrip("0") or text.strip()[:1]
    if not (digits.isascii() and digits.isdigit()):
        raise refusal(name, expected, text)
    if len(digits) > 10 or int(digits) > MAX_INT32:
        raise refusal(name, f"must be at most {MAX_INT32}", text)
    return int(digits)


def require_text(name: str, value: object) -> None:
    """Refuses what is not a text that can be written as UTF-8.

    Raises:
        RequestError: it is not.
    """
    require(name, value, str)
    assert isinstance(value, str)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise refusal(name, "can't be written as UTF-8", value) from error


def require_function(name: str, value: object) -> None:
    """Refuses what can't be called.

    Raises:
        RequestError: it can't.
    """
    if not callable(value):
        raise refusal(name, "must be a function", value)


def require_one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuses what is not among the texts that are allowed, and names the nearest of them.

    Raises:
        RequestError: it is not.
    """
    allowed = [str(one) for one in allowed]  # a member of an enumeration shows itself otherwise
    if isinstance(value, str) and value in allowed:
        return
    near = closest(value, allowed) if isinstance(value, str) else None
    advice = "" if near is None else f", did you mean {near!r}?"
    raise RequestError(f"{name} must be one of {', '.join(allowed)}; got {shown(value)}{advice}")


def member(kind: type[E], name: str, value: object) -> E:
    """The member of an enumeration with this value.

    Raises:
        RequestError: there is none.
    """
    require_one_of(name, value, kind)
    assert isinstance(value, str)
    return kind(value)


def refusal(name: str, expected: str, value: object) -> RequestError:
    """The error that says what was expected and what was got."""
    return RequestError(f"{name} {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """A value as messages show it: cut where it is long."""
    return _REPR.repr(value)


def require_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuses options that do not exist, and names the nearest that do.

    Raises:
        RequestError: there is no such option.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise RequestError(f"there is no option {name!r}: {nearest(name, known)}")


def refusing_unknown(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which refuses keywords that it does not have by `require_known`."""
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        require_known(kwargs, known)
        return function(*args, **kwargs)

    return call


def refusing_unknown_fields(kind: type[R]) -> type[R]:
    """The same class, whose constructor refuses keywords that it does not have; for dataclasses."""
    values: Any = kind
    values.__init__ = refusing_unknown(values.__init__)
    return kind
