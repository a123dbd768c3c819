"""The mathematics of the verifier's training, and of calibration: arrays in, a linear layer out.

::

    layer         least mean BCE + λ/2 ‖w‖² over normalised rows
    λ             the one with the least loss on rows left out, whole questions at a time
    calibration   P = σ(a·logit + b), a and b by Platt's rule on logits of rows not trained on

Source: paper section 6 (linear layer and sigmoid, BCE). Deviation: states are normalised; the L2 term and the
calibration are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from edgereason.heads.base import Array, sigmoid
from edgereason.heads.reliability import ece

Labels = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


class Scale(NamedTuple):
    """Mean and standard deviation of each of H numbers; a number that never differs keeps its size."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, rows: Array) -> Scale:
        """Over rows, (N, H)."""
        std = rows.std(axis=0, dtype=np.float64)
        return cls(
            rows.mean(axis=0, dtype=np.float64).astype(np.float32),
            np.where(std < 1e-6, 1, std).astype(np.float32),
        )

    def __call__(self, rows: Array) -> Array:
        """Rows, normalised."""
        return np.asarray((rows - self.mean) / self.std, np.float32)


class Linear(NamedTuple):
    """A linear layer with one output: w (H,) and b."""

    weight: Doubles
    bias: float

    def logits(self, rows: Array | Doubles) -> Doubles:
        """(N, H) → (N,)."""
        return np.asarray(rows @ self.weight + self.bias, np.float64)


def train_logistic(rows: Array | Doubles, targets: Doubles, l2: float, start: Linear | None = None) -> Linear:
    """The minimum of mean BCE + l2/2 ‖w‖², in double precision; the bias is free.

    Args:
        rows: (N, H), normalised.
        targets: (N,) in [0, 1].
        l2: λ, above 0 unless the rows can't be separated.
        start: where to begin.
    """
    x, y = torch.from_numpy(rows.astype(np.float64)), torch.from_numpy(targets)
    first = start or Linear(np.zeros(rows.shape[1]), 0.0)
    weight = torch.tensor(first.weight, requires_grad=True)
    bias = torch.tensor(first.bias, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(x @ weight + bias, y) + l2 / 2 * weight @ weight
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Linear(weight.detach().numpy().copy(), float(bias.detach()))


class CrossValidated(NamedTuple):
    """What folds said of L2 terms.

    Attributes:
        l2: with the least loss on rows left out.
        losses: mean BCE of rows left out, by L2 term.
        logits: (N,), of every row by the layer that was trained without its fold, under the chosen term.
    """

    l2: float
    losses: dict[float, float]
    logits: Doubles


def cross_validate(
    states: Array,
    labels: Labels,
    folds: Indices,
    candidates: Sequence[float],
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CrossValidated | None:
    """Which L2 term does best on rows left out; None if stopped.

    Args:
        states: (N, H), as they come; each fold's layer normalises by the rows that it sees.
        labels: (N,).
        folds: (N,), the number of the fold in which a row is left out.
        candidates: L2 terms.
        progress: told after every fold.
    """
    targets = labels.astype(np.float64)
    strong_first = sorted(candidates, reverse=True)
    logits = {l2: np.empty(len(labels)) for l2 in candidates}
    numbers = np.unique(folds)
    for done, number in enumerate(numbers, 1):
        left_out = folds == number
        scale, layer = Scale.of(states[~left_out]), None
        seen, unseen = scale(states[~left_out]), scale(states[left_out])
        for l2 in strong_first:
            if should_stop():
                return None
            layer = train_logistic(seen, targets[~left_out], l2, layer)
            logits[l2][left_out] = layer.logits(unseen)
        progress(done, len(numbers))
    losses = {l2: log_loss(logits[l2], targets) for l2 in candidates}
    best = min(strong_first, key=lambda l2: losses[l2])
    return CrossValidated(best, losses, logits[best])


def log_loss(logits: Doubles, targets: Doubles) -> float:
    """Mean binary cross-entropy: log(1 + e^z) − y z."""
    return float(np.mean(np.logaddexp(0, logits) - targets * logits))


class Calibration(NamedTuple):
    """σ(slope · logit + offset); and the calibration error on the rows it is from, without and with it."""

    slope: float
    offset: float
    ece_on_fit_rows_before: float
    ece_on_fit_rows_after: float

    def __call__(self, logits: Doubles) -> Doubles:
        """Logits, calibrated."""
        return self.slope * logits + self.offset

    @property
    def keeps_order(self) -> bool:
        """Whether it is of use: a slope that is not above 0 says that the logits tell nothing."""
        return self.slope > 0


def calibrate(logits: Doubles, labels: Labels) -> Calibration:
    """Slope and offset that make probabilities of logits of rows not trained on.

    Source: Platt 1999, with his targets (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2) instead of 1 and 0, which keep the
    slope finite where logits separate the labels.
    """
    num_true = int(labels.sum())
    targets = np.where(labels, (num_true + 1) / (num_true + 2), 1 / (len(labels) - num_true + 2))
    unit = float(logits.std()) or 1.0
    layer = train_logistic(logits[:, None] / unit, targets, 0.0)
    slope, offset = float(layer.weight[0]) / unit, layer.bias
    before, after = (sigmoid(z.astype(np.float32)) for z in (logits, slope * logits + offset))
    return Calibration(slope, offset, ece(before, labels), ece(after, labels))


def calibrated_linear(layer: Linear, by: Calibration) -> Linear:
    """The linear layer with slope and offset in it."""
    return Linear(layer.weight * by.slope, layer.bias * by.slope + by.offset)
