"""Recipes for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgereason.recipe.config import MakeRecipe

MINIMAL = """
name = "tiny"
model = "smollm2-135m"
[data.sums]
generate = "worked-sums:8"
[traces.sums]
data = "sums"
format = "worked"
[sft]
traces = ["sums"]
"""


def recipe_of(text: str, folder: Path, settings: Sequence[str] = ()) -> MakeRecipe:
    """The recipe that a text is."""
    path = folder / "recipe.toml"
    path.write_text(text)
    return MakeRecipe.read(path, settings)
