"""A recipe from a base to a card on six layers of a real model: every entrance, in earnest but short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import recipe_of

from edgereason.bundles.verify import CheckOutcome, verify
from edgereason.core.bundle import Bundle
from edgereason.errors import ConfigError
from edgereason.recipe.run import Choice, make
from edgereason.records.context import RunContext

RECIPE = """
name = "six-layers-sums"
model = "{model}"
[data.sums]
generate = "worked-sums:6:3"
[traces.sums]
data = "sums"
format = "worked"
[sft]
traces = ["sums"]
[sft.hints]
buckets = [64]
[sft.training]
batch_rows = 2
micro_rows = 2
[evaluation.think.eval]
task = "gym:chain_sum"
mode = "think"
budget = 40
temperature = 0.0
limit = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe")


def test_a_recipe_makes_a_bundle_whose_base_is_found_and_whose_card_has_its_figures(
    folder: Path, shallow: Path
) -> None:
    recipe = recipe_of(RECIPE.format(model=shallow), folder)
    titles: list[str] = []
    context = RunContext(progress=lambda stage, *_: titles.append(stage), threads=1)
    record = make(recipe, folder / "out", context)
    assert record is not None
    stages = record["stages"]
    assert [*stages] == [
        *("data/sums", "asked/think", "base", "traces/sums", "sft", "bundle", "evaluation/think", "card"),
    ]
    assert {one["standing"] for one in stages.values()} == {"finished"}
    made = Bundle.read(folder / "out" / "six-layers-sums")
    assert made.title == "six-layers-sums"
    assert made.adapter_sha256 == stages["sft"]["products"]["bundle/reasoning.gguf"]
    assert [result.what for result in made.results] == ["gym:chain_sum, think, 40 tokens"]
    assert {check.outcome for check in verify(made.folder)} == {CheckOutcome.OK}
    assert "5 of 8, sft, training" in titles
    text = (folder / "out" / "record.json").read_text()
    assert str(folder) not in text
    assert str(shallow.parent) not in text

    # The same again does nothing.
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "stages").rglob("*.json")}
    assert make(recipe, folder / "out", context) is not None
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "stages").rglob("*.json")} == before

    # Another rate makes the adapter stale, and what came of it; the traces stay.
    other = recipe_of(RECIPE.format(model=shallow), folder, ["sft.learning_rate=0.001"])
    with pytest.raises(
        ConfigError, match=r"stale are sft \(config.training.learning_rate: 0.0002 there, 0.001"
    ):
        make(other, folder / "out", context)
    redone = make(other, folder / "out", context, choice=Choice(redo=True))
    assert redone is not None
    assert redone["stages"]["traces/sums"]["made"] == stages["traces/sums"]["made"]
    assert redone["stages"]["sft"]["products"] != stages["sft"]["products"]
    kept = json.loads((folder / "out" / "earlier" / "sft-1.json").read_text())
    assert kept["products"] == stages["sft"]["products"]
