"""The 4-bit and 8-bit grids in torch: the values of `quant/blocks.py`, with gradients; and the Q8_0 KV cache.

::

    scale   d = fp16(rule(w) · f)          follows its block's extreme, and so do its gradients
    weight  ŵ = d · clip(round(w / d))     ∂ŵ/∂w = 1 inside the grid, 0 where it clips
                                           ∂ŵ/∂d = code − w/d inside, the code where it clips

Written apart from the numpy half on purpose: given the same scales the two agree bit for bit, which is a test
of both. (Which candidate the rule prefers may differ where two are equal but for the order of a sum.) The
rule's search is dear, so its outcome is kept as each block's *ratio* of scale to extreme while weights drift.

Source: the straight-through gradients of learned step sizes (LSQ, arXiv 1902.08153). Deviation: no scaling
of the step's gradient, since AdamW doesn't see it.

The KV cache is llama.cpp's: what attention reads when keys and values are stored in 8 bits. Per token and KV
head, blocks of 32 channels have d = fp16(|x|max / 127). With heads of a multiple of 64, llama.cpp first turns
keys (behind RoPE), queries and values by a Walsh-Hadamard matrix over √64, in runs of 64 channels, and turns
attention's output back. A rotation of both sides leaves ⟨q, k⟩ alone, so turning, rounding and turning back
*keys and values* is the same.

Source: llama.cpp's quantized KV with attention rotation (read in its source, see the quantization notes).
Deviation: the paper's static per-tensor INT8 is for other runtimes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache

from edgereason.errors import ConfigError
from edgereason.quant.blocks import BLOCK, TARGETS, Grid, Ranges

_PALEY = {12: 11, 20: 19, 28: 13, 36: 17}
"""Order: the prime that it is made from; order = q + 1 for q ≡ 3 mod 4, 2(q + 1) for q ≡ 1."""

Signs = npt.NDArray[np.float64]


def hadamard(order: int) -> Signs:
    """H with H Hᵀ = order · 1.

    Raises:
        ConfigError: none is known here for this order.
    """
    odd = next((m for m in (36, 28, 20, 12, 1) if order % m == 0 and _is_power_of_two(order // m)), None)
    if odd is None:
        raise ConfigError(
            f"no Hadamard matrix of order {order} is known here (2^k times 1, 12, 20, 28 or 36): "
            "start the rotation at the identity"
        )
    matrix = np.ones((1, 1)) if odd == 1 else _paley(_PALEY[odd])
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(q: int) -> Signs:
    squares = {x * x % q for x in range(1, q)}
    legendre = np.array([0] + [1 if x in squares else -1 for x in range(1, q)], np.float64)
    jacobsthal = legendre[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]
    border = np.ones((1, q))
    if q % 4 == 3:
        skew = np.block([[np.zeros((1, 1)), border], [-border.T, jacobsthal]])
        return skew + np.eye(q + 1)
    core = np.block([[np.zeros((1, 1)), border], [border.T, jacobsthal]])
    return np.kron(core, np.array([[1, 1], [1, -1]])) + np.kron(np.eye(q + 1), np.array([[1, -1], [-1, -1]]))


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


_RUN: Final = 64
"""Channels of keys and values that are turned together."""
_ENDS = {Grid.Q4_0: (-8.0, 7.0), Grid.Q8_0: (-127.0, 127.0)}


class _Rounding(torch.autograd.Function):
    """Blocks (rows, blocks, n) on their grid with scales (rows, blocks)."""

    @staticmethod
    def forward(
        ctx: Any, blocks: torch.Tensor, scales: torch.Tensor, low: float, high: float
    ) -> torch.Tensor:
        ctx.save_for_backward(blocks, scales)
        ctx.ends = low, high
        return _codes(blocks, scales, low, high) * scales[..., None]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        blocks, scales = ctx.saved_tensors
        low, high = ctx.ends
        steps = blocks / _divisors(scales)
        codes = torch.round(steps).clamp(low, high)
        inside = (steps >= low - 0.5) & (steps <= high + 0.5)
        for_scales = None
        if ctx.needs_input_grad[1]:
            for_scales = (grad * torch.where(inside, codes - steps, codes)).sum(-1)
        return grad * inside, for_scales, None, None


def fake_quantize(weight: torch.Tensor, grid: Grid, scales: torch.Tensor) -> torch.Tensor:
    """`weight` as it will be stored, differentiable in both arguments.

    Args:
        weight: (rows, columns), float32.
        grid: of the stored weight.
        scales: (rows, blocks), rounded to fp16 here.
    """
    rounded = shipped_fp16(scales)
    blocks = _blocks(weight, scales.shape[1])
    quantized: torch.Tensor = _Rounding.apply(blocks, rounded, *_ENDS[grid])  # type: ignore[no-untyped-call]
    return quantized.reshape(weight.shape)


def scales_of(weight: torch.Tensor, ratios: torch.Tensor, row_factors: torch.Tensor | None) -> torch.Tensor:
    """(rows, blocks): scales from ratios that the rule gave before, times factors (rows,) if any.

    Differentiable in the weights, too: a row times u has its scales times u. Held fixed, they would bias the
    gradients of every transform that scales rows.
    """
    scales = _extremes(_blocks(weight, ratios.shape[1])) * ratios
    return scales if row_factors is None else scales * row_factors[:, None]


@torch.no_grad()
def scale_ratios(weight: torch.Tensor, grid: Grid, ranges: Ranges, *, per_row: bool = False) -> torch.Tensor:
    """(rows, blocks): each block's scale by rule, over its extreme (the weight of largest magnitude, signed).

    Args:
        per_row: a row is one block.
    """
    blocks = _blocks(weight, 1 if per_row else weight.shape[1] // BLOCK)
    extremes = _extremes(blocks)
    if grid is Grid.Q8_0:
        return torch.sign(extremes) / 127
    best = extremes / float(TARGETS[0])
    if ranges is Ranges.L2:
        least = _squared_error(blocks, best, grid)
        for target in TARGETS[1:]:
            best, least = _better(blocks, best, least, extremes / float(target), grid)
        codes = _codes(blocks, _fp16(best), *_ENDS[grid])
        weight_of_codes = codes.square().sum(-1)
        fitted = (blocks * codes).sum(-1) / weight_of_codes.clamp(min=1)
        best, _ = _better(blocks, best, least, torch.where(weight_of_codes == 0, best, fitted), grid)
    return best / torch.where(extremes == 0, 1.0, extremes)


def simulate_q8_0(values: torch.Tensor) -> torch.Tensor:
    """`values` (…, channels) as a Q8_0 cache gives them back, differentiable."""
    channels = values.shape[-1]
    if channels % BLOCK:
        return values  # llama.cpp refuses such a cache
    turn = None
    rows = values.float().reshape(-1, channels)
    if channels % _RUN == 0:
        turn = torch.from_numpy(hadamard(_RUN) / _RUN**0.5).float().to(values.device)
        rows = (rows.reshape(-1, _RUN) @ turn).reshape(-1, channels)
    ratios = scale_ratios(rows, Grid.Q8_0, Ranges.MIN_MAX)
    rows = fake_quantize(rows, Grid.Q8_0, scales_of(rows, ratios, None))
    if turn is not None:
        rows = (rows.reshape(-1, _RUN) @ turn.T).reshape(-1, channels)
    return rows.reshape(values.shape).to(values.dtype)


class SimulatedKV(Cache):  # type: ignore[misc]
    """A cache that keeps nothing: it rounds the keys and values of one forward pass over whole texts."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (batch, KV heads, tokens, head_dim) as attention will read them."""
        return simulate_q8_0(key_states), simulate_q8_0(value_states)


def _better(
    blocks: torch.Tensor, best: torch.Tensor, least: torch.Tensor, scales: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    error = _squared_error(blocks, scales, grid)
    better = error < least
    return torch.where(better, scales, best), torch.where(better, error, least)


def _squared_error(blocks: torch.Tensor, scales: torch.Tensor, grid: Grid) -> torch.Tensor:
    rounded = _fp16(scales)
    return (blocks - _codes(blocks, rounded, *_ENDS[grid]) * rounded[..., None]).square().sum(-1)


def _codes(blocks: torch.Tensor, scales: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.round(blocks / _divisors(scales)).clamp(low, high)


def _divisors(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, torch.inf, scales)[..., None]


def _extremes(blocks: torch.Tensor) -> torch.Tensor:
    at = blocks.abs().argmax(-1, keepdim=True)
    return blocks.gather(-1, at)[..., 0]


def _blocks(weight: torch.Tensor, num_blocks: int) -> torch.Tensor:
    return weight.reshape(weight.shape[0], num_blocks, -1)


def shipped_fp16(values: torch.Tensor) -> torch.Tensor:
    """`values` as fp16 will hold them, with the gradient of the values themselves."""
    return values + (_fp16(values.detach()) - values.detach())


def _fp16(values: torch.Tensor) -> torch.Tensor:
    return values.half().float()
