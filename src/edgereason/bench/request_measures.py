"""What a request costs: prefill with features, the switch, parallel streams, cells.

Each function is one measure and says what it divides by what. Where a case has work that does not count, an
encoded prompt or a fork, it leaves that out of the seconds it returns. Knows the engine, the batch and the
pipeline as their users know them; does not know targets, tables or records.
"""

from __future__ import annotations

import time
from typing import Any, Final

from edgereason.bench.first_token import encode_s, think_s
from edgereason.bench.lab import SAMPLING, EndlessEngine, Lab, Outcome
from edgereason.core.types import Budget, Message, Mode, Request
from edgereason.engine.native import C, complaints
from edgereason.engine.params import CELL_STEP
from edgereason.errors import ContextOverflow
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Routed
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import drive
from edgereason.records.measure import interleave

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


def prefill(lab: Lab) -> Outcome:
    """`prefill_features_ratio`: encoding 1,024 tokens with the switcher's features taken ÷ without."""
    engine, prompt = lab.engine, lab.prompt(PREFILL_TOKENS)

    def case(*, with_features: bool) -> float:
        with lab.sequence() as sequence:
            return encode_s(lab, sequence, prompt, with_features=with_features)

    with engine.reserve(cells=len(prompt), sequences=1):
        samples = interleave(
            {"plain": lambda: case(with_features=False), "features": lambda: case(with_features=True)},
            lab.rounds,
            lab.round_done,
        )
    figures = {
        "prefill_features_ratio": samples.ratio("features", "plain"),
        "prefill_tokens_per_s": len(prompt) / samples.best("plain"),
    }
    return Outcome(figures, samples.summary())


def switch(lab: Lab) -> Outcome:
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

        samples = interleave(
            {"switch": lambda: case(again=False), "again": lambda: case(again=True)},
            lab.rounds,
            lab.round_done,
        )
    figures = {
        "switch_speedup_1000": samples.ratio("again", "switch"),
        "switch_s": samples.best("switch"),
    }
    return Outcome(figures, samples.summary() | {"opening_tokens": len(opening)})


def streams(lab: Lab) -> Outcome:
    """`streams4_ratio`: wall of 4 thinking streams ÷ of 1, through the pipeline, each of equal length.

    From the prompt's last token on: opening, forks, every step, the vote. Streams run to the budget, with
    the forced closing and stub in it, and no early stop.
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
    samples = interleave({"n1": lambda: case(1), "n4": lambda: case(4)}, lab.rounds, lab.round_done)
    return Outcome(
        {"streams4_ratio": samples.ratio("n4", "n1")},
        samples.summary() | {"tokens_per_stream": sorted(lengths)},
    )


def cells(lab: Lab) -> Outcome:
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
    return Outcome(
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
