"""What drawing on the engine saves: the same responses asked for there, and of transformers in float32.

::

    useful tokens a second = tokens of a second of full batches  ×  share of the rows that still speak
                             (weights of 4 bits, kernels)           (a place that is free is filled again)

Knows rollers and wants; does not know clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from transformers import PreTrainedModel

from edgereason.core.chat import Seams
from edgereason.core.types import Message
from edgereason.engine.base import Engine
from edgereason.errors import ConfigError
from edgereason.train.grpo.rollout import Drawn, EngineRoller, Roller, Vocabulary, Want
from edgereason.train.grpo.torch_rollout import TorchRoller
from edgereason.train.lora.adapters import LoraSettings, load_adapter, new_adapter, settings_of
from edgereason.train.lora.masked_lora import MaskedLora

PROBE_TOKENS: Final = 16
"""Of every response, where full batches are measured."""

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


def wants(engine: Engine, shape: RolloutShape, bucket: int | None) -> list[Want]:
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


def rollers(
    engine: Engine,
    base: PreTrainedModel,
    shape: RolloutShape,
    *,
    adapter: Path | None = None,
    adapter_gguf: Path | None = None,
    base_sha256: str = "",
) -> tuple[Roller, Callable[[int], Roller]]:
    """The engine's roller, and torch's for a number of rows; on the same adapter, or on none.

    Args:
        engine: of the base that ships.
        base: the same in torch; is given an adapter.
        shape: of the draws.
        adapter: saved for PEFT; `adapter_gguf` is the same for the engine.
        base_sha256: of the base, which the adapter must be for.
    """
    loaded = None if adapter_gguf is None else engine.load_adapter(adapter_gguf)
    on_engine = EngineRoller(
        engine, temperature=shape.temperature, max_running=shape.parallel, adapter=loaded
    )
    model = new_adapter(base, LoraSettings() if adapter is None else settings_of(adapter), 0)
    if adapter is not None:
        load_adapter(model, adapter, base_sha256=base_sha256)
    policy = MaskedLora(model.eval())  # prompts are encoded every time, as on the engine
    ends = Vocabulary.of(engine).ends
    return on_engine, lambda rows: TorchRoller(policy, ends, temperature=shape.temperature, most_rows=rows)


def probes(asked: Sequence[Want]) -> list[Want]:
    """The same, cut before any response is likely to have ended: full batches."""
    return [replace(want, cap_tokens=PROBE_TOKENS) for want in asked]


def num_tokens(drawn: Sequence[Sequence[Drawn]]) -> int:
    """Sampled tokens, ends of turns among them."""
    return sum(len(one.ids) for of_want in drawn for one in of_want)
