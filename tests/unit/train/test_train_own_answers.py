"""A model's own answers: what is asked and kept, going on after a stop, and what calibration makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.chat import ChatTemplate
from edgereason.core.types import Message
from edgereason.data.rows import read_file
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, RequestError
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.journal import SAMPLES
from edgereason.train.data.own_answers import OwnAnswersConfig, answer
from edgereason.train.quant.run import read_calibration

CONFIG = OwnAnswersConfig(max_tokens=40, parallel=2)
REPLIES = ["Two.", "Nobody knows how many there are, and nobody ever counted them."]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"Why {n}?"}) + "\n" for n in range(6)))
    return path


def make(folder: Path, asked: Path, config: OwnAnswersConfig = CONFIG, **more):
    with Model(ScriptedEngine(REPLIES)) as model:
        return answer(folder, config, [read_file(asked)], model=model, **more)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]


def test_each_question_is_answered_once_and_cut_answers_are_kept_as_far_as_they_go(
    asked: Path, tmp_path: Path
) -> None:
    record = make(tmp_path / "run", asked, replace(CONFIG, system="Be brief."))
    rows = {row["id"]: row for row in rows_of(tmp_path / "run")}
    assert sorted(rows) == [f"q{n}" for n in range(6)]
    assert all(row["messages"][0] == {"role": "system", "content": "Be brief."} for row in rows.values())
    said = {row["stop"]: row["messages"][-1] for row in rows.values()}
    assert said["natural"] == {"role": "assistant", "content": "Two."}
    assert said["length"] == {"role": "assistant", "content": REPLIES[1][:40].strip()}
    assert record["answers"]["rows"] == sum(record["stops"].values()) == 6


def test_a_stopped_run_goes_on_behind_what_is_written_and_more_questions_join_it(
    asked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    asks = iter(range(1000))
    assert make(folder, asked, context=RunContext(should_stop=lambda: next(asks) > 60)) is None
    before = (folder / SAMPLES).read_text()
    assert 1 <= before.count("\n") < 6
    assert make(folder, asked, limit=5)["answers"]["rows"] == 5
    assert make(folder, asked)["answers"]["rows"] == 6
    assert (folder / SAMPLES).read_text().startswith(before)
    assert len(rows_of(folder)) == 6


def test_two_questions_with_one_id_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text('{"id": "q", "prompt": "Why?"}\n{"id": "q", "prompt": "How?"}\n')
    with pytest.raises(ConfigError, match=r"line 2.*id is 'q', as in a row before"):
        make(tmp_path / "run", path)
    assert not (tmp_path / "run").exists()


def test_other_settings_or_a_folder_of_traces_are_refused(asked: Path, tmp_path: Path) -> None:
    make(tmp_path / "run", asked)
    with pytest.raises(ConfigError, match="max_tokens: 40 there, 41 now"):
        make(tmp_path / "run", asked, replace(CONFIG, max_tokens=41))
    record = tmp_path / "run" / "record.json"
    record.write_text(record.read_text().replace("own-answers", "traces"))
    with pytest.raises(ConfigError, match="holds another set of answers"):
        make(tmp_path / "run", asked)


@pytest.mark.parametrize("bad", [{"parallel": 0}, {"seed": -1}, {"max_tokens": 0}, {"temperature": -1.0}])
def test_a_setting_out_of_range_is_refused_before_anything_is_asked(bad: dict) -> None:
    with pytest.raises((ConfigError, RequestError)):
        replace(CONFIG, **bad)


def test_calibration_reads_a_conversation_as_the_template_has_it_and_ends_only_what_ended(
    tmp_path: Path,
) -> None:
    path = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    rows = [{"messages": talk}, {"messages": talk, "stop": "length"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = ScriptedEngine([""])
    info = engine.info
    template = ChatTemplate(info.chat_template, info.bos_text, info.eos_text, add_bos=info.add_bos)
    prompt = template.encode([Message("user", "Why?")], engine.tokenize)
    said = engine.tokenize("Because.")
    end = engine.tokenize(engine.info.eos_text, special=True)
    (text,) = read_calibration(engine, [path])
    assert end
    assert text.ids.tolist() == [*prompt, *said, *end, *prompt, *said]


@pytest.mark.parametrize(
    "talk",
    [
        [{"role": "user", "content": "Why?"}],
        [{"role": "assistant", "content": "Because."}],
        [{"role": "robot", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
    ],
)
def test_a_conversation_without_a_question_and_its_answer_is_refused(talk: list, tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"messages": talk}) + "\n")
    with pytest.raises(ConfigError, match=r"talks\.jsonl, line 1: messages"):
        read_calibration(ScriptedEngine([""]), [path])
