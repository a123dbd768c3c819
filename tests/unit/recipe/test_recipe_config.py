"""A recipe's file: what is understood, what is refused, and settings from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes import MINIMAL, recipe_of

from edgereason.errors import ConfigError, PullError
from edgereason.recipe.config import MakeRecipe, plain
from edgereason.recipe.init import write_recipe
from edgereason.recipe.smoke import smoke_of

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[stf]\nepochs = 1", r"recipe.toml has no setting 'stf': did you mean 'sft'"),
        ("[grpo]\ndata = ['sums']\n[grpo.training]\nstep = 3", r"grpo: training has no setting 'step': did"),
        ("[grpo]\ndata = ['sumz']", r"\[grpo\] data: there is no \[data.sumz\]: did you mean 'sums'"),
        ("[refine]\ntraces = ['own']", r"\[refine\] traces: there is no \[traces.own\]"),
        ("[refine]", r"\[refine\] needs traces"),
        ("[shortest]\ndata = ['sums']", r"\[shortest\] and \[warm\] go together"),
        ("[shortest]\ndata = ['sums']\n[warm]\ntraces = ['sums']", r"\[warm\] traces: it learns from \[sh"),
        ("[calibration]\nshare = 0.5\ndata = ['sums']", r"\[calibration\] sets the switcher's threshold"),
        ("[calibration]\nneedless_cost = 0\ndata = ['sums']", r"needless_cost must be above 0, as 1, got 0"),
        ("[calibration]\nshare = 50\ndata = ['sums']", r"share must be between 0 and 1, as 0.5, got 50"),
        ("[data.x]\nseed = 1", "data come from a file, from the hub or from `generate`"),
        ("[data.x]\nfile = 'a'\ngenerate = 'b'", "data come from a file, from the hub or from `generate`"),
        ("[data.x]\ngenerate = 'sums:3'", "there is no generator 'sums': did you mean 'worked-sums'"),
        ("[data.x]\nfile = 'a'\nrows = [3, 3]", r"rows must be the first and the one behind the last"),
        ("[data.'a/b']\nfile = 'a'", "names of tables must be names of folders, got 'a/b'"),
        ("[traces.x]\ndata = 'sums'\nformat = 'gsm'", "there is no format 'gsm' of traces"),
        (
            "[evaluation.x.eval]\ntask = 'gsm8k'\nmodel = 'm'",
            "the bundle is evaluated; leave the setting out",
        ),
        ("[quantize]\nname = '../x'", r"\[quantize\] name must be one that a file can have"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_was_expected(tmp_path: Path, more: str, says: str):
    with pytest.raises(ConfigError, match=says):
        recipe_of(MINIMAL + more, tmp_path)


def test_a_bundle_is_not_called_as_the_folders_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of earlier, smoke, stages, got 'smoke'"):
        recipe_of(MINIMAL, tmp_path, ["name=smoke"])


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("sft.epochs=2", lambda recipe: recipe.sft.training.epochs == 2),
        ("sft.training.epochs=2", lambda recipe: recipe.sft.training.epochs == 2),
        ("sft.buckets=[32, 64]", lambda recipe: recipe.sft.hints.buckets == (32, 64)),
        ("model=qwen2.5-coder-0.5b", lambda recipe: recipe.model == "qwen2.5-coder-0.5b"),
        ("name='3'", lambda recipe: recipe.name == "3"),
        ("data.sums.seed=4", lambda recipe: recipe.data["sums"].seed == 4),
        ("traces.sums.samples=1", lambda recipe: recipe.traces["sums"].generate.samples == 1),
        ("quantize.name=q", lambda recipe: recipe.quantize.name == "q"),
        ("evaluation.new.task=gsm8k", lambda recipe: recipe.evaluation["new"].eval.task == "gsm8k"),
    ],
)
def test_a_setting_of_the_command_line_goes_before_the_files(tmp_path: Path, setting: str, read) -> None:
    assert read(recipe_of(MINIMAL, tmp_path, [setting]))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sft.epoch=2", "there is no setting 'epoch': did you mean 'epochs'"),
        ("sft.seed=2", "it could be hints.seed and training.seed"),
        ("sft", "takes NAME=VALUE, as in sft.epochs=2, got 'sft'"),
        ("name.x=2", "name is a value, not a table"),
        ("sft.epochs=two", "training: epochs must be a whole number, got 'two'"),
    ],
)
def test_a_setting_that_is_not_understood_is_refused(tmp_path: Path, setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        recipe_of(MINIMAL, tmp_path, [setting])


def test_a_recipe_reads_back_as_it_was_resolved(tmp_path: Path) -> None:
    import tomli_w

    recipe = MakeRecipe.read(CONFIGS / "make-smollm2-135m.toml")
    path = tmp_path / "again.toml"
    path.write_text(tomli_w.dumps(plain(recipe)))
    assert MakeRecipe.read(path) == recipe


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("make-*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_understood(path: Path) -> None:
    smoke_of(MakeRecipe.read(path))


@pytest.mark.parametrize("model", ["smollm2-135m", "qwen2.5-coder-0.5b-w4"])
def test_a_recipe_to_begin_with_is_understood(tmp_path: Path, model: str) -> None:
    path = tmp_path / "new" / "mine.toml"
    write_recipe(model, path)
    recipe = MakeRecipe.read(path)
    assert (recipe.model, recipe.name) == (model, f"{model}-think")
    assert (recipe.quantize is None) == (model == "qwen2.5-coder-0.5b-w4")  # that one is in 4 bits
    with pytest.raises(ConfigError, match="is there already"):
        write_recipe(model, path)


def test_a_recipe_for_a_model_that_is_nowhere_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PullError, match="neither a file nor a known model; did you mean smollm2-135m"):
        write_recipe("smollm", tmp_path / "mine.toml")
    assert not (tmp_path / "mine.toml").exists()


def test_a_smoke_run_has_few_rows_and_the_same_batches(tmp_path: Path) -> None:
    whole = MakeRecipe.read(CONFIGS / "make-smollm2-135m.toml")
    few = smoke_of(whole)
    assert few.data["sums"].limit == 32  # two updates of 16
    assert few.data["short-sums"].limit == 16  # two updates of four problems, and as many again to replace
    assert few.data["other-sums"].limit == 40  # twice the fewest questions of a verifier
    assert few.grpo is not None
    assert whole.grpo is not None
    assert (few.grpo.training.steps, few.grpo.training.micro_rows) == (2, whole.grpo.training.micro_rows)
    assert few.sft.training == whole.sft.training
    assert few.evaluation["think"].eval.limit == 4
    assert few.verifier == whole.verifier


def test_where_a_teacher_makes_the_traces_an_update_of_a_smoke_run_takes_two(tmp_path: Path) -> None:
    recipe = recipe_of(MINIMAL.replace("format = 'worked'", "").replace('format = "worked"', ""), tmp_path)
    few = smoke_of(recipe)
    assert (few.sft.training.batch_rows, few.sft.training.micro_rows) == (2, 2)
    assert few.data["sums"].limit == 8  # questions for the teacher


def test_what_is_evaluated_on_is_whole_in_a_smoke_run(tmp_path: Path) -> None:
    more = "[data.test]\nfile = 'test.jsonl'\n[evaluation.x]\ndata = 'test'\neval = {task = 'gsm8k'}\n"
    more += "[verifier]\ndata = ['sums']\ntests = ['test']\n"
    few = smoke_of(recipe_of(MINIMAL + more, tmp_path))
    assert (few.data["test"].limit, few.data["sums"].limit) == (None, 64)  # two updates of 32
