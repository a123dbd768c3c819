"""Which recipes a study tries: one, and others that differ from it in one setting, or in every combination.

::

    recipe = "sft-smollm2-135m.toml"        ─┐   "recipe"                  the recipe as it stands
    [axes]                                   ├─→ "lora.rank=8"             with another rank
    "lora.rank" = [8, 32]                    │   "training.learning_rate=0.0002"
    "training.learning_rate" = [2e-4, 1e-3] ─┘

Source: paper section 3, the study of rank, learning rate and batch size. Deviation: linears to adapt are an
axis like any other; one setting at a time by default, where the paper tries the whole product.

Knows recipes; does not know how they are carried out or judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from edgereason.config import nearest, parse
from edgereason.errors import ConfigError
from edgereason.train.lora.sft import SftRecipe

PLAIN = "recipe"
"""Name of the recipe as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One recipe of a study; `changed` is what is not as in the recipe that it started from."""

    name: str
    changed: Mapping[str, Any]
    recipe: SftRecipe


def points(recipe: SftRecipe, axes: Mapping[str, Any], where: str, *, whole: bool = False) -> list[Point]:
    """The recipes of a study, each once, the one that it starts from among them.

    Args:
        recipe: what to start from.
        axes: ``table.setting`` → list of values.
        where: what the axes are called in messages.
        whole: every combination, not one setting at a time.

    Raises:
        ConfigError: a setting that recipes don't have, or a value that it can't take.
    """
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: {name} must be a list of values, got {values!r}")
    if whole:
        changes = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    else:
        changes = [{}, *({name: value} for name, values in axes.items() for value in values)]
    found: list[Point] = []
    for change in changes:
        made = _changed(recipe, change, where)
        if all(made != point.recipe for point in found):
            kept = {} if made == recipe else change
            found.append(Point(name=_name(kept), changed=kept, recipe=made))
    return found


def read_study(path: Path, tables: Mapping[str, Any]) -> tuple[SftRecipe, Mapping[str, Any]]:
    """The recipe and the axes of a study's file, whose `recipe` is named from where the file is.

    Raises:
        ConfigError: one of the two is missing or no table.
    """
    recipe, axes = tables.get("recipe"), tables.get("axes")
    if not isinstance(recipe, str):
        raise ConfigError(f"{path.name} names no recipe: give recipe = 'sft-….toml', beside it")
    if not isinstance(axes, dict) or not axes:
        raise ConfigError(f"{path.name} has no [axes]: give settings, such as 'lora.rank' = [8, 32]")
    return SftRecipe.read(path.parent / recipe), axes


def _changed(recipe: SftRecipe, change: Mapping[str, Any], where: str) -> SftRecipe:
    tables = recipe.to_tables()
    kinds = {name: type(getattr(recipe, name)) for name in tables}
    known = [f"{table}.{setting}" for table in tables for setting in kinds[table].__dataclass_fields__]
    for name, value in change.items():
        if name not in known:
            raise ConfigError(f"{where} has no setting {name!r}: {nearest(name, known)}")
        table, _, setting = name.partition(".")
        tables[table] = {**tables[table], setting: value}
    parts = {name: parse(kinds[name], values, f"{where} [{name}]") for name, values in tables.items()}
    return replace(recipe, **parts)


def _name(change: Mapping[str, Any]) -> str:
    """A name that can be a folder's: ``lora.rank=8``, ``lora.targets=q_proj+v_proj``."""
    said = (
        f"{name}={'+'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in change.items()
    )
    return ",".join(said) or PLAIN
