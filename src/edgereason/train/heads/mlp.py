"""The mathematics of the switcher's training: features and labels in, an MLP out.

Mean BCE, by AdamW. In training, independent Gaussian noise is added to the normalised features, for
robustness to quantization, and hidden units are dropped. Several networks are trained at once, each from its
own first weights, and averaged in their logits: that is one network of as many more units, and no row is
needed to choose among them. How many epochs are best, `cross_validation` says.

Source: paper section 4 (8 units, noise of 0.5, dropout 0.2). Deviations: the noise is on normalised features,
so that 0.5 means the same for every model; and the average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from edgereason.heads.base import Array
from edgereason.heads.features import Features
from edgereason.heads.switcher import MlpSwitcher
from edgereason.train.heads.linear import Calibration, Labels, Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig:
    """How a switcher is trained.

    Attributes:
        hidden_units: of one network.
        restarts: networks, which are averaged.
        noise_std: of the Gaussian noise on normalised features.
        max_epochs: that may be chosen.
    """

    seed: int = 0
    hidden_units: int = 8
    restarts: int = 5
    noise_std: float = 0.5
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    batch_rows: int = 64
    max_epochs: int = 40


def train_mlp(
    rows: Array,
    labels: Labels,
    num_epochs: int,
    config: MlpConfig,
    features: Features | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> MlpSwitcher | None:
    """The switcher after so many epochs; None if stopped.

    Args:
        rows: (N, F) features, as they come; they are also normalised by.
        labels: (N,), whether to think.
        num_epochs: at most the configuration's.
        config: how.
        features: which they are.
    """
    with one_thread():
        for epoch, head in enumerate(by_epoch(rows, labels, config, features), 1):
            if should_stop():
                return None
            if epoch == num_epochs:
                return head
    raise AssertionError(f"{num_epochs} epochs of at most {config.max_epochs}")


def by_epoch(
    rows: Array, labels: Labels, config: MlpConfig, features: Features | None = None
) -> Iterator[MlpSwitcher]:
    """The switcher after every epoch; arguments as for `train_mlp`."""
    scale = Scale.of(rows)
    x, y = torch.from_numpy(scale(rows)), torch.from_numpy(labels.astype(np.float32))
    random = torch.Generator().manual_seed(config.seed)
    networks = _Networks(x.shape[1], config, random)
    optimizer = torch.optim.AdamW(
        networks.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for _ in range(config.max_epochs):
        for chosen in torch.split(torch.randperm(len(x), generator=random), config.batch_rows):
            noise = torch.randn(len(chosen), x.shape[1], generator=random)
            logits = networks(x[chosen] + config.noise_std * noise)
            targets = y[chosen, None].expand_as(logits)
            # Each network has its own mean: as if it were trained alone.
            loss = functional.binary_cross_entropy_with_logits(logits, targets) * config.restarts
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield networks.averaged(scale, features or Features())


class _Networks(torch.nn.Module):
    """Networks side by side: (B, F) → (B, R) logits; R · U hidden units, of which each sees its own U."""

    def __init__(self, num_features: int, config: MlpConfig, random: torch.Generator) -> None:
        super().__init__()
        self._random, self._dropout = random, config.dropout
        self._shape = config.restarts, config.hidden_units
        units = config.restarts * config.hidden_units

        def uniform(fan_in: int, *shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter((torch.rand(shape, generator=random) * 2 - 1) / math.sqrt(fan_in))

        self.hidden_weight, self.hidden_bias = (
            uniform(num_features, units, num_features),
            uniform(num_features, units),
        )
        self.output_weight = uniform(config.hidden_units, *self._shape)
        self.output_bias = uniform(config.hidden_units, config.restarts)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(functional.linear(rows, self.hidden_weight, self.hidden_bias))
        kept = torch.rand(hidden.shape, generator=self._random) >= self._dropout
        hidden = (hidden * kept / (1 - self._dropout)).view(-1, *self._shape)
        return (hidden * self.output_weight).sum(dim=2) + self.output_bias

    def averaged(self, scale: Scale, features: Features) -> MlpSwitcher:
        """One head, whose logit is the mean of theirs."""
        hidden_weight, hidden_bias, output_weight, output_bias = (
            parameter.detach().numpy().copy() for parameter in self.parameters()
        )
        return MlpSwitcher(
            mean=scale.mean,
            std=scale.std,
            hidden_weight=hidden_weight,
            hidden_bias=hidden_bias,
            output_weight=(output_weight / len(output_bias)).reshape(1, -1).astype(np.float32),
            output_bias=output_bias.mean(keepdims=True),
            features=features,
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread: on busy cores, steps this small take ten times as long with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def calibrated_mlp(head: MlpSwitcher, by: Calibration) -> MlpSwitcher:
    """The switcher with slope and offset in its last layer."""
    return replace(
        head,
        output_weight=(head.output_weight * by.slope).astype(np.float32),
        output_bias=(head.output_bias * by.slope + by.offset).astype(np.float32),
    )
