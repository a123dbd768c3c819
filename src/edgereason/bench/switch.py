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

Owns the cases and the record's shape. Does not know how they are carried out (`first_token.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgereason.bench.files import Notice, random_adapter
from edgereason.bench.first_token import draw_s, encode_s, think_s
from edgereason.bench.lab import EndlessEngine, Lab
from edgereason.bench.progress import Meter, Report
from edgereason.bench.record import (
    Recording,
    find_subject,
    require_distinct,
    rounded,
    trial_note,
)
from edgereason.errors import ConfigError
from edgereason.evals.limits import require_at_least_one
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.records.machine import read_bandwidth
from edgereason.records.measure import MIN_ROUNDS, Samples

FORMAT: Final = "edgereason-bench-switch"
LONG_TOKENS: Final = 2048
"""Prompts from here on take so long that `LONG_ROUNDS` must do."""
LONG_ROUNDS: Final = 3
_TOKEN_S: Final = 0.004
"""Rough seconds to encode a token (0.5B, Q4_0, 2 cores)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchBenchConfig:
    """What to measure.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        rounds: of every length below 2,048 tokens; fewer than 7 are a trial.
        threads: CPU threads; by default as many as this process may use.
        lengths: prompt lengths in tokens; those that the model's context can't hold are left out.
        as_is: the file itself, not a plain Q4_0 of it.
        seed: of adapter and draws.
    """

    model: str = DEFAULT_MODEL
    rounds: int = MIN_ROUNDS
    threads: int | None = None
    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    as_is: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads)
        require_distinct("lengths", self.lengths)

    def rounds_of(self, length: int) -> int:
        """Rounds of a prompt length."""
        return min(self.rounds, LONG_ROUNDS) if length >= LONG_TOKENS else self.rounds


def bench_switch(
    config: SwitchBenchConfig,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> dict[str, Any]:
    """Measures times to the first token.

    Args:
        config: what to measure.
        report: told after every case.
        notice: told in a line what is made or fetched first.

    Raises:
        ConfigError: no length fits into the model's context.
        PullError, ModelFileError: the model can't be had, read or quantized.
    """
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=notice)
    adapter = random_adapter(subject.source, subject.source_sha256, notice, seed=config.seed)
    with EndlessEngine(subject.path, threads=subject.threads) as engine:
        lab = Lab(engine, subject.path, subject.threads, config.rounds, config.seed, adapter)
        lengths, notes = _fitting(config.lengths, engine.context_tokens - len(lab.opening) - 1)
        recording, bandwidth = Recording(), read_bandwidth(subject.threads)
        samples = _measure(lab, config, lengths, report, subject.quantization)
        opening_tokens = len(lab.opening)
    bandwidth = max(bandwidth, read_bandwidth(subject.threads))
    notes += [
        f"prompts of {length} tokens were measured in {config.rounds_of(length)} rounds, not {config.rounds}"
        for length in lengths
        if config.rounds_of(length) < config.rounds
    ]
    record = (
        {
            "rounds": config.rounds,
            "opening_tokens": opening_tokens,
            "lengths": [length_entry(length, samples[length]) for length in lengths],
        }
        | subject.entry()
        | recording.close(
            format=FORMAT,
            source=subject.source,
            sha256=subject.source_sha256,
            config=asdict(config),
            threads=subject.threads,
            bandwidth=bandwidth,
            notes=trial_note(config.rounds) + notes,
        )
    )
    return {key: rounded(value) for key, value in record.items()}


def length_entry(length: int, samples: Samples) -> dict[str, Any]:
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
    lab: Lab, config: SwitchBenchConfig, lengths: list[int], report: Report, title: str
) -> dict[int, Samples]:
    seconds: dict[int, dict[str, list[float]]] = {length: {} for length in lengths}
    round_s = [
        sum(_length_s(length) for length in lengths if i < config.rounds_of(length))
        for i in range(config.rounds)
    ]
    meter = Meter(report, sum(round_s))
    with lab.engine.reserve(cells=max(lengths) + len(lab.opening) + 1, sequences=2):
        for i, expected_s in enumerate(round_s):
            if not expected_s:  # there are only long prompts, and they had their rounds
                break
            meter.enter(title, f"round {i + 1} of {config.rounds}", expected_s)
            for length in lengths:
                if i < config.rounds_of(length):
                    for case, case_s, share in _round(lab, lab.prompt(length)):
                        seconds[length].setdefault(case, []).append(case_s)
                        meter.advance(share * _length_s(length) / expected_s)
    return {length: Samples(cases) for length, cases in seconds.items()}


def _round(lab: Lab, prompt: list[int]) -> Iterator[tuple[str, float, float]]:
    """Each case once: its name, its seconds, and its share of the round's time."""
    _turn_adapter_off(lab, prompt)
    with lab.sequence() as prefix:
        yield "chat", encode_s(lab, prefix, prompt, with_features=False) + draw_s(lab, prefix), 0.3
        yield "think_shared", think_s(lab, prompt, prefix), 0.1
    _turn_adapter_off(lab, prompt)
    with lab.sequence() as sequence:
        tapped_s = encode_s(lab, sequence, prompt, with_features=True) + draw_s(lab, sequence)
        yield "chat_with_features", tapped_s, 0.3
    yield "think_reencoded", think_s(lab, prompt, None), 0.3


def _turn_adapter_off(lab: Lab, prompt: list[int]) -> None:
    """Decodes a token on the base, so that a chat does not pay for the thinking before it."""
    with lab.sequence() as sequence:
        lab.engine.encode(sequence, prompt[:1])


def _length_s(length: int) -> float:
    return 3 * _TOKEN_S * length + 0.2
