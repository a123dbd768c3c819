"""Windows by hand, perplexities of known distributions, and a real model's by one token at a time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgereason.data.rows import read_text
from edgereason.engine.base import ModelInfo
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.evals.likelihood.ppl import Window, perplexity, text_tokens, windows

TEXT = "Robert Boulter is an English film, television and theatre actor. He had a guest starring role on the"


def test_overlapping_windows_score_each_token_once_but_the_first() -> None:
    assert list(windows(9, window_tokens=4, stride_tokens=2)) == [
        Window(0, 1, 4),
        Window(2, 4, 6),
        Window(4, 6, 8),
        Window(6, 8, 9),
    ]


def test_windows_side_by_side_leave_out_the_first_token_of_each() -> None:
    # Token 8 is alone in its window, where nothing precedes it.
    assert list(windows(9, window_tokens=4, stride_tokens=4)) == [Window(0, 1, 4), Window(4, 5, 8)]


def test_a_short_text_is_one_window() -> None:
    assert list(windows(3, window_tokens=4, stride_tokens=1)) == [Window(0, 1, 3)]


@pytest.mark.parametrize("stride", range(1, 8))
def test_every_token_is_scored_once_but_those_that_nothing_precedes(stride: int) -> None:
    for num_tokens in range(1, 40):
        scored = []
        for begin, start, end in windows(num_tokens, window_tokens=7, stride_tokens=stride):
            assert begin < start < end <= begin + 7
            scored += range(start, end)
        first = {n for n in range(num_tokens) if stride == 7 and n % 7 == 0} | {0}
        assert scored == [n for n in range(num_tokens) if n not in first]


@pytest.mark.parametrize("stride", [3, 8])
def test_a_uniform_distribution_is_as_perplexing_as_its_vocabulary(stride: int) -> None:
    engine = ScriptedEngine()
    result = perplexity(engine, engine.tokenize(TEXT), window_tokens=8, stride_tokens=stride)
    assert result is not None
    assert result.ppl == pytest.approx(258, rel=1e-9)
    assert result.ppl_ci95 == pytest.approx((258, 258), rel=1e-6)
    assert (engine.live_sequences, engine.used_cells) == (0, 0)


def test_perplexity_is_exp_of_the_mean_with_an_interval_by_window() -> None:
    # GIVEN b behind a with 1/2 and a behind b with 1/8, in windows "ab" and "ba" of one scored token each
    logits = np.full((258, 258), np.log(0.5 / 257), np.float32)
    logits[ord("a"), ord("b")] = np.log(0.5)
    logits[ord("b")] = np.log(0.875 / 257)
    logits[ord("b"), ord("a")] = np.log(0.125)
    engine = ScriptedEngine(bigram=logits)
    result = perplexity(engine, engine.tokenize("abba"), window_tokens=2)
    # THEN ln ppl = (ln 2 + ln 8) / 2 = ln 4; SE² = 2 / 1 · 2 (ln 2)² / 2², so SE = ln 2
    assert result is not None
    assert result.ppl == pytest.approx(4, rel=1e-6)
    assert result.nll_mean == pytest.approx(np.log(4), rel=1e-6)
    assert result.ppl_ci95 == pytest.approx((4 / 2**1.959964, 4 * 2**1.959964), rel=1e-5)
    assert (result.num_tokens, result.text_tokens, result.num_windows) == (2, 4, 2)
    assert (result.window_tokens, result.stride_tokens) == (2, 2)
    # AND one window says nothing about others; its tokens are b (1/2), b (0.5 and 0.875 of 257), a (1/8)
    whole = perplexity(engine, engine.tokenize("abba"))
    assert whole is not None
    assert whole.nll_mean == pytest.approx(-np.log(0.5 * 0.875 / 257 * 0.125) / 3, rel=1e-6)
    assert (whole.ppl_ci95, whole.num_tokens) == (None, 3)


def test_only_what_a_window_adds_is_scored_and_the_rest_is_encoded_before() -> None:
    engine = ScriptedEngine()
    perplexity(engine, engine.tokenize("123456"), window_tokens=4, stride_tokens=2)
    assert engine.decoded == [1, 3, 2, 2]  # 1│234, then 34│56


class WithBos(ScriptedEngine):
    @property
    def info(self) -> ModelInfo:
        return replace(super().info, bos_text="<|im_start|>", add_bos=True)


def test_the_token_that_begins_a_text_stands_once_before_it_where_the_model_wants_it() -> None:
    assert text_tokens(WithBos(), "ab") == [257, 97, 98]
    assert text_tokens(ScriptedEngine(), "ab") == [97, 98]


def test_progress_is_told_and_a_run_can_be_stopped_between_windows() -> None:
    engine, shares = ScriptedEngine(), []
    perplexity(engine, [1] * 8, window_tokens=2, on_progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert perplexity(engine, [1] * 8, window_tokens=2, should_stop=lambda: True) is None


def test_windows_strides_and_texts_out_of_range_are_refused() -> None:
    engine = ScriptedEngine(train_context_tokens=100)
    for window, stride in ((1, 1), (4, 0), (4, 5)):
        with pytest.raises(ConfigError, match=f"windows of {window} tokens, {stride} apart"):
            perplexity(engine, [1] * 8, window_tokens=window, stride_tokens=stride)
    with pytest.raises(ConfigError, match="has 1 tokens"):
        perplexity(engine, [1])
    with pytest.raises(ContextOverflow, match="a window needs 200 tokens"):
        perplexity(engine, [1] * 200)


def test_a_text_is_read_as_it_stands_or_joined_from_rows(tmp_path: Path) -> None:
    raw = tmp_path / "wiki.raw"
    raw.write_bytes(" = Title = \r\n\n né".encode())
    assert read_text(raw).text == " = Title = \r\n\n né"
    assert read_text(raw).sha256 == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert read_text(raw).name == "wiki.raw"
    lines = tmp_path / "wiki.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("One.\n", "\n", " Two.")))
    assert read_text(lines).text == "One.\n\n Two."
    lines.write_text('{"text": "One."}\n{"body": "Two."}\n')
    with pytest.raises(ConfigError, match=r"wiki.jsonl, line 2: text is missing"):
        read_text(lines)
    raw.write_bytes(b"ab\xff")
    with pytest.raises(ConfigError, match=r"wiki.raw is not UTF-8 at byte 3"):
        read_text(raw)
    raw.write_bytes(b"")
    with pytest.raises(ConfigError, match="empty"):
        read_text(raw)
    with pytest.raises(ConfigError, match="can't be read"):
        read_text(tmp_path / "missing.txt")


@pytest.mark.model
def test_a_real_models_perplexity_is_exp_of_the_mean_by_one_token_at_a_time(engine: LlamaEngine) -> None:
    tokens = text_tokens(engine, TEXT)
    result = perplexity(engine, tokens, window_tokens=8)
    sliding = perplexity(engine, tokens, window_tokens=8, stride_tokens=4)
    nll = []
    with engine.reserve(cells=64, sequences=2):
        for begin in range(0, len(tokens), 8):
            sequence = engine.new_sequence()
            for i, token in enumerate(tokens[begin : begin + 8]):
                if i:
                    logits = engine.logits(sequence).astype(np.float64)
                    nll.append(np.logaddexp.reduce(logits) - logits[token])
                engine.encode(sequence, [token])
            engine.release(sequence)
    assert result is not None and sliding is not None
    assert result.num_tokens == len(nll)
    assert result.nll_mean == pytest.approx(np.mean(nll), abs=1e-3)
    assert sliding.ppl < result.ppl  # more context, less perplexed
    assert sliding.num_tokens == len(tokens) - 1
