"""Traces as ids: every seam where DESIGN has it, hints by the stated rule."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edgereason.core.bundle import Base
from edgereason.core.types import Message
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.train.data.traces import TraceRow
from edgereason.train.lora.examples import (
    Encoder,
    Example,
    ExamplesFile,
    ExamplesOrigin,
    Fitting,
    HintConfig,
    read_examples,
    write_examples,
)

ALWAYS = HintConfig(buckets=(64, 128), share=1.0)
BASE = Base(name="b", sha256="ab" * 32, arch="scripted", hidden_size=16, num_layers=2, vocab_sha256="cd" * 32)


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
    kept = Fitting.of([long, short, long], 5)
    assert ([*kept], kept.num_too_long, kept.response_tokens.tolist()) == ([short], 2, [2])


def test_the_hash_of_examples_is_that_of_their_json(encoder):
    """Folders of runs that were begun earlier hold it."""
    examples = [encoder.encode(trace("a"), ALWAYS), encoder.encode(trace("ü\u2028"), HintConfig())]
    whole = json.dumps([(one.id, one.prompt, one.response) for one in examples])
    kept = Fitting.of(examples, 1000)
    assert kept.sha256 == hashlib.sha256(whole.encode()).hexdigest()
    assert (kept.buckets, kept.num_hinted) == ((64,), 1)
    assert Fitting.of([], 5).sha256 == hashlib.sha256(b"[]").hexdigest()


def test_ids_are_read_as_they_were_written(encoder, tmp_path):
    examples = [encoder.encode(trace("a"), ALWAYS), encoder.encode(trace("b"), HintConfig())]
    origin = ExamplesOrigin.of(BASE, encoder.seams.opening, examples)
    write_examples(tmp_path / "examples.jsonl", origin, examples)
    assert read_examples(tmp_path / "examples.jsonl") == ExamplesFile("examples.jsonl", examples, origin)
    assert (origin.base_sha256, origin.vocab_sha256, origin.buckets) == ("ab" * 32, "cd" * 32, (64,))
    (tmp_path / "kept.jsonl.gz").write_bytes(gzip.compress((tmp_path / "examples.jsonl").read_bytes()))
    assert read_examples(tmp_path / "kept.jsonl.gz").examples == examples


@pytest.mark.parametrize(
    "line",
    [
        "no",
        "[1]",
        '{"id": "a"}',
        '{"prompt": [1], "response": ["x"]}',
        '{"id": "a", "prompt": [1], "response": [1], "num_forced": 2}',
        '{"format": "edgereason-examples"}',
        '{"format": "edgereason-traces", "base_sha256": "ab"}',
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path, line):
    (tmp_path / "examples.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"examples\.jsonl, line 1"):
        read_examples(tmp_path / "examples.jsonl")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl can't be read as examples"):
        read_examples(tmp_path / "nowhere.jsonl")


def both(encoder, **changed):
    """A file of two examples, for both of the buckets, and what else is said of it."""
    examples = [encoder.encode(trace("a"), ALWAYS), encoder.encode(trace("b", "2 + 2." * 9), ALWAYS)]
    assert [one.bucket for one in examples] == [64, 128]
    origin = replace(ExamplesOrigin.of(BASE, encoder.seams.opening, examples), **changed)
    return ExamplesFile("e.jsonl", examples, origin)


def test_examples_that_were_made_for_the_recipe_are_taken(encoder):
    both(encoder).require(encoder, BASE, ALWAYS)
    old = replace(both(encoder), origin=None)
    old.require(encoder, BASE, ALWAYS)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"base_sha256": "00" * 32}, rf"the base with SHA-256 {'00' * 32}.*this one has {'ab' * 32}"),
        ({"vocab_sha256": "11" * 32}, rf"the vocabulary with SHA-256 {'11' * 32}.*this one has {'cd' * 32}"),
        ({"opening": (1, 2)}, r"the opening \[1, 2\].*this one has \[60, 116, "),
        ({"buckets": (64, 128, 256)}, r"the buckets \[64, 128, 256\].*has \[64, 128\]"),
    ],
)
def test_examples_of_something_else_are_refused_and_both_values_are_named(encoder, changed, says):
    with pytest.raises(ConfigError, match=rf"e\.jsonl was made for {says}"):
        both(encoder, **changed).require(encoder, BASE, ALWAYS)


@pytest.mark.parametrize(
    ("buckets", "says"),
    [
        ((64,), r"example 'b' announces a budget of 128 tokens.*\[hints\] buckets \[64\]"),
        ((), r"example 'a' announces a budget of 64 tokens.*\[hints\] buckets \[\]"),
        ((64, 128, 256), r"no example announces the \[hints\] buckets \[256\].*has \[64, 128\]"),
    ],
)
def test_buckets_that_a_file_without_an_origin_contradicts_are_refused(encoder, buckets, says):
    with pytest.raises(ConfigError, match=rf"e\.jsonl: {says}"):
        replace(both(encoder), origin=None).require(encoder, BASE, HintConfig(buckets=buckets))


def broken(name, example, encoder):
    opening, hint = encoder.seams.opening, encoder.seams.hint(64)
    trained = example.response[example.num_forced :]
    return {
        "an id that the vocabulary lacks": replace(example, response=(*example.response, 300)),
        "a negative id": replace(example, prompt=(*example.prompt, -1)),
        "another budget's hint": replace(example, bucket=128),
        "no hint": replace(example, response=opening + trained, num_forced=len(opening)),
        "a hint without its bucket": replace(example, bucket=None),
        "no opening": replace(example, response=hint + trained, num_forced=len(hint)),
        "a hint that is trained": replace(example, num_forced=len(opening)),
        "part of the prompt behind the seam": replace(
            example, response=(10, *example.response), num_forced=example.num_forced + 1
        ),
    }[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("an id that the vocabulary lacks", "token 300, and the vocabulary has 0 to 257"),
        ("a negative id", "token -1, and the vocabulary has 0 to 257"),
        ("another budget's hint", "a budget of 128 tokens"),
        ("no hint", "a budget of 64 tokens"),
        ("a hint without its bucket", "no budget"),
        ("no opening", "a budget of 64 tokens"),
        ("a hint that is trained", "a budget of 64 tokens"),
        ("part of the prompt behind the seam", "a budget of 64 tokens"),
    ],
)
def test_ids_that_the_encoder_would_not_give_are_refused(encoder, name, says):
    file = replace(both(encoder), origin=None)
    file.examples[0] = broken(name, file.examples[0], encoder)
    with pytest.raises(ConfigError, match=f"e.jsonl: example 'a'.*{says}"):
        file.require(encoder, BASE, ALWAYS)


def test_an_example_that_is_all_response_needs_the_opening_and_hint_behind_its_prompt(encoder):
    """As `tools/study/unmasked.py` writes them, with the adapter on in the prompt too."""
    file = both(encoder)
    for n, one in enumerate(file.examples):
        whole = one.prompt + one.response
        num_forced = len(one.prompt) + one.num_forced
        file.examples[n] = replace(one, prompt=(), response=whole, num_forced=num_forced)
    file.require(encoder, BASE, ALWAYS)
    file.examples[0] = replace(file.examples[0], num_forced=file.examples[0].num_forced - 1)
    with pytest.raises(ConfigError, match="example 'a'"):
        file.require(encoder, BASE, ALWAYS)


def test_the_examples_under_results_can_still_be_read():
    path = Path(__file__).parents[3] / "results" / "budget" / "shortest" / "examples.jsonl.gz"
    file = read_examples(path)
    assert file.origin is None
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [json.loads(json.dumps(asdict(one))) for one in file.examples] == [
        row | {"computed": []} for row in rows
    ]
    assert Counter(one.bucket for one in file.examples) == {64: 64, 128: 80}
    # Its opening and hints, as Qwen's vocabulary writes them.
    forced = {one.bucket: one.response[: one.num_forced] for one in file.examples}
    assert forced == {
        64: (13708, 766, 397, 62901, 25, 220, 21, 19, 11211, 624),
        128: (13708, 766, 397, 62901, 25, 220, 16, 17, 23, 11211, 624),
    }
