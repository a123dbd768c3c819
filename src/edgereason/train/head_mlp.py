"""The mathematics of the switcher's training: features and labels in, an MLP out.

Mean BCE, by AdamW. In training, independent Gaussian noise is added to the normalised features, for
robustness to quantization, and hidden units are dropped. Of all epochs of all restarts, the weights with the
least loss on the validation rows are kept.

Source: paper section 4 (noise of 0.5, dropout 0.2). Deviation: the noise is on normalised features, so that
0.5 means the same for every model.

Knows arrays; does not know prompts, engines or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from edgereason.heads.base import Array
from edgereason.heads.switcher import MlpSwitcher
from edgereason.train.head_linear import Calibration, Indices, Labels, Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig:
    """How a switcher is trained.

    Attributes:
        noise_std: of the Gaussian noise on normalised features.
        patience_epochs: without a better validation loss, until a restart ends.
        restarts: from other first weights; the one with the least validation loss is kept.
    """

    hidden_units: int = 8
    noise_std: float = 0.5
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    batch_rows: int = 64
    max_epochs: int = 200
    patience_epochs: int = 20
    restarts: int = 5
    seed: int = 0


class TrainedMlp(NamedTuple):
    """A switcher, where it was found, and how good it is there."""

    head: MlpSwitcher
    restart: int
    epoch: int
    validation_loss: float


def train_mlp(
    features: Array,
    labels: Labels,
    train: Indices,
    validation: Indices,
    config: MlpConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainedMlp | None:
    """The switcher with the least validation loss over all epochs and restarts; None if stopped.

    Args:
        features: (N, H), as they come.
        labels: (N,), whether to think.
        train: rows to learn from, and to normalise by.
        validation: rows to choose by.
        progress: told after every restart.
    """
    scale = Scale.of(features[train])
    rows = torch.from_numpy(scale(features))
    targets = torch.from_numpy(labels.astype(np.float32))
    best: TrainedMlp | None = None
    for restart in range(config.restarts):
        least, least_epoch = np.inf, 0
        with torch.random.fork_rng(devices=[]), _one_thread():
            torch.manual_seed(config.seed + restart)
            for epoch, network in enumerate(_epochs(rows[train], targets[train], config), 1):
                if should_stop():
                    return None
                with torch.no_grad():
                    logits = network(rows[validation])[:, 0]
                    loss = float(functional.binary_cross_entropy_with_logits(logits, targets[validation]))
                if best is None or loss < best.validation_loss:
                    best = TrainedMlp(_switcher(scale, network), restart, epoch, loss)
                if loss < least:
                    least, least_epoch = loss, epoch
                if epoch - least_epoch >= config.patience_epochs:
                    break
        progress(restart + 1, config.restarts)
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread: on busy cores, steps this small take ten times as long with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _epochs(rows: torch.Tensor, targets: torch.Tensor, config: MlpConfig) -> Iterator[torch.nn.Sequential]:
    """The network after every epoch, in evaluation mode."""
    network = torch.nn.Sequential(
        torch.nn.Linear(rows.shape[1], config.hidden_units),
        torch.nn.ReLU(),
        torch.nn.Dropout(config.dropout),
        torch.nn.Linear(config.hidden_units, 1),
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for _ in range(config.max_epochs):
        network.train()
        for chosen in torch.split(torch.randperm(len(rows)), config.batch_rows):
            noisy = rows[chosen] + config.noise_std * torch.randn(len(chosen), rows.shape[1])
            loss = functional.binary_cross_entropy_with_logits(network(noisy)[:, 0], targets[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield network.eval()


def _switcher(scale: Scale, network: torch.nn.Sequential) -> MlpSwitcher:
    hidden_weight, hidden_bias, output_weight, output_bias = (
        parameter.detach().numpy().copy() for parameter in network.parameters()
    )
    return MlpSwitcher(
        mean=scale.mean,
        std=scale.std,
        hidden_weight=hidden_weight,
        hidden_bias=hidden_bias,
        output_weight=output_weight,
        output_bias=output_bias,
    )


def calibrated_mlp(head: MlpSwitcher, by: Calibration) -> MlpSwitcher:
    """The switcher with slope and offset in its last layer."""
    return replace(
        head,
        output_weight=(head.output_weight * by.slope).astype(np.float32),
        output_bias=(head.output_bias * by.slope + by.offset).astype(np.float32),
    )
