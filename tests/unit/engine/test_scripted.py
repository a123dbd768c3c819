"""The shipped fake keeps the rules that the real engine keeps."""

from __future__ import annotations

from pathlib import Path

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
