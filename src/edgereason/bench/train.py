"""`bench train`: what masking saves in a training step, and what the engine saves in drawing responses.

::

    step       masked   prompt once, no gradient │ G responses, forward and backward
               plain    (prompt + response) × G, forward and backward, the adapter on everywhere
    rollouts   engine   the same responses, drawn on the engine with the shipped file
               torch    and by transformers in float32

Both ways of a step learn from the same tokens; the plain way is that of a trainer without a mask. It takes
its rows one by one, so that neither needs more memory than a machine has.

Useful tokens a second of rollouts are tokens a second of full batches (4-bit weights, kernels) × the share of
rows that still speak (a free place is filled again); the record has the ratio of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from edgereason.bench.progress import SILENT, Listener, Meter
from edgereason.bench.record import Recording, Subject, find_subject
from edgereason.config import nearest, require_at_least_one
from edgereason.core.chat import Seams
from edgereason.core.machine import require_threads
from edgereason.core.types import Message
from edgereason.engine.base import Engine
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ConfigError
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.hub.store import converted_folder
from edgereason.quant.gguf_file import GgufModel
from edgereason.reasoning.model import describe_base
from edgereason.records.measure import interleave, timed
from edgereason.train.grpo.rollout import Drawn, EngineRollouts, RolloutEngine, Vocabulary, Want
from edgereason.train.grpo.torch_rollout import TorchRollouts
from edgereason.train.lora.adapters import LoraSettings, load_adapter, new_adapter, settings_of
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch, token_scores
from edgereason.train.lora.run import shipped, trainable
from edgereason.train.quant.load import load_torch

FORMAT: Final = "edgereason-bench-train"
DTYPES: Final = ("float32", "bfloat16")
PROBE_TOKENS: Final = 16
"""Of every response, where full batches are measured."""
TORCH_ROWS: Final = (8, 16, 32, 64)
"""Rows that torch is tried with; the quickest counts."""

QUESTIONS: Final = (
    "A baker makes 24 rolls an hour. How many rolls does he make in 3 and a half hours?",
    "Lena has 45 stickers. She gives a third of them to Tom and 6 to Ann. How many are left?",
    "A bus with 52 seats is three quarters full. At a stop 9 people get off. How many are on it then?",
    "A shirt costs 40 and is 15 percent off. How much do two of them cost?",
    "A tank holds 180 liters and loses 4 liters an hour. How many liters are left after a day?",
    "Three friends share a bill of 87. Each adds a tip of 4. How much does each of them pay?",
    "A train goes 84 km in 70 minutes. How many kilometers does it go in 2 hours at that speed?",
    "In a class of 30, 18 play chess and 16 play football. If all play something, how many play both?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """A step: `responses` of `response_tokens` each behind one prompt of `prompt_tokens`."""

    prompt_tokens: int = 1000
    responses: int = 8
    response_tokens: int = 100

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.responses) < 1 or self.response_tokens < 2:
            raise ConfigError("a step needs a prompt, responses, and 2 tokens of each at least")

    @property
    def trained_tokens(self) -> int:
        """Response tokens of a step."""
        return self.responses * self.response_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutShape:
    """What is drawn: `samples` responses to each of eight questions, to their end or the cap."""

    samples: int = 8
    cap_tokens: int = 320
    temperature: float = 0.8
    parallel: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 64 or self.cap_tokens <= PROBE_TOKENS or self.temperature <= 0:
            raise ConfigError(
                f"rollouts need 1 to 64 samples, a cap above {PROBE_TOKENS} tokens and a temperature above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBenchConfig:
    """What to measure.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        rounds: of every case; a plain step takes minutes.
        threads: CPU threads; by default as many as this process may use.
        dtype: of the training step, one of `DTYPES`.
        only: names of `MEASURES`; all of them if empty.
        step: the training step.
        rollouts: the responses that are drawn.
        start: folder of a training, or a bundle, whose adapter draws; None for the bare base.
    """

    model: str = DEFAULT_MODEL
    rounds: int = 3
    threads: int | None = None
    dtype: str = "float32"
    only: tuple[str, ...] = ()
    step: StepShape = StepShape()
    rollouts: RolloutShape = RolloutShape()
    start: Path | None = None

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads)
        require_threads(self.threads)
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be {' or '.join(DTYPES)}, got {self.dtype}")
        for name in self.only:
            if name not in MEASURES:
                raise ConfigError(f"no measure is called {name!r}: {nearest(name, MEASURES)}")

    def entry(self) -> dict[str, Any]:
        """The configuration as the record has it."""
        return {
            **asdict(self.step),
            "rounds": self.rounds,
            "dtype": self.dtype,
            "model": self.model,
            "only": self.only,
            "samples": self.rollouts.samples,
            "cap_tokens": self.rollouts.cap_tokens,
            "from": self.start and self.start.resolve().name,
        }


def run(config: TrainBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures training steps and rollouts.

    Args:
        config: what to measure.
        listener: told how far it is, and what is fetched or made first.

    Raises:
        ConfigError: `start` holds no adapter for this model.
        PullError, ModelFileError: the model can't be fetched or read.
    """
    subject = find_subject(config.model, as_is=True, threads=config.threads, notice=listener.notice)
    torch.set_num_threads(subject.threads)
    measures = [name for name in MEASURES if name in (config.only or MEASURES)]
    figures: dict[str, Any] = {}
    with Recording(subject) as recording:
        meter = Meter(listener, len(measures))
        for name in measures:
            base = load_torch(GgufModel(subject.path), subject.source_sha256, converted_folder())
            meter.enter(subject.path.name, name, 1.0)
            figures |= MEASURES[name](config, subject, base, lambda: meter.advance(1 / config.rounds))
    return recording.close(figures, format=FORMAT, config=config.entry())


def measure_step(
    config: TrainBenchConfig, _: Subject, base: PreTrainedModel, round_done: Callable[[], None]
) -> dict[str, Any]:
    """`masked_speedup`: a plain step ÷ a masked one, and trained tokens a second of both."""
    base.to(getattr(torch, config.dtype))
    ways = both_steps(base, config.step, LoraSettings())
    with torch.autocast("cpu", torch.bfloat16, enabled=config.dtype == "bfloat16"):
        samples = interleave({name: timed(step) for name, step in ways.items()}, config.rounds, round_done)
    speeds = {f"{name}_tokens_per_s": config.step.trained_tokens / samples.best(name) for name in ways}
    return {"masked_speedup": samples.ratio("plain", "masked"), **speeds, "steps": samples.summary()}


def both_steps(
    base: PreTrainedModel, shape: StepShape, lora: LoraSettings, *, seed: int = 0
) -> dict[str, Callable[[], None]]:
    """The masked and the plain step, by name: each leaves its gradients in the adapter, and nothing else."""
    model = new_adapter(base, lora, seed)
    model.train()
    random = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1000, (count,), generator=random).tolist())

    prompt = ids(shape.prompt_tokens)
    trained = (False,) + (True,) * (shape.response_tokens - 1)
    rows = [(prompt, ids(shape.response_tokens), trained) for _ in range(shape.responses)]
    masked_lora = MaskedLora(model)

    def masked() -> None:
        model.zero_grad()
        (-masked_lora(ResponseBatch.of(rows)).sum() / shape.trained_tokens).backward()

    def plain() -> None:
        model.zero_grad()
        for _, response, _ in rows:
            whole = torch.tensor([prompt + response])
            hidden = model.get_base_model().model(input_ids=whole, use_cache=False).last_hidden_state[0]
            behind = whole[0, len(prompt) + 1 :]
            found, _ = token_scores(hidden[len(prompt) : -1], masked_lora.head, behind)
            (-found.sum() / shape.trained_tokens).backward()  # type: ignore[no-untyped-call]

    return {"masked": masked, "plain": plain}


def measure_rollouts(
    config: TrainBenchConfig, subject: Subject, base: PreTrainedModel, round_done: Callable[[], None]
) -> dict[str, Any]:
    """`rollout_speedup`: useful tokens a second on the engine ÷ in torch, and the factors of this ratio."""
    shape = config.rollouts
    with LlamaEngine(subject.path, threads=subject.threads, shares_cells=False) as engine:
        bucket, on_engine, in_torch = _rollers(config, subject, engine, base)
        wants = _wants(engine, shape, bucket)
        # Cut before any response is likely to have ended: full batches.
        probes = [replace(want, cap_tokens=PROBE_TOKENS) for want in wants]
        rows = [n for n in TORCH_ROWS if n >= shape.samples]
        tried = interleave({str(n): timed(partial(in_torch(n), probes)) for n in rows}, 1)
        best = min(rows, key=lambda n: tried.best(str(n)))
        drawn: dict[str, list[list[Drawn]]] = {}

        def case(name: str, rollouts: RolloutEngine, asked: list[Want]) -> Callable[[], object]:
            def draw() -> None:
                drawn[name] = rollouts(asked)

            return draw

        cases = {
            "engine": case("engine", on_engine, wants),
            "torch": case("torch", in_torch(best), wants),
            "engine_full": case("engine_full", on_engine, probes),
            "torch_full": case("torch_full", in_torch(best), probes),
        }
        samples = interleave({name: timed(draw) for name, draw in cases.items()}, config.rounds, round_done)
    rates = {name: _num_tokens(drawn[name]) / samples.best(name) for name in cases}
    responses = [one for of_want in drawn["engine"] for one in of_want]
    return {
        "rollout_speedup": rates["engine"] / rates["torch"],
        "rollout_speedup_of_full_batches": rates["engine_full"] / rates["torch_full"],
        "rollout_speedup_of_utilisation": (rates["engine"] / rates["engine_full"])
        / (rates["torch"] / rates["torch_full"]),
        "rollout_tokens_per_s": rates["engine"],
        "rollout_torch_tokens_per_s": rates["torch"],
        "rollouts": {
            "torch_rows": best,
            "torch_probe_s": {n: tried.best(str(n)) for n in rows},
            "full_tokens_per_s": {"engine": rates["engine_full"], "torch": rates["torch_full"]},
            "mean_tokens": _num_tokens(drawn["engine"]) / len(responses),
            "share_whole": sum(one.is_whole for one in responses) / len(responses),
            "rounds": samples.summary(),
        },
    }


def _rollers(
    config: TrainBenchConfig, subject: Subject, engine: Engine, base: PreTrainedModel
) -> tuple[int | None, RolloutEngine, Callable[[int], RolloutEngine]]:
    """The hint's bucket, the engine's rollouts, and torch's for a number of rows."""
    shape, start = config.rollouts, config.start
    bucket = loaded = None
    if start is not None:
        bundle, part = shipped(start)
        bucket = max((one for one in bundle.buckets if one <= shape.cap_tokens), default=None)
        loaded = engine.load_adapter(bundle.verified_file(part))
    on_engine = EngineRollouts(
        engine, temperature=shape.temperature, max_running=shape.parallel, adapter=loaded
    )
    about_base = describe_base(engine, subject.path)
    with nullcontext() if start is None else trainable(start, GgufModel(subject.path), about_base) as adapter:
        model = new_adapter(base, LoraSettings() if adapter is None else settings_of(adapter), 0)
        if adapter is not None:
            load_adapter(model, adapter, base_sha256=about_base.sha256)
    policy = MaskedLora(model.eval())  # prompts are encoded every time, as on the engine
    ends = Vocabulary.of(engine).ends
    return (
        bucket,
        on_engine,
        lambda rows: TorchRollouts(policy, ends, temperature=shape.temperature, most_rows=rows),
    )


def _wants(engine: Engine, shape: RolloutShape, bucket: int | None) -> list[Want]:
    """The questions behind opening and hint; without a bucket, behind what makes a bare base think."""
    template, seams = engine.info.template, Seams.of(engine.tokenize)
    return [
        Want(
            prompt=template.encode((Message("user", question),), engine.tokenize),
            forced=seams.opening + (seams.lead_in if bucket is None else seams.hint(bucket)),
            cap_tokens=shape.cap_tokens,
            count=shape.samples,
            seed=1000 * number,
        )
        for number, question in enumerate(QUESTIONS)
    ]


def _num_tokens(drawn: Sequence[Sequence[Drawn]]) -> int:
    """Sampled tokens, ends of turns among them."""
    return sum(len(one.ids) for of_want in drawn for one in of_want)


Measure = Callable[[TrainBenchConfig, Subject, PreTrainedModel, Callable[[], None]], dict[str, Any]]
MEASURES: Final[dict[str, Measure]] = {"step": measure_step, "rollouts": measure_rollouts}
