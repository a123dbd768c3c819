"""Which recipes a study tries, what they are called, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.config import read_toml
from edgereason.errors import ConfigError
from edgereason.train.lora.adapters import LoraSettings
from edgereason.train.lora.grid import points, read_study
from edgereason.train.lora.loop import TrainConfig
from edgereason.train.lora.sft import BaseConfig, SftRecipe

RECIPE = SftRecipe(
    base=BaseConfig(name="tiny"),
    lora=LoraSettings(rank=8),
    training=TrainConfig(learning_rate=1e-3, batch_rows=4, micro_rows=2),
)
AXES = {"lora.rank": [8, 32], "lora.targets": [["q_proj", "v_proj"]], "training.learning_rate": [1e-4]}


def test_one_setting_at_a_time_gives_the_recipe_and_one_for_every_other_value():
    found = points(RECIPE, AXES, "study.toml [axes]")
    assert [point.name for point in found] == [
        "recipe",
        "lora.rank=32",
        "lora.targets=q_proj+v_proj",
        "training.learning_rate=0.0001",
    ]
    plain, rank, targets, rate = (point.recipe for point in found)
    assert plain == RECIPE
    assert (rank.lora.rank, rank.lora.targets, rank.training) == (32, RECIPE.lora.targets, RECIPE.training)
    assert (targets.lora.rank, targets.lora.targets) == (8, ("q_proj", "v_proj"))
    assert (rate.training.learning_rate, rate.training.batch_rows, rate.lora) == (1e-4, 4, RECIPE.lora)


def test_every_combination_gives_each_once_and_alpha_follows_the_rank():
    axes = {"lora.rank": [8, 32], "training.learning_rate": [1e-4, 1e-3]}
    found = points(RECIPE, axes, "study.toml [axes]", whole=True)
    assert [(point.recipe.lora.rank, point.recipe.training.learning_rate) for point in found] == [
        (8, 1e-4),
        (8, 1e-3),
        (32, 1e-4),
        (32, 1e-3),
    ]
    assert [point.recipe.lora.scale_alpha for point in found] == [16, 16, 64, 64]
    assert found[1].name == "recipe"  # the one that changes nothing
    assert found[2].name == "lora.rank=32,training.learning_rate=0.0001"


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"lora.rang": [8]}, "has no setting 'lora.rang': did you mean 'lora.rank'"),
        ({"lora.rank": 8}, "lora.rank must be a list of values, got 8"),
        ({"lora.rank": []}, "lora.rank must be a list"),
        ({"lora.rank": ["8"]}, "rank must be of type int"),
        ({"lora.rank": [0]}, "rank of 1 or more"),
        ({"lora.targets": [["lm_head"]]}, "targets must be one of 'q_proj'"),
    ],
)
def test_what_a_recipe_cannot_take_is_refused_before_anything_is_trained(axes, says):
    with pytest.raises(ConfigError, match=says):
        points(RECIPE, axes, "study.toml [axes]")


def test_a_study_names_its_recipe_from_where_it_stands():
    path = Path(__file__).parents[3] / "configs" / "study-smollm2-135m.toml"
    recipe, axes = read_study(path, read_toml(path))
    assert recipe == SftRecipe.read(path.parent / "sft-smollm2-135m.toml")
    assert "recipe" in [point.name for point in points(recipe, axes, "axes")]


@pytest.mark.parametrize(
    ("tables", "says"),
    [({"axes": {"lora.rank": [8]}}, "names no recipe"), ({"recipe": "x"}, "no \\[axes\\]")],
)
def test_a_study_without_recipe_or_axes_is_refused(tables, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        read_study(tmp_path / "study.toml", tables)
