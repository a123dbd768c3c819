"""Plain values of TOML or JSON to frozen dataclasses and back; what is not understood is refused.

::

    run.toml ─ read_toml ─→ tables ─ parse(cls, table) ─→ frozen dataclass ─ to_table ─→ run.toml
    bundle.json ─────────────────↗

A key that the dataclass does not have is refused with the nearest one that it has; so is a value of another
type. A field left out has its default; `None` is JSON's null, which TOML can't spell. Each dataclass stands
beside its one consumer and checks ranges itself; this module checks types and names only.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TypeVar

from edgereason.errors import ConfigError, EdgeReasonError

T = TypeVar("T")

_MOST_BITS: Final = 63
"""Of a whole number, its sign aside: TOML's and everybody's integers."""

_MOST_BYTES: Final = 1 << 28
"""Of a recipe, a manifest or a record, with room: the largest record of this repository has 1 MB."""

_WORDS: Final = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def read_bounded(path: Path) -> bytes:
    """The content of a file that is small by its nature, such as a recipe or a record.

    Raises:
        OSError: it can't be read.
        ValueError: it is longer than any of these, or has no end, as a device.
    """
    with path.open("rb") as file:
        return bounded(file)


def bounded(file: BinaryIO) -> bytes:
    """The rest of an open file, as `read_bounded` reads it.

    Raises:
        ValueError: it is longer.
    """
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes, or no end")
    return content


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it can't be read, or is not TOML.
    """
    try:
        return load_toml(read_bounded(path).decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:  # a NUL in the name and numbers beyond counting too
        raise ConfigError(f"{path} can't be read: {error}") from error


def load_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: it is not TOML, or nested too deep to be read.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def parse(
    kind: type[T], table: Mapping[str, Any], where: str, error: type[EdgeReasonError] = ConfigError
) -> T:
    """A dataclass from a table or JSON object.

    Args:
        kind: a dataclass whose fields are of the types that `read_value` knows.
        table: its fields by name.
        where: what the table is called in messages, such as "gsm8k.toml [eval]".
        error: what is raised.

    Raises:
        EdgeReasonError: of the class `error`; a key is unknown, a value has the wrong type, or a field
            without default is left out.
    """
    if not isinstance(table, Mapping):
        raise error(f"{where} must hold values by name, got {table!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = _hints(typing.cast("typing.Hashable", kind))
    for name in table:
        if name not in fields:
            raise error(f"{where} has no setting {name!r}: {nearest(name, fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in table
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise error(f"{where} lacks {', '.join(missing)}")
    return kind(
        **{name: read_value(hints[name], value, f"{where}: {name}", error) for name, value in table.items()}
    )


@functools.cache
def _hints(kind: typing.Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def read_value(hint: Any, value: Any, where: str, error: type[EdgeReasonError] = ConfigError) -> Any:
    """A plain value as a type has it.

    Args:
        hint: `Any`, str, int, float, bool, a StrEnum, a Literal, a dataclass, an optional, a tuple of any
            or of a fixed length, or a Mapping from str, of these.
        value: as TOML or JSON has it.
        where: what the value is called in messages.
        error: what is raised.

    Raises:
        EdgeReasonError: of the class `error`; the value is of another type.
    """
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        (kind,) = (one for one in kinds if one is not types.NoneType)  # only optionals are unions here
        return None if value is None else read_value(kind, value, where, error)
    if origin is typing.Literal:
        if value not in kinds:
            raise error(f"{where} must be one of {', '.join(map(repr, kinds))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise error(f"{where} must be a list, got {value!r}")
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(value) != len(kinds):
            raise error(f"{where} must be a list of {len(kinds)}, got {value!r}")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(read_value(kind, one, f"{where}[{i}]", error) for i, (kind, one) in pairs)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise error(f"{where} must hold values by name, got {value!r}")
        return {name: read_value(kinds[1], one, f"{where}: {name}", error) for name, one in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast("type", hint), value, where, error)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as wrong:
            raise error(f"{where} must be one of {', '.join(hint)}, got {value!r}") from wrong
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if is_int and hint in (int, float) and value.bit_length() > _MOST_BITS:
        raise error(f"{where} must be a number of at most {_MOST_BITS} bits, got one of {value.bit_length()}")
    if hint is float and is_int:
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise error(f"{where} must be {_WORDS.get(hint, hint.__name__)}, got {value!r}")
    return value


class TomlTables:
    """Base of a frozen dataclass that is a whole TOML file: every field is a dataclass, and a table there."""

    __slots__ = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a TOML file; a table that is left out has its defaults.

        Raises:
            ConfigError: it can't be read, a table or setting is unknown, or a value is wrong.
        """
        kinds, tables = typing.get_type_hints(cls), read_toml(path)
        for name in tables:
            if name not in kinds:
                raise ConfigError(f"{path.name} has an unknown table [{name}]: {nearest(name, kinds)}")
        return cls(
            **{
                name: parse(kind, tables.get(name, {}), f"{path.name} [{name}]")
                for name, kind in kinds.items()
            }
        )

    def to_tables(self) -> dict[str, dict[str, Any]]:
        """The resolved settings, as TOML spells them."""
        return {name: to_table(getattr(self, name)) for name in typing.get_type_hints(type(self))}


def to_table(config: object) -> dict[str, Any]:
    """The settings of a dataclass that TOML can spell: those that are None are left out."""
    assert dataclasses.is_dataclass(config)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def require_at_least_one(**values: int | None) -> None:
    """Refuses a setting below 1; None is one that was left open.

    Raises:
        ConfigError: naming the setting.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
        if value is not None and value >= 2**31:
            raise ConfigError(f"{name} must be below 2³¹, got a number of {value.bit_length()} bits")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest that is, and all of them."""
    known = list(known)
    near = closest(name, known)
    return ("" if near is None else f"did you mean {near!r}? ") + f"known: {', '.join(known)}"


def closest(name: str, known: typing.Iterable[str]) -> str | None:
    """The known name that an unknown one is nearest to; None if none is near."""
    return next(iter(difflib.get_close_matches(name.casefold(), list(known), n=1, cutoff=0.5)), None)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value
