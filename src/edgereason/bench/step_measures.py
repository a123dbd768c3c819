"""What a decode step costs: our loop against bare calls, the adapter on against off, states read or not.

Each function is one measure and says what it divides by what. A round's figure is the mean of its steps, a
ratio is of the rounds' minima.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from typing import Any, Final, NamedTuple

from edgereason.bench.lab import SAMPLING, Lab, Measured, mean_step_s
from edgereason.core.closing import Closing
from edgereason.core.types import Sampling
from edgereason.engine.base import Adapter, Sequence
from edgereason.engine.cells import Ledger
from edgereason.engine.handles import BATCH_TOKENS, NativeSampler, context_params
from edgereason.engine.native import C, fail
from edgereason.heads.verifier import TraceMean
from edgereason.records.measure import Case, Timings, interleave, timed

STEPS: Final = {1: 32, 4: 24, 8: 24}
"""Steps a round at each number of streams."""
TAX_STEPS: Final = {1: 24, 4: 16}
READING_STEPS: Final = {4: 16, 8: 16}
PROMPT_TOKENS: Final = 128


def steps(lab: Lab) -> Measured:
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
    return Measured(figures, details)


def _step_rounds(lab: Lab, num_streams: int, num_steps: int) -> tuple[Timings, Timings, bool]:
    """Means and minima of every round, and whether both loops drew the same tokens."""
    engine, opening = lab.engine, lab.opening
    prompt = lab.prompt(PROMPT_TOKENS)
    cells = len(prompt) + len(opening) + num_streams * (num_steps + 2)
    rounds: list[Timings] = []
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
    means = Timings({case: [samples.mean(case) for samples in rounds] for case in cases})
    fastest = Timings({case: [samples.best(case) for samples in rounds] for case in cases})
    return means, fastest, same_tokens


def lora(lab: Lab) -> Measured:
    """`lora_tax_n*`: a decode step with the adapter on ÷ off, at the same depth; a round's mean."""
    return _tax(lab, "lora_tax", TAX_STEPS, off=_Way(None), on=_Way(lab.adapter))


def reading(lab: Lab) -> Measured:
    """`reading_tax_n*`: a step whose states a verifier averages ÷ one that nobody reads, adapter on."""
    layer = -(lab.engine.info.num_layers // 3)
    return _tax(lab, "reading_tax", READING_STEPS, off=_Way(lab.adapter), on=_Way(lab.adapter, (layer,)))


class _Way(NamedTuple):
    """How streams decode: under which adapter, and which layers' states are averaged."""

    adapter: Adapter | None
    layers: tuple[int, ...] = ()


def _tax(lab: Lab, name: str, steps_at: Mapping[int, int], *, off: _Way, on: _Way) -> Measured:
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
    return Measured(figures, details)


def _tax_case(lab: Lab, prefix: Sequence, way: _Way, num_streams: int, num_steps: int) -> Case:
    def case() -> float:
        with lab.streams(prefix, num_streams, way.adapter) as (batch, streams):
            if way.layers:
                for stream in streams:
                    stream.means = TraceMean(way.layers, lab.engine.info.hidden_size)
            return mean_step_s(batch, num_steps)

    return case


class BareLoop(Closing):
    """The decode loop as a C program would write it, which ours is measured against.

    A context over the *same loaded model* with the same cells, sequences and threads, but without the
    evaluation callback; one batch, made before; `llama_decode`, then `llama_sampler_sample` a row, with the
    same native sampler chains. No text, no control, no bookkeeping.

    Args:
        beside: a native context whose model this one shares. Must stay open for as long.
        slots: most sequences: the prompt, the opening's, and the streams.
        threads: CPU threads.
    """

    def __init__(self, beside: Any, *, slots: int, threads: int) -> None:
        params = context_params(Ledger(cells=C.llama_n_ctx(beside), slots=slots), threads=threads)
        self._context: Any = C.llama_init_from_model(C.llama_get_model(beside), params)
        if self._context is None:
            raise fail("no second context could be made for the bare loop")
        self._memory: Any = C.llama_get_memory(self._context)
        self._batch: Any = C.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._samplers: set[NativeSampler] = set()
        self._chains: list[Any] = []
        self._num_prompt_tokens = 0
        self._position = 0
        self.drawn: list[list[int]] = []
        """Tokens that each stream drew, to compare with what ours drew."""

    def encode(self, prompt: Tokens[int]) -> None:
        """Encodes the prompt as sequence 0, which every `begin` forks."""
        self._prefill(0, 0, prompt)
        self._num_prompt_tokens = len(prompt)

    def begin(self, opening: Tokens[int], num_streams: int, sampling: Sampling, seed: int) -> None:
        """Encodes the opening on a fork of the prompt, forks the streams off it and draws their first tokens.

        Fills in all of the batch that stays the same from step to step.
        """
        C.llama_memory_seq_cp(self._memory, 0, 1, -1, -1)
        self._prefill(1, self._num_prompt_tokens, opening)
        self._position = self._num_prompt_tokens + len(opening)
        batch = self._batch
        self.drawn = [[] for _ in range(num_streams)]
        for i in range(num_streams):
            C.llama_memory_seq_cp(self._memory, 1, 2 + i, -1, -1)
            sampler = NativeSampler(sampling, seed + i, self._samplers)
            self._chains.append(sampler.chain)
            batch.token[i] = C.llama_sampler_sample(sampler.chain, self._context, len(opening) - 1)
            batch.n_seq_id[i], batch.logits[i] = 1, 1
            batch.seq_id[i][0] = 2 + i
            self.drawn[i].append(batch.token[i])
        batch.n_tokens = num_streams

    def step(self) -> None:
        """One token for every stream."""
        batch, context, position = self._batch, self._context, self._position
        for i in range(len(self._chains)):
            batch.pos[i] = position
        if C.llama_decode(context, batch) != 0:
            raise fail("the bare loop's decode failed")
        for i, chain in enumerate(self._chains):
            token = C.llama_sampler_sample(chain, context, i)
            batch.token[i] = token
            self.drawn[i].append(token)
        self._position = position + 1

    def end(self) -> None:
        """Drops the streams; the prompt stays."""
        for slot in range(1, 2 + len(self._chains)):
            C.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._chains = []
        for sampler in list(self._samplers):
            sampler.close()

    def close(self) -> None:
        """Frees everything; a second call does nothing."""
        if self._context is not None:
            self.end()
            C.llama_free(self._context)
            C.llama_batch_free(self._batch)
            self._context = None

    def _prefill(self, slot: int, position: int, tokens: Tokens[int]) -> None:
        batch = self._batch
        for start in range(0, len(tokens), BATCH_TOKENS):
            chunk = tokens[start : start + BATCH_TOKENS]
            for i, token in enumerate(chunk):
                batch.token[i], batch.pos[i] = token, position + start + i
                batch.n_seq_id[i], batch.logits[i] = 1, 0
                batch.seq_id[i][0] = slot
            batch.logits[len(chunk) - 1] = 1
            batch.n_tokens = len(chunk)
            if C.llama_decode(self._context, batch) != 0:
                raise fail("the bare loop's prefill failed")
