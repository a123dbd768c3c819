"""From labelled prompts to a switcher: what is read, split, left out, kept, and what comes of bad prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from told import Told

from edgereason.core.bundle import file_sha256
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.heads.features import FeaturePart
from edgereason.heads.file import Storage, read_heads
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.journal import SAMPLES
from edgereason.train.heads.mlp import MlpConfig
from edgereason.train.heads.prompt_states import read_prompts
from edgereason.train.heads.switcher import SwitcherConfig, train_switcher

CONFIG = SwitcherConfig(
    mlp=MlpConfig(max_epochs=30, restarts=2, learning_rate=1e-2), weight_decays=(0.1,), held_out_share=0.2
)


def prompts(num: int, seed: int = 0) -> list[dict]:
    """Easy ones in letters, hard ones in digits; two sources of each."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(num):
        label = n % 2
        alphabet = list("0123456789+=" if label else "abcdefghij ")
        text = "".join(rng.choice(alphabet, size=40))
        rows.append({"id": f"p{seed}-{n}", "prompt": text, "label": label, "source": f"s{n % 4}"})
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", prompts(80))


def train(folder: Path, *paths: Path, tests: tuple[Path, ...] = (), engine=None, config=CONFIG, **more):
    with Model(engine or ScriptedEngine()) as model:
        learned, judged = ([read_prompts(path) for path in some] for some in (paths, tests))
        return train_switcher(folder, config, learned, judged, model=model, **more)


def test_it_tells_prompts_apart_that_it_has_not_seen_and_the_record_says_so(
    asked: Path, tmp_path: Path
) -> None:
    test = write(tmp_path / "test.jsonl", prompts(40, seed=1))
    record = train(
        tmp_path / "run", asked, tests=(test,), context=RunContext(command=("edgereason", "train", "heads"))
    )
    assert record == json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["splits"] == {"train": 64, "held_out": 16}
    for name, num in (("validation", 64), ("held_out", 16), ("test.jsonl", 40)):
        figures = record["reliability"][name]
        assert figures["n"] == num
        # of sources left out, logits of two heads are pooled
        assert figures["auroc"] > 0.99 if name == "validation" else figures["auroc"] == 1.0
        assert figures["ece"] < 0.3
        assert set(figures["by_source"]) == {"s0", "s1", "s2", "s3"}
    assert record["prompts"][0]["sha256"] == file_sha256(asked)
    assert record["heads"]["sha256"] == file_sha256(tmp_path / "run" / "heads.safetensors")
    assert record["command"] == ["edgereason", "train", "heads"]
    assert str(tmp_path) not in json.dumps(record)


def test_features_and_epochs_are_chosen_by_sources_left_out_and_the_record_says_how(
    asked: Path, tmp_path: Path
) -> None:
    told, config = Told(), replace(CONFIG, weight_decays=(0.1, 3.0))
    record = train(tmp_path / "run", asked, config=config, context=RunContext(progress=told))
    yardstick, fit = record["yardstick"], record["fit"]
    assert yardstick["left_out"] == [["s0", "s1"], ["s2", "s3"]]
    tried = yardstick["candidates"]
    assert [(one["parts"], one["weight_decay"]) for one in tried[:3]] == [
        (["average"], 0.1), (["last"], 0.1), (["average", "last"], 0.1)
    ]  # fmt: skip
    assert (tried[3]["parts"], tried[3]["weight_decay"]) == (fit["features"]["parts"], 3.0)
    assert [one for one in told if one[0] == "candidates"][-1] == ("candidates", 4, 4, "")
    worths = [one["mean_auroc"] + one["worst_auroc"] for one in tried]
    best = tried[worths.index(max(worths))]
    assert (best["parts"], best["weight_decay"]) == (fit["features"]["parts"], fit["weight_decay"])
    assert (best["epochs"], best["aurocs"]) == (fit["epochs"], yardstick["aurocs"])
    # every prompt of this engine ends alike, so that its last token says nothing
    assert tried[1]["mean_auroc"] == 0.5
    switcher = read_heads(tmp_path / "run" / "heads.safetensors").switcher
    assert switcher is not None
    assert switcher.features.to_json() == fit["features"]
    # the template begins every prompt with <|im_start|> and "user\n", which no feature has
    assert switcher.features.skipped_tokens == 6


def test_candidates_can_be_named_and_compared_without_reading_a_prompt_again(
    asked: Path, tmp_path: Path
) -> None:
    deep = {"engine": ScriptedEngine(num_layers=12)}
    record = train(tmp_path / "run", asked, **deep)
    tried = {(one["layer"], *one["parts"]) for one in record["yardstick"]["candidates"]}
    assert {layer for layer, *_ in tried} == {-7, -5, -3, -2}
    assert len(tried) == 12
    engine = ScriptedEngine(num_layers=12)
    config = replace(CONFIG, layers=(-7,), parts=((FeaturePart.AVERAGE,),))
    record = train(tmp_path / "run", asked, engine=engine, config=config)
    assert engine.decoded == []
    assert (record["fit"]["features"]["layer"], len(record["yardstick"]["candidates"])) == (-7, 1)
    switcher = read_heads(tmp_path / "run" / "heads.safetensors").switcher
    # at run time the engine is asked for that layer, and says what it said in training
    states = np.fromfile(tmp_path / "run" / "states.f32", "<f4").reshape(-1, 4 * 2 * 16)
    rows = [json.loads(line) for line in (tmp_path / "run" / SAMPLES).read_text().splitlines()]
    place = next(n for n, row in enumerate(rows) if row["id"] == "p0-3")
    with Model(ScriptedEngine(num_layers=12), switcher=switcher) as model:
        p_think = model.ask(prompts(4)[3]["prompt"], mode="auto", budget=100).p_think
    assert p_think == pytest.approx(float(switcher.p_think(states[place, :16][None])[0]), abs=1e-6)


def test_prompts_about_one_passage_are_not_learned_from_and_held_out(tmp_path: Path) -> None:
    passage = "the cat sat on the old brown mat near the open kitchen door all day {}"
    rows = prompts(80) + [
        {"id": f"s{n}", "prompt": f"{passage.format(n // 5)}: {n}?", "label": 0, "source": "s0"}
        for n in range(15)
    ]
    record = train(tmp_path / "run", write(tmp_path / "prompts.jsonl", rows))
    # s0 has 35 rows: of the 7 that a fifth comes to, none can be of a passage that 15 have in common
    assert record["reliability"]["held_out"]["by_source"]["s0"]["n"] == 7
    assert record["reliability"]["train"]["by_source"]["s0"]["n"] == 28


def test_a_question_and_what_was_made_of_it_stand_on_one_side_and_leave_a_fold_together(
    asked: Path, tmp_path: Path
) -> None:
    hard = [" ".join(f"w{n}x{place}" for place in range(16)) for n in range(20)]
    more = [
        {"id": f"{n}{made}", "prompt": text + made, "label": 1, "source": "s5" + made}
        for n, text in enumerate(hard)
        for made in ("", "+text")
    ]
    record = train(tmp_path / "run", asked, write(tmp_path / "more.jsonl", more))
    # s5 is one family: of the easy sources, of which there are two, s0 comes again
    assert record["yardstick"]["left_out"] == [["s0", "s1"], ["s2", "s3"], ["s0", "s5"]]
    # a fifth of its 40 prompts is held out, four questions in both of their forms
    assert record["reliability"]["held_out"]["by_source"]["s5"]["n"] == 4
    assert record["reliability"]["held_out"]["by_source"]["s5+text"]["n"] == 4
    by_file = [record["reliability"][f"held_out of {name}.jsonl"] for name in ("prompts", "more")]
    assert [one["n"] for one in by_file] == [16, 8]
    assert by_file[0]["auroc"] > 0.95
    assert by_file[0]["auroc_standard_error"] < 0.1
    assert by_file[1]["auroc"] is by_file[1]["auroc_standard_error"] is None


def test_at_run_time_the_same_prompt_gets_the_probability_that_training_gave_it(
    asked: Path, tmp_path: Path
) -> None:
    record = train(tmp_path / "run", asked)
    switcher = read_heads(tmp_path / "run" / "heads.safetensors").switcher
    assert switcher is not None
    columns = {("average",): slice(0, 16), ("last",): slice(16, 32), ("average", "last"): slice(0, 32)}
    states = np.fromfile(tmp_path / "run" / "states.f32", "<f4").reshape(-1, 2 * 16)
    states = states[:, columns[switcher.features.parts]]
    rows = [json.loads(line) for line in (tmp_path / "run" / SAMPLES).read_text().splitlines()]
    place = next(n for n, row in enumerate(rows) if row["id"] == "p0-3")
    with Model(ScriptedEngine(), switcher=switcher) as model:
        easy, hard = (model.ask(prompts(4)[n]["prompt"], mode="auto", budget=100) for n in (2, 3))
    assert hard.p_think == pytest.approx(float(switcher.p_think(states[place][None])[0]), abs=1e-6)
    assert (easy.route, hard.route) == ("chat", "think")
    assert record["threshold"] == 0.5


def test_a_stopped_run_goes_on_behind_what_is_written_and_reads_no_prompt_twice(
    asked: Path, tmp_path: Path
) -> None:
    folder, told = tmp_path / "run", Told()
    assert train(folder, asked, context=told.stopping_after(30)) is None
    written = (folder / SAMPLES).read_text()
    assert written.count("\n") == 30
    engine = ScriptedEngine()
    record = train(folder, asked, engine=engine)
    assert len(engine.decoded) == 1 + 50  # what all prompts begin with, and the prompts that are missing
    assert (folder / SAMPLES).read_text().startswith(written)
    # the same head as without a stop
    assert record["heads"] == train(tmp_path / "whole", asked)["heads"]
    # all features are there: trained again, to another head, without the engine
    engine = ScriptedEngine()
    again = train(folder, asked, engine=engine, config=replace(CONFIG, mlp=replace(CONFIG.mlp, seed=9)))
    assert engine.decoded == []
    assert again["heads"]["sha256"] != record["heads"]["sha256"]


def test_in_8_bits_what_is_judged_is_what_is_stored(asked: Path, tmp_path: Path) -> None:
    record = train(tmp_path / "run", asked, storage=Storage.INT8)
    assert record["heads"]["storage"] == "int8"
    assert record["reliability"]["held_out"]["auroc"] == 1.0
    assert read_heads(tmp_path / "run" / "heads.safetensors").storage is Storage.INT8


def test_a_prompt_of_a_test_file_is_not_learned_from_nor_one_twice_nor_one_too_long(tmp_path: Path) -> None:
    rows = prompts(80)
    test = write(tmp_path / "test.jsonl", [*rows[:6], {"prompt": "no " * 300, "label": 1}])
    more = [rows[7], {**rows[8], "prompt": "so " * 300}]
    record = train(
        tmp_path / "run",
        write(tmp_path / "prompts.jsonl", rows),
        write(tmp_path / "more.jsonl", more),
        tests=(test,),
        engine=ScriptedEngine(train_context_tokens=200),
    )
    counts = {"prompts": 82, "in_tests": 6, "duplicates": 1, "too_long": 1, "test_too_long": 1}
    assert record["counts"] == counts
    assert sum(record["splits"].values()) == 74


def test_a_conversation_may_stand_in_place_of_a_prompt(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    path = write(tmp_path / "talks.jsonl", [{"messages": said, "label": 1}, {"prompt": "Why?", "label": 0}])
    talk, plain = read_prompts(path).prompts
    assert [message.role for message in talk.messages] == ["system", "user"]
    assert (talk.question, plain.question, talk.label, plain.source) == ("Why?", "Why?", True, "talks.jsonl")
    assert talk.sha256 != plain.sha256


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "Why?"}, r"bad\.jsonl, line 1: label is missing"),
        ({"prompt": "Why?", "label": None}, r"line 1: label is null"),
        ({"prompt": "Why?", "label": "hard"}, r"line 1: label is 'hard'; expected 0 .* or 1"),
        ({"prompt": "Why?", "label": 0.5}, r"line 1: label is 0\.5"),
        ({"prompt": " ", "label": 1}, r"line 1: prompt is empty"),
        ({"label": 1}, r"line 1: question is missing"),
        ({"messages": [{"role": "assistant", "content": "Hi"}], "label": 1}, r"line 1: messages end with"),
    ],
)
def test_a_row_without_prompt_or_label_is_named(tmp_path: Path, row: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_prompts(write(tmp_path / "bad.jsonl", [row]))


def test_a_prompt_with_two_labels_is_refused_in_one_file_and_across_files(tmp_path: Path) -> None:
    first, second = prompts(80), [{**prompts(80)[5], "label": 0}]
    with pytest.raises(ConfigError, match=r"b\.jsonl, line 81: label is 0, and 1 at b\.jsonl, line 6"):
        read_prompts(write(tmp_path / "b.jsonl", first + second))
    paths = (write(tmp_path / "a.jsonl", first), write(tmp_path / "b.jsonl", second))
    with pytest.raises(ConfigError, match=r"b\.jsonl, line 1: label is 0, and 1 at a\.jsonl, line 6"):
        train(tmp_path / "run", *paths)


@pytest.mark.parametrize("rows", [[row for row in prompts(40) if row["label"]], prompts(4)])
def test_one_label_only_or_too_few_prompts_are_refused_before_any_is_read(tmp_path: Path, rows: list) -> None:
    engine = ScriptedEngine()
    with pytest.raises(ConfigError, match="a switcher needs both labels"):
        train(tmp_path / "run", write(tmp_path / "few.jsonl", rows), engine=engine)
    assert engine.decoded == []
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_or_two_files_of_one_name_are_refused(asked: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", asked)
    record = tmp_path / "run" / "record.json"
    record.write_text(record.read_text().replace('"base": "scripted"', '"base": "other"'))
    with pytest.raises(ConfigError, match="base: 'other' there, 'scripted' now"):
        train(tmp_path / "run", asked)
    with pytest.raises(ConfigError, match=r"2 files are called prompts\.jsonl"):
        train(tmp_path / "new", asked, tests=(asked,))
