"""From a prompt to its first token: what each way takes.

::

    chat     prompt ─ base ─ draw                                  features: the same with the rows tapped
    think    prompt's cells ─ fork ─ adapter on ─ opening ─ draw   shared with the base
             adapter on ─ prompt ─ opening ─ draw                  encoded again, as without shared cells

Each function says how many seconds of it count. Knows the engine; does not know rounds, ratios or records.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens

from edgereason.bench.lab import SAMPLING, Lab
from edgereason.engine.base import Sequence
from edgereason.heads.features import PENULTIMATE, PromptFeatures

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
