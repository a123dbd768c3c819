"""What answers cost on this machine: measured in about ten seconds, then put together for any answer.

::

    seconds = beside ─────────── start of the command, loading, opening, vote: from two short `ask`
            + encode(prompt) ─── a line through 128 and 512 tokens
            + Σ step(N, cells) ─ for N = 1, 4, 8: a line through two depths; in between, a line through both

A step's time grows with the cells that attention reads. With edgereason's kernels these are a stream's own,
with llama.cpp's all that are in use. Medians over the rounds are taken, not minima: what an answer will take,
not what it would take on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgereason.bench.lab import EndlessEngine, Lab, mean_step_s
from edgereason.core.bundle import Bundle
from edgereason.engine.base import Adapter, KvType
from edgereason.engine.base import Sequence as Tokens
from edgereason.engine.native import kernels
from edgereason.errors import EngineError
from edgereason.heads.features import PENULTIMATE, PromptFeatures
from edgereason.heads.verifier import TraceMean
from edgereason.reasoning.model import heads_of

SHALLOW_TOKENS, DEEP_TOKENS = 128, 512
"""Depths at which a step is timed; the prompt is encoded up to the first, then up to the second."""
STREAMS: Final = (1, 4, 8)
_STEPS: Final = 6
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 7
_ASK_STREAMS: Final = 4
_ASK_TOKENS: Final = 48
_QUESTION: Final = "A baker makes 24 rolls and sells a third of them. How many are left?"

_clock = time.perf_counter


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """A decode step that draws a token for each of some streams.

    Attributes:
        base_s: seconds, attention left out.
        cell_s: further seconds for each cell that attention reads.
    """

    num_streams: int
    base_s: float
    cell_s: float

    def seconds(self, cells: float) -> float:
        """Seconds of a step whose attention reads so many cells."""
        return self.base_s + self.cell_s * cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a model costs on this machine.

    Attributes:
        chat_s: of `edgereason ask` in chat, beside the prompt and the steps.
        think_s: the same in think: also the opening and the vote.
        encode_s: of a prompt, whatever its length.
        token_s: further seconds for each token of the prompt.
        chat: a step of one stream without adapter.
        think: a step under the adapter, by number of streams, in ascending order.
        shares_attention: whether each stream's attention reads the cells of all streams.
        peak_bytes: most memory that `ask` took with four short streams; None where the system doesn't tell.
        rounds: how often prompt and steps were measured.
    """

    chat_s: float
    think_s: float
    encode_s: float
    token_s: float
    chat: StepCost
    think: tuple[StepCost, ...]
    shares_attention: bool
    peak_bytes: int | None
    rounds: int

    def prompt_s(self, num_tokens: int) -> float:
        """Seconds to encode a prompt."""
        return self.encode_s + self.token_s * num_tokens

    def step_s(self, num_streams: int, depth: int, *, thinks: bool = True) -> float:
        """Seconds of a decode step.

        Args:
            num_streams: at least 1.
            depth: tokens of each stream so far, the prompt's 128 included.
            thinks: whether under the adapter; without it each stream but the first costs what it does with.
        """
        own = max(0, depth - SHALLOW_TOKENS)
        return self._step_s(num_streams, self._cells(SHALLOW_TOKENS, num_streams * own, own), thinks=thinks)

    def answer_s(self, prompt_tokens: int, lengths: Sequence[int], *, thinks: bool = True) -> float:
        """Seconds of `edgereason ask`, from the start of the command to its end.

        Args:
            prompt_tokens: of the prompt.
            lengths: tokens that each stream says, thinking and answer.
            thinks: whether on the think route.
        """
        seconds = (self.think_s if thinks else self.chat_s) + self.prompt_s(prompt_tokens)
        # The first token of each stream is drawn behind the prompt, without a step; the last is not encoded.
        for said in range(1, max(lengths)):
            running = sum(length > said for length in lengths)
            all_said = sum(min(length, said) for length in lengths)
            seconds += self._step_s(running, self._cells(prompt_tokens, all_said, said), thinks=thinks)
        return seconds

    def scaled(self, from_bytes: int, to_bytes: int) -> Costs:
        """The costs of another model, as far as its weights' bytes tell.

        Args:
            from_bytes: size of the model that these costs are of.
            to_bytes: size of the other one.
        """
        ratio = to_bytes / from_bytes

        def of(step: StepCost) -> StepCost:
            return replace(step, base_s=step.base_s * ratio, cell_s=step.cell_s * ratio)

        return replace(
            self,
            encode_s=self.encode_s * ratio,
            token_s=self.token_s * ratio,
            chat=of(self.chat),
            think=tuple(map(of, self.think)),
            peak_bytes=None if self.peak_bytes is None else self.peak_bytes + to_bytes - from_bytes,
        )

    def _cells(self, prompt_tokens: int, all_said: int, said: int) -> int:
        return prompt_tokens + (all_said if self.shares_attention else said)

    def _step_s(self, num_streams: int, cells: int, *, thinks: bool) -> float:
        known = self.think
        if not thinks:
            one = self.chat.seconds(cells)
            return (
                one
                if num_streams == 1
                else one + self._step_s(num_streams, cells, thinks=True) - (known[0].seconds(cells))
            )
        above = next((step for step in known if step.num_streams >= num_streams), None)
        if above is None:
            return known[-1].seconds(cells) * num_streams / known[-1].num_streams
        below = max((step for step in known if step.num_streams <= num_streams), key=lambda s: s.num_streams)
        if above is below:
            return above.seconds(cells)
        share = (num_streams - below.num_streams) / (above.num_streams - below.num_streams)
        return (1 - share) * below.seconds(cells) + share * above.seconds(cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One `edgereason ask` in a process of its own.

    Attributes:
        wall_s: from its start to its end.
        prompt_tokens: of its prompt.
        lengths: tokens of its streams.
        peak_bytes: most memory that it took; None where the system doesn't tell.
    """

    wall_s: float
    prompt_tokens: int
    lengths: tuple[int, ...]
    peak_bytes: int | None


def ask(model: Sequence[str], options: Sequence[str], question: str = _QUESTION) -> Asked:
    """Runs `edgereason ask` as a user would.

    Its peak memory is right only if this process has not taken more so far (`records.folder.peak_rss_bytes`).

    Args:
        model: options that name the model, such as `--model NAME`.
        options: its other options.
        question: what to ask.

    Raises:
        EngineError: the command failed.
    """
    command = [sys.executable, "-m", "edgereason", "ask", question, "--json", *model, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    start = _clock()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        out, err = process.communicate()
    wall_s = _clock() - start
    if process.returncode:
        last = (err.strip().splitlines() or ["no reason given"])[-1]
        raise EngineError(f"a trial of `edgereason ask` failed: {last.removeprefix('edgereason: ')}")
    told: dict[str, Any] = json.loads(out)
    return Asked(
        wall_s=wall_s,
        prompt_tokens=told["usage"]["prompt_tokens"],
        lengths=tuple(stream["tokens"] for stream in told["streams"]),
        peak_bytes=_children_peak_bytes(),
    )


def measure(
    path: Path,
    bundle: Bundle | None,
    model: Sequence[str],
    *,
    threads: int,
    kv: KvType,
    limit_s: float,
    tell: Callable[[str], None] = lambda _what: None,
) -> Costs:
    """Measures a model that is here.

    Args:
        path: of its file.
        bundle: whose adapter and heads take part, if any.
        model: options that name it to `ask`.
        threads: CPU threads.
        kv: type of the KV cache.
        limit_s: about how long it may take; two rounds are measured in any case.
        tell: told in a few words what is measured.

    Raises:
        EngineError, BundleError, ModelFileError: it can't be run.
    """
    started = _clock()
    tell("asking a question, in chat and with four streams")
    threaded = [*model, "--threads", str(threads), "--kv", kv]
    chat = ask(threaded, ["--mode", "chat", "--max-tokens", str(_ASK_TOKENS // 2)])
    think = ask(
        threaded,
        ["--mode", "think", "--budget", str(_ASK_TOKENS), "--streams", str(_ASK_STREAMS)],
    )
    tell("measuring prompts and steps")
    costs = _measure_rounds(path, bundle, threads, kv, until_s=started + limit_s)
    return replace(
        costs,
        chat_s=max(0.0, chat.wall_s - costs.answer_s(chat.prompt_tokens, chat.lengths, thinks=False)),
        think_s=max(0.0, think.wall_s - costs.answer_s(think.prompt_tokens, think.lengths)),
        peak_bytes=think.peak_bytes,
    )


def _measure_rounds(path: Path, bundle: Bundle | None, threads: int, kv: KvType, *, until_s: float) -> Costs:
    """Prompt and steps; what comes beside them is 0 here."""
    heads = heads_of(bundle) if bundle else None
    layers = tuple(heads.verifier.layers) if heads and heads.verifier else ()
    adapter_path = bundle.verified_file(bundle.adapter) if bundle and bundle.adapter else None
    prompts: dict[int, list[float]] = {SHALLOW_TOKENS: [], DEEP_TOKENS: []}
    steps: dict[tuple[bool, int, int], list[float]] = {}
    with ExitStack() as held:
        engine = held.enter_context(EndlessEngine(path, threads=threads, kv=kv))
        lab = Lab(engine, path, threads, rounds=1, seed=0, adapter_path=adapter_path)
        adapter = lab.adapter if adapter_path else None
        cells = DEEP_TOKENS + len(lab.opening) + max(STREAMS) * (_STEPS + 3)
        held.enter_context(engine.reserve(cells=cells, sequences=max(STREAMS) + 3))
        rounds, round_s = 0, 0.0
        while rounds < _LEAST_ROUNDS or (rounds < _MOST_ROUNDS and _clock() + round_s < until_s):
            start = _clock()
            _round(lab, adapter, layers, prompts, steps)
            rounds, round_s = rounds + 1, _clock() - start

    def step(num_streams: int, *, thinks: bool) -> StepCost:
        base_s, cell_s = _line(*(statistics.median(steps[thinks, num_streams, d]) for d in prompts))
        return StepCost(num_streams=num_streams, base_s=base_s, cell_s=cell_s)

    encode_s, token_s = _line(*(statistics.median(prompts[depth]) for depth in prompts))
    return Costs(
        chat_s=0.0,
        think_s=0.0,
        encode_s=encode_s,
        token_s=token_s,
        chat=step(1, thinks=False),
        think=tuple(step(num_streams, thinks=True) for num_streams in STREAMS),
        shares_attention=not kernels() or kv != "f16",  # which ours read alone
        peak_bytes=None,
        rounds=rounds,
    )


def _round(
    lab: Lab,
    adapter: Adapter | None,
    layers: tuple[int, ...],
    prompts: dict[int, list[float]],
    steps: dict[tuple[bool, int, int], list[float]],
) -> None:
    """Encodes the prompt once, read by a switcher's features, and times steps at both depths."""
    prompt, spent_s = lab.prompt(DEEP_TOKENS), 0.0
    features = PromptFeatures(lab.engine.info.hidden_size)
    with lab.sequence() as prefix:
        for depth in (SHALLOW_TOKENS, DEEP_TOKENS):
            start = _clock()
            lab.engine.encode(prefix, prompt[prefix.length : depth], on_states={PENULTIMATE: features.push})
            spent_s += _clock() - start
            prompts[depth].append(spent_s)
            for thinks, num_streams in ((False, 1), *((True, number) for number in STREAMS)):
                seconds = _steps_s(
                    lab, prefix, adapter if thinks else None, layers if thinks else (), num_streams
                )
                steps.setdefault((thinks, num_streams, depth), []).append(seconds)


def _steps_s(
    lab: Lab, prefix: Tokens, adapter: Adapter | None, layers: tuple[int, ...], num_streams: int
) -> float:
    """Mean seconds of a step of so many streams behind `prefix`."""
    with lab.streams(prefix, num_streams, adapter) as (batch, streams):
        for stream in streams if layers else ():
            stream.means = TraceMean(layers, lab.engine.info.hidden_size)
        return mean_step_s(batch, _STEPS)


def _line(shallow: float, deep: float) -> tuple[float, float]:
    """Where the line through both depths begins, and its slope; a flat one where noise would make it fall."""
    slope = max(0.0, (deep - shallow) / (DEEP_TOKENS - SHALLOW_TOKENS))
    return max(0.0, shallow - slope * SHALLOW_TOKENS), slope


def _children_peak_bytes() -> int | None:
    """Most memory of any process that this one has started and that has ended."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
