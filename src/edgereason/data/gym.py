"""Questions that a generator of reasoning-gym makes, with all that tells them from others.

The same generator, size and seed give the same questions in one version of the package.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from typing import Any

from edgereason.data.rows import import_optional
from edgereason.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GymQuestions:
    """Questions of one generator.

    Attributes:
        name: ``reasoning-gym leg_counting``.
        version: of the package.
        sha256: of the questions and answers, in order.
        entries: what the generator made: ``question``, ``answer``, and what else its scorer needs. The answer
            is None for a puzzle with many solutions.
        dataset: the generator; has ``score_answer``.
    """

    name: str
    version: str
    sha256: str
    entries: tuple[dict[str, Any], ...]
    dataset: Any


def make_questions(generator: str, *, size: int, seed: int, called: str) -> GymQuestions:
    """Makes questions; a larger size and the same seed begin with the same ones.

    Args:
        generator: such as ``leg_counting``.
        size: number of questions, >= 1.
        seed: the generator's.
        called: what the user wrote, for messages, such as ``gym:leg_counting``.

    Raises:
        ConfigError: the package is missing, or has no such generator, or it needs settings of its own.
    """
    gym = import_optional("reasoning_gym", f"{called} makes its questions")
    names = sorted(import_optional("reasoning_gym.factory", f"{called} makes its questions").DATASETS)
    if generator not in names:
        near = difflib.get_close_matches(generator.lower(), names, n=3, cutoff=0.4)
        nearest = f"; the nearest are {', '.join(near)}" if near else f"; there are {', '.join(names)}"
        raise ConfigError(f"reasoning-gym has no generator {generator!r}{nearest}")
    try:
        dataset = gym.create_dataset(generator, size=size, seed=seed)
        entries = tuple(dataset[index] for index in range(size))
    except (AssertionError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{called} can't be made with its default settings ({why})") from error
    said = json.dumps([[entry["question"], entry["answer"]] for entry in entries], ensure_ascii=False)
    return GymQuestions(
        name=f"reasoning-gym {generator}",
        version=importlib.metadata.version("reasoning-gym"),
        sha256=hashlib.sha256(said.encode()).hexdigest(),
        entries=entries,
        dataset=dataset,
    )
