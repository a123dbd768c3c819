"""What GRPO needs of an engine: questions, hints and vocabulary in ids, and a rollouts on the current
adapter.

::

    policy ─ saved for PEFT ─ exported as it will ship ─→ GGUF ─ loaded in place of the one before ─→ rollouts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgereason.config import load_json
from edgereason.core.bundle import write_atomically
from edgereason.core.chat import Seams
from edgereason.core.types import Message
from edgereason.engine.base import Engine
from edgereason.errors import ConfigError
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.questions import Question, read_questions, require_unique_ids, usable
from edgereason.train.grpo.config import GrpoConfig
from edgereason.train.grpo.groups import Problem
from edgereason.train.grpo.recipe import Material, ReloadAdapter
from edgereason.train.grpo.rollout import EngineRollouts, RolloutEngine, Vocabulary
from edgereason.train.grpo.torch_rollout import TorchRollouts
from edgereason.train.lora.adapters import export_adapter, grid_for, settings_of
from edgereason.train.lora.masked_lora import MaskedLora


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSources:
    """Where questions come from.

    Attributes:
        sources: files, ``reasoning-gym:NAME`` or ``reasoning-gym:NAME:COUNT``.
        against: evaluation files; a question that one of them asks is left out.
        limit: only the first so many of each source; None for all.
    """

    sources: Sequence[str]
    against: Sequence[Path] = ()
    limit: int | None = None

    def usable(self, seed: int) -> tuple[list[Question], dict[str, Any]]:
        """Questions that no evaluation asks, each once, and what a record says of where they are from.

        Args:
            seed: of generators.

        Raises:
            ConfigError: a source can't be read, or two questions have one id.
        """
        read = [read_questions(source, limit=self.limit, seed=seed) for source in self.sources]
        require_unique_ids(question for source in read for question in source.questions)
        evaluations = Evaluations.read(self.against)
        chosen, counts = usable(read, evaluations)
        entries = [dict(source.entry) for source in read]
        return chosen, {"questions": entries, "left_out": counts, "against": list(evaluations.files)}


def material_of(engine: Engine, questions: Sequence[Question], buckets: Sequence[int]) -> Material:
    """Questions as the engine's model is asked them."""
    template, seams = engine.info.template, Seams.of(engine.tokenize)
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
        context_tokens=engine.info.train_context_tokens,
    )


def write_material(path: Path, material: Material) -> None:
    """Writes it as JSON, for a machine that has no engine."""
    vocabulary = material.vocabulary
    content = {
        "problems": [asdict(problem) for problem in material.problems],
        "opening": material.opening,
        "hints": {str(bucket): ids for bucket, ids in material.hints.items()},
        "pieces": [piece.decode("latin-1") for piece in vocabulary.pieces],
        "ends": sorted(vocabulary.ends),
        "context_tokens": material.context_tokens,
    }
    write_atomically(path, json.dumps(content))


def read_material(path: Path) -> Material:
    """Reads what `write_material` wrote.

    Raises:
        ConfigError: it is not one.
    """
    try:
        content = load_json(path.read_text("utf-8"))
        return Material(
            problems=[Problem(**one | {"prompt": tuple(one["prompt"])}) for one in content["problems"]],
            opening=tuple(content["opening"]),
            hints={int(bucket): tuple(ids) for bucket, ids in content["hints"].items()},
            vocabulary=Vocabulary(
                tuple(piece.encode("latin-1") for piece in content["pieces"]), frozenset(content["ends"])
            ),
            context_tokens=content["context_tokens"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no material of `write_material`: {error}") from error


def engine_rollouts(
    engine: Engine, base: GgufModel, base_sha256: str, config: GrpoConfig, folder: Path
) -> ReloadAdapter:
    """Rollouts on the engine, each update's on the adapter as it would ship then.

    Args:
        engine: of the base; used by nobody else.
        base: the same file.
        folder: for the current adapter; one of every process.
    """
    rollouts = EngineRollouts(
        engine,
        temperature=config.temperature,
        max_running=config.parallel,
        calculator=config.calculator,
    )

    def reload_adapter(policy: MaskedLora, save: Callable[[Path], None]) -> RolloutEngine:
        def write(target: Path) -> None:
            save(folder)
            grid = grid_for(settings_of(folder).rank)
            export_adapter(folder, base, target, base_sha256=base_sha256, grid=grid)

        rollouts.reload_adapter(write, folder / "reasoning.gguf")
        return rollouts

    return reload_adapter


def torch_rollouts(vocabulary: Vocabulary, config: GrpoConfig) -> ReloadAdapter:
    """Rollouts in torch, on the policy itself."""

    def reload_adapter(policy: MaskedLora, save: Callable[[Path], None]) -> RolloutEngine:
        return TorchRollouts(
            policy,
            vocabulary.ends,
            temperature=config.temperature,
            most_rows=config.parallel,
            calculates=vocabulary if config.calculator else None,
        )

    return reload_adapter
