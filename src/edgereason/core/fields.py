"""Values of a JSON record, taken by name and with their types checked.

::

    {"ppl": 17.2, "model": {…}} ─ number("ppl") → 17.2    section("model").text("name") → None if absent

What a record lacks is None, so that a table can show a dash. A value of another type, or one that is needed
and missing, is an error that names the record and the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

from edgereason.config import read_value
from edgereason.errors import ConfigError, EdgeReasonError

T = TypeVar("T")


class Fields:
    """A JSON object.

    Args:
        values: the object; `None` is an empty one.
        where: what it is called in messages.
        error: what is raised where a value is of another type, or needed and missing.
    """

    def __init__(self, values: Any, where: str, error: type[EdgeReasonError] = ConfigError) -> None:
        if values is not None and not isinstance(values, dict):
            raise error(f"{where} must be a JSON object, got {type(values).__name__}")
        self._values: dict[str, Any] = values or {}
        self.where = where
        self.error = error

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Names of what is there, in the record's order."""
        return (key for key, value in self._values.items() if value is not None)

    def number(self, key: str) -> float | None:
        """A finite number; None if absent or not finite."""
        return _finite(self._take(key, float))

    def is_number(self, key: str) -> bool:
        """Whether a number is there."""
        value = self._values.get(key)
        return isinstance(value, int | float) and not isinstance(value, bool)

    def flag(self, key: str) -> bool:
        """Whether `key` is there and true."""
        return self._values.get(key) is True

    def text(self, key: str) -> str | None:
        """A text; None if absent."""
        return self._take(key, str)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty if absent."""
        return self._take(key, tuple[str, ...]) or ()

    def numbers(self, key: str) -> tuple[float | None, ...]:
        """A list of numbers, empty if absent; an entry that is null or not finite is None."""
        return tuple(map(_finite, self._take(key, tuple[float | None, ...]) or ()))

    def pair(self, key: str) -> tuple[float, float] | None:
        """An interval; None if absent."""
        ends = self._take(key, tuple[float, float])
        return None if ends is None else self._finite_pair(ends, key)

    def pairs(self, key: str) -> tuple[tuple[float, float] | None, ...]:
        """A list of intervals, each of two numbers or None."""
        found = self._take(key, tuple[tuple[float, float] | None, ...]) or ()
        return tuple(
            None if ends is None else self._finite_pair(ends, f"{key}[{i}]") for i, ends in enumerate(found)
        )

    def section(self, key: str) -> Self:
        """An object inside this one, empty if absent."""
        return type(self)(self._values.get(key), f"{self.where}: {key}", self.error)

    def rows(self, key: str) -> list[Self]:
        """A list of objects, empty if absent."""
        values = self._take(key, tuple[Any, ...]) or ()
        return [type(self)(value, f"{self.where}: {key}[{i}]", self.error) for i, value in enumerate(values)]

    def need(self, key: str, take: Callable[[str], T | None]) -> T:
        """What `take` finds under `key`, which must be there.

        Raises:
            EdgeReasonError: of this reader's class; it is absent.
        """
        value = take(key)
        if value is None or value == ():
            raise self.error(f"{self.where} lacks {key}: write the record again with this edgereason")
        return value

    def _take(self, key: str, hint: type[T]) -> T | None:
        value = self._values.get(key)
        if value is None:
            return None
        found: T = read_value(hint, value, f"{self.where}: {key}", self.error)
        return found

    def _finite_pair(self, ends: tuple[float, float], key: str) -> tuple[float, float]:
        if not all(map(math.isfinite, ends)):
            raise self.error(f"{self.where}: {key} must be two finite numbers, got {ends!r}")
        return ends


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
