"""The recipe of a bundle: one TOML file, a table for each stage, made of the stages' own settings.

::

    name, model                what the bundle is called; what its base is made of
    [data.NAME]                rows of a file, a data set of the hub or a generator; see `data.py`
    [quantize]                 base        left out: the model is used as it is
    [traces.NAME]              traces      made by a teacher, or read
    [sft], [refine]            adapter     from traces; the second goes on from the first
    [shortest], [warm]         adapter     its own shortest right responses, and what it learns from them
    [grpo]                     adapter     keeps its budgets
    [switcher], [verifier]     heads
    [calibration]              threshold of the switcher
    [evaluation.NAME]          figures of the bundle, for its card
    [perplexity]               figures of the base

A table that is left out is a stage that is left out, except for `[sft]`. Unknown settings are refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Self, cast, get_args, get_origin, get_type_hints

from edgereason.config import nearest, parse, read_toml
from edgereason.errors import ConfigError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.likelihood.ppl import WINDOW_TOKENS
from edgereason.quant.learned import StorageConfig
from edgereason.recipe.data import DataConfig
from edgereason.train.data.endpoint import EndpointConfig
from edgereason.train.data.generate import GenerateConfig
from edgereason.train.data.readers import READERS
from edgereason.train.grpo.config import GrpoConfig
from edgereason.train.grpo.recipe import BudgetsConfig
from edgereason.train.grpo.reward import RewardConfig
from edgereason.train.heads.switcher import SwitcherConfig
from edgereason.train.heads.verifier import VerifierConfig
from edgereason.train.lora.adapters import LoraSettings
from edgereason.train.lora.examples import HintConfig
from edgereason.train.lora.loop import TrainConfig
from edgereason.train.quant.end_to_end import EndToEndConfig, LocalConfig
from edgereason.train.quant.student import CorrectionConfig
from edgereason.train.quant.transforms import TransformConfig

_FOLDERS: Final = ("earlier", "smoke", "stages")
"""Beside the bundle."""
BASE: Final = "base"
"""What `teacher` says for the recipe's own base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStage:
    """How the base is made; see `train.quant.run.Recipe`, whose tables these are.

    Attributes:
        name: of the base.
        text: data that it learns from.
    """

    name: str
    text: tuple[str, ...] = ()
    seed: int = 0
    kv8: bool = False
    storage: StorageConfig = field(default_factory=StorageConfig)
    transforms: TransformConfig = field(default_factory=TransformConfig)
    corrections: CorrectionConfig = field(default_factory=CorrectionConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"[quantize] name must be one that a file can have, got {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesStage:
    """One set of traces.

    Attributes:
        data: questions with answers, of which a teacher makes traces; with `format`, traces of others.
        format: of the traces that are read; see `train.data.readers`.
        max_tokens: longest trace that is read; None for what the context holds.
        teacher: a model; "base" is the recipe's own base.
        endpoint: a server whose model is the teacher instead; `model` of it has to be named.
        against: more data whose questions are left out, such as the verifier's.
        generate: how traces are made.
    """

    data: str
    format: str | None = None
    max_tokens: int | None = None
    teacher: str = BASE
    endpoint: EndpointConfig | None = None
    against: tuple[str, ...] = ()
    generate: GenerateConfig = field(default_factory=GenerateConfig)

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in READERS:
            raise ConfigError(
                f"there is no format {self.format!r} of traces: {nearest(self.format, READERS)}"
            )
        if self.endpoint is not None:
            if self.format is not None or self.teacher != BASE or self.generate.calculator:
                raise ConfigError("[traces] endpoint goes with neither format, teacher nor calculator")
            if self.endpoint.model is None:
                raise ConfigError("[traces] endpoint needs a model: what the server calls the teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftStage:
    """A pass of fine-tuning; see `train.lora.run.SftRecipe`.

    Attributes:
        traces: sets of traces by name. `[warm]` has none: it learns from the shortest right responses.
    """

    traces: tuple[str, ...] = ()
    lora: LoraSettings = field(default_factory=LoraSettings)
    hints: HintConfig = field(default_factory=HintConfig)
    training: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoStage:
    """GRPO, or the drawing of shortest right responses; see `train.grpo.recipe.GrpoRecipe`.

    Attributes:
        data: questions with answers.
        against: more data whose questions are left out.
    """

    data: tuple[str, ...]
    against: tuple[str, ...] = ()
    budgets: BudgetsConfig = field(default_factory=BudgetsConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    training: GrpoConfig = field(default_factory=GrpoConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitcherStage:
    """The switcher.

    Attributes:
        data: prompts with labels.
        tests: more of them, which are only judged.
        int8: store weights in 8 bits.
        training: how.
    """

    data: tuple[str, ...]
    tests: tuple[str, ...] = ()
    int8: bool = False
    training: SwitcherConfig = field(default_factory=SwitcherConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierStage:
    """The verifier.

    Attributes:
        data: questions with answers, which nothing before it should have learned from.
        tests: more of them, which are only judged.
        against: more data whose questions are left out.
        int8: store weights in 8 bits.
        training: how.
    """

    data: tuple[str, ...]
    tests: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    int8: bool = False
    training: VerifierConfig = field(default_factory=VerifierConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationStage:
    """Where the switcher begins to think: where these prompts cost the least, or a share of them thinks.

    Attributes:
        data: prompts with labels; for a share also questions.
        needless_cost: of a prompt that thinks without need, where one that should and does not costs 1.
        share: between 0 and 1; given, it decides instead of the cost.
    """

    data: tuple[str, ...]
    needless_cost: float = 1.0
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise ConfigError(f"[calibration] share must be between 0 and 1, as 0.5, got {self.share:g}")
        if not 0 < self.needless_cost < float("inf"):
            raise ConfigError(
                f"[calibration] needless_cost must be above 0, as 1, got {self.needless_cost:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationStage:
    """An evaluation of the bundle.

    Attributes:
        data: local questions; None for those of the task.
        eval: as in a run file of `edgereason eval`, without model and bundle.
    """

    eval: EvalConfig
    data: str | None = None

    def __post_init__(self) -> None:
        for name in ("model", "bundle", "threads"):
            if getattr(self.eval, name) is not None:
                raise ConfigError(f"[evaluation] {name}: the bundle is evaluated; leave the setting out")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityStage:
    """The base's perplexity; see `evals.run.PplConfig`."""

    data: str
    window_tokens: int = WINDOW_TOKENS
    stride_tokens: int | None = None
    limit_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeRecipe:
    """Everything that decides which bundle is made.

    Attributes:
        name: of the bundle.
        model: a name of the catalogue, a GGUF file, or safetensors: a folder or OWNER/NAME of the hub.
    """

    name: str
    model: str
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    quantize: QuantizeStage | None = None
    traces: Mapping[str, TracesStage] = field(default_factory=dict)
    sft: SftStage
    refine: SftStage | None = None
    shortest: GrpoStage | None = None
    warm: SftStage | None = None
    grpo: GrpoStage | None = None
    switcher: SwitcherStage | None = None
    verifier: VerifierStage | None = None
    calibration: CalibrationStage | None = None
    evaluation: Mapping[str, EvaluationStage] = field(default_factory=dict)
    perplexity: PerplexityStage | None = None

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name in _FOLDERS:
            raise ConfigError(
                f"name must be one that a folder can have, and none of {', '.join(_FOLDERS)}, "
                f"got {self.name!r}"
            )
        for table in (self.data, self.traces, self.evaluation):
            for name in table:
                if not name or Path(name).name != name:
                    raise ConfigError(f"names of tables must be names of folders, got {name!r}")
        for where, name in self._data_names():
            if name not in self.data:
                raise ConfigError(f"{where}: there is no [data.{name}]: {nearest(name, self.data)}")
        for where, stage in (("sft", self.sft), ("refine", self.refine)):
            if stage is not None and not stage.traces:
                raise ConfigError(f"[{where}] needs traces: names of [traces.NAME]")
            for name in stage.traces if stage is not None else ():
                if name not in self.traces:
                    raise ConfigError(
                        f"[{where}] traces: there is no [traces.{name}]: {nearest(name, self.traces)}"
                    )
        if (self.shortest is None) != (self.warm is None):
            raise ConfigError("[shortest] and [warm] go together: what is drawn, and how it is learned")
        if self.warm is not None and self.warm.traces:
            raise ConfigError("[warm] traces: it learns from [shortest] alone; leave the setting out")
        if self.calibration is not None and self.switcher is None:
            raise ConfigError("[calibration] sets the switcher's threshold: give [switcher] too")

    def _data_names(self) -> Iterator[tuple[str, str]]:
        """Every mention of data, with where it stands."""
        for where, stage, names in (
            ("quantize", self.quantize, ("text",)),
            *((f"traces.{name}", one, ("data", "against")) for name, one in self.traces.items()),
            ("shortest", self.shortest, ("data", "against")),
            ("grpo", self.grpo, ("data", "against")),
            ("switcher", self.switcher, ("data", "tests")),
            ("verifier", self.verifier, ("data", "tests", "against")),
            ("calibration", self.calibration, ("data",)),
            *((f"evaluation.{name}", one, ("data",)) for name, one in self.evaluation.items()),
            ("perplexity", self.perplexity, ("data",)),
        ):
            for setting in names:
                said = getattr(stage, setting, None)
                for name in (said,) if isinstance(said, str) else said or ():
                    yield f"[{where}] {setting}", name

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = ()) -> Self:
        """Reads a recipe.

        Args:
            path: of the TOML file.
            settings: changes such as "sft.epochs=2"; a table in between may be left out where the name is
                enough.

        Raises:
            ConfigError: it can't be read, or a setting is unknown, missing or wrong.
        """
        tables = read_toml(path)
        for setting in settings:
            _set(cls, tables, setting)
        return parse(cls, tables, path.name)


def plain(config: Any) -> Any:
    """Settings as TOML and JSON have them; those that are None are left out."""
    if is_dataclass(config):
        values = {one.name: getattr(config, one.name) for one in fields(config)}
        return {name: plain(value) for name, value in values.items() if value is not None}
    if isinstance(config, Mapping):
        return {name: plain(value) for name, value in config.items()}
    if isinstance(config, tuple):
        return [plain(one) for one in config]
    return str(config) if isinstance(config, StrEnum | Path) else config


def _set(kind: type, tables: dict[str, Any], setting: str) -> None:
    """Puts "sft.epochs=2" into the tables of a file."""
    name, is_given, value = setting.partition("=")
    if not is_given or not name:
        raise ConfigError(f"--set takes NAME=VALUE, as in sft.epochs=2, got {setting!r}")
    *path, last = _full_name(kind, name.strip().split("."), name)
    for part in path:
        tables = tables.setdefault(part, {})
        if not isinstance(tables, dict):
            raise ConfigError(f"--set {name}: {part} is a value, not a table")
    tables[last] = _value(value.strip())


def _value(text: str) -> Any:
    """A value as TOML spells it, or a text without its quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _full_name(kind: type, parts: Sequence[str], asked: str) -> list[str]:
    """A setting's whole name: "sft.epochs" is "sft.training.epochs", as nothing else there is called so."""
    first, *rest = parts
    children = _children(kind)
    if first not in children:
        found = [[name, *parts] for name, inner in children.items() if inner and first in _children(inner)]
        if len(found) != 1:
            known = [*children, *(name for one in children.values() if one for name in _children(one))]
            several = " and ".join(".".join(one) for one in found)
            why = f"it could be {several}" if found else nearest(first, known)
            raise ConfigError(f"--set {asked}: there is no setting {first!r}: {why}")
        return [found[0][0], *_full_name(cast("type", children[found[0][0]]), parts, asked)]
    inner, is_named = children[first], _is_named(kind, first)
    if not rest:
        return [first]
    if is_named:  # the name of a data set, of traces or of an evaluation
        head, *rest = rest
        return [first, head, *(_full_name(cast("type", inner), rest, asked) if rest else ())]
    if inner is None:
        raise ConfigError(f"--set {asked}: {first} is a value, not a table")
    return [first, *_full_name(inner, rest, asked)]


def _children(kind: type) -> dict[str, type | None]:
    """A dataclass's settings by name, with the dataclass that those are made of which are tables."""
    found: dict[str, type | None] = {}
    hints = get_type_hints(kind)
    for name in (one.name for one in fields(kind)):
        hint = hints[name]
        kinds = get_args(hint) if get_origin(hint) in (UnionType, Mapping) else (hint,)
        inner = [one for one in kinds if one is not NoneType and is_dataclass(one)]
        found[name] = cast("type", inner[0]) if inner else None
    return found


def _is_named(kind: type, name: str) -> bool:
    return get_origin(get_type_hints(kind)[name]) is Mapping
