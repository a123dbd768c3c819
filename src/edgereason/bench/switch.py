"""`bench switch`: time to the first token, by route and by prompt length.

::

    chat                    prompt encoded by the base, first token
    chat_with_features      the same with the switcher's features taken from every token: what `auto` adds on
                            an easy prompt, less the head's own arithmetic (no switcher is shipped yet)
    think_shared            the prompt's cells are there: fork, adapter on, opening and hint, first token
    think_reencoded         prompt, opening and hint under the adapter, from nothing: what a runtime without
                            cells shared between base and adapter must do

`think_shared` comes behind `chat` on its cells, and each case ends with nothing in the context, so that no
other prompt's cells slow it. The adapter is a random one of the usual size.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from edgereason.bench.files import random_adapter
from edgereason.bench.lab import EndlessEngine, Lab
from edgereason.bench.progress import SILENT, BenchTurn, Listener, take_turns
from edgereason.bench.record import FileBenchConfig, Recording, find_subject, require_distinct
from edgereason.bench.request_measures import draw_s, encode_s, think_s
from edgereason.errors import ConfigError
from edgereason.records.measure import Timings

FORMAT: Final = "edgereason-bench-switch"
LONG_TOKENS: Final = 2048
"""Prompts from here on take so long that `LONG_ROUNDS` must do."""
LONG_ROUNDS: Final = 3
_TOKEN_S: Final = 0.004
"""Rough seconds to encode a token (0.5B, Q4_0, 2 cores)."""


@dataclass(frozen=True, kw_only=True)
class SwitchBenchConfig(FileBenchConfig):
    """What to measure; `rounds` are of every length below 2,048 tokens, longer ones have 3 at most.

    Attributes:
        lengths: prompt lengths in tokens; those that the model's context can't hold are left out.
    """

    lengths: tuple[int, ...] = (64, 256, 1024, 4096)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_distinct("lengths", self.lengths)

    def rounds_of(self, length: int) -> int:
        """Rounds of a prompt length."""
        return min(self.rounds, LONG_ROUNDS) if length >= LONG_TOKENS else self.rounds


def bench_switch(config: SwitchBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures times to the first token.

    Args:
        config: what to measure.
        listener: told how far it is, and what is fetched or made first.

    Raises:
        ConfigError: no length fits into the model's context.
        PullError, ModelFileError: the model can't be fetched, read or quantized.
    """
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=listener.notice)
    adapter = random_adapter(subject.source, subject.source_sha256, listener.notice, seed=config.seed)
    with Recording(subject) as recording, EndlessEngine(subject.path, threads=subject.threads) as engine:
        lab = Lab(engine, subject.path, subject.threads, config.rounds, config.seed, adapter)
        lengths, notes = _fitting(config.lengths, engine.context_tokens - len(lab.opening) - 1)
        samples = _measure(lab, config, lengths, listener, subject.quantization)
        opening_tokens = len(lab.opening)
    notes += [
        f"prompts of {length} tokens were measured in {config.rounds_of(length)} rounds, not {config.rounds}"
        for length in lengths
        if config.rounds_of(length) < config.rounds
    ]
    entries = [length_entry(length, samples[length]) for length in lengths]
    return recording.close(
        {"rounds": config.rounds, "opening_tokens": opening_tokens, "lengths": entries} | subject.entry(),
        format=FORMAT,
        config=asdict(config),
        notes=notes,
    )


def length_entry(length: int, samples: Timings) -> dict[str, Any]:
    """What the record says of one prompt length: seconds of each case, and ratios of their minima.

    `reencoded_over_shared` is what sharing the prompt's cells saves at the switch, `shared_over_chat` what
    the switch adds to a chat's wait, `features_over_chat` what the switcher's features cost.
    """
    return {
        "prompt_tokens": length,
        "rounds": len(samples.seconds["chat"]),
        "ttft": {
            case: {"min_s": samples.best(case), "median_s": statistics.median(seconds)}
            for case, seconds in samples.seconds.items()
        },
        "reencoded_over_shared": samples.ratio("think_reencoded", "think_shared"),
        "shared_over_chat": samples.ratio("think_shared", "chat"),
        "features_over_chat": samples.ratio("chat_with_features", "chat"),
    }


def _fitting(lengths: tuple[int, ...], most: int) -> tuple[list[int], list[str]]:
    """The lengths that the context holds, and what to say of the others."""
    fitting = [length for length in lengths if length <= most]
    if not fitting:
        raise ConfigError(f"the model's context holds prompts of {most} tokens at most, got {min(lengths)}")
    left_out = [str(length) for length in lengths if length > most]
    said = f"prompts of {', '.join(left_out)} tokens are left out: the model's context holds {most}"
    return fitting, [said] if left_out else []


def _measure(
    lab: Lab, config: SwitchBenchConfig, lengths: list[int], listener: Listener, title: str
) -> dict[int, Timings]:
    seconds: dict[int, dict[str, list[float]]] = {length: {} for length in lengths}

    def turn(length: int) -> None:
        for case, case_s in _cases(lab, lab.prompt(length)):
            seconds[length].setdefault(case, []).append(case_s)

    turns = {
        length: BenchTurn(title, 3 * _TOKEN_S * length + 0.2, partial(turn, length)) for length in lengths
    }
    rounds = [
        [turns[length] for length in lengths if i < config.rounds_of(length)] for i in range(config.rounds)
    ]
    with lab.engine.reserve(cells=max(lengths) + len(lab.opening) + 1, sequences=2):
        take_turns(rounds, listener)
    return {length: Timings(cases) for length, cases in seconds.items()}


def _cases(lab: Lab, prompt: list[int]) -> Iterator[tuple[str, float]]:
    """Each case once: its name and its seconds."""
    _turn_adapter_off(lab, prompt)
    with lab.sequence() as prefix:
        yield "chat", encode_s(lab, prefix, prompt, with_features=False) + draw_s(lab, prefix)
        yield "think_shared", think_s(lab, prompt, prefix)
    _turn_adapter_off(lab, prompt)
    with lab.sequence() as sequence:
        tapped_s = encode_s(lab, sequence, prompt, with_features=True) + draw_s(lab, sequence)
        yield "chat_with_features", tapped_s
    yield "think_reencoded", think_s(lab, prompt, None)


def _turn_adapter_off(lab: Lab, prompt: list[int]) -> None:
    """Decodes a token on the base, so that a chat does not pay for the thinking before it."""
    with lab.sequence() as sequence:
        lab.engine.encode(sequence, prompt[:1])
