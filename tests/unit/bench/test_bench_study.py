"""Which recipes a study tries, what is refused, and a whole study with stand-ins for its work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgereason.bench import study as module
from edgereason.bench.lab import Measured
from edgereason.bench.study import Study, run, variants
from edgereason.core.types import Mode
from edgereason.errors import ConfigError
from edgereason.evals.evaluate import EvalConfig
from edgereason.records.context import RunContext
from edgereason.train.lora.adapters import LoraSettings
from edgereason.train.lora.loop import TrainConfig
from edgereason.train.lora.run import BaseConfig, SftRecipe

RECIPE = SftRecipe(
    base=BaseConfig(name="tiny"),
    lora=LoraSettings(rank=8),
    training=TrainConfig(learning_rate=1e-3, batch_rows=4, micro_rows=2),
)
AXES = {"lora.rank": [8, 32], "lora.targets": [["q_proj", "v_proj"]], "training.learning_rate": [1e-4]}


def test_one_setting_at_a_time_gives_the_recipe_and_one_for_every_other_value():
    found = variants(RECIPE, AXES, "study.toml [axes]")
    assert [variant.name for variant in found] == [
        "recipe",
        "lora.rank=32",
        "lora.targets=q_proj+v_proj",
        "training.learning_rate=0.0001",
    ]
    plain, rank, targets, rate = (variant.recipe for variant in found)
    assert plain == RECIPE
    assert (rank.lora.rank, rank.lora.targets, rank.training) == (32, RECIPE.lora.targets, RECIPE.training)
    assert (targets.lora.rank, targets.lora.targets) == (8, ("q_proj", "v_proj"))
    assert (rate.training.learning_rate, rate.training.batch_rows, rate.lora) == (1e-4, 4, RECIPE.lora)


def test_every_combination_gives_each_once_and_alpha_follows_the_rank():
    axes = {"lora.rank": [8, 32], "training.learning_rate": [1e-4, 1e-3]}
    found = variants(RECIPE, axes, "study.toml [axes]", whole=True)
    assert [(variant.recipe.lora.rank, variant.recipe.training.learning_rate) for variant in found] == [
        (8, 1e-4),
        (8, 1e-3),
        (32, 1e-4),
        (32, 1e-3),
    ]
    assert [variant.recipe.lora.scale_alpha for variant in found] == [16, 16, 64, 64]
    assert found[1].name == "recipe"  # the one that changes nothing
    assert found[2].name == "lora.rank=32,training.learning_rate=0.0001"


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"lora.rang": [8]}, "has no setting 'lora.rang': did you mean 'lora.rank'"),
        ({"lora.rank": 8}, "lora.rank must be a list of values, got 8"),
        ({"lora.rank": []}, "lora.rank must be a list"),
        ({"lora.rank": ["8"]}, "rank must be a whole number"),
        ({"lora.rank": [0]}, "rank of 1 or more"),
        ({"lora.targets": [["lm_head"]]}, r"targets\[0\] must be one of 'q_proj'"),
    ],
)
def test_what_a_recipe_cannot_take_is_refused_before_anything_is_trained(axes, says):
    with pytest.raises(ConfigError, match=says):
        variants(RECIPE, axes, "study.toml [axes]")


def test_a_study_names_its_recipe_from_where_it_stands():
    path = Path(__file__).parents[3] / "configs" / "study-smollm2-135m.toml"
    study = Study.read(path)
    plain = next(variant for variant in study.variants if variant.name == "recipe")
    assert plain.recipe == SftRecipe.read(path.parent / "sft-smollm2-135m.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [("[axes]\n'lora.rank' = [8]", "names no recipe"), ("recipe = 'x'", "no \\[axes\\]")],
)
def test_a_study_without_recipe_or_axes_is_refused(text, says, tmp_path):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        Study.read(tmp_path / "study.toml")


# A whole study, whose training, evaluation and timing are stand-ins

JUDGED = {"accuracy": 0.5, "ci95": [0.3, 0.7], "n": 10, "mean_tokens": 99.0, "share_cut": 0.0}


class Work:
    """Notes what it was asked to do; training leaves the record that `train sft` does."""

    def __init__(self, monkeypatch):
        self.done, self.stops = [], False
        monkeypatch.setattr(module, "train_lora", self.learn)
        monkeypatch.setattr(module, "run_task", self.evaluate)
        monkeypatch.setattr(module, "lora", self.time)
        monkeypatch.setattr(module, "EndlessEngine", Nothing)
        monkeypatch.setattr(module, "Lab", lambda engine, base, threads, rounds, seed, adapter: adapter)

    def learn(self, recipe, folder, context, *, traces):
        self.done.append(("learn", folder.name, recipe.lora.rank))
        if self.stops:
            return None
        context.progress("sft", 1, 2, "loss 0.3")
        folder.mkdir(parents=True)
        record = {"recipe": recipe.to_tables(), "end_loss": 0.25, "adapter": {"size_bytes": 4000}}
        record["traces"] = [{"sha256": module.file_sha256(file)} for file in traces]
        (folder / "record.json").write_text(json.dumps(record))
        return record

    def evaluate(self, config, folder, context, **options):
        self.done.append(("evaluate", folder.parent.name, config.mode))
        assert config.bundle == str(folder.parent / "bundle")
        return JUDGED

    def time(self, adapter):
        self.done.append(("time", adapter.parent.parent.name))
        return Measured({"lora_tax_n1": 1.25}, {})


class Nothing:
    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


@pytest.fixture
def work(monkeypatch):
    return Work(monkeypatch)


@pytest.fixture
def traces(tmp_path):
    (tmp_path / "traces.jsonl").write_text("{}")
    return [tmp_path / "traces.jsonl"]


STUDY = Study(
    tables={"recipe": "r.toml"},
    variants=variants(RECIPE, {"lora.rank": [32]}, "axes"),
    evaluation=EvalConfig(task="gsm8k", mode=Mode.CHAT),
)


def test_each_variant_is_trained_evaluated_thinking_and_timed(work, traces, tmp_path):
    said = []
    context = RunContext(
        fetch=lambda name: tmp_path / name,
        progress=lambda stage, done, total, note="", details=(): said.append((stage, done, total, note)),
    )
    record = run(STUDY, traces, tmp_path / "out", context)
    assert work.done == [
        ("learn", "recipe", 8),
        ("evaluate", "recipe", Mode.THINK),
        ("time", "recipe"),
        ("learn", "lora.rank=32", 32),
        ("evaluate", "lora.rank=32", Mode.THINK),
        ("time", "lora.rank=32"),
    ]
    assert said == [
        ("recipe (1 of 2), sft", 1, 2, "loss 0.3"),
        ("lora.rank=32 (2 of 2), sft", 1, 2, "loss 0.3"),
    ]
    assert record["points"][1] == {
        "name": "lora.rank=32",
        "changed": {"lora.rank": 32},
        **JUDGED,
        "loss": 0.25,
        "adapter_bytes": 4000,
        "lora_tax_n1": 1.25,
    }
    assert record == json.loads((tmp_path / "out" / "sweep.json").read_text())


def test_the_same_call_again_neither_trains_nor_times(work, traces, tmp_path):
    context = RunContext(fetch=lambda name: tmp_path / name)
    first = run(STUDY, traces, tmp_path / "out", context)
    work.done.clear()
    again = run(STUDY, traces, tmp_path / "out", context)
    assert {step for step, *_ in work.done} == {"evaluate"}
    assert again["points"] == first["points"]


def test_a_stopped_training_ends_the_study_without_a_record(work, traces, tmp_path):
    work.stops = True
    assert run(STUDY, traces, tmp_path / "out") is None
    assert work.done == [("learn", "recipe", 8)]
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_other_traces_in_the_folder_of_a_study_are_refused(work, traces, tmp_path):
    context = RunContext(fetch=lambda name: tmp_path / name)
    run(STUDY, traces, tmp_path / "out", context)
    traces[0].write_text("{ }")
    with pytest.raises(ConfigError, match="another recipe or other traces"):
        run(STUDY, traces, tmp_path / "out", context)


def test_a_study_in_several_processes_is_refused(work, traces, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, and 2 were started"):
        run(STUDY, traces, tmp_path / "out")
    assert work.done == []
