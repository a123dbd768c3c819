"""Values of a JSON record, taken by name and with their types checked.

::

    {"ppl": 17.2, "model": {…}} ─ number("ppl") → 17.2    section("model").text("name") → None if absent

What a record lacks is None, so that a table can show a dash; what is there but of another type, or needed and
missing, is an error that names the record. Knows names and types; does not know what any value means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

from edgereason.errors import ConfigError

T = TypeVar("T")


class Fields:
    """A JSON object.

    Args:
        values: the object; `None` is an empty one.
        where: what it is called in messages.
    """

    def __init__(self, values: Any, where: str) -> None:
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"{where} must be a JSON object, got {type(values).__name__}")
        self._values: dict[str, Any] = values or {}
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Names of what is there, in the record's order."""
        return (key for key, value in self._values.items() if value is not None)

    def number(self, key: str) -> float | None:
        """A finite number; None if absent or not finite."""
        value = self._values.get(key)
        return None if value is None else _number(value, f"{self.where}: {key}")

    def is_number(self, key: str) -> bool:
        """Whether a number is there."""
        value = self._values.get(key)
        return isinstance(value, int | float) and not isinstance(value, bool)

    def flag(self, key: str) -> bool:
        """Whether `key` is there and true."""
        return self._values.get(key) is True

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self.where}: {key} must be a text, got {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self._list(key)
        if bad := [value for value in values if not isinstance(value, str)]:
            raise ConfigError(f"{self.where}: {key} must be texts, got {bad[0]!r}")
        return tuple(values)

    def numbers(self, key: str) -> tuple[float | None, ...]:
        """A list of numbers; what is not finite, or absent, is None."""
        values = self._list(key)
        return tuple(
            None if value is None else _number(value, f"{self.where}: {key}[{i}]")
            for i, value in enumerate(values)
        )

    def pairs(self, key: str) -> tuple[tuple[float, float] | None, ...]:
        """A list of intervals, each of two numbers or None."""
        return tuple(
            None if value is None else _pair(value, f"{self.where}: {key}[{i}]")
            for i, value in enumerate(self._list(key))
        )

    def pair(self, key: str) -> tuple[float, float] | None:
        """An interval; None if absent."""
        value = self._values.get(key)
        return None if value is None else _pair(value, f"{self.where}: {key}")

    def section(self, key: str) -> Self:
        """An object inside this one, empty if absent."""
        return type(self)(self._values.get(key), f"{self.where}: {key}")

    def rows(self, key: str) -> list[Self]:
        """A list of objects."""
        return [type(self)(value, f"{self.where}: {key}[{i}]") for i, value in enumerate(self._list(key))]

    def need(self, key: str, take: Callable[[str], T | None]) -> T:
        """What `take` finds under `key`, which must be there.

        Raises:
            ConfigError: it is absent.
        """
        value = take(key)
        if value is None or value == ():
            raise ConfigError(f"{self.where} lacks {key}: write the record again with this edgereason")
        return value

    def _list(self, key: str) -> list[Any]:
        value = self._values.get(key)
        if value is not None and not isinstance(value, list):
            raise ConfigError(f"{self.where}: {key} must be a list, got {value!r}")
        return value or []


def _number(value: Any, where: str) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} must be a number, got {value!r}")
    return float(value) if math.isfinite(value) else None


def _pair(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ConfigError(f"{where} must be two numbers, got {value!r}")
    low, high = (_number(one, where) for one in value)
    if low is None or high is None:
        raise ConfigError(f"{where} must be two finite numbers, got {value!r}")
    return low, high
