"""Whole evaluations: what is refused, what a folder holds, what makes it reproducible."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.journal import SAMPLES
from edgereason.core.types import Mode
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, RequestError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.record import read_config
from edgereason.evals.runs import run_sweep, run_task
from edgereason.evals.samples import read_samples
from edgereason.evals.tasks.base import Preset
from edgereason.reasoning.model import Model

REPLIES = [f"I count {n}.\n</think>\n\nThe final answer is {n}." for n in range(5)]
CONFIG = EvalConfig(task="gsm8k", model="scripted", mode=Mode.THINK, budget=100, streams=3, stop_early=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{n}", "question": f"How many is {n}?", "answer": str(n % 5)} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def scripted(config: EvalConfig, fetch: object) -> Model:
    return Model(ScriptedEngine(REPLIES))


def never(config: EvalConfig, fetch: object) -> Model:
    pytest.fail("a model was loaded")


def test_a_folder_holds_what_makes_the_run_again(data: Path, tmp_path: Path) -> None:
    summary = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    config = read_config(tmp_path / "a" / "run.toml", EvalConfig)
    again = run_task(config, tmp_path / "b", data=data, load_model=scripted)
    assert summary is not None
    assert again is not None
    for key in ("accuracy", "ci95", "mean_tokens", "share_cut", "n", "config", "data"):
        assert again[key] == summary[key], key
    left, right = (read_samples(tmp_path / name) for name in "ab")
    assert [(r.key, r.seed, r.traces) for r in left] == [(r.key, r.seed, r.traces) for r in right]


def test_the_preset_fills_in_what_the_configuration_leaves_open(data: Path, tmp_path: Path) -> None:
    run_task(replace(CONFIG, task="aime24"), tmp_path / "a", data=data, load_model=scripted)
    config = read_config(tmp_path / "a" / "run.toml", EvalConfig)
    assert (config.repeats, config.temperature, config.top_p) == (10, 0.6, 0.95)
    assert len(read_samples(tmp_path / "a")) == 80


def test_greedy_decoding_asks_once_unless_it_is_told_otherwise(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, task="aime24", temperature=0.0)
    run_task(config, tmp_path / "a", data=data, load_model=scripted)
    assert len(read_samples(tmp_path / "a")) == 8


def test_records_hold_no_local_paths(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, model=str(tmp_path / "base.gguf"))
    run_task(config, tmp_path / "a", data=data, load_model=scripted)
    for path in (tmp_path / "a").iterdir():
        assert str(tmp_path) not in path.read_text()


def test_a_broken_row_stops_before_a_model_is_loaded_or_a_folder_made(data: Path, tmp_path: Path) -> None:
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:5], '{"id": "q5", "question": "How many?"}', *lines[6:]]))
    with pytest.raises(ConfigError, match=r"questions\.jsonl, line 6.*answer"):
        run_task(replace(CONFIG, limit=2), tmp_path / "a", data=data, load_model=never)
    assert not (tmp_path / "a").exists()


def test_a_budget_out_of_range_stops_before_a_model_is_loaded(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="minimum is 32"):
        run_task(replace(CONFIG, budget=5), tmp_path / "a", data=data, load_model=never)


def test_code_is_run_only_where_it_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    row = {
        "id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    return x\n",
        "test": "def check(f):\n    assert f(1) == 1\n",
    }
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="--run-code"):
        run_task(replace(CONFIG, task="humaneval"), tmp_path / "a", data=path, load_model=never)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": 120}, "budget: 100 there, 120 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"mode": Mode.CHAT}, "mode: 'think' there, 'chat' now"),
        ({"limit": 3}, "limit: None there, 3 now"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_left_alone(
    data: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(ConfigError, match=named):
        run_task(replace(CONFIG, **change), tmp_path / "a", data=data, load_model=scripted)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_a_folder_evaluated_on_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    data.write_text(data.read_text().replace("How many is 0", "How many is zero"))
    with pytest.raises(ConfigError, match=r"data: \w+ there, \w+ now"):
        run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)


def test_a_folder_that_holds_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.txt"]


def test_a_folder_with_nothing_but_an_earlier_lock_takes_a_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert len(read_samples(tmp_path / "a")) == 8


def test_how_many_run_at_a_time_may_change_between_sittings(data: Path, tmp_path: Path) -> None:
    seen: list[object] = []
    stopped = run_task(
        CONFIG,
        tmp_path / "a",
        data=data,
        load_model=scripted,
        progress=seen.append,
        should_stop=lambda: len(seen) > 3,
    )
    assert stopped is None
    assert not (tmp_path / "a" / "summary.json").exists()
    done = run_task(replace(CONFIG, parallel=3), tmp_path / "a", data=data, load_model=scripted)
    assert done is not None
    assert done["n"] == 8


def test_a_finished_run_asked_again_keeps_the_speed_that_was_measured(data: Path, tmp_path: Path) -> None:
    first = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    again = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert again == first


def test_a_record_kept_compressed_is_read_as_it_was(data: Path, tmp_path: Path) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    rows = read_samples(tmp_path / "a")
    path = tmp_path / "a" / SAMPLES
    (tmp_path / "a" / f"{SAMPLES}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert read_samples(tmp_path / "a") == rows
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert not path.exists()


def test_a_sweep_draws_what_the_rows_hold_and_says_what_they_do_not(data: Path, tmp_path: Path) -> None:
    run_task(CONFIG, tmp_path / "think", data=data, load_model=scripted)
    chat = replace(CONFIG, mode=Mode.CHAT, budget=None, streams=1)
    run_task(chat, tmp_path / "chat", data=data, load_model=scripted)
    record = run_sweep([tmp_path / "think", tmp_path / "chat"])
    assert list(record["votes"]) == ["think"]
    assert record["threshold"] is None
    assert any("p_think" in note for note in record["notes"])
    assert any(note.startswith("no vote curve of chat") for note in record["notes"])
    assert record["runs"]["think"]["data"]["name"] == "questions.jsonl"


def test_budgets_of_runs_that_did_not_think_are_refused(data: Path, tmp_path: Path) -> None:
    chat = replace(CONFIG, mode=Mode.CHAT, budget=None, streams=1)
    run_task(chat, tmp_path / "chat", data=data, load_model=scripted)
    with pytest.raises(ConfigError, match="no run here thinks"):
        run_sweep([tmp_path / "chat"], limits_tokens=(64,))


def test_two_processes_do_not_write_into_one_folder(data: Path, tmp_path: Path) -> None:
    class Second(Exception):
        pass

    def start_another(_: object) -> None:
        with pytest.raises(ConfigError, match="another process"):
            run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
        raise Second

    with pytest.raises(Second):
        run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted, progress=start_another)
    done = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert done is not None
    assert done["n"] == 8


def test_rows_that_two_processes_wrote_are_refused(data: Path, tmp_path: Path) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    path = tmp_path / "a" / SAMPLES
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\n")
    with pytest.raises(ConfigError, match="two rows of"):
        read_samples(tmp_path / "a")


def test_an_unfinished_record_that_was_compressed_is_not_split_in_two(data: Path, tmp_path: Path) -> None:
    seen: list[object] = []
    run_task(
        CONFIG,
        tmp_path / "a",
        data=data,
        load_model=scripted,
        progress=seen.append,
        should_stop=lambda: len(seen) > 3,
    )
    path = tmp_path / "a" / SAMPLES
    kept = gzip.compress(path.read_bytes())
    (tmp_path / "a" / f"{SAMPLES}.gz").write_bytes(kept)
    path.unlink()
    with pytest.raises(ConfigError, match="compressed: unpack it"):
        run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert not path.exists()


def test_an_unfinished_run_goes_on_with_the_versions_that_it_began_with(data: Path, tmp_path: Path) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    record = tmp_path / "a" / "run.toml"
    record.write_text(record.read_text().replace('llama-cpp-python = "', 'llama-cpp-python = "0.'))
    assert run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted) is not None  # finished: only read
    (tmp_path / "a" / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"llama-cpp-python: 0\.0\.\S+ there"):
        run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)


def test_the_same_data_under_another_name_is_the_same_data(data: Path, tmp_path: Path) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    moved = data.rename(tmp_path / "moved.jsonl")
    assert run_task(CONFIG, tmp_path / "a", data=moved, load_model=scripted) is not None


def test_what_a_kill_left_of_a_file_in_the_making_does_not_block_a_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".run.toml.x7f3").write_text("[eval")
    assert run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted) is not None


def test_defaults_stand_in_the_record(data: Path, tmp_path: Path) -> None:
    run_task(replace(CONFIG, budget=None), tmp_path / "a", data=data, load_model=scripted)
    config = read_config(tmp_path / "a" / "run.toml", EvalConfig)
    assert (config.top_k, config.effort, config.score) == (40, "medium", "answer")


def test_a_model_beside_a_bundle_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        EvalConfig(task="gsm8k", model="a", bundle="b")
    assert EvalConfig(task="gsm8k", bundle="b").resolved(Preset()).model is None


def test_sweeps_refuse_runs_of_one_name_before_anything_is_cut(data: Path, tmp_path: Path) -> None:
    for parent in ("x", "y"):
        run_task(CONFIG, tmp_path / parent / "a", data=data, load_model=scripted)
    with pytest.raises(ConfigError, match="two evaluations are called 'a'"):
        run_sweep(
            [tmp_path / "x" / "a", tmp_path / "y" / "a"], limits_tokens=(64,), data=data, fetch=pytest.fail
        )


def test_a_sweep_over_other_data_or_another_model_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("How many is 0", "How many is zero"))
    with pytest.raises(ConfigError, match="give the same file"):
        run_sweep([tmp_path / "a"], limits_tokens=(80,), data=other, fetch=pytest.fail)
    record = tmp_path / "a" / "run.toml"
    record.write_text(record.read_text() + '\n[record.bundle]\nname = "b"\nsha256 = ["00"]\nsize_bytes = 1\n')
    monkeypatch.setattr("edgereason.evals.runs.load", lambda *_, **__: Model(ScriptedEngine(REPLIES)))
    with pytest.raises(ConfigError, match="was evaluated with b"):
        run_sweep([tmp_path / "a"], limits_tokens=(80,), data=data, fetch=Path)
