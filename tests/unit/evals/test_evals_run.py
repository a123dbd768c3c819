"""Whole evaluations: what is refused, what a folder holds, what makes it reproducible."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from told import Told

from edgereason.core.types import Mode
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, RequestError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.likelihood.ppl import perplexity, text_tokens
from edgereason.evals.record import read_config
from edgereason.evals.run import CutConfig, LoglikConfig, PplConfig, run_loglik, run_ppl, run_sweep, run_task
from edgereason.evals.samples import read_samples
from edgereason.evals.tasks.base import Preset
from edgereason.reasoning.model import Model
from edgereason.reasoning.pipeline import Pipeline
from edgereason.records.context import RunContext
from edgereason.records.journal import SAMPLES

PATHS = RunContext(fetch=Path)
"""Models are named by their paths."""
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


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "code.jsonl"
    row = {
        "id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    return x\n",
        "test": "def check(f):\n    assert f(1) == 1\n",
    }
    path.write_text(json.dumps(row) + "\n")
    return path


def test_code_is_run_only_where_it_is_allowed(code: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run-code"):
        run_task(replace(CONFIG, task="humaneval"), tmp_path / "a", data=code, load_model=never)


def test_a_summary_says_what_held_programs_and_only_where_there_were_any(
    code: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a code task evaluated on a machine that has the kernel's boundary
    monkeypatch.setattr("edgereason.evals.run.boundary", lambda: "landlock+seccomp")
    config = replace(CONFIG, task="humaneval", run_code=True)
    first = run_task(config, tmp_path / "a", data=code, load_model=scripted)
    assert first is not None
    assert first["boundary"] == "landlock+seccomp"
    # THEN another machine that finds every row there does not replace what was in force
    monkeypatch.setattr("edgereason.evals.run.boundary", lambda: "guard")
    assert run_task(config, tmp_path / "a", data=code, load_model=scripted) == first
    # AND a task that runs no code says nothing of it
    assert "boundary" not in (run_task(CONFIG, tmp_path / "b", data=data, load_model=scripted) or {})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": 120}, "budget: 100 there, 120 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"mode": Mode.CHAT}, "mode: 'think' there, 'chat' now"),
        ({"limit": 3}, "limit: None there, 3 now"),
        ({"kv": "q8_0"}, "kv: 'f16' there, 'q8_0' now"),
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
    stopping = Told().stopping_after(3)
    stopped = run_task(CONFIG, tmp_path / "a", stopping, data=data, load_model=scripted)
    assert stopped is None
    assert not (tmp_path / "a" / "summary.json").exists()
    done = run_task(replace(CONFIG, parallel=3), tmp_path / "a", data=data, load_model=scripted)
    assert done is not None
    assert done["n"] == 8


def test_a_finished_run_asked_again_keeps_the_speed_that_was_measured(data: Path, tmp_path: Path) -> None:
    first = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    again = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert again == first


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_disk_that_is_full_keeps_whole_rows_and_the_run_goes_on(
    data: Path, tmp_path: Path, share: float
) -> None:
    first = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    folder = tmp_path / "b"
    run_task(CONFIG, folder, RunContext(should_stop=lambda: True), data=data, load_model=scripted)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    num_bytes = int(share * (tmp_path / "a" / "samples.jsonl").stat().st_size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        with pytest.raises(
            ConfigError, match=r"samples\.jsonl can't be written: File too large.*same command"
        ):
            run_task(CONFIG, folder, data=data, load_model=scripted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = folder / "samples.jsonl"
    assert all(json.loads(line) for line in kept.read_text().splitlines())
    assert not (folder / "summary.json").exists()
    second = run_task(CONFIG, folder, data=data, load_model=scripted)
    assert first is not None
    assert second is not None
    assert second["accuracy"] == first["accuracy"]
    assert len(read_samples(folder)) == len(read_samples(tmp_path / "a"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_finished_run_on_a_disk_that_can_only_be_read_is_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    first = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("edgereason.records.journal.FolderLock", refused)
    monkeypatch.setattr("edgereason.records.folder.write_atomically", refused)
    again = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    assert again == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


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
        run_sweep([tmp_path / "chat"], cut=CutConfig(limits_tokens=(64,)))


def test_two_processes_do_not_write_into_one_folder(data: Path, tmp_path: Path) -> None:
    class Second(Exception):
        pass

    def start_another(*_: object) -> None:
        with pytest.raises(ConfigError, match="another process"):
            run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
        raise Second

    with pytest.raises(Second):
        run_task(CONFIG, tmp_path / "a", RunContext(progress=start_another), data=data, load_model=scripted)
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
    run_task(CONFIG, tmp_path / "a", Told().stopping_after(3), data=data, load_model=scripted)
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
    with pytest.raises(ConfigError, match=r"llama-cpp-python: '0\.0\.\S+' there"):
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
            [tmp_path / "x" / "a", tmp_path / "y" / "a"],
            RunContext(fetch=pytest.fail),
            cut=CutConfig(limits_tokens=(64,), data=data),
        )


def test_a_sweep_over_other_data_or_another_model_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("How many is 0", "How many is zero"))
    with pytest.raises(ConfigError, match="give the same file"):
        run_sweep(
            [tmp_path / "a"], RunContext(fetch=pytest.fail), cut=CutConfig(limits_tokens=(80,), data=other)
        )
    record = tmp_path / "a" / "run.toml"
    record.write_text(record.read_text() + '\n[record.bundle]\nname = "b"\nsha256 = ["00"]\nsize_bytes = 1\n')
    monkeypatch.setattr("edgereason.evals.run.load", lambda *_, **__: Model(ScriptedEngine(REPLIES)))
    with pytest.raises(ConfigError, match="was evaluated with b"):
        run_sweep([tmp_path / "a"], PATHS, cut=CutConfig(limits_tokens=(80,), data=data))


# ── the KV cache's type ──────────────────────────────────────────────────────────────────────────


def test_the_caches_type_reaches_the_engine_and_the_record(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def load(*_: object, **options: object) -> Model:
        asked.append(options["kv"])
        return Model(ScriptedEngine(REPLIES))

    monkeypatch.setattr("edgereason.evals.run.load", load)
    summary = run_task(replace(CONFIG, kv="q8_0"), tmp_path / "a", data=data, context=PATHS)
    assert asked == ["q8_0"]
    assert summary is not None
    assert summary["config"]["kv"] == "q8_0"
    assert read_config(tmp_path / "a" / "run.toml", EvalConfig).kv == "q8_0"
    # A sweep that cuts the run's traces takes the run's own type.
    run_sweep([tmp_path / "a"], PATHS, cut=CutConfig(limits_tokens=(80,), data=data))
    assert asked == ["q8_0", "q8_0"]


@pytest.mark.parametrize("thinks", [True, False])
def test_the_thinking_switch_reaches_the_template_and_the_record(
    data: Path, tmp_path: Path, thinks: bool
) -> None:
    # The template opens thinking unless it is told not to: the same words are then a draft, or the answer.
    opens = "{% if enable_thinking != false %}<think>\n{% endif %}"
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}" + opens

    def load_model(config: EvalConfig, fetch: object) -> Model:
        engine = ScriptedEngine(["It is 7.\n</think>\n\nThe final answer is 1."])
        engine._info = replace(engine.info, chat_template=template)
        return Model(engine)

    asked = EvalConfig(task="gsm8k", model="scripted", mode=Mode.CHAT, enable_thinking=thinks)
    summary = run_task(asked, tmp_path / "a", data=data, load_model=load_model)
    assert summary is not None
    assert summary["config"]["enable_thinking"] is thinks
    assert read_config(tmp_path / "a" / "run.toml", EvalConfig).enable_thinking is thinks
    traces = [trace for sample in read_samples(tmp_path / "a") for trace in sample.traces]
    assert {trace.thinking for trace in traces} == ({"It is 7."} if thinks else {None})
    with pytest.raises(ConfigError, match="enable_thinking"):  # another evaluation
        other = replace(asked, enable_thinking=not thinks)
        run_task(other, tmp_path / "a", data=data, load_model=load_model)


def without(record: Path, *settings: str) -> None:
    """Makes of a record one of a version that did not name these settings."""
    lines = record.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.split(" = ")[0] not in settings]
    assert len(kept) == len(lines) - len(settings)
    record.write_text("".join(kept))


def test_a_folder_that_names_no_type_of_cache_goes_on_with_f16(data: Path, tmp_path: Path) -> None:
    first = run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted)
    without(tmp_path / "a" / "run.toml", "kv")
    assert run_task(CONFIG, tmp_path / "a", data=data, load_model=scripted) == first
    with pytest.raises(ConfigError, match="kv: 'f16' there, 'q8_0' now"):
        run_task(replace(CONFIG, kv="q8_0"), tmp_path / "a", data=data, load_model=scripted)


@pytest.mark.model
def test_a_perplexity_is_measured_with_the_caches_type_that_it_records(tmp_path: Path, smollm2: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 6)
    found = {}
    for kv in ("f16", "q8_0"):
        with LlamaEngine(smollm2, kv=kv) as engine:  # type: ignore[arg-type]
            expected = perplexity(engine, text_tokens(engine, text.read_text()), window_tokens=32)
        record = run_ppl(text, PplConfig(model=str(smollm2), window_tokens=32, kv=kv), PATHS)  # type: ignore[arg-type]
        assert record is not None and expected is not None
        assert (record["kv"], record["nll_mean"]) == (kv, pytest.approx(expected.nll_mean, abs=1e-6))
        found[kv] = record["nll_mean"]
    assert found["f16"] != found["q8_0"]
    assert found["f16"] == pytest.approx(found["q8_0"], abs=0.05)


# ── by likelihood ────────────────────────────────────────────────────────────────────────────────

MMLU = LoglikConfig(task="mmlu", model="scripted")


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    path = tmp_path / "mmlu.jsonl"
    rows = [
        {"id": f"q{n}", "question": f"Which is {n}?", "choices": list("0123"), "answer": n % 4}
        for n in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Replaces the engine of likelihoods; holds the types of cache that were asked for."""
    asked: list[object] = []

    def engine(_: object, *, threads: object, kv: object) -> closing[ScriptedEngine]:
        asked.append(kv)
        return closing(ScriptedEngine())

    monkeypatch.setattr("edgereason.evals.run.LlamaEngine", engine)
    return asked


def test_likelihoods_record_their_orders_examples_and_cache(
    choices: Path, tmp_path: Path, engines: list[object]
) -> None:
    config = replace(MMLU, shots=2, kv="q8_0")
    summary = run_loglik(config, tmp_path / "a", data=choices, context=PATHS)
    assert engines == ["q8_0"]
    assert summary is not None
    assert (summary["n"], summary["letters"]) == (4, {"A": 1.0, "B": 0.0, "C": 0.0, "D": 0.0})
    recorded = read_config(tmp_path / "a" / "run.toml", LoglikConfig)
    assert (recorded.orders, recorded.shots, recorded.kv) == ("cyclic", 2, "q8_0")
    assert summary["config"]["orders"] == "cyclic"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"orders": "given"}, "orders: 'cyclic' there, 'given' now"),
        ({"shots": 1}, "shots: 0 there, 1 now"),
        ({"kv": "q8_0"}, "kv: 'f16' there, 'q8_0' now"),
    ],
)
def test_likelihoods_of_another_kind_are_refused(
    choices: Path, tmp_path: Path, engines: list[object], change: dict[str, object], named: str
) -> None:
    run_loglik(MMLU, tmp_path / "a", data=choices, context=PATHS)
    with pytest.raises(ConfigError, match=named):
        run_loglik(replace(MMLU, **change), tmp_path / "a", data=choices, context=PATHS)  # type: ignore[arg-type]


def test_likelihoods_that_name_no_orders_are_of_the_given_one(
    choices: Path, tmp_path: Path, engines: list[object]
) -> None:
    given = replace(MMLU, orders="given")
    first = run_loglik(given, tmp_path / "a", data=choices, context=PATHS)
    without(tmp_path / "a" / "run.toml", "orders", "shots", "kv")
    assert run_loglik(given, tmp_path / "a", data=choices, context=PATHS) == first
    assert read_config(tmp_path / "a" / "run.toml", LoglikConfig).orders == "given"
    with pytest.raises(ConfigError, match="orders: 'given' there, 'cyclic' now"):
        run_loglik(MMLU, tmp_path / "a", data=choices, context=PATHS)
    # A run file that is not a record has the default.
    (tmp_path / "run.toml").write_text('[eval]\ntask = "mmlu"\nscore = "loglik"\n')
    assert read_config(tmp_path / "run.toml", LoglikConfig).resolved().orders == "cyclic"


def test_texts_without_letters_go_on_where_an_older_version_left_them(
    choices: Path, tmp_path: Path, engines: list[object]
) -> None:
    arc = replace(MMLU, task="arc-easy")
    first = run_loglik(arc, tmp_path / "a", data=choices, context=PATHS)
    assert first is not None
    assert first["letters"] is None
    without(tmp_path / "a" / "run.toml", "shots", "kv")
    assert run_loglik(arc, tmp_path / "a", data=choices, context=PATHS) == first
    again = read_config(tmp_path / "a" / "run.toml", LoglikConfig)
    assert run_loglik(again, tmp_path / "b", data=choices, context=PATHS) is not None
    with pytest.raises(ConfigError, match="shows no options"):
        run_loglik(
            replace(arc, orders="cyclic"), tmp_path / "c", data=choices, context=RunContext(fetch=pytest.fail)
        )


# ── exact results ────────────────────────────────────────────────────────────────────────────────

MISCALCULATES = "3 * 12 = 38\n</think>\n\nThe final answer is 3."


def of_bundle(config: EvalConfig, fetch: object) -> Model:
    """A model whose bundle has a calculator."""
    model = Model(ScriptedEngine([MISCALCULATES]))
    model._pipeline = Pipeline(model.engine, calculator=True)
    return model


def test_a_record_says_whether_results_were_forced_whoever_decided_it(data: Path, tmp_path: Path) -> None:
    for name, asked, said in (("open", None, True), ("on", True, True), ("off", False, False)):
        run_task(replace(CONFIG, calculator=asked), tmp_path / name, data=data, load_model=of_bundle)
        config = read_config(tmp_path / name / "run.toml", EvalConfig)
        assert config.calculator is said
        thoughts = {row.traces[0].thinking for row in read_samples(tmp_path / name)}
        assert thoughts == {"3 * 12 = 36" if said else "3 * 12 = 38"}


def test_a_record_of_before_there_was_a_calculator_is_run_again_without_one(
    data: Path, tmp_path: Path
) -> None:
    run_task(replace(CONFIG, calculator=False), tmp_path / "a", data=data, load_model=of_bundle)
    path = tmp_path / "a" / "run.toml"
    path.write_text(path.read_text().replace("calculator = false\n", ""))
    assert read_config(path, EvalConfig).calculator is False
    # And its folder is gone on with.
    again = run_task(replace(CONFIG, calculator=False), tmp_path / "a", data=data, load_model=of_bundle)
    assert again is not None
    with pytest.raises(ConfigError, match="calculator: False there, True now"):
        run_task(CONFIG, tmp_path / "a", data=data, load_model=of_bundle)


def test_chat_is_evaluated_without_unless_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    chat = replace(CONFIG, mode=Mode.CHAT, budget=None)
    run_task(chat, tmp_path / "a", data=data, load_model=of_bundle)
    assert read_config(tmp_path / "a" / "run.toml", EvalConfig).calculator is False
