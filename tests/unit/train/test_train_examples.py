"""Traces as ids: every seam where DESIGN has it, hints by the stated rule."""

from __future__ import annotations

import pytest

from edgereason.core.types import Message
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.train.examples import (
    Encoder,
    Example,
    HintConfig,
    fitting,
    read_examples,
    write_examples,
)
from edgereason.train.traces import TraceRow

ALWAYS = HintConfig(buckets=(64, 128), share=1.0)


def trace(row_id="t1", thinking="2 and 2 make 4.", answer="The final answer is 4."):
    question = Message(role="user", content="2+2?")
    return TraceRow(id=row_id, messages=(question,), thinking=thinking, answer=answer, source="test")


@pytest.fixture(scope="module")
def encoder():
    return Encoder.of(ScriptedEngine())


def text(ids):
    """The scripted engine's tokens are bytes; 256 ends a turn and 257 begins one."""
    return "".join({256: "⏹", 257: "▶"}.get(n) or chr(n) for n in ids)


def test_the_pieces_stand_in_the_order_of_the_seams(encoder):
    example = encoder.encode(trace(), ALWAYS)
    assert text(example.prompt) == "▶user\n2+2?⏹\n▶assistant\n"
    assert text(example.response) == (
        "<think>\nBudget: 64 tokens.\n2 and 2 make 4.\n</think>\n\nThe final answer is 4.⏹"
    )
    forced = "<think>\nBudget: 64 tokens.\n"
    assert example.num_forced == len(forced)
    assert example.trained == (False,) * len(forced) + (True,) * (len(example.response) - len(forced))


def test_without_a_hint_only_the_opening_is_given(encoder):
    example = encoder.encode(trace(), HintConfig())
    assert (example.num_forced, example.bucket) == (len("<think>\n"), None)
    assert text(example.response).startswith("<think>\n2 and 2")


def test_the_bucket_is_the_smallest_that_the_trace_keeps_with_room_to_spare():
    # m = 0.25: 48 is 0.75 · 64, 96 is 0.75 · 128
    found = [ALWAYS.bucket("row", n) for n in (1, 48, 49, 96, 97)]
    assert found == [64, 64, 128, 128, None]


def test_the_length_that_counts_is_thinking_closing_and_answer(encoder):
    # thinking 15 + line break 1 + closing 10 + answer 22 = 48 bytes; the end of the turn is free
    assert encoder.encode(trace(thinking="2 and 2 make 4."), ALWAYS).bucket == 64
    assert encoder.encode(trace(thinking="2 and 2 make 4.."), ALWAYS).bucket == 128


def test_the_share_of_hints_is_kept_and_follows_from_seed_and_id():
    ids = [f"row {n}" for n in range(2000)]
    some = HintConfig(buckets=(64,), share=0.3)
    drawn = [some.bucket(row, 10) for row in ids]
    assert 0.27 < sum(one == 64 for one in drawn) / 2000 < 0.33  # 3 σ of a fair draw
    assert drawn == [some.bucket(row, 10) for row in ids]
    other = HintConfig(buckets=(64,), share=0.3, seed=1)
    assert drawn != [other.bucket(row, 10) for row in ids]
    assert all(HintConfig(buckets=(64,), share=0.0).bucket(row, 10) is None for row in ids)


@pytest.mark.parametrize("wrong", [{"buckets": (64, 32)}, {"buckets": (0,)}, {"share": 1.5}, {"margin": 1.0}])
def test_hints_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        HintConfig(**wrong)


def test_what_is_too_long_is_counted_and_never_cut():
    short, long = (
        Example(id=str(n), prompt=(1,) * n, response=(2, 3), num_forced=1, bucket=None) for n in (3, 4)
    )
    assert fitting([short, long], 5) == ([short], 1)


def test_ids_are_read_as_they_were_written(encoder, tmp_path):
    examples = [encoder.encode(trace("a"), ALWAYS), encoder.encode(trace("b"), HintConfig())]
    write_examples(tmp_path / "examples.jsonl", examples)
    assert read_examples(tmp_path / "examples.jsonl") == examples


@pytest.mark.parametrize("line", ["no", "[1]", '{"id": "a"}', '{"prompt": [1], "response": ["x"]}'])
def test_a_line_that_is_no_example_is_named(tmp_path, line):
    (tmp_path / "examples.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"examples\.jsonl, line 1"):
        read_examples(tmp_path / "examples.jsonl")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl can't be read as examples"):
        read_examples(tmp_path / "nowhere.jsonl")
