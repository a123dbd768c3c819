"""Traces in ids on disk: those of memory, made once, and made again if a kill left them torn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.chat import ChatTemplate
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ConfigError, TrainingError
from edgereason.reasoning.model import describe_base
from edgereason.records.context import RunContext
from edgereason.train.data.parallel import Stopped
from edgereason.train.data.traces import read_traces
from edgereason.train.lora import tokens
from edgereason.train.lora.examples import Encoder, HintConfig
from edgereason.train.lora.tokens import Tokens, tokenize

HINTS = HintConfig(buckets=(64, 128), share=0.5)
ALONE = RunContext(threads=1)


@pytest.fixture(scope="module")
def engine(tiny):
    with LlamaEngine(tiny.base) as engine:
        yield engine


@pytest.fixture
def encoder(engine):
    return Encoder.of(engine)


@pytest.fixture
def base(engine, tiny):
    return describe_base(engine, tiny.base)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def write(path: Path, count: int, **change: object) -> Path:
    rows = [
        {
            "id": f"q{n // 3}",  # three rows with one id
            "messages": [{"role": "user", "content": f"What is {n} × 3, ab?"}],
            "thinking": f"It is {n * 3}." * (1 + n % 4),
            "answer": f"{n * 3}.",
        }
        | change
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_examples_are_those_that_each_trace_gives_by_itself(tmp_path, encoder, base):
    # 1,100 and 5 rows: two batches and a third, of two files
    files = [write(tmp_path / "a.jsonl", 1100), write(tmp_path / "b.jsonl", 5, thinking="So ab.")]
    found = Tokens([tokenize(file, encoder, base, ALONE) for file in files], encoder, HINTS)
    expected = [encoder.encode(one, HINTS) for file in files for one in read_traces(file).traces]
    assert len({one.bucket for one in expected}) == 3
    assert len(found) == len(expected) == 1105
    assert list(found) == expected
    assert [found[n] for n in (0, 1023, 1024, np.int64(1099), 1100, 1104)] == [
        expected[n] for n in (0, 1023, 1024, 1099, 1100, 1104)
    ]
    with pytest.raises(IndexError):
        found[1105]


def test_several_processes_give_the_ids_of_one(tmp_path, encoder, base, cache):
    file = write(tmp_path / "a.jsonl", 2100)
    of_one = tokenize(file, encoder, base, ALONE).path.read_bytes()
    for path in cache.glob("*/about.json"):
        path.unlink()
    assert tokenize(file, encoder, base, RunContext(threads=2)).path.read_bytes() == of_one


def test_they_are_made_once_and_what_was_left_out_is_known_ever_after(tmp_path, encoder, base, monkeypatch):
    file = write(tmp_path / "a.jsonl", 4)
    file.write_text(file.read_text() + 'no JSON\n{"id": "x", "messages": 5}\n' + file.read_text())
    made = tokenize(file, encoder, base)
    monkeypatch.setattr(tokens, "each_row", lambda *_: pytest.fail("made again"))
    assert tokenize(file, encoder, base) == made
    assert made.left_out.counts == {"bad_line": 1, "bad_thinking": 1, "duplicate": 4}
    assert "a.jsonl, line 5: not JSON" in made.left_out.notice("a.jsonl")
    other = replace(base, sha256="00" * 32)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        tokenize(file, encoder, other)


@pytest.mark.parametrize("torn", ["about.json", "traces.arrow", "nothing of about.json"])
def test_what_a_kill_left_torn_is_made_again(tmp_path, encoder, base, cache, torn):
    file = write(tmp_path / "a.jsonl", 4)
    whole = list(Tokens([tokenize(file, encoder, base)], encoder, HINTS))
    (folder,) = cache.iterdir()
    if torn.startswith("nothing"):
        (folder / "about.json").write_text("")
    else:
        (folder / torn).unlink()
    assert list(Tokens([tokenize(file, encoder, base)], encoder, HINTS)) == whole


def test_stopped_it_leaves_nothing_that_could_be_taken_for_whole(tmp_path, encoder, base, cache):
    with pytest.raises(Stopped):
        tokenize(write(tmp_path / "a.jsonl", 4), encoder, base, RunContext(should_stop=lambda: True))
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]


def test_a_conversation_that_the_template_refuses_is_left_out_and_counted(tmp_path, encoder, base):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    encoder = replace(encoder, template=ChatTemplate(source=strict))
    file = write(tmp_path / "a.jsonl", 3)
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    file.write_text(file.read_text() + write(tmp_path / "b.jsonl", 2, messages=told).read_text())
    found = tokenize(file, encoder, base)
    assert (len(Tokens([found], encoder, HINTS)), found.left_out.counts) == (3, {"roles": 2})


def test_a_file_without_a_trace_is_refused_by_its_first_row(tmp_path, encoder, base, cache):
    file = write(tmp_path / "a.jsonl", 3, messages=[])
    with pytest.raises(ConfigError, match=r"^a\.jsonl, line 1: messages is not a conversation"):
        tokenize(file, encoder, base)
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"^b\.jsonl holds no rows"):
        tokenize(tmp_path / "b.jsonl", encoder, base)
    assert not list(cache.rglob("*.arrow"))


def test_a_cache_that_can_not_be_written_is_named_in_one_line(tmp_path, encoder, base, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        TrainingError, match=r"can't be written to .*Not a directory.*: make room, or set EDGE"
    ):
        tokenize(write(tmp_path / "a.jsonl", 3), encoder, base)
