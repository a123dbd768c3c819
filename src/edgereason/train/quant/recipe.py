"""A recipe: everything that decides which bytes a base has, but the teacher's weights and the text.

::

    [base]          its name, the teacher's hash, the seed
    [storage]       grids and the rule for scales
    [transforms]    which of the four
    [corrections]   what else is learned
    [local]         data-free pre-optimisation
    [end_to_end]    training against the teacher

Knows tables and their dataclasses; each dataclass lies beside its consumer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgereason.config import read_tables, to_table
from edgereason.quant.learned import Storage
from edgereason.train.quant.end_to_end import EndToEndConfig
from edgereason.train.quant.local import LocalConfig
from edgereason.train.quant.student import CorrectionConfig
from edgereason.train.quant.transforms import TransformConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """What the base is made from.

    Attributes:
        name: what it will be called.
        teacher_sha256: of the GGUF that it must be made from; None takes any.
        seed: of everything drawn.
        kv8: train with keys and values simulated as Q8_0.
    """

    name: str
    teacher_sha256: str | None = None
    seed: int = 0
    kv8: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """See the module's picture."""

    base: BaseConfig
    storage: Storage = field(default_factory=Storage)
    transforms: TransformConfig = field(default_factory=TransformConfig)
    corrections: CorrectionConfig = field(default_factory=CorrectionConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Reads a TOML file.

        Raises:
            ConfigError: a table or setting that is not understood, or out of range.
        """
        kinds = {
            "base": BaseConfig,
            "storage": Storage,
            "transforms": TransformConfig,
            "corrections": CorrectionConfig,
            "local": LocalConfig,
            "end_to_end": EndToEndConfig,
        }
        return cls(**read_tables(path, kinds))

    def to_tables(self) -> dict[str, dict[str, Any]]:
        """The resolved recipe, as TOML spells it."""
        return {one.name: to_table(getattr(self, one.name)) for one in fields(self)}

    @property
    def sha256(self) -> str:
        """Of the resolved settings: two files that say the same have the same."""
        return hashlib.sha256(json.dumps(self.to_tables(), sort_keys=True).encode()).hexdigest()

    @property
    def learns(self) -> bool:
        """Whether anything has to be learned; else a rule alone makes the base."""
        some = self.transforms
        return bool(self.end_to_end.steps) or any((some.residual, some.keys, some.values, some.up))
