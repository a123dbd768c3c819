"""What GRPO needs of an engine: questions, hints and vocabulary in ids, and a roller on the current adapter.

::

    policy ─ saved for PEFT ─ exported as it will ship ─→ GGUF ─ loaded in place of the one before ─→ roller

Knows engines, questions and adapters' files; does not know rewards, groups or trainers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgereason.core.chat import ChatTemplate, Seams
from edgereason.core.types import Message
from edgereason.engine.base import Engine
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.adapters import export_adapter, grid_for, settings_of
from edgereason.train.groups import Problem
from edgereason.train.grpo import Material, Swap
from edgereason.train.grpo_loop import GrpoConfig
from edgereason.train.masked_lora import MaskedLora
from edgereason.train.questions import Question
from edgereason.train.rollout import EngineRoller, Roller, Vocabulary
from edgereason.train.torch_rollout import TorchRoller


def material_of(engine: Engine, questions: Sequence[Question], buckets: Sequence[int]) -> Material:
    """Questions as the engine's model is asked them."""
    info, seams = engine.info, Seams.of(engine.tokenize)
    template = ChatTemplate(info.chat_template, info.bos_text, info.eos_text, add_bos=info.add_bos)
    return Material(
        problems=[
            Problem(
                id=question.id,
                text=question.text,
                reference=question.reference,
                prompt=template.encode((Message("user", question.text),), engine.tokenize),
            )
            for question in questions
        ],
        opening=seams.opening,
        hints={bucket: seams.hint(bucket) for bucket in buckets},
        vocabulary=Vocabulary.of(engine),
        context_tokens=info.train_context_tokens,
    )


def engine_swap(engine: Engine, base: GgufModel, base_sha256: str, config: GrpoConfig, folder: Path) -> Swap:
    """Rollouts on the engine, each update's on the adapter as it would ship then.

    Args:
        engine: of the base; used by nobody else.
        base: the same file.
        folder: for the current adapter; one of every process.
    """
    roller = EngineRoller(engine, temperature=config.temperature, max_running=config.parallel)

    def swap(policy: MaskedLora, save: Callable[[Path], None]) -> Roller:
        def write(target: Path) -> None:
            save(folder)
            grid = grid_for(settings_of(folder).rank)
            export_adapter(folder, base, target, base_sha256=base_sha256, grid=grid)

        roller.swap(write, folder / "reasoning.gguf")
        return roller

    return swap


def torch_swap(vocabulary: Vocabulary, config: GrpoConfig) -> Swap:
    """Rollouts in torch, on the policy itself."""

    def swap(policy: MaskedLora, save: Callable[[Path], None]) -> Roller:
        return TorchRoller(policy, vocabulary.ends, temperature=config.temperature)

    return swap
