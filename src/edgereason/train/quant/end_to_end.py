"""End-to-end training of transforms and corrections against the float teacher.

::

    windows of calibration text ─┬─ teacher (float)  → logits ┐
                                 └─ student (stored) → logits ┴─ JSD on all of the vocabulary, token by token
    JSD = ½ KL(p ‖ m) + ½ KL(q ‖ m),  m = (p + q) / 2

The head's logits are formed for `_CHUNK` tokens at a time and their gradients gathered at the hidden states.
A step's windows follow from its number, so a run that was killed goes on as if it had not been.

Source: paper section 5 (FPTQuant's end-to-end step). Deviation: steps, rates and lengths are ours (they are
not published), sized to the machine; see the recipes.

Before training, `pre_optimise` moves the transforms to where weights are evenest, without any text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgereason.errors import ConfigError
from edgereason.train.quant.checkpoint import Checkpoint
from edgereason.train.quant.student import Student

_POWER: Final = 4
_ROWS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """How long to pre-optimise.

    Attributes:
        steps: 0 for not at all.
        learning_rate: of AdamW.
        layers: looked at in each step.
    """

    steps: int = 0
    learning_rate: float = 1e-2
    layers: int = 4

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate <= 0 or self.layers < 1:
            raise ConfigError(f"[local] needs steps ≥ 0, learning_rate > 0 and layers ≥ 1, got {self}")


def unevenness(weight: Tensor) -> Tensor:
    """(mean |W|⁴)^¼."""
    return weight.pow(_POWER).mean().pow(1 / _POWER)


def pre_optimise(
    student: Student,
    config: LocalConfig,
    seed: int,
    report: Callable[[int, float], None],
    should_stop: Callable[[], bool],
) -> None:
    """Moves the student's transforms to where its weights are evenest.

    Args:
        report: told (steps done, loss) after each.
        should_stop: leaves the transforms where they are.
    """
    parameters = list(student.transforms.parameters())
    if not parameters or not config.steps:
        return
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    random = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        if should_stop():
            return
        loss = student.unevenness(unevenness, config.layers, _ROWS, random)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())


_CHUNK: Final = 256

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEndConfig:
    """How to train.

    Attributes:
        steps: 0 for not at all.
        windows: texts in a step.
        window_tokens: length of each.
        transforms_rate: learning rate of T_k, T_u and T_v; 0 leaves them where local optimisation put them.
        rotation_rate: of T_r's parameters; 0 leaves it.
        corrections_rate: of factors by row, gains and biases.
        warmup: share of the steps in which the rates rise; then they fall as a cosine.
        refresh_steps: steps between searches for scales.
        dtype: of matrix products; bfloat16 is quick where the processor has it, and slow elsewhere.
    """

    steps: int = 0
    windows: int = 4
    window_tokens: int = 512
    transforms_rate: float = 1e-3
    rotation_rate: float = 1e-4
    corrections_rate: float = 1e-3
    warmup: float = 0.05
    refresh_steps: int = 25
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        rates = (self.transforms_rate, self.rotation_rate, self.corrections_rate)
        if self.steps < 0 or self.windows < 1 or self.window_tokens < 2 or self.refresh_steps < 1:
            raise ConfigError(
                "[end_to_end]: steps ≥ 0, windows ≥ 1, window_tokens ≥ 2 and refresh_steps ≥ 1 are wanted"
            )
        if min(rates) < 0 or not 0 <= self.warmup < 1:
            raise ConfigError("[end_to_end] needs rates ≥ 0 and a warmup from 0 to below 1")

    @property
    def num_tokens(self) -> int:
        """Tokens that all steps take together."""
        return self.steps * self.windows * self.window_tokens


@dataclass(frozen=True, slots=True)
class DistillStep:
    """A step of training; `loss` is the mean JSD of a token, in nats."""

    step: int
    steps: int
    loss: float
    grad_norm: float


def jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon divergence of each row, in nats: 0 for equal ones, ln 2 for disjoint ones.

    Args:
        student: (n, vocabulary) logits.
        teacher: (n, vocabulary) logits.
    """
    log_p, log_q = torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)


def num_windows(texts: Sequence[Ids], window_tokens: int) -> int:
    """Whole windows that the texts can be cut into."""
    return sum(len(ids) // window_tokens for ids in texts)


def draw_windows(texts: Sequence[Ids], window_tokens: int, count: int, seed: int) -> Ids:
    """(count, window_tokens): windows of all texts in turn, each text's own in random order.

    A text that is used up leaves its turns to the others. The same seed and texts give the same windows, and
    fewer of them are the first ones.
    """
    random = np.random.default_rng(seed)
    piles = []
    for ids in texts:
        whole = len(ids) // window_tokens
        cut = ids[: whole * window_tokens].reshape(whole, window_tokens)
        piles.append(iter(cut[random.permutation(whole)]))
    turns = chain.from_iterable(zip_longest(*piles))
    return np.stack(list(islice((window for window in turns if window is not None), count)))


def require_text(texts: Sequence[Ids], config: EndToEndConfig, more_windows: int) -> None:
    """Refuses texts that the steps would have to read twice.

    Args:
        more_windows: needed beside those of the steps.

    Raises:
        ConfigError: with how many tokens there are and how many are needed.
    """
    needed = config.steps * config.windows + more_windows
    if num_windows(texts, config.window_tokens) < needed:
        raise ConfigError(
            f"the calibration text has {sum(map(len, texts)):,} tokens, and {config.steps} steps of "
            f"{config.windows} × {config.window_tokens} tokens need {needed * config.window_tokens:,}: "
            "give more (--text), or lower the steps"
        )


def train(
    student: Student,
    teacher: PreTrainedModel,
    windows: Ids,
    config: EndToEndConfig,
    *,
    checkpoint: Checkpoint,
    report: Callable[[DistillStep], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Trains the student, from the checkpoint if there is one.

    Args:
        windows: (steps × windows, window_tokens) ids, in the order in which they are taken.

    Returns:
        Whether all steps were made; False if it was stopped, with a checkpoint left behind.

    Raises:
        ConfigError: a loss that is not a finite number.
    """
    optimizer = torch.optim.AdamW(_groups(student, config), weight_decay=0.0, betas=(0.9, 0.98))
    full_rates = [group["lr"] for group in optimizer.param_groups]
    start = checkpoint.load(student, optimizer)
    if not start:
        student.refresh()
    for step in range(start, config.steps):
        if should_stop():
            checkpoint.save(student, optimizer, step)
            return False
        if step and step % config.refresh_steps == 0:
            student.refresh()
        for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
            group["lr"] = rate * _rate(step, config)
        batch = torch.from_numpy(windows[step * config.windows : (step + 1) * config.windows])
        optimizer.zero_grad()
        loss = backward(student, teacher, batch, config.dtype)
        if not math.isfinite(loss):
            raise ConfigError(f"the loss of step {step + 1} is {loss}: lower the rates and run it again")
        norm = nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        report(DistillStep(step + 1, config.steps, loss, float(norm)))
        checkpoint.save_if_due(student, optimizer, step + 1)
    return True


def backward(student: Student, teacher: PreTrainedModel, batch: Tensor, dtype: str) -> float:
    """Adds the gradients of a batch's mean JSD to the student's parameters, and says what it was."""
    with torch.no_grad(), _products_in(dtype):
        wanted = teacher.model(input_ids=batch, use_cache=False).last_hidden_state.float().flatten(0, 1)
    with _products_in(dtype):
        hidden = student.hidden(batch).flatten(0, 1)
        head = student.head()
    leaf, head_leaf = (part.detach().requires_grad_() for part in (hidden, head))
    teacher_head = teacher.get_output_embeddings().weight
    total = 0.0
    for rows in _chunks(len(hidden)):
        with _products_in(dtype):
            got, expected = leaf[rows] @ head_leaf.T, wanted[rows] @ teacher_head.T
        loss = jsd(got.float(), expected.float()).sum() / len(hidden)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    outputs = [(hidden, leaf.grad)] + ([(head, head_leaf.grad)] if head.requires_grad else [])
    torch.autograd.backward([part for part, _ in outputs], [grad for _, grad in outputs])
    return total


@torch.no_grad()
def divergence(student: Student, teacher: PreTrainedModel, texts: Ids, dtype: str) -> float:
    """Mean JSD of a token over texts (windows, tokens), without gradients."""
    total = 0.0
    head, teacher_head = student.head(), teacher.get_output_embeddings().weight
    for text in texts:
        ids = torch.from_numpy(text)[None]
        with _products_in(dtype):
            got = student.hidden(ids)[0]
            wanted = teacher.model(input_ids=ids, use_cache=False).last_hidden_state[0]
            for rows in _chunks(len(got)):
                logits = (got[rows] @ head.T).float(), (wanted[rows] @ teacher_head.T).float()
                total += float(jsd(*logits).sum()) / texts.size
    return total


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, length, _CHUNK))


def _products_in(dtype: str) -> AbstractContextManager[Any]:
    if dtype == "float32":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _groups(student: Student, config: EndToEndConfig) -> list[dict[str, Any]]:
    rotation = student.transforms.rotation
    of_rotation = list(rotation.parameters()) if rotation else []
    of_layers = list(student.transforms.layers.parameters())
    taken = {id(parameter) for parameter in (*of_rotation, *of_layers)}
    rest = [parameter for parameter in student.parameters() if id(parameter) not in taken]
    groups = []
    for parameters, rate in (
        (of_rotation, config.rotation_rate),
        (of_layers, config.transforms_rate),
        (rest, config.corrections_rate),
    ):
        for parameter in parameters:
            parameter.requires_grad_(rate > 0)
        if parameters and rate > 0:
            groups.append({"params": parameters, "lr": rate})
    if not groups:
        raise ConfigError("[end_to_end] trains nothing: every rate is 0, or there is nothing to learn")
    return groups


def _rate(step: int, config: EndToEndConfig) -> float:
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))
