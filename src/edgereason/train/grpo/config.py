"""How GRPO trains: settings, and whether they go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from edgereason.core.types import MAX_STREAMS
from edgereason.errors import ConfigError
from edgereason.train.data.trackers import require_trackers

_LEAST: Final = {
    **dict.fromkeys(("steps", "prompts", "micro_rows", "parallel"), 1),
    **dict.fromkeys(("rewarm_steps", "beta", "redraws", "cached_prompt_bytes", "checkpoint_minutes"), 0),
    "samples": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """How to train.

    A run that goes on may change four settings. `checkpoint_minutes`, `cached_prompt_bytes` and
    `checkpoint_activations` change no bit of the adapter. `micro_rows` changes the order of sums, and so the
    last bits, and over how many passes the figures of KL and entropy are averaged.

    Attributes:
        steps: updates.
        prompts: problems of an update, over all processes.
        samples: G, responses of each that are learned from.
        draws: responses of each that are drawn, the most unlike to be learned from; None for `samples`.
        micro_rows: responses of a forward pass in one process.
        learning_rate: at its highest.
        warmup: share of the steps in which the rate rises; then it falls as a cosine.
        rewarm_steps: over which it rises again after a light checkpoint.
        scale_rewards: what advantages are divided by: the spread of rewards within the group, as in the
            paper, or within the update: a few tokens more or less among right responses then count for less
            than right or wrong.
        beta: weight of the KL to the adapter that the run began with.
        unbiased_kl: whether the KL's terms are weighed by the ratio: only then is their gradient the KL's
            own, which grows with the distance; that of the paper's is bounded.
        epsilon: of the clipped ratio.
        temperature: of rollouts and log-probabilities.
        redraws: how often groups whose responses are all worth the same are replaced.
        rollouts: where responses are drawn: on the engine that ships, or in torch, for a GPU.
        parallel: responses that are drawn at a time.
        calculator: whether exact results of arithmetic are forced in rollouts; the bundle then has it too.
        dtype: of the base and of matrix products; adapter and optimizer are float32.
        checkpoint_activations: compute layers again in the backward pass: less memory, a third more time.
        cached_prompt_bytes: for prompts' keys and values.
        checkpoint_minutes: between checkpoints.
        report_to: trackers that transformers tells of every update, beside `metrics.jsonl`: "tensorboard",
            "trackio", "wandb", "mlflow"; their packages have to be installed.
    """

    steps: int = 40
    prompts: int = 4
    samples: int = 8
    draws: int | None = None
    micro_rows: int = 8
    learning_rate: float = 1e-4
    warmup: float = 0.05
    rewarm_steps: int = 4
    scale_rewards: Literal["group", "batch"] = "group"
    beta: float = 1e-3
    unbiased_kl: bool = False
    epsilon: float = 0.2
    temperature: float = 0.8
    redraws: int = 2
    rollouts: Literal["engine", "torch"] = "engine"
    parallel: int = 32
    calculator: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpoint_activations: bool = False
    cached_prompt_bytes: int = 1_000_000_000
    checkpoint_minutes: float = 10.0
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_trackers(self.report_to)
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"[training] {name} must be {least} or more, got {value:g}")
        for name in ("learning_rate", "temperature"):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(f"[training] {name} must be above 0, got {value:g}")
        if not 0 <= self.warmup < 1 or not 0 < self.epsilon < 1:
            raise ConfigError(
                "[training] warmup must be from 0 to below 1 and epsilon between 0 and 1, got "
                f"{self.warmup:g} and {self.epsilon:g}"
            )
        for name in ("samples", "parallel"):
            if (value := getattr(self, name)) > MAX_STREAMS:
                raise ConfigError(f"[training] {name} must be at most {MAX_STREAMS}, got {value}")
        if self.draws is not None and not self.samples <= self.draws <= MAX_STREAMS:
            raise ConfigError(
                f"[training] draws must be from samples = {self.samples} to {MAX_STREAMS}, got {self.draws}"
            )

    def accumulated(self, num_processes: int) -> int:
        """Forward passes of one process for an update.

        Raises:
            ConfigError: the responses of an update can't be shared out evenly, or a group would be split.
        """
        together = self.micro_rows * num_processes
        if self.prompts % num_processes or self.prompts * self.samples % together:
            raise ConfigError(
                f"[training] {self.prompts} prompts × {self.samples} samples can't be shared out to "
                f"{num_processes} processes with micro_rows = {self.micro_rows}: every process takes whole "
                "groups, and their responses in whole forward passes"
            )
        return self.prompts * self.samples // together
