"""The shipped fake keeps the rules that the real engine keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgereason.core.types import Sampling
from edgereason.engine.base import Feed
from edgereason.engine.scripted import END, ScriptedEngine
from edgereason.errors import AdapterCrossing, ContextOverflow, EngineError


def test_a_stream_recites_its_reply_byte_by_byte_and_ends() -> None:
    engine = ScriptedEngine(["né"])
    with engine.reserve(cells=100, sequences=2):
        sequence = engine.new_sequence()
        engine.encode(sequence, engine.tokenize("hi"))
        sampler = engine.sampler(Sampling(), seed=0)
        drawn = [engine.sample(sequence, sampler).token]
        while drawn[-1] != END:
            drawn.append(engine.step([Feed(sequence, drawn[-1:], sampler)])[0].token)
    assert bytes(drawn[:-1]) == "né".encode()


def test_stale_logits_can_not_be_sampled() -> None:
    engine = ScriptedEngine()
    engine.reserve(cells=100, sequences=4)
    first, second = engine.new_sequence(), engine.new_sequence()
    engine.encode(first, [1])
    fork = engine.fork(first)
    engine.sample(fork, engine.sampler(Sampling(), 0))  # a fork shares what may be sampled
    engine.encode(second, [1])
    with pytest.raises(EngineError, match="fresh"):
        engine.sample(first, engine.sampler(Sampling(), 0))


def test_a_full_context_overflows_with_both_numbers() -> None:
    engine = ScriptedEngine(context_tokens=10)
    sequence = engine.new_sequence()
    engine.encode(sequence, [1] * 10)
    with pytest.raises(ContextOverflow) as caught:
        engine.encode(sequence, [1])
    assert (caught.value.needed_tokens, caught.value.available_tokens) == (11, 10)


def test_an_adapter_in_use_can_not_be_unloaded() -> None:
    engine = ScriptedEngine()
    engine.reserve(cells=10, sequences=2)
    adapter = engine.load_adapter(Path("a.gguf"))
    sequence = engine.new_sequence()
    engine.cross(sequence, adapter)
    with pytest.raises(EngineError, match="in use"):
        engine.unload_adapter(adapter)
    with pytest.raises(AdapterCrossing):
        engine.cross(sequence, None)
    engine.release(sequence)
    engine.unload_adapter(adapter)


def bigram(after: dict[int, dict[int, float]]) -> np.ndarray:
    """Logits such that `after[a][b]` is the probability of b behind a, and what is left is the others'."""
    logits = np.zeros((258, 258), np.float32)
    for token, followers in after.items():
        logits[token] = np.log((1 - sum(followers.values())) / (258 - len(followers)))
        for follower, p in followers.items():
            logits[token, follower] = np.log(p)
    return logits


def test_scores_are_the_logarithms_of_the_bigrams_probabilities() -> None:
    engine = ScriptedEngine(bigram=bigram({1: {2: 0.5, 3: 0.25}, 2: {3: 0.8}}))
    engine.reserve(cells=100, sequences=2)
    sequence = engine.new_sequence()
    # 1 has nothing before it; 2 behind 1 has 1/2 and is its likeliest follower; 3 behind 2 has 4/5; 3 behind
    # 3 is one of 258 equals, of which the first, 0, counts as the top.
    (scored,) = engine.score([(sequence, [1, 2, 3, 3])])
    assert np.isnan(scored.logprobs[0])
    assert scored.logprobs[1:] == pytest.approx(np.log([0.5, 0.8, 1 / 258]), abs=1e-6)
    assert scored.is_top.tolist() == [False, True, True, False]
    assert sequence.length == 4
    (more,) = engine.score([(sequence, [0])])  # goes on where the last one ended
    assert (more.logprobs[0], more.is_top[0]) == (pytest.approx(np.log(1 / 258)), True)


def test_forks_of_one_prefix_are_scored_together_by_its_last_token() -> None:
    engine = ScriptedEngine(bigram=bigram({1: {2: 0.5, 3: 0.25}}))
    engine.reserve(cells=100, sequences=4)
    prefix = engine.new_sequence()
    engine.encode(prefix, [9, 1])
    forks = [engine.fork(prefix) for _ in range(2)]
    first, second = engine.score([(forks[0], [2]), (forks[1], [3])])
    assert (first.logprobs[0], second.logprobs[0]) == (
        pytest.approx(np.log(0.5)),
        pytest.approx(np.log(0.25)),
    )
    with pytest.raises(EngineError, match="fresh"):  # the forks' batch made the prefix's logits stale
        engine.score([(prefix, [2])])
    with pytest.raises(EngineError, match="nothing to score"):
        engine.score([(forks[0], [])])


def test_a_saved_sequence_is_put_back_as_it_was_and_obeys_the_same_rules() -> None:
    engine = ScriptedEngine(["ab"], context_tokens=100)
    with engine.reserve(cells=100, sequences=4):
        sequence = engine.new_sequence()
        engine.encode(sequence, [1, 2, 3, 4])
        state = engine.save(sequence)
        engine.trim(sequence, 2)
        assert (engine.tokens(sequence), sequence.length, engine.used_cells) == ([1, 2], 2, 2)
        with pytest.raises(EngineError, match="fresh"):
            engine.sample(sequence, engine.sampler(Sampling(), 0))
        again = engine.new_sequence()
        for bad in (state[:-1], state + b"x", b""):
            with pytest.raises(EngineError, match="not a KV of 4 tokens"):
                engine.restore(again, bad, 4)
        engine.restore(again, state, 4)
        assert (engine.tokens(again), engine.used_cells) == ([1, 2, 3, 4], 6)
        with pytest.raises(EngineError, match="only an empty sequence"):
            engine.restore(again, state, 4)
        engine.cross(again, engine.load_adapter(Path("a.gguf")))
        for refused in (lambda: engine.save(again), lambda: engine.trim(again, 1)):
            with pytest.raises(EngineError, match="the base's"):
                refused()
