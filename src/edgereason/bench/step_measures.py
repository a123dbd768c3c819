"""What a decode step costs: our loop against bare calls, the adapter on against off, states read or not.

Each function is one measure and says what it divides by what. A round's figure is the mean of its steps, a
ratio is of the rounds' minima. Knows the engine and the batch; does not know requests, targets or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from edgereason.bench.bare import BareLoop
from edgereason.bench.lab import SAMPLING, Lab, Outcome
from edgereason.engine.base import Adapter, Sequence
from edgereason.heads.trace_mean import TraceMean
from edgereason.records.measure import Case, Samples, interleave, timed

STEPS: Final = {1: 32, 4: 24, 8: 24}
"""Steps a round at each number of streams."""
TAX_STEPS: Final = {1: 24, 4: 16}
READING_STEPS: Final = {4: 16, 8: 16}
PROMPT_TOKENS: Final = 128


def steps(lab: Lab) -> Outcome:
    """`step_ratio_n*`: our decode loop ÷ bare calls, a step, at the same depth over the same model.

    Ours is `Batch.step`: controls, bookkeeping and text decoding. The two take turns step by step, so that
    they share the weather; a round's figure is its mean, the ratio is of the rounds' minima. Equal seeds
    over equal logits must draw equal tokens, which shows that both did the same work.

    `bare_step_n*_over_n1` is what more streams cost llama.cpp itself here: near 1 where reading the weights
    is what takes the time, near N where computing is. A streams ratio can hardly be better.
    """
    figures: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    bare_s: dict[int, float] = {}
    for num_streams, num_steps in STEPS.items():
        means, fastest, same_tokens = _step_rounds(lab, num_streams, num_steps)
        ratio = means.ratio("ours", "bare")
        figures[f"step_ratio_n{num_streams}"] = ratio
        figures[f"decode_tokens_per_s_n{num_streams}"] = num_streams / means.best("ours")
        details[f"n{num_streams}"] = means.summary() | {
            "fastest_step_ratio": fastest.ratio("ours", "bare"),
            "same_tokens": same_tokens,
        }
        bare_s[num_streams] = means.best("bare")
        if num_streams > 1:
            figures[f"bare_step_n{num_streams}_over_n1"] = bare_s[num_streams] / bare_s[1]
    return Outcome(figures, details)


def _step_rounds(lab: Lab, num_streams: int, num_steps: int) -> tuple[Samples, Samples, bool]:
    """Means and minima of every round, and whether both loops drew the same tokens."""
    engine, opening = lab.engine, lab.opening
    prompt = lab.prompt(PROMPT_TOKENS)
    cells = len(prompt) + len(opening) + num_streams * (num_steps + 2)
    rounds: list[Samples] = []
    same_tokens = True
    with (
        engine.reserve(cells=cells, sequences=num_streams + 2),
        BareLoop(engine.native_context, slots=num_streams + 2, threads=lab.threads) as bare,
        lab.sequence() as prefix,
    ):
        engine.encode(prefix, prompt)
        bare.encode(prompt)
        for _ in range(lab.rounds):
            bare.begin(opening, num_streams, SAMPLING, lab.seed)
            with lab.streams(prefix, num_streams) as (batch, running):
                batch.step()  # the first of a new shape rebuilds the graph
                bare.step()
                rounds.append(interleave({"ours": timed(batch.step), "bare": timed(bare.step)}, num_steps))
                same_tokens &= [stream.token_ids for stream in running] == bare.drawn
            bare.end()
            lab.advance(num_streams / (lab.rounds * sum(STEPS)))
    cases = ("ours", "bare")
    means = Samples({case: [samples.mean(case) for samples in rounds] for case in cases})
    fastest = Samples({case: [samples.best(case) for samples in rounds] for case in cases})
    return means, fastest, same_tokens


def lora(lab: Lab) -> Outcome:
    """`lora_tax_n*`: a decode step with the adapter on ÷ off, at the same depth; a round's mean."""
    return _tax(lab, "lora_tax", TAX_STEPS, off=_Way(None), on=_Way(lab.adapter))


def reading(lab: Lab) -> Outcome:
    """`reading_tax_n*`: a step whose states a verifier averages ÷ one that nobody reads, adapter on."""
    layer = -(lab.engine.info.num_layers // 3)
    return _tax(lab, "reading_tax", READING_STEPS, off=_Way(lab.adapter), on=_Way(lab.adapter, (layer,)))


class _Way(NamedTuple):
    """How streams decode: under which adapter, and which layers' states are averaged."""

    adapter: Adapter | None
    layers: tuple[int, ...] = ()


def _tax(lab: Lab, name: str, steps_at: Mapping[int, int], *, off: _Way, on: _Way) -> Outcome:
    """`NAME_n*`: a step one way ÷ the other, at the same depth, for each number of streams and its steps."""
    engine, prompt = lab.engine, lab.prompt(PROMPT_TOKENS)
    figures: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    most = max(steps_at)
    cells = len(prompt) + len(lab.opening) + most * (max(steps_at.values()) + 2)
    with engine.reserve(cells=cells, sequences=most + 2), lab.sequence() as prefix:
        engine.encode(prefix, prompt)
        for num_streams, num_steps in steps_at.items():
            cases = {
                "off": _tax_case(lab, prefix, off, num_streams, num_steps),
                "on": _tax_case(lab, prefix, on, num_streams, num_steps),
            }
            samples = interleave(cases, lab.rounds, lambda: lab.advance(0.5 / lab.rounds))
            figures[f"{name}_n{num_streams}"] = samples.ratio("on", "off")
            details[f"n{num_streams}"] = samples.summary()
    return Outcome(figures, details)


def _tax_case(lab: Lab, prefix: Sequence, way: _Way, num_streams: int, num_steps: int) -> Case:
    def case() -> float:
        with lab.streams(prefix, num_streams, way.adapter) as (batch, streams):
            if way.layers:
                for stream in streams:
                    stream.means = TraceMean(way.layers, lab.engine.info.hidden_size)
            batch.step()  # turning the adapter rebuilt the graph
            return interleave({"step": timed(batch.step)}, num_steps).mean("step")

    return case
