"""Values of a JSON object, taken by name and type, until nothing is left over.

::

    {"base": {…}, "buckets": [64]} ─ section("base"), ints("buckets") ─→ values ─ end() ─→ nothing unknown

Whatever is missing, of another type or unknown is an error that names the place. Knows names and types; does
not know what any value means.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Self, TypeVar

from edgereason.errors import BundleError

T = TypeVar("T")


class Section:
    """A JSON object.

    Args:
        values: the object.
        where: what it is called in messages.

    Raises:
        BundleError: it is none; as every method, where a value is missing or of another type.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise BundleError(f"{where} must be a JSON object, got {type(values).__name__}")
        self._left: dict[str, Any] = dict(values)
        self._known: list[str] = []
        self.where = where

    def take(self, key: str, kind: type[T]) -> T:
        """A value that must be there."""
        value = self._needed(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            self._refuse(key, f"of type {kind.__name__}", value)
        return value

    def text(self, key: str) -> str | None:
        """A text; None if there is none."""
        value = self._optional(key)
        if value is not None and not isinstance(value, str):
            self._refuse(key, "a text", value)
        return value

    def ints(self, key: str, *, optional: bool = False) -> tuple[int, ...]:
        """A list of whole numbers, none below 0."""
        values = self._list(key) if optional else self.take(key, list)
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
            self._refuse(key, "a list of numbers", values)
        return tuple(values)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty if there is none."""
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            self._refuse(key, "a list of texts", values)
        return tuple(values)

    def section(self, key: str) -> Self:
        """An object inside this one."""
        return type(self)(self._needed(key), f"{self.where}: {key}")

    def section_or_none(self, key: str) -> Self | None:
        """An object inside this one; None if there is none."""
        value = self._optional(key)
        return None if value is None else type(self)(value, f"{self.where}: {key}")

    def sections(self, key: str) -> list[Self]:
        """A list of objects, empty if there is none."""
        return [type(self)(value, f"{self.where}: {key}[{i}]") for i, value in enumerate(self._list(key))]

    def plain(self, key: str) -> dict[str, Any] | None:
        """An object as it stands; None if there is none."""
        value = self._optional(key)
        if value is not None and not isinstance(value, dict):
            self._refuse(key, "a JSON object", value)
        return value

    def mapping(self, key: str, read: Callable[[Any], T | None], what: str) -> Mapping[str, T]:
        """An object whose values are all alike, empty if there is none.

        Args:
            key: its name.
            read: makes something of a value; None if it can't.
            what: values are called in messages.
        """
        found = {name: read(value) for name, value in (self.plain(key) or {}).items()}
        for name, value in found.items():
            if value is None:
                raise BundleError(f"{self.where}: {key}: {name} must be {what}")
        return {name: value for name, value in found.items() if value is not None}

    def end(self) -> None:
        """Refuses what nobody took."""
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            raise BundleError(
                f"{self.where} has an unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
            )

    def _needed(self, key: str) -> Any:
        if key not in self._left:
            raise BundleError(f"{self.where} lacks {key!r}")
        return self._optional(key)

    def _optional(self, key: str) -> Any:
        self._known.append(key)
        return self._left.pop(key, None)

    def _list(self, key: str) -> list[Any]:
        value = self._optional(key)
        if value is not None and not isinstance(value, list):
            self._refuse(key, "of type list", value)
        return value or []

    def _refuse(self, key: str, expected: str, value: object) -> NoReturn:
        raise BundleError(f"{self.where}: {key} must be {expected}, got {value!r}")


def number(value: Any) -> float | None:
    """A JSON number; None if it is something else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def pair(value: Any) -> tuple[float, float] | None:
    """Two JSON numbers; None if it is something else."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)
