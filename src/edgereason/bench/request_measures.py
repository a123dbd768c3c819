"""What a request costs: prefill with features, the switch, parallel streams, cells.

::

    chat     prompt ─ base ─ draw                                  features: the same with the rows tapped
    think    prompt's cells ─ fork ─ adapter on ─ opening ─ draw   shared with the base
             adapter on ─ prompt ─ opening ─ draw                  encoded again, as without shared cells

`encode_s`, `draw_s` and `think_s` time the parts of a first token. Each of the other functions is one measure
and says what it divides by what. Work that does not count, an encoded prompt or a fork, is left out of the
seconds that they return.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens
from typing import Any, Final

from edgereason.bench.lab import SAMPLING, EndlessEngine, Lab, Measured
from edgereason.core.types import Budget, Message, Mode, Request
from edgereason.engine.base import Sequence
from edgereason.engine.handles import CELL_STEP
from edgereason.engine.native import C, complaints
from edgereason.errors import ContextOverflow
from edgereason.heads.features import PENULTIMATE, PromptFeatures
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Routed
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import drive

PREFILL_TOKENS: Final = 1024
SWITCH_PROMPT_TOKENS: Final = 1000
RACE_TOKENS: Final = 128
RACE_QUESTION: Final = (
    "A farmer sells eggs in boxes of 6 and 10. On Saturday she sold 14 small boxes and 9 large ones, on "
    "Sunday half as many small boxes and twice as many large ones. Each egg brings 0.25. How much did she "
    "take in on both days together?"
)
CELLS_PROMPT_TOKENS: Final = 1000
CELLS_STREAMS: Final = 8
CELLS_TRACE_TOKENS: Final = 125

_clock = time.perf_counter


def encode_s(lab: Lab, sequence: Sequence, prompt: Tokens[int], *, with_features: bool) -> float:
    """Seconds to encode a prompt on the base, the switcher's features taken on the way or not."""
    features = PromptFeatures(lab.engine.info.hidden_size)
    start = _clock()
    lab.engine.encode(sequence, prompt, on_states={PENULTIMATE: features.push} if with_features else None)
    return _clock() - start


def draw_s(lab: Lab, sequence: Sequence) -> float:
    """Seconds to draw the token after a sequence."""
    sampler = lab.engine.sampler(SAMPLING, lab.seed)
    start = _clock()
    lab.engine.sample(sequence, sampler)
    seconds = _clock() - start
    sampler.close()
    return seconds


def think_s(lab: Lab, prompt: Tokens[int], prefix: Sequence | None) -> float:
    """Seconds to the first token behind opening and hint, with the adapter on from the opening.

    Args:
        lab: the base must have decoded last, so that turning the adapter on counts.
        prompt: what is asked.
        prefix: the prompt as the base encoded it, to be forked; None to encode it again under the adapter.
    """
    engine, adapter, opening = lab.engine, lab.adapter, lab.opening
    sampler = engine.sampler(SAMPLING, lab.seed)
    start = _clock()
    with lab.sequence(prefix) as sequence:
        engine.cross(sequence, adapter)
        engine.encode(sequence, opening if prefix else [*prompt, *opening])
        engine.sample(sequence, sampler)
        seconds = _clock() - start
    sampler.close()
    return seconds


def prefill(lab: Lab) -> Measured:
    """`prefill_features_ratio`: encoding 1,024 tokens with the switcher's features taken ÷ without."""
    engine, prompt = lab.engine, lab.prompt(PREFILL_TOKENS)

    def case(*, with_features: bool) -> float:
        with lab.sequence() as sequence:
            return encode_s(lab, sequence, prompt, with_features=with_features)

    with engine.reserve(cells=len(prompt), sequences=1):
        samples = lab.interleave(
            {"plain": lambda: case(with_features=False), "features": lambda: case(with_features=True)}
        )
    figures = {
        "prefill_features_ratio": samples.ratio("features", "plain"),
        "prefill_tokens_per_s": len(prompt) / samples.best("plain"),
    }
    return Measured(figures, samples.summary())


def switch(lab: Lab) -> Measured:
    """`switch_speedup_1000`: a 1,000-token prompt encoded again under the adapter ÷ the switch.

    Both end with the first token drawn behind opening and hint. The switch forks the cells that the base
    made; encoding again makes new ones. Before either, the base decodes a token, so that the adapter is off
    and turning it on counts for both.
    """
    engine, opening = lab.engine, lab.opening
    prompt = lab.prompt(SWITCH_PROMPT_TOKENS)
    with (
        engine.reserve(cells=2 * (len(prompt) + len(opening)) + 1, sequences=3),
        lab.sequence() as prefix,
    ):
        engine.encode(prefix, prompt)

        def case(*, again: bool) -> float:
            with lab.sequence(prefix) as chat:
                engine.encode(chat, prompt[:1])
            return think_s(lab, prompt, None if again else prefix)

        samples = lab.interleave({"switch": lambda: case(again=False), "again": lambda: case(again=True)})
    figures = {
        "switch_speedup_1000": samples.ratio("again", "switch"),
        "switch_s": samples.best("switch"),
    }
    return Measured(figures, samples.summary() | {"opening_tokens": len(opening)})


def streams(lab: Lab) -> Measured:
    """`streams4_ratio`: wall of 4 thinking streams ÷ of 1, through the pipeline, each of equal length.

    From the prompt's last token on: opening, forks, every step, the vote. Streams run to the budget, with
    the forced closing and answer prefix in it, and no early stop.
    """
    pipeline = Pipeline(lab.engine)
    lengths: set[int] = set()

    def case(num_streams: int) -> float:
        request = Request(
            messages=(Message("user", RACE_QUESTION),),
            mode=Mode.THINK,
            budget=Budget(limit_tokens=RACE_TOKENS),
            streams=num_streams,
            sampling=SAMPLING,
            seed=lab.seed,
            stop_early=False,
        )
        batch = Batch(lab.engine)
        start = _clock()
        for event in drive(pipeline.run(request, batch), batch):
            if isinstance(event, Routed):
                start = _clock()
            elif isinstance(event, Answered):
                lengths.update(c.trace.num_tokens for c in event.response.candidates)
        return _clock() - start

    case(4)  # grows the context, and loads what votes need
    samples = lab.interleave({"n1": lambda: case(1), "n4": lambda: case(4)})
    return Measured(
        {"streams4_ratio": samples.ratio("n4", "n1")},
        samples.summary() | {"tokens_per_stream": sorted(lengths)},
    )


def cells(lab: Lab) -> Measured:
    """`kv_cells_ratio`: cells of the smallest context that holds prompt, opening and N traces ÷ these.

    Deterministic, so it runs once: in a context of that many cells rounded up to llama.cpp's 256, then in
    one a step smaller, where the engine's own refusal is gone around, so that `llama_decode` must refuse.
    """
    needed = CELLS_PROMPT_TOKENS + len(lab.opening) + CELLS_STREAMS * CELLS_TRACE_TOKENS
    enough = -(-needed // CELL_STEP) * CELL_STEP
    held = _fill(lab, enough, needed)
    lab.advance(0.5)
    refused = _fill(lab, enough - CELL_STEP, needed)
    lab.advance(0.5)
    proven = held["holds"] and refused["reserve_refuses"] and refused["decode_refuses"]
    ratio = held["context_cells"] / needed if proven else None
    return Measured(
        {"kv_cells_ratio": ratio}, {"needed_cells": needed, "held": held, "one_step_smaller": refused}
    )


def _fill(lab: Lab, context_cells: int, needed: int) -> dict[str, Any]:
    """Decodes the whole run in a context of that size, and says who refused, if anybody did."""
    with EndlessEngine(lab.path, threads=lab.threads, context_tokens=context_cells) as engine:
        inner = Lab(engine, lab.path, lab.threads, 1, lab.seed, lab.adapter_path, lab.advance)
        found: dict[str, Any] = {
            "reserve_refuses": False,
            "decode_refuses": False,
            "holds": False,
            "reason": None,
        }
        try:
            engine.reserve(cells=needed, sequences=CELLS_STREAMS + 2).close()
        except ContextOverflow:
            found["reserve_refuses"] = True
        # A promise of one cell only: what is decoded beyond it is between us and llama.cpp.
        with engine.reserve(cells=1, sequences=CELLS_STREAMS + 2), inner.sequence() as prefix:
            engine.encode(prefix, inner.prompt(CELLS_PROMPT_TOKENS))
            with inner.streams(prefix, CELLS_STREAMS) as (batch, _):
                try:
                    for _ in range(CELLS_TRACE_TOKENS):
                        batch.step()
                    found["holds"] = engine.used_cells == needed
                except ContextOverflow:
                    found |= {"decode_refuses": True, "reason": complaints()}
                found["used_cells"] = engine.used_cells
            found["context_cells"] = int(C.llama_n_ctx(engine.native_context))
    return found
