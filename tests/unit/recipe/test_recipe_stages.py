"""Which stages a recipe has, what each of them needs, and what is kept out of training."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes import MINIMAL, recipe_of

from edgereason.errors import ConfigError
from edgereason.recipe.config import MakeRecipe
from edgereason.recipe.data import Source
from edgereason.recipe.stages import Stage, stages_of
from edgereason.recipe.work import adapter_before, last_adapter, learned_from

EVERYTHING = """
name = "tiny"
model = "smollm2-135m"
[data.book]
generate = "worked-sums:8"
[data.sums]
generate = "worked-sums:8"
[data.kept]
generate = "worked-sums:8"
[data.test]
generate = "worked-sums:8"
[quantize]
name = "tiny-w4"
text = ["book"]
[traces.own]
data = "sums"
against = ["kept"]
[traces.worked]
data = "sums"
format = "worked"
[sft]
traces = ["worked"]
[refine]
traces = ["own"]
[shortest]
data = ["sums"]
[warm]
[grpo]
data = ["sums"]
against = ["kept"]
[switcher]
data = ["sums"]
[verifier]
data = ["kept"]
[calibration]
share = 0.5
data = ["sums"]
[evaluation.local]
data = "test"
eval = { task = "gsm8k" }
[evaluation.made]
eval = { task = "gym:chain_sum", limit = 5 }
[perplexity]
data = "book"
"""


def stages(text: str, folder: Path) -> dict[str, Stage]:
    recipe = recipe_of(text, folder)
    sources = {name: Source.of(name, config, ()) for name, config in recipe.data.items()}
    return {stage.name: stage for stage in stages_of(recipe, sources)}


def test_stages_come_in_the_order_in_which_they_are_carried_out(tmp_path: Path) -> None:
    assert [*stages(EVERYTHING, tmp_path)] == [
        *("data/book", "data/sums", "data/kept", "data/test", "asked/made"),
        *("base", "perplexity", "traces/own", "traces/worked", "sft", "refine", "shortest", "warm", "grpo"),
        *("switcher", "verifier", "bundle", "calibration"),
        *("evaluation/local", "evaluation/made", "card"),
    ]


def test_no_stage_needs_one_behind_it(tmp_path: Path) -> None:
    seen: set[str] = set()
    for name, stage in stages(EVERYTHING, tmp_path).items():
        assert set(stage.needs) <= seen, name
        seen.add(name)


@pytest.mark.parametrize(
    ("stage", "before"),
    [("refine", "sft"), ("shortest", "refine"), ("warm", "refine"), ("grpo", "warm"), ("verifier", "grpo")],
)
def test_each_adapter_goes_on_from_the_one_before(tmp_path: Path, stage: str, before: str) -> None:
    found = stages(EVERYTHING, tmp_path)[stage]
    assert before in found.needs
    recipe = recipe_of(EVERYTHING, tmp_path)
    assert (last_adapter(recipe) if stage == "verifier" else adapter_before(recipe, stage)) == before


def test_what_is_evaluated_on_is_kept_out_of_everything_that_is_learned(tmp_path: Path) -> None:
    found = stages(EVERYTHING, tmp_path)
    for name in ("traces/own", "traces/worked", "shortest", "grpo", "verifier"):
        assert {"data/test", "asked/made"} <= set(found[name].needs), name
    assert "data/kept" in found["traces/own"].needs
    assert "data/kept" not in found["traces/worked"].needs


def test_stages_that_are_left_out_are_skipped(tmp_path: Path) -> None:
    assert [*stages(MINIMAL, tmp_path)] == ["data/sums", "base", "traces/sums", "sft", "bundle", "card"]
    recipe = recipe_of(MINIMAL, tmp_path)
    assert learned_from(recipe) == ["traces/sums", "sft"]
    more = MINIMAL + "[grpo]\ndata = ['sums']\n"
    assert adapter_before(recipe_of(more, tmp_path), "grpo") == "sft"


def test_the_history_of_an_adapter_has_only_the_traces_that_it_learned_from(tmp_path: Path) -> None:
    recipe: MakeRecipe = recipe_of(EVERYTHING + "[traces.unused]\ndata = 'sums'\n", tmp_path)
    assert learned_from(recipe) == [
        *("traces/worked", "traces/own", "sft", "refine", "shortest", "warm", "grpo"),
    ]


def test_amounts_follow_from_rows_and_settings(tmp_path: Path) -> None:
    found = stages(EVERYTHING.replace("[warm]", "[shortest.training]\nsamples = 8\n[warm]"), tmp_path)
    counts = {"book": 8, "sums": 10, "kept": 20, "test": 100, "asked-made": 5}
    amounts = {name: one.amount(counts) for name, one in found.items() if one.amount is not None}
    assert amounts["traces/own"] == 40  # four samples each
    assert amounts["refine"] == 20  # at most two traces of each question
    assert amounts["sft"] == 10
    assert amounts["shortest"] == 320  # 10 questions · 4 buckets · 8
    assert amounts["warm"] == 20  # half of 10 · 4
    assert amounts["grpo"] == 1280  # 40 updates · 4 problems · 8
    assert amounts["verifier"] == 160
    assert (amounts["evaluation/local"], amounts["evaluation/made"]) == (100, 5)


SERVED = (
    MINIMAL
    + """
[traces.taught]
data = "sums"
endpoint = { url = "http://node-7:8000", model = "qwq-32b", parallel = 256 }
"""
)


def test_a_served_teacher_is_known_by_its_name_and_not_by_where_it_is_served(tmp_path: Path) -> None:
    recipe = recipe_of(SERVED, tmp_path)
    moved = recipe_of(SERVED.replace("node-7:8000", "node-9:8000").replace("256", "64"), tmp_path)
    other = recipe_of(SERVED.replace("qwq-32b", "r1"), tmp_path)

    def config(recipe: MakeRecipe) -> object:
        sources = {name: Source.of(name, one, ()) for name, one in recipe.data.items()}
        (stage,) = [one for one in stages_of(recipe, sources) if one.name == "traces/taught"]
        return stage.config

    assert config(recipe) == config(moved) != config(other)
    assert "node-7" not in str(config(recipe))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('model = "qwq-32b", ', ""), "needs a model"),
        (("endpoint =", 'teacher = "smollm2-135m"\nendpoint ='), "neither format, teacher"),
        (("endpoint =", 'format = "worked"\nendpoint ='), "neither format, teacher"),
    ],
)
def test_an_endpoint_that_goes_with_nothing_else_is_refused(tmp_path: Path, change, says) -> None:
    with pytest.raises(ConfigError, match=says):
        recipe_of(SERVED.replace(*change), tmp_path)
