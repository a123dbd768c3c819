"""Run files: TOML to frozen dataclasses and back, and nothing let through that is not understood.

::

    run.toml ─ read ─→ tables ─ parse(cls, table) ─→ frozen dataclass ─ to_table ─→ run.toml

A key that the dataclass does not have is refused with the nearest one that it has; so is a value of another
type. `None` has no spelling in TOML: a field left out has its default. Each configuration is a dataclass
beside its one consumer and checks ranges itself; this module knows types and names only.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from edgereason.errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def parse(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table.

    Args:
        kind: a dataclass whose fields are str, int, float, bool, a StrEnum, an optional or a tuple of these.
        table: its fields by name.
        where: what the table is called in messages, such as "gsm8k.toml [eval]".

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, or a field without default is left out.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for name in table:
        if name not in fields:
            raise ConfigError(f"{where} has no setting {name!r}: {nearest(name, fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in table
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in table.items()})


def read_tables(path: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """A TOML file whose every table is a dataclass; a table that is left out has its defaults.

    Args:
        path: the file.
        kinds: dataclasses by the names of their tables.

    Raises:
        ConfigError: it can't be read, a table or setting is unknown, or a value is wrong.
    """
    tables = read_toml(path)
    for name in tables:
        if name not in kinds:
            raise ConfigError(f"{path.name} has an unknown table [{name}]: {nearest(name, kinds)}")
    return {name: parse(kind, tables.get(name, {}), f"{path.name} [{name}]") for name, kind in kinds.items()}


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


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest that is, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        assert len(kinds) == 1, "only optionals are unions here"
        return _value(kinds[0], value, where)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{where} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return tuple(_value(typing.get_args(hint)[0], one, where) for one in value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise ConfigError(f"{where} must be one of {', '.join(hint)}, got {value!r}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
